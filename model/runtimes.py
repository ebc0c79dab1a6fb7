"""Runtimes, which compute features, and the check that they agree with the float32 network."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.artefact import Artefact
from model.openvino_loading import PROBES
from model.openvino_runtime import DtypeName, OpenVinoRuntime, RuntimeName, RuntimeUnusable
from model.precision import HAS_TORCH
from model.probes import drawn_patterns
from model.problems import ArtefactProblem

# The least cosine between a probe's feature and that of the float32 network in PyTorch.
AGREEMENT = 0.999


class EmbeddingRuntime(Protocol):
    """An embedder that is ready to compute features.

    Attributes:
        device: `cpu`, or as PyTorch names it, such as `cuda:0`.
    """

    name: RuntimeName
    dtype: DtypeName
    device: str

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""


def build_runtime(
    artefact: Artefact,
    name: RuntimeName,
    dtype: DtypeName,
) -> EmbeddingRuntime:
    """Build a runtime on the CPU for an artefact's embedder, which is not changed.

    Raises:
        RuntimeUnusable: PyTorch or OpenVINO is not installed, or the CPU lacks the dtype.
    """
    if name == "openvino":
        return OpenVinoRuntime(artefact, dtype)
    if not HAS_TORCH:
        raise RuntimeUnusable(
            "PyTorch is not installed; pip install 'gmn-reid[gpu]' in an environment of its own"
        )
    from model.torch_runtime import TorchRuntime

    return TorchRuntime(artefact, dtype)


class Probes:
    """Drawn patterns, and their features by the float32 network in PyTorch.

    Attributes:
        crops: the patterns, `(n, height, width, 3)` uint8 RGB.
    """

    def __init__(self, artefact: Artefact) -> None:
        self._artefact = artefact
        self.crops = drawn_patterns(artefact.description.preprocessing)
        features = artefact.tensors.get(PROBES)
        if features is None:
            features = self._features_by_torch()
        self._expected = features.astype(np.float64)

    def _features_by_torch(self) -> NDArray[np.float32]:
        embedder = self._artefact.embedder
        import torch

        normalise = self._artefact.description.preprocessing.normalise
        with torch.inference_mode():
            features = embedder(normalise(torch.from_numpy(self.crops)))
        return np.asarray(features.numpy(), np.float32)

    def agreeing(self, name: RuntimeName, dtype: DtypeName) -> EmbeddingRuntime:
        """Build a runtime that gives the features of the float32 network.

        Raises:
            RuntimeUnusable: it cannot be built, fails, or gives other features.
            ArtefactProblem: the artefact's graph is damaged.
        """
        try:
            runtime = build_runtime(self._artefact, name, dtype)
            cosine = self._cosine(runtime)
        except (RuntimeUnusable, ArtefactProblem):
            raise
        except Exception as error:
            # OpenVINO raises many kinds of errors for a step of the network that it does not know.
            lines = str(error).strip().splitlines() or [""]
            raise RuntimeUnusable(f"it failed ({type(error).__name__}: {lines[-1]})") from error
        if not cosine >= AGREEMENT:
            raise RuntimeUnusable(
                f"{name} in {dtype} gives other features here than the float32 network (cosine "
                f"{cosine:.6f})"
            )
        return runtime

    def _cosine(self, runtime: EmbeddingRuntime) -> float:
        """Return the least cosine of a feature with the expected one; NaN if one is not finite."""
        found = runtime.embed(self.crops).astype(np.float64)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(self._expected, axis=1)
        # A feature of length 0 in PyTorch is expected to have length 0.
        same = (found == self._expected).all(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = (found * self._expected).sum(axis=1) / lengths
        return float(np.where(same, 1.0, cosines).min())
