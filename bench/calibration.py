"""Asked against obtained false alarms of the label-free thresholds, on stored features.

docs/calibration.md shows what it found. Every cell is one kind of gallery, scoring, mix of searches
and number of searches, measured over 12 draws of people and cameras (bench.search_draws).

Example: python -m bench.calibration --out docs/figures/open_set/calibration.json \\
    --of market.npz=bundled --of osnet-market.npz=osnet-cuhk01.npz
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray

from bench.search_draws import Crops, Draw, Plan, Searches, draws, read_crops
from bench.tables import table
from model.calibration import Scoring
from model.search_calibration import (
    SearchCalibration,
    SearchScores,
    artefact_search_calibration,
    fit_searches,
)
from training.evaluation.files import replacing
from training.evaluation.intervals import mean_interval

ASKED = 1e-2
DRAWS = 12
NUMBERS = (20, 40, 100, 256)
CHANGED_NUMBER = 100
# A cell holds where its mean, or its interval over people, reaches into this range.
LOWEST, HIGHEST = 0.004, 0.025
# Found is compared where the best threshold finds at least this share.
WORTH_FINDING = 0.2
BINS = 10
SUMMARY = (
    *("crops, scoring", "cells", "median", "range", "in 0.4-2.5%", "or touching it"),
    *("found within a fifth", "calibration error, before → after"),
)

Mix = Literal["known", "strangers", "half"]
MIXES: tuple[Mix, ...] = ("known", "strangers", "half")
PLANS = (
    *(Plan(size, size) for size in (30, 100, 300, 1000)),
    Plan(30, 300),
    Plan(100, 1000),
    Plan(300, 30),
    Plan(1000, 100),
    Plan(100, 100, 0.5),
    Plan(100, 100, 1.0),
)
Fit = Callable[[Sequence[SearchScores]], SearchCalibration]


@dataclass(frozen=True)
class Tally:
    """What one calibration obtained in one draw.

    Attributes:
        alarms: whether each stranger's search reached the threshold, `(n,)`.
        people: who the strangers were, `(n,)`.
        found: the share of enrolled people's searches answered first, and with a match.
        best: the same by the threshold that would have obtained the asked rate.
        genuine, impostor: probabilities of the best results that were right, and of the best that
            were not; `wrong` of the latter those under a match.
    """

    alarms: NDArray[np.float64]
    people: NDArray[np.int64]
    found: float
    best: float
    genuine: NDArray[np.float64]
    impostor: NDArray[np.float64]
    wrong: NDArray[np.float64]


def some_searches(draw: Draw, scoring: Scoring, mix: Mix, number: int) -> list[SearchScores]:
    """The first `number` searches of a mix, as a service keeps them."""
    strangers, known = draw.history[scoring]
    half = number // 2
    ours = {"known": number, "half": half, "strangers": 0}[mix]
    return [
        *known.kept(np.arange(min(ours, len(known.best)))),
        *strangers.kept(np.arange(min(number - ours, len(strangers.best)))),
    ]


def tally(calibration: SearchCalibration, strangers: Searches, members: Searches) -> Tally:
    """Judges the searches of one draw."""
    threshold = calibration.threshold(ASKED, strangers.identities)
    top, ours = strangers.best[:, 0], members.best[:, 0]
    ideal = float(np.quantile(top, 1.0 - ASKED))
    probability = calibration.probability(top)
    return Tally(
        (top >= threshold).astype(np.float64),
        strangers.people,
        float(((ours >= threshold) & members.right).mean()),
        float(((ours > ideal) & members.right).mean()),
        calibration.probability(ours[members.right]),
        probability,
        probability[top >= threshold],
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
        if not drawn:
            continue
        sizes = NUMBERS if plan.fitted == plan.used and not plan.unnamed else (CHANGED_NUMBER,)
        for scoring in crops.scorings:
            artefact = crops.calibration.scorings[scoring]
            before = artefact_search_calibration(artefact)
            yield _row(crops, plan, scoring, "none", 0, drawn, _always(before))
            own = partial(fit_searches, artefact=artefact, scoring=scoring)
            for mix in MIXES:
                for searches in sizes:
                    yield _row(crops, plan, scoring, mix, searches, drawn, own)


def _always(calibration: SearchCalibration) -> Fit:
    return lambda _: calibration


def _row(
    crops: Crops,
    plan: Plan,
    scoring: Scoring,
    mix: str,
    number: int,
    drawn: Sequence[Draw],
    fit: Fit,
) -> dict[str, Any]:
    tallies = []
    for draw in drawn:
        kept = some_searches(draw, scoring, mix, number) if number else []  # type: ignore[arg-type]
        calibration = fit(kept)
        tallies.append(tally(calibration, draw.strangers[scoring], draw.members[scoring]))
    alarms, people = (
        np.concatenate([getattr(one, name) for one in tallies]) for name in ("alarms", "people")
    )
    rate = mean_interval(alarms, np.unique(people, return_inverse=True)[1].astype(np.int64))
    wrong = np.concatenate([one.wrong for one in tallies])
    errors = [calibration_error(one.genuine, one.impostor) for one in tallies]
    return {
        "features": crops.name,
        "scoring": scoring,
        "gallery": str(plan),
        "mix": mix,
        "searches": number,
        "obtained": [round(value, 5) for value in (rate.mean, rate.low, rate.high)],
        "found": round(float(np.mean([one.found for one in tallies])), 4),
        "best": round(float(np.mean([one.best for one in tallies])), 4),
        "calibration_error": round(float(np.mean(errors)), 4),
        "wrong_under_match": round(float(wrong.mean()), 3) if len(wrong) else None,
    }


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """How many cells hold, over rows with searches."""
    fitted = [row for row in rows if row["searches"]]
    means = [row["obtained"][0] for row in fitted]
    within = [LOWEST <= mean <= HIGHEST for mean in means]
    touching = [row["obtained"][1] <= HIGHEST and row["obtained"][2] >= LOWEST for row in fitted]
    worth = [row for row in fitted if row["best"] >= WORTH_FINDING]
    return {
        "cells": len(fitted),
        "median": round(float(np.median(means)), 5),
        "lowest": min(means),
        "highest": max(means),
        "within": sum(within),
        "touching": sum(touching),
        "worth_finding": len(worth),
        "found_within_a_fifth": sum(row["found"] >= 0.8 * row["best"] for row in worth),
    }


def markdown(rows: Sequence[dict[str, Any]], scoring: str) -> str:
    """A table of one scoring, in per cent: obtained, then found beside the best threshold's."""
    rows = [row for row in rows if row["scoring"] == scoring]
    columns = sorted(
        {(row["mix"], row["searches"]) for row in rows},
        key=lambda one: (one[1] > 0, MIXES.index(one[0]) if one[0] in MIXES else 0, one[1]),
    )
    titles = [f"{mix} {number}" if number else "artefact's own" for mix, number in columns]
    found: dict[str, dict[tuple[str, int], str]] = {}
    for row in rows:
        cells = found.setdefault(f"{row['features']}, {row['gallery']}", {})
        cells[row["mix"], row["searches"]] = _cell(row)
    lines = [[name, *(cells.get(one, "") for one in columns)] for name, cells in found.items()]
    return table(["crops, identities", *titles], lines)


def _cell(row: dict[str, Any]) -> str:
    rate = 100 * row["obtained"][0]
    return f"{rate:.1f} · {100 * row['found']:.0f}/{100 * row['best']:.0f}"


def summaries(rows: Sequence[dict[str, Any]]) -> str:
    """The summary of every feature file and scoring, and of the mixes, as a table."""
    lines = []
    for name, scoring in dict.fromkeys((row["features"], row["scoring"]) for row in rows):
        own = [row for row in rows if (row["features"], row["scoring"]) == (name, scoring)]
        one = summary(own)
        before, after = (
            np.mean([row["calibration_error"] for row in own if (row["searches"] > 0) == fitted])
            for fitted in (False, True)
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
                f"{before:.2f} → {after:.2f}",
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
    with replacing(out) as beside:
        lines = ",\n".join(json.dumps(row) for row in rows)
        beside.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
