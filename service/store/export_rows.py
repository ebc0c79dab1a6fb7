"""Exports: the crops of a gallery in an archive, as docs/exports.md describes it.

Nothing is compressed. Row n of `vectors.npy` is the vector of row n of the manifest.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from pydantic_core import to_json

from model.crops.manifest import MANIFEST, MAX_EXPORTED, MAX_EXPORTED_BYTES
from model.crops.manifest_columns import COLUMNS, EXPORTED
from model.crops.names import DESCRIPTION, VECTORS
from service.errors import GalleryConflict, RecordUnavailable
from service.ops.data_directory import MEBIBYTE
from service.record.crop_rows import read_pages
from service.record.galleries import require_entry
from service.record.record import Record
from service.record.transaction import Reader, batches
from service.record.values import StoredCrop, as_dict, labels_of

FORMAT: Literal["gmn export 1"] = "gmn export 1"
CONTENT = "export.zip"
# The description that the service lists, beside the zip file.
LISTED = "listed.json"
CROPS_AT_ONCE = 256
# Crops as they are when the export begins; each line also has the slot.
ROWS = "rows.jsonl"
# An export says nothing of the parts of a data set.
WRITTEN = (*(name for name in COLUMNS if name != "split"), *EXPORTED)
ENDINGS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "image/bmp": "bmp"}

Count = Annotated[int, Field(ge=0)]
ReadPicture = Callable[[StoredCrop], bytes | None]


class ExportDescription(BaseModel):
    """The content of `gmn-export.json`: a gallery at `version`."""

    model_config = ConfigDict(frozen=True)

    format: Literal["gmn export 1"]
    gallery: str
    settings: dict[str, Any]
    version: Count
    embedding_fingerprint: str
    crops: Count
    pictures: Count
    created_at: AwareDatetime
    expires_at: AwareDatetime


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
        if entry.crops > MAX_EXPORTED:
            raise GalleryConflict(
                f"gallery {entry.name!r} has {entry.crops:,} crops, and an export holds "
                f"{MAX_EXPORTED:,}; keep it by gmn backup, which has no such limit"
            )
        _write_rows(folder / ROWS, reader, gallery_id, between)
    crops = 0
    pictures = 0
    with (
        zipfile.ZipFile(folder / CONTENT, "w") as packed,
        (folder / MANIFEST).open("w", encoding="utf-8", newline="") as manifest,
        (folder / VECTORS).open("wb") as vectors,
        (folder / ROWS).open("rb") as rows,
    ):
        # Quotes keep a space at the beginning of a value.
        writer = csv.DictWriter(manifest, WRITTEN, quoting=csv.QUOTE_ALL, lineterminator="\n")
        writer.writeheader()
        for some in batches(rows, CROPS_AT_ONCE):
            between()
            labels = {row.pop("slot"): row for row in map(json.loads, some)}
            embedder, present = record.crops.vectors_of(gallery_id, list(labels))
            if present and embedder != entry.embedding_fingerprint:
                raise RecordUnavailable(f"gallery {entry.name} was reindexed during the export")
            for crop in present:
                path = None
                if content := read_picture(crop.record):
                    path = f"images/{crop.record.crop_id}.{ENDINGS[crop.record.content_type or '']}"
                    packed.writestr(_entry(path), content)
                    pictures += 1
                writer.writerow({"path": path, **labels[crop.record.slot]})
                vectors.write(np.asarray(crop.vector, "<f4").tobytes())
                crops += 1
        manifest.flush()
        vectors.flush()
        if manifest.tell() > MAX_EXPORTED_BYTES:
            raise GalleryConflict(
                f"the labels of gallery {entry.name!r} have over {MAX_EXPORTED_BYTES:,} bytes, and "
                "no import reads more; keep it by gmn backup, which has no such limit"
            )
        _add_file(packed, folder / MANIFEST)
        _add_file(packed, folder / VECTORS, _npy_header(crops, entry.dimension or 0))
        description = ExportDescription(
            format=FORMAT,
            gallery=entry.name,
            settings=asdict(entry.settings),
            version=entry.version,
            embedding_fingerprint=entry.embedding_fingerprint,
            crops=crops,
            pictures=pictures,
            created_at=created_at,
            expires_at=expires_at,
        )
        packed.writestr(_entry(DESCRIPTION), description.model_dump_json(indent=1))
    for name in (ROWS, MANIFEST, VECTORS):
        (folder / name).unlink()
    return description


def read_rows(packed: zipfile.ZipFile) -> Iterator[dict[str, str]]:
    """Yield the rows of the manifest of an export."""
    with packed.open(MANIFEST) as file:
        yield from csv.DictReader(io.TextIOWrapper(file, "utf-8", newline=""))


def count_in_export(path: Path, crop_ids: set[str], is_person: Callable[[str], bool]) -> int:
    """Return how many crops of an export are among some or have the name of a person."""
    with zipfile.ZipFile(path) as packed:
        return sum(
            row["crop_id"] in crop_ids or is_person(row["identity"]) for row in read_rows(packed)
        )


def _write_rows(path: Path, reader: Reader, gallery_id: int, between: Callable[[], object]) -> None:
    with path.open("wb") as file:
        for page in read_pages(reader, gallery_id):
            between()
            file.writelines(to_json(_describe_crop(crop)) + b"\n" for crop in page)


def _describe_crop(crop: StoredCrop) -> dict[str, Any]:
    metadata = None if crop.metadata is None else to_json(as_dict(crop.metadata)).decode()
    return {
        "slot": crop.slot,
        **labels_of(crop),
        "metadata": metadata,
        **{name: getattr(crop, name) for name in EXPORTED},
    }


def _add_file(packed: zipfile.ZipFile, path: Path, header: bytes = b"") -> None:
    with packed.open(_entry(path.name), "w", force_zip64=True) as added, path.open("rb") as file:
        added.write(header)
        shutil.copyfileobj(file, added, MEBIBYTE)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = 0o600 << 16
    return entry


def _npy_header(count: int, dimension: int) -> bytes:
    header = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (count, dimension)}
    np.lib.format.write_array_header_1_0(header, shape)  # type: ignore[no-untyped-call]
    return header.getvalue()
