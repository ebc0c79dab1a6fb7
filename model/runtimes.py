"""Runtimes that compute features, and the check that they agree with the float32 network."""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np

from model.arrays import Floats, Pixels, unit_rows
from model.artefact import Artefact
from model.openvino_loading import GRAPH_STRUCTURE, GRAPH_WEIGHTS, compiled, load_openvino
from model.precision import HAS_TORCH, DtypeName, RuntimeName
from model.preprocessing import drawn_patterns
from model.problems import ArtefactProblem, is_of_the_machine

# The least cosine between the feature of a probe and that of the float32 network in PyTorch.
AGREEMENT = 0.999


class RuntimeUnusable(RuntimeError):
    """A runtime that cannot compute features on this machine, with the reason."""


@dataclass(frozen=True)
class TorchOptions:
    """Options of the runtime in PyTorch.

    Attributes:
        device: `cpu`, or a name such as `cuda:0`.
        max_batch: size of the largest batch that will be embedded on a GPU; None for any.
        cuda_graphs: whether to replay kernels from CUDA graphs.
    """

    device: str = "cpu"
    max_batch: int | None = None
    cuda_graphs: bool = False


ON_CPU = TorchOptions()


class EmbeddingRuntime(Protocol):
    """An embedder that is ready to compute features.

    Attributes:
        device: `cpu`, or a name of PyTorch such as `cuda:0`.
    """

    name: RuntimeName
    dtype: DtypeName
    device: str

    def embed(self, crops: Pixels) -> Floats:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""


class OpenVinoRuntime:
    """The embedder in OpenVINO, on the CPU.

    Each crop is a request of its own, and several requests run at once. This is as fast as batches,
    and a feature does not depend on the other crops.
    """

    name: RuntimeName = "openvino"
    device = "cpu"

    def __init__(
        self,
        artefact: Artefact,
        dtype: DtypeName,
    ) -> None:
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
            # PyTorch obeys the variable too. Without it all processes would use the same cores.
            options |= {"INFERENCE_NUM_THREADS": int(threads), "ENABLE_CPU_PINNING": False}
        network = compiled(graph, options)
        if network.get_property("INFERENCE_PRECISION_HINT") != precision:
            raise RuntimeUnusable("this CPU does not multiply bfloat16; set GMN_DTYPE=float32")
        # Twice the number of running requests, so that the next crop is ready when one ends.
        self.at_once = 2 * int(network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle = SimpleQueue[Any]()
        for _ in range(self.at_once):
            request = network.create_infer_request()
            pixels = request.get_input_tensor(0).data
            self._idle.put((request, pixels, request.get_output_tensor(0).data))

    def embed(self, crops: Pixels) -> Floats:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB.

        At least one crop is required. Several threads may call it at once.
        """
        if len(crops) == 1:
            return self._embed_crop(crops[0])[None]
        with ThreadPoolExecutor(self.at_once) as threads:
            return np.stack(list(threads.map(self._embed_crop, crops)))

    def _embed_crop(self, crop: Pixels) -> Floats:
        request, pixels, feature = idle = self._idle.get()
        try:
            # An array given to `start_async` becomes a tensor, which can deadlock if several
            # threads make their first. `infer` would compute in this thread, not the runtime's.
            pixels[0] = crop
            request.start_async()
            request.wait()
            return feature[0].copy()
        finally:
            self._idle.put(idle)


def read_graph(artefact: Artefact) -> Any:
    """Return the stored graph from a crop's pixels to its feature, or convert it by PyTorch.

    Raises:
        ArtefactProblem: the artefact has no graph, and PyTorch is not installed.
    """
    if GRAPH_STRUCTURE not in artefact.tensors:
        from model.openvino_graph import openvino_graph

        return openvino_graph(artefact.embedder, artefact.description.preprocessing)
    structure = zlib.decompress(artefact.tensors[GRAPH_STRUCTURE].data)
    weights = zlib.decompress(artefact.tensors[GRAPH_WEIGHTS].data)
    return load_openvino().Core().read_model(structure, weights)


def build_runtime(
    artefact: Artefact,
    name: RuntimeName,
    dtype: DtypeName,
    options: TorchOptions = ON_CPU,
) -> EmbeddingRuntime:
    """Build a runtime for the embedder of an artefact, which is not changed.

    Raises:
        RuntimeUnusable: PyTorch or OpenVINO is not installed, or the CPU lacks the number format.
    """
    if name == "openvino":
        return OpenVinoRuntime(artefact, dtype)
    if not HAS_TORCH:
        raise RuntimeUnusable(
            "PyTorch is not installed; pip install 'gmn-reid[gpu]' in an environment of its own"
        )
    from model.torch_runtime import TorchRuntime, batch_sizes_of

    sizes = batch_sizes_of(options.device, options.max_batch)
    return TorchRuntime(artefact, dtype, options.device, sizes, options.cuda_graphs)


class Probes:
    """Drawn patterns and their features by the float32 network in PyTorch, to check runtimes by.

    Attributes:
        crops: the patterns, `(n, height, width, 3)` uint8 RGB.
        options: options of the runtimes in PyTorch.
    """

    def __init__(self, artefact: Artefact, options: TorchOptions = ON_CPU) -> None:
        self.options = options
        self._artefact = artefact
        self.crops = drawn_patterns(artefact.description.preprocessing)
        self._expected = artefact.pattern_features

    def agreeing(
        self,
        name: RuntimeName,
        dtype: DtypeName,
    ) -> EmbeddingRuntime:
        """Build a runtime that gives the features of the float32 network.

        Raises:
            RuntimeUnusable: it cannot be built, fails, or gives other features.
            ArtefactProblem: the artefact has no graph, and PyTorch is not installed.
        """
        try:
            runtime = build_runtime(self._artefact, name, dtype, self.options)
            cosine = self.least_cosine(runtime)
        except (RuntimeUnusable, ArtefactProblem):
            raise
        except Exception as error:
            if is_of_the_machine(error):
                raise
            # OpenVINO raises many kinds of errors for an operation that it does not support.
            lines = str(error).strip().splitlines() or [""]
            raise RuntimeUnusable(f"it failed ({type(error).__name__}: {lines[-1]})") from error
        if not cosine >= AGREEMENT:
            raise RuntimeUnusable(
                f"{name} in {dtype} gives other features on this machine than the float32 network "
                f"(cosine {cosine:.6f})"
            )
        return runtime

    def least_cosine(self, runtime: EmbeddingRuntime) -> float:
        """Return the least cosine of a feature with the expected one; NaN if one is not finite."""
        features = runtime.embed(self.crops)
        # A feature that PyTorch computes as zero has no cosine, and has to be zero.
        same = (features == self._expected).all(axis=1)
        with np.errstate(invalid="ignore"):
            cosines = (unit_rows(features) * unit_rows(self._expected)).sum(axis=1)
        return float(np.where(same, 1.0, cosines).min())
