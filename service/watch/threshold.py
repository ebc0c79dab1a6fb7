"""Thresholds of watch lists for a rate of false alarms per track.

A threshold combines the tails of two samples: reference vectors scored against the list, and the
list's own crops, each left out. A histogram of the site's traffic corrects the first tail. At a
camera that enrolled people of the list, it is stricter, and reviews of alerts raise it further.
docs/alarms.md has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array
from model.gallery_thresholds import GalleryThresholds, LeftOutSearches, fit_tail
from model.order_statistics import EXPONENTIAL, FEW_IDENTITIES
from model.problems import InputProblem
from service.watch.scores import Vectors, WatchList

BINS = 160
EDGES = np.linspace(-0.25, 1.0, BINS + 1)
# Number of tracks from which traffic is used, and mean number of compared crops of a track.
FEWEST_TRACKS = 200
CROPS_PER_TRACK = 4.0

# Factors on the reference's scores, for lists with a tail of their own and for smaller ones.
LARGE_FACTOR = 1.3
SMALL_FACTOR = 1.2
# Factor on the tail of the list's own crops.
OWN_FACTOR = 0.924
# Standard deviation of the prior of that tail's shape. A list has fewer people than a gallery, and
# is asked for rarer alarms, so that its own crops say less about the shape.
OWN_SHAPE_SPREAD = 0.07
# Share of a sample above which its tail is a generalised Pareto distribution, and its shapes.
TAIL_SHARE = 0.1
STEEPEST = -0.5
FLATTEST = 0.3
# Weight of the reference in persons of the list, and of the identity map in tracks.
REFERENCE_WEIGHT = 60.0
MAP_WEIGHT = 50.0
MAPPED_SHARES = np.linspace(0.1, 0.8, 8)
# The map uses only traffic below the score that this share of strangers' tracks exceeds.
CUT_SHARE = 0.03
# At a camera that enrolled people of the list, strangers share viewpoint and background with its
# crops. A threshold there is raised by this share of the way to the score that most of the list's
# own crops of that camera reach, each left out.
OWN_CAMERA_SHARE = 0.22
OWN_CROPS_REACHING = 0.9
# Assumed ratio of that score to the threshold where nobody has a second crop.
REACH_OF_SINGLE_CROPS = 1.25
# Rejected alerts raise it at most by this share of the way that is left. Confirmed ones raise it by
# up to this share of the way to their lowest score, and by half as much if they are this many.
REJECTED_SHARE = 0.1
CONFIRMED_SHARE = 0.5
CONFIRMED_WEIGHT = 5.0
# Traffic keeps a threshold between those of the rate times and divided by this factor.
MOST_MOVED = 3.0
LARGEST_RATE = 0.5
# Smallest rates that were tested, with a reference and without.
LEAST_RATE = 1e-3
LEAST_RATE_ALONE = 1e-2
Basis = Literal["traffic", "reference", "list", "artefact"]


@dataclass(frozen=True)
class Traffic:
    """Histogram of the best score of each track with one list.

    Attributes:
        counts: counts of scores from -0.25 to 1 in 160 bins, `(160,)` int64; the outer bins include
            scores beyond.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Array) -> Traffic:
        return cls(np.bincount(bins_of(scores), minlength=BINS).astype(np.int64))

    @property
    def tracks(self) -> int:
        return int(self.counts.sum())

    @property
    def is_enough(self) -> bool:
        """True if a threshold can rest on it."""
        return self.tracks >= FEWEST_TRACKS

    def quantiles(self, shares: Array) -> Array:
        """Return the scores that shares of the tracks do not exceed, interpolated within bins."""
        cumulated = np.concatenate([[0], np.cumsum(self.counts)]) / self.tracks
        # A strictly rising function has a unique inverse, also across empty bins.
        cumulated = cumulated + 1e-12 * np.arange(BINS + 1)
        return np.interp(shares, cumulated, EDGES)


def bins_of(scores: Array) -> NDArray[np.int64]:
    """Return the bin of each score in a histogram of traffic, `(n,)`."""
    return np.clip(np.searchsorted(EDGES, scores, side="right") - 1, 0, BINS - 1)


@dataclass(frozen=True)
class Reviews:
    """Scores of a camera's reviewed alerts with one list, `rejected` and `confirmed`, `(n,)`."""

    rejected: Array
    confirmed: Array

    @property
    def count(self) -> int:
        return len(self.rejected) + len(self.confirmed)


@dataclass(frozen=True)
class WatchThreshold:
    """A threshold for the best score of a track.

    Attributes:
        value: a track whose best score exceeds it raises an alarm.
        asked: requested rate of false alarms per track of strangers.
        rate: promised rate, which is `asked` or the smallest possible one.
        basis: the samples that were used; the rate of an "artefact" is not known.
        people: number of people of the list.
        traffic_tracks: number of tracks that were used.
        own_camera: whether the camera enrolled people of the list.
        reviews: number of reviewed alerts that were used.
    """

    value: float
    asked: float
    rate: float
    basis: Basis
    people: int
    traffic_tracks: int = 0
    own_camera: bool = False
    reviews: int = 0

    @property
    def promised(self) -> bool:
        return self.basis != "artefact" and self.asked >= self.rate


class ThresholdFit:
    """The threshold that a share `rate` of strangers' tracks exceeds, at each camera.

    A smaller rate never has a lower threshold.

    Args:
        rate: false alarms per track, above 0; more than 0.5 counts as 0.5.
        reference: the artefact's reference vectors `(n, d)`, which stand for strangers.
        crops_per_track: mean number of compared crops per track, at most 8.
        artefact: the artefact's thresholds for few people, used for fewer than 18 people without
            a reference.

    Raises:
        InputProblem: no sample gives a threshold, or all people of the list look the same.
    """

    def __init__(
        self,
        watch_list: WatchList,
        rate: float,
        reference: Vectors | None,
        crops_per_track: float = CROPS_PER_TRACK,
        artefact: GalleryThresholds | None = None,
    ) -> None:
        self._watch_list = watch_list
        self._asked = min(rate, LARGEST_RATE)
        self._looks = math.sqrt(crops_per_track)
        self._scores: Array | None = None
        self._basis: Basis
        multiples = np.array([1.0, MOST_MOVED, 1.0 / MOST_MOVED])
        rates = np.minimum(self._asked * multiples, LARGEST_RATE)
        self._by_left_out = _fit_left_out(watch_list, rates, self._looks)
        if reference is not None:
            factor = SMALL_FACTOR if self._by_left_out is None else LARGE_FACTOR
            self._basis = "reference"
            self._least_rate = LEAST_RATE
            self._scores = factor * watch_list.score(reference).scores
            self._by_reference = exceeded(self._scores, rates / self._looks)
            self._values = self._combine(self._by_reference, REFERENCE_WEIGHT)
        elif self._by_left_out is not None:
            self._basis = "list"
            self._least_rate = LEAST_RATE_ALONE
            self._values = self._by_left_out
        else:
            self._basis = "artefact"
            self._least_rate = 0.0
            value = _read_artefact_threshold(watch_list, self._asked / self._looks, artefact)
            self._values = np.full(len(rates), value)

    def at(
        self,
        camera: int | None = None,
        traffic: Traffic | None = None,
        reviews: Reviews | None = None,
    ) -> WatchThreshold:
        """Return the threshold at a camera.

        Args:
            camera: code of the camera; one that no crop of the list has, or None, did not enroll
                its people.
            traffic: traffic of the camera with this list; fewer than 200 tracks are ignored.
            reviews: reviewed alerts of the camera; used only if it enrolled people of the list.
        """
        reach = self._measure_reach(camera)
        value, lowest, highest = _approach(self._values, reach).tolist()
        basis = self._basis
        tracks = 0
        if self._scores is not None and traffic is not None and traffic.is_enough:
            basis = "traffic"
            tracks = traffic.tracks
            mapped = _map_to_traffic(self._by_reference, self._scores, traffic, self._looks)
            moved = _approach(self._combine(mapped, REFERENCE_WEIGHT + tracks), reach)
            value = min(max(float(moved[0]), lowest), highest)
        reviewed = 0
        if reach is not None and reviews is not None:
            reviewed = reviews.count
            value = _move_by_reviews(value, reach, reviews, self._asked * tracks)
        return WatchThreshold(
            value,
            self._asked,
            max(self._asked, self._least_rate),
            basis,
            self._watch_list.size,
            tracks,
            own_camera=reach is not None,
            reviews=reviewed,
        )

    def _combine(self, by_reference: Array, weight: float) -> Array:
        if self._by_left_out is None:
            return by_reference
        people = self._watch_list.size
        return (people * self._by_left_out + weight * by_reference) / (people + weight)

    def _measure_reach(self, camera: int | None) -> float | None:
        """Return the score that most of the list's crops of a camera reach, each left out.

        Returns:
            None at a camera that enrolled nobody.
        """
        if camera is None or camera not in self._watch_list.cameras:
            return None
        left_out = self._watch_list.left_out
        is_own = (left_out.cameras == camera) & np.isfinite(left_out.same)
        if not is_own.any():
            return REACH_OF_SINGLE_CROPS * float(self._values[0])
        leaders = np.column_stack([left_out.same, left_out.others])
        scores = self._watch_list.score_leaders(leaders[is_own])
        return float(np.quantile(scores, 1.0 - OWN_CROPS_REACHING))


def _approach(values: Array, reach: float | None) -> Array:
    if reach is None:
        return values
    return values + OWN_CAMERA_SHARE * np.maximum(reach - values, 0.0)


def _move_by_reviews(value: float, reach: float, reviews: Reviews, expected: float) -> float:
    """Raise a threshold above rejected and below confirmed scores; never lower it.

    Args:
        reach: score that most of the list's own crops reach, which bounds the move.
        expected: number of false alarms that the traffic so far may have raised.
    """
    lowest_confirmed = float(reviews.confirmed.min(initial=math.inf))
    # Wrong rejections have to be cheap, as a single person may send many of them.
    bound = min(value + REJECTED_SHARE * max(reach - value, 0.0), lowest_confirmed)
    surplus = np.sort(reviews.rejected)[::-1][math.floor(expected) :]
    raised = max(value, min(float(surplus.max(initial=-math.inf)), bound))
    confirmed = len(reviews.confirmed)
    if not confirmed:
        return raised
    share = CONFIRMED_SHARE * confirmed / (confirmed + CONFIRMED_WEIGHT)
    lowest = min(lowest_confirmed, reach)
    return raised + share * max(lowest - raised, 0.0)


def exceeded(scores: Array, shares: Array) -> Array:
    """Estimate the scores `(k,)` that shares of a population exceed.

    The upper tenth is a generalised Pareto tail, fitted by probability-weighted moments.

    Args:
        scores: sample of the population, `(n,)`.
        shares: `(k,)`, above 0.

    Raises:
        InputProblem: the scores have no spread.
    """
    start = float(np.quantile(scores, 1.0 - TAIL_SHARE))
    excess = np.sort(scores[scores > start] - start)
    if not len(excess):
        raise InputProblem(
            "the people of the list look all the same, so no score tells them from strangers; "
            "enroll different crops"
        )
    above = 1.0 - (np.arange(1, len(excess) + 1) - 0.35) / len(excess)
    mean = float(excess.mean())
    weighted = float((above * excess).mean())
    shape = 2.0 - mean / max(mean - 2.0 * weighted, 1e-12)
    shape = min(max(shape, STEEPEST), FLATTEST)
    shape = shape if abs(shape) > EXPONENTIAL else EXPONENTIAL
    rarity = np.log(TAIL_SHARE / np.minimum(shares, TAIL_SHARE))
    tail = start + mean * (1.0 - shape) / shape * np.expm1(shape * rarity)
    body = np.quantile(scores, 1.0 - np.minimum(shares, 1.0))
    return np.where(shares < TAIL_SHARE, tail, body)


def _fit_left_out(watch_list: WatchList, rates: Array, looks: float) -> Array | None:
    """Return thresholds `(k,)` for rates per track by the list's own crops; None under 18 people.

    The best left-out crop of each person stands for a stranger's track of that many crops.
    """
    left_out = watch_list.left_out
    usable = np.isfinite(left_out.others).all(axis=1)
    leaders = left_out.others[usable]
    people = left_out.people[usable]
    scores = watch_list.score_leaders(leaders)
    order = np.lexsort((-scores, people))
    names, first = np.unique(people[order], return_index=True)
    if len(names) < FEW_IDENTITIES:
        return None
    searches = LeftOutSearches(leaders[order[first]], names, watch_list.size - 1)
    tail = fit_tail(searches, OWN_SHAPE_SPREAD)
    shares = rates * math.sqrt(len(people) / len(names)) / looks
    thresholds = [tail.height(-math.log(min(share, 0.9))) for share in shares.tolist()]
    return OWN_FACTOR * tail.scale * np.array(thresholds)


def _map_to_traffic(by_reference: Array, scores: Array, traffic: Traffic, looks: float) -> Array:
    """Map thresholds by the line between central quantiles of the reference and the traffic.

    The line is shrunk towards the identity.

    Args:
        by_reference: thresholds by the reference, `(k,)`.
        scores: the reference's scores of single crops, `(n,)`.
        looks: number of independent looks at a track.
    """
    # The tracks of listed people, who pass too, score above nearly all strangers' tracks.
    limit = exceeded(scores, np.array([CUT_SHARE / looks]))
    strangers = Traffic(np.where(EDGES[:-1] < limit, traffic.counts, 0))
    if not strangers.tracks:
        strangers = traffic
    before = np.quantile(scores, (MAPPED_SHARES * (1.0 - CUT_SHARE)) ** (1.0 / looks))
    after = strangers.quantiles(MAPPED_SHARES)
    weight = strangers.tracks / (strangers.tracks + MAP_WEIGHT)
    slope = 1.0 + weight * (np.polyfit(before, after, 1)[0] - 1.0)
    middle = before.mean() + weight * (after.mean() - before.mean())
    return np.asarray(middle + slope * (by_reference - before.mean()))


def _read_artefact_threshold(
    watch_list: WatchList,
    rate: float,
    artefact: GalleryThresholds | None,
) -> float:
    if artefact is None:
        raise InputProblem(
            f"a list of fewer than {FEW_IDENTITIES} people has a threshold by a reference alone; "
            "add one to the artefact (gmn artefact add-reference), or enroll more people"
        )
    value = artefact.tail(watch_list.size).threshold(rate, 0.0)
    if watch_list.has_level:
        others = watch_list.left_out.others[:, 1 : watch_list.size - 1]
        value -= float(others.mean())
    return value
