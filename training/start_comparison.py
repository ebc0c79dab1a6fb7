"""Whether a run's weights are better than those it started from, on the people held out.

Both rank the same queries, and both answer them by the thresholds of their artefacts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from model.calibration import SEARCH_OPERATING_POINTS, Calibration, Scoring
from model.problems import InputProblem
from training.evaluation.blending import PEOPLE_OF_START, Moments, blended, impostor_moments
from training.evaluation.embedding import embed_searches
from training.evaluation.intervals import Estimate, average_intervals
from training.evaluation.metrics import rank_queries
from training.evaluation.scoring import SearchScores, score_searches
from training.evaluation.searches import Search
from training.evaluation.sweep import sweep
from training.recipe import Recipe
from training.initial_weights import Start, read_start
from training.validation import photographed

OPERATING_POINT = "far_1e-2"
REMEDY = (
    "Train anew with a lower optimisation.learning_rate, fewer optimisation.epochs, a higher "
    "losses.anchor or more people. gmn finish tries another checkpoint of this run; --resume --set "
    "refuse_worse=false writes the artefact in any case"
)

Samples = Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]
"""Of each data set one value per query, and whose query it is, numbered."""


@dataclass(frozen=True)
class HeldOutScores:
    """What networks obtain on the people held out.

    Attributes:
        name: whose networks these are.
        figures: by scoring, `mAP`: the average precision of each query. Where there is a
            calibration also, at `OPERATING_POINT`, `alarms`: whether a search without its person in
            the gallery would be answered `match`; and `found`: whether the person is first and a
            `match`, of the searches whose person is there.
        impostors: by scoring, moments of the scores of different people.
    """

    name: str
    figures: Mapping[Scoring, Mapping[str, Samples]]
    impostors: Mapping[Scoring, Moments] = field(default_factory=dict)

    def mean(self, scoring: Scoring, figure: str) -> float:
        """Over the data sets, each of which weighs the same."""
        return float(np.mean([values.mean() for values, _ in self.figures[scoring][figure]]))

    @property
    def best(self) -> Scoring:
        """The scoring with the highest mAP."""
        return max(self.figures, key=lambda scoring: self.mean(scoring, "mAP"))


def held_out_scores(
    name: str, domains: Sequence[SearchScores], calibration: Calibration | None
) -> HeldOutScores:
    """Measures by cosine and, where there is an M-Net, by its scores.

    Args:
        name: whose networks these are.
        domains: the scores of each data set's search.
        calibration: gives the thresholds; None where there is none.
    """
    figures: dict[Scoring, dict[str, list[tuple[NDArray[np.float64], NDArray[np.int64]]]]] = {}
    for one in domains:
        for scoring, rows in one.by_scoring.items():
            own = figures.setdefault(scoring, {"mAP": []})
            ranked = rank_queries(rows, one.labels)
            people = one.labels.query_identities[ranked.queries]
            own["mAP"].append((ranked.average_precision, people))
            if calibration is not None:
                extremes = sweep(rows, one.labels)
                asked = SEARCH_OPERATING_POINTS[OPERATING_POINT]
                thresholds = extremes.thresholds(calibration.scorings[scoring], asked)
                alarms = extremes.false_alarms(thresholds)
                found = extremes.detections(thresholds)
                present = extremes.identities[extremes.present]
                own.setdefault("alarms", []).append((alarms, extremes.identities))
                own.setdefault("found", []).append((found, present))
    return HeldOutScores(
        name, figures, impostor_moments(domains, calibration) if calibration else {}
    )


def measure_start(
    recipe: Recipe, searches: Mapping[str, Search], device: torch.device
) -> HeldOutScores:
    """Measures what a run starts from.

    Args:
        recipe: of the run.
        searches: by data set, the held-out people; photographed ones alone count where there are
            any, since drawn ones are easier.
        device: for the networks.

    Raises:
        InputProblem: where the recipe starts from no whole embedder.
    """
    start = _start_of(recipe)
    embedder = start.embedder
    metric_network = start.metric_network
    embedder.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if metric_network is not None:
        metric_network.to(device)
    counted = {name: searches[name] for name in photographed(searches)}
    features = embed_searches(embedder, start.preprocessing, counted)
    with score_searches(metric_network, features, counted) as scores:
        return held_out_scores(start.name, list(scores.values()), start.calibration)


def compare_with_start(
    recipe: Recipe,
    name: str,
    searches: Mapping[str, Search],
    scores: Mapping[str, SearchScores],
    calibration: Calibration,
    device: torch.device,
) -> tuple[Calibration, str]:
    """The calibration that the artefact gets, and how it compares with its start in sentences.

    Args:
        recipe: of the run, which has set `refuse_worse`.
        name: of the run.
        searches: by data set, the held-out people.
        scores: of the trained networks, by data set.
        calibration: fitted to these scores alone.
        device: where the start's networks run.

    Raises:
        InputProblem: where the trained networks are worse.
    """
    start = measure_start(recipe, searches, device)
    theirs = _start_of(recipe).calibration
    own = [scores[one] for one in photographed(searches)]
    if theirs is None:
        return calibration, require_improvement(start, held_out_scores(name, own, calibration))
    people = sum(len(np.unique(whose)) for _, whose in start.figures["cosine"]["mAP"])
    moments = impostor_moments(own, calibration)
    calibration = blended(calibration, moments, theirs, start.impostors, people)
    sentence = require_improvement(start, held_out_scores(name, own, calibration))
    if people < PEOPLE_OF_START:
        sentence += (
            f" Only {people} people were held out: the thresholds rest mostly on those of "
            f"{start.name}, and may find fewer people than the weights could; for thresholds of "
            f"the site's own hold out {PEOPLE_OF_START} people or more."
        )
    return calibration, sentence


def require_improvement(start: HeldOutScores, trained: HeldOutScores) -> str:
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

    def change(figure: str) -> tuple[Estimate, str]:
        ours = trained.figures[after][figure]
        theirs = start.figures[before][figure]
        pairs = zip(ours, theirs, strict=True)
        found = average_intervals([({"": one - base}, own) for (one, own), (base, _) in pairs])[""]
        mean, low, high = (100 * value for value in (found.mean, found.low, found.high))
        return found, f"{mean:+.1f} points [{low:+.1f}, {high:+.1f}]"

    def refuse(figures: str) -> InputProblem:
        return InputProblem(
            f"{trained.name}: no artefact is written: on the held-out people the new weights have "
            f"{figures}. {REMEDY}"
        )

    before = start.best
    after = trained.best
    ranking, shown = change("mAP")
    figures = (
        f"{100 * trained.mean(after, 'mAP'):.1f}% by {after}; {start.name} has "
        f"{100 * start.mean(before, 'mAP'):.1f}% by {before}: {shown}"
    )
    if ranking.mean < 0:
        raise refuse(f"mAP {figures}")
    sentence = f"On the held-out people mAP is {figures}."
    if "alarms" not in start.figures[before] or "alarms" not in trained.figures[after]:
        return sentence
    (rise, risen) = change("alarms")
    (gain, gained) = change("found")
    alarms = trained.mean(after, "alarms")
    figures = (
        f"{100 * alarms:.1f}% false alarms at {OPERATING_POINT} ({risen}) and find "
        f"{100 * trained.mean(after, 'found'):.1f}% of the people ({gained})"
    )
    asked = SEARCH_OPERATING_POINTS[OPERATING_POINT]
    if (alarms > asked and rise.low > 0) or gain.high < 0:
        raise refuse(figures)
    return f"{sentence} By the artefact's own thresholds they have {figures}."


def _start_of(recipe: Recipe) -> Start:
    start = read_start(recipe.initial_weights)
    if start is None:
        raise InputProblem(
            f"refuse_worse compares with initial_weights, and {recipe.initial_weights} gives no "
            "embedder; set initial_weights to an artefact or to a run's checkpoint, or "
            "refuse_worse=false"
        )
    return start
