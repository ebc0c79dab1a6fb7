"""The networks of a finished run, as its artefact stores them, and their features of searches."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.problems import InputProblem
from model.weights import round_as_stored
from training.batches import BatchMaker
from training.checkpoint import SavedWeights, run_identity
from training.datasets.record import CropRecord, Dataset
from training.evaluation.embedding import ProgressBar, SearchFeatures, embed_searches
from training.evaluation.scoring import SearchScores
from training.evaluation.searches import Search
from training.metric_fit import fit_metric_network
from training.networks import reestimate_batch_norm
from training.out_of_fold import Folds, fit_in_folds
from training.projection import add_projection, with_projection, without_projection
from training.recipe import Recipe
from training.run_folder import split_people

# M-Net's BatchNorm statistics are estimated from this many training batches.
STATISTICS_BATCHES = 50


@dataclass(frozen=True)
class TrainedRun:
    """A run that has trained, and its data.

    Attributes:
        recipe: the run's recipe.
        folder: the run's folder, where the artefact and its report are written.
        datasets: the data sets that it was trained on, including the people held out.
        command: the command line of the training, for the provenance.
    """

    recipe: Recipe
    folder: Path
    datasets: Sequence[Dataset]
    command: str

    @cached_property
    def records(self) -> Sequence[CropRecord]:
        """The training crops."""
        return split_people(self.recipe, self.datasets)[0]


@dataclass(frozen=True)
class MeasuredNetworks:
    """The networks of an artefact, and their features of the searches.

    Attributes:
        embedder, metric_network: as the artefact stores them; no M-Net is None.
        features: features of each search.
        pace: the number of crops that were embedded in a second.
        plain: features without the projection; None unless the run is measured out of fold.
        out_of_fold: scores of each search out of fold; None as `plain` is.
    """

    embedder: Embedder
    metric_network: MetricNetwork | None
    features: Mapping[str, SearchFeatures]
    pace: float
    plain: Mapping[str, SearchFeatures] | None = None
    out_of_fold: dict[str, SearchScores] | None = None


def load_networks(
    run: TrainedRun,
    weights: SavedWeights,
    searches: Mapping[str, Search],
    device: torch.device,
    folds: Folds | None,
    progress_bar: ProgressBar,
) -> MeasuredNetworks:
    """Load and complete the networks, rounded as an artefact stores them, and embed the searches.

    Args:
        run, weights: the run, and the weights of one of its checkpoints.
        searches: the searches to embed.
        device: the device of the networks.
        folds: the people of a run that is measured out of fold, else None.
        progress_bar: shows the progress of the long steps.
    """
    recipe = run.recipe
    embedder = _load_embedder(run, weights, device)
    shrinkage = recipe.projection_fit.shrinkage
    metric_network = None
    if folds is not None:
        embedder = without_projection(embedder)
    elif shrinkage:
        embedder = add_projection(
            embedder, recipe.preprocessing, run.records, shrinkage, progress_bar
        )
    if folds is None:
        metric_network = _complete_metric_network(run, weights, embedder, progress_bar)

    began = time.perf_counter()
    features = embed_searches(embedder, recipe.preprocessing, searches, progress_bar)
    crops = sum(len(search.records) for search in searches.values())
    pace = crops / (time.perf_counter() - began)
    if folds is None or shrinkage is None:
        return MeasuredNetworks(embedder, metric_network, features, pace)
    fit = fit_in_folds(folds, searches, features, shrinkage, progress_bar)
    projected = with_projection(embedder, fit.projection)
    return MeasuredNetworks(projected, None, fit.features, pace, features, fit.scores)


def _load_embedder(run: TrainedRun, weights: SavedWeights, device: torch.device) -> Embedder:
    if difference := weights.identity.differs_by(run_identity(run.recipe, run.records)):
        raise InputProblem(
            f"{weights.path}: was made with another {difference} than that of {run.folder} now; "
            "name a checkpoint of this run, or restore the data that it was trained on"
        )
    embedder = Embedder(run.recipe.embedder)
    embedder.load_state_dict(weights.part("embedder"))
    round_as_stored(embedder)
    return embedder.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload, no-any-return]


def _complete_metric_network(
    run: TrainedRun,
    weights: SavedWeights,
    embedder: Embedder,
    progress_bar: ProgressBar,
) -> MetricNetwork | None:
    """Fit M-Net again if the recipe says so, else estimate its BatchNorm statistics.

    None is returned for an M-Net that no loss has trained, because its scores would be noise.
    """
    recipe = run.recipe
    if not recipe.makes_metric_network:
        return None
    if recipe.metric_fit.steps:
        return fit_metric_network(embedder, run.records, recipe, progress_bar)
    device = next(embedder.parameters()).device
    metric_network = MetricNetwork(recipe.embedder.dimension, recipe.metric_network)
    metric_network.load_state_dict(weights.part("metric_network"))
    round_as_stored(metric_network)
    images = BatchMaker(run.records, recipe, device).plain_images(STATISTICS_BATCHES)
    reestimate_batch_norm(embedder, metric_network.to(device), images)
    return metric_network
