"""The frame of every chart: SVG text, with no display and no lasting state of matplotlib's.

Colours are the page's CSS variables, so that a chart turns light or dark with its page; text is
text, in the page's font.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1b2430"
SOFT = "#5a6675"
LINE = "#dde3ea"
SERIES = (
    "#1f5fa8",
    "#c2541b",
    "#2b8a4b",
    "#7a4fa3",
    "#8a6d00",
    "#b03a6a",
    "#0e7c86",
    "#4f6272",
)
VARIABLES = {INK: "ink", SOFT: "soft", LINE: "line"} | {
    colour: f"series-{number}" for number, colour in enumerate(SERIES, 1)
}
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
WIDTH = 4.8
HEIGHT = 3.1
POINTS_PER_INCH = 72

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass
class Chart:
    """One chart.

    Attributes:
        title: its caption.
        note: what else a reader must know, or nothing.
        figure, axes: to draw on.
        svg: the element, as text, once its block has ended.
    """

    title: str
    note: str
    figure: Figure
    axes: Axes
    svg: str = ""


@contextmanager
def chart(
    title: str,
    across: str,
    up: str,
    alt: str,
    note: str = "",
    size: tuple[float, float] = (WIDTH, HEIGHT),
) -> Iterator[Chart]:
    """Draw a chart in the report's style, on `axes` inside the block.

    Args:
        title: its caption.
        across, up: labels of the axes.
        alt: a description for readers who do not see the chart.
        note: a remark below the caption.
        size: width and height, inches.
    """
    # The salt keeps the ids of clips and markers apart from those of a page's other charts.
    with mpl.rc_context(STYLE | {"svg.hashsalt": f"{title}: {alt}"}):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlabel=across, ylabel=up)
        axes.set_axisbelow(True)
        drawn = Chart(title, note, figure, axes)
        yield drawn
        drawn.svg = _svg(figure, alt)


def colour_of(number: int) -> str:
    """Return a series' colour; they repeat after eight."""
    return SERIES[number % len(SERIES)]


def dash_of(number: int) -> str | tuple[int, Sequence[float]]:
    """Return a series' line style: neighbours differ in more than colour."""
    return DASHES[number % len(DASHES)]


def _svg(figure: Figure, alt: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    # Only the element itself goes into the page, without the XML prologue and its outside DTD.
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    # The element's own style sheet would hold for the whole page.
    svg = re.sub(r"<(metadata|style).*?</\1>|<!--.*?-->", "", svg, flags=re.DOTALL)
    for colour, name in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    # The page's font instead of the one that the layout was computed with.
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", re.sub(r"\s+", " ", svg))
    width, height = (POINTS_PER_INCH * side for side in figure.get_size_inches())
    head = f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(alt)}">'
    svg = re.sub(r"<svg.*?>", lambda _: head, svg, count=1, flags=re.DOTALL)
    # Groups of every chart have the same ids, which nothing refers to; SVG inside HTML needs no
    # namespace for its references.
    return re.sub(r' id="[\w.]+_\d+"', "", svg).replace("xlink:href", "href")
