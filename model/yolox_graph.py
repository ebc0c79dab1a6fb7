"""The graph of a YOLOX, read from its `.onnx` and rewritten to take less time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from model.openvino_loading import load_openvino
from model.yolox import PERSON

# The first layers take every second pixel of every second row from each of these rows and columns
# on, and stack the four pictures.
STACKED = ((0, 0), (1, 0), (0, 1), (1, 1))
COLOURS = 3


def read_yolox(file: Path, width: int, height: int) -> Any:
    """Read the graph of a YOLOX for pictures of one size.

    Args:
        file: the `.onnx` of a network that takes colours from 0 to 255 in the order BGR.
        width, height: size of the pictures in pixels, multiples of 32.

    Returns:
        An OpenVINO model. Its input is `(1, height, width, 3)` uint8 RGB. Its output `(1, n, 6)` is
        the first columns of that of the network, up to the score of a person.
    """
    openvino = load_openvino()
    model = openvino.Core().read_model(file)
    model.reshape([1, COLOURS, height, width])
    _merge_first_layers(model)
    _leave_out_other_classes(model)
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    return steps.build()


def _merge_first_layers(model: Any) -> None:
    """Replace the stack of four pictures and the 3×3 convolution of it by a 6×6 convolution.

    It has a stride of 2, takes RGB and gives the same. OpenVINO would spend an eighth of the time
    of the network on the stack, and most of its memory.
    """
    operations = load_openvino().opset13
    (picture,) = model.get_parameters()
    first = next(node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution")
    of_stack = first.input_value(1).get_node().data
    weights = np.zeros((len(of_stack), COLOURS, 6, 6), np.float32)
    for number, (row, column) in enumerate(STACKED):
        of_bgr = of_stack[:, COLOURS * number : COLOURS * (number + 1)]
        weights[:, :, row::2, column::2] = of_bgr[:, ::-1]
    merged = operations.convolution(
        picture,
        operations.constant(weights),
        strides=[2, 2],
        pads_begin=[2, 2],
        pads_end=[2, 2],
        dilations=[1, 1],
    )
    for target in first.output(0).get_target_inputs():
        target.replace_source_output(merged.output(0))


def _leave_out_other_classes(model: Any) -> None:
    operations = load_openvino().opset13
    (result,) = model.get_results()
    columns = operations.slice(result.input_value(0), [0], [PERSON + 1], [1], [2])
    result.input(0).replace_source_output(columns.output(0))
    model.validate_nodes_and_infer_types()
