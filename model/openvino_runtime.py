"""The embedder in OpenVINO, on the CPU, from the graph that its artefact holds."""

from __future__ import annotations

import contextlib
import math
import os
import threading
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from model.artefact import Artefact
from model.openvino_loading import GRAPH_STRUCTURE, GRAPH_WEIGHTS, compiled, load_openvino
from model.problems import ArtefactProblem

RuntimeName = Literal["torch", "openvino"]
DtypeName = Literal["float32", "bfloat16"]
# Multiplications of one crop. Beside a network of fewer, the interpreter takes as much of a core as
# the network does, and every request waits for a thread that holds its lock. Threads that compute
# such a network let that thread go first; a larger network is slower for it.
SMALL_NETWORK = 500_000_000
NICENESS = 10


class RuntimeUnusable(RuntimeError):
    """A runtime that cannot compute the features on this machine; the message gives the reason."""


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

    def embed(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
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
            total += math.prod(height_and_width) * math.prod(step.input(1).get_shape())
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
