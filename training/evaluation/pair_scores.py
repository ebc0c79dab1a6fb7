"""The scores of searches as pairs: all of one person's, and some of two people's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.calibration import Fusion, Scoring
from model.metric_network import MetricNetwork
from training.evaluation.embedding import ProgressBar, SearchFeatures
from training.evaluation.metrics import PairLabels, ScoreRows, blocks
from training.evaluation.scoring import computed_mnet_rows, cosine_rows, fused_rows, mnet_rows

IMPOSTORS_TO_FIT = 200_000
PAIRS_PER_BLOCK = 2_000_000

Parts = Callable[[], Iterator[NDArray[np.float32]]]
"""Gives many scores, in parts, each time it is called."""


@dataclass(frozen=True)
class SearchScores:
    """The scores of one domain's search, computed or read a block of queries at a time.

    Attributes:
        cosine, mnet: scores of some queries against the gallery; no `mnet` for an artefact without
            M-Net.
        labels: of the queries and the gallery.
    """

    cosine: ScoreRows
    mnet: ScoreRows | None
    labels: PairLabels

    @property
    def by_scoring(self) -> dict[Scoring, ScoreRows]:
        """`cosine` and, for an artefact with M-Net, `mnet`."""
        known: dict[Scoring, ScoreRows | None] = {"cosine": self.cosine, "mnet": self.mnet}
        return {scoring: rows for scoring, rows in known.items() if rows is not None}

    def rows(self, fusion: Fusion | None, scoring: Scoring) -> ScoreRows:
        """One scoring's scores; without M-Net the cosine stands in its place."""
        if scoring == "cosine" or self.mnet is None:
            return self.cosine
        if scoring == "mnet" or fusion is None:
            return self.mnet
        return fused_rows(fusion, self.cosine, self.mnet)

    def pairs(self) -> Iterator[tuple[slice, NDArray[np.bool_], NDArray[np.bool_]]]:
        """Every cross-camera pair once: some queries, and masks `(rows, G)` of one's and of two's.

        Where queries and gallery are one list, as when every crop queries all others, a pair is
        there twice and is given once.
        """
        labels = self.labels
        gallery = np.arange(len(labels.gallery_identities))
        one_list = np.array_equal(labels.query_identities, labels.gallery_identities)
        one_list = one_list and np.array_equal(labels.query_cameras, labels.gallery_cameras)
        for rows in blocks(labels, PAIRS_PER_BLOCK):
            genuine, impostor = labels.across_cameras(rows)
            if one_list:
                above = gallery[rows, None] < gallery[None, :]
                genuine, impostor = genuine & above, impostor & above
            yield rows, genuine, impostor

    def impostor_scores(self, fusion: Fusion | None, scoring: Scoring) -> Parts:
        """One scoring's scores of all pairs of two people, a block at a time, each time anew."""
        scores = self.rows(fusion, scoring)
        return lambda: (scores(rows)[impostor] for rows, _, impostor in self.pairs())


class SomePairs(NamedTuple):
    """The scores of all genuine pairs and of some impostors, and whose they are.

    Attributes:
        genuine: of pairs of one person, `(n, k)` float32: cosine and, with an M-Net, its score.
        impostors: of pairs of two people, `(m, k)`.
        genuine_people: whose, `(n,)`; person 1 of two domains is two people.
        impostor_people: the two of every pair, `(m, 2)`.
    """

    genuine: NDArray[np.float32]
    impostors: NDArray[np.float32]
    genuine_people: NDArray[np.int64]
    impostor_people: NDArray[np.int64]


def computed_scores(
    metric_network: MetricNetwork | None, features: SearchFeatures, labels: PairLabels
) -> SearchScores:
    """The scores of a search, M-Net's too computed each time that they are asked for.

    Args:
        metric_network: in evaluation mode, on any device; None where there is none.
        features, labels: of the search.
    """
    mnet = None if metric_network is None else computed_mnet_rows(metric_network, *features)
    return SearchScores(cosine_rows(*features), mnet, labels)


@contextmanager
def open_scores(
    metric_network: MetricNetwork | None,
    features: SearchFeatures,
    labels: PairLabels,
    progress_bar: ProgressBar,
    folder: Path | None = None,
    mnet: ScoreRows | None = None,
) -> Iterator[SearchScores]:
    """The scores of a search; M-Net's are computed once, and lie in a file while they are read.

    Args:
        metric_network: in evaluation mode, on any device; None where there is none.
        features, labels: of the search.
        progress_bar: shows how far M-Net is.
        folder: for the file; None is as `mnet_rows` chooses.
        mnet: M-Net's scores, where they are known already.
    """
    cosine = cosine_rows(*features)
    if metric_network is None or mnet is not None:
        yield SearchScores(cosine, mnet, labels)
        return
    with (
        progress_bar("Scoring", len(features.queries)) as bar,
        mnet_rows(metric_network, *features, bar, folder) as computed,
    ):
        yield SearchScores(cosine, computed, labels)


def count_pairs(domain: SearchScores) -> tuple[int, int]:
    """How many genuine and impostor pairs a domain has."""
    counts = [(int(own.sum()), int(others.sum())) for _, own, others in domain.pairs()]
    return sum(own for own, _ in counts), sum(others for _, others in counts)


def some_pairs(
    domains: Sequence[SearchScores], impostors: Sequence[int], seed: int = 0
) -> SomePairs:
    """All genuine pairs, and at most 200,000 impostor pairs.

    Args:
        domains: one after the other; with M-Net's scores for all of them, or they are left out.
        impostors: how many impostor pairs each has.
        seed: of the choice among them.
    """
    random, size = np.random.default_rng(seed), min(sum(impostors), IMPOSTORS_TO_FIT)
    some = np.sort(random.choice(sum(impostors), size, replace=False))
    scored = min(len(domain.by_scoring) for domain in domains)
    parts: list[tuple[NDArray[Any], ...]] = []
    seen = people = 0
    for domain in domains:
        labels = domain.labels
        for rows, genuine, impostor in domain.pairs():
            inside = np.flatnonzero(impostor)
            first, last = np.searchsorted(some, (seen, seen + len(inside)))
            query, other = np.divmod(inside[some[first:last] - seen], impostor.shape[1])
            seen += len(inside)
            asked = labels.query_identities[rows]
            scores = np.stack([own(rows) for own in domain.by_scoring.values()][:scored], axis=-1)
            parts.append(
                (
                    scores[genuine],
                    scores[query, other],
                    asked[np.nonzero(genuine)[0]] + people,
                    np.stack([asked[query], labels.gallery_identities[other]], axis=1) + people,
                )
            )
        both_sides = (labels.query_identities, labels.gallery_identities)
        people += 1 + max(int(side.max(initial=0)) for side in both_sides)
    return SomePairs(*(np.concatenate(column) for column in zip(*parts, strict=True)))
