"""`gmn store copy`: galleries come into another record whole, or not at all."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sqlite3
from collections import Counter

import pytest
import redis
from service.record.snapshot_file import write_snapshot

import gmn
from service.ops.data_directory import lock_data_directory, snapshot_name
from service.record import copying
from service.record.keys import KINDS, ApiKey, unpacked
from service.record.picture_folder import PictureFolder
from service.record.record import open_redis, open_sqlite
from service.record.values import GallerySettings, Snapshot
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop, without_picture

CROPS = 6
VALUES = b"gmn:v:"
CROP_KEYS = VALUES + KINDS[b"crop"] + b"*"


@pytest.fixture
def server(redis_record, monkeypatch):
    redis_record.ask("FLUSHALL")
    for name in ("GMN_REDIS_URL", "GMN_IMAGES_URL"):
        monkeypatch.delenv(name, raising=False)
    return redis_record


def fill(record, data_dir, pictures=None):
    """A gallery with deletions, merges, a calibration and a snapshot, beside an empty one."""
    record.galleries.create("default", EMBEDDER, GallerySettings())
    settings = GallerySettings(retention_days=9, calibration="on")
    number = record.galleries.create("lobby", EMBEDDER, settings).gallery_id
    crops = [new_crop(n, "ab"[n % 2]) for n in range(CROPS)] + [without_picture(9, identity=None)]
    kept = crops
    if pictures is not None:
        pictures.put(number, {one.record.crop_id: one.picture for one in crops[:CROPS]})
        kept = [type(crop)(crop.record, crop.vector, None) for crop in crops]
    record.crops.enroll(number, EMBEDDER, kept)
    path = data_dir / snapshot_name(number, "s1")
    header = write_snapshot(path, crops)
    size = path.stat().st_size
    snapshot = Snapshot("s1", number, 1, EMBEDDER, header.crops, size, header.sha256, NOON)
    record.snapshots.keep(snapshot)
    record.crops.remove(number, [crops[0].record.crop_id])
    assert record.identities.rename(number, "b", "a").merge_id
    record.calibrations.add_searches(number, "mnet", [("x", b"1"), ("y", b"2")])
    assert record.calibrations.publish(number, "mnet", "learned", 0)
    record.keys.add(ApiKey("k1", "0" * 64, ("query",), "lobby", "", NOON))
    record.runtimes.keep_first(EMBEDDER, "torch")
    return [crop.record.crop_id for crop in crops]


@pytest.fixture
def source(server, tmp_path):
    """A data directory with SQLite; answers the ids of its crops."""
    (tmp_path / "data").mkdir()
    record = open_sqlite(tmp_path / "data" / "galleries.sqlite3")
    ids = fill(record, tmp_path / "data")
    record.close()
    return ids


def copy(tmp_path, to, into="new", *more):
    places = ("--data-dir", str(tmp_path / "data"), "--into", str(tmp_path / into))
    return gmn.run(["store", "copy", "--to", to, *places, *map(str, more)])


def contents(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "galleries.sqlite3")) as file:
        return file.execute("SELECT * FROM entries").fetchall()


def test_a_gallery_comes_over_with_all_that_belongs_to_it(server, tmp_path, source, capsys):
    before = contents(tmp_path)
    assert copy(tmp_path, server.url) == 0
    assert "lobby: 6 crops are copied, and equal" in capsys.readouterr().out
    assert contents(tmp_path) == before
    assert copy(tmp_path, server.url) == 0
    assert "lobby: 6 crops were copied before, and are equal" in capsys.readouterr().out
    old = open_sqlite(tmp_path / "data" / "galleries.sqlite3")
    new = open_redis(server.url)
    (default, lobby) = new.galleries.all()
    (_, there) = old.galleries.all()
    assert (default.name, lobby.version, lobby.crops) == ("default", there.version, there.crops)
    assert (lobby.settings, lobby.removals) == (there.settings, there.removals)
    number = lobby.gallery_id
    assert new.crops.removed_among(number, source) == source[:1]
    assert [new.crops.picture(number, one) for one in source] == [
        old.crops.picture(there.gallery_id, one) for one in source
    ]
    vectors = [(one.label.crop_id, one.vector.tobytes()) for one in new.crops.vectors(number)]
    assert vectors == [
        (one.label.crop_id, one.vector.tobytes()) for one in old.crops.vectors(there.gallery_id)
    ]
    assert new.calibrations.published(number) == old.calibrations.published(there.gallery_id)
    new.calibrations.add_searches(number, "mnet", [("x", b"3")])
    assert new.calibrations.searches(number, "mnet") == [b"2", b"3"]
    assert (new.keys.all(), new.runtimes.get(EMBEDDER)) == (old.keys.all(), "torch")
    (snapshot,) = new.snapshots.all(number)
    files = [snapshot_name(one, "s1") for one in (number, there.gallery_id)]
    assert (tmp_path / "new" / files[0]).read_bytes() == (tmp_path / "data" / files[1]).read_bytes()
    assert snapshot.gallery_id == number
    assert not [one for one in new.unneeded_files.all() if one.startswith("snapshots")]
    (merge,) = new.identities.merges(number)
    assert new.identities.undo_merge(number, merge.merge_id).restored_identity == "b"
    assert [one.identity for one in new.people.page(number, "", 9)] == ["a", "b"]
    # Neither what was filled nor what held it is left.
    assert server.ask("ZCOUNT", "gmn:order", "-inf", "+inf")
    assert not [one for one in server.ask("ZRANGE", "gmn:order", 0, -1) if b"garbage" in one]
    for record in (old, new):
        record.close()


def test_a_record_in_redis_leaves_its_images_at_another_place(
    server, tmp_path, monkeypatch, capsys
):
    (tmp_path / "data").mkdir()
    folder = PictureFolder((tmp_path / "old images").as_uri())
    record = open_redis(server.url)
    ids = fill(record, tmp_path / "data", folder)
    record.close()
    monkeypatch.setenv("GMN_REDIS_URL", server.url)
    other = server.url[:-1] + "1"
    images = tmp_path / "images"
    assert copy(tmp_path, server.url) == 2
    assert "is the record in GMN_REDIS_URL itself" in capsys.readouterr().err
    assert copy(tmp_path, other, "new", "--to-images", images.as_uri()) == 2
    assert "the picture of crop" in capsys.readouterr().err
    monkeypatch.setenv("GMN_IMAGES_URL", (tmp_path / "old images").as_uri())
    assert copy(tmp_path, other, "new", "--to-images", images.as_uri()) == 0
    assert f"GMN_IMAGES_URL={images.as_uri()} gmn serve" in capsys.readouterr().out
    new = open_redis(other)
    number = new.galleries.all()[1].gallery_id
    names = {one.name for one in (images / str(number)).iterdir()}
    assert names == {*ids[1:CROPS], *(f"{one}.1.f32" for one in ids[1:])}
    with redis.Redis.from_url(other, protocol=2) as client:
        assert not [
            one
            for kind in (b"!picture", b"!vector")
            for one in client.keys(VALUES + KINDS[kind] + b"*")
        ]
    new.close()


def test_what_is_not_equal_is_not_shown(server, tmp_path, source, monkeypatch, capsys):
    def put(self, gallery_id, files):
        written(self, gallery_id, {name: one + b"x" for name, one in files.items()})

    written = PictureFolder.put
    monkeypatch.setattr(PictureFolder, "put", put)
    images = (tmp_path / "images").as_uri()
    assert copy(tmp_path, server.url, "new", "--to-images", images) == 2
    assert f"crop {source[1]}" in capsys.readouterr().err
    new = open_redis(server.url)
    assert [one.name for one in new.galleries.all()] == ["default"]
    new.close()
    assert not server.ask("KEYS", CROP_KEYS)
    monkeypatch.undo()
    assert copy(tmp_path, server.url, "new", "--to-images", images) == 0


@pytest.mark.parametrize("step", ["replace_crops", "_require_equal"])
def test_what_another_process_removed_meanwhile_is_not_shown(
    server, tmp_path, source, monkeypatch, capsys, step
):
    do = getattr(copying, step)
    passages = itertools.count(1)

    def open_meanwhile(*args):
        done = None if step == "replace_crops" else do(*args)
        # The second gallery has crops.
        if next(passages) == 2:
            open_redis(server.url).close()
        return do(*args) if step == "replace_crops" else done

    monkeypatch.setattr(copying, step, open_meanwhile)
    assert copy(tmp_path, server.url) == 2
    assert "another process has opened the target" in capsys.readouterr().err
    new = open_redis(server.url)
    assert [one.name for one in new.galleries.all()] == ["default"]
    new.close()
    monkeypatch.undo()
    assert copy(tmp_path, server.url) == 0


def test_a_copy_that_was_killed_shows_nothing_and_the_next_one_leaves_nothing_of_it(
    server, tmp_path, source, monkeypatch
):
    passages = itertools.count(1)

    def kill_at_the_second(*_):
        if next(passages) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if not child:
        # When everything is there, and the first gallery is shown.
        monkeypatch.setattr(copying, "_require_equal", kill_at_the_second)
        copy(tmp_path, server.url)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert server.ask("KEYS", CROP_KEYS)
    new = open_redis(server.url)
    assert [one.name for one in new.galleries.all()] == ["default"]
    new.close()
    # Also where no copy follows.
    assert not server.ask("KEYS", CROP_KEYS)
    assert copy(tmp_path, server.url) == 0

    def kinds() -> Counter:
        return Counter(
            unpacked(one.removeprefix(VALUES)).split(b"\0")[0]
            for one in server.ask("KEYS", "gmn:v:*")
        )

    after_both = kinds()
    server.ask("FLUSHALL")
    (tmp_path / "new" / "redis.acknowledged").unlink()
    assert copy(tmp_path, server.url) == 0
    # Files of what was cut off are removed at the next start of a service.
    assert set(after_both - kinds()) == {b"unneeded file"}


def test_a_target_with_another_gallery_of_the_name_is_refused(server, tmp_path, source, capsys):
    record = open_redis(server.url)
    number = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
    record.crops.enroll(number, EMBEDDER, [new_crop(1)])
    record.close()
    held = set(server.ask("KEYS", "gmn:v:*"))
    assert copy(tmp_path, server.url) == 2
    assert "gallery lobby: the target has another one" in capsys.readouterr().err
    assert set(server.ask("KEYS", "gmn:v:*")) == held


def test_neither_record_may_be_in_use(server, tmp_path, source, capsys):
    for place in ("data", "new"):
        with lock_data_directory(tmp_path / place, shared=True):
            assert copy(tmp_path, server.url) == 2
        assert f"{place}: another process is serving it" in capsys.readouterr().err
    with redis.Redis.from_url(server.url, client_name="gmn", protocol=2) as client:
        client.ping()
        assert copy(tmp_path, server.url) == 2
    assert "--to: a service is connected" in capsys.readouterr().err
    assert copy(tmp_path, server.url.replace("//", "//gmn:secret@")) == 2
    assert "--to-password-file" in capsys.readouterr().err
