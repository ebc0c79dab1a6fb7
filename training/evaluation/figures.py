"""The charts of one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from matplotlib.ticker import FuncFormatter, LogLocator

from training.evaluation.drawing import (
    INK,
    SERIES,
    SOFT,
    WIDTH,
    Drawing,
    chart,
    colour_of,
    dash_of,
)
from training.evaluation.intervals import Estimate
from training.evaluation.results import (
    DatasetResult,
    DepthResult,
    Projection,
    ScoreDistribution,
    ScoringResult,
)

PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.5g}%")
PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def cmc_figure(result: DatasetResult) -> Drawing:
    """Share of queries whose first true match is at rank k or better."""
    rankings = result.scorings | result.peers
    caption = ", ".join(f"{name} {100 * scoring.cmc[0]:.1f}%" for name, scoring in rankings.items())
    with chart(
        "First true match at rank k or better",
        "rank k",
        "share of queries",
        f"Cumulative matching curves; at rank 1: {caption}",
    ) as canvas:
        for number, (name, scoring) in enumerate(rankings.items()):
            canvas.axes.plot(
                range(1, len(scoring.cmc) + 1),
                scoring.cmc,
                label=name,
                color=colour_of(number),
                linestyle=dash_of(number),
            )
        canvas.axes.set_xscale("log")
        canvas.axes.xaxis.set_major_formatter(PLAIN)
        canvas.axes.xaxis.set_minor_formatter("")
        canvas.axes.yaxis.set_major_formatter(PERCENT)
        _end_at_one(canvas.axes.get_ylim, canvas.axes.set_ylim)
        canvas.axes.legend()
    return canvas.drawing


def detection_figure(result: DatasetResult) -> Drawing:
    """The DIR/FAR curve, with the operating points as they came out."""
    caption = "; ".join(
        f"{name} {point.name}: {100 * point.false_alarm_rate.mean:.2g}% false alarms, "
        f"{100 * point.detection_rate.mean:.1f}% found"
        for name, scoring in result.scorings.items()
        for point in scoring.operating_points
    )
    with chart(
        "Open-set search",
        "false-alarm rate (person absent)",
        "detection rate (person present)",
        f"Detection against false alarms. {caption}",
        "Dots: the operating points, as they came out. Dotted: the rates they were set for.",
    ) as canvas:
        asked = sorted(
            {
                point.asked
                for scoring in result.scorings.values()
                for point in scoring.operating_points
            }
        )
        for rate in asked:
            canvas.axes.axvline(rate, color=SOFT, linewidth=0.8, linestyle=":")
        for number, (name, scoring) in enumerate(result.scorings.items()):
            if not scoring.detection_curve:
                continue
            rates, detected = zip(*scoring.detection_curve, strict=True)
            canvas.axes.plot(
                rates, detected, label=name, color=colour_of(number), linestyle=dash_of(number)
            )
            canvas.axes.plot(
                [max(point.false_alarm_rate.mean, rates[0]) for point in scoring.operating_points],
                [point.detection_rate.mean for point in scoring.operating_points],
                "o",
                color=colour_of(number),
            )
        canvas.axes.set_xscale("log")
        canvas.axes.xaxis.set_major_formatter(PERCENT)
        canvas.axes.yaxis.set_major_formatter(PERCENT)
        canvas.axes.legend()
    return canvas.drawing


def depth_figure(result: DatasetResult) -> Drawing:
    """mAP against the number of candidates that M-Net re-ranks, and the time of a search."""
    depths = result.rerank_depths
    caption = ", ".join(f"{depth.depth}: {_depth_words(depth)}" for depth in depths)
    with chart(
        "M-Net over the nearest k by cosine",
        "re-rank depth k",
        "mAP",
        f"mAP by re-rank depth. {caption}",
        "Numbers at the dots: milliseconds of one search, features at hand."
        if any(depth.milliseconds for depth in depths)
        else "",
    ) as canvas:
        across = [depth.depth for depth in depths]
        up = [depth.mAP for depth in depths]
        canvas.axes.plot(across, up, "o-", color=SERIES[1], label="re-ranked by M-Net")
        for depth in depths:
            if depth.milliseconds is not None:
                canvas.axes.annotate(
                    f"{depth.milliseconds:.2g}",
                    (depth.depth, depth.mAP),
                    (0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                )
        if "cosine" in result.scorings:
            canvas.axes.axhline(
                result.scorings["cosine"].metrics["mAP"].mean,
                color=SERIES[0],
                linestyle=dash_of(1),
                label="cosine alone",
            )
        canvas.axes.set_xscale("log")
        canvas.axes.xaxis.set_major_formatter(PLAIN)
        canvas.axes.xaxis.set_minor_formatter("")
        canvas.axes.yaxis.set_major_formatter(PERCENT)
        canvas.axes.margins(y=0.15)
        _end_at_one(canvas.axes.get_ylim, canvas.axes.set_ylim)
        canvas.axes.legend()
    return canvas.drawing


def distribution_figure(
    name: str, scoring: ScoringResult, distribution: ScoreDistribution
) -> Drawing:
    """Scores of one person's and of two people's pairs, and where the operating points lie."""
    caption = ", ".join(
        f"{point.name} at {point.threshold:.3g}" for point in scoring.operating_points
    )
    with chart(
        f"Scores of pairs: {name}",
        f"{name} score",
        "density",
        f"Histograms of {name} scores of one person's and of two people's pairs; "
        f"operating points: {caption or 'none'}",
        "Lines: the operating points of a search in this gallery."
        if scoring.operating_points
        else "",
    ) as canvas:
        for counts, label, colour in (
            (distribution.impostor, "two people", SERIES[1]),
            (distribution.genuine, "one person", SERIES[0]),
        ):
            canvas.axes.stairs(
                _density(counts, distribution.edges),
                distribution.edges,
                fill=True,
                alpha=0.45,
                label=label,
                color=colour,
            )
        top = canvas.axes.get_ylim()[1]
        for point in scoring.operating_points:
            canvas.axes.axvline(point.threshold, color=SOFT, linewidth=1)
            canvas.axes.annotate(
                point.name,
                (point.threshold, top),
                (-2, 0),
                textcoords="offset points",
                rotation=90,
                va="top",
                ha="right",
                fontsize=8,
            )
        canvas.axes.legend()
    return canvas.drawing


def projection_figure(projection: Projection) -> Drawing:
    """A space as t-SNE draws it, a colour for each domain (Figure 1 of GMN)."""
    names = ", ".join(projection.domains)
    pairs = bool(projection.genuine)
    with chart(
        f"{projection.space.capitalize()} space, t-SNE",
        "",
        "",
        f"Points of {projection.space} space, coloured by domain: {names}",
        "Filled: one person's pairs; hollow: two people's." if pairs else "A point is a crop.",
        size=(4.6, 4.2),
    ) as canvas:
        for number, (domain, points) in enumerate(projection.domains.items()):
            genuine = projection.genuine or [True] * len(points)
            for filled in (True, False):
                own = [point for point, same in zip(points, genuine, strict=True) if same == filled]
                canvas.axes.scatter(
                    [x for x, _ in own],
                    [y for _, y in own],
                    s=11,
                    color=colour_of(number),
                    facecolors=colour_of(number) if filled else "none",
                    linewidths=0.8,
                    alpha=0.85,
                    label=domain if filled else None,
                )
        canvas.axes.set(xticks=[], yticks=[], aspect="equal")
        canvas.axes.grid(False)
        canvas.axes.spines[:].set_visible(False)
        canvas.figure.legend(loc="outside lower center", ncols=3)
    return canvas.drawing


def curve_figure(
    title: str, up: str, series: Mapping[str, tuple[list[float], list[float]]], alt: str
) -> Drawing:
    """Values over epochs.

    Args:
        title: the caption.
        up: what the values are.
        series: by name, epochs and values.
        alt: for those who do not see it.
    """
    with chart(title, "epoch", up, alt) as canvas:
        for number, (name, (epochs, values)) in enumerate(series.items()):
            canvas.axes.plot(
                epochs,
                values,
                label=name,
                color=colour_of(number),
                linestyle=dash_of(number),
                linewidth=1.4,
                marker="o" if len(values) < 3 else "",
            )
        canvas.axes.set_yscale("log")
        canvas.axes.yaxis.set_major_formatter(PLAIN)
        canvas.axes.yaxis.set_minor_formatter("")
        canvas.axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        canvas.axes.legend()
    return canvas.drawing


def validation_figure(name: str, series: Mapping[str, tuple[list[float], list[float]]]) -> Drawing:
    """mAP or Rank-1 on held-out people over the epochs, by data set and scoring."""
    last = ", ".join(f"{one} {100 * values[-1]:.1f}%" for one, (_, values) in series.items())
    with chart(
        f"{name} on held-out people", "epoch", name, f"{name} while training; at the end: {last}"
    ) as canvas:
        for number, (one, (epochs, values)) in enumerate(series.items()):
            canvas.axes.plot(
                epochs,
                values,
                label=one,
                color=colour_of(number),
                linestyle=dash_of(number),
                marker="o" if len(values) < 3 else "",
            )
        canvas.axes.yaxis.set_major_formatter(PERCENT)
        canvas.axes.legend()
    return canvas.drawing


def _end_at_one(
    limits: Callable[[], tuple[float, float]], set_limits: Callable[[float, float], object]
) -> None:
    """Keeps an axis of shares from promising more than all."""
    low, high = limits()
    if high > 1.0:
        # A hair above, so that a dot at 1 is whole.
        set_limits(low, 1.0 + 0.03 * (1.0 - low))


def _depth_words(depth: DepthResult) -> str:
    time = "" if depth.milliseconds is None else f" in {depth.milliseconds:.2g} ms"
    return f"{100 * depth.mAP:.1f}%{time}"


def _density(counts: list[int], edges: list[float]) -> list[float]:
    width, total = edges[1] - edges[0], max(1, sum(counts))
    return [count / total / width for count in counts]


def interval_figure(
    title: str, rows: Sequence[tuple[str, str, Estimate, Sequence[float]]]
) -> Drawing:
    """Figures with their intervals, a line each, seeds as small dots.

    Args:
        title: the caption.
        rows: group, ranking, the figure, and each seed's own value where there are several.
    """
    groups = list(dict.fromkeys(group for group, *_ in rows))
    rankings = list(dict.fromkeys(ranking for _, ranking, *_ in rows))
    caption = ", ".join(
        f"{group} {ranking} {100 * figure.mean:.1f}%" for group, ranking, figure, _ in rows
    )
    height = 0.75 + 0.2 * len(rows) + 0.12 * len(groups)
    with chart(title, "", "", caption, size=(WIDTH, height)) as canvas:
        place = 0.0
        places: dict[str, list[float]] = {group: [] for group in groups}
        for group in groups:
            for own, ranking, figure, seeds in rows:
                if own != group:
                    continue
                colour = colour_of(rankings.index(ranking))
                first = ranking not in canvas.axes.get_legend_handles_labels()[1]
                canvas.axes.plot([figure.low, figure.high], [place, place], color=colour, lw=1.6)
                canvas.axes.plot(
                    figure.mean, place, "o", color=colour, label=ranking if first else None
                )
                canvas.axes.plot(seeds, [place] * len(seeds), "|", color=colour, markersize=8)
                places[group].append(place)
                place += 1.0
            place += 0.6
        canvas.axes.set_yticks([sum(own) / len(own) for own in places.values()], groups)
        canvas.axes.tick_params(axis="y", length=0, labelcolor=INK)
        canvas.axes.spines["left"].set_visible(False)
        canvas.axes.grid(False, axis="y")
        canvas.axes.set_ylim(place - 0.9, -0.7)
        _end_at_one(canvas.axes.get_xlim, canvas.axes.set_xlim)
        canvas.axes.xaxis.set_major_formatter(PERCENT)
        canvas.figure.legend(loc="outside lower center", ncols=4)
    return canvas.drawing
