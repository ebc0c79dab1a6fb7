"""What `check-data` finds out: every file read once, counted, measured and compared."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from model.crops.decode import CropProblem, decode_crop
from training.datasets.check_report import (
    CheckReport,
    DatasetReport,
    DuplicateFiles,
    FileFinding,
    SizeRange,
    SplitCount,
)
from training.datasets.kind import DatasetKind
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import kind_of

TINY_WIDTH, TINY_HEIGHT = 16, 32
"""Below this, pixels, a crop is readable but hardly shows a person."""

CAMERA_IMBALANCE = 5.0
"""Above this ratio of the busiest camera's images to the quietest one's, a note is made."""


@dataclass
class _Files:
    """What reading the files of one set gave."""

    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    unreadable: list[FileFinding] = field(default_factory=list)
    tiny: list[FileFinding] = field(default_factory=list)


def check_datasets(
    datasets: Sequence[Dataset], on_file: Callable[[], None] = lambda: None
) -> CheckReport:
    """Reads every file of the sets.

    Args:
        datasets: as read by the registry.
        on_file: called after each file, to show progress.
    """
    by_content: dict[bytes, list[CropRecord]] = defaultdict(list)
    reports = []
    for dataset in datasets:
        files = _Files()
        for record in dataset.records:
            _check_file(record, files, by_content)
            on_file()
        reports.append(_report(dataset, kind_of(dataset.spec), files))
    return CheckReport(datasets=reports, duplicates=_mislabelled(by_content.values()))


def _check_file(
    record: CropRecord, files: _Files, by_content: dict[bytes, list[CropRecord]]
) -> None:
    try:
        if record.path is None:
            pixels = record.decode()
            content = pixels.tobytes()
        else:
            content = record.path.read_bytes()
            pixels = decode_crop(content)
    except CropProblem as problem:
        finding = FileFinding(source=record.source, code=problem.code, detail=problem.detail)
        files.unreadable.append(finding)
        return
    except OSError as error:
        detail = f"cannot be opened ({error.strerror}); make it readable"
        files.unreadable.append(FileFinding(source=record.source, code="unopened", detail=detail))
        return
    by_content[hashlib.sha256(content).digest()].append(record)
    height, width = pixels.shape[:2]
    files.widths.append(width)
    files.heights.append(height)
    if width < TINY_WIDTH or height < TINY_HEIGHT:
        detail = f"{width}×{height} pixels hardly show a person"
        files.tiny.append(FileFinding(source=record.source, code="tiny", detail=detail))


def _report(dataset: Dataset, kind: DatasetKind, files: _Files) -> DatasetReport:
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
        terms=dataset.terms,
        obtain=kind.obtain,
        images=len(dataset.records),
        identities=len(cameras_of),
        images_by_camera=dict(sorted(cameras.items())),
        splits=splits,
        unreadable=files.unreadable,
        tiny=files.tiny,
        one_camera_identities=alone,
        width=_size_range(files.widths),
        height=_size_range(files.heights),
        notes=[*_count_notes(splits), *_camera_notes(cameras, len(alone), len(cameras_of))],
    )


def _count_splits(dataset: Dataset, kind: DatasetKind) -> list[SplitCount]:
    published = {count.split: count for count in kind.published}
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
    return SizeRange(smallest=min(sides), median=median(sides), largest=max(sides))


def _mislabelled(groups: Iterable[list[CropRecord]]) -> list[DuplicateFiles]:
    return [
        DuplicateFiles(
            sources=[record.source for record in group],
            people=sorted({"/".join(record.person) for record in group}),
        )
        for group in groups
        if len({record.person for record in group}) > 1
        or len({record.split for record in group}) > 1
    ]
