"""From trained networks to an artefact: measured and calibrated on the people held out."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.artefact import Artefact, Description, Provenance, TrainingData, save_artefact
from model.calibration import SCORINGS
from training.datasets.record import CropRecord, Dataset
from training.evaluation.calibrating import fit_from_pairs, score_search
from training.evaluation.embedding import ProgressBar, embed_search
from training.evaluation.evaluating import build_report, evaluate_search
from training.evaluation.protocols import held_out_people
from training.evaluation.report_page import write_report
from training.evaluation.results import DatasetResult, EvaluationReport
from training.recalibration import recalibrate_metric_network
from training.recipe import Recipe
from training.run import Run

FILE_NAME = "model.safetensors"
DRAWN = "synthetic"


def finish_run(
    run: Run, datasets: Sequence[Dataset], command: str, progress_bar: ProgressBar
) -> EvaluationReport:
    """Settles M-Net's statistics, calibrates, measures, writes the artefact and its report.

    The calibration is fitted on photographed people where there are any: drawn ones are easier.

    Args:
        run: with trained networks.
        datasets: what it was trained on, with the people that were held out.
        command: the command line, for the provenance.
        progress_bar: shows how far the long steps are.

    Raises:
        InputProblem: where a data set has nobody held out under two cameras.
    """
    recalibrate_metric_network(run)
    held_out = run.recipe.held_out.model_dump()
    searches = {dataset.name: held_out_people(dataset, held_out) for dataset in datasets}
    photographed = [name for name in searches if name != DRAWN] or list(searches)
    features = {
        name: embed_search(run.networks.embedder, run.recipe.preprocessing, search)
        for name, search in searches.items()
    }
    pairs = [
        score_search(run.networks.metric_network, features[name], searches[name].labels())
        for name in photographed
    ]
    description = Description(
        embedder=run.recipe.embedder,
        metric_network=run.recipe.metric_network,
        preprocessing=run.recipe.preprocessing,
        calibration=fit_from_pairs(pairs, "held-out identities of " + ", ".join(photographed)),
        provenance=provenance(run.recipe, datasets, run.records, command),
    )
    artefact = Artefact(description, run.networks.embedder, run.networks.metric_network)
    # Without L_gmn nothing trains M-Net, and its figures would be noise.
    scorings = SCORINGS if run.recipe.losses.gmn else ("cosine",)
    results = [
        evaluate_search(
            artefact,
            dataset,
            searches[dataset.name],
            scorings,
            (),
            progress_bar,
            features[dataset.name],
        )
        for dataset in datasets
    ]
    measured = description.provenance.model_copy(update={"metrics": brief_metrics(results)})
    description = save_artefact(
        run.folder / FILE_NAME,
        description.model_copy(update={"provenance": measured}),
        run.networks.embedder,
        run.networks.metric_network,
    )
    report = build_report(FILE_NAME, description, "held-out", results, run.device)
    write_report(run.folder, report)
    return report


def brief_metrics(results: Sequence[DatasetResult]) -> dict[str, Any]:
    """By data set and scoring, each metric's mean and the ends of its 95% interval."""
    return {
        result.name: {
            "protocol": result.protocol,
            "queries": result.queries,
            "gallery": result.gallery,
            "identities": result.identities,
            **{
                scoring: {
                    name: [round(value, 4) for value in (figure.mean, figure.low, figure.high)]
                    for name, figure in found.metrics.items()
                }
                for scoring, found in result.scorings.items()
            },
        }
        for result in results
    }


def provenance(
    recipe: Recipe,
    datasets: Sequence[Dataset],
    records: Sequence[CropRecord],
    command: str,
) -> Provenance:
    """Where the artefact comes from; its metrics are measured later."""
    data = []
    for dataset in datasets:
        own = [record for record in records if record.dataset == dataset.name]
        data.append(
            TrainingData(
                name=dataset.name,
                spec=without_folders(dataset.spec) + _version(dataset),
                terms=dataset.terms,
                crops=len(own),
                identities=len({record.identity for record in own}),
                cameras=len({(record.domain, record.camera) for record in own}),
            )
        )
    weights = recipe.initial_weights
    stored = recipe.model_dump(mode="json")
    # Where a file lay on somebody's disk says nothing to others; its name does.
    stored["initial_weights"] = Path(weights).name
    stored["distillation"]["teachers"] = [Path(file).name for file in recipe.distillation.teachers]
    stored["distillation"]["cache"] = ""
    return Provenance(
        data=tuple(data),
        terms=recipe.terms or " ".join(dict.fromkeys(dataset.terms for dataset in datasets)),
        recipe=stored,
        command=command,
        commit=_commit(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        held_out=recipe.held_out.model_dump(),
        initial_weights=Path(weights).name,
        metrics={},
    )


def without_folders(word: str) -> str:
    """A word of a command line with paths cut to their last two names.

    Where data lay on somebody's disk does not belong into an artefact that travels.
    """
    # An option behind a spec's path also has "=", but no path behind it.
    marks = [mark for mark in "=:" if mark in word and "/" in word.rpartition(mark)[2]]
    if not marks and ("/" not in word or "=" in word or ":" in word):
        return word
    head, separator, path = word.rpartition(marks[0]) if marks else ("", "", word)
    return f"{head}{separator}{'/'.join(Path(path).parts[-2:]).lstrip('/')}"


def _version(dataset: Dataset) -> str:
    """Which version of a set it is, since a spec does not always say."""
    return f" ({dataset.version})" if dataset.version else ""


def _commit() -> str | None:
    try:
        found = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
