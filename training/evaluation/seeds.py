"""Runs that differ in their seed alone: the mean of their figures, its spread and interval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from model.problems import InputProblem
from training.evaluation.intervals import SeedInterval, seed_interval
from training.evaluation.results import EvaluationReport

SeedFigures = dict[str, dict[str, dict[str, SeedInterval]]]
"""By data set, ranking and metric."""


def over_seeds(reports: Sequence[EvaluationReport]) -> SeedFigures:
    """Every ranking metric over several runs of one recipe.

    The interval is Student's t over the runs: what another seed would change. It says nothing of
    other queries; the reports' own intervals do.

    Args:
        reports: of the same searches, one per seed.

    Raises:
        InputProblem: without a report, or where the reports are not of the same searches.
    """
    if not reports:
        raise InputProblem("figures over seeds need one report at least; name a run")
    searches = [
        [(result.name, result.protocol, result.queries, result.gallery) for result in own.datasets]
        for own in reports
    ]
    if any(own != searches[0] for own in searches):
        raise InputProblem(
            "the reports are not of the same searches; evaluate every run on the same --data"
        )
    return {
        first.name: {
            ranking: {
                metric: seed_interval(
                    np.array(
                        [
                            own.datasets[number].scorings[ranking].metrics[metric].mean
                            for own in reports
                        ]
                    )
                )
                for metric in scoring.metrics
            }
            for ranking, scoring in first.scorings.items()
            if all(ranking in own.datasets[number].scorings for own in reports)
        }
        for number, first in enumerate(reports[0].datasets)
    }
