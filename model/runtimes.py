"""Runtimes, which compute features, and the check that they agree with the float32 network."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import zlib
from typing import Any, Protocol

import numpy as np

from model.arrays import Floats, Pixels
from model.artefact import Artefact
from model.openvino_loading import GRAPH_STRUCTURE, GRAPH_WEIGHTS, PROBES, compiled, load_openvino
from model.precision import HAS_TORCH, DtypeName, RuntimeName
from model.preprocessing import drawn_patterns
from model.problems import ArtefactProblem

# The least cosine between a probe's feature and that of the float32 network in PyTorch.
AGREEMENT = 0.999
# Multiplications of one crop. Beside a network of fewer, the interpreter takes as much of a core as
# the network does, and every request waits for a thread that holds its lock. Threads that compute
# such a network let that thread go first; a larger network is slower for it.
SMALL_NETWORK = 500_000_000
NICENESS = 10


class RuntimeUnusable(RuntimeError):
    """A runtime that cannot compute the features on this machine; the message gives the reason."""


class EmbeddingRuntime(Protocol):
    """An embedder that is ready to compute features.

    Attributes:
        device: `cpu`, or as PyTorch names it, such as `cuda:0`.
    """

    name: RuntimeName
    dtype: DtypeName
    device: str

    def embed(self, crops: Pixels) -> Floats:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""


class OpenVinoRuntime:
    """The embedder in OpenVINO, on the CPU.

    Crops go through one at a time, several at once: as fast as in batches, and a feature does not
    depend on the batch of its crop.
    """

    name: RuntimeName = "openvino"
    device = "cpu"

    def __init__(self, artefact: Artefact, dtype: DtypeName) -> None:
        try:
            openvino = load_openvino()
        except ModuleNotFoundError as error:
            raise RuntimeUnusable(
                "OpenVINO is not installed; pip install 'gmn-reid[serve]'"
            ) from error
        self.dtype = dtype
        graph = read_graph(artefact)
        precision = openvino.Type.bf16 if dtype == "bfloat16" else openvino.Type.f32
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": precision,
        }
        if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
            # As in PyTorch. Without it processes that share a machine share the same cores.
            options |= {"INFERENCE_NUM_THREADS": int(threads), "ENABLE_CPU_PINNING": False}
        niceness = NICENESS if _multiplications(graph) < SMALL_NETWORK else 0
        network = compiled(graph, options, niceness)
        if network.get_property("INFERENCE_PRECISION_HINT") != precision:
            raise RuntimeUnusable("this CPU does not multiply bfloat16; set GMN_DTYPE=float32")
        self._dimension = artefact.description.embedder.dimension
        # Twice as many as run at once: the next crop is ready when one is done.
        self.at_once = 2 * int(network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._network = network
        self._of_thread = threading.local()

    def embed(self, crops: Pixels) -> Floats:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB.

        Any thread may call it, several at once.
        """
        features = np.empty((len(crops), self._dimension), np.float32)
        requests = vars(self._of_thread).setdefault("requests", [])
        count = min(len(crops), self.at_once)
        while len(requests) < count:
            request = self._network.create_infer_request()
            pixels = request.get_input_tensor(0).data
            requests.append((request, pixels, request.get_output_tensor(0).data))
        try:
            for step in range(len(crops) + count):
                request, pixels, feature = requests[step % count]
                if step >= count:
                    request.wait()
                    features[step - count] = feature[0]
                if step < len(crops):
                    pixels[0] = crops[step]
                    request.start_async()
        except BaseException:
            # After a failure no request is left running.
            for request, *_ in requests:
                with contextlib.suppress(RuntimeError):
                    request.wait()
            raise
        return features


def _multiplications(graph: Any) -> int:
    """Return the multiplications of a graph's convolutions, in which nearly all its time goes."""
    total = 0
    for step in graph.get_ops():
        if step.get_type_name().endswith("Convolution"):
            height_and_width = step.output(0).get_shape()[2:]
            kernel = step.input(1).get_shape()
            total += math.prod(height_and_width) * math.prod(kernel)
    return total


def read_graph(artefact: Artefact) -> Any:
    """Return the graph from the pixels of a crop to its feature, made by PyTorch if there is none.

    Raises:
        ArtefactProblem: the graph is damaged, or there is none and PyTorch is not installed.
    """
    if not artefact.has_graph:
        from model.openvino_graph import openvino_graph

        return openvino_graph(artefact.embedder, artefact.description.preprocessing)
    try:
        structure = zlib.decompress(artefact.tensors[GRAPH_STRUCTURE].data)
        weights = zlib.decompress(artefact.tensors[GRAPH_WEIGHTS].data)
        return load_openvino().Core().read_model(structure, weights)
    except (KeyError, zlib.error, RuntimeError) as error:
        raise ArtefactProblem(
            f"{artefact.source}: its graph is damaged ({error}); copy the file again, or make the "
            "graph again with gmn artefact add-graph"
        ) from error


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

    def _features_by_torch(self) -> Floats:
        embedder = self._artefact.embedder
        import torch

        normalise = self._artefact.description.preprocessing.normalise
        with torch.inference_mode():
            return embedder(normalise(torch.from_numpy(self.crops))).numpy()

    def agreeing(self, name: RuntimeName, dtype: DtypeName) -> EmbeddingRuntime:
        """Build a runtime that gives the features of the float32 network.

        Raises:
            RuntimeUnusable: it cannot be built, fails, or gives other features.
            ArtefactProblem: the artefact's graph is damaged.
        """
        try:
            runtime = build_runtime(self._artefact, name, dtype)
            cosine = self.least_cosine(runtime)
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

    def least_cosine(self, runtime: EmbeddingRuntime) -> float:
        """Return the least cosine of a feature with the expected one; NaN if one is not finite."""
        found = runtime.embed(self.crops).astype(np.float64)
        # A feature of length 0 in PyTorch is expected to have length 0.
        same = (found == self._expected).all(axis=1)
        products = (found * self._expected).sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = products / np.linalg.norm(found, axis=1)
            cosines = cosines / np.linalg.norm(self._expected, axis=1)
        return float(np.where(same, 1.0, cosines).min())
