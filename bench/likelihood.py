"""Cost of likelihood ratios of two crops, fitted to some people and measured on others.

Run `gmn embed ARTEFACT --data KIND:PATH --out FEATURES` first. People under two cameras are divided
into random halves: a gallery of some people of one half fits the ratios as in the service, and
pairs of the other half measure them. `python -m bench.figures likelihood FILE…` writes the table of
docs/alarms.md.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import typer

from bench.cells import read_people
from model.artefact import load_artefact, resolve_artefact
from model.likelihood_ratio import FEWEST_PEOPLE
from model.problems import InputProblem
from training.evaluation.calibration import mnet_scores
from training.evaluation.embedding import SearchFeatures
from training.evaluation.files import read_features
from training.evaluation.likelihood import ScorePairs, cosine_scores, mean_result, measure

UNKNOWN = "one half, any camera"
# Numbers of people that fit the ratios, a half at most, by the title of the column. Pairs of one
# person and of two are of two cameras, except where those that measure are of any.
SIZES = {"100 people": 100, "one half": 10**6, UNKNOWN: 10**6}
DRAWS = 8


def main(artefact: str, data: str, features: Path) -> None:
    """Draw halves, and print the figures as a JSON object.

    Args:
        artefact: a file, or a shipped name.
        data: the name of the data in the table.
        features: the file that gmn embed wrote with this artefact.
    """
    crops, _ = read_people(features)
    crops = crops[crops.groupby("person").camera.transform("nunique") > 1]
    names = crops.person.to_numpy(np.int64)
    cameras = crops.camera.factorize()[0].astype(np.int64)
    vectors = read_features(features).features[crops.index]
    scorings: dict[str, ScorePairs] = {"cosine": cosine_scores(vectors)}
    network = load_artefact(resolve_artefact(artefact)).metric_network
    if network is not None:
        scorings["mnet"] = partial(mnet_scores, network, SearchFeatures(vectors, vectors))

    people = np.unique(names)
    half = len(people) // 2
    if half < FEWEST_PEOPLE:
        raise InputProblem(
            f"{features}: {len(people):,} people under two cameras; name features of at least "
            f"{2 * FEWEST_PEOPLE}, since each half needs {FEWEST_PEOPLE}"
        )
    rows: list[dict[str, Any]] = []
    for scoring, score in scorings.items():
        for way, size in SIZES.items():
            results = []
            for seed in range(DRAWS):
                random = np.random.default_rng(seed)
                drawn = random.permutation(people)
                fitted_on = drawn[: min(size, half)]
                measured_on = drawn[half:]
                known = cameras
                if way == UNKNOWN:
                    known = np.where(np.isin(names, measured_on), -1, cameras)
                result = measure(names, known, score, fitted_on, measured_on, random)
                if result is not None:
                    results.append(result)
            excess = [result.cllr - result.min_cllr for result in results]
            rows.append(
                {
                    "artefact": artefact,
                    "data": data,
                    "scoring": scoring,
                    "way": way,
                    "excess": float(np.mean(excess)),
                    "worst": max(excess),
                    **mean_result(results).model_dump(),
                }
            )
    typer.echo(json.dumps({"results": rows}))


if __name__ == "__main__":
    typer.run(main)
