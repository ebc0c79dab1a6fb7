"""One picture in several files: the same bytes, or stored again under another label or split.

A picture stored again is found by `phash` of the library ImageHash with 256 bits: which low
frequencies of the grey picture are stronger than their median. Two crops are near duplicates where
at most `THRESHOLD` bits differ; docs/datasets.md has the measurements behind that number.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any, NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from training.datasets.record import CropRecord

SIDE = 16
THRESHOLD = 40
"""Bits of 256 that may differ: far above what storing a crop again changes, far below where two
people who are dressed alike begin."""

TESTED: dict[str | None, str] = {"query": "test", "gallery": "test"}
"""Splits that count as one: a picture in both of them is no leak."""

ROWS = 8
COLUMNS = 4096
"""Pairs compared at once: their bits fit the processor's cache."""


def find_duplicates(
    by_content: Iterable[Sequence[CropRecord]],
    hashes: Sequence[NDArray[np.uint64]],
    named: int,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The pictures that are in several files, as `check_datasets` reports them.

    Args:
        by_content: for each picture the crops with its bytes.
        hashes: the pictures' `perceptual_hash`.
        named: how many files of a picture are named at most.

    Returns:
        Those with the same bytes, and those with other bytes of different people or to train and
        to test on. Query and gallery crops of one person may look alike: often they are
        neighbouring frames of one camera, which evaluation leaves out.
    """
    pictures = list(by_content)
    codes: dict[object, int] = {}
    labels = [
        codes.setdefault((first.person, TESTED.get(first.split, first.split)), len(codes))
        for first, *_ in pictures
    ]
    exact = [_described(crops, named) for crops in pictures if len(crops) > 1]
    groups = near_groups(np.stack(hashes), np.array(labels)) if pictures else []
    near = [
        _described([pictures[row][0] for row in group.rows], named) | {"distance": group.distance}
        for group in groups
    ]
    return exact, near


def count_by_places(
    exact: Sequence[dict[str, Any]], near: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """How many pictures two places share, or are in one place under several names; most first."""
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for kind, found in (("exact", exact), ("near", near)):
        for each in found:
            places = each["places"]
            for key in combinations(places, 2) if len(places) > 1 else [tuple(places)]:
                counts[key][kind] += 1
                counts[key]["crossing"] += bool(kind == "exact" and each["crosses"])
    return [
        {"places": list(key), **{kind: own[kind] for kind in ("exact", "crossing", "near")}}
        for key, own in sorted(
            counts.items(), key=lambda item: (-item[1]["exact"] - item[1]["near"], item[0])
        )
    ]


def _described(group: Sequence[CropRecord], named: int) -> dict[str, Any]:
    """Which files, people and places, and what differs between these."""
    places = {f"{each.dataset}/{each.split}" if each.split else each.dataset for each in group}
    people = {"/".join(each.person) for each in group}
    datasets = len({each.dataset for each in group})
    differs = {
        "data set": datasets > 1,
        "split": len(places) > datasets,
        "identity": len(people) > datasets,
    }
    return {
        "files": len(group),
        "sources": [each.source for each in group[:named]],
        "people": sorted(people)[:named],
        "places": sorted(places),
        "crosses": [name for name, crosses in differs.items() if crosses],
    }


def perceptual_hash(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """The hash of a crop, `(h, w, 3)` uint8 RGB: 256 bits as `(4,)` uint64."""
    bits = imagehash.phash(Image.fromarray(pixels), hash_size=SIDE).hash
    return np.packbits(bits.reshape(-1)).view(np.uint64)


class NearGroup(NamedTuple):
    """Crops that are one picture, and the most bits by which two were found to be one."""

    rows: tuple[int, ...]
    distance: int


def near_groups(hashes: NDArray[np.uint64], labels: NDArray[np.int64]) -> list[NearGroup]:
    """Groups of near duplicates whose labels differ, exactly: every pair is compared.

    Equal hashes are compared once, so that a set with one picture in ten thousand files is no
    slower than others. 10,000 crops take 0.3 seconds on one core, 100,000 take 14.

    Args:
        hashes: `(n, 4)`.
        labels: `(n,)`; duplicates with one label are of no interest.

    Returns:
        The groups, each joined by chains of near duplicates, in the order of their first rows.
    """
    distinct, node_of = np.unique(hashes, axis=0, return_inverse=True)
    node_of = node_of.reshape(-1)
    label_of = np.empty(len(distinct), dtype=np.int64)
    label_of[node_of] = labels
    # Whether a hash is of pictures with several labels, and so a finding by itself.
    mixed = np.zeros(len(distinct), dtype=bool)
    mixed[node_of[labels != label_of[node_of]]] = True

    left, right, distances = _near_pairs(distinct)
    crossing = mixed[left] | mixed[right] | (label_of[left] != label_of[right])
    left = left[crossing]
    right = right[crossing]
    distances = distances[crossing]
    graph = coo_array((np.ones(len(left)), (left, right)), shape=(len(distinct),) * 2)
    _, group_of = connected_components(graph, directed=False)
    largest = np.zeros(len(distinct), dtype=np.int64)
    np.maximum.at(largest, group_of[left], distances)
    mixed[left] = mixed[right] = True
    members: dict[int, list[int]] = defaultdict(list)
    for row in np.flatnonzero(mixed[node_of]).tolist():
        members[group_of[node_of[row]]].append(row)
    return [NearGroup(tuple(rows), int(largest[group])) for group, rows in members.items()]


def _near_pairs(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Pairs of rows, first before second, that differ in at most `THRESHOLD` bits.

    Returns:
        `(3, p)`: the first row, the second row, and how many bits differ.
    """
    first, second = np.ascontiguousarray(hashes.T[:2])
    found = [np.zeros((3, 0), dtype=np.int64)]
    for row in range(0, len(hashes), ROWS):
        above = np.s_[row : row + ROWS, None]
        for column in range(row - row % COLUMNS, len(hashes), COLUMNS):
            beside = np.s_[None, column : column + COLUMNS]
            # Half of the bits rule nearly every pair out, so the others are left for the rest.
            half = np.bitwise_count(first[above] ^ first[beside])
            half += np.bitwise_count(second[above] ^ second[beside])
            if half.min(initial=255) > THRESHOLD:
                continue
            left, right = np.nonzero(half <= THRESHOLD)
            left = left + row
            right = right + column
            left, right = left[left < right], right[left < right]
            distance = np.bitwise_count(hashes[left] ^ hashes[right]).sum(axis=1, dtype=np.int64)
            near = distance <= THRESHOLD
            found.append(np.stack([left[near], right[near], distance[near]]))
    return np.concatenate(found, axis=1)
