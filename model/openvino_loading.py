"""OpenVINO itself, and the names under which an artefact holds a graph for it."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

# Tensors of an artefact: the graph as OpenVINO writes it, deflated, and features of drawn patterns.
GRAPH_STRUCTURE = "graph.xml"
GRAPH_WEIGHTS = "graph.bin"
PROBES = "graph.probes"


def load_openvino() -> ModuleType:
    """Import OpenVINO without the telemetry that it would send over the network.

    Raises:
        ModuleNotFoundError: where OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compiled(
    graph: Any,
    options: dict[str, Any],
    niceness: int = 0,
) -> Any:
    """Compile a graph for the CPU.

    Args:
        niceness: by how much the threads that compute it are nicer than the caller's.

    Raises:
        RuntimeError: OpenVINO cannot run it.
    """

    def compile_graph() -> Any:
        # The threads that OpenVINO makes inherit it.
        os.nice(niceness)
        return load_openvino().Core().compile_model(graph, "CPU", options)

    # On a thread that ends: OpenVINO replaces the stack on which that thread handles signals, and
    # frees it on any thread. The next signal to a thread that goes on would end the process.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(compile_graph).result()
