"""The demonstration on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.findings import Finding, Findings, RankedPicture
from demo.page import VERDICT_WORDS, figures

TOP = 5


def show_findings(console: Console, findings: Findings, shown: Sequence[Finding]) -> None:
    """Prints some queries with their best rows, and the figures over all."""
    table = Table("query", *(f"{rank}." for rank in range(1, TOP + 1)), "answer", "judged")
    for finding in shown:
        colour = "green" if finding.good else "red"
        rows = [_row(row) for row in finding.ranking[:TOP]]
        table.add_row(
            finding.query.identity if finding.enrolled else "a stranger",
            *rows,
            *[""] * (TOP - len(rows)),
            VERDICT_WORDS[finding.verdict],
            f"[{colour}]{finding.outcome}[/]",
        )
    console.print(
        f"{findings.crops} crops of {findings.people} drawn people from {findings.cameras} cameras "
        f"enrolled; one more camera asks for {len(findings.known)} of them and for "
        f"{len(findings.strangers)} strangers"
    )
    console.print(table)
    console.print("✓ and ✗: whether a result shows who was asked for, and its probability\n")
    for value, name in figures(findings):
        console.print(f"[bold]{value:>10}[/]  {name}")


def _row(row: RankedPicture) -> str:
    colour, mark = ("green", "✓") if row.right else ("red", "✗")
    sure = "" if row.probability is None else f" {row.probability:.0%}"
    return f"[{colour}]{mark}{sure}[/]"


def figures_of(findings: Findings) -> dict[str, Any]:
    """The figures for a program: shares 0 to 1, counts, milliseconds and crops per second."""
    return {
        "crops": findings.crops,
        "people": findings.people,
        "cameras": findings.cameras,
        "queries": len(findings.findings),
        "rank_1_mnet": findings.rank_1,
        "rank_1_cosine": findings.rank_1_cosine,
        "known": len(findings.known),
        "found": findings.found,
        "strangers": len(findings.strangers),
        "false_alarms": findings.false_alarms,
        "ms_per_query": round(findings.milliseconds, 3),
        "crops_per_second": round(findings.crops_per_second, 1),
    }
