"""One picture in several files: the same pixels, under one label and split or under several."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from training.datasets.record import CropRecord


def describe_duplicates(
    by_pixels: Iterable[Sequence[CropRecord]], named: int
) -> list[dict[str, Any]]:
    """Describe the pictures that are in several files, as `check_datasets` reports them.

    Args:
        by_pixels: for each picture the crops with its pixels.
        named: how many files of a picture are named at most.
    """
    return [_described(crops, named) for crops in by_pixels if len(crops) > 1]


def count_by_places(duplicates: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Count the pictures that two places share, or that one place has several times; most first."""
    counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for duplicate in duplicates:
        places = duplicate["places"]
        for key in combinations(places, 2) if len(places) > 1 else [tuple(places)]:
            counts[key]["pictures"] += 1
            counts[key]["crossing"] += bool(duplicate["crosses"])
    rows = [
        {"places": list(key), "pictures": count["pictures"], "crossing": count["crossing"]}
        for key, count in counts.items()
    ]
    return sorted(rows, key=lambda row: (-row["pictures"], row["places"]))


def _described(group: Sequence[CropRecord], named: int) -> dict[str, Any]:
    places = {f"{crop.dataset}/{crop.split}" if crop.split else crop.dataset for crop in group}
    people = {"/".join(crop.person) for crop in group}
    datasets = len({crop.dataset for crop in group})
    differs = {
        "data set": datasets > 1,
        "split": len(places) > datasets,
        "identity": len(people) > datasets,
    }
    return {
        "files": len(group),
        "sources": [crop.source for crop in group[:named]],
        "people": sorted(people)[:named],
        "places": sorted(places),
        "crosses": [name for name, crosses in differs.items() if crosses],
    }
