"""Walking an OpenVINO graph: what reads a layer's output, and what its constants are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.problems import InputProblem

Node = Any
Array = NDArray[np.float32]
# What computes shapes only.
SHAPE_ONLY = ("ShapeOf",)


class GraphWalk:
    """Steps along a graph that name the layer where something else is met than expected."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def _consumers(self, node: Node, with_shapes: bool = False) -> list[Node]:
        found: list[Node] = [end.get_node() for end in node.output(0).get_target_inputs()]
        if not with_shapes:
            found = [one for one in found if one.get_type_name() not in SHAPE_ONLY]
        return sorted(found, key=lambda one: str(one.get_friendly_name()))

    def _only(self, node: Node) -> Node:
        following = self._consumers(node)
        if len(following) != 1:
            raise self._unknown(node, "read by one layer")
        return following[0]

    def _next(self, node: Node, kind: str) -> Node:
        for one in self._consumers(node):
            if one.get_type_name() == kind:
                return one
        raise self._unknown(node, f"followed by {kind}")

    def _expect(self, node: Node, kind: str) -> Node:
        if node.get_type_name() != kind:
            raise self._unknown(node, f"a {kind}")
        return node

    def _constant(self, node: Node, place: int) -> Array:
        values = constant_of(node.input(place).get_source_output().get_node())
        if values is None:
            raise self._unknown(node, "a layer with stored weights")
        return values

    def _other_constant(self, node: Node) -> Array | None:
        """The constant one of a layer's first two inputs; None where neither is."""
        for place in range(min(2, len(node.inputs()))):
            values = constant_of(node.input(place).get_source_output().get_node())
            if values is not None:
                return values
        return None

    def _unknown(self, node: Node, expected: str) -> InputProblem:
        return InputProblem(
            f"{self._file}: layer {node.get_friendly_name()} ({node.get_type_name()}) is not "
            f"{expected}, as an OSNet has it there; only OSNets can be imported from a graph"
        )

    def _weights(self, conv: Node) -> torch.Tensor:
        values = self._constant(conv, 1)
        if conv.get_type_name() == "GroupConvolution":
            values = values.reshape(-1, *values.shape[2:])
        return torch.from_numpy(np.ascontiguousarray(values))


def constant_of(node: Node) -> Array | None:
    """A layer's constant value, also behind a change of its type or shape; None for others."""
    while node.get_type_name() in ("Convert", "Reshape") and len(node.inputs()):
        node = node.input(0).get_source_output().get_node()
    if node.get_type_name() != "Constant":
        return None
    return np.asarray(node.get_data()).astype(np.float32)


def flat_tensor(values: Array) -> torch.Tensor:
    """A constant as a vector, float32."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32).ravel().copy())
