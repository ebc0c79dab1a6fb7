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
from PIL import Image

from model.arrays import Array, Pixels
from model.crops.decode import Photo
from model.openvino_loading import compiled, load_openvino

SHIPPED_DETECTOR = Path(__file__).parent / "detectors" / "person-detection-retail-0013.xml"
# Input heights and widths of the network in pixels; it was trained with 320×544.
# A graph for one size takes four fifths of the time of a graph for any size, and keeps 20 MB; one
# for a detailed picture keeps 60 MB. A photo is fitted into the canvas that reduces it least, and
# grey fills the rest: squeezed into one size, upright photos would lose a third of their people.
CANVASES = ((320, 544), (544, 320), (416, 416), (256, 672), (672, 256))
PASS_PIXELS = 320 * 544
GREY = 114
# Photos are stretched in height by up to this factor to fill the canvas, as those of 16:9.
MAX_STRETCH = 17 / 16
# People who fill a photo are larger than those of the training data. A pass over a small picture
# finds people of at least half of the photo's height.
CLOSE_CANVAS = (192, 192)
CLOSE_SHARE = 0.5
# Large photos are also looked at in more detail: on a canvas that is higher and wider by this
# factor. One such pass finds as many people as tiles of the same detail, in half of the time, and
# nobody stands across two tiles.
DETAILED_PIXELS = 1_500_000
DETAIL = 2.5
MIN_SCORE = 0.3
# In the detailed pass, boxes below this share of the photo's height need only a lower score. The
# network is less certain of small people, and most of its false detections are large.
SMALL_SHARE = 0.15
MIN_SMALL_SCORE = 0.2
# Two boxes with a larger intersection over union show one person. So do two boxes of different
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


class Pass(NamedTuple):
    """One pass of the network over a photo.

    Attributes:
        canvas: input height and width in pixels.
        min_height: least height of a box, as a share of the photo's; other passes find lower ones.
        min_small_score: least score of a small box.
    """

    canvas: tuple[int, int]
    min_height: float = 0.0
    min_small_score: float = MIN_SCORE


class Detections(NamedTuple):
    """Boxes `(n, 4)` as left, top, right and bottom, their scores `(n,)`, and their passes `(n,)`.

    The network itself suppresses duplicate boxes within a pass.
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
        """Create a detector, which loads its graph with the first photo.

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
                for number, one_pass in enumerate(_passes(photo.width, photo.height))
            ]
        boxes, scores, passes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        detections = Detections(boxes * ([photo.width, photo.height] * 2), scores, passes)
        return list(_people(detections, photo.width, photo.height))

    def _detect_in_pass(self, picture: Image.Image, one_pass: Pass, number: int) -> Detections:
        """Detect people in one pass over a photo.

        Args:
            picture: the photo, of any size.
            number: number of the pass.

        Returns:
            Boxes in shares of the photo.
        """
        canvas_height, canvas_width = one_pass.canvas
        scale = min(canvas_width / picture.width, canvas_height / picture.height)
        columns = max(1, round(scale * picture.width))
        rows = max(1, min(canvas_height, round(MAX_STRETCH * scale * picture.height)))
        resized = picture.resize((columns, rows), Image.Resampling.BILINEAR, reducing_gap=1.0)
        found = self._infer(np.asarray(resized)[:, :, ::-1], one_pass.canvas)
        # The network gives shares of the canvas.
        boxes = found[:, 3:7] * ([canvas_width / columns, canvas_height / rows] * 2)
        boxes = np.clip(boxes, 0.0, 1.0)
        scores = found[:, 2]
        heights = boxes[:, 3] - boxes[:, 1]
        min_scores = np.where(heights < SMALL_SHARE, one_pass.min_small_score, MIN_SCORE)
        chosen = (scores >= min_scores) & (heights >= one_pass.min_height)
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
    """Estimate the cost of a photo of `pixels` pixels, in passes over 320×544 pixels."""
    return 7 if pixels > DETAILED_PIXELS else 1


def detail_pixels(pixels: int) -> int:
    """Return the number of pixels that the passes use of a photo of `pixels` pixels."""
    return round(PASS_PIXELS * DETAIL**2) if pixels > DETAILED_PIXELS else PASS_PIXELS


def find_people_detector() -> PeopleDetector | None:
    """Return the shipped detector; None without OpenVINO or without its files."""
    files = (SHIPPED_DETECTOR, SHIPPED_DETECTOR.with_suffix(".bin"))
    if find_spec("openvino") is None or not all(file.is_file() for file in files):
        return None
    return PeopleDetector()


def _load(graph: Path, canvas: tuple[int, int]) -> Any:
    """Compile a detector for inputs `(1, height, width, 3)`, and return a request of it."""
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


def _passes(width: int, height: int) -> Iterator[Pass]:
    """Yield the passes over a photo of this size in pixels; the detailed pass comes last."""
    canvas = max(CANVASES, key=lambda canvas: min(canvas[0] / height, canvas[1] / width))
    yield Pass(CLOSE_CANVAS, min_height=CLOSE_SHARE)
    yield Pass(canvas)
    if width * height > DETAILED_PIXELS:
        detailed = round(DETAIL * canvas[0]), round(DETAIL * canvas[1])
        yield Pass(detailed, min_small_score=MIN_SMALL_SCORE)


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
    """Return the indexes of the best detection of each person, by descending score."""
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
