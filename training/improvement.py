"""Whether a run's artefact is better than what it started from, on the people held out.

Both rank the same queries, and both answer them by the thresholds of their artefacts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from model.calibration import SEARCH_OPERATING_POINTS, Calibration
from model.problems import InputProblem
from training.evaluation.blending import PEOPLE_OF_START, blended, impostor_moments
from training.evaluation.embedding import embed_search
from training.evaluation.intervals import Estimate, average_intervals
from training.evaluation.pair_scores import SearchScores, computed_scores
from training.evaluation.searches import Search
from training.quality import OPERATING_POINT, Quality, measure
from training.recipe import Recipe
from training.start import Start, read_start
from training.validation import photographed

FILE_NAME = "start.json"
REMEDY = (
    "Train anew with a lower optimisation.learning_rate, fewer optimisation.epochs, a higher "
    "losses.anchor or more people. gmn finish tries another checkpoint of this run; --resume --set "
    "refuse_worse=false writes the artefact in any case"
)
Values = tuple[float, ...]


def measure_start(
    recipe: Recipe, searches: Mapping[str, Search], folder: Path, device: torch.device
) -> Quality:
    """Measures what a run starts from, and keeps the figures in the run's folder.

    Args:
        recipe: of the run.
        searches: by data set, the held-out people; photographed ones alone count where there are
            any, since drawn ones are easier.
        folder: of the run; figures that are there already are not measured again.
        device: where the networks run.

    Raises:
        InputProblem: where the recipe starts from no whole embedder.
    """
    searches = {name: searches[name] for name in photographed(searches)}
    kept = _read(folder / FILE_NAME)
    if kept is not None and kept.people.keys() == searches.keys():
        return kept
    start = _start_of(recipe)
    embedder, metric_network = start.networks()
    embedder.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if metric_network is not None:
        metric_network.to(device)
    scores = {
        name: computed_scores(
            metric_network,
            embed_search(embedder, start.preprocessing, search),
            search.labels(),
        )
        for name, search in searches.items()
    }
    quality = measure(start.name, scores, start.calibration)
    (folder / FILE_NAME).write_text(quality.model_dump_json(), encoding="utf-8")
    return quality


def improvement_on_start(
    recipe: Recipe,
    folder: Path,
    searches: Mapping[str, Search],
    scores: Mapping[str, SearchScores],
    calibration: Calibration,
    device: torch.device,
) -> tuple[Calibration, str]:
    """The calibration that the artefact gets, and how it compares with its start in sentences.

    Args:
        recipe: of the run, which has set `refuse_worse`.
        folder: of the run.
        searches: by data set, the held-out people.
        scores: of the trained networks, by data set.
        calibration: fitted to these scores alone.
        device: where the start's networks run, if they are measured here.

    Raises:
        InputProblem: where the trained networks are worse.
    """
    start = measure_start(recipe, searches, folder, device)
    own = {name: scores[name] for name in start.people}
    if start.people != measure(str(folder), own, None).people:
        # The data have changed since the run began.
        (folder / FILE_NAME).unlink()
        start = measure_start(recipe, searches, folder, device)
    theirs = _start_of(recipe).calibration
    if theirs is None:
        return calibration, refuse_if_worse(start, measure(str(folder), own, calibration))
    people = sum(len(set(one)) for one in start.people.values())
    after = impostor_moments(own.values(), calibration)
    calibration = blended(calibration, after, theirs, start.impostors, people)
    sentence = refuse_if_worse(start, measure(str(folder), own, calibration))
    few = ""
    if people < PEOPLE_OF_START:
        few = (
            f" Only {people} people were held out: the thresholds rest mostly on those of "
            f"{start.name}, and may find fewer people than the weights could; for thresholds of "
            f"the site's own hold out {PEOPLE_OF_START} people or more."
        )
    return calibration, sentence + few


def refuse_if_worse(start: Quality, trained: Quality) -> str:
    """Compares the best scoring of both, each data set weighing the same.

    Worse is a lower mAP; and, where both have thresholds, more false alarms than asked for or
    fewer people found, when the 95% interval of the difference over people excludes none.

    Args:
        start: of what a run started from.
        trained: of its weights, measured on the same people, by the name of its folder.

    Returns:
        How the trained networks compare, with 95% intervals over people, in sentences.

    Raises:
        InputProblem: where the trained networks are worse.
    """
    return f"{_ranking(start, trained)}{_answering(start, trained)}"


def _ranking(start: Quality, trained: Quality) -> str:
    before, after = start.best, trained.best
    change = _difference(trained.precisions[after[0]], start.precisions[before[0]], start.people)
    figures = (
        f"{100 * after[1]:.1f}% by {after[0]}; {start.name} has {100 * before[1]:.1f}% by "
        f"{before[0]}: {_shown(change)}"
    )
    if change.mean < 0:
        _refuse(trained, f"mAP {figures}")
    return f"On the held-out people mAP is {figures}."


def _answering(start: Quality, trained: Quality) -> str:
    """The same of false alarms and of people found; empty where either has no thresholds."""
    if not (start.answers and trained.answers):
        return ""
    ours, theirs = trained.answers[trained.best[0]], start.answers[start.best[0]]
    rise = _difference(
        {name: one.alarms for name, one in ours.items()},
        {name: one.alarms for name, one in theirs.items()},
        {name: one.people for name, one in ours.items()},
    )
    gain = _difference(
        {name: one.found for name, one in ours.items()},
        {name: one.found for name, one in theirs.items()},
        {name: one.people_found for name, one in ours.items()},
    )
    alarms = 100 * float(np.mean([np.mean(one.alarms) for one in ours.values()]))
    found = 100 * float(np.mean([np.mean(one.found) for one in ours.values()]))
    figures = (
        f"{alarms:.1f}% false alarms at {OPERATING_POINT} ({_shown(rise)}) and find "
        f"{found:.1f}% of the people ({_shown(gain)})"
    )
    asked = 100 * SEARCH_OPERATING_POINTS[OPERATING_POINT]
    if (alarms > asked and rise.low > 0) or gain.high < 0:
        _refuse(trained, figures)
    return f" By the artefact's own thresholds they have {figures}."


def _difference(
    ours: Mapping[str, Values], theirs: Mapping[str, Values], people: Mapping[str, tuple[int, ...]]
) -> Estimate:
    """The mean difference per query, with its interval over people."""
    sets: list[tuple[Mapping[str, NDArray[np.float64]], NDArray[np.int64] | None]] = [
        ({"": np.array(ours[name]) - np.array(theirs[name])}, np.array(whose))
        for name, whose in people.items()
    ]
    return average_intervals(sets)[""]


def _shown(change: Estimate) -> str:
    mean, low, high = (100 * value for value in (change.mean, change.low, change.high))
    return f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"


def _refuse(trained: Quality, figures: str) -> NoReturn:
    raise InputProblem(
        f"{trained.name}: no artefact is written: on the held-out people the new weights have "
        f"{figures}. {REMEDY}"
    )


def _start_of(recipe: Recipe) -> Start:
    start = read_start(recipe.initial_weights)
    if start is None:
        raise InputProblem(
            f"refuse_worse compares with initial_weights, and {recipe.initial_weights} gives no "
            "embedder; set initial_weights to an artefact or to a run's checkpoint, or "
            "refuse_worse=false"
        )
    return start


def _read(path: Path) -> Quality | None:
    try:
        return Quality.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None
