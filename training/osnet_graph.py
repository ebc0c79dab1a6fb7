"""OSNet's weights out of an OpenVINO IR or an ONNX file, by walking its graph.

The graph is followed from the crop to the embedding the way OSNet is built, so that every tensor is
known by its place and not by its name. What is met where OSNet has something else is refused by its
name in the file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model.openvino_graph import load_openvino
from model.osnet import STREAMS, WIDTHS, BlockForm, Gate, InstanceNorm, OSNetForm, osnet_forms
from model.problems import InputProblem
from training.graph_walk import Array, GraphWalk, Node, constant_of, flat_tensor

# What changes a shape only.
RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Convert")


@dataclass
class ImportedOSNet:
    """What a file holds.

    Attributes:
        backbone: its name in the registry.
        pooling, map_size, head, dimension: as `EmbedderConfig` and `HeadConfig` have them.
        bgr: whether the graph takes BGR crops.
        mean, std: per RGB channel, 0 to 255, that the graph itself applies; None where it takes
            crops that are normalised already.
        tensors: of an `Embedder`, by name.
    """

    backbone: str = ""
    pooling: str = "average"
    map_size: tuple[int, int] | None = None
    head: str = "fc-relu"
    dimension: int = 0
    bgr: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)


def read_graph(file: Path) -> ImportedOSNet:
    """Reads an IR's `.xml`, or an `.onnx`, of an OSNet.

    Raises:
        InputProblem: for a file that OpenVINO cannot read, or whose graph is not an OSNet's; it
            names the layer.
    """
    openvino = load_openvino()
    from openvino.passes import ConstantFolding, Manager

    try:
        model = openvino.Core().read_model(str(file))
    except RuntimeError as error:
        raise InputProblem(
            f"{file}: OpenVINO cannot read it ({str(error).strip().splitlines()[-1]})"
        ) from error
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputProblem(
            f"{file}: has {len(model.inputs)} inputs and {len(model.outputs)} outputs; an embedder "
            "has one of each"
        )
    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    return _Walk(file, model).osnet()


class _Walk(GraphWalk):
    """One walk along a graph."""

    def __init__(self, file: Path, model: Any) -> None:
        super().__init__(file)
        self._input: Node = model.inputs[0].get_node()
        self._found = ImportedOSNet()

    def osnet(self) -> ImportedOSNet:
        node = self._preprocessing(self._input)
        node, input_instance = self._instance(node, "backbone.input_norm")
        node, stem_instance = self._conv(node, "backbone.conv1.conv", "backbone.conv1.norm")
        stem = len(self._tensor("backbone.conv1.conv.weight"))
        node = self._next(self._next(node, "Relu"), "MaxPool")
        stages: list[tuple[BlockForm, BlockForm]] = []
        for stage in ("conv2", "conv3", "conv4"):
            node, first = self._block(node, f"backbone.{stage}.0")
            node, second = self._block(node, f"backbone.{stage}.1")
            stages.append((first, second))
            if stage != "conv4":
                node, _ = self._conv(node, f"backbone.{stage.replace('conv', 'pool')}.0.conv")
                node = self._next(self._next(node, "Relu"), "AvgPool")
        node, _ = self._conv(node, "backbone.conv5.conv")
        node = self._next(node, "Relu")
        self._head(self._pooling(node))
        width = next((w for w in WIDTHS.values() if int(64 * w) == stem), None)
        form = OSNetForm(width or 0.0, tuple(stages), input_instance, stem_instance, folded=True)
        names = [name for name, known in osnet_forms().items() if known == form]
        if not names:
            raise InputProblem(
                f"{self._file}: an OSNet with {stem} channels after its first convolution in a "
                f"form that is not known here ({form})"
            )
        self._found.backbone = names[0]
        return self._found

    def _preprocessing(self, node: Node) -> Node:
        """Passes what a graph does to a crop before its first layer with weights."""
        scale, shift = np.ones(3, np.float32), np.zeros(3, np.float32)
        while True:
            following = self._consumers(node)
            kind = following[0].get_type_name() if len(following) == 1 else ""
            values = self._other_constant(following[0]) if len(following) == 1 else None
            if kind == "Gather" and values is not None:
                if values.ravel().tolist() != [2, 1, 0]:
                    raise self._unknown(following[0], "a reversal of the channels")
                self._found.bgr = True
            elif kind in ("Subtract", "Multiply", "Add", "Divide") and values is not None:
                scale, shift = _affine(kind, values.ravel(), scale, shift)
            else:
                break
            node = following[0]
        if not (np.all(scale == 1) and np.all(shift == 0)):
            # x·scale + shift = (x − mean) / std
            self._found.mean = tuple(float(v) for v in np.broadcast_to(-shift / scale, 3))
            self._found.std = tuple(float(v) for v in np.broadcast_to(1 / scale, 3))
        return node

    def _block(self, node: Node, name: str) -> tuple[Node, BlockForm]:
        """Passes one omni-scale block."""
        entries = [n for n in self._consumers(node) if n.get_type_name() == "Convolution"]
        entries.sort(key=lambda entry: len(self._constant(entry, 1)))
        if not 1 <= len(entries) <= 2:
            raise self._unknown(node, "followed by the one or two convolutions of a block")
        reduced, _ = self._conv(node, f"{name}.reduce.conv", entry=entries[0])
        reduced = self._next(reduced, "Relu")
        gates: list[tuple[Gate, dict[str, torch.Tensor], Node]] = []
        depths = []
        for entry in self._consumers(reduced):
            end, depth = self._stream(reduced, entry, name)
            depths.append(depth)
            gates.append(self._gate(end))
        if sorted(depths) != list(range(1, STREAMS + 1)):
            raise self._unknown(reduced, "the start of four streams of 1 to 4 light convolutions")
        kind, tensors, node_after = gates[0]
        for other_kind, other, _ in gates[1:]:
            if other_kind != kind or any(not torch.equal(other[k], tensors[k]) for k in tensors):
                raise self._unknown(node_after, "a gate that a block's four streams share")
        for key, value in tensors.items():
            self._found.tensors[f"{name}.gate.{key}"] = value
        mixed = node_after
        for _ in range(STREAMS - 1):
            mixed = self._next(mixed, "Add")
            if self._consumers(mixed)[0].get_type_name() != "Add":
                break
        residual, inside = self._conv(mixed, f"{name}.expand.conv", f"{name}.expand.norm")
        if len(entries) == 2:
            self._conv(node, f"{name}.shortcut.conv", entry=entries[1])
        added = self._next(residual, "Add")
        added, outside = self._instance(added, f"{name}.sum_norm")
        instance: InstanceNorm = "residual" if inside else "sum" if outside else "none"
        return self._next(added, "Relu"), BlockForm(instance, kind)

    def _stream(self, reduced: Node, entry: Node, block: str) -> tuple[Node, int]:
        """Passes one stream; its tensors are filed once its depth is known."""
        node, depth = reduced, 0
        filed: list[tuple[str, torch.Tensor]] = []
        following: Node | None = entry
        while following is not None:
            pointwise = self._expect(following, "Convolution")
            filed.append((f"{depth}.pointwise.weight", self._weights(pointwise)))
            depthwise = self._next(pointwise, "GroupConvolution")
            filed.append((f"{depth}.depthwise.weight", self._weights(depthwise)))
            node, bias = self._bias(depthwise)
            filed.append((f"{depth}.depthwise.bias", bias))
            node = self._next(node, "Relu")
            depth += 1
            after = self._consumers(node)
            following = after[0] if len(after) == 1 else None
        for key, value in filed:
            self._found.tensors[f"{block}.streams.{depth - 1}.{key}"] = value
        return node, depth

    def _gate(self, node: Node) -> tuple[Gate, dict[str, torch.Tensor], Node]:
        """Passes a gate behind a stream's end, up to the product of both."""
        pooled = [
            n for n in self._consumers(node) if n.get_type_name() in ("ReduceMean", "AvgPool")
        ]
        if len(pooled) != 1:
            raise self._unknown(node, "followed by a gate's mean over space")
        after = self._consumers(pooled[0])
        if any(one.get_type_name() == "Convolution" for one in after):
            squeeze = self._next(pooled[0], "Convolution")
            hidden, squeeze_bias = self._bias(squeeze)
            excite = self._next(self._next(hidden, "Relu"), "Convolution")
            last, excite_bias = self._bias(excite)
            tensors = {
                "squeeze.weight": self._weights(squeeze),
                "squeeze.bias": squeeze_bias,
                "excite.weight": self._weights(excite),
                "excite.bias": excite_bias,
            }
            return "squeeze", tensors, self._next(self._next(last, "Sigmoid"), "Multiply")
        norm = self._next(self._next(pooled[0], "Reshape"), "MVN")
        scaled = self._next(self._next(norm, "Reshape"), "Multiply")
        weight = self._other_constant(scaled)
        shifted = self._next(scaled, "Add")
        bias = self._other_constant(shifted)
        if weight is None or bias is None:
            raise self._unknown(scaled, "a factor and an offset for each channel")
        tensors = {"norm.weight": flat_tensor(weight), "norm.bias": flat_tensor(bias)}
        return "context", tensors, self._next(self._next(shifted, "Sigmoid"), "Multiply")

    def _pooling(self, node: Node) -> Node:
        following = self._only(node)
        if following.get_type_name() in ("ReduceMean", "AvgPool"):
            return following
        weight = self._weights(self._expect(following, "GroupConvolution"))
        pooled, bias = self._bias(following)
        self._found.pooling = "depthwise"
        self._found.map_size = (weight.shape[2], weight.shape[3])
        self._found.tensors["pooling.weight.weight"] = weight
        self._found.tensors["pooling.weight.bias"] = bias
        return pooled

    def _head(self, node: Node) -> None:
        """Passes the linear layer and what is affine behind it, which goes into its weights."""
        matmul = self._linear(node)
        weight = self._matrix(matmul)
        scale, shift = np.ones(len(weight), np.float32), np.zeros(len(weight), np.float32)
        node = matmul
        while True:
            following = self._only(node)
            kind = following.get_type_name()
            if kind in RESHAPES:
                node = following
                continue
            if kind == "BatchNormInference":
                gamma, beta, mean, variance = (
                    self._constant(following, place).ravel() for place in (1, 2, 3, 4)
                )
                epsilon = following.get_attributes()["epsilon"]
                factor = gamma / np.sqrt(variance + epsilon)
                scale, shift = scale * factor, (shift - mean) * factor + beta
            elif kind in ("Multiply", "Add", "Subtract", "Divide"):
                values = self._other_constant(following)
                if values is None:
                    values = self._weight_scale(following, node)
                scale, shift = _affine(kind, values.ravel(), scale, shift)
            else:
                break
            node = following
        if kind == "Relu":
            self._found.head = "fc-relu"
        elif kind == "PRelu":
            self._found.head = "fc-prelu"
            slope = self._constant(following, 1).ravel()
            if len(slope) != 1:
                raise self._unknown(following, "a PReLU with one slope")
            self._found.tensors["head.1.weight"] = flat_tensor(slope)
        else:
            raise self._unknown(following, "the ReLU or PReLU of the head")
        self._found.dimension = len(weight)
        self._found.tensors["head.0.weight"] = torch.from_numpy(weight * scale[:, None])
        self._found.tensors["head.0.bias"] = torch.from_numpy(shift.copy())

    def _linear(self, node: Node) -> Node:
        """The matrix product, which may lie behind the quantisation of its input."""
        waiting = [node]
        for _ in range(200):
            if not waiting:
                break
            following = [n for one in waiting for n in self._consumers(one, with_shapes=True)]
            for one in following:
                if one.get_type_name() == "MatMul":
                    return one
                if one.get_type_name() in ("Convolution", "GroupConvolution", "Result"):
                    raise self._unknown(one, "the linear layer of the head")
            waiting = list({one.get_friendly_name(): one for one in following}.values())
        raise self._unknown(node, "followed by the linear layer of the head")

    def _matrix(self, matmul: Node) -> Array:
        """A linear layer's weights, `(outputs, inputs)`; of integers minus their zero point."""
        source = matmul.input(1).get_source_output().get_node()
        values = constant_of(source)
        if values is None and source.get_type_name() == "Subtract":
            parts = [constant_of(source.input(k).get_source_output().get_node()) for k in (0, 1)]
            if parts[0] is not None and parts[1] is not None:
                values = parts[0] - parts[1]
        if values is None:
            raise self._unknown(matmul, "a product with stored weights")
        transposed = bool(matmul.get_attributes().get("transpose_b"))
        return np.ascontiguousarray(values if transposed else values.T, dtype=np.float32)

    def _weight_scale(self, node: Node, known: Node) -> Array:
        """What weights of integers are multiplied by, where their input's scale is not constant."""
        for place in (0, 1):
            source = node.input(place).get_source_output().get_node()
            if source.get_friendly_name() != known.get_friendly_name():
                values = self._other_constant(source)
                if values is not None and source.get_type_name() == "Multiply":
                    return values
        raise self._unknown(node, "a constant factor or offset of the head")

    def _conv(
        self, node: Node, name: str, norm: str | None = None, entry: Node | None = None
    ) -> tuple[Node, bool]:
        """Passes a convolution and its bias, or the instance normalisation in its place."""
        conv = self._expect(entry if entry is not None else self._only(node), "Convolution")
        self._found.tensors[f"{name}.weight"] = self._weights(conv)
        if norm is not None:
            after, normed = self._instance(conv, norm)
            if normed:
                return after, True
        after, bias = self._bias(conv)
        self._found.tensors[f"{name}.bias"] = bias
        return after, False

    def _bias(self, conv: Node) -> tuple[Node, torch.Tensor]:
        added = self._next(conv, "Add")
        values = self._other_constant(added)
        if values is None:
            raise self._unknown(added, "a bias")
        return added, flat_tensor(values)

    def _instance(self, node: Node, name: str) -> tuple[Node, bool]:
        """Passes an instance normalisation with its affine part, where one follows."""
        following = self._consumers(node)
        if len(following) != 1 or following[0].get_type_name() != "MVN":
            return node, False
        scaled = self._next(following[0], "Multiply")
        shifted = self._next(scaled, "Add")
        weight, bias = self._other_constant(scaled), self._other_constant(shifted)
        if weight is None or bias is None:
            raise self._unknown(scaled, "a factor and an offset for each channel")
        self._found.tensors[f"{name}.weight"] = flat_tensor(weight)
        self._found.tensors[f"{name}.bias"] = flat_tensor(bias)
        return shifted, True

    def _tensor(self, name: str) -> torch.Tensor:
        return self._found.tensors[name]


_AFFINE: dict[str, Callable[[Array, Array, Array], tuple[Array, Array]]] = {
    "Multiply": lambda values, scale, shift: (scale * values, shift * values),
    "Divide": lambda values, scale, shift: (scale / values, shift / values),
    "Add": lambda values, scale, shift: (scale, shift + values),
    "Subtract": lambda values, scale, shift: (scale, shift - values),
}


def _affine(kind: str, values: Array, scale: Array, shift: Array) -> tuple[Array, Array]:
    """What x·scale + shift becomes by one more operation with constant values."""
    return _AFFINE[kind](values, scale, shift)
