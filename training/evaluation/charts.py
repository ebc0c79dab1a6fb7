"""The charts of an evaluation, of a training and of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator

from training.evaluation.intervals import Estimate
from training.evaluation.results import (
    DatasetResult,
    Projection,
    ScoreDistribution,
    ScoringResult,
)
from training.evaluation.svg import INK, SERIES, SOFT, WIDTH, Chart, chart, colour_of, dash_of

PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.5g}%")
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")

Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""By name, where a line's points lie across and up."""


def cmc(result: DatasetResult) -> Chart:
    """Share of queries whose first true match is at rank k or better."""
    rankings = result.scorings | result.peers
    caption = ", ".join(f"{name} {100 * scoring.cmc[0]:.1f}%" for name, scoring in rankings.items())
    with chart(
        "First true match at rank k or better",
        "rank k",
        "share of queries",
        f"Cumulative matching curves; at rank 1: {caption}",
    ) as drawn:
        curves = {name: scoring.cmc for name, scoring in rankings.items()}
        _plot(drawn.axes, {name: (range(1, len(own) + 1), own) for name, own in curves.items()})
        _logarithmic_ranks(drawn.axes)
    return drawn


def detection(result: DatasetResult) -> Chart:
    """The DIR/FAR curve, with the operating points as they came out."""
    scorings = result.scorings
    caption = "; ".join(
        f"{name} {point.name}: {100 * point.false_alarm_rate.mean:.2g}% false alarms, "
        f"{100 * point.detection_rate.mean:.1f}% found"
        for name, scoring in scorings.items()
        for point in scoring.operating_points
    )
    with chart(
        "Open-set search",
        "false-alarm rate (person absent)",
        "detection rate (person present)",
        f"Detection against false alarms. {caption}",
        "Dots: the operating points, as they came out. Dotted: the rates they were set for.",
    ) as drawn:
        asked = {point.asked for own in scorings.values() for point in own.operating_points}
        for rate in sorted(asked):
            drawn.axes.axvline(rate, color=SOFT, linewidth=0.8, linestyle=":")
        curves = {
            name: ([rate for rate, _ in own.detection_curve], [up for _, up in own.detection_curve])
            for name, own in scorings.items()
            if own.detection_curve
        }
        _plot(drawn.axes, curves)
        for number, (name, (rates, _)) in enumerate(curves.items()):
            points = scorings[name].operating_points
            drawn.axes.plot(
                [max(point.false_alarm_rate.mean, rates[0]) for point in points],
                [point.detection_rate.mean for point in points],
                "o",
                color=colour_of(number),
            )
        drawn.axes.set_xscale("log")
        drawn.axes.xaxis.set_major_formatter(PERCENT)
        drawn.axes.yaxis.set_major_formatter(PERCENT)
        drawn.axes.legend()
    return drawn


def depths(result: DatasetResult) -> Chart:
    """mAP against the number of candidates that M-Net re-ranks."""
    known = result.rerank_depths
    caption = ", ".join(f"{own.depth}: {100 * own.mAP:.1f}%" for own in known)
    with chart(
        "M-Net over the nearest k by cosine",
        "re-rank depth k",
        "mAP",
        f"mAP by re-rank depth. {caption}",
    ) as drawn:
        axes = drawn.axes
        across, up = [own.depth for own in known], [own.mAP for own in known]
        axes.plot(across, up, "o-", color=SERIES[1], label="re-ranked by M-Net")
        if "cosine" in result.scorings:
            alone = result.scorings["cosine"].metrics["mAP"].mean
            axes.axhline(alone, color=SERIES[0], linestyle=dash_of(1), label="cosine alone")
        axes.margins(y=0.15)
        _logarithmic_ranks(axes)
    return drawn


def distribution(name: str, scoring: ScoringResult, found: ScoreDistribution) -> Chart:
    """Scores of one person's and of two people's pairs, and where the operating points lie."""
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
        axes, width = drawn.axes, found.edges[1] - found.edges[0]
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
    """A space as t-SNE draws it, a colour for each domain (Figure 1 of GMN)."""
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


def training_curves(title: str, up: str, lines: Lines, alt: str) -> Chart:
    """Losses or norms over epochs, on a logarithmic axis.

    Args:
        title: the caption.
        up: what the values are.
        lines: epochs and values.
        alt: for those who do not see it.
    """
    with chart(title, "epoch", up, alt) as drawn:
        _plot(drawn.axes, lines, linewidth=1.4)
        drawn.axes.set_yscale("log")
        drawn.axes.yaxis.set_major_formatter(PLAIN)
        drawn.axes.yaxis.set_minor_formatter("")
        drawn.axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        drawn.axes.legend()
    return drawn


def validation(name: str, lines: Lines) -> Chart:
    """mAP or Rank-1 on held-out people over the epochs, by data set and scoring."""
    last = ", ".join(f"{one} {100 * values[-1]:.1f}%" for one, (_, values) in lines.items())
    alt = f"{name} while training; at the end: {last}"
    with chart(f"{name} on held-out people", "epoch", name, alt) as drawn:
        _plot(drawn.axes, lines)
        drawn.axes.yaxis.set_major_formatter(PERCENT)
        drawn.axes.legend()
    return drawn


def intervals(title: str, rows: Sequence[tuple[str, str, Estimate, Sequence[float]]]) -> Chart:
    """Estimates with their intervals, a line each, seeds as small dots.

    Args:
        title: the caption.
        rows: group, ranking, the estimate, and each seed's own value where there are several.
    """
    groups = list(dict.fromkeys(group for group, *_ in rows))
    rankings = list(dict.fromkeys(ranking for _, ranking, *_ in rows))
    caption = ", ".join(
        f"{group} {ranking} {100 * own.mean:.1f}%" for group, ranking, own, _ in rows
    )
    height = 0.75 + 0.2 * len(rows) + 0.12 * len(groups)
    with chart(title, "", "", caption, size=(WIDTH, height)) as drawn:
        axes, place = drawn.axes, 0.0
        places: dict[str, list[float]] = {group: [] for group in groups}
        for group, ranking, own, seeds in sorted(rows, key=lambda row: groups.index(row[0])):
            if places[group] == [] and place:
                place += 0.6
            colour = colour_of(rankings.index(ranking))
            first = ranking not in axes.get_legend_handles_labels()[1]
            axes.plot([own.low, own.high], [place, place], color=colour, lw=1.6)
            axes.plot(own.mean, place, "o", color=colour, label=ranking if first else None)
            axes.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=8)
            places[group].append(place)
            place += 1.0
        axes.set_yticks([sum(own) / len(own) for own in places.values()], groups)
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines["left"].set_visible(False)
        axes.grid(False, axis="y")
        axes.set_ylim(place - 0.3, -0.7)
        axes.set_xlim(*_at_most_one(*axes.get_xlim()))
        axes.xaxis.set_major_formatter(PERCENT)
        drawn.figure.legend(loc="outside lower center", ncols=4)
    return drawn


def _plot(axes: Axes, lines: Lines, linewidth: float | None = None) -> None:
    for number, (name, (across, up)) in enumerate(lines.items()):
        axes.plot(
            across,
            up,
            label=name,
            color=colour_of(number),
            linestyle=dash_of(number),
            linewidth=linewidth,
            marker="o" if len(up) < 3 else "",
        )


def _logarithmic_ranks(axes: Axes) -> None:
    """Ranks on a logarithmic axis, and shares of at most 1."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(PLAIN)
    axes.xaxis.set_minor_formatter("")
    axes.yaxis.set_major_formatter(PERCENT)
    axes.set_ylim(*_at_most_one(*axes.get_ylim()))
    axes.legend()


def _at_most_one(low: float, high: float) -> tuple[float, float]:
    """The limits of an axis of shares, which must not promise more than all."""
    # A hair above, so that a dot at 1 is whole.
    return low, 1.0 + 0.03 * (1.0 - low) if high > 1.0 else high
