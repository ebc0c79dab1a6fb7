"""One query per labelled crop, and what the answers amount to."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gmn_client import Client, QueryOptions, RequestRefused
from gmn_client.answers import QueryAnswer, RankedCrop
from model.problems import InputProblem
from service.commands.bulk import in_flight
from service.commands.sources import SourceCrop

Label = tuple[str | None, str | None]
"""Identity and camera of a crop; None where unknown."""

RankFigures = Callable[[str, str, Sequence[Label]], dict[str, float] | None]
"""From a query's identity and camera and the ranked crops' to metrics of 0 to 1, or None."""

VERDICTS = ("match", "uncertain", "no_match", "nothing_searched")
REPORTED = ("rank_1", "rank_5", "rank_10", "mAP")


@dataclass(frozen=True)
class AnsweredQuery:
    """One query and its answer.

    Attributes:
        crop: what was asked.
        ranking: the answer.
        results: the answer's rows without those of the query's own identity and camera.
        milliseconds: from sending to having read the answer.
    """

    crop: SourceCrop
    ranking: QueryAnswer
    results: tuple[RankedCrop, ...]
    milliseconds: float


def ask_each(
    client: Client, crops: Sequence[SourceCrop], options: QueryOptions, at_once: int
) -> Iterator[AnsweredQuery]:
    """Queries with each crop, several at a time.

    Raises:
        InputProblem: naming the crop that cannot be read or that the service refused.
    """

    def ask(crop: SourceCrop) -> AnsweredQuery:
        try:
            data = crop.read()
        except OSError as error:
            raise InputProblem(f"{crop.name}: cannot be read ({error.strerror})") from error
        started = time.perf_counter()
        try:
            ranking = client.query(data, **options)
        except RequestRefused as refusal:
            raise InputProblem(f"{crop.name}: {refusal}") from refusal
        elapsed = (time.perf_counter() - started) * 1e3
        return AnsweredQuery(crop, ranking, _across_cameras(crop, ranking), elapsed)

    return in_flight(ask, crops, at_once)


def _across_cameras(crop: SourceCrop, ranking: QueryAnswer) -> tuple[RankedCrop, ...]:
    """Drops what the re-identification protocol drops: the same person under the same camera."""
    if crop.identity is None or crop.camera is None:
        return tuple(ranking.results)
    own = (crop.identity, crop.camera)
    return tuple(row for row in ranking.results if (row.identity, row.camera) != own)


class QuerySummary:
    """Adds up answered queries, all by one scoring; holds numbers, never the answers."""

    def __init__(self, rank_figures: RankFigures, gallery: Sequence[Label] | None = None) -> None:
        """Prepares to count.

        Args:
            rank_figures: the metrics of one whole ranking.
            gallery: identity and camera of every crop in it; needed where rankings are cut short,
                None where each holds the whole gallery.
        """
        self._rank_figures = rank_figures
        self._gallery = None if gallery is None else Counter(gallery)
        self._queries = 0
        self._scoring: str | None = None
        self._milliseconds = 0.0
        self._stages: Counter[str] = Counter()
        self._verdicts: Counter[str] = Counter()
        self._right_matches = 0
        self._figures: list[dict[str, float]] = []

    def add(self, query: AnsweredQuery) -> None:
        """Takes one answered query into account."""
        self._queries += 1
        self._scoring = query.ranking.scoring
        self._milliseconds += query.milliseconds
        self._stages.update(query.ranking.timing_ms.model_dump())
        self._verdicts[query.ranking.verdict] += 1
        best = query.results[0] if query.results else None
        if query.ranking.verdict == "match" and best and best.identity == query.crop.identity:
            self._right_matches += 1
        identity, camera = query.crop.identity, query.crop.camera
        if identity is None or camera is None:
            return
        rows = [(row.identity, row.camera) for row in query.results]
        figures = self._rank_figures(identity, camera, rows + self._rest(query))
        if figures is not None:
            self._figures.append(figures)

    def _rest(self, query: AnsweredQuery) -> list[Label]:
        """What the ranking left out; true matches come last, so that no metric is flattered."""
        if self._gallery is None:
            return []
        answered = Counter((row.identity, row.camera) for row in query.ranking.results)
        rest = self._gallery - answered
        del rest[(query.crop.identity, query.crop.camera)]
        return sorted(rest.elements(), key=lambda label: label[0] == query.crop.identity)

    def result(self) -> dict[str, Any]:
        """Means over the queries: metrics 0 to 1 or None, milliseconds, and counts of verdicts."""
        measured = len(self._figures)
        means = {
            name: sum(one[name] for one in self._figures) / measured if measured else None
            for name in REPORTED
        }
        stages = {name: total / self._queries for name, total in self._stages.items()}
        return {
            "scoring": self._scoring,
            "queries": self._queries,
            "with_a_true_match": measured,
            **means,
            "verdicts": {name: self._verdicts[name] for name in VERDICTS},
            "matches_right": self._right_matches,
            "ms_per_query": self._milliseconds / max(1, self._queries),
            "service_timing_ms": {name: round(mean, 3) for name, mean in stages.items()},
        }
