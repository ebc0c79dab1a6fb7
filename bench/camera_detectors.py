"""Detectors of cameras beside each other: whom each finds in one pass over a frame.

`python -m bench.camera_detectors FOLDER KIND:PATH --detector FILE …` looks at two kinds of frames:
the labelled photographs of `bench.labelled_photos`, and frames with pasted crops as in
`bench.photos`. The shipped detector is always measured. A detection of at least 0.5 begins a track,
and one of at least 0.2 continues it. `--resized 544x320` also measures the further detectors with
inputs of that width and height; it needs `.xml` files of networks that can be resized, as SSDs can.
"""

from __future__ import annotations

import io
import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import av
import numpy as np
import typer
from PIL import Image

from bench.labelled_photos import LabelledPhoto, count_boxes, read_photos, summarise
from bench.photos import SEED, count_found, draw_crops, paste_people
from gmn_camera.boxes import Boxes
from gmn_camera.detector import MIN_SCORE, Detector
from gmn_camera.frame import Frame
from gmn_camera.settings import read_options
from gmn_camera.tracker import MIN_NEW_SCORE
from gmn_camera.try_source import try_source
from model.openvino_loading import load_openvino
from model.people_detector import DetectedPerson

SIZES = ((768, 432), (1920, 1080))
HEIGHT_SHARES = (0.07, 0.1, 0.15, 0.25, 0.4, 0.6, 0.95)
SCORES = (MIN_NEW_SCORE, MIN_SCORE)


def frame_of(picture: Image.Image) -> Frame:
    pixels = np.asarray(picture.convert("RGB"))
    return Frame(datetime.now(UTC), av.VideoFrame.from_ndarray(pixels, "rgb24"), 0.0)


def boxes_in_pixels(detector: Detector, frame: Frame, min_score: float) -> Boxes:
    found = detector.detect(frame)
    return found.boxes[found.scores >= min_score] * ([frame.width, frame.height] * 2)


def read_size(size: str) -> tuple[int, int]:
    """Return width and height of a size such as 544x320."""
    width, _, height = size.partition("x")
    try:
        return int(width), int(height)
    except ValueError as error:
        raise typer.BadParameter(
            f"--resized: {size!r} is no size; write it like 544x320"
        ) from error


def resize_input(file: Path, width: int, height: int, folder: Path) -> Path:
    """Save a network with another input size in a folder, and return its file."""
    openvino = load_openvino()
    network = openvino.Core().read_model(file)
    network.reshape({network.input(0): [1, 3, height, width]})
    resized = folder / f"{file.stem}-{width}x{height}.xml"
    openvino.save_model(network, resized)
    return resized


def measure_photographs(
    detector: Detector, photos: Sequence[LabelledPhoto], min_score: float
) -> dict[str, Any]:
    results = []
    for photo in photos:
        frame = frame_of(Image.open(photo.file))
        started = time.process_time()
        found = boxes_in_pixels(detector, frame, min_score)
        milliseconds = 1000.0 * (time.process_time() - started)
        labels = photo.labels * ([frame.width, frame.height] * 2)
        results.append(count_boxes(labels, found, milliseconds))
    return {"min_score": min_score, **summarise(results)}


def measure_pasted(
    detector: Detector, crops: Sequence[Image.Image], people: int, min_score: float
) -> Iterator[dict[str, Any]]:
    for size in SIZES:
        for share in HEIGHT_SHARES:
            draw = random.Random(f"{SEED} {size} {share}")
            pasted = found = boxes = 0
            while pasted < people:
                photo = paste_people(crops, size, round(share * size[1]), draw)
                frame = frame_of(Image.open(io.BytesIO(photo.file)))
                corners = boxes_in_pixels(detector, frame, min_score).round().astype(int).tolist()
                detected = [
                    DetectedPerson(left, top, right - left, bottom - top, min_score)
                    for left, top, right, bottom in corners
                ]
                pasted += len(photo.boxes)
                found += count_found(photo.boxes, detected)
                boxes += len(detected)
            yield {
                "min_score": min_score,
                "width": size[0],
                "height": size[1],
                "share_of_height": share,
                "people": pasted,
                "found": round(found / pasted, 3),
                "other_boxes": boxes - found,
            }


def frames_of_tracks(detector: Path, clip: Path) -> list[int]:
    """Return for each track of a clip how many frames show the person."""
    settings = read_options({"camera": "clip", "source": str(clip), "detector": str(detector)})
    with tempfile.TemporaryDirectory() as folder:
        tried = try_source(settings, None, Path(folder, "picture.png"))
    return [track.frames for track in tried.tracks]


def measure(
    detector: Detector, photos: Sequence[LabelledPhoto], crops: Sequence[Image.Image], people: int
) -> dict[str, Any]:
    return {
        "detector": detector.file.stem,
        "photographs": [measure_photographs(detector, photos, score) for score in SCORES],
        "pasted": [
            row for score in SCORES for row in measure_pasted(detector, crops, people, score)
        ],
    }


def main(
    folder: Path,
    data: str,
    detector: Annotated[list[Path] | None, typer.Option()] = None,
    resized: Annotated[list[str] | None, typer.Option()] = None,
    clip: Path | None = None,
    people: int = 50,
) -> None:
    """Print the figures of each detector as a line of JSON.

    Args:
        folder: labelled photographs, with `images` and `labels`.
        data: crops of people, KIND:PATH.
        detector: files of further detectors, as of `gmn camera --detector`.
        resized: further inputs of these detectors, each WIDTHxHEIGHT in pixels.
        clip: a video, of which the tracks are counted.
        people: least number of pasted people for each figure.
    """
    photos = read_photos(folder)
    crops = draw_crops(data, 2 * people)
    with tempfile.TemporaryDirectory() as scratch:
        files: list[Path | None] = [None, *(detector or [])]
        for size in resized or []:
            width, height = read_size(size)
            files += [resize_input(graph, width, height, Path(scratch)) for graph in detector or []]
        for file in files:
            loaded = Detector(file, 1)
            figures = measure(loaded, photos, crops, people)
            if clip is not None:
                figures["frames_of_tracks"] = frames_of_tracks(loaded.file, clip)
            typer.echo(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
