"""The charts of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from matplotlib.ticker import FuncFormatter, LogLocator

from training.evaluation.results import (
    DatasetResult,
    Projection,
    ScoreDistribution,
    ScoringResult,
)
from training.evaluation.svg import SERIES, SOFT, Chart, chart, colour_of, dash_of

PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.5g}%")
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""By name, where a line's points lie across and up."""


def curves(
    title: str,
    across: str,
    up: str,
    lines: Lines,
    alt: str,
    note: str = "",
    logarithmic: str = "",
    shares: str = "",
    points: Lines | None = None,
    marks: Iterable[float] = (),
) -> Chart:
    """Return a line for each name.

    Args:
        title: the caption.
        across, up: labels of the axes.
        lines: the points of each line, which are drawn as dots where there are one or two.
        alt: a description for readers who do not see the chart.
        note: a remark below the caption.
        logarithmic, shares: the axes, `x` and `y`, that are logarithmic or in per cent.
        points: dots in the colour of the line of their name.
        marks: places across of dotted lines.
    """
    with chart(title, across, up, alt, note) as drawn:
        axes = drawn.axes
        for place in marks:
            axes.axvline(place, color=SOFT, linewidth=0.8, linestyle=":")
        for number, (name, (x, y)) in enumerate(lines.items()):
            colour = colour_of(number)
            marker = "o" if len(y) < 3 else ""
            axes.plot(x, y, label=name, color=colour, linestyle=dash_of(number), marker=marker)
            axes.plot(*(points or {}).get(name, ((), ())), "o", color=colour)
        for name, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
            if name in logarithmic:
                axes.set(**{f"{name}scale": "log"})
                axis.set_minor_formatter("")
            if name in logarithmic or name in shares:
                axis.set_major_formatter(PERCENT if name in shares else PLAIN)
        if "y" in logarithmic:
            axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        if "y" in shares:
            axes.set_ylim(*_at_most_one(*axes.get_ylim()))
        axes.legend()
    return drawn


def cmc(result: DatasetResult) -> Chart:
    """Draw the share of queries whose first true match is at rank k or better."""
    shares = {name: scoring.cmc for name, scoring in result.scorings.items()}
    caption = ", ".join(f"{name} {100 * share[0]:.1f}%" for name, share in shares.items())
    return curves(
        "First true match at rank k or better",
        "rank k",
        "share of queries",
        {name: (range(1, len(share) + 1), share) for name, share in shares.items()},
        f"Cumulative matching curves; at rank 1: {caption}",
        logarithmic="x",
        shares="y",
    )


def detection(result: DatasetResult) -> Chart:
    """Return the DIR/FAR curve, with the operating points as they came out."""
    lines = {}
    dots = {}
    captions = []
    asked = set()
    for name, scoring in result.scorings.items():
        if not scoring.detection_curve:
            continue
        rates, detected = zip(*scoring.detection_curve, strict=True)
        lines[name] = (rates, detected)
        points = scoring.operating_points
        alarms = [max(point.false_alarm_rate.mean, rates[0]) for point in points]
        dots[name] = (alarms, [point.detection_rate.mean for point in points])
        asked |= {point.asked for point in points}
        captions += [
            f"{name} {point.name}: {100 * point.false_alarm_rate.mean:.2g}% false alarms, "
            f"{100 * point.detection_rate.mean:.1f}% found"
            for point in points
        ]
    return curves(
        "Open-set search",
        "false-alarm rate (person absent)",
        "detection rate (person present)",
        lines,
        f"Detection against false alarms. {'; '.join(captions)}",
        "Dots: the operating points, as they came out. Dotted: the rates they were set for.",
        logarithmic="x",
        shares="xy",
        points=dots,
        marks=sorted(asked),
    )


def distribution(name: str, scoring: ScoringResult, found: ScoreDistribution) -> Chart:
    """Draw histograms of one person's and of two people's pairs with the operating points."""
    points = scoring.operating_points
    caption = ", ".join(f"{point.name} at {point.threshold:.3g}" for point in points)
    with chart(
        f"Scores of pairs: {name}",
        f"{name} score",
        "density",
        f"Histograms of {name} scores of one person's and of two people's pairs; "
        f"operating points: {caption or 'none'}",
        "Lines: the operating points of a search in this gallery." if points else "",
    ) as drawn:
        axes = drawn.axes
        width = found.edges[1] - found.edges[0]
        for counts, label, colour in (
            (found.impostor, "two people", SERIES[1]),
            (found.genuine, "one person", SERIES[0]),
        ):
            density = [count / max(1, sum(counts)) / width for count in counts]
            axes.stairs(density, found.edges, fill=True, alpha=0.45, label=label, color=colour)
        top = axes.get_ylim()[1]
        for point in points:
            axes.axvline(point.threshold, color=SOFT, linewidth=1)
            axes.annotate(
                point.name,
                (point.threshold, top),
                (-2, 0),
                textcoords="offset points",
                rotation=90,
                va="top",
                ha="right",
                fontsize=8,
            )
        axes.legend()
    return drawn


def projection(found: Projection) -> Chart:
    """Return a space as t-SNE draws it, a colour for each domain (Figure 1 of GMN)."""
    with chart(
        f"{found.space.capitalize()} space, t-SNE",
        "",
        "",
        f"Points of {found.space} space, coloured by domain: {', '.join(found.domains)}",
        "Filled: one person's pairs; hollow: two people's."
        if found.genuine
        else "A point is a crop.",
        size=(4.6, 4.2),
    ) as drawn:
        for number, (domain, points) in enumerate(found.domains.items()):
            genuine = found.genuine or [True] * len(points)
            for filled in (True, False):
                own = [point for point, same in zip(points, genuine, strict=True) if same == filled]
                drawn.axes.scatter(
                    [x for x, _ in own],
                    [y for _, y in own],
                    s=11,
                    color=colour_of(number),
                    facecolors=colour_of(number) if filled else "none",
                    linewidths=0.8,
                    alpha=0.85,
                    label=domain if filled else None,
                )
        drawn.axes.set(xticks=[], yticks=[], aspect="equal")
        drawn.axes.grid(False)
        drawn.axes.spines[:].set_visible(False)
        drawn.figure.legend(loc="outside lower center", ncols=3)
    return drawn


def _at_most_one(low: float, high: float) -> tuple[float, float]:
    """Return the limits of an axis of shares, which must not promise more than all."""
    # A hair above, so that a dot at 1 is whole.
    return low, 1.0 + 0.03 * (1.0 - low) if high > 1.0 else high
