"""The charts of an evaluation, as SVG images."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from training.evaluation.compare import ComparedDataset, ComparedRanking
from training.evaluation.results import (
    DatasetResult,
    OperatingPointResult,
    Projection,
    ScoreDistribution,
    ScoringResult,
)

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
# Readers who cannot tell the colours apart see the dashes.
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.5g}%")
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    # Without a fixed salt the ids in the file would be random.
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
        title: the caption.
        alt: a description for readers who do not see the chart.
        note: a hint for readers, or empty.
        figure, axes: matplotlib's figure, and the axes to draw on.
        svg: the content of the file, set at the end of the block of `chart`.
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
    """Yield a chart in the report's style to draw on in the block; the size is in inches."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        drawn = Chart(title, alt, note, figure, figure.add_subplot())
        yield drawn
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
        drawn.svg = file.getvalue()


def cmc(curves: Mapping[str, Sequence[float]], data: str) -> Chart:
    """Draw cumulative matching curves by name: the shares of queries found at rank 1, 2, …"""
    title = f"{data}: first true match at rank k or better"
    with chart(title, "Cumulative matching curves") as drawn:
        for name, shares in curves.items():
            drawn.axes.plot(range(1, len(shares) + 1), shares, label=name)
        _label(drawn.axes, "rank k", "share of queries")
        drawn.axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return drawn


def detection(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    data: str,
    points: Mapping[str, Sequence[OperatingPointResult]] | None = None,
) -> Chart:
    """Draw DIR/FAR curves by name, with the obtained rates of operating points, if any."""
    with chart(
        f"{data}: people found against false alarms",
        "Detection rate against false-alarm rate",
        "Dots: the rates obtained at the operating points. Dotted lines: the rates asked for."
        if points
        else "",
    ) as drawn:
        for name, curve in curves.items():
            rates, detected = zip(*curve, strict=True)
            (line,) = drawn.axes.plot(rates, detected, label=name)
            for point in (points or {}).get(name, ()):
                alarms = point.false_alarm_rate.mean
                detection_rate = point.detection_rate.mean
                drawn.axes.plot(max(alarms, rates[0]), detection_rate, "o", color=line.get_color())
                drawn.axes.axvline(point.asked, color=SOFT, linewidth=0.8, linestyle=":")
        _label(drawn.axes, "false-alarm rate (person absent)", "detection rate (person present)")
        drawn.axes.xaxis.set_major_formatter(PERCENT)
    return drawn


def first_look(result: DatasetResult) -> list[Chart]:
    """Draw the curves of all rankings of one data set: CMC, and DIR/FAR where there are scores."""
    points = {name: scoring.operating_points for name, scoring in result.scorings.items()}
    return _both(result.name, result.scorings, points if any(points.values()) else None)


def compared(dataset: ComparedDataset, rankings: Sequence[ComparedRanking]) -> list[Chart]:
    """Draw both curves of several models' rankings of one data set."""
    trained = f"{dataset.trained_on} → " if dataset.trained_on else ""
    named = {f"{ranking.group}, {ranking.ranking}": ranking for ranking in rankings}
    return _both(f"{trained}{dataset.name}", named)


def _both(
    data: str,
    rankings: Mapping[str, ScoringResult | ComparedRanking],
    points: Mapping[str, Sequence[OperatingPointResult]] | None = None,
) -> list[Chart]:
    drawn = [cmc({name: ranking.cmc for name, ranking in rankings.items()}, data)]
    curves = {name: ranking.detection_curve for name, ranking in rankings.items()}
    curves = {name: curve for name, curve in curves.items() if curve}
    return [*drawn, detection(curves, data, points)] if curves else drawn


def histogram(
    name: str,
    scoring: ScoringResult,
    distribution: ScoreDistribution,
) -> Chart:
    """Draw histograms of the scores of genuine and impostor pairs, with the operating points."""
    with chart(
        f"Scores of pairs: {name}",
        f"Histograms of {name} scores of pairs of one person and of two people",
        "Lines: the operating points of a search in this gallery.",
    ) as drawn:
        axes = drawn.axes
        edges = distribution.edges
        width = edges[1] - edges[0]
        for counts, label, colour in (
            (distribution.impostor, "two people", "C1"),
            (distribution.genuine, "one person", "C0"),
        ):
            density = [count / max(1, sum(counts)) / width for count in counts]
            axes.stairs(density, edges, fill=True, alpha=0.45, label=label, color=colour)
        top = axes.get_ylim()[1]
        for point in scoring.operating_points:
            axes.axvline(point.threshold, color=SOFT, linewidth=1)
            axes.text(point.threshold, top, point.name, rotation=90, va="top", ha="right")
        axes.set(xlabel=f"{name} score", ylabel="density")
        axes.legend()
    return drawn


def scatter(projection: Projection) -> Chart:
    """Draw the t-SNE of a space, with a colour for each domain (Figure 1 of GMN)."""
    domains = projection.domains
    with chart(
        f"{projection.space.capitalize()} space, t-SNE",
        f"Points of {projection.space} space, coloured by domain: {', '.join(domains)}",
        "Filled: pairs of one person; hollow: pairs of two people."
        if projection.genuine
        else "A point is a crop.",
        size=(4.6, 4.2),
    ) as drawn:
        for number, (domain, points) in enumerate(domains.items()):
            colour = f"C{number}"
            is_filled = projection.genuine or [True] * len(points)
            filled = [colour if genuine else "none" for genuine in is_filled]
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
    """Label the axes of curves in percent over a logarithmic axis."""
    axes.set(xlabel=across, ylabel=up, xscale="log")
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(PERCENT)
    low, high = axes.get_ylim()
    # The axis ends slightly above 1, so that a dot at 1 is not cut.
    axes.set_ylim(low, min(high, 1.0 + 0.03 * (1.0 - low)))
    axes.legend()
