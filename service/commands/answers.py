"""Rankings and their summary as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmn_client.answers import QueryAnswer
from gmn_client.models import CalibrationState

VERDICT_STYLES = {
    "match": "bold green",
    "uncertain": "yellow",
    "no_match": "red",
    "nothing_searched": "yellow",
}
NOTHING_SEARCHED = "the gallery is empty, or none of its crops passes the filters"
STALE = "stale: the service's record does not answer; this is what was known last"
METRIC_TITLES = {"rank_1": "Rank-1", "rank_5": "Rank-5", "rank_10": "Rank-10", "mAP": "mAP"}


def show_rankings(console: Console, rankings: Mapping[str, QueryAnswer]) -> None:
    """Prints one ranked table per query.

    Args:
        console: where to.
        rankings: by the query's title.
    """
    for title, ranking in rankings.items():
        style = VERDICT_STYLES[ranking.verdict]
        console.print(f"{escape(title)}: [{style}]{ranking.verdict}[/]")
        if ranking.verdict == "nothing_searched":
            console.print(f"[yellow]{NOTHING_SEARCHED}[/]")
        for warning in ranking.warnings:
            console.print(f"[yellow]warning:[/] {escape(warning)}")
        if ranking.stale:
            console.print(f"[yellow]{STALE}[/]")
        console.print(_table(ranking))
        total = ranking.timing_ms.total
        console.print(f"{ranking.candidates_scored:,} candidates scored, {total:.1f} ms")
        console.print(f"thresholds: {_thresholds(ranking.calibration)}\n")


def _thresholds(calibration: CalibrationState) -> str:
    why = f" ({calibration.reason})" if calibration.reason else ""
    fitted = f", {calibration.searches:,} searches" if calibration.searches else ""
    return f"{calibration.state}{why}{fitted}"


def _table(ranking: QueryAnswer) -> Table:
    table = Table("rank", "crop", "identity", "camera", "cosine", "logit", "probability", "verdict")
    with_ids = any(row.external_id is not None for row in ranking.results)
    if with_ids:
        table.add_column("external id")
    for column in ("rank", "cosine", "logit", "probability"):
        next(one for one in table.columns if one.header == column).justify = "right"
    for row in ranking.results:
        style = VERDICT_STYLES.get(row.verdict or "", "")
        table.add_row(
            str(row.rank),
            escape(row.crop_id),
            escape(row.identity or "–"),
            escape(row.camera or "–"),
            f"{row.cosine:.3f}",
            "–" if row.pair_logit is None else f"{row.pair_logit:.2f}",
            "–" if row.probability is None else f"{row.probability:.1%}",
            f"[{style}]{row.verdict}[/]" if style else "–",
            *([escape(row.external_id or "–")] if with_ids else []),
        )
    return table


def show_summary(console: Console, summary: dict[str, Any]) -> None:
    """Prints what a data set's queries amount to."""
    console.print(
        f"{summary['queries']:,} queries against {summary['gallery_crops']:,} crops of gallery "
        f"{escape(summary['gallery'])}, ranked by {summary['scoring']}"
    )
    if summary["mAP"] is None:
        console.print("Rank-k and mAP: no query has a true match under another camera there")
    else:
        table = Table(*METRIC_TITLES.values())
        table.add_row(*(f"{summary[name]:.2%}" for name in METRIC_TITLES))
        console.print(table)
        if not summary["whole_rankings"]:
            console.print(
                f"mAP is a lower bound: rankings were cut at {summary['top_k']:,} results"
            )
        if summary["with_a_true_match"] < summary["queries"]:
            console.print(f"over the {summary['with_a_true_match']:,} that have a true match there")
    verdicts = ", ".join(f"{count:,} {name}" for name, count in summary["verdicts"].items())
    console.print(f"verdicts: {verdicts}; of the matches {summary['matches_right']:,} are right")
    stages = ", ".join(f"{name} {mean:.1f}" for name, mean in summary["service_timing_ms"].items())
    console.print(
        f"{summary['ms_per_query']:.1f} ms per query with {summary['in_flight']} in flight, "
        f"{summary['queries_per_second']:.1f} queries/s; in the service: {stages} ms"
    )
