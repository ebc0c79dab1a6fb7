"""Teachers: ready-made models whose features of the training crops a student learns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import load_artefact, resolve_artefact
from model.feature_file import Origin, read_features, write_features
from training.datasets.record import CropRecord
from training.distributed import Processes
from training.evaluation import peers
from training.evaluation.embedding import embed_records
from training.evaluation.files import make_folder, replacing
from training.provenance import crop_fingerprint, file_digest

REMEDY = "name a teacher's .xml, .onnx or .safetensors file in distillation.teachers"


def load_teacher_features(
    models: Sequence[str],
    records: Sequence[CropRecord],
    cache: Path,
    processes: Processes,
) -> list[torch.Tensor]:
    """Return every teacher's features of the training crops; each crop is shown to it once.

    Args:
        models: files of ready-made models (`.xml`, `.onnx`) or artefacts (`.safetensors`).
        records: the training crops.
        cache: a folder where features are kept by the crops' contents, for the next run.
        processes: the processes that train together; the leading one asks the teachers.

    Returns:
        For each model `(n, t)` float32 of unit length, in the order of the crops.

    Raises:
        InputProblem: for a model that cannot be read, or a crop.
    """
    # Crops are named by content: a file that has changed is another crop.
    names = [str(crop_fingerprint(record)) for record in records] if models else []
    teachers = []
    for model in models:
        file = resolve_artefact(model)
        # The digest tells another model with the same name apart.
        cached = cache / f"{file.stem}-{file_digest(file, REMEDY)[:12]}.npz"
        if processes.is_main:
            _ask(file, dict(zip(names, records, strict=True)), cached)
        processes.barrier()
        known = read_features(cached, ["paths"])
        place = {crop: row for row, crop in enumerate(known.paths)}
        features = known.features[[place[name] for name in names]]
        teachers.append(torch.nn.functional.normalize(torch.from_numpy(features), dim=1))
    return teachers


def _ask(model: Path, crops: Mapping[str, CropRecord], cached: Path) -> None:
    """Add the features of crops that are not cached yet, by the crops' names."""
    new = dict(crops)
    known = read_features(cached, ["paths"]) if cached.exists() else None
    if known:
        for name in known.paths:
            new.pop(name, None)
    if not new:
        return
    features = _embed(model, list(new.values()))
    names = list(new)
    if known:
        features = np.concatenate([known.features, features])
        names = [*known.paths, *names]
    make_folder(cached.parent)
    with replacing(cached) as beside:
        write_features(beside, features, {"paths": names}, Origin(model.stem))


def _embed(model: Path, records: Sequence[CropRecord]) -> NDArray[np.float32]:
    if model.suffix in peers.SUFFIXES:
        return peers.Peer(model).embed(records)
    artefact = load_artefact(model)
    return embed_records(artefact.embedder, artefact.description.preprocessing, records)
