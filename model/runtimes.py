"""What computes features: PyTorch on any device, or OpenVINO on a CPU."""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact
from model.collapse import drawn_patterns
from model.embedder import Embedder
from model.folding import folded
from model.openvino_graph import compiled, load_openvino, openvino_graph

CPU = torch.device("cpu")
# The least cosine between a probe's feature and that of the float32 network in PyTorch.
AGREEMENT = 0.999
RuntimeName = Literal["torch", "openvino"]
DtypeName = Literal["float32", "bfloat16"]


class RuntimeUnusable(RuntimeError):
    """A runtime that cannot compute the features on this machine; the message gives the reason."""


class TorchRuntime:
    """The embedder in PyTorch, one forward pass a batch, with BatchNorm folded."""

    name: RuntimeName = "torch"

    def __init__(self, artefact: Artefact, dtype: DtypeName, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._preprocessing = artefact.description.preprocessing
        embedder: Embedder = folded(artefact.embedder.requires_grad_(False), self._preprocessing)
        self._embedder = embedder.to(device)
        # The faster layout on a processor; mypy's view of Module.to does not know the argument.
        self._embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""
        if not len(crops):
            # Instance normalisation takes no empty batch.
            return np.empty((0, self._embedder.config.dimension), np.float32)
        batch = self._preprocessing.normalise(torch.from_numpy(crops).to(self.device))
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.dtype == "bfloat16"
        ):
            features = self._embedder(batch)
        return np.asarray(features.float().cpu().numpy(), np.float32)


class OpenVinoRuntime:
    """The embedder in OpenVINO, on the CPU.

    Crops go through one at a time, several at once: as fast as in batches, and a feature does not
    depend on the batch of its crop.
    """

    name: RuntimeName = "openvino"
    device = CPU

    def __init__(self, artefact: Artefact, dtype: DtypeName) -> None:
        try:
            openvino = load_openvino()
        except ModuleNotFoundError as error:
            raise RuntimeUnusable(
                "OpenVINO is not installed; pip install 'gmn-reid[serve]'"
            ) from error
        self.dtype = dtype
        graph = openvino_graph(artefact.embedder, artefact.description.preprocessing)
        precision = openvino.Type.bf16 if dtype == "bfloat16" else openvino.Type.f32
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": precision,
        }
        if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
            # As in PyTorch. Without it processes that share a machine share the same cores.
            options |= {"INFERENCE_NUM_THREADS": int(threads), "ENABLE_CPU_PINNING": False}
        network = compiled(graph, options)
        if network.get_property("INFERENCE_PRECISION_HINT") != precision:
            raise RuntimeUnusable("this CPU does not multiply bfloat16; set GMN_DTYPE=float32")
        self._dimension = artefact.description.embedder.dimension
        # Twice as many as run at once: the next crop is ready when one is done.
        self.at_once = 2 * int(network.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._network, self._of_thread = network, threading.local()

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB.

        Any thread may call it, several at once.
        """
        features = np.empty((len(crops), self._dimension), np.float32)
        requests = vars(self._of_thread).setdefault("requests", [])
        count = min(len(crops), self.at_once)
        while len(requests) < count:
            requests.append(self._network.create_infer_request())
        try:
            for step in range(len(crops) + count):
                request = requests[step % count]
                if step >= count:
                    request.wait()
                    features[step - count] = request.get_output_tensor(0).data[0]
                if step < len(crops):
                    request.start_async({0: crops[step : step + 1]})
        except BaseException:
            # After a failure no request is left running.
            for request in requests:
                with contextlib.suppress(RuntimeError):
                    request.wait()
            raise
        return features


EmbeddingRuntime = TorchRuntime | OpenVinoRuntime


def build_runtime(artefact: Artefact, name: RuntimeName, dtype: DtypeName) -> EmbeddingRuntime:
    """A runtime on the CPU for an artefact's embedder, which is not changed."""
    if name == "openvino":
        return OpenVinoRuntime(artefact, dtype)
    return TorchRuntime(artefact, dtype, CPU)


class Probes:
    """Drawn patterns, and their features by the float32 network in PyTorch."""

    def __init__(self, artefact: Artefact) -> None:
        self._artefact = artefact
        preprocessing = artefact.description.preprocessing
        self.crops = drawn_patterns(preprocessing)
        with torch.inference_mode():
            normalised = preprocessing.normalise(torch.from_numpy(self.crops))
            self._expected = artefact.embedder(normalised).double().numpy()

    def agreeing(self, name: RuntimeName, dtype: DtypeName) -> EmbeddingRuntime:
        """A runtime with the features of the float32 network; raises `RuntimeUnusable`."""
        try:
            runtime = build_runtime(self._artefact, name, dtype)
            cosine = self._cosine(runtime)
        except RuntimeUnusable:
            raise
        except Exception as error:
            # Of many kinds, as where OpenVINO does not know a step of the network.
            lines = str(error).strip().splitlines() or [""]
            raise RuntimeUnusable(f"it failed ({type(error).__name__}: {lines[-1]})") from error
        if not cosine >= AGREEMENT:
            raise RuntimeUnusable(
                f"{name} in {dtype} gives other features here than the float32 network (cosine "
                f"{cosine:.6f})"
            )
        return runtime

    def _cosine(self, runtime: EmbeddingRuntime) -> float:
        """The least cosine of a probe's feature with the expected one; NaN if one is not finite."""
        found = runtime.embed(self.crops).astype(np.float64)
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(self._expected, axis=1)
        # A feature of length 0 in PyTorch is expected to have length 0.
        same = (found == self._expected).all(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            cosines = (found * self._expected).sum(axis=1) / lengths
        return float(np.where(same, 1.0, cosines).min())
