"""Tracklets: crops that a tracker has joined, the units that are joined into people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.arrays import Floats
from service.record.tracks import cohesion
from service.visits.reading import SeenCrop, SeenCrops

Integers = NDArray[np.int64]
# Trackers use their ids again: crops of one id that are this far apart are of two passages.
LONGEST_GAP_SECONDS = 30 * 60.0
# The cosines of all pairs of so many crops take 2 MB. Longer tracks are divided by time first.
CROPS_AT_ONCE = 512


@dataclass(frozen=True)
class Tracklet:
    """Crops of one track that show one person; a crop without a track is one of its own.

    Attributes:
        positions: positions in `SeenCrops`, in the order of time.
        camera, track: labels of the crops; None if unknown.
        identity: the name that most of the crops with a name have; None without one.
        first, last: times of the first and last crop, in seconds since 1970; NaN if unknown.
        cohesion: the lowest cosine of a crop to the mean direction of the others; 1 for one crop.
    """

    positions: Integers
    camera: str | None
    track: str | None
    identity: str | None
    first: float
    last: float
    cohesion: float


def find_tracklets(
    crops: SeenCrops, joins_at: float, between: Callable[[], None] = lambda: None
) -> list[Tracklet]:
    """Divide crops into tracklets, in the order of their first crops.

    A track is divided where half an hour passes without a crop, and where its crops show several
    people, because trackers confuse people who cross.

    Args:
        joins_at: mean cosine from which two parts of a track show one person.
        between: is called between the steps; what it raises ends the work.
    """
    tracks: defaultdict[tuple[str | None, str | int], list[int]] = defaultdict(list)
    for position, crop in enumerate(crops.labels):
        # A slot is no track's id, which is a text.
        tracks[crop.camera, crop.slot if crop.track is None else crop.track].append(position)
    tracklets: list[Tracklet] = []
    for track in tracks.values():
        for passage in _split_by_time(crops.labels, track):
            between()
            parts = _split_by_person(crops.units, passage, joins_at)
            tracklets += [_describe(crops, positions) for positions in parts]
    return tracklets


def _split_by_time(labels: Sequence[SeenCrop], track: Sequence[int]) -> Iterator[Integers]:
    """Yield the positions of each passage, in the order of time; unknown times come last."""
    times = np.array([labels[position].time for position in track], np.float64)
    order = np.argsort(times, kind="stable")
    # A comparison with an unknown time is false.
    is_late = np.diff(times[order]) > LONGEST_GAP_SECONDS
    for passage in np.split(np.array(track)[order], np.flatnonzero(is_late) + 1):
        yield from np.array_split(passage, -(-len(passage) // CROPS_AT_ONCE))


def _split_by_person(units: Floats, passage: Integers, joins_at: float) -> Iterator[Integers]:
    if len(passage) == 1 or cohesion(units[passage]) >= joins_at:
        yield passage
        return
    import fastcluster

    cosines = units[passage] @ units[passage].T
    distances = 1.0 - cosines[np.triu_indices(len(passage), 1)].astype(np.float64)
    merges = fastcluster.linkage(distances, "average", preserve_input=False)
    labels = labels_of_cut(merges, 1.0 - joins_at)
    for label in range(labels.max() + 1):
        yield passage[labels == label]


def labels_of_cut(merges: NDArray[np.float64], most_distant: float) -> Integers:
    """Number the clusters that merges up to a distance make of n items.

    Args:
        merges: the n - 1 rows of a linkage, by rising distance: two clusters, their distance, and
            their size. Clusters from n on are those that the rows make.
        most_distant: merges of a greater distance are left out.

    Returns:
        The numbers `(n,)`, from 0 on, in the order of the clusters' first items.
    """
    count = len(merges) + 1
    parents = np.arange(2 * count - 1)
    for row, (first, second, distance, _) in enumerate(merges):
        if distance > most_distant:
            break
        parents[[int(first), int(second)]] = count + row
    # A cluster comes after those that it consists of, so its own parent is known already.
    for cluster in range(len(parents) - 1, -1, -1):
        parents[cluster] = parents[parents[cluster]]
    _, first_items, numbers = np.unique(parents[:count], return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first_items))[numbers], np.int64)


def _describe(crops: SeenCrops, positions: Integers) -> Tracklet:
    labels = [crops.labels[position] for position in positions]
    times = [crop.time for crop in labels if crop.time is not None]
    names = Counter(crop.identity for crop in labels if crop.identity is not None)
    return Tracklet(
        positions=positions,
        camera=labels[0].camera,
        track=labels[0].track,
        identity=names.most_common(1)[0][0] if names else None,
        first=min(times, default=np.nan),
        last=max(times, default=np.nan),
        cohesion=cohesion(crops.units[positions]) if len(positions) > 1 else 1.0,
    )


def mean_vectors(crops: SeenCrops, tracklets: Sequence[Tracklet]) -> Floats:
    """Return the mean of each tracklet's unit vectors, `(t, d)` float32, not of unit length.

    The product of two of them is the mean cosine of all pairs of their crops.
    """
    return np.stack([crops.units[tracklet.positions].mean(axis=0) for tracklet in tracklets])
