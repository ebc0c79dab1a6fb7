"""Validation on held-out people while a run trains, and `best.pt` with its best weights."""

from __future__ import annotations

import copy
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from model.collapse import CollapsedModel, refuse_collapse
from model.metric_network import MetricNetwork, TorchPairScores
from model.problems import InputProblem
from training.checkpoint import Position, read_weights, save_best
from training.datasets.drawn import DRAWN
from training.datasets.protocols import limit_identities
from training.datasets.record import Dataset
from training.evaluation.embedding import SearchFeatures, embed_searches, gallery_samples
from training.evaluation.metrics import rank_queries
from training.evaluation.scoring import score_searches
from training.evaluation.searches import (
    TRAINING_REMEDY,
    Search,
    across_cameras,
    camera_name,
    held_out_people,
)
from training.networks import TrainedNetworks, reestimate_batch_norm
from training.recipe import Recipe
from training.run import Run
from training.run_folder import BEST_NAME, RunLog

# For a validation M-Net's BatchNorm statistics are estimated from this many training batches.
BATCHES = 8
# `mAP` and `rank_1`, 0 to 1, by data set and scoring.
Figures = dict[str, dict[str, dict[str, float]]]


def validation_searches(recipe: Recipe, datasets: Sequence[Dataset]) -> dict[str, Search]:
    """Choose the held-out people to validate on, by data set; none if the recipe does not validate.

    Raises:
        InputProblem: no held-out person of a data set is seen by two cameras.
    """
    settings = recipe.validation
    if not settings.every_epochs or not recipe.held_out.fraction:
        return {}
    searches = {}
    for dataset in datasets:
        chosen_by = recipe.held_out.model_dump()
        held_out = held_out_people(dataset, chosen_by, TRAINING_REMEDY).records
        cameras: dict[str, set[str]] = defaultdict(set)
        for record in held_out:
            cameras[record.identity].add(camera_name(record))
        seen_twice = [record for record in held_out if len(cameras[record.identity]) > 1]
        if not seen_twice:
            raise InputProblem(
                f"{dataset.spec}: none of the held-out people is seen by two cameras; raise "
                "held_out.fraction, or set validation.every_epochs=0"
            )
        # A few crops of each person under each camera are enough to compare epochs.
        crops: Counter[tuple[str, str]] = Counter()
        chosen = []
        for record in limit_identities(seen_twice, settings.identities, recipe.held_out.seed):
            place = (record.identity, camera_name(record))
            crops[place] += 1
            if crops[place] <= settings.crops:
                chosen.append(record)
        searches[dataset.name] = across_cameras(dataset.spec, chosen)
    return searches


def photographed(datasets: Iterable[str]) -> list[str]:
    """Return the names of the photographed data sets, or all names if every set is drawn."""
    names = list(datasets)
    return [name for name in names if name not in DRAWN] or names


def best_scoring(figures: Figures) -> tuple[str, float]:
    """Return the scoring with the highest mean mAP over the data sets, and that mean.

    Drawn people are easier to find, and count only if there is no photographed data set.
    """
    counted = [figures[name] for name in photographed(figures)]
    means = {}
    for scoring in counted[0]:
        values = [scorings[scoring]["mAP"] for scorings in counted]
        means[scoring] = float(np.mean(values))
    best = max(means, key=lambda scoring: means[scoring])
    return best, means[best]


def refuse_collapsed(
    name: str,
    features: Mapping[str, SearchFeatures],
    metric_network: MetricNetwork | None,
) -> None:
    """Refuse networks that give all crops the same feature, or all pairs the same score.

    Raises:
        CollapsedModel: the networks have collapsed; the message begins with `name`.
    """
    pair_scores = TorchPairScores(metric_network) if metric_network else None
    refuse_collapse(name, gallery_samples(features.values()), pair_scores)


class Validation:
    """Validates a run's networks: measures and logs them, and saves the best weights."""

    def __init__(
        self,
        run: Run,
        searches: Mapping[str, Search],
        notice: Callable[[str], None],
    ) -> None:
        """Read the score of the best weights in the run's folder, if there are any.

        Args:
            run: the run; its recipe says how often to validate.
            searches: the result of `validation_searches`; if empty, nothing is measured.
            notice: called with a line for every validation.
        """
        self._run = run
        self._notice = notice
        self._searches = searches
        self._best = self._kept_score()

    def due(self, position: Position) -> bool:
        """Return whether to validate before a step; always False in all but the main process."""
        settings = self._run.recipe.validation
        epochs = self._run.recipe.optimisation.epochs
        if not self._searches or not self._run.processes.is_main:
            return False
        if position.step == 0:
            return position.epoch % settings.every_epochs == 0 or position.epoch == epochs
        return settings.every_steps is not None and position.done % settings.every_steps == 0

    def measure(
        self,
        position: Position,
        steps: int,
        log: RunLog,
    ) -> None:
        """Measure and log the networks, and save their weights if they are the best so far.

        Args:
            position: the next step.
            steps: the number of steps of this epoch.
            log: the log of the run.
        """
        began = time.perf_counter()
        # A copy is measured, since neither statistics nor mode of the trained networks may change.
        networks = copy.deepcopy(self._run.networks)
        figures, collapsed = self._figures(networks)
        scoring, score = best_scoring(figures)
        best = not collapsed and (self._best is None or score > self._best)
        epoch = round(position.epoch + position.step / steps, 4)
        if best:
            self._best = score
            validation = {
                "epoch": epoch,
                "scoring": scoring,
                "score": score,
                "figures": figures,
            }
            save_best(self._run.folder, networks, position, validation, self._run.identity)
        # The line has the number of the last step done. If it had that of the next step, a resumed
        # run would drop it.
        log.write(
            "validation",
            position.done - 1,
            epoch=epoch,
            mAP=_flat(figures, "mAP"),
            rank_1=_flat(figures, "rank_1"),
            scoring=scoring,
            score=round(score, 4),
            best=best,
            collapsed=collapsed,
            seconds=round(time.perf_counter() - began, 1),
        )
        remark = "; collapsed, every crop has nearly the same feature" if collapsed else ""
        self._notice(f"epoch {epoch:g}: {summary(figures)}{'; the best' if best else remark}")

    def _figures(self, networks: TrainedNetworks) -> tuple[Figures, bool]:
        # The second value says whether the networks have collapsed.
        recipe = self._run.recipe
        metric_network = None
        networks.eval()
        # An M-Net that is fitted after the training replaces this one.
        if "gmn" in recipe.losses.on and not recipe.metric_fit.steps:
            metric_network = networks.metric_network
            images = self._run.batches.plain_images(BATCHES)
            reestimate_batch_norm(networks.embedder, metric_network, images)
        features = embed_searches(networks.embedder, recipe.preprocessing, self._searches)
        figures: Figures = {}
        with score_searches(metric_network, features, self._searches) as scored:
            for name, scores in scored.items():
                figures[name] = {}
                for scoring, rows in scores.by_scoring.items():
                    means = rank_queries(rows, scores.labels).means()
                    figures[name][scoring] = {"mAP": means["mAP"], "rank_1": means["rank_1"]}
        try:
            refuse_collapsed("these weights", features, metric_network)
        except CollapsedModel:
            return figures, True
        return figures, False

    def _kept_score(self) -> float | None:
        """Return the best score that this run had before it was resumed."""
        path = self._run.folder / BEST_NAME
        if not self._searches or not self._run.processes.is_main or not path.exists():
            return None
        try:
            saved = read_weights(path)
        except InputProblem as problem:
            self._notice(f"{problem}; the next validation replaces it")
            return None
        # Scores on other people cannot be compared.
        if saved.identity.recipe.validation != self._run.recipe.validation:
            return None
        return float(saved.validation["score"])


def summary(figures: Figures) -> str:
    """Format figures as `cuhk01 cosine mAP 71.2 Rank-1 69.0, mnet mAP 72.0 Rank-1 70.1`."""
    datasets = []
    for name, scorings in figures.items():
        shown = [
            f"{scoring} mAP {100 * means['mAP']:.1f} Rank-1 {100 * means['rank_1']:.1f}"
            for scoring, means in scorings.items()
        ]
        datasets.append(f"{name} {', '.join(shown)}")
    return "; ".join(datasets)


def _flat(figures: Figures, metric: str) -> dict[str, float]:
    return {
        f"{name}/{scoring}": round(means[metric], 4)
        for name, scorings in figures.items()
        for scoring, means in scorings.items()
    }
