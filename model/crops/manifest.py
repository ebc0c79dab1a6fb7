"""The CSV manifest, in which each row has the path and the labels of a crop."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, zip_longest
from pathlib import Path, PureWindowsPath
from typing import IO

from model.crops.file_forms import resolve_in_any_form
from model.crops.hash_set import HashSet
from model.crops.manifest_columns import (
    COLUMNS,
    EXPORTED,
    EXPORTED_BEFORE,
    LABELLED,
    read_header,
)
from model.crops.names import Ignored, by_product_kind, is_hidden, shown
from model.problems import InputProblem, is_of_the_machine
from model.times import read_time

MANIFEST = "manifest.csv"
# Upper bound on the characters of a row, and so on the memory that reading one takes.
MAX_ROW = 1_000_000
# Upper bounds on the crops of an export, and on the bytes of its manifest and of other ones.
MAX_EXPORTED = 1_000_000
MAX_EXPORTED_BYTES = 512 * 1024 * 1024
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
SPLITS = ("train", "query", "gallery")


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
) -> list[CropFile]:
    """Read all crops of a manifest; see `Manifest`, and `Manifest.check` for the errors."""
    return list(Manifest(manifest, within, required).check(ignored or Ignored(), HashSet()))


@dataclass(frozen=True)
class Manifest:
    """A manifest that is read row by row, as often as needed, in bounded memory.

    Attributes:
        path: the file; relative paths in it begin at its own folder.
        within: a resolved folder out of which no path may lead. The error then tells neither
            whether a file outside exists nor the labels of the manifest. None allows any path that
            is not written with backslashes.
        required: columns that have a value in every row.
        is_export: whether a service wrote it, with the columns `EXPORTED`. Then spaces around
            values count, and a row may lack a path.
        between: called before each row; an error that it raises ends the reading.
    """

    path: Path
    within: Path | None = None
    required: Collection[str] = LABELLED
    is_export: bool = False
    between: Callable[[], object] = lambda: None

    def check(self, ignored: Ignored, paths: HashSet) -> Iterator[CropFile]:
        """Yield the crops of all rows until one is wrong.

        Args:
            ignored: collects the unknown columns.
            paths: an empty set, to which the paths of the crops are added.

        Raises:
            ManifestProblem: a column, a value or a file is missing, a column or path occurs twice,
                a column has nearly the name of a known one, a time is not RFC 3339, metadata are no
                JSON object, or a split is unknown. The message names the first wrong row.
        """
        is_empty = True
        for line, record in self._records(ignored):
            is_empty = False
            crop = self._parse(line, record)
            has_path = crop.path != self.path.parent
            if has_path and not paths.add(str(crop.path)):
                same = (other.line for other in self.crops() if other.path == crop.path)
                earlier = next(same, line)
                if earlier != line:
                    raise ManifestProblem(
                        f"{self._name()}, line {line}: {shown(record['path'].strip())} is listed "
                        f"already on line {earlier}; keep one of the two"
                    )
            yield crop
        if is_empty and not self.is_export:
            raise ManifestProblem(f"{self._name()}: has no rows; list at least one crop")

    def crops(self, first: int = 0) -> Iterator[CropFile]:
        """Yield the crops from one on, counted from 0; raise `ManifestProblem` as `check`.

        A path that occurs twice is not noticed.
        """
        for line, record in islice(self._records(), first, None):
            yield self._parse(line, record)

    def count(self) -> int:
        """Return the number of crops, whose values may be wrong; raise `ManifestProblem`."""
        return sum(1 for _ in self._records())

    def _records(self, ignored: Ignored | None = None) -> Iterator[tuple[int, dict[str, str]]]:
        """Yield the lines and values of rows that are not blank; those of a short row are empty."""
        known = (*COLUMNS, *EXPORTED) if self.is_export else COLUMNS
        named = self._name()
        crops = 0
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                lines = _Lines(file)
                # A space after a comma would make the quotes after it a part of the value.
                reader = csv.reader(lines, strict=True, skipinitialspace=True)
                names = self._read_header(next(reader, []))
                for name in names:
                    if ignored is not None and name not in known:
                        reason = f"the column is unknown; known columns are {', '.join(known)}"
                        ignored.add(f"{named}: {name}", reason)
                lines.row_characters = 0
                for row in reader:
                    lines.row_characters = 0
                    self.between()
                    # Spreadsheet programs write blank rows below the others.
                    if not any(value.strip() for value in row):
                        continue
                    if len(row) > len(names):
                        raise ManifestProblem(
                            f"{named}, line {reader.line_num}: more values than columns; "
                            "quote values that hold a comma"
                        )
                    if self.is_export and crops == MAX_EXPORTED:
                        raise ManifestProblem(f"{named}: has more than {MAX_EXPORTED:,} crops")
                    crops += 1
                    yield reader.line_num, dict(zip_longest(names, row, fillvalue=""))
        except (UnicodeDecodeError, csv.Error) as error:
            problem = f"{named}: not a UTF-8 CSV file ({error}); save it as one"
            raise ManifestProblem(problem) from error
        except OSError as error:
            if is_of_the_machine(error):
                raise
            raise ManifestProblem(
                f"{named}: cannot be read ({error.strerror}); name a readable CSV manifest"
            ) from error

    def _read_header(self, header: Sequence[str]) -> list[str]:
        required = ("path", *EXPORTED_BEFORE) if self.is_export else self.required
        try:
            return read_header(header, required)
        except InputProblem as problem:
            raise ManifestProblem(f"{self._name()}, line 1: {problem}") from problem

    def _parse(self, line: int, record: Mapping[str, str]) -> CropFile:
        try:
            return _read_row(
                record, line, self.path.parent, self.within, self.required, self.is_export
            )
        except ManifestProblem as problem:
            raise ManifestProblem(f"{self._name()}, line {line}: {problem}") from problem

    def _name(self) -> Path:
        """Return the path for messages, which do not name what lies above `within`."""
        return self.path.resolve().relative_to(self.within) if self.within else self.path


class _Lines:
    """Yields the lines of a file, and refuses a row that has too many characters.

    Attributes:
        row_characters: those of the row that is being read; to be set to 0 after each row.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._number = 0
        self.row_characters = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline(MAX_ROW)
        if not line:
            raise StopIteration
        self._number += 1
        self.row_characters += len(line)
        # A row has as many lines as there are within its quotes.
        if self.row_characters >= MAX_ROW:
            raise csv.Error(f"line {self._number}: is over {MAX_ROW:,} characters long")
        return line


def _read_row(
    record: Mapping[str, str],
    line: int,
    folder: Path,
    within: Path | None,
    required: Collection[str],
    is_export: bool,
) -> CropFile:
    """Return the crop of a row; the message of a `ManifestProblem` does not name the line."""
    values = {name: record.get(name, "") for name in (*COLUMNS, *EXPORTED)}
    if not is_export:
        values = {name: value.strip() for name, value in values.items()}
    labels = {name: values[name] or None for name in COLUMNS}
    for name in () if is_export else required:
        if not labels[name]:
            raise ManifestProblem(f"{name} is empty; give one in every row")
    file = labels.pop("path")
    path = _find_file(folder, within, file or "") if file or not is_export else folder
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
) -> Path:
    try:
        path = resolve_in_any_form(folder / name, within)
        slashed = name
        allowed = within
        if "\\" in name and not path.is_file():
            # The file's own name has no backslash, so that they separate folders as on Windows.
            slashed = name.replace("\\", "/")
            allowed = within or folder.resolve()
            path = resolve_in_any_form(folder / slashed, allowed)
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
