"""The demonstration as one self-contained HTML page, and on the terminal."""

from __future__ import annotations

import base64
from importlib.resources import files

from jinja2 import Environment
from rich.console import Console
from rich.table import Table

from demo.findings import Finding, Findings, chosen, headlines, judging, setting
from gmn_client.models import RankedCrop

TOP = 5


def render_page(findings: Findings) -> str:
    """Renders the page, which loads nothing from anywhere: some queries, the figures over all."""
    environment = Environment(autoescape=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    template = environment.from_string((files("demo") / "page.html").read_text(encoding="utf-8"))
    figures = findings.figures()
    return template.render(
        findings=findings,
        figures=figures,
        headlines=headlines(figures),
        lead=f"{setting(figures)} {judging(findings)}",
        chosen=chosen(figures),
        shown=findings.sample(),
    )


def show_findings(console: Console, findings: Findings) -> None:
    """Prints some queries with their best rows, and the figures over all."""
    figures = findings.figures()
    console.print(f"Artefact {figures['artefact']}: {figures['terms']}", soft_wrap=True)
    console.print(setting(figures), soft_wrap=True)
    table = Table("query", *(f"{rank}." for rank in range(1, TOP + 1)), "answer", "judged")
    for finding in findings.sample():
        colour = "green" if finding.tone == "good" else "red"
        rows = [_row(row, finding) for row in finding.answer.results[:TOP]]
        rows += [""] * (TOP - len(rows))
        judged = f"[{colour}]{finding.outcome}[/]"
        table.add_row(finding.name, *rows, finding.verdict, judged)
    console.print(table)
    console.print(chosen(figures))
    console.print("✓ and ✗: whether a result shows who was asked for, and its probability\n")
    for value, name in headlines(figures):
        console.print(f"[bold]{value:>10}[/]  {name}")
    console.print(f"\n{judging(findings)}", soft_wrap=True)


def _row(row: RankedCrop, finding: Finding) -> str:
    right = row.identity == finding.query.identity
    colour, mark = ("green", "✓") if right else ("red", "✗")
    sure = "" if row.probability is None else f" {row.probability:.0%}"
    return f"[{colour}]{mark}{sure}[/]"
