"""A snapshot's file: whole or not there, every byte of it checked, and nobody left in it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from service.record.snapshot_file import (
    read_snapshot,
    remove_from_snapshot,
    snapshot_header,
    write_snapshot,
)

from service.errors import DamagedSnapshot, StorageFailed
from service.record.values import ArchivedCrop, StoredCrop

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def _crop(number: int) -> ArchivedCrop:
    image = b"picture of %d " % number * 40
    record = StoredCrop(
        row_id=number,
        crop_id=f"crop{number}",
        identity=f"person-{number}",
        camera=None,
        captured_at=NOON,
        external_id=None,
        metadata={"n": number},
        sha256="0" * 64,
        content_type="image/png",
        image_bytes=len(image),
        created_at=NOON,
    )
    vector = np.full(8, number, np.float32)
    return ArchivedCrop(record, vector, image if number % 2 else None)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "snapshots" / "s.gmn"
    write_snapshot(path, map(_crop, range(20)))
    return path


def test_what_was_written_is_read(file):
    crops = list(read_snapshot(file))
    assert [crop.record for crop in crops] == [_crop(n).record for n in range(20)]
    assert [crop.picture for crop in crops] == [_crop(n).picture for n in range(20)]
    assert crops[3].vector.tolist() == [3.0] * 8


def test_whoever_is_taken_out_leaves_no_byte_behind(file):
    header = remove_from_snapshot(file, ["crop7", "crop8", "unknown"])
    assert header.crops == 18
    assert snapshot_header(file) == header
    assert {7, 8}.isdisjoint(crop.record.row_id for crop in read_snapshot(file))
    held = file.read_bytes()
    assert b"person-7" not in held
    assert b"picture of 7 " not in held
    assert b"person-9" in held


def test_one_changed_byte_of_a_crop_is_found(file):
    held = file.read_bytes()
    place = held.index(b"picture of 5 ")
    file.write_bytes(held[:place] + b"P" + held[place + 1 :])
    with pytest.raises(DamagedSnapshot, match="crop5 is not what was written"):
        list(read_snapshot(file))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_a_file_that_was_cut_off_is_refused(file, share):
    held = file.read_bytes()
    file.write_bytes(held[: int(len(held) * share)])
    with pytest.raises(DamagedSnapshot, match="nothing was changed"):
        list(read_snapshot(file))


def test_a_file_that_is_gone_is_named(tmp_path):
    with pytest.raises(DamagedSnapshot, match=r"s\.gmn"):
        list(read_snapshot(tmp_path / "s.gmn"))


def test_a_copy_that_was_interrupted_leaves_nothing(tmp_path):
    def interrupted():
        yield _crop(1)
        raise OSError("no space left")

    with pytest.raises(StorageFailed, match="no space left"):
        write_snapshot(tmp_path / "s.gmn", interrupted())
    assert list(tmp_path.iterdir()) == []
