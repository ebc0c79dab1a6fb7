"""The CSV manifest, in which each row has the path and the labels of a crop."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import chain
from pathlib import Path, PureWindowsPath
from typing import IO

from model.crops.file_forms import FileForms
from model.crops.names import Ignored, by_product_kind, is_hidden, shown
from model.problems import InputProblem, is_of_the_machine
from model.times import read_time

MANIFEST = "manifest.csv"
COLUMNS = ("path", "identity", "camera", "captured_at", "external_id", "metadata", "track", "split")
# Columns that only the manifest of an export has.
EXPORTED = ("crop_id", "sha256", "quality", "created_at")
# Training and evaluation need these of every crop.
LABELLED = ("path", "identity", "camera")
# Other common names of the required columns, without spaces and the like.
OTHER_NAMES = {
    "path": ("imagepath", "imgpath", "filepath", "file", "filename", "image", "imagename", "img"),
    "identity": ("pid", "personid", "person", "id", "identityid", "label", "name", "personname"),
    "camera": ("camid", "cameraid", "cam", "cameraname", "camname"),
}
MAX_LINE = 1_000_000
# Upper bounds on the crops of an export, and on the manifest of an import, which is held in memory.
MAX_EXPORTED = 1_000_000
MAX_MANIFEST_BYTES = 512 * 1024 * 1024
# Each row takes time for each column of the header.
MAX_COLUMNS = 1_000
SPLITS = ("train", "query", "gallery")
# Spreadsheet programs of some countries write these in place of commas.
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# Programs put these around the name of a column; white space of any kind is stripped as well.
AROUND_NAMES = "\ufeff\u200b\"'“”„‘’`"


class ManifestProblem(InputProblem):
    """A manifest that cannot be used."""


@dataclass(frozen=True, slots=True)
class CropFile:
    """An image file and its labels, which are None if they are unknown.

    Attributes:
        path: the image file; an absolute path if a manifest names it. For a crop of an export
            without a picture it is the folder of the manifest.
        identity, camera, external_id: any texts; leading zeros are kept.
        captured_at: time with a time zone.
        metadata: a JSON object as text.
        split: `train`, `query` or `gallery`.
        line: line of the manifest, counted from 1.
        track: the tracker's id of the track, unique within the camera.
        exported: the texts in the columns `EXPORTED`; empty unless it is a crop of an export.
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
    exported: tuple[str, ...] = ()


def find_manifest(folder: Path) -> Path | None:
    """Return the manifest of a folder, which may be called `Manifest.csv` too; None without any.

    Raises:
        ManifestProblem: there are several.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.is_file())
    except OSError as error:
        if is_of_the_machine(error):
            raise
        # Reading the images of the folder will report the error.
        return None
    manifests = [name for name in names if name.casefold() == MANIFEST]
    if len(manifests) > 1:
        raise ManifestProblem(
            f"{' and '.join(manifests)} are both there; keep the one that has the labels, and "
            "rename or remove the other"
        )
    return folder / manifests[0] if manifests else None


def read_manifest(
    manifest: Path,
    within: Path | None = None,
    required: Collection[str] = LABELLED,
    ignored: Ignored | None = None,
    between: Callable[[], object] = lambda: None,
    is_export: bool = False,
) -> list[CropFile]:
    """Read a manifest, whose relative paths begin at its own folder.

    Args:
        manifest: the file.
        within: a resolved folder out of which no path may lead. The error then tells neither
            whether a file outside exists nor the labels of the manifest. None allows any path that
            is not written with backslashes.
        required: columns that have a value in every row.
        ignored: collects the unknown columns.
        between: called before each row; an error that it raises ends the reading.
        is_export: whether a service wrote it, with the columns `EXPORTED`. Then spaces around
            values count, and a row may lack a path.

    Raises:
        ManifestProblem: a column, a value or a file is missing, a column or path occurs twice, a
            column has nearly the name of a known one, a time is not RFC 3339, metadata are no JSON
            object, or a split is unknown. The message names the first wrong row.
    """
    named = manifest.resolve().relative_to(within) if within else manifest
    rows: list[CropFile] = []
    lines: dict[str, int] = {}
    known = (*COLUMNS, *EXPORTED) if is_export else COLUMNS
    forms = FileForms()
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            # A space after a comma would make the quotes after it a part of the value.
            reader = csv.DictReader(_bounded(file), strict=True, skipinitialspace=True)
            try:
                columns = ("path", *EXPORTED) if is_export else required
                names = _read_header(reader.fieldnames or (), columns)
            except ManifestProblem as problem:
                raise ManifestProblem(f"{named}, line 1: {problem}") from problem
            reader.fieldnames = names
            for name in names:
                if ignored is not None and name not in known:
                    reason = f"the column is unknown; known columns are {', '.join(known)}"
                    ignored.add(f"{named}: {name}", reason)
            for record in reader:
                between()
                line = reader.line_num
                if _is_blank(record):
                    continue
                try:
                    row = _read_row(
                        record, line, manifest.parent, within, required, forms, is_export
                    )
                except ManifestProblem as problem:
                    raise ManifestProblem(f"{named}, line {line}: {problem}") from problem
                path = str(row.path) if row.path != manifest.parent else f"line {line}"
                if (earlier := lines.setdefault(path, line)) != line:
                    raise ManifestProblem(
                        f"{named}, line {line}: {shown(record['path'] or '')} is listed already "
                        f"on line {earlier}; keep one of the two"
                    )
                if is_export and len(rows) == MAX_EXPORTED:
                    raise ManifestProblem(f"{named}: has more than {MAX_EXPORTED:,} crops")
                rows.append(row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestProblem(f"{named}: not a UTF-8 CSV file ({error}); save it as one") from error
    except OSError as error:
        if is_of_the_machine(error):
            raise
        raise ManifestProblem(
            f"{named}: cannot be read ({error.strerror}); name a readable CSV manifest"
        ) from error
    if not rows and not is_export:
        raise ManifestProblem(f"{named}: has no rows; list at least one crop")
    return rows


def _read_header(header: Sequence[str], required: Collection[str]) -> list[str]:
    """Return the names of columns, stripped of spaces, quotes and the like.

    Raises:
        ManifestProblem: the header would lose a known column; the message does not name the line.
    """
    names = [_strip_name(name) for name in header]
    if len(names) > MAX_COLUMNS:
        raise ManifestProblem(
            f"has {len(names):,} columns, over the limit of {MAX_COLUMNS:,}; leave out those that "
            "are not known"
        )
    _require_commas(names)
    repeated = [name for name, count in Counter(names).items() if count > 1 and name in COLUMNS]
    if repeated:
        raise ManifestProblem(
            f"the column {repeated[0]} occurs twice; keep one of the two, or rename the other"
        )
    for name in names:
        meant = _similar_column(name, names)
        if meant is not None:
            raise ManifestProblem(
                f"there is no column {shown(name)!r}; did you mean {meant}? Rename the column to "
                f"{meant}, or to something else if it is not meant"
            )
    missing = [name for name in required if name not in names]
    if missing:
        others = [name for name in COLUMNS if name not in required]
        raise ManifestProblem(
            f"the header lacks {', '.join(missing)}; it must be "
            f"{','.join(required)}[,{','.join(others)}]{_suggest_names(missing, names)}"
        )
    return names


def _suggest_names(missing: Sequence[str], names: Sequence[str]) -> str:
    """Name the columns that are probably the missing ones, as the end of a sentence."""
    suggestions = []
    for column in missing:
        meant = next(
            (name for name in names if _letters(name) in OTHER_NAMES.get(column, ())), None
        )
        if meant is not None:
            suggestions.append(f"{shown(meant)!r} looks like {column}")
    if not suggestions:
        return ""
    return f"; {', '.join(suggestions)}: rename {'it' if len(suggestions) == 1 else 'them'}"


def _strip_name(name: str) -> str:
    stripped = name.strip()
    while (inner := stripped.strip(AROUND_NAMES).strip()) != stripped:
        stripped = inner
    return stripped


def _require_commas(names: Sequence[str]) -> None:
    """Raise `ManifestProblem` if a line does not begin with names of columns and commas."""
    first = names[0] if names else ""
    if first.casefold().startswith("sep="):
        raise ManifestProblem(
            "is a note on the separator for spreadsheet programs; remove this line, separate the "
            "columns by commas, and begin with their names"
        )
    known = {_letters(column) for column in COLUMNS}
    for separator, title in SEPARATORS.items():
        parts = [part for name in names if separator in name for part in name.split(separator)]
        if "path" not in names and known & {_letters(part) for part in parts}:
            raise ManifestProblem(
                f"the columns are separated by {title}; save the file with commas, which "
                'spreadsheet programs call "CSV (comma delimited)"'
            )


def _similar_column(name: str, names: Collection[str]) -> str | None:
    """Return the known column that another name probably means, or None."""
    if name in COLUMNS:
        return None
    letters = _letters(name)
    for column in COLUMNS:
        if letters == _letters(column):
            return column
    for column in COLUMNS:
        if column not in names and _is_misspelt(letters, column):
            return column
    return None


def _letters(name: str) -> str:
    """Return a name in lower case without spaces, underscores, hyphens and the like."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _is_misspelt(letters: str, column: str) -> bool:
    """Return whether few letters are inserted, left out, replaced or swapped with the next one."""
    right = _letters(column)
    # Longer names leave room for more mistakes before they resemble other words.
    allowed = len(column) // 4
    if abs(len(letters) - len(right)) > allowed:
        return False
    # A row has the edits from the first letters of one name to all beginnings of the other.
    rows = [list(range(len(right) + 1))]
    for row, letter in enumerate(letters, 1):
        above = rows[-1]
        current = [row]
        for place, other in enumerate(right, 1):
            edits = min(above[place] + 1, current[-1] + 1, above[place - 1] + (letter != other))
            if row > 1 and place > 1 and letters[row - 2] == other and right[place - 2] == letter:
                edits = min(edits, rows[-2][place - 2] + 1)
            current.append(edits)
        rows.append(current)
    return rows[-1][-1] <= allowed


def _bounded(file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file, and refuse one of more than `MAX_LINE` characters."""
    number = 0
    while line := file.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise csv.Error(f"line {number}: is over {MAX_LINE:,} characters long")
        yield line


def _is_blank(record: dict[str, str | None]) -> bool:
    """Return whether a row has no value, as spreadsheet programs write it below the others."""
    # The key None has the values beyond the last column.
    values = chain.from_iterable(
        value if isinstance(value, list) else [value] for value in record.values()
    )
    return not any((value or "").strip() for value in values)


def _read_row(
    record: dict[str, str | None],
    line: int,
    folder: Path,
    within: Path | None,
    required: Collection[str],
    forms: FileForms,
    is_export: bool,
) -> CropFile:
    """Return the crop of a row; the message of a `ManifestProblem` does not name the line."""
    if None in record:
        raise ManifestProblem("more values than columns; quote values that hold a comma")
    values = {name: record.get(name) or "" for name in (*COLUMNS, *EXPORTED)}
    if not is_export:
        values = {name: value.strip() for name, value in values.items()}
    labels = {name: values[name] or None for name in COLUMNS}
    for name in () if is_export else required:
        if not labels[name]:
            raise ManifestProblem(f"{name} is empty; give one in every row")
    file = labels.pop("path")
    path = _find_file(folder, within, file or "", forms) if file or not is_export else folder
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
            moment = read_time(text)
        except ValueError as error:
            raise ManifestProblem(f"captured_at {_shown(text, within)!r} {error}") from error
    exported = tuple(values[name] for name in EXPORTED) if is_export else ()
    return CropFile(path, captured_at=moment, line=line, exported=exported, **labels)


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _find_file(
    folder: Path,
    within: Path | None,
    name: str,
    forms: FileForms,
) -> Path:
    try:
        path = forms.resolve(folder / name, within)
        slashed = name
        allowed = within
        if "\\" in name and not path.is_file():
            # The file's own name has no backslash, so that they separate folders as on Windows.
            slashed = name.replace("\\", "/")
            allowed = within or folder.resolve()
            path = forms.resolve(folder / slashed, allowed)
        by_product = _by_product_in(folder, slashed)
        if slashed != name and PureWindowsPath(name).anchor:
            reason = "is an absolute path of Windows; write a path that begins at the manifest"
        elif allowed is not None and not path.is_relative_to(allowed):
            area = "import" if within else "manifest's folder"
            reason = f"lies outside the {area}; correct the path"
        elif by_product is not None:
            reason = (
                f"a storage system or program made {shown(by_product)} for its own use, so it is "
                "not enrolled; remove the row, or move the file"
            )
        elif path.is_file():
            return path
        elif path.is_dir():
            reason = "is a folder, not an image; correct the path"
        elif within is not None and is_hidden(slashed):
            reason = (
                "no such file, as hidden files of an archive are not unpacked; pack it under a "
                "name without the dot"
            )
        else:
            reason = "no such file; correct the path"
    except (OSError, ValueError, RuntimeError) as error:
        if is_of_the_machine(error):
            raise
        # The name may be too long, hold a NUL, lie in a closed folder, or be a loop of links.
        reason = f"cannot be opened ({type(error).__name__}); correct the path"
    raise ManifestProblem(f"{shown(name)}: {reason}")


def _by_product_in(folder: Path, name: str) -> str | None:
    """Return the part of a path below a folder that is a by-product, or None."""
    place = Path(os.path.normpath(folder / name))
    # Folders above the manifest, or elsewhere, were chosen by the person who named the path.
    if not place.is_relative_to(folder):
        return None
    parts = place.relative_to(folder).parts
    return next((part for part in parts if by_product_kind(part)), None)


def _shown(value: str | None, within: Path | None) -> str:
    """Return a value for a message, or a placeholder if others than its author may read it."""
    return shown(value or "") if within is None else "…"
