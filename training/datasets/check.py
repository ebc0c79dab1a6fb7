"""What `check-data` finds out: every file read once, counted, measured and compared."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from model.crops.decode import CropProblem, decode_crop
from model.crops.quality import QualityLimits, measure_quality, quality_faults
from model.problems import InputProblem
from training.datasets.check_report import (
    EXAMPLES,
    CheckReport,
    DatasetReport,
    FileFinding,
    Findings,
    QualityCount,
    SizeBin,
    SizeRange,
    SplitCount,
)
from training.datasets.duplicates import (
    exact_duplicates,
    near_duplicates,
    perceptual_hash,
    shared_pictures,
)
from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import kind_of, overlapping

QUALITY_LIMITS = QualityLimits()
"""What the service, too, holds a crop against that is enrolled, unless it is set otherwise."""

CAMERA_IMBALANCE = 5.0
"""Above this ratio of the busiest camera's images to the quietest one's, a note is made."""

SIZE_EDGES = (0, 16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512)
"""Where the bins of a size histogram begin, pixels; the last has no end."""


def check_datasets(
    datasets: Sequence[Dataset],
    examples: int = EXAMPLES,
    on_file: Callable[[], None] = lambda: None,
    on_compared: Callable[[int], None] = lambda _: None,
) -> CheckReport:
    """Reads every file of the sets.

    Args:
        datasets: as read by the registry.
        examples: how many findings of a kind are named; all of them are counted.
        on_file: called after each file, to show progress.
        on_compared: called with a number of pictures after so many were compared with all others.
    """
    by_content: dict[bytes, list[CropRecord]] = defaultdict(list)
    hashes: list[NDArray[np.uint64]] = []
    reports = []
    for dataset in datasets:
        sizes: list[tuple[int, int]] = []
        unreadable: list[FileFinding] = []
        poor: dict[str, list[FileFinding]] = defaultdict(list)
        for record in dataset.records:
            try:
                content, pixels = _read(record)
            except (InputProblem, OSError) as problem:
                unreadable.append(_unreadable(record, problem))
            else:
                crops = by_content[hashlib.sha256(content).digest()]
                if not crops:
                    hashes.append(perceptual_hash(pixels))
                crops.append(record)
                sizes.append(pixels.shape[:2])
                for fault in quality_faults(measure_quality(pixels), QUALITY_LIMITS):
                    finding = FileFinding(
                        source=record.source, code=fault.code, detail=fault.detail
                    )
                    poor[fault.code].append(finding)
            on_file()
        reports.append(_report(dataset, sizes, unreadable, poor, examples))
    exact = exact_duplicates(by_content.values(), examples)
    shown = [crops[0] for crops in by_content.values()]
    near = near_duplicates(shown, np.stack(hashes), examples, on_compared) if shown else []
    names = [dataset.name for dataset in datasets]
    return CheckReport(
        datasets=reports,
        crossing_duplicates=Findings.of([each for each in exact if each.crosses], examples),
        duplicates=Findings.of([each for each in exact if not each.crosses], examples),
        near_duplicates=Findings.of(near, examples),
        shared=shared_pictures(exact, near),
        notes=[
            f"{a} and {b} show some of the same people: never train on one and test on the other"
            for a, b in overlapping(names, names)
            if a < b
        ],
    )


def _read(record: CropRecord) -> tuple[bytes, NDArray[np.uint8]]:
    """The bytes of a crop's file, or of its pixels where it has none, and the pixels."""
    if record.path is None:
        pixels = record.decode()
        return pixels.tobytes(), pixels
    content = record.path.read_bytes()
    return content, decode_crop(content)


def _unreadable(record: CropRecord, problem: Exception) -> FileFinding:
    cause = problem if isinstance(problem, CropProblem | OSError) else problem.__cause__
    code, detail = "unreadable", str(problem)
    if isinstance(cause, CropProblem):
        code, detail = cause.code, cause.detail
    elif isinstance(cause, OSError):
        code, detail = "unopened", f"cannot be opened ({cause.strerror}); make it readable"
    return FileFinding(source=record.source, code=code, detail=detail)


def _report(
    dataset: Dataset,
    sizes: Sequence[tuple[int, int]],
    unreadable: Sequence[FileFinding],
    poor: Mapping[str, Sequence[FileFinding]],
    examples: int,
) -> DatasetReport:
    kind = kind_of(dataset.spec)
    cameras = Counter(record.camera for record in dataset.records)
    cameras_of: dict[str, set[str]] = defaultdict(set)
    for record in dataset.records:
        if record.identity not in kind.not_people:
            cameras_of[record.identity].add(record.camera)
    alone = sorted(identity for identity, seen in cameras_of.items() if len(seen) == 1)
    splits = _count_splits(dataset, kind)
    if kind.stands_for_camera:
        camera_notes = [f"the files state no camera: {kind.stands_for_camera}"]
    else:
        camera_notes = _camera_notes(cameras, len(alone), len(cameras_of))
    return DatasetReport(
        name=dataset.name,
        spec=dataset.spec,
        version=dataset.version,
        terms=dataset.terms,
        obtain=kind.obtain,
        images=len(dataset.records),
        identities=len(cameras_of),
        images_by_camera=dict(sorted(cameras.items())),
        splits=splits,
        unreadable=Findings.of(unreadable, examples),
        quality=[
            QualityCount(code=code, files=Findings.of(found, examples))
            for code, found in sorted(poor.items(), key=lambda item: -len(item[1]))
        ],
        one_camera_identities=Findings.of(alone, examples),
        width=_size_range([width for _, width in sizes]),
        height=_size_range([height for height, _ in sizes]),
        notes=[*_count_notes(splits), *camera_notes],
    )


def _count_splits(dataset: Dataset, kind: DatasetKind) -> list[SplitCount]:
    published = {
        count.split: count for count in kind.published if count.version in (None, dataset.version)
    }
    found = []
    for split, images in Counter(record.split for record in dataset.records).items():
        people = {record.identity for record in dataset.records if record.split == split}
        known = published.get(split)
        found.append(
            SplitCount(
                split=split,
                images=images,
                identities=len(people - kind.not_people),
                published_images=known and known.images,
                published_identities=known and known.identities,
            )
        )
    return found


def _count_notes(splits: Iterable[SplitCount]) -> list[str]:
    notes = []
    for count in splits:
        where = f"split {count.split}: " if count.split else ""
        for what, found, published in (
            ("images", count.images, count.published_images),
            ("identities", count.identities, count.published_identities),
        ):
            if published is not None and found != published:
                notes.append(
                    f"{where}{found:,} {what}, {published:,} were published "
                    f"({found - published:+,}): figures from here do not compare with papers"
                )
    return notes


def _camera_notes(cameras: Counter[str], alone: int, identities: int) -> list[str]:
    notes = []
    if len(cameras) == 1:
        notes.append("there is one camera: nobody can be searched for across cameras")
    elif alone:
        notes.append(
            f"{alone:,} of {identities:,} identities are under one camera only: "
            "no query of theirs has an answer"
        )
    (busiest, most), (quietest, least) = cameras.most_common()[0], cameras.most_common()[-1]
    if most > CAMERA_IMBALANCE * least:
        notes.append(
            f"camera {busiest} has {most / least:.1f} times the images of camera {quietest} "
            f"({most:,} and {least:,})"
        )
    return notes


def _size_range(sides: Sequence[int]) -> SizeRange | None:
    if not sides:
        return None
    counts = np.histogram(sides, [*SIZE_EDGES, np.inf])[0].tolist()
    bins = list(zip(SIZE_EDGES, [*SIZE_EDGES[1:], None], counts, strict=True))
    first, last = (np.searchsorted(SIZE_EDGES, end(sides), "right") for end in (min, max))
    return SizeRange(
        smallest=min(sides),
        median=median(sides),
        largest=max(sides),
        histogram=[
            SizeBin(at_least=at_least, below=below, images=images)
            for at_least, below, images in bins[first - 1 : last]
        ],
    )
