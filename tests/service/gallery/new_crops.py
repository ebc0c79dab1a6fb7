"""Crops for tests of the record store; none of them shows anybody."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from gmn_client.models import Snapshot
from service.record.archive import write_archive
from service.record.record import Record
from service.record.replacing import replace_crops
from service.record.values import (
    ArchivedCrop,
    CropFilter,
    GallerySettings,
    StoredCrop,
    new_crop_id,
)

EMBEDDER = "a" * 64
OTHER_EMBEDDER = "b" * 64
NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def new_crop(
    number: int, identity: str | None = "a", camera: str | None = "east", **said: Any
) -> ArchivedCrop:
    """Return a crop of which the number can be told from its image, its vector and its metadata."""
    image = b"image %d" % number
    known = {"identity": identity, "camera": camera, "captured_at": NOON}
    known |= {"metadata": {"number": number}, "crop_id": new_crop_id()}
    known |= {"created_at": datetime.now(UTC), "content_type": "image/png"}
    known |= {"sha256": hashlib.sha256(image).hexdigest(), "image_bytes": len(image)}
    record = StoredCrop(row_id=0, **(known | said))
    return ArchivedCrop(record, np.full(4, number + 0.25, np.float32), image)


def without_picture(number: int, **said: Any) -> ArchivedCrop:
    return replace(new_crop(number, content_type=None, image_bytes=0, **said), picture=None)


def described(snapshot_id: str) -> Snapshot:
    return Snapshot(
        snapshot_id=snapshot_id,
        version=1,
        embedding_fingerprint=EMBEDDER,
        crops=1,
        bytes=4096,
        sha256="0" * 64,
        created_at=NOON,
    )


def snapshot_of(crops: Sequence[ArchivedCrop], folder: Path, embedder: str = EMBEDDER) -> Path:
    (folder / "copied").mkdir()
    with open_record(folder / "copied") as record:
        gallery = new_gallery(record, embedder=embedder)
        record.crops.enroll(gallery, embedder, crops)
        write_archive(record.database, folder / "made.gmn", gallery)
    return folder / "made.gmn"


def restore_crops(
    record: Record, gallery: int, crops: Sequence[ArchivedCrop], embedder: str = EMBEDDER
) -> int:
    with tempfile.TemporaryDirectory() as folder:
        snapshot = snapshot_of(crops, Path(folder), embedder)
        return replace_crops(record.database, gallery, snapshot)


@contextlib.contextmanager
def open_record(folder: Path) -> Iterator[Record]:
    with contextlib.closing(Record(folder)) as record:
        yield record


def new_gallery(record: Record, name: str = "lobby", embedder: str = EMBEDDER) -> int:
    return record.galleries.create(name, embedder, GallerySettings()).gallery_id


def enroll(record: Record, gallery: int, *crops: ArchivedCrop) -> list[str]:
    landed = record.crops.enroll(gallery, EMBEDDER, crops).landed
    return [str(image.crop_id) for image in landed]


def listed(record: Record, gallery: int) -> Sequence[StoredCrop]:
    return record.crops.page(gallery, CropFilter()).crops


def listed_ids(record: Record, gallery: int) -> list[str]:
    return [crop.crop_id for crop in listed(record, gallery)]


def is_on_disk(folder: Path, secret: bytes) -> bool:
    return any(secret in path.read_bytes() for path in folder.rglob("*") if path.is_file())


def only(*crop_ids: str) -> CropFilter:
    return CropFilter(crop_ids=frozenset(crop_ids))
