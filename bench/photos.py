"""People found on photos with pasted crops, and the processor time of a photo.

`python -m bench.photos KIND:PATH` pastes the crops of a data set on grey photos of several sizes,
saved as JPEG. The crops of a photo have one height, between 5% and 95% of it, and do not cover each
other. Time is the processor time of this process from the file to the boxes, of one thread
with OMP_NUM_THREADS=1; other work of the machine lengthens it too.
"""

from __future__ import annotations

import io
import json
import random
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import typer
from PIL import Image

from demo.data_sets import read_spec
from model.crops.decode import decode_photo
from model.people_detector import DETAIL_PIXELS, DetectedPerson, PeopleDetector

SIZES = (
    (768, 432),
    (720, 1280),
    (1000, 1000),
    (1920, 1080),
    (1080, 1920),
    (4000, 3000),
    (3000, 4000),
)
HEIGHT_SHARES = (0.05, 0.07, 0.1, 0.25, 0.6, 0.95)
MAX_PEOPLE = 8
BACKGROUND = (120, 125, 118)
TRIES = 50
# The detector puts its box closer to a person than crops of data sets are cut.
MIN_OVERLAP = 0.4
SEED = 31

Box = tuple[int, int, int, int]


class PastedPhoto(NamedTuple):
    """A JPEG file, and the left, top, right and bottom of each person on it in pixels."""

    file: bytes
    boxes: list[Box]


def paste_people(
    crops: Sequence[Image.Image], size: tuple[int, int], height: int, draw: random.Random
) -> PastedPhoto:
    """Paste crops of one height on a photo so that they do not overlap.

    Args:
        crops: crops, of which at most eight are drawn.
        size: width and height of the photo in pixels.
        height: height of a person in pixels.
        draw: generator that draws the crops and their positions.
    """
    photo = Image.new("RGB", size, BACKGROUND)
    boxes: list[Box] = []
    for crop in draw.sample(crops, min(MAX_PEOPLE, len(crops))):
        width = round(height * crop.width / crop.height)
        if width > size[0]:
            continue
        for _ in range(TRIES):
            left = draw.randint(0, size[0] - width)
            top = draw.randint(0, size[1] - height)
            box = (left, top, left + width, top + height)
            if not any(_overlap(box, other) for other in boxes):
                person = crop.resize((width, height), Image.Resampling.LANCZOS)
                photo.paste(person, (left, top))
                boxes.append(box)
                break
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90)
    return PastedPhoto(file.getvalue(), boxes)


def count_found(boxes: Sequence[Box], people: Sequence[DetectedPerson]) -> int:
    """Count the people with a detected box of their own that overlaps theirs by 0.4."""
    free = [
        (person.x, person.y, person.x + person.width, person.y + person.height) for person in people
    ]
    found = 0
    for box in boxes:
        nearest = max(free, key=lambda other: _overlap(box, other), default=None)
        if nearest is not None and _overlap(box, nearest) >= MIN_OVERLAP:
            free.remove(nearest)
            found += 1
    return found


def _overlap(box: Box, other: Box) -> float:
    """Return the intersection over union of two boxes."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    shared = max(0, width) * max(0, height)
    areas = [(right - left) * (bottom - top) for left, top, right, bottom in (box, other)]
    return shared / (sum(areas) - shared)


def measure(crops: Sequence[Image.Image], people: int) -> Iterator[dict[str, Any]]:
    """Yield the figures of each size of photo and height of people.

    Args:
        crops: decoded crops of people.
        people: least number of people for each figure.
    """
    detector = PeopleDetector()
    for size in SIZES:
        for share in HEIGHT_SHARES:
            draw = random.Random(f"{SEED} {size} {share}")
            pasted = found = boxes = 0
            times = []
            for _ in range(people):
                photo = paste_people(crops, size, round(share * size[1]), draw)
                started = time.process_time()
                detected = detector.detect(decode_photo(photo.file, DETAIL_PIXELS))
                times.append(1000.0 * (time.process_time() - started))
                pasted += len(photo.boxes)
                found += count_found(photo.boxes, detected)
                boxes += len(detected)
                if pasted >= people:
                    break
            yield {
                "width": size[0],
                "height": size[1],
                "share_of_height": share,
                "people": pasted,
                "found": round(found / pasted, 3) if pasted else None,
                "other_boxes": boxes - found,
                "median_cpu_ms": round(statistics.median(times), 1),
            }


def draw_crops(data: str, count: int) -> list[Image.Image]:
    """Return some crops of a data set, KIND:PATH, decoded."""
    crops = read_spec(data).crops
    chosen = random.Random(SEED).sample(crops, min(count, len(crops)))
    return [Image.open(io.BytesIO(crop.read())).convert("RGB") for crop in chosen]


def main(data: str, people: int = 100) -> None:
    """Print the figures of every size of photo as a JSON object.

    Args:
        data: crops of people, KIND:PATH.
        people: least number of people for each figure.
    """
    rows = list(measure(draw_crops(data, people), people))
    typer.echo(json.dumps({"data": data, "results": rows}))


if __name__ == "__main__":
    typer.run(main)
