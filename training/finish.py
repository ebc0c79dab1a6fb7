"""From trained networks to an artefact: measured and calibrated on the people held out."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Description, Provenance, TrainingData, save_artefact
from model.calibration import Calibration, Scoring
from model.pair_scoring import cosine_similarities, score_pairs
from training.datasets.record import CropRecord, Dataset
from training.evaluation.calibrating import PairScores, collect_pairs, fit_from_pairs
from training.evaluation.embedding import embed_records
from training.evaluation.intervals import mean_interval
from training.evaluation.protocols import Search, held_out_people
from training.evaluation.ranking import rank_queries
from training.recalibration import recalibrate_metric_network
from training.recipe import Recipe
from training.trainer import Run

FILE_NAME = "model.safetensors"
DRAWN = "synthetic"


@dataclass(frozen=True)
class HeldOutScores:
    """One data set's held-out people, searched across cameras.

    Attributes:
        name: of the data set.
        search: who was searched among whom.
        cosine, mnet: `(Q, G)` float32.
    """

    name: str
    search: Search
    cosine: NDArray[np.float32]
    mnet: NDArray[np.float32]


def finish_run(run: Run, datasets: Sequence[Dataset], command: str) -> Description:
    """Settles M-Net's statistics, measures, calibrates and writes `model.safetensors`.

    The calibration is fitted on photographed people where there are any: drawn ones are easier.
    """
    recalibrate_metric_network(run)
    scored = [score_held_out(run, dataset) for dataset in datasets]
    photographed = [one for one in scored if one.name != DRAWN] or scored
    pairs = [collect_pairs(one.cosine, one.mnet, one.search.labels()) for one in photographed]
    calibration = fit_from_pairs(
        join_pairs(pairs), "held-out identities of " + ", ".join(one.name for one in photographed)
    )
    metrics = {one.name: held_out_metrics(one, calibration, run.recipe) for one in scored}
    description = Description(
        embedder=run.recipe.embedder,
        metric_network=run.recipe.metric_network,
        preprocessing=run.recipe.preprocessing,
        calibration=calibration,
        provenance=_provenance(run.recipe, datasets, run.records, command, metrics),
    )
    return save_artefact(
        run.folder / FILE_NAME, description, run.networks.embedder, run.networks.metric_network
    )


def score_held_out(run: Run, dataset: Dataset) -> HeldOutScores:
    """Embeds and scores the people of one data set that were held out of training."""
    search = held_out_people(dataset, run.recipe.held_out.model_dump())
    embedder, preprocessing = run.networks.embedder, run.recipe.preprocessing
    queries = embed_records(embedder, preprocessing, search.queries)
    gallery = embed_records(embedder, preprocessing, search.gallery)
    first = torch.from_numpy(queries).to(run.device)
    second = torch.from_numpy(gallery).to(run.device)
    mnet = score_pairs(run.networks.metric_network.eval(), first, second)
    cosine = cosine_similarities(first, second)
    return HeldOutScores(dataset.name, search, cosine.cpu().numpy(), mnet.cpu().numpy())


def join_pairs(pairs: Sequence[PairScores]) -> PairScores:
    """The pairs of several data sets as one."""
    return PairScores(
        *(
            np.concatenate([getattr(one, field) for one in pairs])
            for field in PairScores.__dataclass_fields__
        )
    )


def held_out_metrics(
    scored: HeldOutScores, calibration: Calibration, recipe: Recipe
) -> dict[str, Any]:
    """Metrics with 95% intervals, of cosine alone where the recipe trains no M-Net."""
    labels = scored.search.labels()
    matrices: dict[Scoring, NDArray[np.float32]] = {"cosine": scored.cosine}
    if recipe.losses.gmn:
        fused = calibration.fusion.fuse(scored.cosine, scored.mnet)
        matrices |= {"mnet": scored.mnet, "fused": fused}
    figures: dict[str, Any] = {
        "protocol": scored.search.protocol,
        "queries": len(scored.search.queries),
        "gallery": len(scored.search.gallery),
        "identities": len({record.identity for record in scored.search.records}),
    }
    for scoring, matrix in matrices.items():
        ranked = rank_queries(lambda rows, scores=matrix: scores[rows], labels)  # type: ignore[misc]
        figures[scoring] = {
            name: [round(figure, 4) for figure in (interval.mean, interval.low, interval.high)]
            for name, values in ranked.values().items()
            for interval in [mean_interval(values)]
        }
    return figures


def _provenance(
    recipe: Recipe,
    datasets: Sequence[Dataset],
    records: Sequence[CropRecord],
    command: str,
    metrics: dict[str, Any],
) -> Provenance:
    data = []
    for dataset in datasets:
        own = [record for record in records if record.dataset == dataset.name]
        data.append(
            TrainingData(
                name=dataset.name,
                spec=_without_folders(dataset.spec),
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
    return Provenance(
        data=tuple(data),
        terms=recipe.terms or " ".join(dict.fromkeys(dataset.terms for dataset in datasets)),
        recipe=stored,
        command=command,
        commit=_commit(),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        held_out=recipe.held_out.model_dump(),
        initial_weights=Path(weights).name,
        metrics=metrics,
    )


def _without_folders(spec: str) -> str:
    kind, _, path = spec.partition(":")
    return f"{kind}:{Path(path).name}"


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
