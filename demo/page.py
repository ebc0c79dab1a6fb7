"""The demonstration as one self-contained HTML page, on the terminal, and as one picture."""

from __future__ import annotations

import base64
import io
from importlib.resources import files

from jinja2 import Environment
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from demo.findings import Finding, Findings, chosen, comparison, headlines, judging, setting
from gmn_client.models import RankedCrop
from service.commands.bulk import SourceCrop

TOP = 5
PICTURED_KNOWN, PICTURED_STRANGERS, PICTURED_RANKS = 3, 1, 6
CROP = (96, 192)
GAP, MARGIN, FRAME, CAPTION = 14, 28, 5, 30
LABEL = 150
PAPER, INK, SOFT = "#ffffff", "#14181f", "#5b6472"
TONES = {"good": "#15803d", "bad": "#dc2626", "unsure": "#b45309"}


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
        comparison=comparison(figures),
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
    console.print(f"\n{judging(findings)}\n{comparison(figures)}", soft_wrap=True)


def _row(row: RankedCrop, finding: Finding) -> str:
    right = row.identity == finding.query.identity
    colour, mark = ("green", "✓") if right else ("red", "✗")
    sure = "" if row.probability is None else f" {row.probability:.0%}"
    return f"[{colour}]{mark}{sure}[/]"


def draw_picture(findings: Findings) -> Image.Image:
    """Draws some queries, RGB, one a row, with their best results beside them.

    Frames are green where the result is the person asked for, else red.
    """
    shown = findings.sample(PICTURED_KNOWN, PICTURED_STRANGERS)
    row = CROP[1] + CAPTION + GAP
    width = 2 * MARGIN + LABEL + CROP[0] + 3 * GAP + PICTURED_RANKS * (CROP[0] + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + row * len(shown) - GAP), PAPER)
    for number, finding in enumerate(shown):
        _draw_row(sheet, MARGIN + number * row, finding)
    return sheet


def _draw_row(sheet: Image.Image, top: int, finding: Finding) -> None:
    draw = ImageDraw.Draw(sheet)
    small, large = ImageFont.load_default(15), ImageFont.load_default(22)
    draw.text((MARGIN, top + 58), finding.verdict, TONES[finding.tone], large)
    draw.text((MARGIN, top + 88), finding.outcome, SOFT, small)
    draw.text((MARGIN, top + 110), f"query: {finding.name}", SOFT, small)
    left, bottom = MARGIN + LABEL, top + CROP[1]
    _paste(sheet, left, top, finding.query)
    left += 2 * GAP
    for row, crop in finding.shown[:PICTURED_RANKS]:
        left += CROP[0] + GAP
        _paste(sheet, left, top, crop)
        colour = TONES["good" if row.identity == finding.query.identity else "bad"]
        corners = (left, top, left + CROP[0] - 1, bottom - 1)
        draw.rectangle(corners, outline=colour, width=FRAME)
        sure = "–" if row.probability is None else f"{row.probability:.1%}"
        draw.text((left, bottom + 5), f"{row.rank}.  {sure}", INK, small)


def _paste(sheet: Image.Image, left: int, top: int, crop: SourceCrop) -> None:
    with Image.open(io.BytesIO(crop.read())) as drawn:
        resized = drawn.convert("RGB").resize(CROP, Image.Resampling.LANCZOS)
    sheet.paste(resized, (left, top))
