"""The database under attack: damage, a full disk, and many writers."""

import contextlib
import fcntl
import random
import shutil
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest

from model.problems import InputProblem
from service.errors import DamagedRecord, ServiceStopping, StorageFailed, UnknownGallery
from service.opening import open_folder
from service.ops.threads import MonitoredThreadPool
from service.record import sqlite as sqlite_module
from service.record.crop_changes import put_crops, remove_crops
from service.record.galleries import next_version
from service.record.schema import FORMAT
from service.record.sqlite import PRAGMAS, SQLiteDatabase
from service.record.transaction import FILE
from service.record.vectors import VectorFile
from tests.service.gallery.new_crops import (
    enroll,
    is_on_disk,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)
from tests.service.gallery.new_jobs import new_job
from tests.service.record.filled import contents, fill_record
from tests.waiting import eventually


@pytest.fixture
def filled(tmp_path):
    folder = tmp_path / "filled"
    folder.mkdir()
    fill_record(folder)
    return folder


def _with_flipped_bit(content, bit):
    flipped = bytearray(content)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def _read(folder):
    """Read a whole record; return its contents, or None if it is named as damaged."""
    try:
        with open_record(folder) as record:
            with record.database.read() as reader:
                pages = reader.column("PRAGMA integrity_check")
            return contents(record) if pages == ["ok"] else None
    except (DamagedRecord, InputProblem):
        return None
    except ValueError:
        # Metadata that is no JSON, by which the service knows a damaged crop.
        return None


@pytest.mark.sqlite_alone
@pytest.mark.promise("damage")
@pytest.mark.parametrize("flips", [130, pytest.param(500, marks=pytest.mark.slow)])
def test_a_file_with_a_flipped_bit_is_read_or_named(filled, flips):
    content = (filled / FILE).read_bytes()
    chance = random.Random(flips)
    named = 0
    for _ in range(flips):
        flipped = _with_flipped_bit(content, chance.randrange(len(content) * 8))
        (filled / FILE).write_bytes(flipped)
        named += _read(filled) is None
    # Most bits are of labels, which have no checksum, or of empty places.
    assert flips / 20 < named < flips / 2


@pytest.mark.sqlite_alone
def test_a_flipped_bit_in_the_log_costs_the_last_commits_at_most(record, tmp_path):
    kept = tmp_path / "kept"
    kept.mkdir()
    states = [contents(record)]
    gallery = new_gallery(record)
    states.append(contents(record))
    for number in range(3):
        enroll(record, gallery, new_crop(number))
        states.append(contents(record))
    record.jobs.create(new_job("job", gallery))
    states.append(contents(record))
    for path in (*tmp_path.glob("record.*"), *tmp_path.glob("vectors-*")):
        shutil.copy(path, kept)
    log = (kept / f"{FILE}-wal").read_bytes()
    chance = random.Random(1)
    for _ in range(30):
        folder = shutil.copytree(kept, tmp_path / "flipped")
        flipped = _with_flipped_bit(log, chance.randrange(len(log) * 8))
        (folder / f"{FILE}-wal").write_bytes(flipped)
        assert _read(folder) in (None, *states)
        shutil.rmtree(folder)


@pytest.mark.sqlite_alone
@pytest.mark.parametrize(
    ("written", "damaged", "sentence"),
    [
        # SQLite takes TEXU for a type, and would compare texts as numbers.
        (b"crop_id TEXT", b"crop_id TEXU", "its tables are not those of format 2"),
        (b"CREATE TABLE crops", b"CREATE\xa0TABLE crops", "malformed database schema"),
    ],
    ids=["another type", "not text"],
)
def test_a_damaged_definition_of_a_table_is_named(filled, written, damaged, sentence):
    content = (filled / FILE).read_bytes()
    (filled / FILE).write_bytes(content.replace(written, damaged, 1))
    with pytest.raises((DamagedRecord, InputProblem), match=sentence):
        open_folder(filled)


@pytest.mark.sqlite_alone
@pytest.mark.promise("other-format")
@pytest.mark.parametrize("version", [0, FORMAT + 1])
def test_a_file_of_another_format_is_refused_as_it_is(filled, version):
    with contextlib.closing(sqlite3.connect(filled / FILE)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    content = (filled / FILE).read_bytes()
    with pytest.raises(InputProblem, match="its tables are not those of format 2"):
        open_folder(filled)
    assert (filled / FILE).read_bytes() == content


def _keep_runtime(gallery, name):
    def rule(transaction):
        transaction.insert("runtimes", {"embedder": name, "choice": name})
        transaction.write_vectors(gallery, 0, {7: (name, new_crop(ord(name[0])).vector)})
        transaction.change("UPDATE galleries SET next_slot = 8 WHERE gallery_id = ?", (gallery,))
        next_version(transaction, gallery)

    return rule


def _names(database):
    with database.read() as reader:
        return [row["embedder"] for row in reader.rows("runtimes", "ORDER BY embedder")]


def test_a_rule_that_raises_leaves_nothing_and_the_next_lands(record, gallery, tmp_path):
    def failing(transaction):
        _keep_runtime(gallery, "b")(transaction)
        raise UnknownGallery("of the rule")

    database = record.database
    assert database.write(_keep_runtime(gallery, "a")) is None
    with pytest.raises(UnknownGallery):
        database.write(failing)
    assert database.write(_keep_runtime(gallery, "c")) is None
    assert _names(database) == ["a", "c"]
    assert record.galleries.get(gallery).version == 2
    assert not is_on_disk(tmp_path, new_crop(ord("b")).vector.tobytes())


@pytest.mark.promise("several-processes")
def test_a_process_that_waits_writes_before_one_that_has_just_written(tmp_path):
    order = []
    with (
        contextlib.closing(SQLiteDatabase(tmp_path)) as busy,
        contextlib.closing(SQLiteDatabase(tmp_path)) as other,
        ThreadPoolExecutor(2) as writers,
    ):
        for _ in range(10):
            is_writing = threading.Event()
            may_end = threading.Event()
            both = writers.submit(_write_twice, busy, order, is_writing, may_end)
            assert is_writing.wait(30)
            waiting = writers.submit(other.write, lambda _: order.append("other"))
            eventually(lambda: _has_the_turn(tmp_path))
            may_end.set()
            both.result()
            waiting.result()
    assert order == ["first", "other", "second"] * 10


def _has_the_turn(folder):
    with (folder / "record.turn").open("ab") as turn:
        try:
            fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.sqlite_alone
@pytest.mark.promise("stops")
def test_a_long_write_ends_with_its_process_and_stores_nothing(record, gallery):
    endless = (
        "WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers) "
        "SELECT max(n) FROM numbers"
    )
    has_begun = threading.Event()

    def write(transaction):
        next_version(transaction, gallery)
        has_begun.set()
        transaction.value(endless)

    version = record.galleries.get(gallery).version
    pool = MonitoredThreadPool(1, "writers")
    written = pool.submit(record.database.write, write)
    assert has_begun.wait(30)
    pool.cut_off()
    with pytest.raises(ServiceStopping, match="nothing was stored"):
        written.result(30)
    pool.shutdown()
    assert record.galleries.get(gallery).version == version
    enroll(record, gallery, new_crop(1))


def _write_twice(database, order, is_writing, may_end):
    def first(_):
        order.append("first")
        is_writing.set()
        may_end.wait(30)

    database.write(first)
    database.write(lambda _: order.append("second"))


@pytest.mark.sqlite_alone
@pytest.mark.parametrize("writer", ["of this process", "of another process"])
def test_a_writer_that_waits_for_a_long_write_has_not_stalled(record, gallery, tmp_path, writer):
    is_writing = threading.Event()
    may_end = threading.Event()

    def write_long(_):
        is_writing.set()
        may_end.wait(30)

    pool = MonitoredThreadPool(1, "writers")
    with open_record(tmp_path) as other, ThreadPoolExecutor(1) as long_writes:
        writing = record if writer == "of this process" else other
        long_write = long_writes.submit(record.database.write, write_long)
        assert is_writing.wait(30)
        written = pool.submit(writing.jobs.create, new_job("job", gallery))
        time.sleep(0.5)
        assert not written.done()
        # The watchdog compares this with its limit.
        assert pool.health_check.silent_seconds() == 0.0
        may_end.set()
        long_write.result(30)
        written.result(30)
    pool.shutdown()


@pytest.mark.sqlite_alone
def test_a_start_amid_a_commit_of_another_process_cuts_none_of_its_vectors(
    record, gallery, tmp_path, monkeypatch
):
    starting = threading.Thread(target=lambda: open_folder(tmp_path).close())
    write = VectorFile.write

    def start_once_written(self, vectors):
        write(self, vectors)
        starting.start()
        # It waits for this commit.
        starting.join(0.3)

    with monkeypatch.context() as patch:
        patch.setattr(VectorFile, "write", start_once_written)
        enroll(record, gallery, crop := new_crop(1))
    starting.join()
    (read,) = record.crops.vectors(gallery)
    assert read.vector.tolist() == crop.vector.tolist()


def _temporary_files():
    opened = [path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return [path for path in opened if path.name.startswith("etilqs_")]


def test_pictures_are_stored_and_removed_without_a_temporary_file(record, gallery):
    enroll(record, gallery, *(replace(new_crop(n), picture=bytes(500_000)) for n in (1, 2)))
    more = replace(new_crop(3), picture=bytes(3_000_000))
    more = replace(more, record=replace(more.record, slot=3, inside=True))

    def change_pictures(transaction):
        remove_crops(transaction, gallery, [1])
        put_crops(transaction, gallery, [more])
        remove_crops(transaction, gallery, [2])
        return _temporary_files()

    assert record.database.write(change_pictures) == []
    assert record.crops.by_slot(gallery, [1, 2, 3]).keys() == {3}


def _fill_file(transaction):
    transaction.change("CREATE TABLE large (content)")
    transaction.change("INSERT INTO large VALUES (zeroblob(4000000))")


@pytest.mark.sqlite_alone
def test_a_full_disk_amid_a_rule_costs_no_other_rule(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_module, "PRAGMAS", (*PRAGMAS, "max_page_count = 300"))
    with open_record(tmp_path) as record:
        gallery = new_gallery(record)
        record.database.write(_keep_runtime(gallery, "a"))
        with pytest.raises(StorageFailed, match="nothing was stored"):
            record.database.write(_fill_file)
        # What fits is stored.
        record.database.write(_keep_runtime(gallery, "b"))
        assert _names(record.database) == ["a", "b"]
        assert record.galleries.get(gallery).version == 2


@pytest.mark.sqlite_alone
@pytest.mark.parametrize("remedy", ["next change", "next start"])
def test_a_removal_whose_vectors_cannot_be_overwritten_is_told_and_made_up(
    record, gallery, tmp_path, monkeypatch, remedy
):
    removed, left = enroll(record, gallery, crop := new_crop(1), new_crop(2))
    secret = crop.vector.tobytes()
    with monkeypatch.context() as patch:
        patch.setattr(VectorFile, "clear", Mock(side_effect=OSError("Input/output error")))
        with pytest.raises(StorageFailed, match="the crops are removed, but their vectors"):
            record.crops.remove(gallery, [removed])
    assert listed_ids(record, gallery) == [left]
    assert is_on_disk(tmp_path, secret)
    if remedy == "next change":
        enroll(record, gallery, new_crop(3))
    else:
        open_folder(tmp_path).close()
    assert not is_on_disk(tmp_path, secret)


@pytest.mark.sqlite_alone
def test_a_deletion_waits_for_no_reader_and_is_off_the_disk_once_that_ends(
    record, gallery, tmp_path
):
    ids = enroll(record, gallery, new_crop(1, "Ann Secret"))
    database = record.database
    reads = threading.Event()
    may_end = threading.Event()

    def read_long():
        with database.read() as reader:
            reader.value("SELECT count(*) FROM crops")
            reads.set()
            may_end.wait(30)

    reading = threading.Thread(target=read_long)
    reading.start()
    assert reads.wait(10)
    statements = []
    database.connection().set_trace_callback(statements.append)
    record.crops.remove(gallery, ids)
    for number in range(10):
        enroll(record, gallery, new_crop(number))
    database.connection().set_trace_callback(None)
    waits = [text for text in statements if text.startswith("PRAGMA busy_timeout = ")]
    # The first one alone waits a second for the reader, and not each of eleven.
    assert waits.count("PRAGMA busy_timeout = 1000") == 1
    assert waits.count("PRAGMA busy_timeout = 0") >= 10
    assert is_on_disk(tmp_path, b"Secret")
    may_end.set()
    reading.join()
    # The service calls this each second.
    database.tend()
    assert not is_on_disk(tmp_path, b"Secret")


class _Connection:
    """A connection whose COMMIT answers with an error, once it has happened or before."""

    def __init__(self, connection, happens):
        self._connection = connection
        self._happens = happens

    def __getattr__(self, name):
        return getattr(self._connection, name)

    def execute(self, statement, *values):
        if statement != "COMMIT":
            return self._connection.execute(statement, *values)
        if self._happens:
            self._connection.execute(statement)
        raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.sqlite_alone
@pytest.mark.promise("idempotency")
@pytest.mark.parametrize("happens", [True, False])
def test_a_commit_whose_answer_is_lost_is_told_from_one_that_failed(
    record, gallery, tmp_path, monkeypatch, happens
):
    connection = _Connection(record.database.connection(), happens)
    crop = new_crop(1)
    refused = False
    with monkeypatch.context() as patch:
        patch.setattr(record.database, "connection", lambda: connection)
        try:
            enroll(record, gallery, crop)
        except StorageFailed:
            refused = True
    assert refused != happens
    assert listed_ids(record, gallery) == ([crop.record.crop_id] if happens else [])
    assert record.galleries.get(gallery).version == int(happens)
    # The next one is as any; one that failed leaves nothing of its dimension.
    if not happens:
        crop = replace(crop, vector=crop.vector[:2])
        enroll(record, gallery, crop)
    with open_record(tmp_path) as other:
        (read,) = other.crops.vectors(gallery)
        assert read.vector.tolist() == crop.vector.tolist()
        enroll(other, gallery, replace(new_crop(2), vector=crop.vector))
        assert other.galleries.get(gallery).version == 2


@pytest.mark.parametrize("writes_elsewhere", [False, True])
def test_no_read_waits_for_a_writer_to_overwrite_what_was_deleted(
    record, gallery, tmp_path, writes_elsewhere
):
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    writes = threading.Event()
    may_end = threading.Event()

    is_written = threading.Event()

    def write_long(_):
        writes.set()
        may_end.wait(60)
        is_written.set()

    with open_record(tmp_path) as other:
        with other.database.read() as reader:
            reader.value("SELECT count(*) FROM crops")
            record.crops.remove(gallery, [first])
        writer = other if writes_elsewhere else record
        writing = threading.Thread(target=writer.database.write, args=(write_long,))
        writing.start()
        assert writes.wait(10)
        try:
            assert record.crops.picture(gallery, second)
            assert not is_written.is_set()
        finally:
            may_end.set()
            writing.join()
