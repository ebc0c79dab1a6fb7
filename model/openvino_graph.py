"""The conversion of an embedder to an OpenVINO graph."""

from __future__ import annotations

import tempfile
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from model.arrays import Floats
from model.embedder import Embedder
from model.openvino_loading import GRAPH_STRUCTURE, GRAPH_WEIGHTS, PROBES, load_openvino
from model.preprocessing import Preprocessing, drawn_patterns
from model.problems import ArtefactProblem


def graph_tensors(embedder: Embedder, preprocessing: Preprocessing) -> dict[str, NDArray[Any]]:
    """Return the tensors that an artefact holds for a service without PyTorch.

    Args:
        embedder: the embedder, in evaluation mode on the CPU.
        preprocessing: the preprocessing of its crops.

    Returns:
        The structure of the graph and its float32 weights, both deflated, and the features `(n, d)`
        float32 that PyTorch computes of `drawn_patterns`, which the graph has to reproduce.

    Raises:
        ArtefactProblem: OpenVINO is not installed, or it cannot run the embedder.
    """
    try:
        graph = openvino_graph(embedder, preprocessing)
        # The names of steps count the conversions of a process. New ones make files equal.
        graph.set_friendly_name("embedder")
        for number, operation in enumerate(graph.get_ordered_ops()):
            operation.set_friendly_name(f"step{number}")
            for output in operation.outputs():
                output.get_tensor().set_names(set())
        with tempfile.TemporaryDirectory() as folder:
            structure = Path(folder) / "graph.xml"
            # Weights in float16 would reorder one ranking in seven.
            load_openvino().save_model(graph, structure, compress_to_fp16=False)
            return {
                GRAPH_STRUCTURE: _deflated(structure),
                GRAPH_WEIGHTS: _deflated(structure.with_suffix(".bin")),
                PROBES: probe_features(embedder, preprocessing),
            }
    except Exception as error:
        # OpenVINO raises many kinds of errors for an operation that it does not support.
        raise ArtefactProblem(
            f"no graph for a service without PyTorch can be made ({type(error).__name__}: {error})"
        ) from error


def probe_features(embedder: Embedder, preprocessing: Preprocessing) -> Floats:
    """Return the features `(n, d)` of `drawn_patterns` that PyTorch computes in float32."""
    crops = torch.from_numpy(drawn_patterns(preprocessing))
    with torch.inference_mode():
        return embedder(preprocessing.normalise(crops)).numpy()


def _deflated(file: Path) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(file.read_bytes(), 9), np.uint8)


def openvino_graph(embedder: Embedder, preprocessing: Preprocessing) -> Any:
    """Return the graph from a crop `(1, height, width, 3)` uint8 to its feature `(1, d)` float32.

    Args:
        embedder: the embedder, in evaluation mode on the CPU.
        preprocessing: the preprocessing, which becomes part of the graph.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
        Exception: OpenVINO does not support an operation of the network; there are several kinds.
    """
    openvino = load_openvino()
    network = _FromPixels(embedder, preprocessing).eval()
    crop = torch.zeros((1, preprocessing.height, preprocessing.width, 3), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of constants, such as those of the preprocessing.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, crop, check_trace=False)  # type: ignore[no-untyped-call]
        # OpenVINO reads a frozen network in a third of the time.
        frozen = torch.jit.freeze(traced)
        return openvino.convert_model(frozen, input=(list(crop.shape), openvino.Type.u8))


class _FromPixels(nn.Module):
    def __init__(
        self,
        embedder: Embedder,
        preprocessing: Preprocessing,
    ) -> None:
        super().__init__()
        self._embedder = embedder
        self._preprocessing = preprocessing

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return self._embedder(self._preprocessing.normalise(crops))
