"""What `check-data` finds out: every file read once, counted, measured and compared."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

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
from training.datasets.duplicates import Pictures, shared_pictures
from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import kind_of, overlapping

QUALITY_LIMITS = QualityLimits()
"""What the service, too, holds a crop against that is enrolled, unless it is set otherwise."""

CAMERA_IMBALANCE = 5.0
"""Above this ratio of the busiest camera's images to the quietest one's, a note is made."""

SIZE_EDGES = (0, 16, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512)
"""Where the bins of a size histogram begin, pixels; the last has no end."""


@dataclass
class _Files:
    """What reading the files of one set gave."""

    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    unreadable: list[FileFinding] = field(default_factory=list)
    poor: dict[str, list[FileFinding]] = field(default_factory=lambda: defaultdict(list))


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
    pictures = Pictures()
    reports = []
    for dataset in datasets:
        files = _Files()
        for record in dataset.records:
            _check_file(record, files, pictures)
            on_file()
        reports.append(_report(dataset, kind_of(dataset.spec), files, examples))
    exact, near = pictures.exact(examples), pictures.near(examples, on_compared)
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


def _check_file(record: CropRecord, files: _Files, pictures: Pictures) -> None:
    try:
        if record.path is None:
            pixels = record.decode()
            content = pixels.tobytes()
        else:
            content = record.path.read_bytes()
            pixels = decode_crop(content)
    except (InputProblem, OSError) as problem:
        files.unreadable.append(_unreadable(record, problem))
        return
    pictures.add(record, content, pixels)
    height, width = pixels.shape[:2]
    files.widths.append(width)
    files.heights.append(height)
    for fault in quality_faults(measure_quality(pixels), QUALITY_LIMITS):
        found = FileFinding(source=record.source, code=fault.code, detail=fault.detail)
        files.poor[fault.code].append(found)


def _unreadable(record: CropRecord, problem: Exception) -> FileFinding:
    cause = problem if isinstance(problem, CropProblem | OSError) else problem.__cause__
    if isinstance(cause, CropProblem):
        return FileFinding(source=record.source, code=cause.code, detail=cause.detail)
    if isinstance(cause, OSError):
        detail = f"cannot be opened ({cause.strerror}); make it readable"
        return FileFinding(source=record.source, code="unopened", detail=detail)
    return FileFinding(source=record.source, code="unreadable", detail=str(problem))


def _report(dataset: Dataset, kind: DatasetKind, files: _Files, examples: int) -> DatasetReport:
    people = [record for record in dataset.records if record.identity not in kind.not_people]
    cameras_of: dict[str, set[str]] = defaultdict(set)
    for record in people:
        cameras_of[record.identity].add(record.camera)
    cameras = Counter(record.camera for record in dataset.records)
    splits = _count_splits(dataset, kind)
    alone = sorted(identity for identity, seen in cameras_of.items() if len(seen) == 1)
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
        unreadable=Findings.of(files.unreadable, examples),
        quality=[
            QualityCount(code=code, files=Findings.of(found, examples))
            for code, found in sorted(files.poor.items(), key=lambda item: -len(item[1]))
        ],
        one_camera_identities=Findings.of(alone, examples),
        width=_size_range(files.widths),
        height=_size_range(files.heights),
        notes=[
            *_count_notes(splits),
            *(
                [f"the files state no camera: {kind.stands_for_camera}"]
                if kind.stands_for_camera
                else _camera_notes(cameras, len(alone), len(cameras_of))
            ),
        ],
    )


def _count_splits(dataset: Dataset, kind: DatasetKind) -> list[SplitCount]:
    published = {
        count.split: count for count in kind.published if count.version in (None, dataset.version)
    }
    images: Counter[str | None] = Counter()
    people: dict[str | None, set[str]] = defaultdict(set)
    for record in dataset.records:
        images[record.split] += 1
        if record.identity not in kind.not_people:
            people[record.split].add(record.identity)
    return [
        SplitCount(
            split=split,
            images=count,
            identities=len(people[split]),
            published_images=published[split].images if split in published else None,
            published_identities=published[split].identities if split in published else None,
        )
        for split, count in images.items()
    ]


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


def _size_range(sides: list[int]) -> SizeRange | None:
    if not sides:
        return None
    bins = Counter(bisect_right(SIZE_EDGES, side) - 1 for side in sides)
    return SizeRange(
        smallest=min(sides),
        median=median(sides),
        largest=max(sides),
        histogram=[
            SizeBin(
                at_least=SIZE_EDGES[bin_],
                below=SIZE_EDGES[bin_ + 1] if bin_ + 1 < len(SIZE_EDGES) else None,
                images=bins[bin_],
            )
            for bin_ in range(min(bins), max(bins) + 1)
        ],
    )
