"""Processes that write one record, and note requests and answers in a file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import numpy as np

from service.record.record import Record
from service.record.schema import CHANGES
from service.record.values import ArchivedCrop, CropFilter, StoredCrop, new_crop_id
from tests import failpoints
from tests.forked import Forked

EMBEDDER = "a" * 64
DIMENSION = 64


PROGRAM = "import tests.service.record.writers as writers; writers.main()"


def begin_writer(
    folder: Path, told: Path, gallery_id: int, seed: int, count: int, failpoint: str = ""
) -> Forked:
    """Begin a process that enrolls and removes crops `count` times.

    Args:
        told: the file in which it notes each write before and after it.
        failpoint: at which it dies, as in FAILPOINT; empty for nowhere.
    """
    arguments = [str(argument) for argument in (folder, told, gallery_id, seed, count)]
    environment = {**os.environ, failpoints.ENVIRONMENT: failpoint}
    return Forked(PROGRAM, *arguments, env=environment)


def main() -> None:
    failpoints.arm()
    folder, told, gallery_id, seed, count = sys.argv[1:]
    with contextlib.closing(Record(Path(folder))) as record, Path(told).open("ab", 0) as file:
        _write(record, file, int(gallery_id), random.Random(int(seed)), int(count))


def _write(
    record: Record, told: BinaryIO, gallery_id: int, chance: random.Random, count: int
) -> None:
    crop_ids: list[str] = []
    for _ in range(count):
        if crop_ids and chance.random() < 0.4:
            what = [crop_ids.pop(chance.randrange(len(crop_ids)))]
            told.write(_line("remove", what))
            record.crops.remove(gallery_id, what)
            told.write(_line("removed", what))
        else:
            what = [new_crop_id() for _ in range(chance.randint(1, 3))]
            told.write(_line("enroll", what))
            record.crops.enroll(gallery_id, EMBEDDER, [new_crop(name) for name in what])
            told.write(_line("enrolled", what))
            crop_ids += what


def new_crop(crop_id: str) -> ArchivedCrop:
    """Make a crop of which picture and vector can be computed from its id."""
    image = picture_of(crop_id)
    record = StoredCrop(
        row_id=0,
        crop_id=crop_id,
        identity=f"person {crop_id[-1]}",
        camera="east",
        captured_at=datetime.now(UTC),
        created_at=datetime.now(UTC),
        content_type="image/png",
        sha256=hashlib.sha256(image).hexdigest(),
        image_bytes=len(image),
    )
    return ArchivedCrop(record, vector_of(crop_id), image)


def picture_of(crop_id: str) -> bytes:
    return hashlib.sha512(crop_id.encode()).digest() * 8


def vector_of(crop_id: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(crop_id.encode()).digest()[:8])
    return np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)


def require_whole(record: Record, gallery_id: int, told: Path) -> None:
    """Check that a record holds every acknowledged crop, and no removed one."""
    asked: dict[str, set[str]] = {
        kind: set() for kind in ("enroll", "enrolled", "remove", "removed")
    }
    for line in told.read_text().splitlines():
        kind, crop_ids = json.loads(line)
        asked[kind].update(crop_ids)
    there = {crop.crop_id: crop for crop in every_crop(record, gallery_id)}

    assert asked["enrolled"] - asked["remove"] <= there.keys() <= asked["enroll"]
    assert not there.keys() & asked["removed"]

    # Reading them holds them against their checksums.
    vectors = {crop.record.crop_id: crop.vector for crop in record.crops.vectors(gallery_id)}
    assert vectors.keys() == there.keys()
    for crop_id in there:
        assert np.array_equal(vectors[crop_id], vector_of(crop_id))
        assert record.crops.picture(gallery_id, crop_id).content == picture_of(crop_id)

    entry = record.galleries.get(gallery_id)
    assert entry.crops == len(there)
    _require_zeros(record, gallery_id, {crop.row_id for crop in there.values()})
    _require_consecutive_versions(record, gallery_id, entry.version)

    gone = asked["enroll"] - there.keys()
    files = [path.read_bytes() for path in record.database.folder.glob("*")]
    for secret in [secret for crop_id in gone for secret in _secrets(crop_id)]:
        assert not any(secret in content for content in files)


def every_crop(record: Record, gallery_id: int) -> Iterator[StoredCrop]:
    after = ""
    while True:
        page = record.crops.page(gallery_id, CropFilter(), after)
        yield from page.crops
        if page.cursor is None:
            return
        after = page.cursor


def _secrets(crop_id: str) -> tuple[bytes, bytes]:
    return picture_of(crop_id)[:64], vector_of(crop_id).tobytes()


def _require_zeros(record: Record, gallery_id: int, living: set[int]) -> None:
    """Check that the vector of every slot without a crop is zeros, and that it has no checksum."""
    entry = record.galleries.get(gallery_id)
    empty = [slot for slot in range(1, entry.rows + 1) if slot not in living]
    file = record.database.vectors.open(gallery_id, entry.side, DIMENSION)
    assert not file.read(empty).any()
    kept = record.database.connection().execute("SELECT slot FROM checksums")
    assert {slot for (slot,) in kept} == living


def _require_consecutive_versions(record: Record, gallery_id: int, version: int) -> None:
    with record.database.read() as reader:
        rows = reader.rows(CHANGES, "WHERE gallery_id = ? ORDER BY seq", (gallery_id,))
    assert [row["seq"] for row in rows] == list(range(len(rows)))
    assert [row["version"] for row in rows] == list(range(version + 1))


def _line(kind: str, crop_ids: list[str]) -> bytes:
    return json.dumps([kind, crop_ids]).encode() + b"\n"
