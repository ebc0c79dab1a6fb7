"""The comparison of a run's weights with those it started from, on the people held out.

Both rank the same queries, and both answer them by the thresholds of their artefacts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

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
from training.initial_weights import read_start
from training.recipe import Recipe
from training.validation import photographed

OPERATING_POINT = "far_1e-2"
ASKED_RATE = SEARCH_OPERATING_POINTS[OPERATING_POINT]
REMEDY = (
    "Train anew with a lower optimisation.learning_rate, fewer optimisation.epochs, a higher "
    "losses.anchor or more people. gmn finish tries another checkpoint of this run; --resume --set "
    "refuse_worse=false writes the artefact in any case"
)

# For each data set the value of every query, and the number of the person it shows.
Samples = Sequence[tuple[NDArray[np.float64], NDArray[np.int64]]]


@dataclass(frozen=True)
class HeldOutScores:
    """The figures of networks on the people held out.

    Attributes:
        name: the name of the run or of its start.
        figures: by scoring, `mAP`: the average precision of each query. If there is a calibration
            also, at `OPERATING_POINT`, `alarms`: whether a search without its person in the gallery
            would be answered `match`; and `found`: whether the person is first and a `match`, of
            the searches whose person is there.
        impostors: by scoring, moments of the scores of different people.
        calibration: gave the thresholds; None if there is none.
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
        """Return the mean over the data sets, each of which weighs the same."""
        return float(np.mean([values.mean() for values, _ in self.figures[scoring][figure]]))

    @property
    def best(self) -> Scoring:
        """The scoring with the highest mAP."""
        return max(self.figures, key=lambda scoring: self.mean(scoring, "mAP"))


def held_out_scores(
    name: str,
    domains: Sequence[SearchScores],
    calibration: Calibration | None,
) -> HeldOutScores:
    """Measure by cosine and, if there is an M-Net, by its scores.

    Args:
        name: the name of the run or of its start.
        domains: the scores of each data set's search.
        calibration: gives the thresholds; None if there is none.
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
) -> HeldOutScores:
    """Measure the networks that a run starts from.

    Args:
        recipe: the run's recipe.
        searches: by data set, the held-out people; if there are photographed ones, these alone
            count, since drawn ones are easier.
        device: the device of the networks.

    Raises:
        InputProblem: the recipe starts from no whole embedder.
    """
    start = read_start(recipe.initial_weights)
    if start is None:
        raise InputProblem(
            f"refuse_worse compares with initial_weights, and {recipe.initial_weights} gives no "
            "embedder; set initial_weights to an artefact or to a run's checkpoint, or "
            "refuse_worse=false"
        )
    embedder = start.embedder
    metric_network = start.metric_network
    embedder.to(device)
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
    """Return the calibration of the artefact, and sentences that compare it with its start.

    Args:
        recipe: the run's recipe, which has set `refuse_worse`.
        name: the name of the run.
        searches: by data set, the held-out people.
        scores: the scores of the trained networks, by data set.
        calibration: fitted to these scores alone.
        device: the device of the start's networks.

    Raises:
        InputProblem: the trained networks are worse.
    """
    start = measure_start(recipe, searches, device)
    domains = [scores[dataset] for dataset in photographed(searches)]
    earlier = start.calibration
    people = sum(len(np.unique(whose)) for _, whose in start.figures["cosine"]["mAP"])
    if earlier is not None:
        moments = impostor_moments(domains, calibration)
        calibration = blended(calibration, moments, earlier, start.impostors, people)
    sentence = require_improvement(start, held_out_scores(name, domains, calibration))
    if earlier is not None and people < PEOPLE_OF_START:
        sentence += (
            f" Only {people} people were held out: the thresholds rest mostly on those of "
            f"{start.name}, and may find fewer people than the weights could; for thresholds of "
            f"the site's own hold out {PEOPLE_OF_START} people or more."
        )
    return calibration, sentence


def require_improvement(start: HeldOutScores, trained: HeldOutScores) -> str:
    """Compare the best scoring of both, each data set weighing the same.

    Worse is a lower mAP; and, if both have thresholds, more false alarms than asked for or fewer
    people found, when the 95% interval of the difference over people excludes none.

    Args:
        start: the figures of the networks that a run started from.
        trained: the figures of its weights on the same people, by the name of its folder.

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
    rise, risen = change("alarms")
    gain, gained = change("found")
    alarms = trained.mean(after, "alarms")
    figures = (
        f"{100 * alarms:.1f}% false alarms at {OPERATING_POINT} ({risen}) and find "
        f"{100 * trained.mean(after, 'found'):.1f}% of the people ({gained})"
    )
    if (alarms > ASKED_RATE and rise.low > 0) or gain.high < 0:
        raise refuse(figures)
    return f"{sentence} By the artefact's own thresholds they have {figures}."
