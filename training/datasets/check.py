"""The findings of `check-data`: every file read once, counted, measured and compared.

The report becomes JSON as it is; a kind of finding is `{"count": all, "examples": the first}`.

`datasets`: for each set its counts by split (`published_…` is None where the authors published
nothing) and by camera, and the findings `unreadable` (what training and evaluation would stop at),
`quality` (readable files too poor to recognise a person by, the most frequent fault first; a file
may have several), `one_camera_identities` (who cannot be searched for across cameras), `width` and
`height` of the readable files in pixels (None where there are none), and `notes`, a sentence each.
Junk and distractors are no identities.

`duplicates`: pictures in several files with the same pixels, under one label and in one split;
`crossing_duplicates`: those under several labels or in several splits or sets. Each has its number
of `files`, the first `sources`, the `people` that the labels name, the `places` (`data set` or
`data set/split`), and what `crosses`: `data set` and `split` are leaks, what is trained on is also
tested on. `shared`: all of them counted by place. `notes`: what is known of the sets together.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from model.crops.decode import CropProblem
from model.crops.quality import QualityLimits, measure_quality, quality_faults
from model.problems import InputProblem
from training.datasets.duplicates import count_by_places, describe_duplicates
from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import kind_of, overlapping

QUALITY_LIMITS = QualityLimits()
"""What the service, too, holds a crop against that is enrolled, unless it is set otherwise."""

CAMERA_IMBALANCE = 5.0
"""Above this ratio of the busiest camera's images to the quietest one's, a note is made."""

SIZE_EDGES = (0, 16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512)
"""Where the bins of a size histogram begin, pixels; the last has no end."""

Report = dict[str, Any]
"""The report or a part of it."""


def check_datasets(
    datasets: Sequence[Dataset], examples: int = 10, on_file: Callable[[], None] = lambda: None
) -> Report:
    """Reads every file of the sets.

    Args:
        datasets: as read by the registry.
        examples: how many findings of a kind are named; all of them are counted.
        on_file: called after each file, to show progress.
    """
    by_pixels: dict[bytes, list[CropRecord]] = defaultdict(list)
    reports = []
    for dataset in datasets:
        faults: dict[str, list[Report]] = defaultdict(list, unreadable=[])
        sizes: list[tuple[int, int]] = []
        for record in dataset.records:
            try:
                pixels = record.decode()
            except (InputProblem, OSError) as problem:
                faults["unreadable"].append({"source": record.source} | _cause(problem))
            else:
                by_pixels[_digest(pixels)].append(record)
                sizes.append(pixels.shape[:2])
                for fault in quality_faults(measure_quality(pixels), QUALITY_LIMITS):
                    poor = {"source": record.source, "code": fault.code, "detail": fault.detail}
                    faults[fault.code].append(poor)
            on_file()
        reports.append(_report(dataset, faults, sizes, examples))
    duplicates = describe_duplicates(by_pixels.values(), examples)
    crossing = [duplicate for duplicate in duplicates if duplicate["crosses"]]
    others = [duplicate for duplicate in duplicates if not duplicate["crosses"]]
    names = [dataset.name for dataset in datasets]
    return {
        "datasets": reports,
        "crossing_duplicates": _findings(crossing, examples),
        "duplicates": _findings(others, examples),
        "shared": count_by_places(duplicates),
        "notes": [
            f"{a} and {b} show some of the same people: never train on one and test on the other"
            for a, b in overlapping(names, names)
            if a < b
        ],
    }


def _findings(found: Sequence[Any], most: int) -> Report:
    return {"count": len(found), "examples": list(found[:most])}


def _digest(pixels: NDArray[np.uint8]) -> bytes:
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(pixels.tobytes())
    return digest.digest()


def _cause(problem: Exception) -> Report:
    """Why a file cannot be read: a `code` for programs and a `detail` for people."""
    cause = problem if isinstance(problem, CropProblem | OSError) else problem.__cause__
    if isinstance(cause, CropProblem):
        return {"code": cause.code, "detail": cause.detail}
    if isinstance(cause, OSError):
        detail = f"cannot be opened ({cause.strerror}); make it readable"
        return {"code": "unopened", "detail": detail}
    return {"code": "unreadable", "detail": str(problem)}


def _report(
    dataset: Dataset,
    faults: dict[str, list[Report]],
    sizes: Sequence[tuple[int, int]],
    examples: int,
) -> Report:
    kind = kind_of(dataset.spec)
    crops = pd.DataFrame(
        [(one.split or "", one.identity, one.camera) for one in dataset.records],
        columns=["split", "identity", "camera"],
    )
    people = crops[~crops.identity.isin(kind.not_people)]
    cameras = crops.camera.value_counts()
    cameras_of = people.groupby("identity").camera.nunique()
    alone = sorted(cameras_of.index[cameras_of == 1])
    splits = _splits(crops, people, kind, dataset.version)
    notes = [note for split in splits for note in _count_notes(split)]
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
        "images": len(crops),
        "identities": len(cameras_of),
        "images_by_camera": cameras.sort_index().to_dict(),
        "splits": splits,
        "unreadable": _findings(faults.pop("unreadable"), examples),
        "quality": [
            {"code": code, "files": _findings(own, examples)}
            for code, own in sorted(faults.items(), key=lambda item: -len(item[1]))
        ],
        "one_camera_identities": _findings(alone, examples),
        "width": _size_range([width for _, width in sizes]),
        "height": _size_range([height for height, _ in sizes]),
        "notes": notes,
    }


def _splits(
    crops: pd.DataFrame, people: pd.DataFrame, kind: DatasetKind, version: str
) -> list[Report]:
    """Images and identities of each split beside the published counts."""
    published = {one.split: one for one in kind.published if one.version in (None, version)}
    identities = people.groupby("split").identity.nunique()
    found = []
    for split, images in crops.groupby("split", sort=False).size().items():
        known = published.get(split or None)
        found.append(
            {
                "split": split or None,
                "images": images,
                "identities": int(identities.get(split, 0)),
                "published_images": known and known.images,
                "published_identities": known and known.identities,
            }
        )
    return found


def _count_notes(split: Report) -> list[str]:
    where = f"split {split['split']}: " if split["split"] else ""
    counts = [(what, split[what], split[f"published_{what}"]) for what in ("images", "identities")]
    return [
        f"{where}{found:,} {what}, {published:,} were published "
        f"({found - published:+,}): figures from here do not compare with papers"
        for what, found, published in counts
        if published is not None and found != published
    ]


def _camera_notes(cameras: pd.Series[int], alone: int, identities: int) -> list[str]:
    notes = []
    if len(cameras) == 1:
        notes.append("there is one camera: nobody can be searched for across cameras")
    elif alone:
        notes.append(
            f"{alone:,} of {identities:,} identities are under one camera only: "
            "no query of theirs has an answer"
        )
    most = cameras.iloc[0]
    least = cameras.iloc[-1]
    if most > CAMERA_IMBALANCE * least:
        notes.append(
            f"camera {cameras.index[0]} has {most / least:.1f} times the images of camera "
            f"{cameras.index[-1]} ({most:,} and {least:,})"
        )
    return notes


def _size_range(sides: Sequence[int]) -> Report | None:
    if not sides:
        return None
    counts = np.histogram(sides, [*SIZE_EDGES, np.inf])[0].tolist()
    bins = [
        {"at_least": at_least, "below": below, "images": images}
        for at_least, below, images in zip(SIZE_EDGES, (*SIZE_EDGES[1:], None), counts, strict=True)
    ]
    first, last = (np.searchsorted(SIZE_EDGES, end(sides), "right") for end in (min, max))
    return {
        "smallest": min(sides),
        "median": float(np.median(sides)),
        "largest": max(sides),
        "histogram": bins[first - 1 : last],
    }
