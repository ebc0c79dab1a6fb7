"""Copies of moved rows in the free space of pages are overwritten, and nothing else is."""

import contextlib
import random
import sqlite3
import subprocess
import sys

import pytest

from service.record import database
from service.record.wiping import PAGE_BYTES, CopiedFrames, PageFile, free_spans
from tests.service.gallery.new_crops import enroll, new_crop, open_record

ROWS = 6000
DELETED = 1500
LOG = "record.sqlite3-wal"


def _marker(number):
    return f"row-{number:05}-" + "x" * (number % 90)


@pytest.fixture
def connection(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / "file", isolation_level=None)) as opened:
        for pragma in ("page_size = 4096", *database.PRAGMAS):
            opened.execute(f"PRAGMA {pragma}")
        opened.execute("CREATE TABLE t (key INTEGER PRIMARY KEY, text TEXT)")
        opened.execute("CREATE INDEX texts ON t (text)")
        order = list(range(ROWS))
        shuffled = random.Random(3)
        shuffled.shuffle(order)
        opened.execute("BEGIN")
        for number in order:
            opened.execute("INSERT INTO t VALUES (?, ?)", (number * 7919 % 10007, _marker(number)))
        opened.executemany("DELETE FROM t WHERE text = ?", [(_marker(n),) for n in order[:DELETED]])
        opened.execute("COMMIT")
        yield opened, order[:DELETED]


def _left(path, numbers):
    content = path.read_bytes()
    return sum(f"row-{number:05}-".encode() in content for number in numbers)


def test_copies_of_deleted_rows_are_overwritten_and_all_others_stay(tmp_path, connection):
    opened, deleted = connection
    path = tmp_path / "file"
    rows = opened.execute("SELECT * FROM t ORDER BY key").fetchall()
    _, _, copied = opened.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    changed = CopiedFrames(tmp_path / "file-wal").new_pages(copied)
    opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    assert len(changed) == path.stat().st_size // PAGE_BYTES
    assert _left(path, deleted) > 0, "SQLite leaves no copies any more: this is needed no longer"
    file = PageFile(path)
    assert file.wipe(changed) > 0
    assert _left(path, deleted) == 0
    assert file.wipe(changed) == 0
    with contextlib.closing(sqlite3.connect(path)) as fresh:
        assert fresh.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert fresh.execute("SELECT * FROM t ORDER BY key").fetchall() == rows
    # Another connection goes on with the pages in its memory.
    assert opened.execute("SELECT * FROM t ORDER BY key").fetchall() == rows
    opened.execute("INSERT INTO t VALUES (20000, 'new')")
    assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_pages_that_are_no_trees_are_left_as_they_are(tmp_path):
    path = tmp_path / "file"
    content = bytes([0, 0, 0, 7]) + b"overflow" * 511 + b"tail"
    path.write_bytes(content)
    with contextlib.closing(PageFile(path)) as file:
        assert file.wipe([1, 2]) == 0
    assert path.read_bytes() == content


def test_a_damaged_page_is_read_to_an_end():
    # A free block that names itself, and cells that begin before their pointers end.
    page = bytearray(PAGE_BYTES)
    page[:8] = bytes([13, 0x0F, 0x00, 0xFF, 0xFF, 0x00, 0x10, 0])
    page[0x0F00:0x0F04] = bytes([0x0F, 0x00, 0x00, 0x20])
    assert list(free_spans(bytes(page), is_first=False)) == [(0x0F04, 0x0F20)]
    assert list(free_spans(bytes(page[:100]), is_first=False)) == []


@pytest.fixture
def wiped(monkeypatch):
    counts = []
    wipe = PageFile.wipe

    def count(file, pages):
        counts.append(len(pages))
        return wipe(file, pages)

    monkeypatch.setattr(PageFile, "wipe", count)
    return counts


def test_a_log_is_emptied_once_it_is_large_and_when_the_record_is_closed(
    record, gallery, tmp_path, monkeypatch, wiped
):
    monkeypatch.setattr(database, "LOG_BYTES", 200_000)
    log = tmp_path / LOG
    sizes = []
    for number in range(30):
        enroll(record, gallery, new_crop(number))
        sizes.append(log.stat().st_size)
    assert 0 in sizes
    assert max(sizes) < 300_000
    monkeypatch.setattr(database, "LOG_BYTES", 4_000_000)
    enroll(record, gallery, new_crop(40))
    assert log.stat().st_size > 0
    wiped.clear()
    record.close()
    assert sum(wiped) > 0


def test_a_kill_before_the_wiping_is_made_up_for_by_the_next_start(
    record, gallery, tmp_path, monkeypatch, wiped
):
    with monkeypatch.context() as killed, open_record(tmp_path) as other:
        killed.setattr(database.Database, "_empty_log", lambda _: None)
        enroll(other, gallery, new_crop(1))
    wiped.clear()
    with open_record(tmp_path):
        assert sum(wiped) > 0


def test_a_long_read_makes_no_commit_look_at_all_of_the_log_again(record, gallery, tmp_path, wiped):
    log = tmp_path / LOG
    ids = [enroll(record, gallery, new_crop(number))[0] for number in range(40)]
    with open_record(tmp_path) as other, other.database.read() as reader:
        assert reader.value("SELECT count(*) FROM crops") == 40
        wiped.clear()
        for crop_id in ids[:20]:
            record.crops.remove(gallery, [crop_id])
        assert log.stat().st_size > 0
        held_up = sum(wiped)
    record.crops.remove(gallery, [ids[30]])
    assert log.stat().st_size == 0
    # The pages that the read held up are wiped, each frame of the log once.
    assert sum(wiped) > held_up
    assert max(wiped[1:-1]) < 30


READS = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT count(*) FROM crops").fetchone()[0])
connection.close()
"""


def test_another_process_that_ends_leaves_the_log_of_an_open_record(record, gallery, tmp_path):
    """It would delete the log if this process had lost its locks by closing a file."""

    def count_elsewhere():
        command = [sys.executable, "-c", READS, str(tmp_path / "record.sqlite3")]
        return int(subprocess.check_output(command))

    log = tmp_path / LOG
    ids = enroll(record, gallery, new_crop(1), new_crop(2))
    record.crops.remove(gallery, ids[:1])
    with open_record(tmp_path) as other:
        enroll(other, gallery, new_crop(3))
    before = log.stat().st_ino
    assert count_elsewhere() == 2
    assert log.exists()
    assert log.stat().st_ino == before
    enroll(record, gallery, new_crop(4))
    assert count_elsewhere() == 3
