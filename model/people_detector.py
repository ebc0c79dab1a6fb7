"""The detector of people on photos: YOLOX-nano under OpenVINO, over the photo and its tiles."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.arrays import Array
from model.crops.decode import Photo
from model.openvino_loading import compiled, load_openvino
from model.yolox import decode_people

SHIPPED_DETECTOR = Path(__file__).parent / "detectors" / "yolox_nano.onnx"
GREY = 114
# Width and height of the input in pixels. The network was trained with 320 to 640 and published
# with 416, which finds fewer people on photos.
SIDE = 480
# People who fill a photo are larger than those of the training data. A pass over a small picture
# finds people of at least half of the photo's height.
CLOSE_SIDE = 192
CLOSE_SHARE = 0.5
# A pass that reduces a photo by more than this factor misses small people. Such a photo is also
# looked at in tiles, whose sides are this share of its longer side, or less if it is large.
MAX_REDUCTION = 1.5
TILE_SHARE = 0.6
LARGE_PIXELS = 1_500_000
LARGE_TILE_SHARE = 0.4
# Least overlap of two tiles, as a share of the photo's longer side.
TILE_OVERLAP = 0.05
MIN_SCORE = 0.4
# The network is less certain of small people. A tile is looked at for people of at most this share
# of its side, and the passes over the whole photo find the others.
MIN_TILE_SCORE = 0.3
MAX_TILE_HEIGHT = 0.5
# A box that comes as close to the edge of a tile as this, in pixels, shows a part of a person.
EDGE = 2
# Two boxes with a larger intersection over union show one person. So do two boxes of different
# passes if a larger share of the smaller one lies in the other.
MAX_OVERLAP = 0.5
MAX_CONTAINED = 0.8
MAX_PEOPLE = 128
# Crops of data sets have some background around the person.
MARGIN_SHARE = 0.04
# Smaller boxes are not usable as crops.
MIN_SIDE = 8


class DetectedPerson(NamedTuple):
    """The box of a person on a photo in pixels, and the detector's score between 0 and 1."""

    x: int
    y: int
    width: int
    height: int
    score: float


class Window(NamedTuple):
    """A part of a picture in its pixels."""

    left: float
    top: float
    right: float
    bottom: float


class Pass(NamedTuple):
    """A pass of the network over a picture.

    Attributes:
        window: what it looks at.
        side: width and height of the network's input in pixels.
        min_score: least score of a box.
        min_height, max_height: least and largest height of a box, in pixels of the picture.
        is_tile: whether the window is a tile, or else the whole picture.
    """

    window: Window
    side: int
    min_score: float
    min_height: float
    max_height: float
    is_tile: bool


class Detections(NamedTuple):
    """Boxes `(n, 4)` as left, top, right and bottom, and what else is known of each `(n,)`.

    Attributes:
        scores: between 0 and 1.
        passes: number of the pass that found it.
        of_tiles: whether it was a pass over a tile.
    """

    boxes: Array
    scores: Array
    passes: Array
    of_tiles: NDArray[np.bool_]


class PeopleDetector:
    """Finds people on photos; several threads may call it, one photo is computed at a time.

    Attributes:
        name: name of the network.
    """

    def __init__(self, graph: Path = SHIPPED_DETECTOR) -> None:
        """Create a detector, which loads its graph with the first photo.

        Args:
            graph: the `.onnx` of a YOLOX whose first class is a person.
        """
        self.name = graph.stem
        self._graph = graph
        self._lock = threading.Lock()
        self._requests: dict[int, Any] = {}

    def detect(self, photo: Photo) -> list[DetectedPerson]:
        """Return the people on a photo, at most 128, the most certain first.

        Args:
            photo: a photo that is not reduced, or has at least `detail_pixels` left.

        Returns:
            Boxes in pixels of the whole photo, with a margin of 4% of their height, cut off at the
            edges of the photo.

        Raises:
            RuntimeError: OpenVINO cannot run the graph.
        """
        with self._lock:
            found = [
                self._detect_in_pass(photo.picture, one_pass, number)
                for number, one_pass in enumerate(_passes(photo))
            ]
        boxes, scores, passes, of_tiles = (
            np.concatenate(parts) for parts in zip(*found, strict=True)
        )
        enlargement = [photo.width / photo.picture.width, photo.height / photo.picture.height]
        detections = Detections(boxes * (enlargement * 2), scores, passes, of_tiles)
        return list(_people(detections, photo.width, photo.height))

    def _detect_in_pass(self, picture: Image.Image, one_pass: Pass, number: int) -> Detections:
        """Detect people in one pass over a picture.

        Args:
            number: number of the pass.

        Returns:
            Boxes in pixels of the picture.
        """
        window = one_pass.window
        width = window.right - window.left
        height = window.bottom - window.top
        scale = one_pass.side / max(width, height)
        columns = max(1, round(scale * width))
        rows = max(1, round(scale * height))
        resized = picture.resize(
            (columns, rows), Image.Resampling.BILINEAR, box=window, reducing_gap=1.0
        )
        boxes, scores = self._infer(resized, one_pass.side)
        boxes = np.clip(boxes, 0.0, [columns, rows] * 2) * ([width / columns, height / rows] * 2)
        boxes += [window.left, window.top] * 2
        heights = boxes[:, 3] - boxes[:, 1]
        usable = scores >= one_pass.min_score
        usable &= (one_pass.min_height <= heights) & (heights <= one_pass.max_height)
        usable &= ~_are_cut(boxes, window, picture)
        count = int(usable.sum())
        return Detections(
            boxes[usable],
            scores[usable],
            np.full(count, number),
            np.full(count, one_pass.is_tile),
        )

    def _infer(self, picture: Image.Image, side: int) -> tuple[Array, Array]:
        """Return the boxes `(n, 4)` in the pixels of a small picture, and their scores `(n,)`."""
        if side not in self._requests:
            self._requests[side] = _load(self._graph, side)
        request = self._requests[side]
        tensor = request.get_input_tensor()
        tensor.data[...] = GREY
        tensor.data[0, : picture.height, : picture.width] = np.asarray(picture)[:, :, ::-1]
        request.start_async()
        request.wait()
        return decode_people(request.get_output_tensor().data[0], (side, side))


def passes_of(pixels: int) -> int:
    """Estimate the cost of a photo of `pixels` pixels, in passes over 480×480 pixels."""
    if pixels > LARGE_PIXELS:
        return 7
    return 5 if pixels > (MAX_REDUCTION * SIDE) ** 2 else 1


def detail_pixels(pixels: int) -> int:
    """Return the number of pixels that the passes use of a photo of `pixels` pixels."""
    return round((SIDE / _tile_share(pixels)) ** 2)


def find_people_detector() -> PeopleDetector | None:
    """Return the shipped detector; None without OpenVINO or without its file."""
    if find_spec("openvino") is None or not SHIPPED_DETECTOR.is_file():
        return None
    return PeopleDetector()


def _load(graph: Path, side: int) -> Any:
    """Compile a detector for inputs `(1, side, side, 3)`, and return a request of it."""
    openvino = load_openvino()
    model = openvino.Core().read_model(graph)
    model.reshape([1, 3, side, side])
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
        options["INFERENCE_NUM_THREADS"] = int(threads)
    return compiled(steps.build(), options).create_infer_request()


def _tile_share(pixels: int) -> float:
    return LARGE_TILE_SHARE if pixels > LARGE_PIXELS else TILE_SHARE


def _passes(photo: Photo) -> Iterator[Pass]:
    width, height = photo.picture.size
    whole = Window(0, 0, width, height)
    yield Pass(whole, SIDE, MIN_SCORE, 0, height, is_tile=False)
    yield Pass(whole, CLOSE_SIDE, MIN_SCORE, CLOSE_SHARE * height, height, is_tile=False)
    for tile in _tiles(photo):
        highest = MAX_TILE_HEIGHT * max(tile.right - tile.left, tile.bottom - tile.top)
        yield Pass(tile, SIDE, MIN_TILE_SCORE, 0, highest, is_tile=True)


def _tiles(photo: Photo) -> Iterator[Window]:
    """Yield the tiles of a photo in pixels of its picture; none if it is small."""
    if max(photo.width, photo.height) <= MAX_REDUCTION * SIDE:
        return
    width, height = photo.picture.size
    side = _tile_share(photo.width * photo.height) * max(width, height)
    overlap = TILE_OVERLAP * max(width, height)
    for top in _tile_starts(height, side, overlap):
        for left in _tile_starts(width, side, overlap):
            yield Window(left, top, min(left + side, width), min(top + side, height))


def _tile_starts(length: float, side: float, overlap: float) -> Array:
    """Return where the tiles begin along an edge of the photo, at equal distances."""
    if length <= side:
        return np.zeros(1)
    count = math.ceil((length - overlap) / (side - overlap))
    return np.linspace(0.0, length - side, count)


def _are_cut(boxes: Array, window: Window, picture: Image.Image) -> NDArray[np.bool_]:
    """Return which boxes `(n,)` reach an edge of a window that is no edge of the picture."""
    whole = Window(0, 0, *picture.size)
    is_inner = [abs(edge - outer) > EDGE for edge, outer in zip(window, whole, strict=True)]
    is_reached = np.abs(boxes - window) <= EDGE
    return np.asarray((is_reached & is_inner).any(axis=1))


def _people(detections: Detections, width: int, height: int) -> Iterator[DetectedPerson]:
    for index in _one_for_each_person(detections)[:MAX_PEOPLE]:
        left, top, right, bottom = detections.boxes[index]
        margin = MARGIN_SHARE * (bottom - top)
        x = max(0, math.floor(left - margin / 2))
        y = max(0, math.floor(top - margin))
        box_width = min(width, math.ceil(right + margin / 2)) - x
        box_height = min(height, math.ceil(bottom + margin)) - y
        if min(box_width, box_height) >= MIN_SIDE:
            score = round(float(detections.scores[index]), 3)
            yield DetectedPerson(x, y, box_width, box_height, score)


def _one_for_each_person(detections: Detections) -> list[int]:
    """Return the indexes of the best detection of each person, by descending score.

    What a tile shows inside a box of the whole photo is a part of that person, however high its
    score is.
    """
    boxes = detections.boxes
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept: list[int] = []
    for index in np.lexsort((-detections.scores, detections.of_tiles)).tolist():
        lower = np.maximum(boxes[index, :2], boxes[kept, :2])
        upper = np.minimum(boxes[index, 2:], boxes[kept, 2:])
        shared = np.clip(upper - lower, 0.0, None).prod(axis=1)
        overlaps = shared / np.maximum(areas[index] + areas[kept] - shared, 1e-9)
        contained = shared / np.maximum(np.minimum(areas[index], areas[kept]), 1e-9)
        of_another_pass = detections.passes[kept] != detections.passes[index]
        is_known = (overlaps > MAX_OVERLAP) | (of_another_pass & (contained > MAX_CONTAINED))
        if not is_known.any():
            kept.append(index)
    return sorted(kept, key=lambda index: -detections.scores[index])
