"""The CSV manifest, in which each row has the path and the labels of a crop."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from model.crops.names import Ignored, shown
from model.problems import InputProblem, is_of_the_machine

MANIFEST = "manifest.csv"
COLUMNS = ("path", "identity", "camera", "captured_at", "external_id", "metadata", "track", "split")
# Training and evaluation need these of every crop.
LABELLED = ("path", "identity", "camera")
MAX_LINE = 1_000_000
# Each row takes time for each column of the header.
MAX_COLUMNS = 1_000
SPLITS = ("train", "query", "gallery")


class ManifestProblem(InputProblem):
    """A manifest that cannot be used."""


@dataclass(frozen=True)
class CropFile:
    """An image file and its labels, which are None if they are unknown.

    Attributes:
        path: the image file; an absolute path if a manifest names it.
        identity, camera, external_id: any texts; leading zeros are kept.
        captured_at: time with a time zone.
        metadata: a JSON object as text.
        split: `train`, `query` or `gallery`.
        line: line of the manifest, counted from 1.
        track: the tracker's id of the track, unique within the camera.
    """

    path: Path
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: str | None = None
    split: str | None = None
    line: int | None = None
    track: str | None = None


def read_manifest(
    manifest: Path,
    within: Path | None = None,
    required: Collection[str] = LABELLED,
    ignored: Ignored | None = None,
) -> list[CropFile]:
    """Read a manifest, whose relative paths begin at its own folder.

    Args:
        manifest: the file.
        within: a resolved folder out of which no path may lead. The error then tells neither
            whether a file exists nor the text of the manifest. None allows any path.
        required: columns that have a value in every row.
        ignored: collects the unknown columns.

    Raises:
        ManifestProblem: a column, a value or a file is missing, a path occurs twice, a time is not
            RFC 3339, metadata are no JSON object, or a split is unknown. The message names the
            first wrong row.
    """
    named = manifest.resolve().relative_to(within) if within else manifest
    rows: dict[Path, CropFile] = {}
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(_bounded(file), strict=True)
            names = reader.fieldnames or ()
            if len(names) > MAX_COLUMNS:
                raise ManifestProblem(
                    f"{named}, line 1: has {len(names):,} columns, over the limit of "
                    f"{MAX_COLUMNS:,}; leave out those that are not known"
                )
            missing = [name for name in required if name not in names]
            if missing:
                others = [name for name in COLUMNS if name not in required]
                raise ManifestProblem(
                    f"{named}, line 1: the header lacks {', '.join(missing)}; it must be "
                    f"{','.join(required)}[,{','.join(others)}]"
                )
            for name in names:
                if ignored is not None and name not in COLUMNS:
                    reason = f"the column is unknown; known columns are {', '.join(COLUMNS)}"
                    ignored.add(f"{named}: {name}", reason)
            for record in reader:
                line = reader.line_num
                try:
                    row = _read_row(record, line, manifest.parent, within, required)
                except ManifestProblem as problem:
                    raise ManifestProblem(f"{named}, line {line}: {problem}") from problem
                if row.path in rows:
                    raise ManifestProblem(
                        f"{named}, line {line}: {_shown(record['path'], within)} is listed already "
                        f"on line {rows[row.path].line}; keep one of the two"
                    )
                rows[row.path] = row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestProblem(f"{named}: not a UTF-8 CSV file ({error}); save it as one") from error
    except OSError as error:
        if is_of_the_machine(error):
            raise
        raise ManifestProblem(
            f"{named}: cannot be read ({error.strerror}); name a readable CSV manifest"
        ) from error
    if not rows:
        raise ManifestProblem(f"{named}: has no rows; list at least one crop")
    return list(rows.values())


def _bounded(file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file, and refuse one of more than `MAX_LINE` characters."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise csv.Error(f"line {number}: is over {MAX_LINE:,} characters long")
        yield line


def _read_row(
    record: dict[str, str | None],
    line: int,
    folder: Path,
    within: Path | None,
    required: Collection[str],
) -> CropFile:
    """Return the crop of a row; the message of a `ManifestProblem` does not name the line."""
    if None in record:
        raise ManifestProblem("more values than columns; quote values that hold a comma")
    labels = {name: (record.get(name) or "").strip() or None for name in COLUMNS}
    for name in required:
        if not labels[name]:
            raise ManifestProblem(f"{name} is empty; give one in every row")
    path = _find_file(folder, within, labels.pop("path") or "")
    split = labels["split"]
    if split and split not in SPLITS:
        raise ManifestProblem(f"split {_shown(split, within)!r} is not one of {', '.join(SPLITS)}")
    metadata = labels["metadata"]
    if metadata and not _is_object(metadata):
        raise ManifestProblem(
            f"metadata {_shown(metadata[:40], within)!r} is no JSON object; write it like "
            '"{""shift"": ""night""}"'
        )
    moment = None
    if text := labels.pop("captured_at"):
        try:
            moment = datetime.fromisoformat(text)
            # This fails for a time before the year 1 in UTC, which cannot be stored.
            moment.astimezone(UTC)
        except (ValueError, OverflowError):
            moment = None
        if moment is None or moment.tzinfo is None:
            raise ManifestProblem(
                f"captured_at {_shown(text, within)!r} is not RFC 3339 with a time zone, such as "
                "2024-05-01T12:00:00Z"
            )
    return CropFile(path, captured_at=moment, line=line, **labels)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _find_file(
    folder: Path,
    within: Path | None,
    name: str,
) -> Path:
    try:
        path = (folder / name).resolve()
        if within is not None and not path.is_relative_to(within):
            reason = "lies outside the import"
        elif path.is_file():
            return path
        else:
            reason = "is a folder, not an image" if path.is_dir() else "no such file"
    except (OSError, ValueError, RuntimeError) as error:
        if is_of_the_machine(error):
            raise
        # The name may be too long, hold a NUL, lie in a closed folder, or be a loop of links.
        reason = f"cannot be opened ({type(error).__name__})"
    raise ManifestProblem(f"{_shown(name, within)}: {reason}; correct the path")


def _shown(value: str | None, within: Path | None) -> str:
    """Return a value for a message, or a placeholder if others than its author may read it."""
    return shown(value or "") if within is None else "…"
