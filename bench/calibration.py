"""Asked against obtained false alarms of a gallery's thresholds, on stored features.

docs/calibration.md shows what it found. Every cell is one kind of gallery, scoring, mix of searches
and number of searches, measured over 8 draws of people and cameras (bench.search_draws).

Example: python -m bench.calibration --out docs/figures/open_set/calibration.json \\
    --of market.npz=bundled --of osnet-market.npz=osnet-cuhk01.npz
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from bench.search_draws import Crops, Draw, Plan, draws, read_crops
from bench.tables import table
from model.calibration import ScoringCalibration
from model.gallery_thresholds import GalleryThresholds, fit_gallery, fit_ratio
from model.search_calibration import SearchCalibration, SearchScores, fit_searches
from model.stranger_tail import Array, level
from training.evaluation.intervals import mean_interval

ASKED, RARE = 1e-2, 1e-3
DRAWS = 8
NUMBERS = (20, 100, 256)
CHANGED_NUMBER = 100
# A cell holds where its mean, or its interval over people, reaches into this range.
LOWEST, HIGHEST = 0.004, 0.025
# Found is compared where the best threshold finds at least this share.
WORTH_FINDING = 0.2
BINS = 10
SUMMARY = (
    *("crops, scoring", "cells", "median", "range", "in 0.4-2.5%", "or touching it"),
    *("found within a fifth", "one gallery's spread", "at 0.1%", "calibration error"),
)

MIXES = ("known", "strangers", "half")
PLANS = (
    *(Plan(size, size) for size in (30, 100, 300)),
    Plan(100, 100, crops=1),
    Plan(300, 30),
    Plan(100, 300),
    Plan(100, 100, doubled=0.05),
    Plan(100, 100, 0.5),
    Plan(100, 100, 1.0),
)


Judge = GalleryThresholds | SearchCalibration
"""A gallery's own, or that of its searches where no crop has a name."""


class Tally(NamedTuple):
    """What one calibration obtained in one draw.

    Attributes:
        alarms: whether each stranger's search reached the threshold, `(n,)`.
        rare: the same at 0.1%.
        people: who the strangers were, `(n,)`.
        wrong: the probabilities under a match that were wrong.
        found: the share of enrolled people's searches answered first, and with a match.
        best: the same by the threshold on raw scores that would have obtained the asked rate.
        error: of the probabilities.
    """

    alarms: Array
    rare: Array
    people: NDArray[np.int64]
    wrong: Array
    found: float
    best: float
    error: float


def some_searches(draw: Draw, mix: str, number: int) -> list[SearchScores]:
    """The first `number` searches of a mix, as a service keeps them."""
    ours = {"known": number, "half": number // 2}.get(mix, 0)
    return draw.history_members.first(ours) + draw.history_strangers.first(number - ours)


def limits(judge: Judge, best: Array, far: float, identities: int) -> Array:
    """The thresholds of searches with these best scores `(n, 9)`, `(n,)`."""
    if isinstance(judge, GalleryThresholds):
        return level(best) + judge.threshold(far, 0.0, identities)
    return np.full(len(best), judge.threshold(far, identities))


def probabilities(judge: Judge, best: Array, identities: int) -> Array:
    """The probability of each search's best score, `(n,)`."""
    if isinstance(judge, GalleryThresholds):
        return judge.probability(best[:, 0] - level(best), 0.0, identities)
    return judge.probability(best[:, 0])


def tally(judge: Judge, draw: Draw) -> Tally:
    """Judges the searches of one draw."""
    strangers, members = draw.strangers, draw.members
    top, ours = strangers.best[:, 0], members.best[:, 0]
    alarms = top >= limits(judge, strangers.best, ASKED, strangers.identities)
    rare = top >= limits(judge, strangers.best, RARE, strangers.identities)
    found = ours >= limits(judge, members.best, ASKED, members.identities)
    ideal = float(np.quantile(top, 1.0 - ASKED))
    probability = probabilities(judge, strangers.best, strangers.identities)
    right = probabilities(judge, members.best[members.right], members.identities)
    return Tally(
        alarms.astype(np.float64),
        rare.astype(np.float64),
        strangers.people,
        probability[alarms],
        float((found & members.right).mean()),
        float(((ours > ideal) & members.right).mean()),
        calibration_error(right, probability),
    )


def calibration_error(genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> float:
    """Expected calibration error where either kind weighs one half, over ten bins."""
    values = np.concatenate([genuine, impostor])
    right = np.concatenate([np.ones(len(genuine)), np.zeros(len(impostor))])
    weights = np.concatenate(
        [np.full(len(one), 0.5 / max(1, len(one))) for one in (genuine, impostor)]
    )
    bins = np.minimum((values * BINS).astype(np.int64), BINS - 1)
    apart = np.bincount(bins, weights * (values - right), BINS)
    return float(np.abs(apart).sum())


def measure(
    crops: Crops, plans: Sequence[Plan] = PLANS, number: int = DRAWS
) -> Iterator[dict[str, Any]]:
    """One row for every cell."""
    for plan in plans:
        drawn = list(draws(crops, plan, number))
        plain = plan == Plan(plan.fitted, plan.fitted)
        for scoring in crops.scorings if drawn else ():
            some = [one[scoring] for one in drawn]
            fitted = [fit_gallery(one.left_out) if one.left_out else None for one in some]
            cells = itertools.product(MIXES, NUMBERS if plain else (CHANGED_NUMBER,))
            for mix, searches in (("none", 0), *cells):
                if not searches and fitted[0] is None:
                    # Without names there are no thresholds of its own before the searches.
                    continue
                artefact = crops.calibration.scorings[scoring]
                tallies = [
                    tally(_judge(own, some_searches(one, mix, searches), artefact), one)
                    for own, one in zip(fitted, some, strict=True)
                ]
                cell = {"features": crops.name, "scoring": scoring, "gallery": str(plan)}
                yield cell | {"mix": mix, "searches": searches} | pooled(tallies)


def _judge(
    own: GalleryThresholds | None, searches: Sequence[SearchScores], artefact: ScoringCalibration
) -> Judge:
    return fit_searches(searches, artefact) if own is None else fit_ratio(own, searches)


def pooled(tallies: Sequence[Tally]) -> dict[str, Any]:
    """What a calibration obtained over all draws, with the 95% interval over people."""
    alarms, rare, people, wrong, *shares = zip(*tallies, strict=True)
    rate = mean_interval(np.concatenate(alarms), np.concatenate(people))
    found, best, error = (round(float(np.mean(share)), 4) for share in shares)
    under_match = np.concatenate(wrong)
    return {
        "obtained": [round(value, 5) for value in (rate.mean, rate.low, rate.high)],
        "spread": round(float(np.std([one.mean() for one in alarms])), 5),
        "rare": round(float(np.concatenate(rare).mean()), 5),
        "found": found,
        "best": best,
        "calibration_error": error,
        "wrong_under_match": round(float(under_match.mean()), 3) if len(under_match) else None,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many cells hold."""
    means, lows, highs = zip(*(row["obtained"] for row in rows), strict=True)
    worth = [row for row in rows if row["best"] >= WORTH_FINDING]
    return {
        "cells": len(rows),
        "median": float(np.median(means)),
        "lowest": min(means),
        "highest": max(means),
        "within": sum(LOWEST <= mean <= HIGHEST for mean in means),
        "touching": sum(
            low <= HIGHEST and high >= LOWEST for low, high in zip(lows, highs, strict=True)
        ),
        "worth_finding": len(worth),
        "found_within_a_fifth": sum(row["found"] >= 0.8 * row["best"] for row in worth),
    }


def markdown(rows: Sequence[dict[str, Any]], scoring: str) -> str:
    """A table of one scoring, in per cent: obtained, then found beside the best threshold's."""
    rows = [row for row in rows if row["scoring"] == scoring]
    columns = list(dict.fromkeys((row["mix"], row["searches"]) for row in rows))
    titles = [f"{mix} {number}" if number else "none" for mix, number in columns]
    found: dict[str, dict[tuple[str, int], str]] = {}
    for row in rows:
        cells = found.setdefault(f"{row['features']}, {row['gallery']}", {})
        cells[row["mix"], row["searches"]] = (
            f"{100 * row['obtained'][0]:.1f} · {100 * row['found']:.0f}/{100 * row['best']:.0f}"
        )
    lines = [[name, *(cells.get(one, "") for one in columns)] for name, cells in found.items()]
    return table(["crops, identities", *titles], lines)


def summaries(rows: Sequence[dict[str, Any]]) -> str:
    """The summary of every feature file and scoring, as a table."""
    lines = []
    for name, scoring in dict.fromkeys((row["features"], row["scoring"]) for row in rows):
        own = [row for row in rows if (row["features"], row["scoring"]) == (name, scoring)]
        one = summary(own)
        spread, rare, error = (
            float(np.mean([row[key] for row in own]))
            for key in ("spread", "rare", "calibration_error")
        )
        lines.append(
            [
                f"{name}, {scoring}",
                one["cells"],
                f"{100 * one['median']:.2f}",
                f"{100 * one['lowest']:.1f}-{100 * one['highest']:.1f}",
                one["within"],
                one["touching"],
                f"{one['found_within_a_fifth']} of {one['worth_finding']}",
                f"±{100 * spread:.1f}",
                f"{100 * rare:.2f}",
                f"{error:.2f}",
            ]
        )
    return table(SUMMARY, lines)


def main(
    of: Annotated[
        list[str],
        typer.Option(
            metavar="FEATURES=ARTEFACT",
            help="Of gmn embed; for a ready-made model features of other people calibrate it.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write, a .json file.")],
) -> None:
    """Measures every feature file and prints the tables of docs/calibration.md."""
    rows: list[dict[str, Any]] = []
    for pair in of:
        features, _, by = pair.partition("=")
        rows += measure(read_crops(Path(features), by))
    typer.echo(summaries(rows))
    for scoring in dict.fromkeys(row["scoring"] for row in rows):
        typer.echo(f"\n**{scoring}**\n\n{markdown(rows, scoring)}")
    lines = ",\n".join(json.dumps(row) for row in rows)
    out.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
