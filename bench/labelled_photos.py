"""People found on labelled photographs, and the boxes on photographs of nobody.

`python -m bench.labelled_photos FOLDER` reads `images` and, for each of them, the text file of the
same name in `labels`: rows of class, centre, width and height in shares, as YOLO writes them. Class
0 is a person; a photograph without rows shows nobody. What was chosen on one half of the
photographs is judged on the other: the even half has the first, third and so on by name.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray

from gmn_camera.boxes import Boxes, overlaps
from model.crops.decode import decode_photo
from model.people_detector import DETAIL_PIXELS, DetectedPerson, PeopleDetector

# A box shows a person if the intersection over union with the label is at least this. Pairs are
# formed from the largest on, and each box and each label is in one at most: a second box of the
# same person shows nobody.
MIN_OVERLAP = 0.5
# Labels of at least this many pixels in height, and at least so many times as high as wide, are of
# upright people. Lower and wider ones are of people who are far away, sit, lie or are cut.
UPRIGHT_PIXELS = 64
UPRIGHT_SHAPE = 1.5
PERSON = "0"


class LabelledPhoto(NamedTuple):
    """A photograph, and the left, top, right and bottom of its people in shares."""

    file: Path
    labels: Boxes


def read_photos(folder: Path) -> list[LabelledPhoto]:
    """Read the labels of the photographs in a folder, by name."""
    photos = []
    for file in sorted((folder / "images").iterdir()):
        text = (folder / "labels" / f"{file.stem}.txt").read_text()
        rows = [line.split() for line in text.splitlines()]
        shares = [[float(share) for share in row[1:5]] for row in rows if row[0] == PERSON]
        centres_and_sides = np.array(shares).reshape(-1, 4)
        centres = centres_and_sides[:, :2]
        halves = centres_and_sides[:, 2:] / 2
        labels = np.concatenate([centres - halves, centres + halves], axis=1)
        photos.append(LabelledPhoto(file, labels))
    return photos


def pair_up(labels: Boxes, boxes: Boxes) -> list[tuple[int, int]]:
    """Return the indexes of each label that is found and of the box that shows its person."""
    likeness = overlaps(labels, boxes)
    pairs: list[tuple[int, int]] = []
    while likeness.size and likeness.max() >= MIN_OVERLAP:
        label, box = divmod(int(likeness.argmax()), likeness.shape[1])
        pairs.append((label, box))
        likeness[label] = 0.0
        likeness[:, box] = 0.0
    return pairs


def are_upright(labels: Boxes) -> NDArray[np.bool_]:
    """Return which labels `(n,)` in pixels are of upright people."""
    widths, heights = (labels[:, 2:] - labels[:, :2]).T
    return np.asarray((heights >= UPRIGHT_PIXELS) & (heights >= UPRIGHT_SHAPE * widths))


class PhotoResult(NamedTuple):
    """The counts of one photograph."""

    upright: int
    upright_found: int
    boxes: int
    boxes_of_people: int
    shows_nobody: bool
    cpu_milliseconds: float


def measure_photo(detector: PeopleDetector, photo: LabelledPhoto) -> PhotoResult:
    content = photo.file.read_bytes()
    started = time.process_time()
    decoded = decode_photo(content, DETAIL_PIXELS)
    people = detector.detect(decoded)
    milliseconds = 1000.0 * (time.process_time() - started)
    labels = photo.labels * ([decoded.width, decoded.height] * 2)
    return count_boxes(labels, boxes_of(people), milliseconds)


def count_boxes(labels: Boxes, boxes: Boxes, cpu_milliseconds: float) -> PhotoResult:
    """Count the found people and the boxes of one photograph; both are in pixels."""
    pairs = pair_up(labels, boxes)
    upright = are_upright(labels)
    return PhotoResult(
        upright=int(upright.sum()),
        upright_found=sum(bool(upright[label]) for label, _ in pairs),
        boxes=len(boxes),
        boxes_of_people=len(pairs),
        shows_nobody=not len(labels),
        cpu_milliseconds=cpu_milliseconds,
    )


def boxes_of(people: Sequence[DetectedPerson]) -> Boxes:
    rows = [
        (person.x, person.y, person.x + person.width, person.y + person.height) for person in people
    ]
    return np.array(rows, np.float64).reshape(-1, 4)


def summarise(results: Sequence[PhotoResult]) -> dict[str, Any]:
    of_nobody = [result for result in results if result.shows_nobody]
    return {
        "photographs": len(results),
        "upright": sum(result.upright for result in results),
        "upright_found": sum(result.upright_found for result in results),
        "boxes": sum(result.boxes for result in results),
        "boxes_of_people": sum(result.boxes_of_people for result in results),
        "photographs_of_nobody": len(of_nobody),
        "boxes_on_them": sum(result.boxes for result in of_nobody),
        "median_cpu_ms": round(statistics.median(result.cpu_milliseconds for result in results), 1),
    }


def measure(photos: Sequence[LabelledPhoto]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of all photographs, of the even and of the odd half."""
    detector = PeopleDetector()
    results = [measure_photo(detector, photo) for photo in photos]
    yield "all", summarise(results)
    yield "even", summarise(results[::2])
    yield "odd", summarise(results[1::2])


def main(folder: Path) -> None:
    """Print the figures as a JSON object.

    Args:
        folder: the folder with `images` and `labels`.
    """
    typer.echo(json.dumps(dict(measure(read_photos(folder))), indent=1))


if __name__ == "__main__":
    typer.run(main)
