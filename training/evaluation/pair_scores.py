"""The scores of searches as pairs: all of one person's, and some of two people's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.calibration import Fusion, Scoring
from model.metric_network import MetricNetwork
from training.evaluation.embedding import ProgressBar, SearchFeatures
from training.evaluation.ranking import PairLabels, ScoreRows
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

    def blocks(self) -> Iterator[Block]:
        """Every cross-camera pair once, in the order of queries and gallery.

        Where queries and gallery are one list, as when every crop queries all others, a pair is
        there twice and is given once.
        """
        labels = self.labels
        queries, gallery = len(labels.query_identities), len(labels.gallery_identities)
        one_list = np.array_equal(labels.query_identities, labels.gallery_identities)
        one_list = one_list and np.array_equal(labels.query_cameras, labels.gallery_cameras)
        size = max(1, PAIRS_PER_BLOCK // max(1, gallery))
        for start in range(0, queries, size):
            rows = slice(start, min(start + size, queries))
            genuine, impostor = labels.across_cameras(rows)
            if one_list:
                above = np.arange(start, rows.stop)[:, None] < np.arange(gallery)[None, :]
                genuine, impostor = genuine & above, impostor & above
            yield Block(self, rows, genuine, impostor)

    def impostor_scores(self, fusion: Fusion | None, scoring: Scoring) -> Parts:
        """One scoring's scores of all pairs of two people, a block at a time, each time anew."""

        def parts() -> Iterator[NDArray[np.float32]]:
            for block in self.blocks():
                yield block.scores(fusion, scoring)[block.impostor]

        return parts


class Block(NamedTuple):
    """Some queries of a search; both masks are `(rows, G)`."""

    search: SearchScores
    rows: slice
    genuine: NDArray[np.bool_]
    impostor: NDArray[np.bool_]

    def scores(self, fusion: Fusion | None, scoring: Scoring) -> NDArray[np.float32]:
        """One scoring's scores, `(rows, G)`."""
        return self.search.rows(fusion, scoring)(self.rows)


@dataclass(frozen=True)
class PairScores:
    """The scores of all genuine pairs and of some impostors, and whose they are.

    Attributes:
        genuine_cosine, genuine_mnet: of pairs of one person, `(n,)` float32.
        impostor_cosine, impostor_mnet: of pairs of two people, `(m,)` float32. M-Net's are None
            for an artefact without it.
        genuine_people: whose, `(n,)`; person 1 of two domains is two people.
        impostor_people: the two of every pair, `(m, 2)`.
    """

    genuine_cosine: NDArray[np.float32]
    genuine_mnet: NDArray[np.float32] | None
    impostor_cosine: NDArray[np.float32]
    impostor_mnet: NDArray[np.float32] | None
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
    sums = [(int(block.genuine.sum()), int(block.impostor.sum())) for block in domain.blocks()]
    return sum(genuine for genuine, _ in sums), sum(impostor for _, impostor in sums)


def some_pairs(
    domains: Sequence[SearchScores], impostors: Sequence[int], seed: int = 0
) -> PairScores:
    """All genuine pairs, and at most 200,000 impostor pairs.

    Args:
        domains: one after the other.
        impostors: how many impostor pairs each has.
        seed: of the choice among them.
    """
    random, size = np.random.default_rng(seed), min(sum(impostors), IMPOSTORS_TO_FIT)
    some = np.sort(random.choice(sum(impostors), size, replace=False))
    parts: list[tuple[NDArray[Any], ...]] = []
    done = people = 0
    for domain, count in zip(domains, impostors, strict=True):
        labels = domain.labels
        chosen = some[(some >= done) & (some < done + count)] - done
        seen = 0
        for block in domain.blocks():
            inside = np.flatnonzero(block.impostor)
            first, last = np.searchsorted(chosen, (seen, seen + len(inside)))
            taken = inside[chosen[first:last] - seen]
            seen += len(inside)
            rows, columns = np.divmod(taken, len(labels.gallery_identities))
            asked = labels.query_identities[block.rows]
            cosine = block.scores(None, "cosine")
            # Without M-Net the cosine stands in its place, and is dropped below.
            mnet = block.scores(None, "mnet")
            both = np.stack([asked[rows], labels.gallery_identities[columns]], axis=1)
            parts.append(
                (
                    cosine[block.genuine],
                    mnet[block.genuine],
                    cosine[rows, columns],
                    mnet[rows, columns],
                    asked[np.nonzero(block.genuine)[0]] + people,
                    both + people,
                )
            )
        done += count
        both_sides = (labels.query_identities, labels.gallery_identities)
        people += 1 + max(int(side.max(initial=0)) for side in both_sides)
    pairs = PairScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    if any(domain.mnet is None for domain in domains):
        return replace(pairs, genuine_mnet=None, impostor_mnet=None)
    return pairs
