"""The demonstration as one picture: queries on the left, their rankings beside them."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from demo.findings import Finding, RankedPicture
from demo.page import VERDICT_WORDS

CROP = (96, 192)
GAP, MARGIN, FRAME, CAPTION = 14, 28, 5, 30
LABEL = 150
PAPER, INK, SOFT = "#ffffff", "#14181f", "#5b6472"
GOOD, BAD, UNSURE = "#15803d", "#dc2626", "#b45309"


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
    tone = GOOD if finding.good else UNSURE if finding.verdict == "uncertain" else BAD
    who = finding.query.identity if finding.enrolled else "a stranger"
    draw.text((MARGIN, top + 58), VERDICT_WORDS[finding.verdict], tone, _font(22))
    draw.text((MARGIN, top + 88), finding.outcome, SOFT, _font(15))
    draw.text((MARGIN, top + 110), f"query: {who}", SOFT, _font(15))
    left = MARGIN + LABEL
    _paste(sheet, left, top, finding.query.png)
    left += CROP[0] + 3 * GAP
    for ranked in finding.ranking[:ranks]:
        _draw_result(sheet, left, top, ranked)
        left += CROP[0] + GAP


def _draw_result(sheet: Image.Image, left: int, top: int, ranked: RankedPicture) -> None:
    draw = ImageDraw.Draw(sheet)
    _paste(sheet, left, top, ranked.crop.png)
    corners = (left, top, left + CROP[0] - 1, top + CROP[1] - 1)
    draw.rectangle(corners, outline=GOOD if ranked.right else BAD, width=FRAME)
    sure = "–" if ranked.probability is None else f"{ranked.probability:.1%}"
    draw.text((left, top + CROP[1] + 5), f"{ranked.rank}.  {sure}", INK, _font(15))


def _paste(sheet: Image.Image, left: int, top: int, png: bytes) -> None:
    with Image.open(io.BytesIO(png)) as crop:
        resized = crop.convert("RGB").resize(CROP, Image.Resampling.LANCZOS)
    sheet.paste(resized, (left, top))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
