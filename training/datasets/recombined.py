"""People put together of two: the upper half of one, the lower half of another.

A small set has few people to learn from. Two of them, seen by the same cameras, make two more who
are seen by these cameras too, under the same light and in the same quality.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.datasets.record import CropRecord

WAIST = (0.42, 0.56)
"""Where one half ends and the other begins, share of the crop's height from its top."""

SEAM = 0.05
"""Over what share of the height one turns into the other."""

Cameras = dict[str, list[CropRecord]]


def recombine(records: Sequence[CropRecord], per_set: int, seed: int) -> list[CropRecord]:
    """New people of each photographed set, made of its people in these records and of nobody else.

    Args:
        records: the training crops. Drawn ones are left alone: more people can be drawn.
        per_set: how many new people of each set; fewer where too few pairs share two cameras.
        seed: another seed, other pairs.

    Returns:
        Their crops, which are put together when they are decoded. Their data set is named after
        the one they are of, so that no label is that of a real person.
    """
    people: dict[tuple[str, str], dict[str, Cameras]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    for record in records:
        if record.pixels is None:
            people[record.dataset, record.domain][record.identity][record.camera].append(record)
    made: list[CropRecord] = []
    for (dataset, domain), members in sorted(people.items()):
        random = np.random.default_rng((seed, *f"{dataset}/{domain}".encode()))
        for upper, lower in _pairs(members, per_set, random):
            made += _new_person(members, upper, lower, random)
    return made


def _pairs(
    members: dict[str, Cameras], most: int, random: np.random.Generator
) -> Iterator[tuple[str, str]]:
    """Ordered pairs of people who share two cameras or more, each once."""
    names = sorted(members)
    seen: set[tuple[str, str]] = set()
    for _ in range(20 * most if len(names) > 1 else 0):
        first, second = (names[place] for place in random.choice(len(names), 2, replace=False))
        shared = members[first].keys() & members[second].keys()
        if len(shared) >= 2 and (first, second) not in seen:
            seen.add((first, second))
            yield first, second
        if len(seen) == most:
            return


def _new_person(
    members: dict[str, Cameras], upper: str, lower: str, random: np.random.Generator
) -> Iterator[CropRecord]:
    waist = float(random.uniform(*WAIST))
    for camera in sorted(members[upper].keys() & members[lower].keys()):
        for top, bottom in zip(members[upper][camera], members[lower][camera], strict=False):
            yield CropRecord(
                source=f"{top.source} over {bottom.source}",
                dataset=f"{top.dataset}, recombined",
                identity=f"{upper} over {lower}",
                camera=camera,
                domain=top.domain,
                load=partial(put_together, top, bottom, waist),
                split=top.split,
            )


def put_together(top: CropRecord, bottom: CropRecord, waist: float) -> NDArray[np.uint8]:
    """Return the upper part of one crop over the lower part of another, at the first one's size.

    Args:
        top, bottom: the two crops.
        waist: share of the height that is the first one's.

    Returns:
        `(h, w, 3)` uint8 RGB.
    """
    upper = top.decode()
    height, width = upper.shape[:2]
    resized = Image.fromarray(bottom.decode()).resize((width, height), Image.Resampling.BILINEAR)
    rows = (np.arange(height) + 0.5) / height
    share = np.clip((waist - rows) / SEAM + 0.5, 0.0, 1.0)[:, None, None]
    mixed = share * upper + (1.0 - share) * np.asarray(resized)
    return np.asarray(np.round(mixed), dtype=np.uint8)
