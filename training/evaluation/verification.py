"""TAR@FAR: how many genuine pairs are accepted where few impostor pairs are.

Genuine pairs are the positives: two crops of one person under different cameras. Exact and in
bounded memory: of the impostor scores only the highest are kept, one in a hundred.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.evaluation.intervals import mean_interval
from training.evaluation.metrics import PairLabels, ScoreRows, blocks
from training.evaluation.results import VerificationResult

FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)


def true_accept_rates(
    score_rows: ScoreRows,
    labels: PairLabels,
    rates: tuple[float, ...] = FALSE_ACCEPT_RATES,
    scores_per_block: int | None = None,
) -> list[VerificationResult]:
    """The share of genuine pairs accepted at each false accept rate, with its interval.

    The threshold is the lowest that accepts no more impostor pairs than asked. A rate that is less
    than one of the impostor pairs cannot be measured and is left out.

    Args:
        score_rows: of a pair score; higher is nearer.
        labels: of the queries and the gallery.
        rates: asked false accept rates, over 0 and under 1.
        scores_per_block: as `blocks` takes it.
    """
    pairs = len(labels.query_identities) * len(labels.gallery_identities)
    highest = _Highest(int(max(rates) * pairs) + 1)
    genuine: list[NDArray[np.float32]] = []
    people: list[NDArray[np.int64]] = []
    for block in blocks(labels, scores_per_block):
        scores = score_rows(block)
        same, other = labels.across_cameras(block)
        genuine.append(scores[same])
        people.append(np.repeat(labels.query_identities[block], same.sum(axis=1)))
        highest.add(scores[other])
    impostors = np.sort(highest.values())[::-1]
    accepted, whose = np.concatenate(genuine), np.concatenate(people)
    results = []
    for rate in rates:
        # A share such as 0.01 is a little under its decimal in binary.
        allowed = int(rate * highest.seen * (1.0 + 1e-9))
        if allowed < 1 or not len(accepted):
            continue
        refused = impostors[allowed]
        found = mean_interval((accepted > refused).astype(np.float64), whose)
        results.append(
            VerificationResult(
                asked=rate,
                threshold=float(np.nextafter(refused, np.float32(np.inf))),
                false_accept_rate=float(np.count_nonzero(impostors > refused) / highest.seen),
                true_accept_rate=found,
            )
        )
    return results


class _Highest:
    """The highest of many scores; memory is a few times what is kept."""

    def __init__(self, count: int) -> None:
        self.seen = 0
        self._count = count
        self._kept: list[NDArray[np.float32]] = []
        self._floor = np.float32(-np.inf)

    def add(self, scores: NDArray[np.float32]) -> None:
        self.seen += len(scores)
        self._kept.append(scores[scores > self._floor])
        if sum(map(len, self._kept)) > 2 * self._count:
            self._kept = [self.values()]
            self._floor = self._kept[0].min()

    def values(self) -> NDArray[np.float32]:
        """The highest scores, in no order."""
        everything = np.concatenate(self._kept)
        if len(everything) > self._count:
            everything.partition(len(everything) - self._count)
        return everything[-self._count :].copy()
