"""Joining of tracklets into people, by average linkage of log-likelihood ratios.

The log-likelihood ratio of two tracklets is the mean over the pairs of their crops: how much more
likely each cosine is between two crops of one person than of two. A gallery without names says
nothing about its people, but most pairs of its tracklets show two. The ratios are fitted to these,
for each pair of cameras, because strangers look more alike in some scenes than in the data that the
artefact was calibrated on.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Floats
from model.calibration import ScoringCalibration
from service.visits.reading import SeenCrops
from service.visits.tracklets import Integers, Tracklet, labels_of_cut, mean_vectors

# Two people are before one camera at once if their tracklets overlap for longer than this: a
# tracker may keep the box of a person who has left for a moment.
OVERLAP_SECONDS = 1.0
# Two boxes on one person give near copies: the mean cosine of such tracklets.
COPIES_COSINE = 0.95
# The expected number of tracklets of a person: two tracklets of t show one person at prior odds of
# this to t. Chosen on half of Market-1501's test people (docs/seen.md).
TRACKLETS_OF_A_PERSON = 3.0
# The log odds of a link are higher than the prior of any two tracklets says, by about this, because
# each tracklet is joined with the most similar ones. Chosen with the above.
LINK_LOG_ODDS = 2.5
# People are counted by cuts at other prior odds, chosen with the above: too many links and too few
# cancel out in the number. The ends of its interval are by odds that are this factor apart.
COUNTED_TRACKLETS = 90.0
COUNTING_SPREAD = 4.0
# Upper bound on prior odds, for few tracklets.
LIKELIEST = 0.5
# The shift of a scene is the difference between this quantile of its cosines and the artefact's. It
# is one of different people unless three quarters of the pairs show one person.
SHIFT_QUANTILE = 0.25
# The weight of no shift, in pairs of tracklets, and the largest shift. The only scene unlike the
# artefacts' data that was measured, a clip, has a shift of 0.3.
SHIFT_WEIGHT = 2.0
LARGEST_SHIFT = 0.35
# Upper bound on the tracklets of a camera that its shifts are computed from.
MOST_SHIFTING = 300
# Upper bound on the cameras that have shifts of their own, since each pair of cameras takes time.
# The others, which have the fewest tracklets, count as one camera.
MOST_SHIFTED = 100
ROWS_AT_ONCE = 256
# Exceeds every log-likelihood ratio, also as the mean of 10⁸ pairs of which one is impossible.
IMPOSSIBLE = 1e15


@dataclass(frozen=True)
class People:
    """Tracklets joined into people.

    Attributes:
        labels: number of each tracklet's person, `(t,)`.
        weakest: log odds that the two parts that were joined last show one person, for each
            person `(p,)`; infinite for a person of one tracklet.
        counted, fewest, most: numbers of people by cuts that count them, `(t,)`.
    """

    labels: Integers
    weakest: Array
    counted: Integers
    fewest: Integers
    most: Integers


@dataclass(frozen=True)
class Scenes:
    """How much higher the cosines of pairs of cameras are than in the artefact's data.

    Attributes:
        cameras: a number for each camera, from 0 on; the name of an unknown camera is None.
        shifts: by the numbers of two cameras, `(c, c)`. Cameras with higher numbers have those of
            the last one.
    """

    cameras: Mapping[str | None, int]
    shifts: Array


def join_tracklets(
    crops: SeenCrops,
    tracklets: Sequence[Tracklet],
    calibration: ScoringCalibration,
    between: Callable[[], None] = lambda: None,
) -> People:
    """Join tracklets into people; tracklets that overlap in time at one camera are never joined.

    Args:
        calibration: that of the cosine.
        between: is called between the steps of the comparison; what it raises ends the work.
    """
    count = len(tracklets)
    if count == 1:
        one = np.zeros(1, np.int64)
        return People(one, np.full(1, np.inf), one, one, one)
    import fastcluster

    means = mean_vectors(crops, tracklets)
    scenes = measure_scenes(means, tracklets, calibration, between)
    distances = np.empty(count * (count - 1) // 2)
    filled = 0
    for ratios in compare_in_order(means, tracklets, scenes, calibration):
        distances[filled : filled + len(ratios)] = -ratios
        filled += len(ratios)
        between()
    merges = fastcluster.linkage(distances, "average", preserve_input=False)
    # Tracklets are joined while the log-likelihood ratio outweighs the prior.
    prior = math.log(min(TRACKLETS_OF_A_PERSON / count, LIKELIEST))
    counting_prior = math.log(min(COUNTED_TRACKLETS / count, LIKELIEST))
    spread = math.log(COUNTING_SPREAD)
    labels = labels_of_cut(merges, prior)
    return People(
        labels=labels,
        weakest=_weakest_links(merges, labels) + prior + LINK_LOG_ODDS,
        counted=labels_of_cut(merges, counting_prior),
        fewest=labels_of_cut(merges, counting_prior + spread),
        most=labels_of_cut(merges, counting_prior - spread),
    )


def widen_interval(counted: int, fewest: int, most: int) -> tuple[int, int]:
    """Return the ends of the interval of a number of people, of those that the cuts give.

    A count of few people may miss the true one by a person, whatever the cuts say.
    """
    if counted <= 1:
        return fewest, most
    return min(fewest, counted - 1), max(most, counted + 1)


def measure_scenes(
    means: Floats,
    tracklets: Sequence[Tracklet],
    calibration: ScoringCalibration,
    between: Callable[[], None] = lambda: None,
) -> Scenes:
    """Measure how alike people look at the cameras of tracklets.

    Args:
        means: mean vectors of the tracklets.
        calibration, between: as for `join_tracklets`.
    """
    sizes = Counter(tracklet.camera for tracklet in tracklets)
    numbers = {camera: number for number, (camera, _) in enumerate(sizes.most_common())}
    count = min(len(numbers), MOST_SHIFTED)
    cameras = np.minimum([numbers[tracklet.camera] for tracklet in tracklets], count - 1)
    samples = [means[np.flatnonzero(cameras == camera)[:MOST_SHIFTING]] for camera in range(count)]
    expected = calibration.pair_threshold(1.0 - SHIFT_QUANTILE)
    shifts = np.zeros((count, count))
    for camera, sample in enumerate(samples):
        between()
        for other in range(camera, count):
            cosines = sample @ samples[other].T
            if other == camera:
                cosines = cosines[np.triu_indices(len(sample), 1)]
            if not cosines.size:
                continue
            shift = float(np.quantile(cosines, SHIFT_QUANTILE)) - expected
            shift *= cosines.size / (cosines.size + SHIFT_WEIGHT)
            shifts[[camera, other], [other, camera]] = min(max(shift, 0.0), LARGEST_SHIFT)
    return Scenes(numbers, shifts)


def compare_in_order(
    means: Floats,
    tracklets: Sequence[Tracklet],
    scenes: Scenes,
    calibration: ScoringCalibration,
) -> Iterator[Array]:
    """Yield the log-likelihood ratios of each tracklet with those after it.

    That of tracklets that overlap in time at one camera is `-IMPOSSIBLE`.

    Args:
        means: mean vectors of the tracklets.
        calibration: that of the cosine.
    """
    cameras = np.array([scenes.cameras[tracklet.camera] for tracklet in tracklets])
    shifted = np.minimum(cameras, len(scenes.shifts) - 1)
    first = np.array([tracklet.first for tracklet in tracklets])
    last = np.array([tracklet.last for tracklet in tracklets])
    for start in range(0, len(tracklets), ROWS_AT_ONCE):
        cosines = means[start : start + ROWS_AT_ONCE] @ means[start:].T
        for row in range(start, start + len(cosines)):
            behind = slice(row + 1, None)
            own = cosines[row - start, row + 1 - start :].astype(np.float64)
            # A comparison with an unknown time is false.
            overlap = np.minimum(last[row], last[behind]) - np.maximum(first[row], first[behind])
            is_impossible = (overlap > OVERLAP_SECONDS) & (own < COPIES_COSINE)
            is_impossible &= cameras[behind] == cameras[row]
            if tracklets[row].camera is None:
                # Crops without a camera may be of several.
                is_impossible[:] = False
            shifts = scenes.shifts[shifted[row], shifted[behind]]
            ratios = calibration.log_likelihood_ratios(own - shifts)
            ratios[is_impossible] = -IMPOSSIBLE
            yield ratios


def _weakest_links(merges: NDArray[np.float64], labels: Integers) -> Array:
    """Return the log-likelihood ratio of the last merge of each cluster; infinite without one."""
    count = len(labels)
    weakest = np.full(labels.max() + 1, np.inf)
    clusters = np.concatenate([labels, np.full(len(merges), -1)])
    for row, (first, second, distance, _) in enumerate(merges):
        label = clusters[int(first)]
        if label < 0 or label != clusters[int(second)]:
            continue
        clusters[count + row] = label
        weakest[label] = -distance
    return weakest
