"""Make an artefact of a run: calibrate and measure it on people held out, or out of fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.artefact import Artefact, Description
from model.calibration import Calibration
from model.precision import choose_device
from model.problems import InputProblem
from model.wording import counted
from training.checkpoint import SavedWeights, read_weights
from training.datasets.record import CropRecord, Dataset
from training.evaluation.calibration import calibrate_searches, calibrated_scores
from training.evaluation.embedding import ProgressBar
from training.evaluation.evaluate import build_report
from training.evaluation.evaluate_search import evaluate_search
from training.evaluation.files import save_artefact
from training.evaluation.report import write_report
from training.evaluation.results import DatasetResult, EvaluationReport
from training.evaluation.scoring import SearchScores
from training.evaluation.searches import (
    TRAINING_REMEDY,
    TWO_CAMERAS,
    Search,
    across_cameras,
    camera_name,
    held_out_people,
)
from training.finished_networks import MeasuredNetworks, TrainedRun, load_networks
from training.out_of_fold import deal_folds
from training.provenance import describe_training, fingerprints_of, weight_sources
from training.recipe import Recipe
from training.run_folder import ARTEFACT_NAME, BEST_NAME, CHECKPOINT_NAME
from training.seen import unseen_people
from training.start_comparison import compare_with_start
from training.validation import best_scoring, photographed, refuse_collapsed

FOLDED_REMEDY = "add people whom two cameras have seen"


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
    if not others and recipe.measures_nobody:
        raise InputProblem(
            f"{run.folder}: its training held out no people; name people whom it was not trained "
            "on with gmn finish --data"
        )
    with progress_bar("Reading the training crops", 0):
        provenance, fingerprints = describe_training(recipe, run.datasets, run.records, run.command)
    folds = deal_folds(run.records) if recipe.is_folded and not others else None
    searches: dict[str, Search] = {}
    for dataset in others:
        unseen = unseen_people(dataset, provenance, fingerprints)
        # The report says of these people that thresholds were fitted on them.
        searches[dataset.name] = replace(unseen, held_out=True)
    if not others:
        searches = searches_to_measure(recipe, run.datasets, run.records)
    measured = others or run.datasets
    networks = load_networks(run, weights, searches, device, folds, progress_bar)
    other = f" (gmn finish {run.folder} --checkpoint last may do better)"
    refuse_collapsed(
        f"{weights.path}: no artefact is written{other if recipe.optimisation.epochs else ''}",
        networks.features,
        networks.metric_network,
    )
    sentences = [describe_checkpoint(recipe, weights)]
    if folds is not None:
        sentences.append(folds.sentence)
    with _calibrated(run, networks, searches, bool(others), progress_bar) as (calibration, scores):
        if recipe.refuse_worse and not others:
            calibration, compared = compare_with_start(
                recipe,
                str(run.folder),
                searches,
                scores,
                calibration,
                device,
                progress_bar,
                networks.plain,
            )
            sentences.append(compared)
        description = Description(
            embedder=networks.embedder.config,
            preprocessing=recipe.preprocessing,
            metric_network=recipe.metric_network if networks.metric_network else None,
            calibration=calibration,
            provenance=provenance,
        )
        artefact = Artefact(description, fingerprints.tensors())
        judged = artefact
        if folds is not None:
            # Out of fold no fit has seen the people that it scores, but the start may have.
            inherited = fingerprints_of((), inherited=weight_sources(recipe)[1])
            judged = Artefact(description, inherited.tensors())
        with progress_bar("Computing the figures", 0):
            results = [
                evaluate_search(
                    judged,
                    dataset,
                    searches[dataset.name],
                    description.scorings,
                    networks.features[dataset.name],
                    scores[dataset.name],
                )
                for dataset in measured
            ]
    with progress_bar("Writing the artefact", 0):
        description = _save(run.folder / ARTEFACT_NAME, artefact, networks, results)
    split = "all" if others else "out of fold" if folds else "held-out"
    report = build_report(
        ARTEFACT_NAME, description, split, results, device, networks.pace, " ".join(sentences)
    )
    with progress_bar("Writing the report", 0):
        write_report(run.folder, report, [searches[dataset.name] for dataset in measured])
    return report


@contextmanager
def _calibrated(
    run: TrainedRun,
    networks: MeasuredNetworks,
    searches: Mapping[str, Search],
    of_others: bool,
    progress_bar: ProgressBar,
) -> Iterator[tuple[Calibration, dict[str, SearchScores]]]:
    """Fit a calibration, and score the searches; see `calibrated_scores`.

    Args:
        of_others: whether the searches are of other people than those that the run chose.
    """
    fitted_on = photographed(searches)
    people = f"identities of {', '.join(fitted_on)}"
    scores = networks.out_of_fold
    if scores is not None:
        with progress_bar("Calibrating", 0):
            domains = [scores[name] for name in fitted_on]
            calibration = calibrate_searches(domains, f"{people}, out of fold")
        yield calibration, scores
        return
    with calibrated_scores(
        networks.metric_network,
        networks.features,
        searches,
        fitted_on,
        people if of_others else f"held-out {people}",
        progress_bar,
        run.folder,
    ) as calibrated:
        yield calibrated


def _save(
    path: Path,
    artefact: Artefact,
    networks: MeasuredNetworks,
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
        networks.embedder,
        networks.metric_network,
        artefact.tensors,
    )


def searches_to_measure(
    recipe: Recipe,
    datasets: Sequence[Dataset],
    records: Sequence[CropRecord],
) -> dict[str, Search]:
    """Return the searches to measure and calibrate an artefact, by data set.

    Args:
        recipe: the run's recipe.
        datasets: the data sets that it trains on.
        records: its training crops.

    Returns:
        Searches for the people held out, or out of fold for those trained on; none if the run
        measures nobody.

    Raises:
        InputProblem: a data set has too few such people who are seen by two cameras.
    """
    if recipe.measures_nobody:
        return {}
    if not recipe.is_folded:
        return held_out_searches(recipe, datasets)
    deal_folds(records)
    searches = {}
    for dataset in datasets:
        own = [record for record in records if record.dataset == dataset.name]
        search = across_cameras(dataset.spec, own, remedy=f"{TWO_CAMERAS}; {FOLDED_REMEDY}")
        _require_pairs(dataset, search, "people", FOLDED_REMEDY)
        protocol = f"{search.protocol}, out of fold"
        searches[dataset.name] = replace(search, protocol=protocol, held_out=True)
    return searches


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
        _require_pairs(dataset, searches[dataset.name], "people held out", TRAINING_REMEDY)
    return searches


def _require_pairs(dataset: Dataset, search: Search, subject: str, remedy: str) -> None:
    genuine, impostor = search.labels().count_pairs()
    if genuine < 1 or impostor < 2:
        people = len({record.identity for record in search.records})
        raise InputProblem(
            f"{dataset.spec}: the {people} {subject} have {genuine} pairs of crops of one person "
            f"under two cameras and {impostor} of two people; at least 1 and 2 are needed to "
            f"measure and calibrate; {remedy}"
        )


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
    if not epochs:
        return f"The network is that of {Path(recipe.initial_weights).name}; no epoch was trained."
    if not best:
        return f"The weights of {weights.path.name}, after {counted(weights.done, 'step')}."
    return (
        f"The best weights, after epoch {best['epoch']:g} of {epochs}: {best['scoring']} has mAP "
        f"{100 * best['score']:.1f}% in the validation. They were chosen by held-out people, so "
        "that the figures of these people are slightly too high."
    )


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
