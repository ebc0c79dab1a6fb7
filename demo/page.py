"""The demonstration as one self-contained HTML page, and its figures on the terminal."""

from __future__ import annotations

import base64
from importlib.resources import files

from jinja2 import Environment
from rich.console import Console

from demo.findings import Findings, headlines, judging, setting


def render_page(findings: Findings) -> str:
    """Render a page that loads no other file, with some queries and the figures over all."""
    environment = Environment(autoescape=True)
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode("ascii")
    template = environment.from_string((files("demo") / "page.html").read_text(encoding="utf-8"))
    figures = findings.figures()
    return template.render(
        findings=findings,
        figures=figures,
        headlines=headlines(figures),
        lead=f"{setting(figures)} {judging(findings)}",
        shown=findings.sample(),
    )


def show_findings(console: Console, findings: Findings) -> None:
    figures = findings.figures()
    console.print(f"Artefact {figures['artefact']}: {figures['terms']}", soft_wrap=True)
    console.print(setting(figures), soft_wrap=True)
    for value, name in headlines(figures):
        console.print(f"[bold]{value:>10}[/]  {name}")
    console.print(f"\n{judging(findings)}", soft_wrap=True)
