"""Gains of `gmn train adapt-fast` with some people of a site, for others of the same cameras.

Run `gmn embed ARTEFACT --data KIND:PATH --out FEATURES` first, best on cameras that the artefact
has not seen. In each draw the projection is fitted to people as the recipe fits it, and 200 other
people are searched for, among the crops of other cameras and of all cameras.
`python -m bench.figures adapting FILE…` writes the table of docs/training.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer

from bench.cells import read_people
from model.arrays import Floats
from model.problems import InputProblem
from training.evaluation.metrics import PairLabels, rank_queries
from training.evaluation.scoring import cosine_rows
from training.evaluation.sweep import half_enrolled, sweep
from training.projection import fit_projection
from training.recipe import read_recipe

DRAWS = 10
MEASURED = 200
# Numbers of people of a site.
SIZES = (20, 60, 150)
# At most these crops of a person and camera are fitted to, and searched and searched for.
CROPS = 2
# True where crops of the query's own camera are left out of a search.
SEARCHED = {"other cameras": True, "all cameras": False}


def draw_people(crops: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, dict[int, pd.DataFrame]]:
    """Draw people under two cameras or more: those to measure, and those of a site by their number.

    Of several sites the smaller ones are parts of the larger ones.

    Args:
        crops: crops with columns `person` and `camera`, by row of the features.

    Raises:
        InputProblem: there are too few of them.
    """
    random = np.random.default_rng(seed)
    crops = crops.sample(frac=1, random_state=random).groupby(["person", "camera"]).head(CROPS)
    cameras = crops.groupby("person").camera.nunique()
    people = random.permutation(cameras.index[cameras > 1])
    needed = MEASURED + max(SIZES)
    if len(people) < needed:
        raise InputProblem(
            f"the features show {len(people)} people under two cameras; embed {needed} or more"
        )
    measured = crops[crops.person.isin(people[:MEASURED])]
    site = people[MEASURED:]
    return measured, {size: crops[crops.person.isin(site[:size])] for size in SIZES}


def measure(crops: pd.DataFrame, features: Floats) -> Iterator[dict[str, Any]]:
    """Rank crops by cosine, and yield figures in per cent, among other cameras and all.

    `found` is the share found at 1% false alarms by the best threshold, with half of the people
    enrolled.

    Args:
        features: features of the crops, `(n, d)`.
    """
    people = crops.person.to_numpy(np.int64)
    cameras = pd.factorize(crops.camera)[0].astype(np.int64)
    rows = cosine_rows(features, features)
    for searched, other_cameras_only in SEARCHED.items():
        labels = PairLabels(people, cameras, people, cameras, other_cameras_only)
        ranked = rank_queries(rows, labels)
        half = half_enrolled(sweep(rows, labels))
        shares = {
            "mAP": float(ranked.average_precision.mean()),
            "rank_1": float((ranked.first_rank == 1).mean()),
            "found": half.detection_rate.mean if half else 0.0,
        }
        percent = {name: round(100.0 * share, 2) for name, share in shares.items()}
        yield {"searched": searched, **percent}


def measure_draws(crops: pd.DataFrame, features: Floats) -> Iterator[dict[str, Any]]:
    """Yield figures of the features and of their projections, for each draw.

    Args:
        features: unit vectors of all crops.
    """
    shrinkage = read_recipe("adapt-fast").projection_fit.shrinkage or 1.0
    for seed in range(DRAWS):
        measured, sites = draw_people(crops, seed)
        plain = features[measured.index]
        for figures in measure(measured, plain):
            yield {"draw": seed, "people": 0, **figures}
        for size, site in sites.items():
            projection = fit_projection(
                features[site.index], site.person.tolist(), site.camera.tolist(), shrinkage
            )
            for figures in measure(measured, projection.of(plain)):
                yield {"draw": seed, "people": size, **figures}


def main(artefact: str, data: str, features: Path) -> None:
    """Draw people of a site and others, and print the figures as a JSON object.

    Args:
        artefact, data: the names of artefact and data set in the table.
        features: the file that gmn embed wrote with this artefact.
    """
    crops, units = read_people(features)
    rows = [{"artefact": artefact, "data": data, **row} for row in measure_draws(crops, units)]
    typer.echo(json.dumps({"results": rows}))


if __name__ == "__main__":
    typer.run(main)
