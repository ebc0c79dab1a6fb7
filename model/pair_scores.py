"""M-Net's scores of pairs of features held in NumPy, computed by OpenVINO or by PyTorch."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from model.architecture import MetricNetworkConfig, PairFeatureKind, pair_factor
from model.artefact import Artefact
from model.openvino_loading import compiled, load_openvino
from model.problems import ArtefactProblem

# The epsilon of PyTorch's BatchNorm.
EPSILON = 1e-5
LAST_LAYER = {"two": 3, "linear": 0, "bn-linear": 1}
Float64 = NDArray[np.float64]


def unit_rows(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return features `(n, d)` at unit length."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, 1e-12), np.float32)


class PairScores(Protocol):
    """M-Net, ready to score pairs by the differences of their features.

    Attributes:
        kind: of the pair feature; the features have unit length before they are subtracted, except
            for `raw`.
    """

    kind: PairFeatureKind

    def scores_of(self, differences: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores `(n,)` float32 of differences `(n, d)`."""


class OpenVinoPairScores:
    """M-Net in OpenVINO, on one core.

    BatchNorm and the factor of the pair feature are multiplied into the first layer's weights, as
    in `model.metric_network.PairScorer`. A score does not depend on the other pairs of its pass.
    """

    def __init__(self, artefact: Artefact, pairs_per_pass: int) -> None:
        """Compiles M-Net for passes of one size, to which fewer pairs are padded.

        Raises:
            ArtefactProblem: the artefact lacks one of M-Net's tensors.
        """
        config = artefact.description.metric_network
        if config is None:
            raise ArtefactProblem(f"{artefact.source}: has no M-Net")
        self.kind = config.pair_feature
        self._pairs_per_pass = pairs_per_pass
        dimension = artefact.description.embedder.dimension
        options = {
            "INFERENCE_PRECISION_HINT": load_openvino().Type.f32,
            "INFERENCE_NUM_THREADS": 1,
            "ENABLE_CPU_PINNING": False,
        }
        graph = _graph(artefact, config, (pairs_per_pass, dimension))
        self._request = compiled(graph, options).create_infer_request()

    def scores_of(self, differences: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores `(n,)` float32 of differences `(n, d)`."""
        size = self._pairs_per_pass
        scores = [
            self._score_pass(differences[start : start + size])
            for start in range(0, len(differences), size)
        ]
        return np.concatenate(scores)

    def _score_pass(self, differences: NDArray[np.float32]) -> NDArray[np.float32]:
        padded = np.zeros((self._pairs_per_pass, differences.shape[1]), np.float32)
        padded[: len(differences)] = differences
        self._request.infer({0: padded})
        scores = self._request.get_output_tensor(0).data[: len(differences), 0]
        return np.array(scores, np.float32)


def _graph(artefact: Artefact, config: MetricNetworkConfig, shape: tuple[int, int]) -> Any:
    """Return M-Net as an OpenVINO graph, from differences of `shape` to scores `(n, 1)`."""
    openvino = load_openvino()
    from openvino import opset13 as operations

    differences = operations.parameter(list(shape), np.float32)
    if config.pair_feature == "abs":
        hidden = operations.abs(differences)
    else:
        hidden = operations.multiply(differences, differences)
    kernel, floor, weights, bias = _folded(artefact, config)
    if kernel is not None:
        hidden = operations.matmul(hidden, operations.constant(kernel), False, False)
        hidden = operations.maximum(hidden, operations.constant(floor[None]))
    scores = operations.matmul(hidden, operations.constant(weights[:, None]), False, False)
    scores = operations.add(scores, operations.constant(np.full((1, 1), bias, np.float32)))
    return openvino.Model([scores], [differences])


def _folded(
    artefact: Artefact, config: MetricNetworkConfig
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32], NDArray[np.float32], float]:
    """Fold M-Net into a kernel `(d, hidden)`, a floor `(hidden,)`, weights and a bias.

    A score is max(p · kernel, floor) · weights + bias, with p the squares or absolute values of
    the differences; without a kernel it is p · weights + bias.
    """
    factor = pair_factor(config.pair_feature, artefact.description.embedder.dimension)
    last = LAST_LAYER[config.layers]
    first_weight = _tensor(artefact, 0, "weight")
    first_bias = _tensor(artefact, 0, "bias")
    last_weight = _tensor(artefact, last, "weight")
    last_bias = _tensor(artefact, last, "bias")
    weights = last_weight[1] - last_weight[0]
    bias = float(last_bias[1] - last_bias[0])
    kernel: NDArray[np.float32] | None = None
    floor = np.empty(0, np.float32)
    if config.layers == "two":
        scale, mean = _normalisation(artefact, 1)
        shift = (first_bias - mean) * scale + _tensor(artefact, 1, "bias")
        kernel = np.ascontiguousarray((first_weight * scale[:, None] * factor).T, np.float32)
        # max(h + b, 0) = max(h, -b) + b
        floor = np.asarray(-shift, np.float32)
        bias -= float(weights @ floor.astype(np.float64))
    else:
        if config.layers == "bn-linear":
            scale, mean = _normalisation(artefact, 0)
            bias += float(weights @ (first_bias - mean * scale))
            weights = weights * scale
        weights = weights * factor
    return kernel, floor, np.asarray(weights, np.float32), bias


def _normalisation(artefact: Artefact, layer: int) -> tuple[Float64, Float64]:
    """Return a BatchNorm's scale and the mean that it subtracts first."""
    variance = _tensor(artefact, layer, "running_var")
    scale = _tensor(artefact, layer, "weight") / np.sqrt(variance + EPSILON)
    return scale, _tensor(artefact, layer, "running_mean")


def _tensor(artefact: Artefact, layer: int, name: str) -> Float64:
    full = f"metric_network.classifier.{layer}.{name}"
    if full not in artefact.tensors:
        raise ArtefactProblem(
            f"{artefact.source}: lacks the tensor {full}, which its architecture has; train it "
            "again"
        )
    return artefact.tensors[full].astype(np.float64)
