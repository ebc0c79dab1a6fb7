"""The detector of people in frames: the shipped network or a user's own, run by OpenVINO."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gmn_camera.boxes import Boxes, Scores, overlaps
from gmn_camera.frame import Frame
from gmn_client.errors import InvalidInput
from model.openvino_loading import compiled, load_openvino
from model.yolox import count_cells, decode_people

SHIPPED = "detectors/person-detection-retail-0013.xml"
# Input heights and widths of the shipped network: wide, upright and square.
SHIPPED_CANVASES = ((320, 544), (544, 320), (416, 416))
# Input height and width of networks that accept any.
ANY_CANVAS = (640, 640)
GREY = 114
# Frames are stretched in height by up to this factor to fill the canvas, as those of 16:9.
MAX_STRETCH = 17 / 16
# The tracker also uses boxes of people who are half hidden.
MIN_SCORE = 0.2
# Two boxes with a larger intersection over union show one person, and only the better one is kept.
MAX_OVERLAP = 0.6
MOST_PEOPLE = 128
COLUMNS_OF_SSD = 7
COLUMNS_END_TO_END = 6
PERSON = 0

Outputs: TypeAlias = Sequence[NDArray[Any]]


class Detections(NamedTuple):
    """Boxes of people in shares of a frame, and their scores; the best first."""

    boxes: Boxes
    scores: Scores


class Kind(NamedTuple):
    """The input and output format of a network.

    Attributes:
        read: converts outputs into detections in shares of the canvas; takes the outputs, and the
            height and width of the canvas.
        pixel_format: order of the colours that the network was trained with.
        highest: input value of the brightest pixel.
    """

    read: Callable[[Outputs, tuple[int, int]], Detections]
    pixel_format: str
    highest: float


class Detector:
    """Finds people in frames."""

    def __init__(self, graph: Path | None, threads: int) -> None:
        """Load a network.

        Args:
            graph: an `.xml` of OpenVINO or an `.onnx`: an SSD of the Open Model Zoo, or an export
                of YOLOX, YOLOv8 or RT-DETR whose class 0 is a person; None loads the shipped
                network.
            threads: number of threads that compute.

        Raises:
            InvalidInput: the file cannot be read, or is of another kind.
        """
        openvino = load_openvino()
        self._threads = threads
        self._is_shipped = graph is None
        self.file = graph or Path(str(files("model").joinpath(SHIPPED)))
        try:
            self._model = openvino.Core().read_model(self.file)
        except (RuntimeError, OSError) as error:
            raise InvalidInput(
                f"{self.file}: cannot be read as a network; name the .xml or .onnx of a detector"
            ) from error
        self._kind = _find_kind(self.file, self._model)
        self._requests: dict[tuple[int, int], Any] = {}

    def detect(self, frame: Frame) -> Detections:
        """Return at most 128 people in a frame."""
        canvas = self._choose_canvas(frame)
        canvas_height, canvas_width = canvas
        scale = min(canvas_height / frame.height, canvas_width / frame.width)
        columns = max(1, round(scale * frame.width))
        rows = max(1, min(canvas_height, round(MAX_STRETCH * scale * frame.height)))
        request = self._request(canvas)
        tensor = request.get_input_tensor()
        tensor.data[0, :rows, :columns] = frame.resized(columns, rows, self._kind.pixel_format)
        # An earlier frame of another size may have left pixels beside this one.
        tensor.data[0, rows:] = GREY
        tensor.data[0, :, columns:] = GREY
        request.start_async()
        request.wait()
        outputs = [np.array(output.data) for output in request.output_tensors]
        found = _best(self._kind.read(outputs, canvas))
        shares = found.boxes * ([canvas_width / columns, canvas_height / rows] * 2)
        return Detections(np.clip(shares, 0.0, 1.0), found.scores)

    def _choose_canvas(self, frame: Frame) -> tuple[int, int]:
        if self._is_shipped:
            return max(
                SHIPPED_CANVASES,
                key=lambda canvas: min(canvas[0] / frame.height, canvas[1] / frame.width),
            )
        shape = self._model.input(0).partial_shape
        if shape.is_dynamic:
            return ANY_CANVAS
        _, _, height, width = shape.to_shape()
        return height, width

    def _request(self, canvas: tuple[int, int]) -> Any:
        if canvas not in self._requests:
            self._requests[canvas] = self._compile(canvas)
        return self._requests[canvas]

    def _compile(self, canvas: tuple[int, int]) -> Any:
        openvino = load_openvino()
        model = self._model.clone()
        model.reshape({model.input(0): [1, 3, *canvas]})
        steps = openvino.preprocess.PrePostProcessor(model)
        picture = steps.input(0)
        picture.tensor().set_element_type(openvino.Type.u8)
        picture.tensor().set_layout(openvino.Layout("NHWC"))
        picture.model().set_layout(openvino.Layout("NCHW"))
        picture.preprocess().convert_element_type(openvino.Type.f32)
        if self._kind.highest != 255:
            picture.preprocess().scale(255 / self._kind.highest)
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
            "INFERENCE_NUM_THREADS": self._threads,
        }
        return compiled(steps.build(), options).create_infer_request()


def _find_kind(file: Path, model: Any) -> Kind:
    """Return the kind of a network by the shape of its output."""
    shapes = [output.partial_shape for output in model.outputs]
    if len(model.inputs) == 1 and len(shapes) == 1:
        last = _length(shapes[0], -1)
        if last == COLUMNS_OF_SSD:
            return Kind(_read_ssd, "bgr24", 255)
        if shapes[0].rank.get_length() == 3:
            middle = _length(shapes[0], 1)
            picture = model.input(0).partial_shape
            if picture.is_static and middle == count_cells(tuple(picture.to_shape())[2:]):
                return Kind(_read_yolox, "bgr24", 255)
            if middle is not None and 4 < middle < (last or sys.maxsize) and middle < 1024:
                return Kind(_read_yolo, "rgb24", 1)
            if last is not None and last > 4 and last != COLUMNS_END_TO_END:
                return Kind(_read_rtdetr, "rgb24", 1)
    found = ", ".join(str(shape) for shape in shapes)
    raise InvalidInput(
        f"{file}: a network with the outputs {found} is not supported; name an SSD of the Open "
        "Model Zoo, or export YOLOX, YOLOv8 or RT-DETR to ONNX without NMS"
    )


def _length(shape: Any, axis: int) -> int | None:
    dimension = shape[axis]
    return None if dimension.is_dynamic else int(dimension.get_length())


def _read_ssd(outputs: Outputs, _canvas: tuple[int, int]) -> Detections:
    """Read rows of image, label, score, left, top, right, bottom in shares."""
    rows = outputs[0].reshape(-1, COLUMNS_OF_SSD)
    return Detections(rows[:, 3:].astype(np.float64), rows[:, 2].astype(np.float64))


def _read_yolox(outputs: Outputs, canvas: tuple[int, int]) -> Detections:
    height, width = canvas
    boxes, scores = decode_people(outputs[0][0], canvas)
    return Detections(boxes / ([width, height] * 2), scores)


def _read_yolo(outputs: Outputs, canvas: tuple[int, int]) -> Detections:
    """Read columns of centre, width and height in pixels, and the score of each class."""
    height, width = canvas
    rows = outputs[0][0].T.astype(np.float64)
    return Detections(_corners(rows[:, :4] / ([width, height] * 2)), rows[:, 4 + PERSON])


def _read_rtdetr(outputs: Outputs, _canvas: tuple[int, int]) -> Detections:
    """Read rows of centre, width and height in shares, and the score of each class."""
    rows = outputs[0][0].astype(np.float64)
    return Detections(_corners(rows[:, :4]), rows[:, 4 + PERSON])


def _corners(rows: NDArray[np.float64]) -> Boxes:
    centres = rows[:, :2]
    halves = rows[:, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _best(found: Detections) -> Detections:
    """Suppress weak and duplicate boxes, and sort the others by descending score."""
    order = np.argsort(-found.scores, kind="stable")
    order = order[found.scores[order] >= MIN_SCORE]
    kept: list[int] = []
    for position in order.tolist():
        box = found.boxes[position : position + 1]
        if not kept or overlaps(box, found.boxes[kept]).max() <= MAX_OVERLAP:
            kept.append(position)
        if len(kept) == MOST_PEOPLE:
            break
    return Detections(found.boxes[kept], found.scores[kept])
