"""The CSV manifest: `path,identity,camera[,captured_at,split]`, one crop a row."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from model.crops.names import shown
from model.problems import InputProblem

REQUIRED_COLUMNS = ("path", "identity", "camera")
OPTIONAL_COLUMNS = ("captured_at", "split")
MAX_LINE = 1_000_000
SPLITS = ("train", "query", "gallery")


class ManifestProblem(InputProblem):
    """A manifest that cannot be used: the first offending row and what to do."""


@dataclass(frozen=True)
class ManifestRow:
    """One crop of a manifest.

    Attributes:
        path: the image file, absolute.
        identity: who it shows, an opaque string; leading zeros are kept.
        camera: which camera took it, an opaque string.
        captured_at: when, with time zone; None where the manifest does not say.
        split: `train`, `query` or `gallery`; None where the manifest does not say.
    """

    path: Path
    identity: str
    camera: str
    captured_at: datetime | None = None
    split: str | None = None


def read_manifest(manifest: Path, within: Path | None = None) -> list[ManifestRow]:
    """Reads a manifest; relative paths are relative to the manifest's folder.

    Args:
        manifest: the file.
        within: a resolved folder that no path may lead out of; not even whether there is a file
            is told then. None allows any.

    Raises:
        ManifestProblem: naming the first row that is wrong: a missing column or value, a file that
            is not there, a path listed twice, a time that is not RFC 3339, an unknown split.
    """
    if not manifest.is_file():
        problem = "is a folder" if manifest.is_dir() else "no such file"
        raise ManifestProblem(f"{manifest}: {problem}; name a CSV manifest")
    rows: list[ManifestRow] = []
    seen: dict[Path, int] = {}
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(_bounded(manifest, lines), strict=True)
            _check_header(manifest, reader.fieldnames)
            for record in reader:
                row = _read_row(manifest, within, reader.line_num, record)
                if row.path in seen:
                    raise ManifestProblem(
                        f"{manifest}, line {reader.line_num}: {shown(record['path'])} is listed "
                        f"already on line {seen[row.path]}; keep one of the two"
                    )
                seen[row.path] = reader.line_num
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestProblem(
            f"{manifest}: not a UTF-8 CSV file ({error}); save it as one"
        ) from error
    except OSError as error:
        raise ManifestProblem(
            f"{manifest}: cannot be read ({error.strerror}); make it readable"
        ) from error
    if not rows:
        raise ManifestProblem(f"{manifest}: has no rows; list at least one crop")
    return rows


def _bounded(manifest: Path, lines: IO[str]) -> Iterator[str]:
    """The lines of a file, of which none fills the memory."""
    number = 0
    while line := lines.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise ManifestProblem(
                f"{manifest}, line {number}: is over {MAX_LINE:,} characters long; a row has a "
                "path, an identity and a camera"
            )
        yield line


def _check_header(manifest: Path, columns: object) -> None:
    names = list(columns) if isinstance(columns, (list, tuple)) else []
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if missing:
        raise ManifestProblem(
            f"{manifest}, line 1: the header lacks {', '.join(missing)}; "
            f"it must be {','.join(REQUIRED_COLUMNS)}[,{','.join(OPTIONAL_COLUMNS)}]"
        )


def _read_row(
    manifest: Path, within: Path | None, line: int, record: dict[str, str | None]
) -> ManifestRow:
    where = f"{manifest}, line {line}"
    if None in record:
        raise ManifestProblem(f"{where}: more values than columns; quote values that hold a comma")
    values = {name: (value or "").strip() for name, value in record.items()}
    for name in REQUIRED_COLUMNS:
        if not values[name]:
            raise ManifestProblem(f"{where}: {name} is empty; give every row a {name}")
    path = _find_file(manifest, within, where, values["path"])
    split = values.get("split") or None
    if split is not None and split not in SPLITS:
        raise ManifestProblem(f"{where}: split {shown(split)!r} is not one of {', '.join(SPLITS)}")
    return ManifestRow(
        path=path,
        identity=values["identity"],
        camera=values["camera"],
        captured_at=_read_time(where, values.get("captured_at") or None),
        split=split,
    )


def _find_file(manifest: Path, within: Path | None, where: str, name: str) -> Path:
    try:
        path = (manifest.parent / name).resolve()
        if within is not None and not path.is_relative_to(within):
            raise ManifestProblem(
                f"{where}: {shown(name)}: lies outside the import; correct the path"
            )
        if path.is_file():
            return path
        reason = "is a folder, not an image" if path.is_dir() else "no such file"
    except (OSError, ValueError, RuntimeError) as error:
        # A name too long, with a NUL in it, behind a closed folder, or a loop of links.
        reason = f"cannot be opened ({type(error).__name__})"
    raise ManifestProblem(f"{where}: {shown(name)}: {reason}; correct the path")


def _read_time(where: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    moment: datetime | None
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is not None:
            # What lies before the year 1 elsewhere could not be stored.
            moment.astimezone(UTC)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ManifestProblem(
            f"{where}: captured_at {shown(text)!r} is not RFC 3339 with a time zone, "
            "such as 2024-05-01T12:00:00Z"
        )
    return moment
