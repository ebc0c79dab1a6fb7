"""Exports: the crops of a gallery in one zip file that ordinary tools read.

`export.json` describes the gallery, `crops.jsonl` has a JSON object for each crop, row n of
`vectors.npy` is the vector of line n, and `images/` has the kept pictures. Nothing is compressed.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import to_json

from service.errors import GalleryConflict, RecordUnavailable
from service.ops.data_directory import MEBIBYTE
from service.record.crop_rows import read_pages
from service.record.galleries import require_entry
from service.record.record import Record
from service.record.transaction import Reader, batches
from service.record.values import CROP_ID, GalleryRecord, StoredCrop, as_dict, labels_of

FORMAT: Literal["gmn export 1"] = "gmn export 1"
CONTENT = "export.zip"
# The description that the service lists, beside the zip file.
LISTED = "listed.json"
DESCRIPTION = "export.json"
CROPS = "crops.jsonl"
VECTORS = "vectors.npy"
# A larger gallery would need too much memory for the zip file's list of pictures.
MOST_CROPS = 1_000_000
CROPS_AT_ONCE = 256
# Crops as they are when the export begins; each line also has the slot.
ROWS = "rows.jsonl"
ENDINGS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/bmp": "bmp"}

Count = Annotated[int, Field(ge=0)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
ReadPicture = Callable[[StoredCrop], bytes | None]


class Exported(BaseModel):
    """Base of the objects in an export."""

    model_config = ConfigDict(frozen=True)


class FileSum(Exported):
    """Size and checksum of a file."""

    bytes: Count
    sha256: Sha256


class ExportDescription(Exported):
    """The content of `export.json`: a gallery at `version`, and the sizes of the other files."""

    format: Literal["gmn export 1"]
    gallery: str
    settings: dict[str, Any]
    version: Count
    embedding_fingerprint: str
    dimension: Count
    crops: Annotated[int, Field(ge=0, le=MOST_CROPS)]
    pictures: Count
    created_at: AwareDatetime
    expires_at: AwareDatetime
    files: dict[str, FileSum]


class ExportedPicture(FileSum):
    """A picture of a crop, in the file of that name."""

    file: str
    content_type: Literal["image/jpeg", "image/png", "image/webp", "image/bmp"]


class ExportedCrop(Exported):
    """A line of `crops.jsonl`; `sha256` is of the image that was sent."""

    crop_id: Annotated[str, Field(pattern=f"^{CROP_ID}$")]
    identity: str | None
    camera: str | None
    captured_at: AwareDatetime | None
    external_id: str | None
    metadata: dict[str, Any] | None
    track: str | None
    sha256: Sha256
    quality: Annotated[float, Field(allow_inf_nan=False)] | None
    created_at: AwareDatetime
    picture: ExportedPicture | None


def write_export(
    record: Record,
    folder: Path,
    gallery_id: int,
    expires_at: datetime,
    read_picture: ReadPicture,
    between: Callable[[], object],
) -> ExportDescription:
    """Write the zip file of an export, while reads and writes of the gallery go on.

    Labels are those of one moment. Crops that are deleted before they are reached are left out.

    Args:
        folder: an existing folder for `export.zip`.
        read_picture: returns the kept picture of a crop, or None.
        between: called between the steps; raises an error to end the work.

    Raises:
        UnknownGallery: the gallery was deleted.
        GalleryConflict: the gallery has too many crops.
        RecordUnavailable: the gallery was reindexed in the meantime.
        OSError: the disk is full or fails.
    """
    created_at = datetime.now(UTC)
    with record.database.read() as reader:
        entry = require_entry(reader, gallery_id)
        if entry.crops > MOST_CROPS:
            raise GalleryConflict(
                f"gallery {entry.name!r} has {entry.crops:,} crops, and an export holds "
                f"{MOST_CROPS:,}; keep it by gmn backup, which has no such limit"
            )
        _write_rows(folder / ROWS, reader, gallery_id, between)
    crops = 0
    pictures = 0
    with (
        zipfile.ZipFile(folder / CONTENT, "w") as packed,
        (folder / CROPS).open("w+b") as lines,
        (folder / VECTORS).open("w+b") as vectors,
        (folder / ROWS).open("rb") as rows,
    ):
        for some in batches(rows, CROPS_AT_ONCE):
            between()
            labels = {row.pop("slot"): row for row in map(json.loads, some)}
            embedder, present = record.crops.vectors_of(gallery_id, list(labels))
            if present and embedder != entry.embedding_fingerprint:
                raise RecordUnavailable(f"gallery {entry.name} was reindexed during the export")
            for crop in present:
                content = read_picture(crop.record)
                picture = _add_picture(packed, crop.record, content) if content else None
                line = {**labels[crop.record.slot], "picture": picture}
                lines.write(to_json(line) + b"\n")
                vectors.write(np.asarray(crop.vector, "<f4").tobytes())
                crops += 1
                pictures += picture is not None
        header = _npy_header(crops, entry.dimension or 0)
        files = {
            CROPS: _add_file(packed, CROPS, _read_parts(lines)),
            VECTORS: _add_file(packed, VECTORS, [header, *_read_parts(vectors)]),
        }
        description = _describe(entry, crops, pictures, files, created_at, expires_at)
        packed.writestr(_entry(DESCRIPTION), description.model_dump_json(indent=1))
    for name in (ROWS, CROPS, VECTORS):
        (folder / name).unlink()
    return description


def read_lines(file: IO[bytes]) -> Iterator[ExportedCrop]:
    for line in file:
        yield ExportedCrop.model_validate_json(line)


def count_in_export(path: Path, crop_ids: set[str], is_person: Callable[[str], bool]) -> int:
    """Return how many crops of an export are among some or have the name of a person."""
    with zipfile.ZipFile(path) as packed, packed.open(CROPS) as file:
        return sum(
            crop.crop_id in crop_ids or (crop.identity is not None and is_person(crop.identity))
            for crop in read_lines(file)
        )


def _write_rows(path: Path, reader: Reader, gallery_id: int, between: Callable[[], object]) -> None:
    with path.open("wb") as file:
        for page in read_pages(reader, gallery_id):
            between()
            file.writelines(to_json(_describe_crop(crop)) + b"\n" for crop in page)


def _describe_crop(crop: StoredCrop) -> dict[str, Any]:
    return {
        "slot": crop.slot,
        "crop_id": crop.crop_id,
        **labels_of(crop),
        "metadata": None if crop.metadata is None else as_dict(crop.metadata),
        "sha256": crop.sha256,
        "quality": crop.quality,
        "created_at": crop.created_at,
    }


def _describe(
    entry: GalleryRecord,
    crops: int,
    pictures: int,
    files: Mapping[str, FileSum],
    created_at: datetime,
    expires_at: datetime,
) -> ExportDescription:
    return ExportDescription(
        format=FORMAT,
        gallery=entry.name,
        settings=asdict(entry.settings),
        version=entry.version,
        embedding_fingerprint=entry.embedding_fingerprint,
        dimension=entry.dimension or 0,
        crops=crops,
        pictures=pictures,
        created_at=created_at,
        expires_at=expires_at,
        files=dict(files),
    )


def _add_picture(packed: zipfile.ZipFile, crop: StoredCrop, content: bytes) -> dict[str, Any]:
    content_type = crop.content_type or ""
    name = f"images/{crop.crop_id}.{ENDINGS[content_type]}"
    added = _add_file(packed, name, [content])
    return {"file": name, "content_type": content_type, **added.model_dump()}


def _add_file(packed: zipfile.ZipFile, name: str, parts: Iterable[bytes]) -> FileSum:
    digest = hashlib.sha256()
    size = 0
    with packed.open(_entry(name), "w", force_zip64=name in (VECTORS, CROPS)) as file:
        for part in parts:
            file.write(part)
            digest.update(part)
            size += len(part)
    return FileSum(bytes=size, sha256=digest.hexdigest())


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o600 << 16
    return entry


def _read_parts(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while part := file.read(MEBIBYTE):
        yield part


def _npy_header(count: int, dimension: int) -> bytes:
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
    np.lib.format.write_array_header_1_0(header, shape)  # type: ignore[no-untyped-call]
    return header.getvalue()
