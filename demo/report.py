"""The demonstration on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from demo.findings import Findings, RankedPicture
from demo.page import VERDICT_WORDS, chosen, comparison, figures, judging, served, setting

TOP = 5


def show_findings(console: Console, findings: Findings, known: int, strangers: int) -> None:
    """Prints some queries with their best rows, and the figures over all.

    Args:
        console: where to.
        findings: of all queries.
        known, strangers: how many queries of each to show.
    """
    table = Table("query", *(f"{rank}." for rank in range(1, TOP + 1)), "answer", "judged")
    for finding in findings.shown(known, strangers):
        colour = "green" if finding.good else "red"
        rows = [_row(row) for row in finding.ranking[:TOP]]
        table.add_row(
            finding.query.identity if finding.enrolled else "a stranger",
            *rows,
            *[""] * (TOP - len(rows)),
            VERDICT_WORDS[finding.verdict],
            f"[{colour}]{finding.outcome}[/]",
        )
    console.print(f"{served(findings)}\n{setting(findings)}", soft_wrap=True)
    console.print(table)
    console.print(chosen(findings, known, strangers))
    console.print("✓ and ✗: whether a result shows who was asked for, and its probability\n")
    for value, name in figures(findings):
        console.print(f"[bold]{value:>10}[/]  {name}")
    console.print(f"\n{judging(findings)}\n{comparison(findings)}", soft_wrap=True)


def _row(row: RankedPicture) -> str:
    colour, mark = ("green", "✓") if row.right else ("red", "✗")
    sure = "" if row.probability is None else f" {row.probability:.0%}"
    return f"[{colour}]{mark}{sure}[/]"


def figures_of(findings: Findings) -> dict[str, Any]:
    """The figures for a program: shares 0 to 1, counts, milliseconds and crops per second."""
    return {
        "artefact": findings.artefact,
        "terms": findings.terms,
        "scoring": findings.scoring,
        "seed": findings.seed,
        "crops": findings.crops,
        "people": findings.people,
        "cameras": findings.cameras,
        "queries": len(findings.findings),
        **{
            f"{title}_{by}": findings.metric(name, by)
            for name, title in (("rank_1", "rank_1"), ("mAP", "map"))
            for by in findings.scorings
        },
        "known": len(findings.known),
        "known_not_matched": findings.unmatched,
        "known_uncertain": findings.unsure,
        "known_matched_as_another": findings.wrong_person,
        "strangers": len(findings.strangers),
        "false_alarms": findings.false_alarms,
        "by_calibration": {
            state: {
                "known": len(known),
                "known_matched": sum(one.verdict == "match" for one in known),
                "strangers": len(strangers),
                "strangers_matched": sum(one.verdict == "match" for one in strangers),
            }
            for state, known, strangers in findings.by_calibration()
        },
        "operating_point": findings.calibration.operating_point,
        "threshold_versions": findings.thresholds,
        "calibration_state": findings.calibration.state,
        "calibration_searches": findings.calibration.searches,
        "ms_per_query": round(findings.milliseconds, 3),
        "crops_per_second": round(findings.crops_per_second, 1),
    }
