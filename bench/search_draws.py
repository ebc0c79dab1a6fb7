"""Galleries and searches drawn from stored features: what bench.calibration measures on.

Every draw splits the cameras into those that enroll and those that ask, and the people into
enrolled ones and strangers. Of either half search first, without labels; the searches of the others
are judged. So no person of the judged strangers' searches took part in the fit. The enrolled crops
search the other identities, as a service has them do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact, load_artefact, resolve_artefact
from model.calibration import Calibration, Scoring
from model.gallery_thresholds import hide_known, leaders_by_name, sampled_crops, subgalleries
from model.metric_network import score_pairs
from model.problems import InputProblem
from model.search_calibration import JOINING_SHARE, RANKS, UNNAMED, SearchScores, leading_scores
from model.stranger_tail import LeftOutSearches
from training.evaluation.calibrating import calibrate_searches
from training.evaluation.pair_scores import SearchScores as SearchRows
from training.evaluation.ranking import PairLabels
from training.evaluation.scoring import cosine_rows, unit_length

# What M-Net scores of a search, half of the service's default.
RERANKED = 50
HISTORY, STRANGERS, MEMBERS = 256, 400, 250
CROPS_PER_PERSON = 3
PEOPLE_TO_CALIBRATE = 200


@dataclass(frozen=True)
class Crops:
    """A feature file, and how its pairs are scored.

    Attributes:
        name: of the file.
        units: features of unit length, `(n, d)` float32.
        people, cameras: codes, `(n,)`.
        calibration: of the artefact, or of a ready-made model on other people.
        artefact: for M-Net's scores; None for a ready-made model, which has none.
    """

    name: str
    units: NDArray[np.float32]
    people: NDArray[np.int64]
    cameras: NDArray[np.int64]
    calibration: Calibration
    artefact: Artefact | None

    @property
    def scorings(self) -> tuple[Scoring, ...]:
        """Those it is measured by; a fusion without M-Net has the verdicts of the cosine."""
        if self.artefact is None or self.calibration.fusion is None:
            return ("cosine",)
        fused = self.calibration.fusion.mnet_weight != 0.0
        return ("cosine", "mnet", "fused") if fused else ("cosine", "mnet")


@dataclass(frozen=True)
class Plan:
    """One kind of gallery.

    Attributes:
        fitted, used: how many people were enrolled when the gallery was fitted, and are when the
            judged searches come; fewer is a filter.
        unnamed: the share of crops without a name.
        crops: of a person, at most.
        doubled: the share of people enrolled under two names.
    """

    fitted: int
    used: int
    unnamed: float = 0.0
    crops: int = CROPS_PER_PERSON
    doubled: float = 0.0

    def __str__(self) -> str:
        change = "" if self.fitted == self.used else f" → {self.used:,}"
        names = {0.0: "", 1.0: ", unnamed"}.get(self.unnamed, ", half-named")
        one = ", one crop a person" if self.crops == 1 else ""
        two = f", {self.doubled:.0%} under two names" if self.doubled else ""
        return f"{self.fitted:,}{change}{names}{one}{two}"


@dataclass(frozen=True)
class Searches:
    """Searches of one gallery.

    Attributes:
        best: the nine best identity scores of each, `(n, 9)`, descending.
        people: who was searched for, `(n,)`.
        right: whether the first result shows that person, `(n,)`.
        identities: K.
    """

    best: NDArray[np.float64]
    people: NDArray[np.int64]
    right: NDArray[np.bool_]
    identities: int

    def first(self, number: int) -> list[SearchScores]:
        """The first of them, as a service keeps them."""
        scores = self.best[:number].tolist()
        return [SearchScores(tuple(one), self.identities, 0.0) for one in scores]


class Draw(NamedTuple):
    """Searches of one draw by one scoring: the unlabelled ones of either half, then the judged.

    `left_out` are those of the enrolled crops, for each size of a gallery; none without names.
    """

    history_strangers: Searches
    history_members: Searches
    strangers: Searches
    members: Searches
    left_out: tuple[LeftOutSearches, ...]


def read_crops(features: Path, calibrated_by: str) -> Crops:
    """A feature file of `gmn embed`.

    Args:
        calibrated_by: the artefact that made it; for a ready-made model the feature file of other
            people that its calibration is fitted on.
    """
    arrays = _arrays(features)
    if calibrated_by.endswith(".npz"):
        return Crops(features.stem, *arrays, _calibrated_on(Path(calibrated_by)), None)
    artefact = load_artefact(resolve_artefact(calibrated_by))
    if arrays[0].shape[1] != artefact.embedder.config.dimension:
        raise InputProblem(f"{features}: not of {calibrated_by}; name the artefact that made it")
    return Crops(features.stem, *arrays, artefact.description.calibration, artefact)


def _arrays(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    with np.load(path, allow_pickle=False) as arrays:
        people, cameras = (
            np.unique(arrays[name], return_inverse=True)[1].astype(np.int64)
            for name in ("identities", "cameras")
        )
        return unit_length(arrays["features"]), people, cameras


def _calibrated_on(path: Path) -> Calibration:
    """A calibration of the cosine alone, on 200 people at most."""
    units, people, cameras = _arrays(path)
    some = people < PEOPLE_TO_CALIBRATE
    units, people, cameras = units[some], people[some], cameras[some]
    rows = cosine_rows(units, units)
    labels = PairLabels(people, cameras, people, cameras)
    return calibrate_searches([SearchRows(rows, rows, labels)], path.stem)


def draws(crops: Crops, plan: Plan, number: int) -> Iterator[dict[Scoring, Draw]]:
    """Random draws, each by scoring; none where the file has too few people."""
    random = np.random.default_rng([0, plan.fitted, plan.used])
    everyone = max(plan.fitted, plan.used)
    for _ in range(number):
        views = random.permutation(np.unique(crops.cameras))
        asking = np.isin(crops.cameras, views[: len(views) // 2])
        able = np.intersect1d(crops.people[asking], crops.people[~asking])
        order = random.permutation(able)
        if len(order) < everyone + max(40, everyone // 4):
            return
        first, then, strangers = order[: plan.fitted], order[: plan.used], order[everyone:]
        both, half = order[: min(plan.fitted, plan.used)], len(strangers) // 2
        kept = (both[: len(both) // 2], both[len(both) // 2 :])
        before, after = kept if plan.fitted <= plan.used else (first, both)
        names = _names(random, crops, plan)
        fitted, used = (
            _limited(random, crops, np.isin(crops.people, people) & ~asking, plan.crops)
            for people in (first, then)
        )
        asks = [
            random.permutation(np.flatnonzero(asking & np.isin(crops.people, people)))[:most]
            for people, most in (
                (strangers[:half], HISTORY),
                (before, HISTORY),
                (strangers[half:], STRANGERS),
                (after, MEMBERS),
            )
        ]
        found = [
            _search(crops, rows, gallery, names)
            for rows, gallery in zip(asks, (fitted, fitted, used, used), strict=True)
        ]
        left_out = _left_out(random, crops, fitted, names)
        yield {
            name: Draw(
                found[0][name],
                found[1][name],
                found[2][name],
                found[3][name],
                tuple(left_out.get(name, ())),
            )
            for name in crops.scorings
        }


def _names(random: np.random.Generator, crops: Crops, plan: Plan) -> NDArray[np.int64]:
    """What every crop would be enrolled as, `(n,)`; -1 without a name."""
    people = crops.people
    everyone = np.unique(people)
    two = random.permutation(everyone)[: round(plan.doubled * len(everyone))]
    second = np.isin(people, two) & (random.random(len(people)) < 0.5)
    names = np.where(second, people + len(people), people)
    return np.where(random.random(len(people)) < plan.unnamed, UNNAMED, names)


def _limited(
    random: np.random.Generator, crops: Crops, chosen: NDArray[np.bool_], most: int
) -> NDArray[np.int64]:
    """At most so many crops of every chosen person."""
    rows = random.permutation(np.flatnonzero(chosen))
    order = rows[np.argsort(crops.people[rows], kind="stable")]
    people = crops.people[order]
    starts = np.searchsorted(people, people)
    return np.asarray(order[np.arange(len(order)) - starts < most], dtype=np.int64)


def _scored(
    crops: Crops,
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
    cosine: NDArray[np.float32],
) -> tuple[NDArray[np.int64], dict[Scoring, NDArray[np.float32]]]:
    """The nearest crops of the gallery, `(n, 50)`, and their scores by every scoring.

    A cosine of −∞ is of no candidate, and scores −∞.
    """
    near = np.argsort(-cosine, axis=1)[:, : min(RERANKED, len(gallery))]
    cosines = np.take_along_axis(cosine, near, axis=1)
    scores: dict[Scoring, NDArray[np.float32]] = {"cosine": cosines}
    fusion = crops.calibration.fusion
    if crops.artefact is not None and fusion is not None:
        network = crops.artefact.require_metric_network()
        device = next(network.parameters()).device
        first, second = (
            torch.from_numpy(crops.units[some]).to(device) for some in (queries, gallery)
        )
        learnt = [
            score_pairs(network, one[None], second[torch.from_numpy(rows)])
            for one, rows in zip(first, near, strict=True)
        ]
        mnet = torch.cat(learnt).cpu().numpy().reshape(near.shape)
        scores["mnet"] = np.where(np.isfinite(cosines), mnet, -np.inf).astype(np.float32)
        scores["fused"] = fusion.fuse(cosines, mnet)
    return near, scores


def _search(
    crops: Crops,
    queries: NDArray[np.int64],
    gallery: NDArray[np.int64],
    names: NDArray[np.int64],
) -> dict[Scoring, Searches]:
    """Searches by every scoring, of the nearest crops by cosine."""
    people, names = crops.people[gallery], names[gallery]
    identities = len(np.unique(names[names >= 0])) + int((names < 0).sum())
    cosine = crops.units[queries] @ crops.units[gallery].T
    near, scores = _scored(crops, queries, gallery, cosine)
    joins_at = crops.calibration.scorings["cosine"].pair_threshold(JOINING_SHARE)
    found: dict[Scoring, Searches] = {}
    for name, values in scores.items():
        best, right = [], []
        for row, candidates, one in zip(queries, near, values, strict=True):
            units = crops.units[gallery[candidates]]
            leaders = leading_scores(one, names[candidates], units, joins_at)
            # A candidate list of fewer people than nine ends with its last score.
            best.append((leaders + (leaders[-1],) * RANKS)[:RANKS])
            right.append(people[candidates[one.argmax()]] == crops.people[row])
        found[name] = Searches(
            np.array(best, dtype=np.float64), crops.people[queries], np.array(right), identities
        )
    return found


def _left_out(
    random: np.random.Generator,
    crops: Crops,
    gallery: NDArray[np.int64],
    names: NDArray[np.int64],
) -> dict[Scoring, list[LeftOutSearches]]:
    """Searches of the gallery's named crops among the other identities, in parts of each size."""
    asking = gallery[sampled_crops(names[gallery], random)]
    found: dict[Scoring, list[LeftOutSearches]] = {}
    for part in subgalleries(names[gallery], random):
        shown = gallery[np.isin(names[gallery], part)]
        labels = ((names[rows], crops.cameras[rows]) for rows in (asking, shown))
        cosine = hide_known(crops.units[asking] @ crops.units[shown].T, *labels)
        near, scores = _scored(crops, asking, shown, cosine)
        for name, values in scores.items():
            leaders = leaders_by_name(values, names[shown][near])
            found.setdefault(name, []).append(LeftOutSearches(leaders, names[asking], len(part)))
    return found
