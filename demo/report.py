"""The demonstration on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from demo.findings import Finding, Findings, matched
from demo.page import VERDICT_WORDS, chosen, comparison, figures, judging, served, setting
from demo.story import OPERATING_POINT
from gmn_client.models import RankedCrop

TOP = 5


def show_findings(console: Console, findings: Findings, known: int, strangers: int) -> None:
    """Prints some queries with their best rows, and the figures over all.

    Args:
        console: where to.
        findings: of all queries.
        known, strangers: how many queries of each to show.
    """
    table = Table("query", *(f"{rank}." for rank in range(1, TOP + 1)), "answer", "judged")
    for finding in findings.sample(known, strangers):
        colour = "green" if finding.good else "red"
        rows = [_row(row, finding) for row in finding.answer.results[:TOP]]
        table.add_row(
            finding.name,
            *rows,
            *[""] * (TOP - len(rows)),
            VERDICT_WORDS[finding.answer.verdict],
            f"[{colour}]{finding.outcome}[/]",
        )
    console.print(f"{served(findings)}\n{setting(findings)}", soft_wrap=True)
    console.print(table)
    console.print(chosen(findings, known, strangers))
    console.print("✓ and ✗: whether a result shows who was asked for, and its probability\n")
    for value, name in figures(findings):
        console.print(f"[bold]{value:>10}[/]  {name}")
    console.print(f"\n{judging(findings)}\n{comparison(findings)}", soft_wrap=True)


def _row(row: RankedCrop, finding: Finding) -> str:
    right = row.identity == finding.query.identity
    colour, mark = ("green", "✓") if right else ("red", "✗")
    sure = "" if row.probability is None else f" {row.probability:.0%}"
    return f"[{colour}]{mark}{sure}[/]"


def figures_of(findings: Findings) -> dict[str, Any]:
    """The figures for a program: shares 0 to 1, counts, milliseconds and crops per second."""
    known, strangers, model = findings.known, findings.strangers, findings.model
    return {
        "artefact": model.artefact,
        "terms": str(model.provenance.get("terms", "unknown")),
        "scoring": model.default_scoring,
        "seed": findings.seed,
        "crops": len(findings.gallery),
        "people": findings.people,
        "cameras": findings.cameras,
        "queries": len(findings.findings),
        **{
            f"{name.lower()}_{by}": findings.metric(name, by)
            for name in ("rank_1", "mAP")
            for by in findings.scorings
        },
        "known": len(known),
        "known_not_matched": len(known) - matched(known),
        "known_uncertain": findings.unsure,
        "known_matched_as_another": findings.count("wrong person"),
        "strangers": len(strangers),
        "false_alarms": matched(strangers),
        "by_calibration": {
            state: {
                "known": len(some),
                "known_matched": matched(some),
                "strangers": len(others),
                "strangers_matched": matched(others),
            }
            for state, (some, others) in findings.by_calibration().items()
        },
        "operating_point": OPERATING_POINT,
        "threshold_versions": len({one.answer.calibration_version for one in findings.findings}),
        "calibration_state": findings.calibration.state,
        "calibration_searches": findings.calibration.searches,
        "ms_per_query": round(findings.milliseconds, 3),
        "crops_per_second": round(findings.crops_per_second, 1),
    }
