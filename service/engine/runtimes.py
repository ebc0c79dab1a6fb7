"""What computes the features of crops: PyTorch on any device, or OpenVINO on a CPU."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from model.artefact import Artefact
from model.embedder import Embedder
from model.folding import folded_for
from model.openvino_graph import load_openvino, openvino_graph

RuntimeName = Literal["torch", "openvino"]
DtypeName = Literal["float32", "bfloat16"]


class RuntimeMissing(RuntimeError):
    """This machine lacks what a runtime needs; says what and how to get it."""


class EmbeddingRuntime(Protocol):
    """Computes features, called from the device thread alone."""

    name: RuntimeName
    dtype: DtypeName
    device: torch.device

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""


def build_runtime(
    artefact: Artefact, name: RuntimeName, dtype: DtypeName, device: torch.device
) -> EmbeddingRuntime:
    """A runtime for an artefact's embedder, which is not changed.

    Raises:
        RuntimeMissing: where this machine lacks what it needs.
        Exception: of several kinds, where OpenVINO does not know a step of the network.
    """
    if name == "openvino":
        return OpenVinoRuntime(artefact, dtype)
    return TorchRuntime(artefact, dtype, device)


class TorchRuntime:
    """The embedder in PyTorch, one forward pass a batch, with BatchNorm folded."""

    name: RuntimeName = "torch"

    def __init__(self, artefact: Artefact, dtype: DtypeName, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._preprocessing = artefact.description.preprocessing
        embedder: Embedder = folded_for(
            artefact.embedder.requires_grad_(False), self._preprocessing
        )
        self._embedder = embedder.to(device)
        # Layout for the processor's benefit alone; mypy's view of Module.to does not know it.
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
    depend on the batch that its crop came in.
    """

    name: RuntimeName = "openvino"
    device = torch.device("cpu")

    def __init__(self, artefact: Artefact, dtype: DtypeName) -> None:
        try:
            openvino = load_openvino()
        except ModuleNotFoundError as error:
            raise RuntimeMissing(
                "OpenVINO is not installed; pip install 'gmn-reid[serve]'"
            ) from error
        self.dtype = dtype
        graph = openvino_graph(artefact.embedder, artefact.description.preprocessing)
        precision = openvino.Type.bf16 if dtype == "bfloat16" else openvino.Type.f32
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": precision,
        }
        if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
            # As PyTorch does. Processes that share a machine so would else be on the same cores.
            settings |= {"INFERENCE_NUM_THREADS": int(threads), "ENABLE_CPU_PINNING": False}
        compiled = openvino.Core().compile_model(graph, "CPU", settings)
        if compiled.get_property("INFERENCE_PRECISION_HINT") != precision:
            raise RuntimeMissing("this CPU does not multiply bfloat16; set GMN_DTYPE=float32")
        self._dimension = artefact.description.embedder.dimension
        # Twice as many as are worked on at once: the next crop is there when one is done.
        count = 2 * int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests = [compiled.create_infer_request() for _ in range(count)]

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""
        features = np.empty((len(crops), self._dimension), np.float32)
        begun = done = 0
        try:
            while done < len(crops):
                if begun < len(crops) and begun - done < len(self._requests):
                    request = self._requests[begun % len(self._requests)]
                    request.start_async({0: crops[begun : begun + 1]})
                    begun += 1
                    continue
                request = self._requests[done % len(self._requests)]
                request.wait()
                features[done] = request.get_output_tensor(0).data[0]
                done += 1
        finally:
            # None is left at work where one has failed.
            for number in range(done, begun):
                with contextlib.suppress(RuntimeError):
                    self._requests[number % len(self._requests)].wait()
        return features
