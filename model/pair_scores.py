"""M-Net's scores of pairs of features held in NumPy, computed by OpenVINO or by PyTorch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from model.architecture import MetricNetworkConfig, PairFeatureKind
from model.arrays import Floats
from model.artefact import Artefact
from model.metric_folding import fold
from model.openvino_loading import compiled, load_openvino
from model.problems import ArtefactProblem


class PairScores(Protocol):
    """M-Net, which scores pairs by the differences of their features.

    Attributes:
        kind: kind of the pair feature. Features of unit length are subtracted, except for `raw`.
    """

    kind: PairFeatureKind

    def scores_of(self, differences: Floats) -> Floats:
        """Return the scores `(n,)` float32 of differences `(n, d)`."""


class OpenVinoPairScores:
    """M-Net in OpenVINO, on one core; a score does not depend on the other pairs of its pass."""

    def __init__(
        self,
        artefact: Artefact,
        pairs_per_pass: int,
    ) -> None:
        """Compile M-Net for passes of one size, to which fewer pairs are padded.

        Raises:
            ArtefactProblem: the artefact has no M-Net.
        """
        config = artefact.description.metric_network
        if config is None:
            raise ArtefactProblem(f"{artefact.source}: has no M-Net")
        self.kind = config.pair_feature
        self._pairs_per_pass = pairs_per_pass
        dimension = artefact.description.embedder.dimension
        options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        graph = _graph(artefact, config, (pairs_per_pass, dimension))
        self._request = compiled(graph, options).create_infer_request()
        # An array given to `infer` would be dispatched and copied in Python.
        self._input = self._request.get_input_tensor(0).data
        self._output = self._request.get_output_tensor(0).data

    def scores_of(self, differences: Floats) -> Floats:
        """Return the scores `(n,)` float32 of differences `(n, d)`.

        One thread may call it at a time.
        """
        size = self._pairs_per_pass
        scores = np.empty(len(differences), np.float32)
        for start in range(0, len(differences), size):
            part = differences[start : start + size]
            self._input[: len(part)] = part
            self._input[len(part) :] = 0.0
            self._request.infer()
            scores[start : start + size] = self._output[: len(part), 0]
        return scores


def _graph(
    artefact: Artefact,
    config: MetricNetworkConfig,
    shape: tuple[int, int],
) -> Any:
    """Return M-Net as an OpenVINO graph, from differences of `shape` to scores `(n, 1)`."""
    openvino = load_openvino()
    from openvino import opset13 as operations

    differences = operations.parameter(list(shape), np.float32)
    hidden = operations.multiply(differences, differences)
    if config.pair_feature == "abs":
        hidden = operations.abs(differences)
    prefix = "metric_network.classifier."
    tensors = {
        name.removeprefix(prefix): tensor.astype(np.float64)
        for name, tensor in artefact.tensors.items()
        if name.startswith(prefix)
    }
    folded = fold(config, shape[1], tensors)
    if folded.kernel is not None:
        hidden = operations.matmul(hidden, operations.constant(folded.kernel), False, False)
        hidden = operations.maximum(hidden, operations.constant(folded.floor[None]))
    weights = operations.constant(folded.weights[:, None])
    bias = operations.constant(np.full((1, 1), folded.bias, np.float32))
    scores = operations.add(operations.matmul(hidden, weights, False, False), bias)
    return openvino.Model([scores], [differences])
