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
from model.openvino_loading import compiled
from model.yolox import decode_people
from model.yolox_graph import read_yolox

SHIPPED_DETECTOR = Path(__file__).parent / "detectors" / "yolox_nano.onnx"
GREY = 114
# Width and height of the network's input, the canvas, in pixels. It lies or stands as the photo
# does.
LYING = (640, 384)
STANDING = (384, 640)
# Longer side of the whole photo on a canvas. The network was trained with 320 to 640 and published
# with 416, which finds fewer people on photos.
WHOLE_SIDE = 480
# People who fill a photo are larger than those of the training data. The photo is on its canvas
# once more, small, for people of at least half of its height.
CLOSE_SIDE = 144
CLOSE_SHARE = 0.5
# A photo that is reduced by more than this factor lacks small people. It is reduced to at most this
# many pixels in length and in all, and looked at once more in up to six tiles, each on a canvas of
# its own.
MAX_REDUCTION = 1.5
DETAIL_SIDE = 1200
DETAIL_PIXELS = 1_080_000
MAX_TILES = 6
# Least overlap of two tiles, as a share of the longer side.
TILE_OVERLAP = 0.05
MIN_SCORE = 0.4
# The network is less certain of small people. A tile is looked at for people of at most this height
# in pixels, and the views of the whole photo find the others.
MIN_TILE_SCORE = 0.3
MAX_TILE_HEIGHT = 240
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


# Width and height in pixels.
Size = tuple[int, int]


class DetectedPerson(NamedTuple):
    """The box of a person on a photo in pixels, and the detector's score between 0 and 1."""

    x: int
    y: int
    width: int
    height: int
    score: float


class Window(NamedTuple):
    """A part of a photo in its pixels."""

    left: float
    top: float
    right: float
    bottom: float


class View(NamedTuple):
    """A part of a photo on a canvas; lengths are in pixels of the canvas.

    Attributes:
        picture: the part, reduced.
        left, top: where it lies on the canvas.
        window: which part of the photo it is.
        min_score: least score of a box.
        min_height, max_height: least and largest height of a box.
        is_tile: whether it is a tile, or else the whole photo.
    """

    picture: Image.Image
    left: int
    top: int
    window: Window
    min_score: float
    min_height: float
    max_height: float
    is_tile: bool


class Detections(NamedTuple):
    """Boxes `(n, 4)` as left, top, right and bottom, and what else is known of each `(n,)`.

    Attributes:
        scores: between 0 and 1.
        views: number of the view that shows it.
        of_tiles: whether it was a tile.
    """

    boxes: Array
    scores: Array
    views: Array
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
        self._requests: dict[Size, Any] = {}

    def detect(self, photo: Photo) -> list[DetectedPerson]:
        """Return the people on a photo, at most 128, the most certain first.

        Args:
            photo: a photo that is not reduced, or has at least `DETAIL_PIXELS` left.

        Returns:
            Boxes in pixels of the whole photo, with a margin of 4% of their height, cut off at the
            edges of the photo.

        Raises:
            RuntimeError: OpenVINO cannot run the graph.
        """
        found: list[Detections] = []
        with self._lock:
            for size, views in _canvases(photo):
                boxes, scores = self._infer(views, size)
                for view in views:
                    found.append(_detections(boxes, scores, view, photo, len(found)))
        detections = Detections(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
        return list(_people(detections, photo.width, photo.height))

    def _infer(self, views: list[View], size: Size) -> tuple[Array, Array]:
        """Return the boxes `(n, 4)` of one canvas, in its pixels, and their scores `(n,)`."""
        if size not in self._requests:
            self._requests[size] = _load(self._graph, size)
        request = self._requests[size]
        tensor = request.get_input_tensor()
        canvas = tensor.data[0]
        canvas[...] = GREY
        for view in views:
            bottom = view.top + view.picture.height
            right = view.left + view.picture.width
            canvas[view.top : bottom, view.left : right] = np.asarray(view.picture)
        request.start_async()
        request.wait()
        return decode_people(request.get_output_tensor().data[0], size[::-1])


def passes_of(pixels: int) -> int:
    """Estimate the passes of the network over a photo of `pixels` pixels."""
    return 1 + MAX_TILES if pixels > (MAX_REDUCTION * min(LYING)) ** 2 else 1


def find_people_detector() -> PeopleDetector | None:
    """Return the shipped detector; None without OpenVINO or without its file."""
    if find_spec("openvino") is None or not SHIPPED_DETECTOR.is_file():
        return None
    return PeopleDetector()


def _load(graph: Path, size: Size) -> Any:
    """Compile a detector for canvases of one width and height, and return a request of it."""
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
        options["INFERENCE_NUM_THREADS"] = int(threads)
    return compiled(read_yolox(graph, *size), options).create_infer_request()


def _canvases(photo: Photo) -> Iterator[tuple[Size, list[View]]]:
    """Yield size and views of each canvas: first of the whole photo, and then of each tile."""
    size = LYING if photo.width >= photo.height else STANDING
    picture = photo.picture
    is_tiled = MAX_REDUCTION * _scale_of_whole(photo.width, photo.height, size) < 1
    if is_tiled:
        width, height = picture.size
        scale = min(DETAIL_SIDE / max(width, height), math.sqrt(DETAIL_PIXELS / (width * height)))
        picture = _resize(picture, min(1.0, scale))
    yield size, _views_of_whole(picture, photo, size)
    if is_tiled:
        for tile in _tiles(picture, size):
            yield size, [_view_of_tile(picture, tile, photo)]


def _views_of_whole(picture: Image.Image, photo: Photo, size: Size) -> list[View]:
    """Return the views of a whole photo, in two opposite corners of a canvas."""
    canvas_width, canvas_height = size
    large = _resize(picture, _scale_of_whole(*picture.size, size))
    small = _resize(picture, CLOSE_SIDE / max(picture.size))
    window = Window(0, 0, photo.width, photo.height)
    left = canvas_width - small.width
    top = canvas_height - small.height
    least = CLOSE_SHARE * small.height
    return [
        View(large, 0, 0, window, MIN_SCORE, 0, large.height, is_tile=False),
        View(small, left, top, window, MIN_SCORE, least, small.height, is_tile=False),
    ]


def _scale_of_whole(width: int, height: int, size: Size) -> float:
    """Return by how much a whole photo is enlarged on a canvas."""
    return min(WHOLE_SIDE / max(width, height), size[0] / width, size[1] / height)


def _view_of_tile(picture: Image.Image, tile: Window, photo: Photo) -> View:
    """Return the view of a tile of a picture of the photo."""
    across = photo.width / picture.width
    down = photo.height / picture.height
    window = Window(tile.left * across, tile.top * down, tile.right * across, tile.bottom * down)
    part = picture.crop(tile)
    return View(part, 0, 0, window, MIN_TILE_SCORE, 0, MAX_TILE_HEIGHT, is_tile=True)


def _resize(picture: Image.Image, scale: float) -> Image.Image:
    size = (max(1, round(scale * picture.width)), max(1, round(scale * picture.height)))
    return picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=1.0)


def _tiles(picture: Image.Image, size: Size) -> Iterator[Window]:
    """Yield the tiles of a picture, at most of a size, in its pixels."""
    width, height = size
    overlap = TILE_OVERLAP * max(picture.size)
    for top in _tile_starts(picture.height, height, overlap):
        for left in _tile_starts(picture.width, width, overlap):
            right = min(left + width, picture.width)
            bottom = min(top + height, picture.height)
            yield Window(left, top, right, bottom)


def _tile_starts(length: int, side: int, overlap: float) -> list[int]:
    """Return where the tiles begin along an edge of the picture, at about equal distances."""
    if length <= side:
        return [0]
    count = math.ceil((length - overlap) / (side - overlap))
    return [round(start) for start in np.linspace(0, length - side, count)]


def _detections(boxes: Array, scores: Array, view: View, photo: Photo, number: int) -> Detections:
    """Select the boxes of a view from those of its canvas.

    Args:
        boxes: in pixels of the canvas, `(n, 4)`.
        scores: `(n,)`.
        number: number of the view.

    Returns:
        Boxes in pixels of the photo.
    """
    width, height = view.picture.size
    boxes = boxes - [view.left, view.top] * 2
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    usable = scores >= view.min_score
    usable &= ((centres >= 0) & (centres <= [width, height])).all(axis=1)
    boxes = np.clip(boxes[usable], 0.0, [width, height] * 2)
    scores = scores[usable]
    heights = boxes[:, 3] - boxes[:, 1]
    whole = (view.min_height <= heights) & (heights <= view.max_height)
    whole &= ~_are_cut(boxes, view, photo)
    window = view.window
    scale = [(window.right - window.left) / width, (window.bottom - window.top) / height]
    boxes = boxes[whole] * (scale * 2) + [window.left, window.top] * 2
    count = len(boxes)
    return Detections(boxes, scores[whole], np.full(count, number), np.full(count, view.is_tile))


def _are_cut(boxes: Array, view: View, photo: Photo) -> NDArray[np.bool_]:
    """Return which boxes `(n,)` reach an edge of a view that is no edge of the photo."""
    whole = Window(0, 0, photo.width, photo.height)
    is_inner = [abs(edge - outer) > 1 for edge, outer in zip(view.window, whole, strict=True)]
    is_reached = np.abs(boxes - [0, 0, *view.picture.size]) <= EDGE
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
        of_another_view = detections.views[kept] != detections.views[index]
        is_known = (overlaps > MAX_OVERLAP) | (of_another_view & (contained > MAX_CONTAINED))
        if not is_known.any():
            kept.append(index)
    return sorted(kept, key=lambda index: -detections.scores[index])
