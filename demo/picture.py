"""The demonstration as one picture: queries on the left, their rankings beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from demo.findings import Finding
from service.commands.sources import SourceCrop

CROP = (96, 192)
GAP, MARGIN, FRAME, CAPTION = 14, 28, 5, 30
LABEL = 150
PAPER, INK, SOFT = "#ffffff", "#14181f", "#5b6472"
TONES = {"good": "#15803d", "bad": "#dc2626", "unsure": "#b45309"}


def draw_picture(findings: Sequence[Finding], ranks: int = 6) -> Image.Image:
    """Draws one row per query.

    Args:
        findings: the queries to draw, top to bottom.
        ranks: how many results beside each.

    Returns:
        RGB; frames are green where the result is the person asked for, else red.
    """
    row = CROP[1] + CAPTION + GAP
    width = 2 * MARGIN + LABEL + CROP[0] + 3 * GAP + ranks * (CROP[0] + GAP) - GAP
    sheet = Image.new("RGB", (width, 2 * MARGIN + row * len(findings) - GAP), PAPER)
    for number, finding in enumerate(findings):
        _draw_row(sheet, MARGIN + number * row, finding, ranks)
    return sheet


def _draw_row(sheet: Image.Image, top: int, finding: Finding, ranks: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, top + 58), finding.verdict, TONES[finding.tone], _font(22))
    draw.text((MARGIN, top + 88), finding.outcome, SOFT, _font(15))
    draw.text((MARGIN, top + 110), f"query: {finding.name}", SOFT, _font(15))
    left, bottom = MARGIN + LABEL, top + CROP[1]
    _paste(sheet, left, top, finding.query)
    left += 2 * GAP
    for row, crop in finding.shown[:ranks]:
        left += CROP[0] + GAP
        _paste(sheet, left, top, crop)
        colour = TONES["good" if row.identity == finding.query.identity else "bad"]
        corners = (left, top, left + CROP[0] - 1, bottom - 1)
        draw.rectangle(corners, outline=colour, width=FRAME)
        sure = "–" if row.probability is None else f"{row.probability:.1%}"
        draw.text((left, bottom + 5), f"{row.rank}.  {sure}", INK, _font(15))


def _paste(sheet: Image.Image, left: int, top: int, crop: SourceCrop) -> None:
    with Image.open(io.BytesIO(crop.read())) as drawn:
        resized = drawn.convert("RGB").resize(CROP, Image.Resampling.LANCZOS)
    sheet.paste(resized, (left, top))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
