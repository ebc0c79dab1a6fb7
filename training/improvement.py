"""Whether a run's artefact is better than what it started from, on the people held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from model.problems import InputProblem
from training.evaluation.embedding import embed_search
from training.evaluation.intervals import average_intervals
from training.evaluation.pair_scores import SearchScores, computed_scores
from training.evaluation.protocols import Search
from training.evaluation.ranking import rank_queries
from training.recipe import Recipe
from training.start import read_start
from training.validation import photographed

FILE_NAME = "start.json"


class Quality(BaseModel):
    """Average precision of the held-out people's queries.

    Attributes:
        name: whose networks these are.
        precisions: by scoring and data set, a value per query, 0 to 1.
        people: by data set, whose query each is, numbered.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    precisions: dict[str, dict[str, tuple[float, ...]]]
    people: dict[str, tuple[int, ...]]

    @property
    def best(self) -> tuple[str, float]:
        """The scoring with the highest mean mAP over the data sets, and that mean."""
        means = {
            scoring: float(np.mean([np.mean(values) for values in sets.values()]))
            for scoring, sets in self.precisions.items()
        }
        scoring = max(means, key=lambda name: means[name])
        return scoring, means[scoring]


def measure_start(recipe: Recipe, searches: Mapping[str, Search], folder: Path) -> Quality:
    """Measures what a run starts from, and keeps the figures in the run's folder.

    Args:
        recipe: of the run.
        searches: by data set, the held-out people; photographed ones alone count where there are
            any, since drawn ones are easier.
        folder: of the run; figures that are there already are not measured again.

    Raises:
        InputProblem: where the recipe starts from no whole embedder.
    """
    searches = {name: searches[name] for name in photographed(searches)}
    kept = _read(folder / FILE_NAME)
    if kept is not None and kept.people.keys() == searches.keys():
        return kept
    start = read_start(recipe.initial_weights)
    if start is None:
        raise InputProblem(
            f"refuse_worse compares with initial_weights, and {recipe.initial_weights} gives no "
            "embedder; set initial_weights to an artefact or to a run's checkpoint, or "
            "refuse_worse=false"
        )
    embedder, metric_network = start.networks()
    scores = {
        name: computed_scores(
            metric_network,
            embed_search(embedder, start.preprocessing, search),
            search.labels(),
        )
        for name, search in searches.items()
    }
    quality = measure(start.name, scores)
    (folder / FILE_NAME).write_text(quality.model_dump_json(), encoding="utf-8")
    return quality


def improvement_on_start(
    recipe: Recipe,
    folder: Path,
    searches: Mapping[str, Search],
    scores: Mapping[str, SearchScores],
) -> str:
    """How much better a run's networks are than those that it started from, in a sentence.

    Args:
        recipe: of the run, which has set `refuse_worse`.
        folder: of the run.
        searches: by data set, the held-out people.
        scores: of the trained networks, by data set.

    Raises:
        InputProblem: where the trained networks are worse.
    """
    start = measure_start(recipe, searches, folder)
    trained = measure(str(folder), {name: scores[name] for name in start.people})
    if start.people != trained.people:
        # The data have changed since the run began.
        (folder / FILE_NAME).unlink()
        start = measure_start(recipe, searches, folder)
    return refuse_if_worse(start, trained)


def measure(name: str, scores: Mapping[str, SearchScores]) -> Quality:
    """Average precisions by cosine and, where there is an M-Net, by its scores.

    Args:
        name: whose networks these are.
        scores: by data set, of its search.
    """
    precisions: dict[str, dict[str, tuple[float, ...]]] = {}
    people: dict[str, tuple[int, ...]] = {}
    for dataset, own in scores.items():
        for scoring, rows in own.by_scoring.items():
            found = rank_queries(rows, own.labels)
            precisions.setdefault(scoring, {})[dataset] = tuple(found.average_precision.tolist())
            people[dataset] = tuple(own.labels.query_identities[found.queries].tolist())
    return Quality(name=name, precisions=precisions, people=people)


def refuse_if_worse(start: Quality, trained: Quality) -> str:
    """Compares the best scoring of both by mAP, each data set weighing the same.

    Args:
        start: of what a run started from.
        trained: of its weights, measured on the same people, by the name of its folder.

    Returns:
        How much better the trained networks are, with its 95% interval over people, in a sentence.

    Raises:
        InputProblem: where the trained networks are worse.
    """
    before, after = start.best, trained.best
    sets: list[tuple[Mapping[str, NDArray[np.float64]], NDArray[np.int64] | None]] = [
        (
            {
                "": np.array(trained.precisions[after[0]][name])
                - np.array(start.precisions[before[0]][name])
            },
            np.array(people),
        )
        for name, people in start.people.items()
    ]
    found = average_intervals(sets)[""]
    change, low, high = (100 * value for value in (found.mean, found.low, found.high))
    figures = (
        f"{100 * after[1]:.1f}% by {after[0]}; {start.name} has {100 * before[1]:.1f}% by "
        f"{before[0]}: {change:+.1f} points [{low:+.1f}, {high:+.1f}]"
    )
    if change < 0:
        raise InputProblem(
            f"{trained.name}: no artefact is written: on the held-out people the new weights have "
            f"mAP {figures}. Train anew with a lower optimisation.learning_rate, fewer "
            "optimisation.epochs, a higher losses.anchor or more people. gmn finish tries another "
            "checkpoint of this run; --resume --set refuse_worse=false writes the artefact in any "
            "case"
        )
    return f"On the held-out people mAP is {figures}."


def _read(path: Path) -> Quality | None:
    try:
        return Quality.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
