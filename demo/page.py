"""The demonstration as one self-contained HTML page, and its figures on the terminal."""

from __future__ import annotations

import base64
from importlib.resources import files

from jinja2 import Template
from rich.console import Console
from rich.text import Text

from demo.findings import Findings
from gmn_client.commands.bulk import SourceCrop


def render_page(findings: Findings) -> str:
    """Render a page that loads no other file, with some queries and the figures over all."""
    template = Template((files("demo") / "page.html").read_text("utf-8"), autoescape=True)
    page = template.render(findings=findings, figures=findings.figures, picture=_picture)
    return str(page)


def _picture(crop: SourceCrop) -> str:
    return f"data:image/png;base64,{base64.b64encode(crop.read()).decode()}"


def show_findings(console: Console, findings: Findings) -> None:
    figures = findings.figures
    console.print(findings.result, style="bold", soft_wrap=True)
    console.print()
    for value, meaning in findings.headlines:
        console.print(Text.assemble((f"{value:>10}", "bold"), f"  {meaning}"))
    console.print(f"\n{findings.description}", soft_wrap=True)
    console.print(f"\nArtefact {figures['artefact']}: {figures['terms']}", soft_wrap=True)
