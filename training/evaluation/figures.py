"""The report's figures as SVG text; no display and no state of matplotlib's is touched."""

from __future__ import annotations

import io
import re

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.evaluation.results import DatasetResult, ScoreDistribution, ScoringResult

COLOURS = ("#1f5fa8", "#c2541b", "#2b8a4b", "#7a4fa3", "#7d6b1d", "#555f6e", "#a33b5b")


def cmc_figure(result: DatasetResult) -> str:
    """Share of queries whose first true match is at rank k or better."""
    figure, axes = _new("rank k", "share of queries", "First true match at rank k or better")
    for colour, (name, scoring) in zip(_colours(), _rankings(result).items(), strict=False):
        axes.plot(range(1, len(scoring.cmc) + 1), scoring.cmc, label=name, color=colour)
    axes.set_xscale("log")
    axes.legend(frameon=False)
    return _svg(figure)


def detection_figure(result: DatasetResult) -> str:
    """The DIR/FAR curve, with the operating points as they came out."""
    figure, axes = _new(
        "false-alarm rate (person absent)", "detection rate (person present)", "Open-set search"
    )
    for colour, (name, scoring) in zip(_colours(), result.scorings.items(), strict=False):
        if not scoring.detection_curve:
            continue
        rates, detected = zip(*scoring.detection_curve, strict=True)
        axes.plot(rates, detected, label=name, color=colour)
        for point in scoring.operating_points:
            axes.plot(
                max(point.false_alarm_rate.mean, rates[0]),
                point.detection_rate.mean,
                "o",
                color=colour,
            )
    axes.set_xscale("log")
    axes.legend(frameon=False)
    return _svg(figure)


def depth_figure(result: DatasetResult) -> str:
    """mAP against the number of candidates that M-Net re-ranks."""
    figure, axes = _new("re-rank depth", "mAP", "M-Net over the nearest k by cosine")
    axes.plot(
        [depth.depth for depth in result.rerank_depths],
        [depth.mAP for depth in result.rerank_depths],
        "o-",
        color=COLOURS[1],
        label="re-ranked",
    )
    if "cosine" in result.scorings:
        axes.axhline(
            result.scorings["cosine"].metrics["mAP"].mean, color=COLOURS[0], label="cosine alone"
        )
    axes.set_xscale("log")
    axes.legend(frameon=False)
    return _svg(figure)


def distribution_figure(name: str, scoring: ScoringResult, distribution: ScoreDistribution) -> str:
    """Scores of one person's and of two people's pairs, and where the operating points lie."""
    figure, axes = _new(f"{name} score", "density", f"Scores: {name}")
    for counts, label, colour in (
        (distribution.impostor, "two people", COLOURS[1]),
        (distribution.genuine, "one person", COLOURS[0]),
    ):
        axes.stairs(
            _density(counts, distribution.edges),
            distribution.edges,
            fill=True,
            alpha=0.45,
            label=label,
            color=colour,
        )
    for point in scoring.operating_points:
        axes.axvline(point.threshold, color="#333333", linewidth=0.8)
        axes.annotate(
            point.name,
            (point.threshold, axes.get_ylim()[1]),
            rotation=90,
            va="top",
            ha="right",
            fontsize=8,
        )
    axes.legend(frameon=False)
    return _svg(figure)


def _density(counts: list[int], edges: list[float]) -> list[float]:
    width, total = edges[1] - edges[0], max(1, sum(counts))
    return [count / total / width for count in counts]


def _rankings(result: DatasetResult) -> dict[str, ScoringResult]:
    return result.scorings | result.peers


def _colours() -> tuple[str, ...]:
    return COLOURS * 4


def _new(across: str, up: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=across, ylabel=up, title=title)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    # Only the element itself goes into the page, without the XML prologue and its outside DTD.
    svg = file.getvalue()[file.getvalue().index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
