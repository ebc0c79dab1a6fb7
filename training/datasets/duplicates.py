"""One picture in several files: repeated crops, mislabelled people, and leaks between splits."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets.check_report import Crossing, Duplicates, NearDuplicates, SharedPictures
from training.datasets.near_duplicates import near_groups, perceptual_hash
from training.datasets.record import CropRecord


class Pictures:
    """Every picture of a check, each remembered by its bytes and by how it looks."""

    def __init__(self) -> None:
        self._by_content: dict[bytes, list[CropRecord]] = {}
        self._hashes: list[NDArray[np.uint64]] = []

    def add(self, record: CropRecord, content: bytes, pixels: NDArray[np.uint8]) -> None:
        """Remembers a crop.

        Args:
            record: the crop.
            content: the bytes of its file, or of its pixels where it has no file.
            pixels: `(h, w, 3)` uint8 RGB.
        """
        digest = hashlib.sha256(content).digest()
        if digest not in self._by_content:
            self._by_content[digest] = []
            self._hashes.append(perceptual_hash(pixels))
        self._by_content[digest].append(record)

    def exact(self, named: int) -> list[Duplicates]:
        """Every picture that is in several files with the same bytes.

        Args:
            named: how many files of a picture are named at most.
        """
        return [
            Duplicates(**_described(group, named), crosses=_crosses(group))
            for group in self._by_content.values()
            if len(group) > 1
        ]

    def near(
        self, named: int, on_rows: Callable[[int], None] = lambda _: None
    ) -> list[NearDuplicates]:
        """Files with other bytes but one picture, of different people or to train and to test on.

        Query and gallery crops of one person may look alike: often they are neighbouring frames of
        one camera, which evaluation leaves out.

        Args:
            named: how many files of a picture are named at most.
            on_rows: called with a number of pictures whenever so many were compared.
        """
        if not self._hashes:
            return []
        shown = [records[0] for records in self._by_content.values()]
        codes: dict[object, int] = {}
        labels = np.array(
            [codes.setdefault((record.person, _trains(record)), len(codes)) for record in shown]
        )
        found = []
        for group in near_groups(np.stack(self._hashes), labels, on_rows):
            records = [shown[row] for row in group.rows]
            found.append(
                NearDuplicates(
                    **_described(records, named), crosses=_crosses(records), distance=group.distance
                )
            )
        return found


def shared_pictures(
    exact: Iterable[Duplicates], near: Iterable[NearDuplicates]
) -> list[SharedPictures]:
    """Counts duplicates by the places they lie in, most first."""
    exact = list(exact)
    crossing = [each for each in exact if each.crosses]
    same, marked, again = (
        Counter(key for each in found for key in _pairs(each.places))
        for found in (exact, crossing, near)
    )
    shared = [
        SharedPictures(
            places=list(places), exact=same[places], crossing=marked[places], near=again[places]
        )
        for places in same | again
    ]
    return sorted(shared, key=lambda each: (-each.exact - each.near, each.places))


def _pairs(places: Sequence[str]) -> Iterable[tuple[str, ...]]:
    return combinations(places, 2) if len(places) > 1 else [tuple(places)]


def _trains(record: CropRecord) -> str | None:
    return "test" if record.split in ("query", "gallery") else record.split


def _described(group: Sequence[CropRecord], named: int) -> dict[str, Any]:
    return {
        "files": len(group),
        "sources": [record.source for record in group[:named]],
        "people": sorted({"/".join(record.person) for record in group})[:named],
        "places": sorted({_place(record) for record in group}),
    }


def _place(record: CropRecord) -> str:
    return f"{record.dataset}/{record.split}" if record.split else record.dataset


def _crosses(group: Sequence[CropRecord]) -> list[Crossing]:
    found: list[Crossing] = []
    if len({record.dataset for record in group}) > 1:
        found.append("data set")
    if len({(record.dataset, record.split) for record in group}) > len(
        {record.dataset for record in group}
    ):
        found.append("split")
    if len({record.person for record in group}) > len({record.dataset for record in group}):
        found.append("identity")
    return found
