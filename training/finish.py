"""Make an artefact of a run's weights: calibrate and measure it on people held out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from model.artefact import Artefact, Description
from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.precision import choose_device
from model.problems import InputProblem
from model.weights import round_as_stored
from model.wording import counted
from training.batches import BatchMaker
from training.checkpoint import SavedWeights, read_weights, run_identity
from training.datasets.record import CropRecord, Dataset
from training.evaluation.calibration import calibrated_scores
from training.evaluation.embedding import ProgressBar, embed_searches
from training.evaluation.evaluate import build_report
from training.evaluation.evaluate_search import evaluate_search
from training.evaluation.files import save_artefact
from training.evaluation.report import write_report
from training.evaluation.results import DatasetResult, EvaluationReport
from training.evaluation.searches import (
    TRAINING_REMEDY,
    TWO_CAMERAS,
    Search,
    camera_name,
    held_out_people,
)
from training.metric_fit import fit_metric_network
from training.networks import reestimate_batch_norm
from training.projection import add_projection
from training.provenance import describe_training
from training.recipe import Recipe
from training.run_folder import ARTEFACT_NAME, BEST_NAME, CHECKPOINT_NAME, split_people
from training.seen import unseen_people
from training.start_comparison import compare_with_start
from training.validation import best_scoring, photographed, refuse_collapsed

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


def finish_run(
    run: TrainedRun,
    weights: SavedWeights,
    others: Sequence[Dataset],
    progress_bar: ProgressBar,
    device_name: str = "auto",
) -> EvaluationReport:
    """Complete M-Net, calibrate and measure the networks, and write the artefact and its report.

    The calibration is fitted on photographed people if there are any, because drawn people are
    easier to tell apart. Weights are rounded as the artefact stores them before anything is
    measured.

    Args:
        run: the trained run.
        weights: the weights of one of its checkpoints.
        others: data sets to measure and calibrate on instead of the people held out.
        progress_bar: shows the progress of the long steps.
        device_name: `auto`, `cpu` or `cuda`.

    Raises:
        InputProblem: the weights belong to another run, there are no people to measure on, a file
            can no longer be read, or the weights are worse than the initial ones and the recipe
            has `refuse_worse`.
    """
    recipe = run.recipe
    device = choose_device(device_name)
    if not others and not recipe.held_out.fraction:
        raise InputProblem(
            f"{run.folder}: its training held out no people; name people whom it was not trained "
            "on with gmn finish --data"
        )
    provenance, fingerprints = describe_training(recipe, run.datasets, run.records, run.command)
    searches: dict[str, Search] = {}
    for dataset in others:
        unseen = unseen_people(dataset, provenance, fingerprints)
        # The report says of these people that thresholds were fitted on them.
        searches[dataset.name] = replace(unseen, held_out=True)
    if not others:
        searches = held_out_searches(recipe, run.datasets)
    measured = others or run.datasets
    embedder, metric_network = _load_networks(run, weights, device, progress_bar)
    began = time.perf_counter()
    features = embed_searches(embedder, recipe.preprocessing, searches, progress_bar)
    crops = sum(len(search.records) for search in searches.values())
    pace = crops / (time.perf_counter() - began)
    refuse_collapsed(
        f"{weights.path}: no artefact is written (gmn finish {run.folder} --checkpoint last may do "
        "better)",
        features,
        metric_network,
    )
    fitted_on = photographed(searches)
    people = f"{'' if others else 'held-out '}identities of {', '.join(fitted_on)}"
    sentences = [describe_checkpoint(recipe, weights)]
    with calibrated_scores(
        metric_network,
        features,
        searches,
        fitted_on,
        people,
        progress_bar,
        run.folder,
    ) as (calibration, scores):
        if recipe.refuse_worse and not others:
            calibration, compared = compare_with_start(
                recipe,
                str(run.folder),
                searches,
                scores,
                calibration,
                device,
            )
            sentences.append(compared)
        description = Description(
            embedder=embedder.config,
            preprocessing=recipe.preprocessing,
            metric_network=recipe.metric_network if metric_network else None,
            calibration=calibration,
            provenance=provenance,
        )
        artefact = Artefact(description, fingerprints.tensors())
        results = [
            evaluate_search(
                artefact,
                dataset,
                searches[dataset.name],
                description.scorings,
                features[dataset.name],
                scores[dataset.name],
            )
            for dataset in measured
        ]
    description = _save(run.folder / ARTEFACT_NAME, artefact, embedder, metric_network, results)
    split = "all" if others else "held-out"
    checkpoint = " ".join(sentences)
    report = build_report(ARTEFACT_NAME, description, split, results, device, pace, checkpoint)
    write_report(run.folder, report, [searches[dataset.name] for dataset in measured])
    return report


def _save(
    path: Path,
    artefact: Artefact,
    embedder: Embedder,
    metric_network: MetricNetwork | None,
    results: list[DatasetResult],
) -> Description:
    """Write the artefact with its figures, and with the best scoring as its default."""
    figures = {
        result.name: {
            name: {"mAP": scoring.metrics["mAP"].mean} for name, scoring in result.scorings.items()
        }
        for result in results
    }
    description = artefact.description
    measured = description.provenance.model_copy(update={"metrics": brief_metrics(results)})
    return save_artefact(
        path,
        description.model_copy(update={"provenance": measured, "best": best_scoring(figures)[0]}),
        embedder,
        metric_network,
        artefact.tensors,
    )


def held_out_searches(recipe: Recipe, datasets: Sequence[Dataset]) -> dict[str, Search]:
    """Return the searches for held-out people, by data set, to measure and calibrate an artefact.

    Raises:
        InputProblem: no person of a data set is held out, or too few are seen by two cameras.
    """
    searches = {}
    for dataset in datasets:
        if len({camera_name(record) for record in dataset.records}) == 1:
            raise InputProblem(
                f"{dataset.spec}: all crops are of one camera; {TWO_CAMERAS}; add crops of other "
                "cameras, or set held_out.fraction=0 and calibrate the run by gmn finish --data"
            )
        held_out = recipe.held_out.model_dump()
        searches[dataset.name] = held_out_people(dataset, held_out, TRAINING_REMEDY)
        genuine, impostor = searches[dataset.name].labels().count_pairs()
        if genuine < 1 or impostor < 2:
            people = len({record.identity for record in searches[dataset.name].records})
            raise InputProblem(
                f"{dataset.spec}: the {people} people held out have {genuine} pairs of crops of "
                f"one person under two cameras and {impostor} of two people; at least 1 and 2 are "
                f"needed to measure and calibrate; {TRAINING_REMEDY}"
            )
    return searches


def choose_weights(folder: Path, checkpoint: str | None) -> SavedWeights:
    """Read the weights of a run's checkpoint.

    Args:
        folder: the run's folder.
        checkpoint: `best`, `last` or a file; None takes the best if the run was validated, else
            the last.

    Raises:
        InputProblem: the checkpoint is missing or damaged.
    """
    best = folder / BEST_NAME
    if checkpoint is None:
        checkpoint = "best" if best.exists() else "last"
    files = {"best": best, "last": folder / CHECKPOINT_NAME}
    return read_weights(files.get(checkpoint, Path(checkpoint)))


def describe_checkpoint(recipe: Recipe, weights: SavedWeights) -> str:
    """Say in a sentence which weights of the run the artefact has."""
    epochs = recipe.optimisation.epochs
    best = weights.validation
    if not best:
        return f"The weights of {weights.path.name}, after {counted(weights.done, 'step')}."
    return (
        f"The best weights, after epoch {best['epoch']:g} of {epochs}: {best['scoring']} has mAP "
        f"{100 * best['score']:.1f}% in the validation. They were chosen by held-out people, so "
        "that the figures of these people are slightly too high."
    )


def _load_networks(
    run: TrainedRun,
    weights: SavedWeights,
    device: torch.device,
    progress_bar: ProgressBar,
) -> tuple[Embedder, MetricNetwork | None]:
    """Load the networks, rounded as an artefact stores them, fit the projection, complete M-Net.

    M-Net is fitted again if the recipe says so; else its BatchNorm statistics are estimated. None
    is returned for an M-Net that no loss has trained, because its scores would be noise.
    """
    recipe = run.recipe
    if difference := weights.identity.differs_by(run_identity(recipe, run.records)):
        raise InputProblem(
            f"{weights.path}: was made with another {difference} than that of {run.folder} now; "
            "name a checkpoint of this run, or restore the data that it was trained on"
        )
    embedder = Embedder(recipe.embedder)
    embedder.load_state_dict(weights.part("embedder"))
    round_as_stored(embedder)
    embedder.to(device).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    if shrinkage := recipe.projection_fit.shrinkage:
        embedder = add_projection(embedder, recipe.preprocessing, run.records, shrinkage)
    if recipe.metric_fit.steps:
        return embedder, fit_metric_network(embedder, run.records, recipe, progress_bar)
    if "gmn" not in recipe.losses.on:
        return embedder, None
    metric_network = MetricNetwork(recipe.embedder.dimension, recipe.metric_network)
    metric_network.load_state_dict(weights.part("metric_network"))
    round_as_stored(metric_network)
    images = BatchMaker(run.records, recipe, device).plain_images(STATISTICS_BATCHES)
    reestimate_batch_norm(embedder, metric_network.to(device), images)
    return embedder, metric_network


def brief_metrics(results: Sequence[DatasetResult]) -> dict[str, Any]:
    """Return each metric's mean and 95% interval by data set and scoring, for the provenance."""
    datasets = {}
    for result in results:
        figures: dict[str, Any] = {
            "protocol": result.protocol,
            "queries": result.queries,
            "gallery": result.gallery,
            "identities": result.identities,
        }
        for scoring, measured in result.scorings.items():
            figures[scoring] = {
                name: [round(value, 4) for value in (figure.mean, figure.low, figure.high)]
                for name, figure in measured.metrics.items()
            }
        datasets[result.name] = figures
    return datasets
