"""Open-set search with half of the people enrolled: the share found at 1% false alarms.

Half of the people are enrolled and all are searched for. The threshold is the best one there
is: the lowest at which strangers' searches raise no more false alarms than asked. So a ready-made
model, which has no calibration, is measured as an artefact is.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.evaluation.intervals import LEVEL, Estimate
from training.evaluation.ranking import PairLabels, ScoreRows, blocks
from training.evaluation.results import HalfEnrolledResult

FALSE_ALARM_RATE = 0.01
DRAWS = 10
RESAMPLES = 200


def half_enrolled(
    score_rows: ScoreRows,
    labels: PairLabels,
    seed: int = 0,
    draws: int = DRAWS,
    scores_per_block: int | None = None,
) -> HalfEnrolledResult | None:
    """Detection at `FALSE_ALARM_RATE` obtained, over several draws of the enrolled half.

    Only crops of people with queries are enrolled: junk and distractors are not.

    Args:
        score_rows: of one search.
        labels: its labels.
        seed: of the halves and of the bootstrap.
        draws: how many halves are drawn.
        scores_per_block: bounds the memory.

    Returns:
        None where there are fewer than four people, or too few searches of each kind.
    """
    people, owner = np.unique(labels.query_identities, return_inverse=True)
    if len(people) < 4:
        return None
    random = np.random.default_rng(seed)
    half = len(people) // 2
    chosen = np.zeros((draws, len(people)), dtype=bool)
    for draw in chosen:
        draw[random.choice(len(people), half, replace=False)] = True
    genuine, impostor = _best_scores(score_rows, labels, people, chosen, scores_per_block)
    found = []
    for resample in range(RESAMPLES + 1):
        drawn = random.integers(0, len(people), len(people))
        counts = np.bincount(drawn, minlength=len(people)).astype(np.float64)
        weights = counts if resample else np.ones(len(people))
        rates = [
            _detection(genuine, impostor[draw], chosen[draw][owner], weights[owner])
            for draw in range(draws)
        ]
        # With few people a draw may lack enrolled people with a query, or strangers.
        found += [float(np.nanmean(rates))] if np.isfinite(rates).any() else []
    if len(found) < RESAMPLES // 2:
        return None
    low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return HalfEnrolledResult(
        enrolled=half,
        false_alarm_rate=FALSE_ALARM_RATE,
        detection_rate=Estimate(mean=found[0], low=float(low), high=float(high)),
    )


def _best_scores(
    score_rows: ScoreRows,
    labels: PairLabels,
    people: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    scores_per_block: int | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Every query's best score of its own person, `(Q,)`, and of enrolled others, `(draws, Q)`."""
    queries = len(labels.query_identities)
    place = np.searchsorted(people, labels.gallery_identities).clip(max=len(people) - 1)
    searched = people[place] == labels.gallery_identities
    enrolled = chosen[:, place] & searched
    lowest = np.float32(-np.inf)
    genuine = np.empty(queries, dtype=np.float32)
    impostor = np.empty((len(chosen), queries), dtype=np.float32)
    for block in blocks(labels, scores_per_block):
        scores = score_rows(block)
        own = labels.query_identities[block, None] == labels.gallery_identities[None, :]
        across = labels.query_cameras[block, None] != labels.gallery_cameras[None, :]
        genuine[block] = np.max(scores, axis=1, where=own & across, initial=lowest)
        others = ~own & across if labels.other_cameras_only else ~own
        for draw, held in enumerate(enrolled):
            columns = np.flatnonzero(held)
            impostor[draw, block] = np.max(
                scores[:, columns], axis=1, where=others[:, columns], initial=lowest
            )
    return genuine, impostor


def _detection(
    genuine: NDArray[np.float32],
    impostor: NDArray[np.float32],
    is_enrolled: NDArray[np.bool_],
    weights: NDArray[np.float64],
) -> float:
    """The detection rate of one draw at the best threshold; not a number without searches."""
    alarms, alarm_weights = impostor[~is_enrolled], weights[~is_enrolled]
    present = is_enrolled & np.isfinite(genuine)
    searches = float(weights[present].sum())
    if not alarm_weights.sum() or not searches:
        return float("nan")
    order = np.argsort(-alarms, kind="stable")
    above = np.cumsum(alarm_weights[order]) > FALSE_ALARM_RATE * alarm_weights.sum()
    # The highest score that must not alarm.
    limit = alarms[order][int(np.argmax(above))]
    found = present & (genuine > impostor) & (genuine > limit)
    return float(weights[found].sum()) / searches
