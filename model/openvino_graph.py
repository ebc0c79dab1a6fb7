"""An embedder as an OpenVINO graph, from the pixels of one crop to its feature."""

from __future__ import annotations

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import torch
from torch import nn

from model.embedder import Embedder
from model.preprocessing import Preprocessing


def load_openvino() -> ModuleType:
    """The package `openvino`, which by itself would send an event to its maker over the network.

    Raises:
        ModuleNotFoundError: where OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino  # type: ignore[no-any-return]


def openvino_graph(embedder: Embedder, preprocessing: Preprocessing) -> Any:
    """The graph of one crop: `(1, height, width, 3)` uint8 to `(1, d)` float32, as `converted`."""
    crop = torch.zeros((1, preprocessing.height, preprocessing.width, 3), dtype=torch.uint8)
    return converted(_FromPixels(embedder, preprocessing).eval(), crop)


class _FromPixels(nn.Module):
    def __init__(self, embedder: Embedder, preprocessing: Preprocessing) -> None:
        super().__init__()
        self._embedder = embedder
        self._preprocessing = preprocessing

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        feature: torch.Tensor = self._embedder(self._preprocessing.normalise(crops))
        return feature


def converted(network: nn.Module, example: torch.Tensor) -> Any:
    """A network, in evaluation mode, as an `openvino.Model` for inputs like the example.

    Raises:
        ModuleNotFoundError: where OpenVINO is not installed.
        Exception: of several kinds, where the network has a step that OpenVINO does not support.
    """
    openvino = load_openvino()
    kind = openvino.Type.u8 if example.dtype == torch.uint8 else openvino.Type.f32
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of the network's constants, such as those of the preprocessing.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, example, check_trace=False)  # type: ignore[no-untyped-call]
        # OpenVINO reads a frozen network in a third of the time.
        frozen = torch.jit.freeze(traced)
        return openvino.convert_model(frozen, input=(list(example.shape), kind))


def compiled(graph: Any, options: dict[str, Any]) -> Any:
    """A graph compiled for the CPU; raises `RuntimeError` for one that OpenVINO cannot run."""
    # On a thread that ends: OpenVINO replaces the stack on which that thread handles signals, and
    # frees it on any thread. The next signal to a thread that goes on would end the process.
    with ThreadPoolExecutor(1) as thread:
        task = thread.submit(lambda: load_openvino().Core().compile_model(graph, "CPU", options))
        return task.result()
