"""Labelled data sets for the client's commands: read and measured by the trainer's code.

The service may not import the trainer.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rich.console import Group
from rich.markup import escape

from gmn_client import Client, QueryOptions, RequestRefused
from gmn_client.models import QueryAnswer
from model.problems import InputProblem
from service.commands.bulk import SourceCrop, read_crop
from service.commands.common import Shown, plain_table, progress_bar

Label = tuple[str | None, str | None]
"""Identity and camera of a crop; None where unknown."""

VERDICTS = ("match", "uncertain", "no_match", "nothing_searched")
CUTS = {"rank_1": 1, "rank_5": 5, "rank_10": 10}
REPORTED = {"rank_1": "Rank-1", "rank_5": "Rank-5", "rank_10": "Rank-10", "mAP": "mAP"}
# Public sets name crops that show nobody so.
JUNK = "-1"
CONCURRENT_REQUESTS = 4
# The service's own bound on `top_k`.
MAX_RESULTS = 10_000


def read_spec(spec: str) -> Iterator[SourceCrop]:
    """Yield the crops of a `KIND:PATH` for the client's commands; drawn ones are encoded as PNG.

    Raises:
        InputProblem: the data set cannot be read.
    """
    from training.datasets.registry import read_dataset

    for record in read_dataset(spec).records:
        yield SourceCrop(
            record.source,
            record.content,
            record.identity,
            record.camera,
            record.captured_at,
            record.split,
        )


def ranks_of(query: Label, ranking: Iterable[Label]) -> list[int]:
    """Return the ranks of the query's person, from 1, by Market-1501's protocol.

    Results of the query's own person and camera, and junk, do not count.
    """
    counted = [result for result in ranking if result != query and result[0] != JUNK]
    return [rank for rank, result in enumerate(counted, 1) if result[0] == query[0]]


def summarize(
    queries: Iterable[tuple[Label, Sequence[Label], str]], gallery: Sequence[Label] = ()
) -> dict[str, Any]:
    """Compute means of the ranking metrics, and counts of verdicts.

    Queries are read one by one and are not held in memory.

    Args:
        queries: the label of each query, the labels of its results, best first, and its verdict.
        gallery: the labels of every gallery crop, if rankings are cut short. Results that were cut
            off count as ranked last, true matches after all others, so that mAP is a lower bound.

    Returns:
        The metrics from 0 to 1, or None without a query that has a true match; the number of
        queries that have one; counts by verdict; the number of matches whose first result is right.
    """
    verdicts: Counter[str] = Counter()
    totals: defaultdict[str, float] = defaultdict(float)
    with_a_true_match = 0
    matches_right = 0
    gallery_counts = Counter(gallery)
    for query, ranking, verdict in queries:
        verdicts[verdict] += 1
        identity, camera = query
        others = [result for result in ranking if None in query or result != query]
        matches_right += verdict == "match" and bool(others) and others[0][0] == identity
        if identity is None or camera is None:
            continue
        cut_off = (gallery_counts - Counter(ranking)).elements()
        last = sorted(cut_off, key=lambda result: result[0] == identity)
        if ranks := ranks_of(query, [*ranking, *last]):
            with_a_true_match += 1
            for name, most in CUTS.items():
                totals[name] += ranks[0] <= most
            precisions = [hits / rank for hits, rank in enumerate(ranks, 1)]
            totals["mAP"] += statistics.mean(precisions)
    means = {
        name: totals[name] / with_a_true_match if with_a_true_match else None for name in REPORTED
    }
    return {
        "with_a_true_match": with_a_true_match,
        **means,
        "verdicts": {name: verdicts[name] for name in VERDICTS},
        "matches_right": matches_right,
    }


def query_crops(
    client: Client,
    crops: Iterable[SourceCrop],
    options: QueryOptions,
) -> Iterator[tuple[SourceCrop, QueryAnswer, float]]:
    """Query with each crop, and yield crop, answer and milliseconds until the answer was read.

    Raises:
        InputProblem: a crop cannot be read, or the service refuses it.
    """

    def query(crop: SourceCrop) -> tuple[SourceCrop, QueryAnswer, float]:
        data = read_crop(crop)
        if isinstance(data, str):
            raise InputProblem(f"{crop.name}: {data}")
        started = time.perf_counter()
        try:
            answer = client.query(data, **options)
        except RequestRefused as refusal:
            raise InputProblem(f"{crop.name}: {refusal}") from refusal
        return crop, answer, (time.perf_counter() - started) * 1e3

    with ThreadPoolExecutor(CONCURRENT_REQUESTS) as threads:
        yield from threads.map(query, crops)


def measure(
    client: Client,
    crops: Sequence[SourceCrop],
    options: QueryOptions,
) -> Shown:
    """Query with labelled crops, and report ranking metrics, verdicts and times of the answers."""
    enrolled = client.gallery().crops
    if enrolled == 0:
        raise InputProblem(
            f"--gallery {client.gallery_name}: is empty; fill it with gmn enroll first"
        )
    options.setdefault("top_k", min(enrolled, MAX_RESULTS))
    # Known names of the gallery would help the order by neighbours, against the field's protocol.
    options.setdefault("order", "score")
    whole = options["top_k"] >= enrolled
    gallery = [] if whole else [(crop.identity, crop.camera) for crop in client.crops()]
    totals: Counter[str] = Counter()
    scorings = set()

    def answers() -> Iterator[tuple[Label, Sequence[Label], str]]:
        with progress_bar() as progress:
            asked = progress.track(
                query_crops(client, crops, options), total=len(crops), description="Querying"
            )
            for crop, answer, milliseconds in asked:
                totals.update({"asked": milliseconds, **answer.timing_ms.model_dump()})
                scorings.add(answer.scoring)
                labels = [(row.identity, row.camera) for row in answer.results]
                yield (crop.identity, crop.camera), labels, answer.verdict

    started = time.perf_counter()
    figures = summarize(answers(), gallery)
    seconds = time.perf_counter() - started
    means = {name: total / len(crops) for name, total in totals.items()}
    summary = {
        "gallery": client.gallery_name,
        "gallery_crops": enrolled,
        "whole_rankings": whole,
        **options,
        "scoring": ", ".join(scorings),
        "queries": len(crops),
        **figures,
        "ms_per_query": means.pop("asked"),
        "service_timing_ms": {name: round(mean, 3) for name, mean in means.items()},
        "in_flight": CONCURRENT_REQUESTS,
        "queries_per_second": len(crops) / max(seconds, 1e-9),
    }
    return Shown(summary, _view(summary))


def _view(summary: dict[str, Any]) -> Group:
    parts: list[Any] = [
        f"{summary['queries']:,} queries against {summary['gallery_crops']:,} crops of gallery "
        f"{escape(summary['gallery'])}, ranked by {summary['scoring']}"
    ]
    if summary["mAP"] is None:
        parts.append("Rank-k and mAP: no query has a true match under another camera there")
    else:
        figures = [f"{summary[name]:.2%}" for name in REPORTED]
        parts.append(plain_table(list(REPORTED.values()), [figures]))

        if not summary["whole_rankings"]:
            cut = f"rankings were cut at {summary['top_k']:,} results"
            parts.append(f"mAP is a lower bound: {cut}")
        if summary["with_a_true_match"] < summary["queries"]:
            parts.append(f"over the {summary['with_a_true_match']:,} that have a true match there")
    verdicts = ", ".join(f"{count:,} {name}" for name, count in summary["verdicts"].items())
    stages = ", ".join(f"{name} {mean:.1f}" for name, mean in summary["service_timing_ms"].items())
    return Group(
        *parts,
        f"verdicts: {verdicts}; of the matches {summary['matches_right']:,} are right",
        f"{summary['ms_per_query']:.1f} ms per query with {summary['in_flight']} in flight, "
        f"{summary['queries_per_second']:.1f} queries/s; in the service: {stages} ms",
    )
