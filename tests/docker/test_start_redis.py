"""Redis starts on what a crash left of its file: without what was left by halves, or not at all."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.service.redis_server import CONFIGURATION, START, RedisServer, redis_server
from tests.waiting import eventually

TRANSACTION = """
redis.call('INCR', 'first')
redis.call('INCR', 'second')
redis.call('SET', 'long', string.rep('x', 200))
return redis.call('INCR', 'third')
"""
COUNTED = ("first", "second", "third")


@pytest.fixture
def server():
    with redis_server() as running:
        yield running


def _file(server: RedisServer) -> Path:
    return next(server.folder.glob("appendonlydir/*.incr.aof"))


def _write(server: RedisServer) -> bytes:
    """One transaction that is acknowledged; answers what the file holds then."""
    server.ask("EVAL", TRANSACTION, 0)
    return _file(server).read_bytes()


def _counts(server: RedisServer) -> set[int]:
    return {int(server.ask("GET", name) or 0) for name in COUNTED}


def _refused(server: RedisServer) -> str:
    started = subprocess.run(
        ["sh", str(START), str(CONFIGURATION), str(server.folder), "--port", str(server.port)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert started.returncode == 1
    return started.stderr


def test_a_transaction_that_was_torn_anywhere_is_gone_and_comes_back_with_no_later_one(server):
    before = len(_write(server))
    whole = _write(server)
    server.kill()
    for end in range(before + 1, len(whole), 17):
        _file(server).write_bytes(whole[:end])
        server.start()
        assert _counts(server) == {1}, end
        _write(server)
        server.kill()
        server.start()
        assert _counts(server) == {2}, end
        server.kill()
    assert "of a write that was not acknowledged" in (server.folder / "log").read_text()


def test_a_torn_transaction_whose_end_arrived_before_its_middle_is_cut_off(server):
    before = len(_write(server))
    whole = _write(server)
    server.kill()
    hole = slice(before + 60, before + 160)
    _file(server).write_bytes(whole[: hole.start] + bytes(100) + whole[hole.stop :])
    server.start()
    assert _counts(server) == {1}


def test_a_first_start_that_was_cut_off_between_its_files_begins_anew(server):
    server.kill()
    next(server.folder.glob("appendonlydir/*.base.rdb")).unlink()
    server.start()
    assert _counts(server) == {0}
    _write(server)
    server.kill()
    next(server.folder.glob("appendonlydir/*.base.rdb")).unlink()
    assert "nothing was changed" in _refused(server)


@pytest.mark.parametrize("damaged", ["bit", "missing"])
def test_a_file_that_is_damaged_before_what_was_acknowledged_is_refused_and_left_as_it_is(
    server, damaged
):
    for _ in range(3):
        whole = _write(server)
    server.kill()
    place = whole.index(b"$6\r\nsecond")
    if damaged == "bit":
        harmed = whole[:place] + b"%" + whole[place + 1 :]
    else:
        harmed = whole[:place] + whole[place + 6 :]
    _file(server).write_bytes(harmed)
    said = _refused(server)
    assert _file(server).name in said
    assert "nothing was changed" in said
    assert "gmn restore" in said
    assert _file(server).read_bytes() == harmed


def test_a_newest_file_whose_name_did_not_arrive_is_begun_anew(server):
    _write(server)
    server.ask("BGREWRITEAOF")
    eventually(lambda: len(list(server.folder.glob("appendonlydir/*.incr.aof"))) == 1)
    eventually(lambda: _file(server).name == "appendonly.aof.2.incr.aof")
    server.kill()
    assert _file(server).stat().st_size == 0
    _file(server).unlink()
    server.start()
    assert _counts(server) == {1}
    _write(server)
    server.kill()
    server.start()
    assert _counts(server) == {2}


def test_a_base_whose_name_did_not_arrive_is_made_up_for_by_what_it_was_made_of(server):
    _write(server)
    server.kill()
    held = server.folder / "appendonlydir"
    manifest = held / "appendonly.aof.manifest"
    # As Redis leaves it between two names at the end of a rewrite.
    manifest.write_text(
        "file appendonly.aof.2.base.rdb seq 2 type b\n"
        "file appendonly.aof.1.base.rdb seq 1 type h\n"
        "file appendonly.aof.1.incr.aof seq 1 type h\n"
        "file appendonly.aof.2.incr.aof seq 2 type i\n"
    )
    (held / "appendonly.aof.2.incr.aof").touch()
    before = (held / "appendonly.aof.1.incr.aof").read_bytes()
    (held / "appendonly.aof.1.incr.aof").unlink()
    assert "appendonly.aof.1.incr.aof are gone" in _refused(server)
    (held / "appendonly.aof.1.incr.aof").write_bytes(before)
    server.start()
    assert _counts(server) == {1}


def test_a_damaged_base_is_refused(server):
    _write(server)
    server.ask("BGREWRITEAOF")
    while server.ask("INFO")["aof_rewrite_in_progress"]:
        pass
    server.kill()
    base = next(server.folder.glob("appendonlydir/*.base.rdb"))
    whole = bytearray(base.read_bytes())
    whole[len(whole) // 2] ^= 1
    base.write_bytes(whole)
    assert base.name in _refused(server)
