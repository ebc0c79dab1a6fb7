"""The `.npz` of features that `gmn embed` writes and `gmn score` reads; no pickle in it."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.artefact import Artefact
from model.problems import InputProblem
from training.datasets.record import CropRecord

FINGERPRINT = "embedding_fingerprint"


@dataclass(frozen=True)
class FeatureFile:
    """What `gmn score`, and a student of its features, need of a feature file.

    Attributes:
        path: where it was read from.
        features: `(n, d)` float32.
        fingerprint: of the embedder that made them, or a ready-made model's name; empty where the
            file does not say.
        paths: what each crop is called, n; empty where the file does not say.
    """

    path: Path
    features: NDArray[np.float32]
    fingerprint: str
    paths: tuple[str, ...] = ()

    def check_against(self, artefact: Artefact) -> None:
        """Refuses features of another embedder.

        Raises:
            InputProblem: naming the file and both sides of the disagreement.
        """
        dimension = artefact.embedder.config.dimension
        if self.features.shape[1] != dimension:
            raise InputProblem(
                f"{self.path}: its features have {self.features.shape[1]} dimensions, this "
                f"artefact's have {dimension}; run gmn embed with this artefact"
            )
        own = artefact.description.embedding_fingerprint
        if self.fingerprint and self.fingerprint != own:
            raise InputProblem(
                f"{self.path}: was embedded by {self.fingerprint[:12]}…, this artefact's embedder "
                f"is {own[:12]}…; run gmn embed with this artefact"
            )


def write_features(
    path: Path,
    features: NDArray[np.float32],
    records: Sequence[CropRecord],
    embedding_fingerprint: str,
) -> None:
    """Writes `features`, `paths`, `identities`, `cameras` and the embedder's fingerprint.

    Args:
        path: where to; an existing file is overwritten.
        features: `(n, d)` float32.
        records: whose they are, n; a drawn crop has its source for a path.
        embedding_fingerprint: of the artefact that made them, or the name of the model.
    """
    with path.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            features=features,
            paths=np.array([record.source for record in records], dtype=np.str_),
            identities=np.array([record.identity for record in records], dtype=np.str_),
            cameras=np.array([record.camera for record in records], dtype=np.str_),
            **{FINGERPRINT: np.array(embedding_fingerprint, dtype=np.str_)},
        )


def read_features(path: Path) -> FeatureFile:
    """Reads a feature file.

    Raises:
        InputProblem: for a file that is missing, damaged, or holds no `(n, d)` array `features`.
    """
    if not path.is_file():
        raise InputProblem(f"{path}: no such file; name one that gmn embed wrote")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not isinstance(arrays, np.lib.npyio.NpzFile) or "features" not in arrays:
                raise InputProblem(
                    f"{path}: holds no array named features; name a file that gmn embed wrote"
                )
            features = arrays["features"]
            fingerprint = str(arrays[FINGERPRINT]) if FINGERPRINT in arrays else ""
            paths = tuple(arrays["paths"].tolist()) if "paths" in arrays else ()
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, InputProblem):
            raise
        raise InputProblem(
            f"{path}: is not a readable .npz ({error}); run gmn embed again"
        ) from error
    if features.ndim != 2 or not np.issubdtype(features.dtype, np.floating):
        raise InputProblem(
            f"{path}: its features are {features.dtype} of shape {features.shape}, not floating "
            "point of shape (n, d); run gmn embed again"
        )
    return FeatureFile(path, np.ascontiguousarray(features, dtype=np.float32), fingerprint, paths)
