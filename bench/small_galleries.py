"""False alarms of galleries of fewer than 18 people, which have the thresholds of the artefact.

Run `gmn embed ARTEFACT --data KIND:PATH --out FEATURES` first. Galleries are drawn as by
`bench.cells`, and judged as in the service.
`python -m bench.figures small-galleries FILE…` writes the table of docs/alarms.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import typer

from bench.cells import (
    MARKET_CAMERAS,
    MIXES,
    RATE,
    TWO_CAMERAS,
    Draw,
    Halves,
    Vectors,
    draw_gallery,
    read_people,
    search,
)
from bench.watch import Features
from model.artefact import read_description, resolve_artefact
from model.calibration import ScoringCalibration

SIZES = (3, 10, 17)
GALLERIES = 20


def judge_gallery(draw: Draw, features: Features, calibration: ScoringCalibration) -> pd.DataFrame:
    """Search a gallery for its people and for strangers.

    Returns:
        A row for each search: `half`, that of its camera; `known`, whether the person is enrolled;
        and `answered`, whether it is answered by a match, which for an enrolled person is right.
    """
    people = draw.enrolled.person.nunique()
    # More than two crops of a person count as more people, as in the service.
    counted = max(people, round(math.sqrt(people * len(draw.enrolled) / 2)))
    threshold = calibration.search_threshold(RATE, counted)
    vectors = Vectors.plain(features)
    known = search(draw.enrolled, draw.known, vectors)
    strangers = search(draw.enrolled, draw.strangers, vectors)
    answers = pd.concat([known.assign(known=True), strangers.assign(known=False, right=True)])
    matched = answers.leaders.str[0] >= threshold
    return answers.assign(answered=matched & answers.right)[["half", "known", "answered"]]


def judge_galleries(
    crops: pd.DataFrame,
    features: Features,
    halves: Halves,
    size: int,
    calibration: ScoringCalibration,
) -> Iterator[dict[str, Any]]:
    """Draw galleries, and yield for each mix of cameras what they obtain and find, in per cent."""
    judged: dict[tuple[int, ...], pd.DataFrame] = {}
    for enrolling in ((0,), (0, 1)):
        judged[enrolling] = pd.concat(
            judge_gallery(draw_gallery(crops, halves, enrolling, size, seed), features, calibration)
            for seed in range(GALLERIES)
        )
    for mix, (enrolled_by, asking) in MIXES.items():
        answers = judged[enrolled_by]
        shares = 100.0 * answers[answers.half.isin(asking)].groupby("known").answered.mean()
        yield {"mix": mix, "obtained": round(shares[False], 2), "found": round(shares[True], 2)}


def main(artefact: str, data: str, features: Path) -> None:
    """Judge galleries of every size, group of cameras and mix, and print a JSON object.

    Args:
        artefact: a file, or a shipped name.
        data: the name of the data set in the table.
        features: the file that gmn embed wrote with this artefact.
    """
    calibration = read_description(resolve_artefact(artefact)).calibration.scorings["cosine"]
    crops, units = read_people(features)
    of_market = crops.camera.str.startswith("c").all()
    cells = [
        {"artefact": f"{artefact}, {data}", "cameras": group, "size": size} | cell
        for group, halves in (MARKET_CAMERAS if of_market else TWO_CAMERAS).items()
        for size in SIZES
        for cell in judge_galleries(crops, units, halves, size, calibration)
    ]
    typer.echo(json.dumps({"results": cells}))


if __name__ == "__main__":
    typer.run(main)
