"""Artificial people, each composed of the upper half of one person and the lower half of another.

They add training people to a small data set, under the same cameras and light, and in the same
quality.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from PIL import Image

from model.arrays import Pixels
from training.datasets.record import CropRecord

WAIST = (0.42, 0.56)
"""The range of the border between the halves, as a share of the height from the top."""

SEAM = 0.05
"""The share of the height over which one half fades into the other."""

People = dict[str, dict[str, list[CropRecord]]]
"""The crops by identity and by camera."""


def recombine(
    records: Sequence[CropRecord],
    per_set: int,
    seed: int,
) -> list[CropRecord]:
    """Make new people from the people of each photographed set.

    Args:
        records: the training crops. Drawn people are not recombined: more of them can be drawn.
        per_set: the number of new people per set; fewer if too few pairs share two cameras.
        seed: decides the pairs.

    Returns:
        The new people's crops, which are composed when they are decoded. Their data set has a name
        of its own, so that no label is that of a real person.
    """
    sets: dict[tuple[str, str], People] = {}
    for record in records:
        if record.pixels is None:
            people = sets.setdefault((record.dataset, record.domain), {})
            cameras = people.setdefault(record.identity, {})
            cameras.setdefault(record.camera, []).append(record)
    new_crops: list[CropRecord] = []
    for (dataset, domain), people in sorted(sets.items()):
        random = np.random.default_rng((seed, *f"{dataset}/{domain}".encode()))
        for upper, lower in _pairs(people, per_set, random):
            waist = float(random.uniform(*WAIST))
            new_crops += _new_person(people, upper, lower, waist)
    return new_crops


def _pairs(
    people: People,
    most: int,
    random: np.random.Generator,
) -> Iterator[tuple[str, str]]:
    """Yield different ordered pairs of people who share two cameras or more."""
    names = sorted(people)
    pairs: set[tuple[str, str]] = set()
    for _ in range(20 * most if len(names) > 1 else 0):
        places = random.choice(len(names), 2, replace=False)
        first, second = (names[place] for place in places)
        shared = people[first].keys() & people[second].keys()
        if len(shared) >= 2 and (first, second) not in pairs:
            pairs.add((first, second))
            yield first, second
        if len(pairs) == most:
            return


def _new_person(
    people: People,
    upper: str,
    lower: str,
    waist: float,
) -> Iterator[CropRecord]:
    tops = people[upper]
    bottoms = people[lower]
    for camera in sorted(tops.keys() & bottoms.keys()):
        for top, bottom in zip(tops[camera], bottoms[camera], strict=False):
            yield CropRecord(
                source=f"{top.source} over {bottom.source}",
                dataset=f"{top.dataset}, recombined",
                identity=f"{upper} over {lower}",
                camera=camera,
                domain=top.domain,
                load=partial(put_together, top, bottom, waist),
                split=top.split,
            )


def put_together(
    top: CropRecord,
    bottom: CropRecord,
    waist: float,
) -> Pixels:
    """Compose the upper part of one crop and the lower part of another, at the size of the first.

    Args:
        top, bottom: the two crops.
        waist: the share of the height that the upper part takes.

    Returns:
        `(h, w, 3)` uint8 RGB.
    """
    upper = top.decode()
    resized = bottom.decode().resize(upper.size, Image.Resampling.BILINEAR)
    height = upper.height
    rows = (np.arange(height) + 0.5) / height
    above = (waist - rows) / SEAM + 0.5
    share = np.clip(above, 0.0, 1.0)[:, None, None]
    mixed = share * np.asarray(upper) + (1.0 - share) * np.asarray(resized)
    return np.asarray(np.round(mixed), dtype=np.uint8)
