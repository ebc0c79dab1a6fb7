"""The detector of people on photos: an SSD of the Open Model Zoo under OpenVINO."""

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

from model.arrays import Array, Pixels
from model.crops.decode import Photo
from model.openvino_loading import compiled, load_openvino

SHIPPED_DETECTOR = Path(__file__).parent / "detectors" / "person-detection-retail-0013.xml"
# Heights and widths in pixels of the pictures that the network gets; it was trained with 320×544.
# A graph for one size takes four fifths of the time of a graph for any size, and keeps 20 to 30 MB.
# A photo is fitted into the canvas that reduces it least, and grey fills the rest: squeezed into
# one size, upright photos would lose a third of their people.
CANVASES = ((320, 544), (544, 320), (416, 416), (256, 672), (672, 256))
PASS_PIXELS = 320 * 544
GREY = 114
# People may become taller by this factor where it fills the canvas, as with photos of 16:9.
MAX_STRETCH = 17 / 16
# People who fill a photo are larger than those of the training. They are seen in a pass over a
# small picture, which answers those of at least half of the photo's height.
CLOSE_CANVAS = (192, 192)
CLOSE_SHARE = 0.5
# Larger photos are also looked at in three rows of three tiles, where people have 2.5 times as many
# rows as in the whole. Two tiles have a tenth of the photo's width or height in common, so that a
# person who is smaller is complete in one of them.
TILED_PIXELS = 1_500_000
TILE_SHARE = 0.4
TILE_BEGINS = (0.0, 0.3, 0.6)
# A box that ends so close to an inner edge of its tile, in shares of the tile, may be cut by it.
EDGE_SHARE = 0.01
MIN_SCORE = 0.3
# In tiles, boxes below this share of the photo's height need a lower score only: the network is
# less certain of small people, and what it takes for a person by mistake is mostly large.
SMALL_SHARE = 0.15
MIN_SMALL_SCORE = 0.2
# Two boxes with a larger intersection over union are one person. So are two boxes of different
# passes if a larger share of the smaller one lies in the other.
MAX_OVERLAP = 0.6
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


class Region(NamedTuple):
    """A rectangle of a photo, which the network looks at in one pass.

    Attributes:
        left, top, right, bottom: in shares of the photo's width and height.
        canvas: height and width in pixels of the picture that the network gets.
        min_small_score: small boxes with a lower score are left out.
        min_height: boxes of a smaller share of the photo's height are left to the other passes.
        inner_edges: whether left, top, right and bottom are no edges of the photo.
    """

    left: float
    top: float
    right: float
    bottom: float
    canvas: tuple[int, int]
    min_small_score: float = MIN_SCORE
    min_height: float = 0.0
    inner_edges: tuple[bool, bool, bool, bool] = (False, False, False, False)


class Detections(NamedTuple):
    """Boxes `(n, 4)` as left, top, right and bottom, their scores `(n,)`, and their passes `(n,)`.

    Boxes of one pass are told apart by the network itself.
    """

    boxes: Array
    scores: Array
    passes: Array


class PeopleDetector:
    """Finds people on photos; several threads may call it, one photo is computed at a time.

    Attributes:
        name: name of the network.
    """

    def __init__(self, graph: Path = SHIPPED_DETECTOR) -> None:
        """Remember the graph, which is loaded when the first photo comes.

        Args:
            graph: the `.xml` of a detector with one input `(1, 3, height, width)`, BGR from 0 to
                255, and rows of image, label, score, left, top, right, bottom in shares.
        """
        self.name = graph.stem
        self._graph = graph
        self._lock = threading.Lock()
        self._requests: dict[tuple[int, int], Any] = {}

    def detect(self, photo: Photo) -> list[DetectedPerson]:
        """Return the people on a photo, at most 128, the most certain first.

        Args:
            photo: at a size of at least `detail_pixels`, or not reduced.

        Returns:
            Boxes in pixels of the whole photo, with a margin of 4% of their height, cut off at the
            edges of the photo.

        Raises:
            RuntimeError: OpenVINO cannot run the graph.
        """
        with self._lock:
            found = [
                self._detect_in(photo.picture, region, number)
                for number, region in enumerate(_regions(photo.width, photo.height))
            ]
        boxes, scores, passes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        detections = Detections(boxes * ([photo.width, photo.height] * 2), scores, passes)
        return list(_people(detections, photo.width, photo.height))

    def _detect_in(self, picture: Image.Image, region: Region, number: int) -> Detections:
        """Look at a region of a photo.

        Args:
            picture: the photo, of any size.
            region: in shares of the photo.
            number: that of the pass.

        Returns:
            Boxes in shares of the photo.
        """
        canvas_height, canvas_width = region.canvas
        corners = np.array(region[:4])
        box = corners * (picture.size * 2)
        box_width, box_height = box[2:] - box[:2]
        scale = min(canvas_width / box_width, canvas_height / box_height)
        columns = max(1, round(scale * box_width))
        rows = max(1, min(canvas_height, round(MAX_STRETCH * scale * box_height)))
        resized = picture.resize(
            (columns, rows), Image.Resampling.BILINEAR, tuple(box), reducing_gap=2.0
        )
        rows_found = self._infer(np.asarray(resized)[:, :, ::-1], region.canvas)
        # The network answers shares of the canvas.
        shares = rows_found[:, 3:7] * ([canvas_width / columns, canvas_height / rows] * 2)
        shares = np.clip(shares, 0.0, 1.0)
        size = corners[2:] - corners[:2]
        boxes = shares * np.tile(size, 2) + np.tile(corners[:2], 2)
        scores = rows_found[:, 2]
        heights = boxes[:, 3] - boxes[:, 1]
        min_scores = np.where(heights < SMALL_SHARE, region.min_small_score, MIN_SCORE)
        is_whole = ~_ends_at(region.inner_edges, shares)
        chosen = (scores >= min_scores) & (heights >= region.min_height) & is_whole
        return Detections(boxes[chosen], scores[chosen], np.full(chosen.sum(), number))

    def _infer(self, pixels: Pixels, canvas: tuple[int, int]) -> Array:
        """Return the rows `(n, 7)` of the network for BGR `(height, width, 3)` on a grey canvas."""
        if canvas not in self._requests:
            self._requests[canvas] = _load(self._graph, canvas)
        request = self._requests[canvas]
        height, width = pixels.shape[:2]
        tensor = request.get_input_tensor()
        tensor.data[...] = GREY
        tensor.data[0, :height, :width] = pixels
        request.start_async()
        request.wait()
        return np.array(request.get_output_tensor().data.reshape(-1, 7), np.float64)


def passes_of(pixels: int) -> int:
    """Return how many passes over 320×544 pixels a photo of so many pixels costs, about."""
    return 10 if pixels > TILED_PIXELS else 1


def detail_pixels(pixels: int) -> int:
    """Return how many pixels the passes use of a photo of so many pixels."""
    return round(PASS_PIXELS / TILE_SHARE**2) if pixels > TILED_PIXELS else PASS_PIXELS


def find_people_detector() -> PeopleDetector | None:
    """Return the shipped detector; None without OpenVINO or without its files."""
    files = (SHIPPED_DETECTOR, SHIPPED_DETECTOR.with_suffix(".bin"))
    if find_spec("openvino") is None or not all(file.is_file() for file in files):
        return None
    return PeopleDetector()


def _load(graph: Path, canvas: tuple[int, int]) -> Any:
    """Return a request of a detector for inputs `(1, height, width, 3)` of one size."""
    openvino = load_openvino()
    model = openvino.Core().read_model(graph)
    model.reshape([1, 3, *canvas])
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
        options["INFERENCE_NUM_THREADS"] = int(threads)
    return compiled(steps.build(), options).create_infer_request()


def _regions(width: int, height: int) -> Iterator[Region]:
    """Yield the whole photo twice and, of a large one, tiles that overlap."""
    canvas = max(CANVASES, key=lambda canvas: min(canvas[0] / height, canvas[1] / width))
    yield Region(0.0, 0.0, 1.0, 1.0, CLOSE_CANVAS, min_height=CLOSE_SHARE)
    yield Region(0.0, 0.0, 1.0, 1.0, canvas)
    if width * height <= TILED_PIXELS:
        return
    last = len(TILE_BEGINS) - 1
    for row, top in enumerate(TILE_BEGINS):
        for column, left in enumerate(TILE_BEGINS):
            inner_edges = (column > 0, row > 0, column < last, row < last)
            yield Region(
                left,
                top,
                left + TILE_SHARE,
                top + TILE_SHARE,
                canvas,
                MIN_SMALL_SCORE,
                inner_edges=inner_edges,
            )


def _ends_at(edges: tuple[bool, ...], shares: Array) -> NDArray[np.bool_]:
    """Tell which boxes end at one of the edges, which may cut the person in two.

    Such a person is complete in another tile, or large enough for the pass over the whole.

    Args:
        edges: which of left, top, right and bottom are meant.
        shares: boxes `(n, 4)` in shares of the region.

    Returns:
        `(n,)`.
    """
    ends = np.concatenate([shares[:, :2] < EDGE_SHARE, shares[:, 2:] > 1 - EDGE_SHARE], axis=1)
    return np.asarray((ends & edges).any(axis=1))


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
    """Return the positions of the best detection of each person, the most certain first."""
    boxes = detections.boxes
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    kept: list[int] = []
    for index in np.argsort(-detections.scores, kind="stable").tolist():
        lower = np.maximum(boxes[index, :2], boxes[kept, :2])
        upper = np.minimum(boxes[index, 2:], boxes[kept, 2:])
        shared = np.clip(upper - lower, 0.0, None).prod(axis=1)
        overlaps = shared / np.maximum(areas[index] + areas[kept] - shared, 1e-9)
        contained = shared / np.maximum(np.minimum(areas[index], areas[kept]), 1e-9)
        of_another_pass = detections.passes[kept] != detections.passes[index]
        is_known = (overlaps > MAX_OVERLAP) | (of_another_pass & (contained > MAX_CONTAINED))
        if not is_known.any():
            kept.append(index)
    return kept
