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
from model.openvino_loading import compiled, load_openvino

SHIPPED_DETECTOR = Path(__file__).parent / "detectors" / "person-detection-retail-0013.xml"
# The network was trained with 544×320 pixels. It reduces its input by 32.
PASS_PIXELS = 544 * 320
STRIDE = 32
# People who fill a photo are larger than those of the training. They are seen in a pass with an
# eighth of the pixels, which answers those of at least half of the photo's height.
CLOSE_PIXELS = PASS_PIXELS / 8
CLOSE_SHARE = 0.5
# Larger photos are also looked at in tiles, where people have 2.25 times as many rows as in the
# whole. Of drawn photos with pasted people of 7% of the height, the whole finds about one in five.
TILED_PIXELS = 1_500_000
TILE_ZOOM = 2.25
# Share of the photo's width and height that a tile covers. Two tiles have a fifth of the photo in
# common, so that a person who is smaller is complete in one of them.
TILE_SHARE = 0.6
# A box that ends so close to an inner edge of its tile, in shares of the tile, may be cut by it.
EDGE_SHARE = 0.01
MIN_SCORE = 0.3
# Two boxes with a larger intersection over union are one person. So are two boxes of different
# passes if a larger share of the smaller one lies in the other.
MAX_OVERLAP = 0.6
MAX_CONTAINED = 0.8
MAX_PEOPLE = 128
# Crops of data sets have some background around the person.
MARGIN_SHARE = 0.04
# Smaller boxes are not usable as crops.
MIN_SIDE = 8
# Rows of a photo that are reduced at once, times the factor of the reduction.
ROWS_OF_A_STRIP = 64


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
        left, top, right, bottom: in pixels of the photo.
        pass_pixels: about how many pixels the network gets of it.
        min_height: boxes of fewer pixels of the photo are left to the other passes.
        inner_edges: whether left, top, right and bottom are no edges of the photo.
    """

    left: float
    top: float
    right: float
    bottom: float
    pass_pixels: float = PASS_PIXELS
    min_height: float = 0.0
    inner_edges: tuple[bool, bool, bool, bool] = (False, False, False, False)

    @property
    def width(self) -> float:
        """Return the width in pixels of the photo."""
        return self.right - self.left

    @property
    def height(self) -> float:
        """Return the height in pixels of the photo."""
        return self.bottom - self.top


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
        self._request: Any = None

    def detect(self, photo: Pixels) -> list[DetectedPerson]:
        """Return the people on a photo, at most 128, the most certain first.

        Args:
            photo: `(height, width, 3)` RGB.

        Returns:
            Boxes with a margin of 4% of their height, cut off at the edges of the photo.

        Raises:
            RuntimeError: OpenVINO cannot run the graph.
        """
        height, width = photo.shape[:2]
        picture, factor = _reduced(photo)
        with self._lock:
            found = [
                self._detect_in(picture, factor, region, number)
                for number, region in enumerate(_regions(width, height))
            ]
        detections = Detections(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
        return list(_people(detections, width, height))

    def _detect_in(
        self,
        picture: Image.Image,
        factor: int,
        region: Region,
        number: int,
    ) -> Detections:
        """Look at a region of a photo.

        Args:
            picture: the photo, reduced by `factor`.
            region: in pixels of the photo.
            number: that of the pass.
        """
        aspect = region.width / region.height
        rows = max(1, round(math.sqrt(region.pass_pixels / aspect) / STRIDE)) * STRIDE
        columns = max(1, round(math.sqrt(region.pass_pixels * aspect) / STRIDE)) * STRIDE
        left, top, right, bottom = region[:4]
        box = (left / factor, top / factor, right / factor, bottom / factor)
        resized = picture.resize((columns, rows), Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        rows_found = self._infer(np.asarray(resized)[:, :, ::-1])
        rows_found = rows_found[rows_found[:, 2] >= MIN_SCORE]
        shares = np.clip(rows_found[:, 3:7], 0.0, 1.0)
        boxes = shares * ([region.width, region.height] * 2) + [left, top] * 2
        is_large = boxes[:, 3] - boxes[:, 1] >= region.min_height
        chosen = is_large & ~_ends_at(region.inner_edges, shares)
        return Detections(boxes[chosen], rows_found[chosen, 2], np.full(chosen.sum(), number))

    def _infer(self, pixels: Pixels) -> Array:
        """Return the rows `(n, 7)` of the network for an input `(height, width, 3)` BGR."""
        if self._request is None:
            self._request = _load(self._graph)
        tensor = self._request.get_input_tensor()
        tensor.shape = (1, *pixels.shape)
        tensor.data[0] = pixels
        self._request.start_async()
        self._request.wait()
        return np.array(self._request.get_output_tensor().data.reshape(-1, 7), np.float64)


def passes_of(pixels: int) -> int:
    """Return how many passes over 544×320 pixels a photo of so many pixels costs, about."""
    return 9 if pixels > TILED_PIXELS else 1


def find_people_detector() -> PeopleDetector | None:
    """Return the shipped detector; None without OpenVINO or without its files."""
    files = (SHIPPED_DETECTOR, SHIPPED_DETECTOR.with_suffix(".bin"))
    if find_spec("openvino") is None or not all(file.is_file() for file in files):
        return None
    return PeopleDetector()


def _load(graph: Path) -> Any:
    """Return a request of a detector for inputs `(1, height, width, 3)` of any size."""
    openvino = load_openvino()
    model = openvino.Core().read_model(graph)
    model.reshape([1, 3, -1, -1])
    steps = openvino.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(openvino.Type.u8)
    steps.input().tensor().set_layout(openvino.Layout("NHWC"))
    steps.input().model().set_layout(openvino.Layout("NCHW"))
    options: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:
        options["INFERENCE_NUM_THREADS"] = int(threads)
    return compiled(steps.build(), options).create_infer_request()


def _regions(width: int, height: int) -> Iterator[Region]:
    """Yield the whole photo twice and, of a large one, two rows of two tiles that overlap."""
    yield Region(0, 0, width, height, CLOSE_PIXELS, CLOSE_SHARE * height)
    yield Region(0, 0, width, height)
    if width * height <= TILED_PIXELS:
        return
    tile_width = TILE_SHARE * width
    tile_height = TILE_SHARE * height
    pass_pixels = PASS_PIXELS * (TILE_ZOOM * TILE_SHARE) ** 2
    for is_lower in (False, True):
        for is_right in (False, True):
            left = width - tile_width if is_right else 0.0
            top = height - tile_height if is_lower else 0.0
            inner_edges = (is_right, is_lower, not is_right, not is_lower)
            yield Region(
                left,
                top,
                left + tile_width,
                top + tile_height,
                pass_pixels,
                inner_edges=inner_edges,
            )


def _reduced(photo: Pixels) -> tuple[Image.Image, int]:
    """Reduce a photo by the largest whole factor that leaves as much detail as the passes need.

    A strip is reduced at a time, since Pillow copies what it reduces.

    Returns:
        The reduced photo, and the factor.
    """
    height, width = photo.shape[:2]
    factor = max(1, math.floor(math.sqrt(width * height / PASS_PIXELS) / TILE_ZOOM))
    if factor == 1:
        return Image.fromarray(photo), 1
    picture = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = ROWS_OF_A_STRIP * factor
    for top in range(0, height, rows):
        strip = Image.fromarray(photo[top : top + rows])
        picture.paste(strip.reduce(factor), (0, top // factor))
    return picture, factor


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
