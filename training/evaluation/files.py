"""Write result files and artefacts atomically, and write and read files of features."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from model.arrays import Floats
from model.artefact import Artefact, Description, Tensors
from model.feature_file import (
    ABOUT,
    COLUMNS,
    UNREADABLE,
    FeatureFile,
    Origin,
    read_feature_file,
)
from model.problems import ArtefactProblem, InputProblem
from model.shards import shards_in

if TYPE_CHECKING:
    from model.embedder import Embedder
    from model.metric_network import MetricNetwork

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to, which replaces `path` once it is on disk.

    Raises:
        InputProblem: `path` cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Fail now, and not after hours of work.
        temporary.touch()
    except OSError as error:
        raise _unwritable(path, error) from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Create a folder for results if it does not exist.

    Raises:
        InputProblem: the folder cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(path: Path, error: OSError) -> InputProblem:
    return InputProblem(f"{path}: cannot be written ({error.strerror or error}); name another path")


def save_artefact(
    path: Path,
    description: Description,
    embedder: Embedder,
    metric_network: MetricNetwork | None,
    tensors: Tensors | None = None,
) -> Description:
    """Write an artefact atomically and return its description with the fingerprints.

    It gets an OpenVINO graph, unless OpenVINO is not installed or cannot run the embedder.

    Args:
        path: the file; an existing one is replaced.
        description: the description, whose fingerprints need not be set.
        embedder, metric_network: the networks; M-Net is None if the description has none. Matrices
            and kernels are stored as float16, vectors as float32.
        tensors: other tensors, such as fingerprints of the training crops.
    """
    # These modules import PyTorch, which commands that only read features do without.
    from model.openvino_graph import graph_tensors
    from model.weights import stored_tensors

    stored = (tensors or {}) | stored_tensors("embedder", embedder)
    if metric_network is not None:
        stored |= stored_tensors("metric_network", metric_network)
    artefact = Artefact(description, stored)
    graph: Tensors = {}
    try:
        # The artefact's own embedder has the weights as they are stored, rounded.
        graph = graph_tensors(artefact.embedder, description.preprocessing)
    except ArtefactProblem as problem:
        log.warning("%s: %s", path, problem)
    return artefact.save(path, graph)


def write_features(
    path: Path,
    features: Floats,
    columns: Mapping[str, Sequence[str]],
    origin: Origin,
    unreadable: Sequence[str] = (),
) -> None:
    """Write features, labels of their crops, and their origin.

    Args:
        path: the file; an existing one is overwritten.
        features: features `(n, d)` float32.
        columns: some of `COLUMNS`, n texts each.
        origin: origin of the features.
        unreadable: names of crops that could not be read, with the reasons.
    """
    texts = {**columns, **dict(zip(ABOUT, origin, strict=True)), UNREADABLE: unreadable}
    arrays = {name: np.array(text, dtype=np.str_) for name, text in texts.items()}
    with path.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            features=features,
            **arrays,
        )


def read_features(path: Path) -> FeatureFile:
    """Read a feature file, or a whole folder of shards as if it were one file.

    Raises:
        InputProblem: a file is missing or cannot be read, or the folder has no shards or shards of
            different origin.
    """
    if not path.is_dir():
        return read_feature_file(path)
    files = shards_in(path)
    if not files:
        raise InputProblem(f"{path}: holds no shard; name a file or folder of gmn embed")
    shards = [read_feature_file(file) for file in files]
    first = shards[0]
    for file, shard in zip(files, shards, strict=True):
        if shard.origin != first.origin or shard.features.shape[1] != first.features.shape[1]:
            raise InputProblem(
                f"{file}: was made by another artefact or of other crops than {files[0].name}; "
                "give the shards of each gmn embed a folder of their own"
            )
    columns = {
        name: tuple(text for shard in shards for text in shard.columns[name]) for name in COLUMNS
    }
    return FeatureFile(np.concatenate([shard.features for shard in shards]), first.origin, columns)
