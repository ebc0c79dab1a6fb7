"""OSNet's weights out of an OpenVINO IR or an ONNX file.

An embedder of the same form is made an OpenVINO graph as well. The layers of both graphs are
compared one by one in the order of execution, so that every tensor is known by its place and not by
its name in the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.architecture import EmbedderConfig, osnet_forms
from model.embedder import Embedder
from model.openvino_graph import converted
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from training.backbone_weights import load_tensors
from training.evaluation.peers import read_model

Array = NDArray[np.float32]
AFFINE = ("Multiply", "Divide", "Add", "Subtract")
# Other kinds change a type or a shape, or have no weights.
COMPARED = (
    *AFFINE,
    *("Convolution", "GroupConvolution", "MatMul", "BatchNormInference", "MVN"),
    *("Relu", "PRelu", "Sigmoid", "MaxPool", "Result"),
)


class Layer(NamedTuple):
    """One layer of a graph, with its weights in the order of its inputs."""

    name: str
    kind: str
    weights: tuple[Array, ...]

    @property
    def form(self) -> str:
        """Its kind, and the sizes of its weights without dimensions of 1."""
        sizes = ["×".join(map(str, values.squeeze().shape)) or "1" for values in self.weights]
        return " of ".join([self.kind, *sizes])


def read_graph(file: Path) -> tuple[Embedder, Preprocessing]:
    """Return the embedder of an IR's `.xml`, or an `.onnx`, of an OSNet, and what its input is.

    Args:
        file: with or without the normalisation of its input as layers; it becomes the
            preprocessing.

    Raises:
        InputProblem: for a file that OpenVINO cannot read, or whose graph is not an OSNet's; it
            names the layer.
    """
    model = read_model(file)
    from openvino.passes import ConstantFolding, Manager

    folding = Manager()
    folding.register_pass(ConstantFolding())
    folding.run_passes(model)
    layers = _layers(model)
    first = next(k for k, layer in enumerate(layers) if layer.kind not in AFFINE)
    body, head = _folded_head(file, layers[first:])
    embedder = Embedder(_config(file, body, head))
    load_tensors(embedder, _tensors(file, body + head, embedder), str(file))
    return embedder.eval(), _preprocessing(layers[:first])


def _layers(model: Any) -> list[Layer]:
    """The layers that are compared, in the order of execution; the last one is the Result."""
    found = []
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        kind = node.get_type_name()
        if kind not in COMPARED:
            continue
        sources = [end.get_source_output().get_node() for end in node.inputs()]
        weights = [
            np.array(source.get_data(), np.float32)
            for source in sources
            # An MVN has its axes there.
            if source.get_type_name() == "Constant" and kind != "MVN"
        ]
        if kind == "BatchNormInference" and len(weights) == 4:
            gamma, beta, mean, variance = weights
            factor = gamma / np.sqrt(variance + node.get_attributes()["epsilon"])
            steps = {"Subtract": mean, "Multiply": factor, "Add": beta}
            found += [Layer(name, step, (values,)) for step, values in steps.items()]
            continue
        if kind == "MatMul" and not node.get_attributes().get("transpose_b"):
            weights = [values.T for values in weights]
        found.append(Layer(name, kind, tuple(weights)))
    return found


def _preprocessing(layers: list[Layer]) -> Preprocessing:
    """Return the preprocessing that a graph applies before the first layer of its OSNet."""
    if not layers:
        return Preprocessing()
    scale, shift = _affine(layers)
    # x·scale + shift = (x − mean) / std
    mean, std = (
        tuple(float(value) / 255.0 for value in np.broadcast_to(values, 3))
        for values in (-shift / scale, 1 / scale)
    )
    return Preprocessing.model_validate({"mean": mean, "std": std})


def _affine(layers: Iterable[Layer]) -> tuple[Array, Array]:
    """Scale and shift of a row of layers, x·scale + shift."""
    scale = np.ones(1, np.float32)
    shift = np.zeros(1, np.float32)
    for layer in layers:
        # A product of two computed scales, of a quantised head, has no weights.
        for values in (weights.ravel() for weights in layer.weights):
            match layer.kind:
                case "Multiply":
                    scale = scale * values
                    shift = shift * values
                case "Divide":
                    scale = scale / values
                    shift = shift / values
                case "Add":
                    shift = shift + values
                case "Subtract":
                    shift = shift - values
    return scale, shift


def _folded_head(file: Path, layers: list[Layer]) -> tuple[list[Layer], list[Layer]]:
    """Split layers into those before the head and the head, whose linear layer and bias come first.

    All that is affine behind the linear layer goes into its weights. A quantised head scales its
    input by a factor computed from that input, which is left out.
    """
    linear = next((k for k, one in enumerate(layers) if one.kind == "MatMul" and one.weights), None)
    if linear is None:
        raise InputProblem(
            f"{file}: has no linear layer, which makes an OSNet's features; name a graph of the "
            "whole network"
        )
    start = linear
    end = linear + 1
    while layers[start - 1].kind in AFFINE and all(w.size == 1 for w in layers[start - 1].weights):
        start -= 1
    while layers[end].kind in AFFINE:
        end += 1
    name, kind, (weight,) = layers[linear]
    scale, shift = _affine(layers[linear + 1 : end])
    product = Layer(name, kind, (weight * np.broadcast_to(scale, len(weight))[:, None],))
    bias = Layer(name, "Add", (np.broadcast_to(shift, len(weight)).copy(),))
    return layers[:start], [product, bias, *layers[end:]]


def _config(file: Path, body: list[Layer], head: list[Layer]) -> EmbedderConfig:
    """Return the form of OSNet that a few layers show; all of them are compared later."""
    kernels = [layer.weights[0] for layer in body if layer.kind == "Convolution" and layer.weights]
    shown = len(kernels[0]) if kernels else 0, body[0].kind == "MVN"
    forms = {
        (form.channels[0], form.input_instance): name
        for name, form in osnet_forms().items()
        if form.folded
    }
    if shown not in forms:
        raise InputProblem(
            f"{file}: its first convolution has {shown[0]} channels, which no OSNet has; only "
            "OSNets can be imported from a graph"
        )
    pooling: dict[str, Any] = {"pooling": "average"}
    last = next(layer for layer in reversed(body) if layer.kind.endswith("Convolution"))
    if last.kind == "GroupConvolution" and last.weights:
        pooling = {"pooling": "depthwise", "map_size": last.weights[0].shape[-2:]}
    layers = "fc-prelu" if head[2].kind == "PRelu" else "fc-relu"
    dimension = len(head[0].weights[0])
    return EmbedderConfig.model_validate(
        {
            "backbone": forms[shown],
            "head": {"layers": layers, "dimension": dimension},
            **pooling,
        }
    )


def _tensors(file: Path, layers: list[Layer], embedder: Embedder) -> dict[str, torch.Tensor]:
    """Return the embedder's tensors out of a file's layers; the embedder's own weights are lost."""
    state = embedder.state_dict()
    names = dict(enumerate(state, start=2))
    # The embedder's graph holds in every tensor's place its number: from 2 on, as adding 0 or
    # multiplying by 1 would be optimised away.
    for number, name in names.items():
        state[name].fill_(number)
    height, width = embedder.config.map_size or (16, 8)
    crop = torch.zeros(1, 3, 16 * height, 16 * width)
    found: dict[str, torch.Tensor] = {}
    for theirs, ours in zip(layers, _layers(converted(embedder.eval(), crop)), strict=False):
        if theirs.form != ours.form:
            raise InputProblem(
                f"{file}: layer {theirs.name} ({theirs.form}) is not the {ours.form} that "
                f"{embedder.config.backbone} has there; only OSNets can be imported from a graph"
            )
        for values, numbers in zip(theirs.weights, ours.weights, strict=True):
            name = names[int(numbers.flat[0])]
            tensor = torch.from_numpy(values).reshape(state[name].shape)
            if not torch.equal(found.setdefault(name, tensor), tensor):
                raise InputProblem(
                    f"{file}: layer {theirs.name} has other weights than the same gate has in "
                    "another stream; an OSNet's four streams share one"
                )
    return found
