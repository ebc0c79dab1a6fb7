"""From trained networks to an artefact: measured and calibrated on the people held out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from model.artefact import Artefact, Description, save_artefact
from model.calibration import SCORINGS
from training.datasets.record import Dataset
from training.evaluation.calibrating import fit_from_pairs, score_search
from training.evaluation.embedding import ProgressBar, embed_search
from training.evaluation.evaluating import build_report, evaluate_search
from training.evaluation.protocols import held_out_people
from training.evaluation.report_page import write_report
from training.evaluation.results import DatasetResult, EvaluationReport
from training.provenance import describe_training
from training.recalibration import recalibrate_metric_network
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
        InputProblem: where a data set has nobody held out under two cameras, or a crop, starting
            weights or a teacher can no longer be read.
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
    provenance, fingerprints = describe_training(run.recipe, datasets, run.records, command)
    description = Description(
        embedder=run.recipe.embedder,
        metric_network=run.recipe.metric_network,
        preprocessing=run.recipe.preprocessing,
        calibration=fit_from_pairs(pairs, "held-out identities of " + ", ".join(photographed)),
        provenance=provenance,
    )
    artefact = Artefact(
        description, run.networks.embedder, run.networks.metric_network, fingerprints
    )
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
        training=fingerprints,
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
