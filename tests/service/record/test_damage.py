"""Damage of a record's files is named, and what holds is recovered."""

import contextlib
import shutil
import sqlite3

import numpy as np
import pytest

import gmn
from service.errors import DamagedRecord
from service.ops.audit import AuditLog
from service.record.keys import ApiKey
from service.record.record import Record
from service.record.recovery import recover
from service.record.values import GallerySettings
from service.record.verify import inspect, verify
from tests.service.gallery.new_crops import (
    EMBEDDER,
    NOON,
    OTHER_EMBEDDER,
    enroll,
    listed,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)
from tests.service.record.filled import contents, fill_record, flip
from tests.service.record.new_searches import WEEK, new_search

LOBBY = 20
YARD = 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with open_record(folder) as record:
        settings = GallerySettings(retention_days=30)
        lobby = record.galleries.create("lobby", EMBEDDER, settings).gallery_id
        yard = new_gallery(record, "yard")
        crops = (new_crop(n, f"person {n % 3}") for n in range(LOBBY + 1))
        first, *_ = enroll(record, lobby, *crops)
        enroll(record, yard, *(new_crop(100 + n) for n in range(YARD)))
        record.crops.remove(lobby, [first])
        record.keys.add(ApiKey("door", "0" * 64, ("query",), None, "", NOON))
        record.kept.keep(lobby, [(new_search(), b"picture")], 10)
    return folder


@pytest.fixture
def data_dir(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def everything(folder):
    """Read every crop by gallery, with its vector and picture, but for slots; and the keys."""
    found = {}
    with open_record(folder) as record:
        for gallery in record.galleries.all():
            number = gallery.gallery_id
            vectors = {
                vector.record.crop_id: vector.vector.tolist()
                for vector in record.crops.vectors(number)
            }
            found[gallery.name] = {
                crop.crop_id: (
                    (crop.identity, crop.metadata, crop.created_at),
                    vectors[crop.crop_id],
                    record.crops.picture(number, crop.crop_id),
                )
                for crop in listed(record, number)
            }
        found["keys"] = record.keys.all()
        found["searches"] = record.kept.page(1, WEEK, None, 9)
    return found


def test_a_whole_record_is_said_to_be_whole(data_dir):
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    found = verify(data_dir)
    assert found.damage == []
    counts = {gallery.name: gallery.whole for gallery in found.galleries.values()}
    assert counts == {"lobby": LOBBY, "yard": YARD}
    assert {path: path.read_bytes() for path in before} == before


def test_a_crop_that_is_removed_while_it_is_checked_is_no_damage(data_dir):
    with open_record(data_dir) as record, inspect(data_dir) as inspection:
        removed = listed_ids(record, 1)[3]
        record.crops.remove(1, [removed])
        whole = [crop["crop_id"] for crop, _ in inspection.crops()]
        assert removed not in whole
        assert len(whole) == LOBBY + YARD - 1
        assert inspection.found.damage == []


def test_a_damaged_crop_is_named_and_told_to_be_lost_with_its_person(data_dir, tmp_path):
    with open_record(data_dir) as record:
        enroll(record, 1, new_crop(50, "somebody"))
    flip(data_dir / "vectors-1-0.f32", new_crop(50).vector.tobytes())
    lobby, _ = recover(data_dir, tmp_path / "new").galleries
    assert (lobby.whole, len(lobby.lost)) == (LOBBY, 1)
    assert verify(tmp_path / "new").damage == []
    assert len(everything(tmp_path / "new")["lobby"]) == LOBBY
    with open_record(tmp_path / "new") as record:
        assert record.people.counts(1, ["somebody"]) == {}


def test_a_gallery_is_created_where_the_number_of_the_next_one_was_damaged(data_dir, tmp_path):
    with contextlib.closing(sqlite3.connect(data_dir / "record.sqlite3")) as file:
        file.create_function("row_crc", -1, lambda *_: 0, deterministic=True)
        file.execute("UPDATE record SET value = 7 WHERE name = 'next_gallery'")
        file.commit()
    recover(data_dir, tmp_path / "new")
    with open_record(tmp_path / "new") as record:
        assert new_gallery(record, "new") == 3


def test_a_recovery_takes_over_every_table_but_what_is_made_anew(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    fill_record(old)
    with open_record(old) as record:
        record.database.write(give_vectors)
        before = contents(record)
    # Its crops have tombstones too.
    (old / "deletions.log").unlink()
    done = recover(old, tmp_path / "new")
    assert done.galleries[0].damage == []
    with open_record(tmp_path / "new") as record:
        after = contents(record)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {
        *("record", "feeds", "changes", "galleries", "requests", "runtimes"),
        *("jobs", "job_problems", "calibrations", "calibration_searches", "unneeded_files"),
        "remote_indexes",
    }


def give_vectors(transaction):
    crops = transaction.rows("crops")
    vectors = {crop["slot"]: (crop["crop_id"], np.ones(4, np.float32)) for crop in crops}
    transaction.change("DELETE FROM checksums")
    transaction.write_vectors(1, 0, vectors)
    transaction.change("UPDATE galleries SET dimension = 4, next_slot = 41")
    seen_at = "coalesce(captured_at, created_at)"
    transaction.change(f"UPDATE crops SET metadata = '{{}}', inside = 1, seen_at = {seen_at}")


@pytest.mark.parametrize("left", ["nothing", "its beginning", "zeros"])
def test_a_record_that_is_gone_is_named_and_asks_for_a_key_once_recovered(
    data_dir, tmp_path, capsys, left
):
    path = data_dir / "record.sqlite3"
    size = path.stat().st_size
    if left == "nothing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if left == "its beginning" else bytes(size))
    with pytest.raises(DamagedRecord, match="gmn store recover"):
        Record(data_dir)
    assert gmn.run(["store", "verify", "--data-dir", str(data_dir)]) == 1
    told = capsys.readouterr().out
    assert "the record cannot be read" in told
    done = recover(data_dir, tmp_path / "new")
    assert done.unread == ["the record"]
    with open_record(tmp_path / "new") as record:
        # Its keys are lost, so that nobody is let in until there is a new one.
        assert record.keys.all() == []
        assert record.keys.asked_for


def test_a_recovered_key_of_the_audit_log_can_be_read_by_its_owner_alone(data_dir, tmp_path):
    with AuditLog(data_dir) as audit:
        audit.record("begun")
    into = tmp_path / "new"
    into.mkdir(mode=0o755)
    assert gmn.run(["store", "recover", "--data-dir", str(data_dir), "--into", str(into)]) == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in into.glob("audit*")}
    assert modes["audit.key"] == modes["audit.jsonl"] == 0o600


def test_a_record_that_is_no_database_is_named_by_a_backup(data_dir, tmp_path, capsys):
    (data_dir / "record.sqlite3").write_bytes(b"damage" * 1000)
    assert gmn.run(["backup", str(tmp_path / "backups"), "--data-dir", str(data_dir)]) == 2
    assert "gmn store recover" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("store", "verify"),
        ("store", "recover", "--into", "new"),
        ("store", "forget-runtime"),
        ("index", "rebuild", "lobby"),
    ],
)
def test_a_directory_without_data_is_named_and_stays_empty(tmp_path, capsys, command):
    assert gmn.run([*command, "--data-dir", str(tmp_path)]) == 2
    assert "no service has kept data there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_recovery_into_a_file_is_refused(data_dir, tmp_path, capsys):
    file = tmp_path / "new"
    file.touch()
    assert gmn.run(["store", "recover", "--data-dir", str(data_dir), "--into", str(file)]) == 2
    assert "name a new one with --into" in capsys.readouterr().err


def test_a_row_whose_json_cannot_be_parsed_is_named(data_dir):
    with contextlib.closing(sqlite3.connect(data_dir / "record.sqlite3")) as connection:
        connection.create_function("row_crc", -1, lambda *_: 0, deterministic=True)
        connection.execute("UPDATE galleries SET settings = 'no JSON'")
        connection.commit()
    damaged = pytest.raises(DamagedRecord, match="a row of galleries is not what was written")
    with open_record(data_dir) as record, damaged:
        record.galleries.all()


def test_vectors_that_go_while_a_record_is_verified_are_no_damage(record, gallery, tmp_path):
    yard = new_gallery(record, "yard")
    enroll(record, gallery, new_crop(1))
    enroll(record, yard, new_crop(2))
    record.staged.begin(gallery, OTHER_EMBEDDER)
    record.staged.add(gallery, {1: np.ones(4, np.float32)})
    with inspect(tmp_path) as inspection:
        record.staged.switch(gallery)
        record.galleries.delete(yard)
        assert list(inspection.crops()) == []
        assert inspection.found.damage == []
