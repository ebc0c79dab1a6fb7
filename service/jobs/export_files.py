"""Reading of the parts of an export: its description, the ids of its crops and their vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from model.arrays import Floats
from model.crops.manifest import MANIFEST, CropFile
from model.crops.manifest_columns import EXPORTED
from model.crops.names import DESCRIPTION, VECTORS
from model.feature_file import are_directions
from service.errors import InvalidField
from service.gallery.clocks import is_in_future
from service.gallery.enroll import ExportedCrop
from service.record.deletions import KEPT_FOR
from service.store.export_rows import ExportDescription
from service.wording import describe_invalid

MAX_DESCRIPTION_BYTES = 64 * 1024
VECTORS_AT_ONCE = 256
MAX_DIMENSION = 65_536
EXPORTED_CROP = TypeAdapter(ExportedCrop)
REMEDY = "send the export as it was downloaded"

ReadVectors = Callable[[Sequence[int]], Floats]
"""Returns the vectors `(n, d)` of n rows, which are given in ascending order."""


def read_description(folder: Path, root: Path) -> ExportDescription | None:
    """Read what an export says of itself; None if a folder is none."""
    path = _find_beside(folder, root, DESCRIPTION)
    if path is None:
        if _find_beside(folder, root, VECTORS) is not None:
            raise InvalidField(
                f"archive: has {VECTORS} without {DESCRIPTION}, so it is no whole export; download "
                "it again, or leave it out"
            )
        return None
    with path.open("rb") as file:
        body = file.read(MAX_DESCRIPTION_BYTES + 1)
    try:
        if len(body) > MAX_DESCRIPTION_BYTES:
            raise InvalidField(
                f"archive: {DESCRIPTION}: has over {MAX_DESCRIPTION_BYTES:,} bytes; {REMEDY}"
            )
        return ExportDescription.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidField(
            f"archive: {DESCRIPTION}: {field}: {describe_invalid(first)}; send an export as it was "
            "downloaded"
        ) from error


def require_known_deletions(export: ExportDescription, is_accepted: bool) -> str | None:
    """Raise `InvalidField` if crops may have been deleted before the first known deletion."""
    known_from = datetime.now(UTC) - KEPT_FOR
    if export.created_at >= known_from:
        return None
    unknown = (
        f"the export is from {export.created_at:%Y-%m-%d}, and deletions are known from "
        f"{known_from:%Y-%m-%d} on: who was forgotten in between may come back"
    )
    if not is_accepted:
        raise InvalidField(
            f"accept_undeleted: {unknown}; make a new export, or send accept_undeleted=true"
        )
    return unknown


def _find_beside(folder: Path, root: Path, name: str) -> Path | None:
    """Return a file of an export in the root of an import, in capitals too; None without it."""
    for path in root.iterdir():
        if path.name.lower() == name and path.is_file():
            if not path.resolve().is_relative_to(folder):
                raise InvalidField(f"archive: {name}: leads out of the import; put it in it")
            return path
    return None


def parse_exported(file: CropFile, where: str, now: datetime) -> ExportedCrop:
    try:
        values = dict(zip(EXPORTED, file.exported, strict=True))
        values["sent_sha256"] = values["sent_sha256"] or values["sha256"]
        crop = EXPORTED_CROP.validate_python(values | {"quality": values["quality"] or None})
    except ValidationError as error:
        # Name the field, not the value: others can read why a job failed.
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise InvalidField(f"{where}: {field} is not that of an export; {REMEDY}") from error
    if is_in_future(crop.created_at, now):
        # By retention, such a crop would be kept for too long.
        raise InvalidField(f"{where}: created_at is in the future; set the clocks right")
    return crop


def open_vectors(folder: Path, root: Path, count: int) -> ReadVectors:
    """Return a function that reads and checks some of the `count` vectors of an export."""
    path = _find_beside(folder, root, VECTORS)
    if path is None:
        raise InvalidField(f"archive: {VECTORS} of the export is missing; download it again")
    where = f"archive: {VECTORS}"
    with path.open("rb") as file:
        try:
            if np.lib.format.read_magic(file) != (1, 0):  # type: ignore[no-untyped-call]
                raise ValueError("is of another version")
            header = np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
            (rows, dimension), is_by_column, dtype = header
        except ValueError as error:
            raise InvalidField(f"{where}: is no array of vectors; download it again") from error
        start = file.tell()
    is_fit = 0 <= dimension <= MAX_DIMENSION and not is_by_column and dtype == np.dtype("<f4")
    if rows != count or not is_fit:
        raise InvalidField(
            f"{where}: has no vector of float32 for each of the {count:,} crops of {MANIFEST}; "
            "download the export again"
        )

    def read(rows: Sequence[int]) -> Floats:
        with path.open("rb") as file:
            file.seek(start + 4 * dimension * rows[0])
            body = file.read(4 * dimension * (rows[-1] + 1 - rows[0]))
        try:
            vectors = np.frombuffer(body, "<f4").reshape(-1, dimension)
            chosen = vectors[[row - rows[0] for row in rows]]
        except (ValueError, IndexError) as error:
            raise InvalidField(f"{where}: has fewer vectors than it says; {REMEDY}") from error
        if not are_directions(chosen):
            raise InvalidField(f"{where}: has a vector that is zero or not finite; {REMEDY}")
        return chosen

    return read


def check_vectors(read: ReadVectors, count: int, between: Callable[[], None]) -> None:
    """Raise `InvalidField` if one of the vectors of an export cannot be used."""
    for first in range(0, count, VECTORS_AT_ONCE):
        between()
        read(range(first, min(first + VECTORS_AT_ONCE, count)))
