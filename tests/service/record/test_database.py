"""The database under attack: damage, a full disk, older copies, many writers, kills."""

from __future__ import annotations

import contextlib
import errno
import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from model.problems import InputProblem
from service.errors import DamagedRecord, StorageFailed, UnknownGallery
from service.record import database as database_module
from service.record.database import PRAGMAS, RULES_AT_ONCE, Database, _Work
from service.record.galleries import next_version
from service.record.jobs import Job
from service.record.record import Record
from service.record.schema import FORMAT, RUNTIMES
from service.record.transaction import FILE, ChangesLost, Reader, Transaction
from service.record.values import ArchivedCrop, GallerySettings, new_crop_id
from service.record.vectors import VectorFile
from tests.service.record.filled import contents, fill_record
from tests.service.record.writers import (
    EMBEDDER,
    begin_writer,
    every_crop,
    new_crop,
    picture_of,
    require_whole,
    vector_of,
)

FAILPOINTS = ("record.before-commit", "record.committed", "enroll.crop-written")
MARK = "record.acknowledged"


@pytest.fixture
def filled(tmp_path) -> Path:
    """Write a record of which every table has rows."""
    folder = tmp_path / "filled"
    folder.mkdir()
    fill_record(folder)
    return folder


def _enroll(record: Record, gallery: int) -> str:
    crop_id = new_crop_id()
    record.crops.enroll(gallery, EMBEDDER, [new_crop(crop_id)])
    return crop_id


def _new_job(gallery: int, job_id: str = "job") -> Job:
    now = datetime.now(UTC)
    return Job(job_id, gallery, "import", {}, created_at=now, updated_at=now)


def _crop_ids(record: Record, gallery: int) -> set[str]:
    return {crop.crop_id for crop in every_crop(record, gallery)}


def _is_on_disk(folder: Path, secret: bytes) -> bool:
    return any(secret in path.read_bytes() for path in folder.glob("*") if path.is_file())


def _with_flipped_bit(content: bytes, bit: int) -> bytes:
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def _what_is_told(folder: Path) -> str:
    """Read a whole record as a verification does, and return the error, or an empty text."""
    try:
        with contextlib.closing(Record(folder)) as record:
            with record.database.read() as reader:
                pages = [row[0] for row in reader.execute("PRAGMA integrity_check")]
            contents(record)
            return "" if pages == ["ok"] else pages[0]
    except (DamagedRecord, InputProblem) as error:
        return str(error)


@pytest.mark.parametrize("flips", [130, pytest.param(500, marks=pytest.mark.slow)])
def test_a_flipped_bit_anywhere_in_the_file_is_named_or_harmless(filled, flips):
    with contextlib.closing(Record(filled)) as record:
        written = contents(record)
    content = (filled / FILE).read_bytes()
    acknowledged = (filled / MARK).read_bytes()
    chance = random.Random(flips)
    named = 0
    for _ in range(flips):
        bit = chance.randrange(len(content) * 8)
        (filled / FILE).write_bytes(_with_flipped_bit(content, bit))
        (filled / MARK).write_bytes(acknowledged)
        if _what_is_told(filled):
            named += 1
        else:
            with contextlib.closing(Record(filled)) as record:
                assert contents(record) == written, f"bit {bit} is not named"
    # More than half of the file are pages that are nearly empty.
    assert flips / 5 < named < flips * 4 / 5


@pytest.mark.parametrize(
    ("written", "damaged", "sentence"),
    [
        # SQLite takes TEXU for a type, and would compare texts as numbers.
        (b"crop_id TEXT", b"crop_id TEXU", "its tables differ from those of its format"),
        (b"CREATE TABLE crops", b"CREATE\xa0TABLE crops", "malformed database schema"),
    ],
    ids=["another type", "not text"],
)
def test_a_damaged_definition_of_a_table_is_named(filled, written, damaged, sentence):
    content = (filled / FILE).read_bytes()
    (filled / FILE).write_bytes(content.replace(written, damaged, 1))
    with pytest.raises(DamagedRecord, match=sentence):
        Record(filled)


@pytest.mark.parametrize("version", [0, FORMAT + 1])
def test_a_file_of_another_format_is_refused_as_it_is(filled, version):
    with contextlib.closing(sqlite3.connect(filled / FILE)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    content = (filled / FILE).read_bytes()
    with pytest.raises(InputProblem, match=f"has format version {version}, and this program"):
        Record(filled)
    assert (filled / FILE).read_bytes() == content


def test_a_flipped_bit_in_the_log_is_named_or_harmless(record, gallery, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    for _ in range(3):
        _enroll(record, gallery)
    record.jobs.create(_new_job(gallery))
    written = contents(record)
    for path in tmp_path.glob("record.*"):
        shutil.copy(path, kept)
    log = (kept / f"{FILE}-wal").read_bytes()
    # From the first byte of the last frame that was written on, all of it was acknowledged.
    chance = random.Random(1)
    for _ in range(30):
        folder = tmp_path / "flipped"
        shutil.copytree(kept, folder)
        for path in tmp_path.glob("vectors-*"):
            shutil.copy(path, folder)
        bit = chance.randrange(len(log) * 8)
        (folder / f"{FILE}-wal").write_bytes(_with_flipped_bit(log, bit))
        if not _what_is_told(folder):
            with contextlib.closing(Record(folder)) as opened:
                assert contents(opened) == written, f"bit {bit} is not named"
        shutil.rmtree(folder)


def _run_at_once(database: Database, *rules: Callable[[Transaction], Any]) -> list[Any]:
    """Run rules in one transaction; return what became of each: its result, or its error."""

    def run(rule: Callable[[Transaction], Any]) -> Any:
        try:
            return database.write(rule)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(rules)) as threads:
        with database._write_lock:
            done = []
            for number, rule in enumerate(rules, 1):
                done.append(threads.submit(run, rule))
                while len(database._queue) < number:
                    time.sleep(0.001)
        return [future.result() for future in done]


def _keep_runtime(gallery: int, name: str) -> Callable[[Transaction], None]:
    def rule(transaction: Transaction) -> None:
        transaction.insert(RUNTIMES, {"embedder": name, "choice": name})
        transaction.write_vectors(gallery, 0, {7: (name, vector_of(name))})
        next_version(transaction, gallery, "added", [7], next_slot=7)

    return rule


def _fail_after(rule: Callable[[Transaction], None]) -> Callable[[Transaction], None]:
    def failing(transaction: Transaction) -> None:
        rule(transaction)
        raise UnknownGallery("of the rule")

    return failing


def _names(database: Database) -> list[str]:
    with database.read() as reader:
        return [row["embedder"] for row in reader.rows(RUNTIMES, "ORDER BY embedder")]


def test_a_rule_that_raises_leaves_nothing_and_those_beside_it_land(record, gallery, tmp_path):
    database = record.database
    before = Reader(database).feeds()[gallery]
    rules = [_keep_runtime(gallery, name) for name in ("a", "b", "c")]
    rules[1] = _fail_after(rules[1])
    landed, failed, last = _run_at_once(database, *rules)
    assert (landed, last) == (None, None)
    assert isinstance(failed, UnknownGallery)
    assert _names(database) == ["a", "c"]
    assert [change.version for change in Reader(database).changes(gallery, before, 9)] == [
        1,
        2,
    ]
    assert record.galleries.get(gallery).version == 2
    assert not _is_on_disk(tmp_path, vector_of("b").tobytes())


def test_a_rule_that_raises_alone_changes_nothing(record, gallery):
    feeds = Reader(record.database).feeds()
    with pytest.raises(UnknownGallery):
        record.database.write(_fail_after(_keep_runtime(gallery, "a")))
    assert Reader(record.database).feeds() == feeds
    assert _names(record.database) == []


def test_a_writer_behind_a_full_transaction_is_not_forgotten(record, gallery):
    for number in range(RULES_AT_ONCE):
        waiting = _Work(_keep_runtime(gallery, f"before {number:02}"))
        record.database._queue.append(waiting)
    record.database.write(_keep_runtime(gallery, "last"))
    assert len(_names(record.database)) == RULES_AT_ONCE + 1
    assert record.galleries.get(gallery).version == RULES_AT_ONCE + 1


def test_a_process_that_waits_writes_before_one_that_has_just_written(tmp_path):
    order = []
    with (
        contextlib.closing(Database(tmp_path)) as busy,
        contextlib.closing(Database(tmp_path)) as other,
        ThreadPoolExecutor(2) as threads,
    ):
        for _ in range(10):
            is_writing = threading.Event()
            may_end = threading.Event()
            both = threads.submit(_write_twice, busy, order, is_writing, may_end)
            assert is_writing.wait(30)
            waiting = threads.submit(other.write, lambda _: order.append("other"))
            time.sleep(0.05)
            may_end.set()
            both.result()
            waiting.result()
    assert order == ["first", "other", "second"] * 10


def _write_twice(
    database: Database, order: list[str], is_writing: threading.Event, may_end: threading.Event
) -> None:
    def first(_: Transaction) -> None:
        order.append("first")
        is_writing.set()
        may_end.wait(30)

    database.write(first)
    database.write(lambda _: order.append("second"))


def test_a_start_amid_a_commit_of_another_process_cuts_none_of_its_vectors(
    record, gallery, tmp_path, monkeypatch
):
    starting = threading.Thread(target=lambda: Record(tmp_path).close())
    write = VectorFile.write

    def start_once_written(self: VectorFile, vectors: Any) -> None:
        write(self, vectors)
        starting.start()
        # It waits for this commit.
        starting.join(0.3)

    with monkeypatch.context() as patch:
        patch.setattr(VectorFile, "write", start_once_written)
        crop_id = _enroll(record, gallery)
    starting.join()
    (crop,) = record.crops.vectors(gallery)
    assert crop.vector.tolist() == vector_of(crop_id).tolist()


def test_damage_that_is_met_on_a_later_row_is_named(record, gallery, tmp_path):
    paths = [f"imports/{number:05}" for number in range(1000)]
    record.unneeded_files.add(paths)
    record.close()
    content = bytearray((tmp_path / FILE).read_bytes())
    page = content.index(paths[-1].encode()) // 4096 * 4096
    content[page : page + 8] = bytes(8)
    (tmp_path / FILE).write_bytes(content)
    asked = "SELECT path FROM unneeded_files ORDER BY path"
    with contextlib.closing(Record(tmp_path)) as opened:
        reader = Reader(opened.database)
        with pytest.raises(DamagedRecord):
            reader.execute(asked)


def _fill_file(transaction: Transaction) -> None:
    transaction.change("CREATE TABLE large (content)")
    transaction.change("INSERT INTO large VALUES (zeroblob(4000000))")


def test_a_full_disk_amid_a_rule_loses_no_other_rule_silently(tmp_path, monkeypatch):
    monkeypatch.setattr(database_module, "PRAGMAS", (*PRAGMAS, "max_page_count = 300"))
    with contextlib.closing(Record(tmp_path)) as record:
        gallery = record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id
        rules = [_keep_runtime(gallery, "a"), _fill_file, _keep_runtime(gallery, "b")]
        told = _run_at_once(record.database, *rules)
        # SQLite ends the transaction, with the changes of the first rule.
        assert [type(error) for error in told] == [StorageFailed] * 3
        assert "nothing was stored" in str(told[0])
        assert _names(record.database) == []
        assert record.galleries.get(gallery).version == 0

        # The crops that fit are stored.
        record.database.write(_keep_runtime(gallery, "a"))
        assert _names(record.database) == ["a"]


def test_vectors_that_find_no_room_leave_no_row(record, gallery, monkeypatch):
    def fail(self: VectorFile, vectors: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(VectorFile, "write", fail)
        with pytest.raises(StorageFailed, match="No space left on device"):
            _enroll(record, gallery)
    assert record.galleries.get(gallery).crops == 0
    crop_id = _enroll(record, gallery)
    assert [crop.record.crop_id for crop in record.crops.vectors(gallery)] == [crop_id]


def _put_back(copy: Path, folder: Path) -> None:
    for path in folder.glob(f"{FILE}*"):
        path.unlink()
    for path in copy.glob(f"{FILE}*"):
        shutil.copy(path, folder)


def _copy_of(folder: Path) -> Path:
    copy = folder / "copy"
    copy.mkdir()
    for path in folder.glob(f"{FILE}*"):
        shutil.copy(path, copy)
    return copy


@pytest.mark.parametrize(
    "change",
    [_enroll, lambda record, gallery: record.jobs.create(_new_job(gallery))],
    ids=["crop", "job"],
)
def test_an_older_copy_is_refused_and_adopted_without_the_mark(record, gallery, tmp_path, change):
    first = _enroll(record, gallery)
    # As it is copied while it is open: with its log.
    copy = _copy_of(tmp_path)
    assert (copy / f"{FILE}-wal").stat().st_size
    change(record, gallery)
    record.close()
    _put_back(copy, tmp_path)
    with pytest.raises(DamagedRecord, match=r"it has \d+ commits, but \d+ were acknowledged"):
        Record(tmp_path)
    (tmp_path / MARK).unlink()
    with contextlib.closing(Record(tmp_path)) as adopted:
        assert _crop_ids(adopted, gallery) == {first}
        assert adopted.jobs.get("job") is None


def test_an_older_copy_that_went_on_is_refused(record, gallery, tmp_path):
    copy = _copy_of(tmp_path)
    _enroll(record, gallery)
    record.close()
    acknowledged = (tmp_path / MARK).read_bytes()
    _put_back(copy, tmp_path)
    (tmp_path / MARK).unlink()
    with contextlib.closing(Record(tmp_path)) as went_on:
        _enroll(went_on, gallery)
    (tmp_path / MARK).write_bytes(acknowledged)
    with pytest.raises(DamagedRecord, match="were acknowledged"):
        Record(tmp_path)


def test_a_record_that_is_gone_is_not_begun_anew(record, gallery, tmp_path):
    record.close()
    (tmp_path / FILE).unlink()
    with pytest.raises(
        DamagedRecord, match="the file is missing, but changes in it were acknowledged"
    ):
        Record(tmp_path)
    assert not (tmp_path / FILE).exists()


def test_a_damaged_entry_of_the_mark_is_left_out(record, gallery, tmp_path, caplog):
    record.close()
    content = bytearray((tmp_path / MARK).read_bytes())
    content[0] ^= 1
    (tmp_path / MARK).write_bytes(content)
    with contextlib.closing(Record(tmp_path)) as opened:
        assert opened.galleries.get(gallery).name == "lobby"
    assert "is not what was written" in caplog.text


def test_a_follower_of_an_older_copy_is_told_that_it_lost_changes(record, gallery, tmp_path):
    copy = _copy_of(tmp_path)
    _enroll(record, gallery)
    seen = Reader(record.database).feeds()[gallery]
    record.close()
    _put_back(copy, tmp_path)
    (tmp_path / MARK).unlink()
    with contextlib.closing(Record(tmp_path)) as adopted:
        with pytest.raises(ChangesLost):
            Reader(adopted.database).changes(gallery, seen, 9)
        for _ in range(3):
            _enroll(adopted, gallery)
        assert Reader(adopted.database).feeds()[gallery].seq > seen.seq
        with pytest.raises(ChangesLost):
            Reader(adopted.database).changes(gallery, seen, 9)


class _Connection:
    """A connection whose COMMIT answers with an error, once it has happened or before."""

    def __init__(self, connection: sqlite3.Connection, happens: bool) -> None:
        self._connection = connection
        self._happens = happens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
        if statement != "COMMIT":
            return self._connection.execute(statement, *values)
        if self._happens:
            self._connection.execute(statement)
        raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.parametrize("happens", [True, False])
def test_a_commit_whose_answer_is_lost_is_told_from_one_that_failed(
    record, gallery, monkeypatch, happens
):
    connection = _Connection(record.database.connection(), happens)
    refused = False
    with monkeypatch.context() as patch:
        patch.setattr(record.database, "connection", lambda: connection)
        try:
            record.database.write(_keep_runtime(gallery, "a"))
        except StorageFailed:
            refused = True
    assert refused != happens
    assert _names(record.database) == (["a"] if happens else [])
    assert record.galleries.get(gallery).version == int(happens)
    # The next one is as any.
    record.database.write(_keep_runtime(gallery, "b"))
    assert record.galleries.get(gallery).version == int(happens) + 1


def test_vectors_of_a_dimension_that_was_not_committed_leave_none_behind(
    record, gallery, tmp_path, monkeypatch
):
    connection = _Connection(record.database.connection(), happens=False)
    with monkeypatch.context() as patch:
        patch.setattr(record.database, "connection", lambda: connection)
        with pytest.raises(StorageFailed):
            _enroll(record, gallery)
    crop = new_crop(new_crop_id())
    shorter = ArchivedCrop(crop.record, crop.vector[:8], crop.picture)
    record.crops.enroll(gallery, EMBEDDER, [shorter])
    with contextlib.closing(Record(tmp_path)) as other:
        (read,) = other.crops.vectors(gallery)
        assert read.vector.tolist() == shorter.vector.tolist()


def test_a_removal_whose_vectors_cannot_be_overwritten_is_told_and_made_up(
    record, gallery, tmp_path, monkeypatch
):
    removed = _enroll(record, gallery)
    left = _enroll(record, gallery)
    secret = vector_of(removed).tobytes()

    def fail(self: VectorFile, slots: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(VectorFile, "clear", fail)
        with pytest.raises(StorageFailed, match="the crops are removed, but their vectors"):
            record.crops.remove(gallery, [removed])
    assert _crop_ids(record, gallery) == {left}
    assert _is_on_disk(tmp_path, secret)
    _enroll(record, gallery)
    assert not _is_on_disk(tmp_path, secret)


def test_a_deletion_waits_for_no_reader_and_is_off_the_disk_once_that_ends(
    record, gallery, tmp_path
):
    removed = _enroll(record, gallery)
    secret = picture_of(removed)[:64]
    database = record.database
    reads = threading.Event()
    may_end = threading.Event()

    def read_long() -> None:
        with database.read() as reader:
            reader.value("SELECT count(*) FROM crops")
            reads.set()
            may_end.wait(30)

    reading = threading.Thread(target=read_long)
    reading.start()
    assert reads.wait(10)
    began = time.monotonic()
    record.crops.remove(gallery, [removed])
    for _ in range(10):
        _enroll(record, gallery)
    # The first one alone waits a second.
    assert time.monotonic() - began < 5
    assert _is_on_disk(tmp_path, secret)
    may_end.set()
    reading.join()
    assert not _is_on_disk(tmp_path, secret)


@pytest.mark.parametrize("failpoint", FAILPOINTS)
def test_a_writer_that_is_killed_at_a_failpoint_leaves_what_was_acknowledged(
    tmp_path, gallery, record, failpoint
):
    record.close()
    told = tmp_path / "told"
    for passage in (1, 2, 9):
        writer = begin_writer(tmp_path, told, gallery, passage, 100, f"{failpoint}:{passage}")
        assert writer.wait(30) == -9
        with contextlib.closing(Record(tmp_path)) as opened:
            require_whole(opened, gallery, told)


@pytest.mark.parametrize("kills", [4, pytest.param(40, marks=pytest.mark.slow)])
def test_a_writer_that_is_killed_at_any_moment_leaves_what_was_acknowledged(
    tmp_path, gallery, record, kills
):
    record.close()
    chance = random.Random(kills)
    told = tmp_path / "told"
    for seed in range(kills):
        told.touch()
        size = told.stat().st_size
        writer = begin_writer(tmp_path, told, gallery, seed, 10_000)
        while told.stat().st_size == size:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        writer.kill()
        assert writer.wait(10) == -9
        with contextlib.closing(Record(tmp_path)) as opened:
            require_whole(opened, gallery, told)
