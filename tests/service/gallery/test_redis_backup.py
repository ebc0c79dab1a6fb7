"""`gmn backup`, `gmn restore` with Redis: of one moment, and nothing deleted comes back."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest
from service.record.backup import kept_backups, write_backup
from service.record.engine import Scan
from service.record.entries import files_of, vector_name
from service.record.snapshot_file import snapshot_crop_ids, write_snapshot

import gmn
from model.problems import InputProblem
from service.errors import RecordUnavailable
from service.ops.data_directory import DATABASE_NAME, snapshot_name
from service.record.keys import ApiKey
from service.record.picture_folder import PictureFolder
from service.record.record import open_redis, open_sqlite
from service.record.restoring import put_all, restore_backup
from service.record.values import CropFilter, GallerySettings, Snapshot
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop

EVERYTHING = Scan(b"", b"\xff")


class Place:
    """A record in Redis, its data directory, and the images in that."""

    def __init__(self, server, data_dir):
        self.data_dir = data_dir
        self.images = data_dir / "images"
        self.record = open_redis(server.url)
        self.outside = self.record.engine.outside = PictureFolder(str(self.images))

    def create(self, name):
        return self.record.galleries.create(name, EMBEDDER, GallerySettings()).gallery_id

    def enroll(self, number, crops):
        """Files first, then the commit that names them."""
        side = self.record.galleries.get(number).side
        for crop in crops:
            self.outside.put(number, files_of(number, crop, side))
        kept = [replace(crop, picture=None, outside=side) for crop in crops]
        self.record.crops.enroll(number, EMBEDDER, kept)
        return [crop.record.crop_id for crop in crops]

    def remove(self, number, ids):
        self.record.crops.remove(number, ids)
        side = self.record.galleries.get(number).side
        self.outside.remove(number, [*ids, *(vector_name(one, side) for one in ids)])

    def back_up(self, folder):
        return write_backup(self.record.engine, self.data_dir, folder)

    def files(self):
        return {one.name for one in self.images.rglob("*") if one.is_file()}


def held(record, number):
    return {one.crop_id: one.identity for one in record.crops.page(number, CropFilter()).crops}


@pytest.fixture
def server(redis_record, monkeypatch):
    redis_record.ask("FLUSHALL")
    monkeypatch.delenv("GMN_BACKUP_DIR", raising=False)
    monkeypatch.setenv("GMN_REDIS_URL", redis_record.url)
    yield redis_record
    redis_record.ask("CONFIG", "SET", "maxmemory", 0)


@pytest.fixture
def place(server, tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    opened = Place(server, tmp_path / "data")
    monkeypatch.setenv("GMN_IMAGES_URL", opened.images.as_uri())
    yield opened
    opened.record.close()


def run(capsys, *arguments) -> dict:
    status = gmn.run([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return json.loads(printed.out)


def test_what_was_deleted_since_is_not_in_the_redis_that_a_backup_is_restored_to(
    server, place, tmp_path, capsys, monkeypatch
):
    record = place.record
    folder = tmp_path / "backups"
    record.galleries.group_secret()
    number = place.create("lobby")
    other = place.create("gate")
    crops = [new_crop(n, "ab"[n % 2]) for n in range(6)]
    ids = place.enroll(number, crops)
    place.enroll(other, [new_crop(9, "c")])
    path = place.data_dir / snapshot_name(number, "s1")
    header = write_snapshot(path, crops)
    kept = (header.crops, path.stat().st_size, header.sha256, NOON)
    record.snapshots.keep(Snapshot("s1", number, 1, EMBEDDER, *kept))
    for name in ("kept", "revoked"):
        record.keys.add(ApiKey(name, "0" * 64, ("query",), None, "", NOON))
    taken = run(capsys, "backup", folder, "--data-dir", place.data_dir)["path"]
    (first,) = kept_backups(folder)
    assert str(first.path) == taken
    first = first.path.rename(folder / "20260101T000000Z")
    place.remove(number, ids[:2])
    record.keys.revoke("revoked")
    record.galleries.delete(other)
    latest = record.galleries.get(number).version
    run(capsys, "backup", folder, "--data-dir", place.data_dir)
    record.close()
    server.ask("FLUSHALL")

    into = tmp_path / "new"
    monkeypatch.setenv("GMN_IMAGES_URL", (into / "images").as_uri())
    # Of Compose, where both are the volume.
    answer = run(capsys, "restore", first, "--data-dir", into, "--replaces", into)
    assert (answer["crops"], answer["left_out"]) == ({"lobby": 4}, {"lobby": 2})
    assert (answer["galleries"], answer["keys"]) == (["gate"], ["revoked"])
    restored = Place(server, into)
    assert sorted(held(restored.record, number)) == sorted(ids[2:])
    side = restored.record.galleries.get(number).side
    assert restored.files() == {*ids[2:], *(vector_name(one, side) for one in ids[2:])}
    assert [key.key_id for key in restored.record.keys.all()] == ["kept"]
    assert restored.record.galleries.get(number).version > latest
    assert not set(ids[:2]) & set(snapshot_crop_ids(into / snapshot_name(number, "s1")))
    assert not [one for one in into.iterdir() if one.name.startswith(DATABASE_NAME[:9])]
    assert gmn.run(["store", "verify", "--data-dir", str(into)]) == 0
    events = [json.loads(line)["event"] for line in (into / "audit.jsonl").read_text().splitlines()]
    assert events == ["backup", "backup", "backup", "restore_backup"]
    # The directory belongs to this record, and a backup of now shows what was deleted as well.
    third = restored.back_up(folder).path
    restored.record.close()
    server.ask("FLUSHALL")
    assert gmn.run(["store", "verify", "--data-dir", str(into)]) == 2
    assert "holds no record" in capsys.readouterr().err
    monkeypatch.setenv("GMN_IMAGES_URL", (tmp_path / "images").as_uri())
    again = run(
        capsys, "restore", first, "--data-dir", tmp_path / "again", "--replaces", tmp_path / "-"
    )
    assert (again["by"], again["crops"]) == (str(third), {"lobby": 4})
    server.ask("FLUSHALL")
    command = ["restore", str(third), "--data-dir", str(tmp_path / "last"), "--replaces", str(into)]
    assert gmn.run(command) == 0
    assert "Forget these people again" in capsys.readouterr().out


def test_a_backup_of_redis_amid_writes_is_of_one_moment(server, place, tmp_path, monkeypatch):
    number = place.create("lobby")
    at = itertools.count(1000)
    before = place.enroll(number, [new_crop(n, "before") for n in range(100)])
    reader = Place(server, place.data_dir)
    parts = []
    answer = reader.record.engine._answer
    read_files = reader.outside.get_all

    def write_after_a_part(script, *arguments):
        found = answer(script, *arguments)
        if script is reader.record.engine._scripts["copy"] and len(parts) < 20:
            parts.append(found)
            ids = place.enroll(number, [new_crop(next(at), "x"), new_crop(next(at), "y")])
            if len(parts) % 2:
                place.remove(number, [*ids, before.pop()])
        return found

    def remove_before_files_are_read(*arguments):
        place.remove(number, [before.pop()])
        return read_files(*arguments)

    monkeypatch.setattr(reader.record.engine, "_answer", write_after_a_part)
    monkeypatch.setattr(reader.outside, "get_all", remove_before_files_are_read)
    # It is read through: a crop without its files, or with a part of its keys, is refused.
    try:
        backup = reader.back_up(tmp_path / "backups")
    except InputProblem as problem:
        raise AssertionError("a backup amid writes is not of one moment") from problem
    assert parts
    copy = open_sqlite(backup.path / DATABASE_NAME)
    crops = held(copy, number)
    names = Counter(crops.values())
    assert names["x"] == names["y"] > 0
    assert {crop_id for crop_id, name in crops.items() if name == "before"} == set(before)
    # Commits note no more what they change.
    assert server.ask("EXISTS", "gmn:changed") == 0
    copy.close()
    reader.record.close()


def test_a_backup_has_every_entry_of_a_full_redis(server, place, tmp_path):
    number = place.create("lobby")
    # Pictures and vectors inside are only looked up; here are some keys of each kind.
    place.record.crops.enroll(number, EMBEDDER, [new_crop(n) for n in range(700)])
    server.ask("CONFIG", "SET", "maxmemory", "1")
    place.record.engine.copy_to(tmp_path / "copy.sqlite3")
    copy = open_sqlite(tmp_path / "copy.sqlite3")
    for crop_id in held(copy, number):
        assert copy.crops.picture(number, crop_id) == place.record.crops.picture(number, crop_id)
    ordered = place.record.engine.scan([EVERYTHING])[0]
    values = [one for one in copy.engine.scan([EVERYTHING])[0] if not one[0].startswith(b"!")]
    assert sorted(values) == sorted(ordered)
    assert place.record.crops.remove(number, list(held(copy, number))[:5]).count == 5
    copy.close()


def test_of_two_copies_at_once_the_later_one_is_made(place, tmp_path, monkeypatch):
    place.enroll(place.create("lobby"), [new_crop(n) for n in range(50)])
    engine = place.record.engine
    later = tmp_path / "later.sqlite3"
    answer = engine._answer
    parts = []

    def begin_another(script, *arguments):
        found = answer(script, *arguments)
        if script is engine._scripts["copy"]:
            parts.append(found)
            if len(parts) == 1:
                engine.copy_to(later)
        return found

    monkeypatch.setattr(engine, "_answer", begin_another)
    with pytest.raises(RecordUnavailable, match="another copy was begun"):
        engine.copy_to(tmp_path / "first.sqlite3")
    copy = open_sqlite(later)
    assert copy.galleries.all()[0].crops == 50
    copy.close()


def test_what_cannot_take_a_backup_is_refused_with_the_remedy(
    server, place, tmp_path, capsys, monkeypatch
):
    place.enroll(place.create("lobby"), [new_crop(1)])
    backup = place.back_up(tmp_path / "backups")
    arguments = ["restore", str(backup.path), "--data-dir", str(tmp_path / "new")]
    arguments += ["--replaces", str(tmp_path / "lost")]

    def refused() -> str:
        assert gmn.run(arguments) == 2
        assert not (tmp_path / "new").exists()
        return capsys.readouterr().err

    assert "holds a record; make a backup of it" in refused()
    server.ask("FLUSHALL")
    monkeypatch.delenv("GMN_IMAGES_URL")
    assert "has images of GMN_IMAGES_URL; set it" in refused()
    monkeypatch.delenv("GMN_REDIS_URL")
    assert "has images of GMN_IMAGES_URL; set it" in refused()
    (vector,) = backup.path.rglob("*.f32")
    vector.write_bytes(vector.read_bytes()[:-1] + b"!")
    monkeypatch.setenv("GMN_REDIS_URL", server.url)
    monkeypatch.setenv("GMN_IMAGES_URL", (tmp_path / "new" / "images").as_uri())
    assert "is damaged (the vector of crop" in refused()


def test_no_service_starts_on_a_restore_into_redis_that_was_cut_off(
    server, place, tmp_path, monkeypatch
):
    place.enroll(place.create("lobby"), [new_crop(1)])
    backup = place.back_up(tmp_path / "backups")
    server.ask("FLUSHALL")
    target = Place(server, tmp_path / "new")

    class Killed(BaseException):
        pass

    def killed(engine, entries):
        put_all(engine, list(entries)[:5])
        raise Killed

    monkeypatch.setattr("service.record.restoring.put_all", killed)
    with pytest.raises(Killed):
        restore_backup(backup, tmp_path / "new", tmp_path / "none", redis=target.record.engine)
    target.record.close()
    with pytest.raises(InputProblem, match="empty this Redis, and restore again"):
        open_redis(server.url)
