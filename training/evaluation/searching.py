"""The rankings of a search: as one list of queries, or pooled over the random splits of a set."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from model.artefact import Artefact
from model.calibration import SCORINGS
from training.evaluation.embedding import ProgressBar, SearchFeatures
from training.evaluation.image_distances import CosineDistances, MetricNetworkDistances
from training.evaluation.k_reciprocal import k_reciprocal_rows
from training.evaluation.protocols import RandomSplit, Search
from training.evaluation.ranking import PairLabels, QueryMetrics, ScoreRows, rank_queries
from training.evaluation.scoring import cosine_rows, fused_rows, mnet_rows

RE_RANKED: dict[str, str] = {"k_reciprocal": "cosine", "k_reciprocal_mnet": "mnet"}
RANKINGS: tuple[str, ...] = (*SCORINGS, *RE_RANKED)
PER_QUERY = (
    "average_precision",
    "average_precision_trapezoid",
    "inverse_negative_penalty",
    "first_rank",
)
NOTE = (
    "A distance that depends on the other candidates is no pair score: it has no probability and "
    "no operating points."
)

RowsOf = Callable[[RandomSplit | None], ScoreRows]
"""The scores of a whole search, or of one split of it."""


class Rankings:
    """The rankings of one search by one artefact.

    Attributes:
        pair_scores: rows of the pair scores at hand, by name.
    """

    def __init__(
        self,
        artefact: Artefact,
        search: Search,
        labels: PairLabels,
        features: SearchFeatures,
        pair_scores: dict[str, ScoreRows],
    ) -> None:
        self.pair_scores = pair_scores
        self._artefact = artefact
        self._search, self._labels, self._features = search, labels, features

    def rank(self, name: str) -> QueryMetrics:
        """Ranks every query, in every split where the set has them."""
        return rank_search(self._search, self._labels, lambda split: self.rows(name, split))

    def rows(self, name: str, split: RandomSplit | None = None) -> ScoreRows:
        """The scores of one ranking; those of k-reciprocal order one search and no more."""
        if name not in RE_RANKED:
            return rows_of_split(self.pair_scores[name], split)
        queries, gallery = self._features
        if split is not None:
            queries, gallery = queries[split.queries], gallery[split.gallery]
        one_list = split is None and self._search.gallery is self._search.queries
        distances = CosineDistances(queries, gallery, one_list)
        if RE_RANKED[name] == "cosine":
            return k_reciprocal_rows(distances)
        mnet = rows_of_split(self.pair_scores["mnet"], split)
        network = self._artefact.require_metric_network()
        return k_reciprocal_rows(MetricNetworkDistances(distances, network, mnet))


def needs_metric_network(names: Sequence[str]) -> bool:
    """Whether any of these rankings is of M-Net's scores."""
    return bool({"mnet", "fused", "k_reciprocal_mnet"} & set(names))


@contextmanager
def open_rankings(
    artefact: Artefact,
    search: Search,
    labels: PairLabels,
    features: SearchFeatures,
    names: Sequence[str],
    progress_bar: ProgressBar,
    seconds: dict[str, float],
    mnet: ScoreRows | None = None,
) -> Iterator[Rankings]:
    """The rankings of a search; M-Net's scores are computed once, where a ranking needs them.

    Args:
        artefact: its networks may be on any device.
        search, labels: the queries and the gallery.
        features: of both.
        names: which rankings will be asked for.
        progress_bar: shows how far M-Net is.
        seconds: gets how long M-Net's scoring took, as `scoring`.
        mnet: M-Net's scores, where they are known already.
    """
    queries, gallery = features
    fusion = artefact.description.calibration.fusion
    scores = {"cosine": cosine_rows(queries, gallery)}
    if not needs_metric_network(names):
        yield Rankings(artefact, search, labels, features, scores)
        return
    start = time.perf_counter()
    with ExitStack() as opened:
        if mnet is None:
            bar = progress_bar(f"Scoring {search.queries[0].dataset}", len(queries))
            network = artefact.require_metric_network()
            rows = mnet_rows(network, queries, gallery, opened.enter_context(bar))
            mnet = opened.enter_context(rows)
            seconds["scoring"] = time.perf_counter() - start
        scores["mnet"] = mnet
        if fusion is not None:
            scores["fused"] = fused_rows(fusion, scores["cosine"], mnet)
        yield Rankings(artefact, search, labels, features, scores)


def rank_search(search: Search, labels: PairLabels, rows_of: RowsOf) -> QueryMetrics:
    """Ranks a search; where its set is split at random, every split, the queries pooled.

    All splits have one number of queries, so that a mean over the pooled queries is the mean over
    the splits. A query is counted once for every split that it is in.
    """
    if not search.splits:
        return rank_queries(rows_of(None), labels)
    found = [
        rank_queries(rows_of(split), labels.part(split.queries, split.gallery))
        for split in search.splits
    ]
    pooled = {field: np.concatenate([getattr(one, field) for one in found]) for field in PER_QUERY}
    numbers = [one.queries for one in found]
    pooled["queries"] = np.concatenate(
        [split.queries[own] for split, own in zip(search.splits, numbers, strict=True)]
    )
    return QueryMetrics(**pooled, not_counted=sum(one.not_counted for one in found))


def rows_of_split(rows: ScoreRows, split: RandomSplit | None) -> ScoreRows:
    """The rows and columns of one split; sets that are split at random are small ones."""
    if split is None:
        return rows
    scores = rows(slice(0, int(split.queries.max()) + 1))[np.ix_(split.queries, split.gallery)]
    return lambda own: scores[own]
