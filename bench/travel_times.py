"""Searches of Market-1501's test part with times as evidence, which are learned without labels.

Run `gmn embed ARTEFACT --data market1501:PATH --out FEATURES` first. A crop's time is the frame
number of its file, and another sequence counts as another day. Travel times are learned from the
confident matches of a gallery by appearance alone.

`official` ranks the queries of the official protocol. The weight 1 is that of the calibrations, by
which nothing is chosen on these people; the others are multiples of it. In the control, sequences
and times are drawn at random among the crops of each camera. `galleries` enrolls 200 people by all
of their crops, and asks for them and for strangers by the official queries, each by the crops of
the other cameras, with thresholds that are fitted as in the service. `few` asks among ten of these
people, with the artefact's thresholds.
`python -m bench.figures travel-times FILE…` writes the table of docs/seen.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from model.arrays import Array, Codes, Floats, unit_rows
from model.artefact import load_artefact, resolve_artefact
from model.gallery_thresholds import (
    GalleryThresholds,
    LeftOutSearches,
    StrangerTail,
    artefact_thresholds,
    fit_thresholds,
    level,
)
from model.left_out import (
    leaders_by_name,
    sampled_crops,
    subgalleries,
)
from service.index.moments import Moments
from service.search.calibration import JOINING_SHARE
from service.visits.travel_times import TimedCrops, TravelTimes, learn_travel_times
from training.evaluation.files import read_features
from training.evaluation.metrics import PairLabels, QueryMetrics, rank_queries

FRAMES_PER_SECOND = 25
DAY = 86_400.0
# Junk has the person −1, and distractors have 0.
NAME = (
    r"(?P<part>query|bounding_box_test)/"
    r"(?P<person>-1|\d{4})_c(?P<camera>\d)s(?P<sequence>\d)_(?P<frame>\d+)"
)
WEIGHTS = (0.0, 0.5, 0.75, 1.0, 1.5, 2.0)
CALIBRATED = 1.0
PEOPLE = 200
GALLERIES = 10
RATE = 0.01
SEED = 31
# People of a search with the artefact's thresholds, and draws of them in each gallery.
FEW = 10
DRAWS_OF_FEW = 20


@dataclass(frozen=True)
class Scorer:
    """The scores of crops by appearance and times.

    Attributes:
        slope: log-odds of a unit of the cosine, by the artefact's calibration.
        lowest_cosine: least cosine of a confident match.
        few: thresholds of searches among few people.
    """

    slope: float
    lowest_cosine: float
    few: GalleryThresholds

    @classmethod
    def of(cls, artefact: str) -> Scorer:
        calibration = load_artefact(resolve_artefact(artefact)).description.calibration
        cosine = calibration.scorings["cosine"]
        few = artefact_thresholds(cosine)
        return cls(cosine.slope, cosine.pair_threshold(JOINING_SHARE), few)

    def learn(self, crops: TimedCrops) -> TravelTimes:
        return learn_travel_times(crops, self.lowest_cosine)

    def scores(
        self, queries: TimedCrops, searched: TimedCrops, times: TravelTimes, weight: float
    ) -> Floats:
        """Return the scores `(n, N)` of queries against the searched crops."""
        scores = queries.units @ searched.units.T
        if weight:
            scores += np.float32(weight / self.slope) * log_odds(queries, searched, times)
        return scores


def log_odds(queries: TimedCrops, searched: TimedCrops, times: TravelTimes) -> Floats:
    """Return the log-odds of times of queries against the searched crops, `(n, N)`."""
    crops = Moments(searched.cameras, searched.captured)
    moments = zip(queries.cameras, queries.captured, strict=True)
    rows = [times.log_odds(camera, captured, crops) for camera, captured in moments]
    return np.array(rows, np.float32)


def read_test_part(path: Path) -> tuple[pd.DataFrame, TimedCrops]:
    """Read the test part without names, and beside it `part` and `person` of each crop."""
    file = read_features(path)
    names = pd.Series(file.columns["paths"]).str.extract(NAME).dropna()
    crops = names.astype({"person": int, "sequence": int, "frame": int})
    captured = 10.0 * DAY * crops.sequence + crops.frame / FRAMES_PER_SECOND
    timed = TimedCrops(
        units=unit_rows(file.features[crops.index]),
        cameras=crops.camera.to_numpy(np.str_),
        captured=captured.to_numpy(np.float64),
        people=np.full(len(crops), -1),
        tracks=np.arange(len(crops)),
    )
    return crops.reset_index(drop=True), timed


def camera_codes(timed: TimedCrops) -> Codes:
    return timed.cameras.astype(np.int64)


def shuffle_times(timed: TimedCrops) -> TimedCrops:
    """Draw sequences and times at random among the crops of each camera."""
    random = np.random.default_rng(SEED)
    captured = timed.captured.copy()
    for camera in np.unique(timed.cameras):
        rows = np.flatnonzero(timed.cameras == camera)
        captured[rows] = captured[random.permutation(rows)]
    return timed._replace(captured=captured)


def rank_official(
    crops: pd.DataFrame, timed: TimedCrops, scorer: Scorer
) -> Iterator[dict[str, Any]]:
    """Yield mAP and Rank-1 in per cent of each weight, with real times and with those at random.

    `even` and `odd` are those of the queries for people with even and odd numbers.
    """
    queries = np.flatnonzero(crops.part == "query")
    gallery = np.flatnonzero(crops.part == "bounding_box_test")
    person = crops.person.to_numpy(np.int64)
    cameras = camera_codes(timed)
    labels = PairLabels(person[queries], cameras[queries], person[gallery], cameras[gallery])
    for kind, moments in {"real": timed, "at random": shuffle_times(timed)}.items():
        asking = moments.at(queries)
        searched = moments.at(gallery)
        times = scorer.learn(searched)
        odds = log_odds(asking, searched, times)
        cosines = asking.units @ searched.units.T
        for weight in WEIGHTS:
            scores = cosines + np.float32(weight / scorer.slope) * odds
            ranked = rank_queries(scores.__getitem__, labels)
            is_even = person[queries][ranked.queries] % 2 == 0
            everyone = np.ones_like(is_even)
            halves = {"all": everyone, "even": is_even, "odd": ~is_even}
            shares = {half: _means(ranked, rows) for half, rows in halves.items()}
            yield {"kind": "official", "times": kind, "weight": weight} | shares


def _means(ranked: QueryMetrics, rows: Codes) -> dict[str, float]:
    return {
        name: round(100.0 * float(values[rows].mean()), 2)
        for name, values in ranked.values().items()
        if name in ("mAP", "rank_1")
    }


@dataclass(frozen=True)
class DrawnGallery:
    """A gallery of people, with all of their crops, and searches by other crops.

    Attributes:
        enrolled: with names, by which thresholds are fitted.
        known, strangers: queries with names, of enrolled people and of others.
    """

    enrolled: TimedCrops
    known: TimedCrops
    strangers: TimedCrops


def draw_gallery(crops: pd.DataFrame, timed: TimedCrops, seed: int) -> DrawnGallery:
    random = np.random.default_rng([SEED, seed])
    is_query = crops.part == "query"
    people = random.permutation(crops.person[is_query].unique())
    is_member = crops.person.isin(people[:PEOPLE])
    named = timed._replace(people=crops.person.to_numpy(np.int64))
    return DrawnGallery(
        enrolled=named.at(np.flatnonzero(is_member & ~is_query)),
        known=named.at(np.flatnonzero(is_member & is_query)),
        strangers=named.at(np.flatnonzero(~is_member & is_query)),
    )


def judge_gallery(drawn: DrawnGallery, scorer: Scorer, weight: float) -> dict[str, float]:
    """Fit thresholds to left-out searches, and return the shares of searches above them.

    Returns:
        `obtained`: of strangers' searches; `found`: of searches for enrolled people that find the
        right person; `best`: the same by the best threshold for `RATE`; `obtained_of_few`: of
        strangers' searches among `FEW` people.
    """
    enrolled = drawn.enrolled
    nobody = np.full(len(enrolled.people), -1)
    times = scorer.learn(enrolled._replace(people=nobody))
    left_out = []
    random = np.random.default_rng(len(enrolled.people))
    queries = enrolled.at(sampled_crops(enrolled.people, random))
    for people in subgalleries(enrolled.people, random):
        searched = enrolled.at(np.flatnonzero(np.isin(enrolled.people, people)))
        scores = scorer.scores(queries, searched, times, weight)
        scores[queries.people[:, None] == searched.people] = -np.inf
        names = np.broadcast_to(searched.people, scores.shape)
        leaders = leaders_by_name(scores, names)
        left_out.append(LeftOutSearches(leaders, queries.people, len(people)))
    tail = fit_thresholds(left_out).tail(PEOPLE)

    scores_of_strangers, scores_of_known = (
        np.where(
            asking.cameras[:, None] == enrolled.cameras,
            np.float32(-np.inf),
            scorer.scores(asking, enrolled, times, weight),
        )
        for asking in (drawn.strangers, drawn.known)
    )
    strangers, is_match = match(scores_of_strangers, enrolled.people, tail)
    known, is_found = match(scores_of_known, enrolled.people, tail)
    is_right = enrolled.people[scores_of_known.argmax(axis=1)] == drawn.known.people
    best = np.quantile(strangers, 1.0 - RATE)
    return {
        "obtained": float(is_match.mean()),
        "found": float((is_found & is_right).mean()),
        "best": float(((known > best) & is_right).mean()),
        "obtained_of_few": obtained_of_few(scores_of_strangers, enrolled.people, scorer.few),
    }


def match(scores: Floats, people: Codes, tail: StrangerTail) -> tuple[Array, NDArray[np.bool_]]:
    """Return the best score of each search, and which of them reach the threshold, `(n,)` each."""
    leaders = leaders_by_name(scores, np.broadcast_to(people, scores.shape))
    limits = np.array([tail.threshold(RATE, value) for value in level(leaders).tolist()])
    return leaders[:, 0], leaders[:, 0] >= limits


def obtained_of_few(scores: Floats, people: Codes, thresholds: GalleryThresholds) -> float:
    """Return the share of strangers' searches among few people that match."""
    random = np.random.default_rng(SEED)
    shares = []
    for _ in range(DRAWS_OF_FEW):
        is_chosen = np.isin(people, random.permutation(np.unique(people))[:FEW])
        # As `CurrentCalibration.judge` counts further crops.
        size = max(FEW, round(math.sqrt(FEW * is_chosen.sum() / 2)))
        limit = thresholds.tail(size).threshold(RATE, 0.0)
        shares.append((scores[:, is_chosen].max(axis=1) >= limit).mean())
    return float(np.mean(shares))


def judge_galleries(
    crops: pd.DataFrame, timed: TimedCrops, scorer: Scorer
) -> Iterator[dict[str, Any]]:
    """Yield the means over drawn galleries in per cent, with real times, at random and without."""
    at_random = shuffle_times(timed)
    sides = {
        "none": (timed, 0.0),
        "real": (timed, CALIBRATED),
        "at random": (at_random, CALIBRATED),
    }
    for kind, (moments, weight) in sides.items():
        rows = pd.DataFrame(
            judge_gallery(draw_gallery(crops, moments, seed), scorer, weight)
            for seed in range(GALLERIES)
        )
        means = (100.0 * rows.mean()).round(2).to_dict()
        spread = (100.0 * rows.obtained.agg(["min", "max"])).round(2).tolist()
        yield {"kind": "galleries", "times": kind, "weight": weight, **means, "spread": spread}


def main(artefact: str, features: Path) -> None:
    """Print the figures of official queries and of drawn galleries as a JSON object.

    Args:
        artefact: a file, or a shipped name.
        features: the file that gmn embed wrote with this artefact.
    """
    scorer = Scorer.of(artefact)
    crops, timed = read_test_part(features)
    rows = [*rank_official(crops, timed, scorer), *judge_galleries(crops, timed, scorer)]
    typer.echo(json.dumps({"results": [{"artefact": artefact, **row} for row in rows]}))


if __name__ == "__main__":
    typer.run(main)
