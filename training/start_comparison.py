"""Compare a run's weights with its initial weights, on the people held out or out of fold.

Both rank the same queries, and both answer them by the thresholds of their own artefact.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from model.arrays import Array, Codes
from model.calibration import SEARCH_OPERATING_POINTS, Calibration, Scoring
from model.problems import InputProblem
from model.wording import counted
from training.evaluation.blending import PEOPLE_OF_START, Moments, blended, impostor_moments
from training.evaluation.embedding import ProgressBar, SearchFeatures, embed_searches, no_bar
from training.evaluation.intervals import Estimate, average_intervals
from training.evaluation.metrics import rank_queries
from training.evaluation.scoring import SearchScores, score_searches
from training.evaluation.searches import Search
from training.evaluation.sweep import sweep
from training.initial_weights import read_start
from training.recipe import Recipe
from training.validation import photographed

OPERATING_POINT = "far_1e-2"
ASKED_RATE = SEARCH_OPERATING_POINTS[OPERATING_POINT]
TRAINING_REMEDY = (
    "Train again with a lower optimisation.learning_rate, fewer optimisation.epochs, a higher "
    "losses.anchor or more people. gmn finish tries another checkpoint of this run"
)
FIT_REMEDY = "Fit again with a higher projection_fit.shrinkage or with more people"
# All of five people lose by chance in one of 32 comparisons, which no resampling of them tells.
LEAST_PEOPLE = 6

# For each data set: a value for every query, and the number of the person in the query.
Samples = Sequence[tuple[Array, Codes]]


@dataclass(frozen=True)
class HeldOutScores:
    """The figures of networks on the people that a run measures.

    Attributes:
        name: the name of the run, or of the artefact that it started from.
        figures: figures of each query, by scoring. `mAP` is its average precision. With a
            calibration there are two more, for thresholds at `OPERATING_POINT`: `alarms` is 1 if
            a search without the person in the gallery is answered `match`; `found` is 1 if the
            person, who is in the gallery, ranks first and is a `match`.
        impostors: mean and deviation of impostor scores, by scoring.
        calibration: the calibration of the thresholds; None if there is none.
    """

    name: str
    figures: Mapping[Scoring, Mapping[str, Samples]]
    impostors: Mapping[Scoring, Moments] = field(default_factory=dict)
    calibration: Calibration | None = None

    def mean(
        self,
        scoring: Scoring,
        figure: str,
    ) -> float:
        """Return the mean over the data sets, which weigh the same."""
        return float(np.mean([values.mean() for values, _ in self.figures[scoring][figure]]))

    @property
    def best(self) -> Scoring:
        return max(self.figures, key=lambda scoring: self.mean(scoring, "mAP"))


def held_out_scores(
    name: str,
    domains: Sequence[SearchScores],
    calibration: Calibration | None,
) -> HeldOutScores:
    """Compute the figures of every scoring from the scores of searches.

    Args:
        name: the name of the run, or of the artefact that it started from.
        domains: the scores of each data set's search.
        calibration: the calibration of the thresholds; None if there is none.
    """
    figures: dict[Scoring, dict[str, list[Any]]] = {}
    for domain in domains:
        labels = domain.labels
        for scoring, rows in domain.by_scoring.items():
            samples = figures.setdefault(scoring, defaultdict(list))
            ranked = rank_queries(rows, labels)
            people = labels.query_identities[ranked.queries]
            samples["mAP"].append((ranked.average_precision, people))
            if calibration is not None:
                extremes = sweep(rows, labels)
                thresholds = extremes.thresholds(calibration.scorings[scoring], ASKED_RATE)
                alarms = extremes.false_alarms(thresholds)
                samples["alarms"].append((alarms, extremes.identities))
                detections = extremes.detections(thresholds)
                present = extremes.identities[extremes.present]
                samples["found"].append((detections, present))
    if calibration is None:
        return HeldOutScores(name, figures)
    return HeldOutScores(name, figures, impostor_moments(domains, calibration), calibration)


def measure_start(
    recipe: Recipe,
    searches: Mapping[str, Search],
    device: torch.device,
    progress_bar: ProgressBar = no_bar,
    plain: Mapping[str, SearchFeatures] | None = None,
) -> HeldOutScores:
    """Measure the networks that a run starts from.

    Args:
        recipe: the run's recipe.
        searches: the searches for the people measured, by data set. Drawn people, who are easier,
            count only if there are no photographed ones.
        device: the device of the networks.
        progress_bar: shows the progress of the long steps.
        plain: features of the searches by the network of a run without an epoch, before its
            projection; None of any other run.

    Raises:
        InputProblem: the recipe does not start from an artefact.
    """
    start = read_start(recipe.initial_weights)
    if start is None:
        raise InputProblem(
            f"refuse_worse compares with an initial embedder, and "
            f"initial_weights={recipe.initial_weights} has none; set initial_weights to an "
            "artefact, or refuse_worse=false"
        )
    embedder = start.embedder
    metric_network = start.metric_network
    embedder.to(device)
    if metric_network is not None:
        metric_network.to(device)
    counted = {name: searches[name] for name in photographed(searches)}
    is_plain = embedder.config.projection is None and start.preprocessing == recipe.preprocessing
    if plain is not None and is_plain:
        features = {name: plain[name] for name in counted}
    else:
        features = embed_searches(embedder, start.preprocessing, counted, progress_bar)
    with (
        score_searches(metric_network, features, counted, progress_bar) as scores,
        progress_bar(f"Measuring {start.name}", 0),
    ):
        return held_out_scores(start.name, list(scores.values()), start.calibration)


def compare_with_start(
    recipe: Recipe,
    name: str,
    searches: Mapping[str, Search],
    scores: Mapping[str, SearchScores],
    calibration: Calibration,
    device: torch.device,
    progress_bar: ProgressBar = no_bar,
    plain: Mapping[str, SearchFeatures] | None = None,
) -> tuple[Calibration, str]:
    """Return the artefact's calibration, blended with its start's, and a comparison in sentences.

    Args:
        recipe: the run's recipe, which has `refuse_worse`.
        name: the name of the run.
        searches: the searches for the people measured, by data set.
        scores: the scores of the trained networks, by data set.
        calibration: the calibration that was fitted to these scores alone.
        device: the device for the initial networks.
        progress_bar: shows the progress of the long steps.
        plain: see `measure_start`.

    Raises:
        InputProblem: the trained networks are worse.
    """
    start = measure_start(recipe, searches, device, progress_bar, plain)
    domains = [scores[dataset] for dataset in photographed(searches)]
    earlier = start.calibration
    people = sum(len(np.unique(whose)) for _, whose in start.figures["cosine"]["mAP"])
    with progress_bar("Comparing with the start", 0):
        if earlier is not None:
            moments = impostor_moments(domains, calibration)
            calibration = blended(calibration, moments, earlier, start.impostors, people)
        trained = held_out_scores(name, domains, calibration)
        sentence = require_improvement(recipe, start, trained)
    if earlier is not None and people < PEOPLE_OF_START:
        measured = "measured" if recipe.is_folded else "held out"
        remedy = "fit to" if recipe.is_folded else "hold out"
        sentence += (
            f" Only {counted(people, 'person was', 'people were')} {measured}: the thresholds "
            f"depend mostly on those of {start.name}, and may find fewer people than the weights "
            f"could; for thresholds of the site's own, {remedy} {PEOPLE_OF_START} people or more."
        )
    return calibration, sentence


def require_improvement(recipe: Recipe, start: HeldOutScores, trained: HeldOutScores) -> str:
    """Refuse trained networks that are worse than the initial ones, each by its best scoring.

    They are worse if their mAP is lower and the 95% interval of the difference over people excludes
    0. If both have thresholds, they are also worse if they raise more false alarms than asked for
    or find fewer people, by the same rule. Data sets weigh the same. Fewer than `LEAST_PEOPLE`
    people show nothing.

    Args:
        recipe: the run's recipe.
        start: the figures of the networks that a run started from.
        trained: the figures of its weights on the same people; its name is the run's folder.

    Returns:
        The comparison in sentences, with 95% intervals over people.

    Raises:
        InputProblem: the trained networks are worse.
    """

    def change(figure: str) -> tuple[Estimate, str]:
        ours = trained.figures[after][figure]
        theirs = start.figures[before][figure]
        differences = []
        for (values, people), (earlier, _) in zip(ours, theirs, strict=True):
            differences.append(({figure: values - earlier}, people))
        estimate = average_intervals(differences)[figure]
        interval = f"[{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
        return estimate, f"{100 * estimate.mean:+.1f} points {interval}"

    def refuse(figures: str) -> InputProblem:
        return InputProblem(
            f"{trained.name}: no artefact is written: {where} the new weights have {figures}. "
            f"{TRAINING_REMEDY if recipe.optimisation.epochs else FIT_REMEDY}; --resume --set "
            "refuse_worse=false writes the artefact in any case"
        )

    where = "out of fold" if recipe.is_folded else "on the held-out people"
    before = start.best
    after = trained.best
    people = sum(len(np.unique(whose)) for _, whose in start.figures[before]["mAP"])
    suffice = people >= LEAST_PEOPLE
    ranking, shown = change("mAP")
    figures = (
        f"{100 * trained.mean(after, 'mAP'):.1f}% by {after}; {start.name} has "
        f"{100 * start.mean(before, 'mAP'):.1f}% by {before}: {shown}"
    )
    if suffice and ranking.high < 0:
        raise refuse(f"mAP {figures}")
    sentence = f"{where.capitalize()} mAP is {figures}."
    if ranking.low <= 0 <= ranking.high or not suffice:
        sentence += " This shows neither a gain nor a loss."
    if "alarms" not in start.figures[before] or "alarms" not in trained.figures[after]:
        return sentence
    rise, risen = change("alarms")
    gain, gained = change("found")
    alarms = trained.mean(after, "alarms")
    figures = (
        f"{100 * alarms:.1f}% false alarms at {OPERATING_POINT} ({risen}) and find "
        f"{100 * trained.mean(after, 'found'):.1f}% of the people ({gained})"
    )
    if suffice and ((alarms > ASKED_RATE and rise.low > 0) or gain.high < 0):
        raise refuse(figures)
    return f"{sentence} By the artefact's own thresholds they have {figures}."
