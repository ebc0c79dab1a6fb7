"""The artefact's calibration, moved without labels to the searches that are evaluated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact
from model.calibration import Calibration
from model.pair_scoring import identical_score, score_listed_pairs
from model.problems import InputProblem
from model.recalibration import recalibrate
from training.evaluation.embedding import SearchFeatures
from training.evaluation.ranking import PairLabels, ScoreRows

MOST_SEARCHES = 1_000
MOST_CROPS = 4_000
MOST_SCORED = 30_000


@dataclass(frozen=True)
class SearchedPairs:
    """Some searches with some of their gallery.

    Attributes:
        cosines: `(Q, n)` float32, NaN where the protocol has a crop in no gallery of that query:
            junk, the person under the query's own camera, and, where it says so, all of that
            camera.
        queries, crops: which they are, `(Q,)` and `(n,)`.
        gallery_size: how many crops a query usually meets in all.
    """

    cosines: NDArray[np.float32]
    queries: NDArray[np.int64]
    crops: NDArray[np.int64]
    gallery_size: int


def recalibrated(
    artefact: Artefact, features: SearchFeatures, cosine: ScoreRows, labels: PairLabels
) -> Calibration:
    """Re-calibrates on a search as a service would: from cosines and some of M-Net's scores.

    Of a query's identity nothing is used but what the protocol takes out of its gallery. Of the
    gallery's it is used how many crops a person has, which whoever enrolled them knows.

    Args:
        artefact: its networks may be on any device.
        features: of the queries and the gallery.
        cosine: of every query and gallery crop; at most 1,000 rows are asked for.
        labels: of both.

    Raises:
        InputProblem: where the searches are too few or too alike to show a tail.
    """
    searched = searched_pairs(cosine, labels)
    places = some_places(searched.cosines)
    pairs = np.stack([searched.queries[places[:, 0]], searched.crops[places[:, 1]]], axis=1)
    queries, gallery = (torch.from_numpy(rows) for rows in features)
    scores = score_listed_pairs(artefact.metric_network, queries, gallery, torch.from_numpy(pairs))
    mnet = np.full_like(searched.cosines, np.nan)
    mnet[places[:, 0], places[:, 1]] = scores.cpu().numpy()
    return recalibrate(
        artefact.description.calibration,
        searched.cosines,
        identical_score(artefact.metric_network),
        searched.gallery_size,
        crops_per_person(labels),
        mnet,
    )


def recalibrated_if_enough(
    artefact: Artefact, features: SearchFeatures, cosine: ScoreRows, labels: PairLabels
) -> Calibration | None:
    """The same; None where the searches are too few or too alike to show a tail."""
    try:
        return recalibrated(artefact, features, cosine, labels)
    except InputProblem:
        return None


def some_places(cosines: NDArray[np.float32], seed: int = 0) -> NDArray[np.int64]:
    """Rows and columns `(n, 2)` of the pairs for M-Net to score: at most 30,000, at random."""
    met = np.flatnonzero(np.isfinite(cosines))
    random = np.random.default_rng(seed)
    some = random.choice(met, min(len(met), MOST_SCORED), replace=False)
    return np.stack(np.divmod(some, cosines.shape[1]), axis=1)


def searched_pairs(cosine: ScoreRows, labels: PairLabels, seed: int = 0) -> SearchedPairs:
    """Cosines of at most 1,000 searches with at most 4,000 crops of their gallery."""
    random = np.random.default_rng(seed)
    queries, gallery = len(labels.query_identities), len(labels.gallery_identities)
    some = np.sort(random.choice(queries, min(queries, MOST_SEARCHES), replace=False))
    crops = np.sort(random.choice(gallery, min(gallery, MOST_CROPS), replace=False))
    found = np.empty((len(some), len(crops)), dtype=np.float32)
    sizes = np.empty(len(some), dtype=np.int64)
    for row, query in enumerate(some.tolist()):
        only = slice(query, query + 1)
        own = labels.query_identities[only] == labels.gallery_identities
        under = labels.query_cameras[only] == labels.gallery_cameras
        met = (labels.gallery_identities >= 0) & ~(own & under)
        if labels.other_cameras_only:
            met &= ~under
        found[row] = np.where(met, cosine(only)[0], np.nan)[crops]
        sizes[row] = met.sum()
    return SearchedPairs(found, some, crops, int(np.median(sizes)))


def crops_per_person(labels: PairLabels) -> float:
    """How many gallery crops a person usually has; distractors, one name for many, do not count."""
    people = labels.gallery_identities[labels.gallery_identities >= 0]
    return float(np.median(np.unique(people, return_counts=True)[1])) if len(people) else 1.0
