"""A damaged database is refused by name, checked, and recovered; nothing is silently lost."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import shutil
from pathlib import Path

import pytest
from service.record.snapshot_file import SnapshotHeader, write_snapshot
from service.record.verification import verify_file
from typer.testing import CliRunner

from model.problems import InputProblem
from service.commands.store import store as store_command
from service.errors import DamagedRecord
from service.record import verification
from service.record.record import open_sqlite
from service.record.values import CropFilter, GallerySettings, Snapshot
from tests.service.gallery.new_crops import EMBEDDER, NOON, new_crop

LOBBY = 24
YARD = 6
SNAPSHOT = "20260301T120000Z-00000000"
Everything = dict[str, list[tuple[object, ...]]]


def _everything(path: Path) -> Everything:
    """All that a store answers of its crops, as a service reads it at its start and later."""
    with contextlib.closing(open_sqlite(path)) as store:
        answer: Everything = {}
        for gallery in store.galleries.all():
            number = gallery.gallery_id
            vectors = [one.vector.tobytes() for one in store.crops.vectors(number)]
            crops = store.crops.page(number, CropFilter(), limit=999).crops
            assert len(crops) == len(vectors) == gallery.crops
            pictures = [store.crops.picture(number, crop.crop_id) for crop in crops]
            answer[gallery.name] = list(zip(crops, vectors, pictures, strict=True))
        return answer


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A data directory with two galleries, a snapshot of one, and something deleted."""
    folder = tmp_path_factory.mktemp("whole")
    with contextlib.closing(open_sqlite(folder / "galleries.sqlite3")) as store:
        lobby = store.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        yard = store.galleries.create("yard", EMBEDDER, GallerySettings()).gallery_id
        crops = [new_crop(number, identity=f"p{number % 5}") for number in range(LOBBY + 1)]
        landed = store.crops.enroll(lobby, EMBEDDER, crops).landed
        path = folder / "snapshots" / str(lobby) / f"{SNAPSHOT}.gmn"
        with store.crops.archive(lobby) as archive:
            content = write_snapshot(
                path, archive.crops, SnapshotHeader(0, "", "lobby", EMBEDDER, 1)
            )
        size = path.stat().st_size
        store.snapshots.keep(
            Snapshot(SNAPSHOT, lobby, 1, EMBEDDER, content.crops, size, content.sha256, NOON)
        )
        store.crops.remove(lobby, [landed[0].crop_id])
        store.crops.enroll(yard, EMBEDDER, [new_crop(100 + number) for number in range(YARD)])
    return folder


@pytest.fixture
def data_dir(whole, tmp_path) -> Path:
    return shutil.copytree(whole, tmp_path / "data")


def _told_or_refused(path: Path) -> Everything | InputProblem:
    try:
        return _everything(path)
    except InputProblem as problem:
        return problem


def _run(*arguments: str | Path) -> tuple[int, str]:
    done = CliRunner().invoke(store_command, [str(one) for one in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def _flip(path: Path, place: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def _place_of(path: Path, content: bytes) -> int:
    return path.read_bytes().index(content)


def test_a_whole_store_is_said_to_be_whole(data_dir):
    before = (data_dir / "galleries.sqlite3").read_bytes()
    status, said = _run("verify", "--data-dir", data_dir)
    assert status == 0, said
    assert f"gallery lobby: {LOBBY} crops as written" in said
    assert f"gallery yard: {YARD} crops as written" in said
    assert f"{SNAPSHOT}.gmn: {LOBBY + 1} crops as written" in said
    assert (data_dir / "galleries.sqlite3").read_bytes() == before


@pytest.mark.parametrize("change", ["removed", "relabelled"])
def test_what_is_changed_while_a_served_store_is_checked_is_no_damage(
    data_dir, monkeypatch, change
):
    read_contents = verification.read_contents
    with contextlib.closing(open_sqlite(data_dir / "galleries.sqlite3", alone=False)) as store:
        served = iter(range(3))

        def read_and_change(reader, at, crops, **options):
            for _ in itertools.islice(served, 1):
                if change == "removed":
                    store.crops.remove(at.gallery_id, [crop.crop_id for crop in crops[:1]])
                else:
                    store.identities.rename(at.gallery_id, crops[0].identity, "another")
            return read_contents(reader, at, crops, **options)

        monkeypatch.setattr(verification, "read_contents", read_and_change)
        found = verify_file(data_dir / "galleries.sqlite3")
        assert next(served, None) is None
    assert found.whole
    lobby = next(one for one in found.galleries if one.name == "lobby")
    assert 0 < lobby.whole < LOBBY


def test_a_bit_flipped_anywhere_is_told_or_changes_nothing(data_dir):
    """Whatever a store that opens says is what was written; else it names its file and a remedy."""
    path = data_dir / "galleries.sqlite3"
    held = path.read_bytes()
    expected = _everything(path)
    held = path.read_bytes()
    chance = random.Random(3)
    refused = 0
    for _ in range(250):
        content = bytearray(held)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
        found = _told_or_refused(path)
        assert found == expected or "galleries.sqlite3" in str(found)
        refused += isinstance(found, InputProblem)
        for more in data_dir.glob("galleries.sqlite3-*"):
            more.unlink()
    assert refused > 20


@pytest.mark.parametrize("what", ["vector", "record", "picture"])
def test_a_crop_that_is_not_what_was_written_is_named(data_dir, what):
    path = data_dir / "galleries.sqlite3"
    crop = new_crop(7)
    wanted = {
        "vector": crop.vector.tobytes(),
        "record": b'{"number":7}',
        "picture": crop.picture,
    }[what]
    _flip(path, _place_of(path, wanted))
    with pytest.raises(DamagedRecord, match=r"crop [0-9a-f/]+ is not what was written"):
        _everything(path)
    status, said = _run("verify", "--data-dir", data_dir)
    assert (status, f"gallery lobby: {LOBBY - 1} crops as written, 1 not" in said) == (1, True)
    assert f"gallery yard: {YARD} crops as written\n" in said
    assert f"gmn store recover --data-dir {data_dir} --into NEW" in said


def test_a_damaged_crop_is_recovered_from_a_snapshot_and_the_deleted_one_is_not(data_dir, tmp_path):
    path = data_dir / "galleries.sqlite3"
    new = tmp_path / "new"
    expected = _everything(path)
    _flip(path, _place_of(path, new_crop(7).vector.tobytes()))
    damaged = path.read_bytes()
    _, said = _run("recover", "--data-dir", data_dir, "--into", new)
    assert f"lobby: {LOBBY - 1} crops from the record, 1 from snapshots" in said
    assert "not recovered" not in said
    assert path.read_bytes() == damaged
    assert _told(_everything(new / "galleries.sqlite3")) == _told(expected)
    assert _run("verify", "--data-dir", new)[0] == 0


@pytest.mark.parametrize("left", ["nothing", "not even its mark", "its beginning", "zeros"])
def test_a_database_that_is_gone_is_recovered_from_its_snapshots(data_dir, tmp_path, left):
    path = data_dir / "galleries.sqlite3"
    new = tmp_path / "new"
    lobby = _told({"lobby": _everything(path)["lobby"]})
    if left in ("nothing", "not even its mark"):
        path.unlink()
        if left == "not even its mark":
            path.with_suffix(".acknowledged").unlink()
    else:
        size = path.stat().st_size
        path.write_bytes(path.read_bytes()[:100] if left == "its beginning" else bytes(size))
    with pytest.raises(DamagedRecord, match="gmn store recover"):
        open_sqlite(path)
    deleted = _deleted(data_dir, lobby)
    kept = next(iter(lobby["lobby"]))
    log = [
        {"phase": "asked", "crop_ids": [deleted]},
        # Its picture elsewhere could not be removed.
        {"phase": "failed", "crop_ids": [deleted], "problem": "storage_failed"},
        {"phase": "asked", "crop_ids": [deleted]},
        {"phase": "failed", "crop_ids": [deleted], "problem": "unknown_crop"},
        # Asked of another gallery.
        {"phase": "asked", "crop_ids": [kept]},
        {"phase": "failed", "crop_ids": [kept], "problem": "unknown_crop"},
    ]
    (data_dir / "audit.jsonl").write_text(
        "".join(json.dumps({"event": "delete_crop", **line}) + "\n" for line in log)
    )
    _, said = _run("recover", "--data-dir", data_dir, "--into", new)
    assert f"lobby: 0 crops from the record, {LOBBY} from snapshots" in said
    assert "tombstones" in said
    assert _told(_everything(new / "galleries.sqlite3")) == lobby


def test_a_log_that_was_cut_off_in_what_was_acknowledged_is_refused(data_dir):
    path = data_dir / "galleries.sqlite3"
    log = data_dir / "galleries.sqlite3-wal"
    store = open_sqlite(path)
    gallery = store.galleries.all()[0].gallery_id
    copy = data_dir / "killed"
    for number in range(50, 53):
        store.crops.enroll(gallery, EMBEDDER, [new_crop(number)])
    shutil.copytree(data_dir, copy, ignore=shutil.ignore_patterns("killed", "*-shm"))
    store.close()
    cut = copy / "galleries.sqlite3"
    log = copy / log.name
    whole = log.read_bytes()
    refused = 0
    for size in [*range(0, len(whole), 1024), len(whole) - 1]:
        log.write_bytes(whole[:size])
        with pytest.raises(DamagedRecord, match=r"galleries\.sqlite3-wal\) was cut off"):
            open_sqlite(cut)
        for more in copy.glob("*-shm"):
            more.unlink()
        refused += 1
    assert refused > 10
    shutil.copy(data_dir / "galleries.sqlite3", cut)


def test_what_is_left_of_a_log_is_served_once_the_mark_is_taken_away(data_dir):
    mark = data_dir / "galleries.acknowledged"
    store = open_sqlite(data_dir / "galleries.sqlite3")
    store.close()
    older = (data_dir / "galleries.sqlite3").read_bytes()
    store = open_sqlite(data_dir / "galleries.sqlite3")
    gallery = store.galleries.all()[1].gallery_id
    store.crops.enroll(gallery, EMBEDDER, [new_crop(70)])
    store.close()
    (data_dir / "galleries.sqlite3").write_bytes(older)
    with pytest.raises(DamagedRecord, match=r"remove galleries\.acknowledged"):
        open_sqlite(data_dir / "galleries.sqlite3")
    mark.unlink()
    assert set(_everything(data_dir / "galleries.sqlite3")) == {"lobby", "yard"}


def test_a_damaged_snapshot_is_named_and_not_taken_over(data_dir, tmp_path):
    file = next(data_dir.glob("snapshots/*/*.gmn"))
    _flip(file, _place_of(file, new_crop(9).picture))
    status, said = _run("verify", "--data-dir", data_dir)
    assert (status, "is not what was written" in said) == (1, True)
    assert "0 snapshots" in _run("recover", "--data-dir", data_dir, "--into", tmp_path / "new")[1]


def _told(found: Everything) -> dict[str, dict[str, tuple[object, ...]]]:
    """By gallery and crop, without row ids, which a new record gives anew."""
    return {
        name: {
            crop.crop_id: (crop.identity, crop.metadata, crop.created_at, vector, picture)
            for crop, vector, picture in crops
        }
        for name, crops in found.items()
    }


def _deleted(data_dir: Path, lobby: dict[str, dict[str, object]]) -> str:
    from service.record.snapshot_file import snapshot_crop_ids

    (file,) = data_dir.glob("snapshots/*/*.gmn")
    (crop_id,) = set(snapshot_crop_ids(file)) - set(lobby["lobby"])
    return crop_id
