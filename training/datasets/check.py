"""Check data sets: read every file once, count the crops, and find faults.

The report is written as JSON. Each kind of finding is `{"count": all, "examples": the first}`.

`datasets` has for each set:

- counts by split and by camera; `published_…` is None if the authors published no number;
- `unreadable`, the files that no training can read;
- `ignored`, other files and folders, and unknown columns, of which no crop was read; one example
  stands for all by-products of a kind;
- `quality`, readable files in which a person cannot be recognised, by fault, the most frequent
  fault first; a file may have several;
- `one_camera_identities`, people who cannot be searched for across cameras;
- `width` and `height` of the readable files in pixels; None without such files;
- `notes`, a sentence each.

Junk and distractors do not count as identities.

`duplicates` are pictures of which several files have the same pixels, under one label and in one
split; `crossing_duplicates` have several labels, splits or sets. Each has the number of `files`,
the first `sources`, the `people` that the labels name, the `places` (`data set` or
`data set/split`), and in `crosses` the kinds of labels that differ: `data set`, `split` (a leak
between training and test) or `identity`. `shared` counts all duplicates by place, and `notes` are
on the sets together.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import median
from typing import Any

from model.crops.decode import CropProblem
from model.crops.quality import QualityLimits, measure_quality, quality_faults
from model.problems import InputProblem
from model.wording import counted
from training.datasets.kind import PublishedCount
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import kind_of, overlapping

QUALITY_LIMITS = QualityLimits()
"""The default limits of the service for crops that are enrolled."""

CAMERA_IMBALANCE = 5.0
"""A note is made if the busiest camera has more than this many times the images of the quietest."""

Report = dict[str, Any]
"""The report, or a part of it."""

Pictures = dict[bytes, list[CropRecord]]
"""Crops by the digest of their pixels."""


def check_datasets(
    datasets: Sequence[Dataset],
    examples: int = 10,
    on_file: Callable[[], None] = lambda: None,
) -> Report:
    """Read every file of the sets, and return the report.

    Args:
        datasets: the data sets.
        examples: the number of findings of each kind to name; all of them are counted.
        on_file: called after each file, to show progress.
    """
    pictures: Pictures = defaultdict(list)
    reports = [_check(dataset, pictures, examples, on_file) for dataset in datasets]
    repeated = [crops for crops in pictures.values() if len(crops) > 1]
    duplicates = [_duplicate(crops, examples) for crops in repeated]
    by_places: Counter[tuple[str, ...]] = Counter()
    crossing_by_places: Counter[tuple[str, ...]] = Counter()
    for duplicate in duplicates:
        places = duplicate["places"]
        pairs = list(combinations(places, 2)) or [tuple(places)]
        for pair in pairs:
            by_places[pair] += 1
            crossing_by_places[pair] += bool(duplicate["crosses"])
    crossing = [duplicate for duplicate in duplicates if duplicate["crosses"]]
    others = [duplicate for duplicate in duplicates if not duplicate["crosses"]]
    names = [dataset.name for dataset in datasets]
    return {
        "datasets": reports,
        "crossing_duplicates": _findings(crossing, examples),
        "duplicates": _findings(others, examples),
        "shared": [
            {"places": list(pair), "pictures": count, "crossing": crossing_by_places[pair]}
            for pair, count in by_places.most_common()
        ],
        "notes": [
            f"{a} and {b} show some of the same people: never train on one and test on the other"
            for a, b in overlapping(names, names)
            if a < b
        ],
    }


def _check(
    dataset: Dataset,
    pictures: Pictures,
    examples: int,
    on_file: Callable[[], None],
) -> Report:
    kind = kind_of(dataset.spec)
    images: Counter[str | None] = Counter()
    cameras: Counter[str] = Counter()
    people: dict[str | None, set[str]] = defaultdict(set)
    cameras_of: dict[str, set[str]] = defaultdict(set)
    faults: dict[str, list[Report]] = defaultdict(list, unreadable=[])
    widths = []
    heights = []
    for record in dataset.records:
        images[record.split] += 1
        cameras[record.camera] += 1
        if record.identity not in kind.not_people:
            people[record.split].add(record.identity)
            cameras_of[record.identity].add(record.camera)
        if size := _examine(record, pictures, faults):
            heights.append(size[0])
            widths.append(size[1])
        on_file()

    unreadable = faults.pop("unreadable")
    alone = sorted(name for name, seen_by in cameras_of.items() if len(seen_by) == 1)
    published = {
        count.split: count for count in kind.published if count.version in (None, dataset.version)
    }
    splits = []
    notes = []
    for split in images:
        published_count = published.get(split, PublishedCount())
        counts: Report = {"split": split}
        for name, count, stated in (
            ("images", images[split], published_count.images),
            ("identities", len(people[split]), published_count.identities),
        ):
            counts |= {name: count, f"published_{name}": stated}
            if stated not in (None, count):
                notes.append(
                    f"{f'split {split}: ' if split else ''}{count:,} {name}, {stated:,} were "
                    f"published ({count - stated:+,}): figures cannot be compared with papers'"
                )
        splits.append(counts)
    if kind.stands_for_camera:
        notes.append(f"the files state no camera: {kind.stands_for_camera}")
    else:
        notes += _camera_notes(cameras, len(alone), len(cameras_of))
    return {
        "name": dataset.name,
        "spec": dataset.spec,
        "version": dataset.version,
        "terms": dataset.terms,
        "obtain": kind.obtain,
        "images": len(dataset.records),
        "identities": len(cameras_of),
        "images_by_camera": dict(sorted(cameras.items())),
        "splits": splits,
        "unreadable": _findings(unreadable, examples),
        "ignored": {
            "count": dataset.ignored.count,
            "examples": [
                {"source": line.name, "detail": line.reason}
                for line in dataset.ignored.lines()[:examples]
            ],
        },
        "quality": [
            {"code": code, "files": _findings(faults[code], examples)}
            for code in sorted(faults, key=lambda code: -len(faults[code]))
        ],
        "one_camera_identities": _findings(alone, examples),
        "width": _range(widths),
        "height": _range(heights),
        "notes": notes,
    }


def _examine(
    record: CropRecord,
    pictures: Pictures,
    faults: dict[str, list[Report]],
) -> tuple[int, int] | None:
    """Add a crop to `pictures` and its faults to `faults`; return its height and width."""
    try:
        crop = record.decode()
    except InputProblem as problem:
        faults["unreadable"].append({"source": record.source} | _cause(problem))
        return None
    width, height = crop.size
    digest = hashlib.sha256(crop.tobytes())
    digest.update(str(width).encode())
    pictures[digest.digest()].append(record)
    for fault in quality_faults(measure_quality(crop), QUALITY_LIMITS):
        poor = {"source": record.source, "code": fault.code, "detail": fault.detail}
        faults[fault.code].append(poor)
    return height, width


def _camera_notes(
    cameras: Counter[str],
    alone: int,
    identities: int,
) -> list[str]:
    notes = []
    if len(cameras) == 1:
        notes.append("there is one camera: nobody can be searched for across cameras")
    elif alone:
        of_all = counted(identities, "identity", "identities")
        notes.append(
            f"{alone:,} of {of_all} seen by one camera only: their queries have no true match"
        )
    ranking = cameras.most_common()
    busiest, most = ranking[0]
    quietest, least = ranking[-1]
    if most > CAMERA_IMBALANCE * least:
        notes.append(
            f"camera {busiest} has {most / least:.1f} times the images of camera "
            f"{quietest} ({most:,} and {least:,})"
        )
    return notes


def _cause(problem: InputProblem) -> Report:
    """Return the cause of a problem: a `code` for programs, and a `detail` for people."""
    cause = problem.__cause__
    if isinstance(cause, CropProblem):
        return {"code": cause.code, "detail": cause.detail}
    if isinstance(cause, OSError):
        detail = f"cannot be opened ({cause.strerror}); make it readable"
        return {"code": "unopened", "detail": detail}
    return {"code": "unreadable", "detail": str(problem)}


def _duplicate(crops: Sequence[CropRecord], examples: int) -> Report:
    places = {f"{crop.dataset}/{crop.split}" if crop.split else crop.dataset for crop in crops}
    people = {"/".join(crop.person) for crop in crops}
    datasets = len({crop.dataset for crop in crops})
    differs = {
        "data set": datasets > 1,
        "split": len(places) > datasets,
        "identity": len(people) > datasets,
    }
    return {
        "files": len(crops),
        "sources": [crop.source for crop in crops[:examples]],
        "people": sorted(people)[:examples],
        "places": sorted(places),
        "crosses": [name for name, crosses in differs.items() if crosses],
    }


def _findings(findings: Sequence[Any], examples: int) -> Report:
    return {"count": len(findings), "examples": list(findings[:examples])}


def _range(sides: Sequence[int]) -> Report | None:
    if not sides:
        return None
    return {"smallest": min(sides), "median": float(median(sides)), "largest": max(sides)}
