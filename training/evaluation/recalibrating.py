"""The artefact's calibration, moved without labels to the searches that are evaluated."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from model.calibration import Calibration
from model.problems import InputProblem
from model.recalibration import recalibrate
from training.evaluation.ranking import PairLabels, ScoreRows

MOST_SEARCHES = 1_000
MOST_CROPS = 4_000


def recalibrated(
    calibration: Calibration, cosine: ScoreRows, labels: PairLabels, identical_mnet: float
) -> Calibration | None:
    """Re-calibrates on a search as a service would, from its cosines alone.

    Of a query's identity nothing is used but what the protocol takes out of its gallery. Of the
    gallery's it is used how many crops a person has, which whoever enrolled them knows.

    Args:
        calibration: the artefact's own.
        cosine: of every query and gallery crop; at most 1,000 rows are asked for.
        labels: of both.
        identical_mnet: M-Net's score of a crop with itself.

    Returns:
        None where the searches are too few or too alike to show a tail.
    """
    cosines, size = searched_cosines(cosine, labels)
    try:
        return recalibrate(calibration, cosines, identical_mnet, size, crops_per_person(labels))
    except InputProblem:
        return None


def searched_cosines(
    cosine: ScoreRows, labels: PairLabels, seed: int = 0
) -> tuple[NDArray[np.float32], int]:
    """Cosines of some searches with some of their gallery, and the gallery's usual size.

    Returns:
        `(Q, n)` float32, NaN where the protocol has a crop in no gallery of that query: junk, the
        person under the query's own camera, and, where it says so, all of that camera.
    """
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
    return found, int(np.median(sizes))


def crops_per_person(labels: PairLabels) -> float:
    """How many gallery crops a person usually has; distractors, one name for many, do not count."""
    people = labels.gallery_identities[labels.gallery_identities >= 0]
    return float(np.median(np.unique(people, return_counts=True)[1])) if len(people) else 1.0
