"""The import of OpenVINO, the compilation of its graphs, and their names in an artefact."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

# These tensors of an artefact are the graph as OpenVINO writes it, deflated, and the features that
# the graph has to give of drawn patterns.
GRAPH_STRUCTURE = "graph.xml"
GRAPH_WEIGHTS = "graph.bin"
PROBES = "graph.probes"


def load_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which would use the network.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compiled(graph: Any, options: dict[str, Any]) -> Any:
    """Compile a graph for the CPU.

    Args:
        graph: an OpenVINO model.
        options: properties of the compiled model.

    Raises:
        RuntimeError: OpenVINO cannot run the graph.
    """

    def compile_graph() -> Any:
        return load_openvino().Core().compile_model(graph, "CPU", options)

    # OpenVINO replaces the stack on which its calling thread handles signals, and frees it later.
    # The next signal to that thread would end the process, so that the thread has to end here.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(compile_graph).result()
