"""Teachers of a distillation: ready-made models, and their features of the training crops."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch

from model.arrays import Floats
from model.artefact import load_artefact, resolve_artefact
from model.feature_file import Origin
from training.datasets.record import CropRecord
from training.distributed import Processes
from training.evaluation import peers
from training.evaluation.embedding import embed_records
from training.evaluation.files import (
    make_folder,
    read_features,
    replacing,
    write_features,
)
from training.provenance import crop_fingerprint, file_digest

REMEDY = "name a teacher's .xml, .onnx or .safetensors file in distillation.teachers"


def load_teacher_features(
    models: Sequence[str],
    records: Sequence[CropRecord],
    cache: Path,
    processes: Processes,
) -> list[torch.Tensor]:
    """Return every teacher's features of the training crops, computed or read from the cache.

    Args:
        models: files of ready-made models (`.xml`, `.onnx`) or artefacts (`.safetensors`).
        records: the training crops.
        cache: a folder that keeps features for other runs on the same crops.
        processes: the processes that train together; the main one computes the features.

    Returns:
        Features `(n, t)` float32 of unit length of each model, in the order of the crops.

    Raises:
        InputProblem: a model or a crop cannot be read.
    """
    teachers = []
    digest = hashlib.sha256()
    for record in records if models else ():
        digest.update(crop_fingerprint(record).to_bytes(8, "big", signed=True))
    for model in models:
        file = resolve_artefact(model)
        # With the digests neither another model of this name nor other crops find this file.
        model_digest = file_digest(file, REMEDY)[:12]
        cached = cache / f"{file.stem}-{model_digest}-{digest.hexdigest()[:12]}.npz"
        if processes.is_main and not cached.exists():
            features = _embed(file, records)
            make_folder(cache)
            with replacing(cached) as temporary:
                write_features(temporary, features, {}, Origin(file.stem))
        processes.barrier()
        kept = torch.from_numpy(read_features(cached).features)
        teachers.append(torch.nn.functional.normalize(kept, dim=1))
    return teachers


def _embed(model: Path, records: Sequence[CropRecord]) -> Floats:
    if model.suffix in peers.SUFFIXES:
        return peers.Peer(model).embed(records)
    artefact = load_artefact(model)
    return embed_records(artefact.embedder, artefact.description.preprocessing, records)
