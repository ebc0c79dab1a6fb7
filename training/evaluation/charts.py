"""The charts of an evaluation: SVG images, drawn with no display and no lasting state."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from training.evaluation.results import DatasetResult, Projection, ScoreDistribution, ScoringResult

SOFT = "#5a6675"
COLOURS = (
    "#1f5fa8",
    "#c2541b",
    "#2b8a4b",
    "#7a4fa3",
    "#8a6d00",
    "#b03a6a",
    "#0e7c86",
    "#4f6272",
)
# Neighbours differ in more than colour.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.5g}%")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # The same figures give the same file.
    "svg.hashsalt": "charts",
    "font.size": 9.5,
    "axes.prop_cycle": cycler(color=COLOURS, linestyle=DASHES * 2),
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dde3ea",
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}


@dataclass
class Chart:
    """One chart.

    Attributes:
        title: its caption.
        alt: a description for readers who do not see the chart.
        note: what else a reader must know, or nothing.
        figure, axes: to draw on.
        svg: the file's content, once its block has ended.
    """

    title: str
    alt: str
    note: str
    figure: Figure
    axes: Axes
    svg: str = ""


@contextmanager
def chart(
    title: str,
    alt: str,
    note: str = "",
    size: tuple[float, float] = (4.8, 3.1),
) -> Iterator[Chart]:
    """Draw a chart in the report's style, on `axes` inside the block; the size is in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        drawn = Chart(title, alt, note, figure, figure.add_subplot())
        yield drawn
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        drawn.svg = file.getvalue()


def cmc(result: DatasetResult) -> Chart:
    """Draw the share of queries whose first true match is at rank k or better."""
    with chart("First true match at rank k or better", "Cumulative matching curves") as drawn:
        for name, scoring in result.scorings.items():
            drawn.axes.plot(range(1, len(scoring.cmc) + 1), scoring.cmc, label=name)
        _label(drawn.axes, "rank k", "share of queries")
        drawn.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return drawn


def detection(result: DatasetResult) -> Chart:
    """Draw the DIR/FAR curve, with the operating points as they came out."""
    with chart(
        "Open-set search",
        "Detection rate against false-alarm rate",
        "Dots: the operating points, as they came out. Dotted: the rates they were set for.",
    ) as drawn:
        for name, scoring in result.scorings.items():
            if not scoring.detection_curve:
                continue
            rates, detected = zip(*scoring.detection_curve, strict=True)
            (line,) = drawn.axes.plot(rates, detected, label=name)
            for point in scoring.operating_points:
                alarms = point.false_alarm_rate.mean
                found = point.detection_rate.mean
                drawn.axes.plot(max(alarms, rates[0]), found, "o", color=line.get_color())
                drawn.axes.axvline(point.asked, color=SOFT, linewidth=0.8, linestyle=":")
        _label(drawn.axes, "false-alarm rate (person absent)", "detection rate (person present)")
        drawn.axes.xaxis.set_major_formatter(PERCENT)
    return drawn


def distribution(
    name: str,
    scoring: ScoringResult,
    found: ScoreDistribution,
) -> Chart:
    """Draw histograms of one person's and of two people's pairs with the operating points."""
    with chart(
        f"Scores of pairs: {name}",
        f"Histograms of {name} scores of one person's and of two people's pairs",
        "Lines: the operating points of a search in this gallery.",
    ) as drawn:
        axes = drawn.axes
        width = found.edges[1] - found.edges[0]
        for counts, label, colour in (
            (found.impostor, "two people", "C1"),
            (found.genuine, "one person", "C0"),
        ):
            density = [count / max(1, sum(counts)) / width for count in counts]
            axes.stairs(density, found.edges, fill=True, alpha=0.45, label=label, color=colour)
        top = axes.get_ylim()[1]
        for point in scoring.operating_points:
            axes.axvline(point.threshold, color=SOFT, linewidth=1)
            axes.text(point.threshold, top, point.name, rotation=90, va="top", ha="right")
        axes.set(xlabel=f"{name} score", ylabel="density")
        axes.legend()
    return drawn


def projection(found: Projection) -> Chart:
    """Draw a space by t-SNE, a colour for each domain (Figure 1 of GMN)."""
    with chart(
        f"{found.space.capitalize()} space, t-SNE",
        f"Points of {found.space} space, coloured by domain: {', '.join(found.domains)}",
        "Filled: one person's pairs; hollow: two people's."
        if found.genuine
        else "A point is a crop.",
        size=(4.6, 4.2),
    ) as drawn:
        for number, (domain, points) in enumerate(found.domains.items()):
            colour = f"C{number}"
            filled = [
                colour if genuine else "none" for genuine in found.genuine or [True] * len(points)
            ]
            across, up = zip(*points, strict=True)
            drawn.axes.scatter(
                across,
                up,
                s=11,
                facecolors=filled,
                edgecolors=colour,
                linewidths=0.8,
            )
            drawn.axes.scatter([], [], s=11, color=colour, label=domain)
        drawn.axes.set(xticks=[], yticks=[], aspect="equal")
        drawn.axes.grid(False)
        drawn.axes.spines[:].set_visible(False)
        drawn.figure.legend(loc="outside lower center", ncols=3)
    return drawn


def _label(
    axes: Axes,
    across: str,
    up: str,
) -> None:
    """Name the axes of curves of shares over a logarithmic range."""
    axes.set(xlabel=across, ylabel=up, xscale="log")
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(PERCENT)
    low, high = axes.get_ylim()
    # A hair above 1, so that a dot at 1 is whole, and no more than all is promised.
    axes.set_ylim(low, min(high, 1.0 + 0.03 * (1.0 - low)))
    axes.legend()
