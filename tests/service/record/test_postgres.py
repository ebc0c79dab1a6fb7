"""The record in PostgreSQL: lost answers, machines, copies of vectors, and refusals."""

import contextlib
import gc
import threading
import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from urllib.parse import quote

import numpy as np
import psycopg
import pytest

from model.problems import InputProblem
from service.errors import GalleryConflict, InvalidField, RecordUnavailable, RecordWaits
from service.opening import open_folder
from service.ops.threads import WAITS_SINCE
from service.postgres import connection as postgres_connection
from service.postgres import database as postgres_module
from service.postgres import locks as postgres_locks
from service.postgres.acknowledged import Acknowledged, AcknowledgedState, Commit
from service.postgres.connection import PostgresConnection, examine_server
from service.postgres.dialect import number_placeholders
from service.postgres.vectors import MARK
from service.record.deletions import read_deletions
from service.record.transaction import Reader
from service.record.values import ArchivedCrop, ListFilter, RequestKey
from service.settings import Settings
from tests.engines import database_url
from tests.postgres import postgres
from tests.service.gallery.new_crops import (
    EMBEDDER,
    enroll,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)
from tests.service.gallery.new_jobs import new_job
from tests.waiting import eventually

pytestmark = pytest.mark.postgres_alone

# How many sessions have the turn of the writers of a record.
WRITING = f"""
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
AND (CAST(classid AS BIGINT) << 32) | CAST(objid AS BIGINT) = {postgres_locks.WRITERS}
"""


@pytest.fixture
def elsewhere(tmp_path):
    """Return a function that opens the test's record with another data directory."""

    @contextlib.contextmanager
    def open_there(name="other"):
        folder = tmp_path.with_name(f"{tmp_path.name}-{name}")
        with open_record(folder, tmp_path) as opened:
            yield opened

    return open_there


@pytest.mark.parametrize(
    ("statement", "text", "names"),
    [
        ("SELECT ?, ?", "SELECT $1, $2", ()),
        ("a = :a::x AND b = :b AND c = :a", "a = $1::x AND b = $2 AND c = $1", ("a", "b")),
        ("a LIKE '50%? it''s :b' AND b % 2", "a LIKE '50%? it''s :b' AND b % 2", ()),
        ('SELECT a AS "b?" WHERE c = ?', 'SELECT a AS "b?" WHERE c = $1', ()),
    ],
)
def test_only_the_placeholders_of_a_statement_are_numbered(statement, text, names):
    assert number_placeholders(statement) == (text, names)


@pytest.mark.parametrize("url", ["postgresql://gmn@db/gmn", "postgresql://gmn@db/gmn?port=5433"])
def test_the_password_of_postgresql_is_read_from_its_file(tmp_path, url):
    file = tmp_path / "password"
    word = "s3cret&?%"
    file.write_text(f"{word}\n")
    settings = Settings(database_url=url, database_password_file=file)
    parts = psycopg.conninfo.conninfo_to_dict(settings.database_with_password)
    assert parts == {**psycopg.conninfo.conninfo_to_dict(url), "password": word}
    with_another = url.replace("gmn@", "gmn:other@")
    assert settings.with_database_password(with_another) == with_another
    file.unlink()
    with pytest.raises(InputProblem, match="a text file that this user may read"):
        _ = settings.database_with_password


@pytest.mark.promise("1")
@pytest.mark.parametrize("is_committed", [True, False])
def test_a_commit_without_an_answer_is_told_from_one_that_failed(
    record, gallery, elsewhere, monkeypatch, is_committed
):
    commit = PostgresConnection.commit

    def lose(connection):
        losing.undo()
        if is_committed:
            commit(connection)
        connection.close()
        # The next commit gets the number of one that failed.
        new_gallery(other, "next")
        raise psycopg.OperationalError("the connection was lost")

    with elsewhere() as other, monkeypatch.context() as losing:
        losing.setattr(PostgresConnection, "commit", lose)
        if is_committed:
            (crop_id,) = enroll(record, gallery, new_crop(1))
        else:
            with pytest.raises(RecordUnavailable):
                enroll(record, gallery, new_crop(1))
    assert listed_ids(record, gallery) == ([crop_id] if is_committed else [])
    assert len(enroll(record, gallery, new_crop(2))) == 1


def test_reads_leave_no_cursors_behind(record, gallery):
    def count_cursors():
        gc.collect()
        return sum(issubclass(type(thing), psycopg.Cursor) for thing in gc.get_objects())

    def read():
        for _ in range(20):
            with record.database.read() as reader:
                reader.newest_commit()

    read()
    before = count_cursors()
    read()
    assert count_cursors() == before


def test_a_server_that_goes_away_is_named_and_used_again_once_it_is_back(tmp_path):
    with (
        postgres() as server,
        contextlib.closing(open_folder(tmp_path, server.url("own"))) as record,
    ):
        gallery = new_gallery(record)
        (first,) = enroll(record, gallery, new_crop(1))
        server.kill()
        with pytest.raises(RecordUnavailable, match="PostgreSQL does not answer"):
            enroll(record, gallery, new_crop(2))
        with pytest.raises(RecordUnavailable, match="PostgreSQL does not answer"):
            listed_ids(record, gallery)
        server.start()
        (second,) = enroll(record, gallery, new_crop(3))
        assert listed_ids(record, gallery) == [first, second]


def test_a_statement_that_takes_long_is_waited_for_while_the_server_answers(record, monkeypatch):
    monkeypatch.setattr(postgres_connection, "SILENT_SECONDS", 0.1)
    reader = Reader(record.database)
    assert reader.tuples("SELECT 7 FROM pg_sleep(?)", (0.5,)) == [(7,)]
    # In a transaction that writes, several statements are sent at once.
    slept = record.database.write(lambda it: it.tuples("SELECT 8 FROM pg_sleep(?)", (0.5,)))
    assert slept == [(8,)]


@pytest.mark.slow
@pytest.mark.promise("1")
def test_a_commit_that_waits_for_a_synchronous_standby_is_acknowledged_once_that_has_it(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(postgres_connection, "STATEMENT_SECONDS", 1)
    with postgres() as primary, postgres(primary) as standby:
        primary.require_standby()
        url = primary.url("own")
        with (
            contextlib.closing(open_folder(tmp_path, url)) as record,
            ThreadPoolExecutor(1) as thread,
        ):
            gallery = new_gallery(record)
            standby.stop()
            enrolling = thread.submit(enroll, record, gallery, new_crop(1))
            # No time-out ends its wait, which would make the commit a success.
            assert not wait([enrolling], timeout=4).done
            standby.start()
            crop_ids = enrolling.result(60)
            assert listed_ids(record, gallery) == crop_ids


@pytest.fixture
def standing_by(tmp_path):
    """Yield a primary, its synchronous standby, and a function that opens a machine's record."""
    with postgres() as primary, postgres(primary) as standby, contextlib.ExitStack() as opened:
        primary.require_standby()
        url = primary.url_of_both(standby, "own")

        def open_there(name):
            return opened.enter_context(contextlib.closing(open_folder(tmp_path / name, url)))

        yield primary, standby, open_there


def _promote(primary, standby):
    primary.kill()
    standby.start()
    standby.promote()


@pytest.mark.slow
@pytest.mark.promise("1")
@pytest.mark.parametrize("how", ["restart", "kill", "terminate", "cancel"])
def test_no_commit_is_acknowledged_whose_wait_for_the_standby_was_cut_off(standing_by, how):
    primary, standby, open_there = standing_by
    record = open_there("first")
    gallery = new_gallery(record)
    with ThreadPoolExecutor(1) as thread:
        standby.stop()
        enrolling = thread.submit(enroll, record, gallery, new_crop(1))
        eventually(primary.waiting_for_standby)
        try:
            primary.end_waits_for_standby(how)
            # The commit is there for everybody to see.
            eventually(lambda: primary.query("SELECT count(*) FROM own.crops") == [(1,)])
            eventually(primary.waiting_for_standby)
            assert not wait([enrolling], timeout=3).done
        finally:
            standby.start()
        crop_ids = enrolling.result(60)
    _promote(primary, standby)
    eventually(lambda: _enroll_if_possible(record, gallery, new_crop(2)), 60.0)
    assert crop_ids[0] in listed_ids(record, gallery)


def _enroll_if_possible(record, gallery, *crops):
    with contextlib.suppress(RecordUnavailable):
        return enroll(record, gallery, *crops)
    return []


def _do_without_standby(primary, thread, act):
    """Submit a change whose COMMIT is ended while it waits for the standby, which is away."""
    others = set(primary.waiting_for_standby())
    thread.submit(act)
    eventually(lambda: set(primary.waiting_for_standby()) - others)
    (process,) = set(primary.waiting_for_standby()) - others
    primary.query(f"SELECT pg_terminate_backend({process})")
    eventually(lambda: set(primary.waiting_for_standby()) - others - {process})


@pytest.mark.slow
@pytest.mark.promise("1")
def test_what_another_request_has_done_is_confirmed_once_the_standby_has_it(standing_by):
    primary, standby, open_there = standing_by
    enrolling, removing, creating, other = (open_there(name) for name in "abcd")
    gallery = new_gallery(other)
    kept, removed = enroll(other, gallery, new_crop(1), new_crop(2))

    def enroll_by_key(record):
        key = RequestKey("name", "digest", "[]")
        return record.crops.enroll(gallery, EMBEDDER, [new_crop(3)], key)

    def create_again():
        with pytest.raises(GalleryConflict):
            new_gallery(other, "yard")

    repeated = {
        "under its key": lambda: enroll_by_key(other).replayed,
        "of the same image": lambda: enroll(other, gallery, new_crop(1)) == [kept],
        "of a deletion": lambda: other.crops.remove(gallery, [removed]).matched == 0,
        "of a new gallery": lambda: create_again() is None,
    }
    with ThreadPoolExecutor(8) as threads:
        standby.stop()
        try:
            _do_without_standby(primary, threads, lambda: enroll_by_key(enrolling))
            _do_without_standby(primary, threads, lambda: removing.crops.remove(gallery, [removed]))
            _do_without_standby(primary, threads, lambda: new_gallery(creating, "yard"))
            asked = {what: threads.submit(repeat) for what, repeat in repeated.items()}
            assert not wait(asked.values(), timeout=3, return_when=FIRST_COMPLETED).done
        finally:
            standby.start()
        assert {what: future.result(60) for what, future in asked.items()} == dict.fromkeys(
            repeated, True
        )


@pytest.mark.slow
@pytest.mark.promise("1")
def test_what_the_standby_lacks_is_not_followed_so_that_its_promotion_needs_no_command(
    standing_by,
):
    primary, standby, open_there = standing_by
    record = open_there("first")
    follower = open_there("second")
    gallery = new_gallery(record)
    (kept,) = enroll(record, gallery, new_crop(1))
    follower.database.data_version()
    follower.database.note_followed(Reader(follower.database).newest_commit())
    with ThreadPoolExecutor(2) as threads:
        standby.stop()
        enrolling = threads.submit(enroll, record, gallery, new_crop(2))
        eventually(primary.waiting_for_standby)
        primary.end_waits_for_standby("restart")
        eventually(primary.waiting_for_standby)
        follower.database.data_version()
        newest = Reader(follower.database).newest_commit()
        following = threads.submit(follower.database.note_followed, newest)
        assert not wait([following], timeout=2).done
        _promote(primary, standby)
        for waiting in (enrolling, following):
            with pytest.raises(RecordUnavailable):
                waiting.result(60)
    for machine in (record, follower):
        eventually(lambda it=machine: _enroll_if_possible(it, gallery, new_crop(3)), 60.0)
        assert kept in listed_ids(machine, gallery)
        assert len(listed_ids(machine, gallery)) == 2


@pytest.fixture
def impatient(monkeypatch):
    """Have sessions that stand still ended, and writers refused, sooner."""
    monkeypatch.setattr(postgres_locks, "STILL_SECONDS", 3.0)
    monkeypatch.setattr(postgres_module, "TURN_SECONDS", 10)


def _write_until(leave):
    """Return a rule that changes something and then waits for an event, as a stopped process."""

    def rule(transaction):
        row = {"name": "half", "value": "done"}
        transaction.insert("record", row, instead=True)
        leave.wait(60)

    return rule


@pytest.mark.promise("several-machines")
def test_who_stands_still_amid_a_write_loses_it_and_the_others_write(
    record, gallery, elsewhere, impatient, caplog
):
    leave = threading.Event()
    with elsewhere() as other, ThreadPoolExecutor(1) as thread:
        still = thread.submit(record.database.write, _write_until(leave))
        eventually(lambda: Reader(other.database).value(WRITING) == 1)
        try:
            assert _enroll_if_possible(other, gallery, new_crop(1))
            assert not still.done()
        finally:
            leave.set()
        with pytest.raises(RecordUnavailable):
            still.result(60)
        assert Reader(other.database).value("SELECT 1 FROM record WHERE name = 'half'") is None
        assert len(enroll(record, gallery, new_crop(2))) == 1
    assert sum("stood still amid a write" in line for line in caplog.messages) == 1


@pytest.mark.slow
@pytest.mark.promise("several-machines")
def test_who_works_amid_a_write_is_not_ended(record, gallery, elsewhere, impatient, caplog):
    def work(transaction):
        for _ in range(20):
            transaction.tuples("SELECT 1")
            time.sleep(0.2)
        transaction.tuples("SELECT 1 FROM pg_sleep(9)")
        return 7

    with elsewhere() as other, ThreadPoolExecutor(1) as thread:
        working = thread.submit(record.database.write, work)
        eventually(lambda: Reader(other.database).value(WRITING) == 1)
        with pytest.raises(RecordWaits):
            enroll(other, gallery, new_crop(1))
        assert working.result(60) == 7
        assert len(enroll(other, gallery, new_crop(1))) == 1
    assert not [line for line in caplog.messages if "stood still" in line]


@pytest.mark.promise("several-machines")
def test_who_has_waited_for_a_commit_before_waits_no_longer_for_the_turn(
    record, gallery, elsewhere, monkeypatch
):
    monkeypatch.setattr(postgres_module, "TURN_SECONDS", 1000)
    is_over = threading.Event()
    with elsewhere() as other, ThreadPoolExecutor(1) as thread:
        working = thread.submit(record.database.write, lambda _: is_over.wait(60))
        eventually(lambda: Reader(other.database).value(WRITING) == 1)
        earlier = WAITS_SINCE.set(time.monotonic() - 1000)
        try:
            with pytest.raises(RecordWaits):
                enroll(other, gallery, new_crop(1))
        finally:
            WAITS_SINCE.reset(earlier)
            is_over.set()
        assert working.result(60)
        assert len(enroll(other, gallery, new_crop(1))) == 1


@pytest.mark.slow
@pytest.mark.promise("several-machines")
def test_who_waits_for_the_standby_is_not_ended_and_all_that_wait_are_refused_together(
    standing_by, impatient
):
    primary, standby, open_there = standing_by
    first = open_there("first")
    other = open_there("other")
    gallery = new_gallery(first)
    with ThreadPoolExecutor(9) as threads:
        standby.stop()
        committing = threads.submit(enroll, first, gallery, new_crop(1))
        eventually(primary.waiting_for_standby)
        (process,) = primary.waiting_for_standby()
        began = time.monotonic()
        waiting = [
            threads.submit(enroll, machine, gallery, new_crop(number))
            for number, machine in enumerate([first, other] * 4, 2)
        ]
        try:
            for refused in waiting:
                with pytest.raises(RecordWaits):
                    refused.result(60)
            # One after the other they would be refused after four times as long.
            assert time.monotonic() - began < 3 * postgres_module.TURN_SECONDS
            assert primary.waiting_for_standby() == [process]
        finally:
            standby.start()
        assert listed_ids(other, gallery) == committing.result(60)


def test_two_machines_write_and_each_has_the_vectors_of_the_other(record, gallery, elsewhere):
    (first,) = enroll(record, gallery, new_crop(1))
    with elsewhere() as other:
        (second,) = enroll(other, gallery, new_crop(2))
        (third,) = enroll(record, gallery, new_crop(3))
        assert listed_ids(record, gallery) == listed_ids(other, gallery) == [first, second, third]
        assert _copied(record, gallery) == _copied(other, gallery) == [1.25, 2.25]
        assert record.database.machine != other.database.machine


def test_processes_of_a_new_record_that_start_at_once_share_it(tmp_path):
    url = database_url(tmp_path)

    def start(number):
        with contextlib.closing(open_folder(tmp_path, url)) as opened:
            return new_gallery(opened, f"gallery-{number}")

    with ThreadPoolExecutor(4) as starts:
        assert len(set(starts.map(start, range(8)))) == 8


def test_processes_of_a_new_machine_that_start_at_once_write_and_agree_on_its_state(
    record, gallery, elsewhere
):
    def start(number):
        with elsewhere("new") as opened:
            return enroll(opened, gallery, new_crop(number))

    with ThreadPoolExecutor(4) as starts:
        landed = [crop_id for ids in starts.map(start, range(1, 9)) for crop_id in ids]
    assert sorted(listed_ids(record, gallery)) == sorted(landed)


def test_the_jobs_of_a_machine_are_run_by_it_and_cancelled_by_any(record, gallery, elsewhere):
    own = record.database.machine
    for job_id, worker in (("import", own), ("reindex", None)):
        record.jobs.create(new_job(job_id, gallery, worker=worker))
    with elsewhere() as other:
        assert other.jobs.claim(other.database.machine, {}) is None
        assert other.jobs.claim(None, {}).job_id == "reindex"
        assert record.jobs.claim(own, {}).job_id == "import"
        # The machine may be gone for good.
        assert other.jobs.cancel("import").state == "cancelled"
        assert other.jobs.cancel("reindex").state == "running"
        assert record.jobs.update("import", "running", {"done": 1}) is None


def test_each_machine_removes_its_own_files_that_are_unneeded(record, gallery, elsewhere):
    enroll(record, gallery, new_crop(1), new_crop(2))
    with elsewhere() as other:
        folders = [machine.database.folder for machine in (record, other)]
        assert _copied(record, gallery) == _copied(other, gallery)
        record.unneeded_files.add(["exports/1"])
        record.unneeded_files.note_removed(["exports/1"])
        assert other.unneeded_files.all() == ["exports/1"]
        other.galleries.delete(gallery)
        for machine in (record, other):
            machine.database.vectors.drop_removed()
        assert [list(folder.glob("vectors-*.f32")) for folder in folders] == [[], []]


def _logged(record):
    lines = read_deletions(record.database.deletions.path)
    return [(line.kind, line.id) for line in lines if line.kind != "since"]


@pytest.mark.promise("2")
def test_what_one_machine_has_deleted_stands_in_the_log_of_the_other(record, gallery, elsewhere):
    first, second = enroll(record, gallery, new_crop(1), new_crop(2))
    record.crops.remove(gallery, [first])
    with elsewhere() as other:
        assert _logged(other) == [("crop", first)]
        other.crops.remove(gallery, [second])
    record.database.tend()
    assert _logged(record) == [("crop", first), ("crop", second)]


def test_a_state_before_an_acknowledged_commit_is_refused_until_it_is_accepted(
    record, gallery, tmp_path
):
    (crop_id,) = enroll(record, gallery, new_crop(1))
    url = database_url(tmp_path)
    record.close()
    # A machine that has seen more commits than a promoted standby has.
    state = AcknowledgedState(tmp_path)
    state.write(Acknowledged(Commit(1000, "a" * 16)))
    with pytest.raises(InputProblem, match=r"the number 1000: .*gmn store accept-earlier-state"):
        open_folder(tmp_path, url)
    state.path.unlink()
    with contextlib.closing(open_folder(tmp_path, url)) as accepted:
        assert listed_ids(accepted, gallery) == [crop_id]


def test_running_machines_refuse_an_earlier_state_also_one_that_only_followed(
    record, gallery, elsewhere
):
    enroll(record, gallery, new_crop(1))
    with elsewhere() as follower:
        enroll(record, gallery, new_crop(2))
        follower.database.note_followed(Reader(follower.database).newest_commit())
        # As a promoted standby that lacked the last commits.
        record.database.connection().execute("UPDATE record SET value = '1' WHERE name = 'commit'")
        for machine in (record, follower):
            with pytest.raises(RecordUnavailable, match="lacks commits that were acknowledged"):
                enroll(machine, gallery, new_crop(3))
            # Its connections are new after a promotion.
            machine.database.close_connection()
            with pytest.raises(RecordUnavailable, match="lacks commits that were acknowledged"):
                listed_ids(machine, gallery)


@pytest.mark.promise("1")
@pytest.mark.parametrize("is_running", [True, False])
def test_an_earlier_copy_is_refused_also_once_another_machine_has_written_on(tmp_path, is_running):
    with postgres() as server, contextlib.ExitStack() as opened:
        url = server.url("own")

        def open_there(name):
            return opened.enter_context(contextlib.closing(open_folder(tmp_path / name, url)))

        first = open_there("first")
        follower = open_there("follower")
        gallery = new_gallery(first)
        kept, removed = enroll(first, gallery, new_crop(1), new_crop(2))
        copy = server.copy_data()
        assert _enroll_if_possible(first, gallery, new_crop(3))
        first.crops.remove(gallery, [removed])
        follower.database.note_followed(Reader(follower.database).newest_commit())
        if not is_running:
            first.close()
            follower.close()
        server.put_back(copy)
        new = open_there("new")
        enroll(new, gallery, *(new_crop(number) for number in range(10, 14)))
        for number in range(20, 28):
            enroll(new, gallery, new_crop(number))
        for name, machine in (("first", first), ("follower", follower)):
            if is_running:
                for _ in range(2):
                    with pytest.raises(RecordUnavailable, match="lacks commits"):
                        listed_ids(machine, gallery)
                    with pytest.raises(RecordUnavailable, match="lacks commits"):
                        enroll(machine, gallery, new_crop(4))
                machine.close()
            with pytest.raises(InputProblem, match=r"acknowledged or shown.*accept-earlier-state"):
                open_folder(tmp_path / name, url)
            AcknowledgedState(tmp_path / name).path.unlink()
            assert removed not in listed_ids(open_there(name), gallery)
        assert kept in listed_ids(new, gallery)


@pytest.mark.slow
@pytest.mark.promise("1")
def test_a_former_primary_that_has_gone_on_is_told_from_the_present_one(tmp_path):
    with postgres() as primary, postgres(primary) as standby, contextlib.ExitStack() as opened:
        url = primary.url_of_both(standby, "own")
        first = opened.enter_context(contextlib.closing(open_folder(tmp_path / "first", url)))
        gallery = new_gallery(first)
        standby.wait_for(primary)
        standby.promote()
        eventually(lambda: standby.query("SELECT pg_is_in_recovery()") == [(False,)])
        url_of_present = standby.url("own")
        second = opened.enter_context(
            contextlib.closing(open_folder(tmp_path / "second", url_of_present))
        )
        for machine in (first, second):
            enroll(machine, gallery, new_crop(1))
        newest = [Reader(machine.database).newest_commit() for machine in (first, second)]
        assert newest[0] == newest[1]
        primary.kill()
        # The session with the killed server may be the first to find out.
        with pytest.raises(RecordUnavailable, match=r"lacks commits|does not answer"):
            listed_ids(first, gallery)
        with pytest.raises(RecordUnavailable, match="lacks commits"):
            listed_ids(first, gallery)
        first.close()
        with pytest.raises(InputProblem, match="former primary"):
            open_folder(tmp_path / "first", url)
        assert listed_ids(second, gallery)


@pytest.mark.promise("1")
def test_a_machine_that_was_away_for_many_commits_joins_if_its_own_ones_are_there(
    record, gallery, tmp_path
):
    enroll(record, gallery, new_crop(1))
    url = database_url(tmp_path)

    def change(statement):
        record.database.connection().execute(statement)

    # As if other machines had written.
    change("UPDATE record SET value = (value::bigint + 25000)::text WHERE name = 'commit'")
    change("DELETE FROM commits")
    change("INSERT INTO commits SELECT slot, 'another' FROM generate_series(0, 19999) AS slot")
    assert len(enroll(record, gallery, new_crop(2))) == 1
    record.close()
    open_folder(tmp_path, url).close()
    with contextlib.closing(open_folder(tmp_path / "other", url)) as other:
        change = other.database.connection().execute
        change("UPDATE record SET value = (value::bigint + 25000)::text WHERE name = 'commit'")
        change("UPDATE machines SET token = 'another'")
    with pytest.raises(InputProblem, match="lacks commits"):
        open_folder(tmp_path, url)


def test_files_of_a_machine_are_left_alone_by_a_start_and_damaged_ones_are_named(
    record, gallery, tmp_path, caplog
):
    enroll(record, gallery, new_crop(1))
    url = database_url(tmp_path)
    record.close()
    files = [tmp_path / "record.commit", tmp_path / "machine"]
    before = [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files]
    open_folder(tmp_path, url).close()
    assert [(file.stat().st_ino, file.stat().st_mtime_ns) for file in files] == before
    contents = [file.read_bytes() for file in files]
    for damaged in (b"", b"\0" * 20, b"\0" * len(contents[0])):
        files[0].write_bytes(damaged)
        open_folder(tmp_path, url).close()
        assert "it is unknown whether PostgreSQL lacks commits" in caplog.text
        assert files[0].read_bytes() == contents[0]
        files[1].write_bytes(damaged)
        with pytest.raises(InputProblem, match=rf"{files[1]}: is empty .*gets a new name"):
            open_folder(tmp_path, url)
        files[1].write_bytes(contents[1])
        caplog.clear()
    open_folder(tmp_path, url).close()
    assert not list(tmp_path.glob("*.part"))


def _copied(record, gallery):
    """Return the vectors of slots 1 and 2 in the machine's copy, once they are loaded."""
    file = record.crops.vector_file(record.galleries.get(gallery))
    file.load(np.array([1, 2]))
    return file.mapped()[1:3, 0].tolist()


def test_a_copy_of_vectors_is_filled_and_made_anew_after_a_reboot(record, gallery, tmp_path):
    enroll(record, gallery, new_crop(1), new_crop(2))
    assert _copied(record, gallery) == [1.25, 2.25]
    record.close()
    with next(tmp_path.glob("vectors-*.f32")).open("r+b") as copy:
        copy.write(b"\x01" * 64)
    (tmp_path / MARK).write_text("another boot")
    with open_record(tmp_path) as restarted:
        assert _copied(restarted, gallery) == [1.25, 2.25]


def test_vectors_longer_than_a_page_of_the_server_are_kept(record, gallery):
    crop = new_crop(1)
    wide = ArchivedCrop(crop.record, np.arange(4096, dtype=np.float32), None)
    enroll(record, gallery, wide)
    (read,) = record.crops.vectors(gallery)
    assert np.array_equal(read.vector, wide.vector)


def test_old_notes_of_deletions_and_of_unneeded_files_are_dropped(record, gallery):
    first, _ = enroll(record, gallery, new_crop(1), new_crop(2))
    record.crops.remove(gallery, [first])
    record.unneeded_files.add(["exports/1"])

    def count_notes():
        return [
            record.database.fetch_tuples(f"SELECT count(*) FROM {table}")[0][0]
            for table in ("deletions", "unneeded_files")
        ]

    record.database.trim_deletions()
    assert count_notes() == [1, 1]
    for table in ("deletions", "unneeded_files"):
        statement = f"UPDATE {table} SET noted_at = noted_at - INTERVAL '401 days'"
        record.database.connection().execute(statement)
    record.database.trim_deletions()
    assert count_notes() == [0, 0]


@pytest.mark.promise("2")
def test_the_vector_of_a_removed_crop_leaves_the_table_and_the_copy(record, gallery):
    first, _ = enroll(record, gallery, new_crop(1), new_crop(2))
    _copied(record, gallery)
    record.crops.remove(gallery, [first])
    assert _copied(record, gallery) == [0.0, 2.25]


@pytest.mark.parametrize(
    ("option", "problem"),
    [("synchronous_commit=off", "synchronous_commit off"), ("search_path=none", "no schema")],
)
def test_a_database_that_cannot_keep_a_record_is_refused(
    postgres_server, tmp_path, option, problem
):
    url = f"{postgres_server.url('refused')}%20{quote(f'-c {option}')}"
    with pytest.raises(InputProblem, match=problem):
        open_folder(tmp_path / "data", url)


def test_a_provider_that_keeps_commits_by_other_means_can_be_named(postgres_server, tmp_path):
    url = f"{postgres_server.url('provided')}%20{quote('-c synchronous_commit=off')}"
    with pytest.raises(InputProblem, match="GMN_DATABASE_ACCEPT"):
        open_folder(tmp_path, url)
    with contextlib.closing(open_folder(tmp_path, url, ["synchronous_commit"])) as record:
        assert record.galleries.all() == []
    settings = Settings(database_url=url, database_accept="synchronous_commit, fsync")
    assert settings.database_accept == ("synchronous_commit", "fsync")
    with pytest.raises(ValueError, match="autovacuum"):
        Settings(database_accept="autovacuum")


def test_a_record_of_another_format_is_refused(record, tmp_path, monkeypatch):
    record.close()
    monkeypatch.setattr(postgres_module, "FORMAT", 99)
    with pytest.raises(InputProblem, match="not those of format 2"):
        open_folder(tmp_path, database_url(tmp_path))


def test_an_operator_is_told_the_server_and_that_it_has_no_checksums(postgres_server):
    (_, version), *warnings = examine_server(postgres_server.url("examined"))
    assert version.startswith("it is in PostgreSQL 1")
    assert all("checksums" in text for _, text in warnings)
    with pytest.raises(InputProblem, match="GMN_DATABASE_URL"):
        list(examine_server("postgresql://127.0.0.1:1/none"))


def test_a_text_that_postgresql_cannot_store_is_refused(record, gallery):
    for wanted in (ListFilter(external_id="a\0"), ListFilter(identities=("a\0", "b"))):
        with pytest.raises(InvalidField, match="the character NUL"):
            record.crops.page(gallery, wanted)
    with pytest.raises(InvalidField, match="the character NUL"):
        enroll(record, gallery, new_crop(1, external_id="a\0"))
    assert listed_ids(record, gallery) == []


def test_several_threads_write_in_turns(record, gallery):
    with ThreadPoolExecutor(4) as pool:
        ids = list(pool.map(lambda number: enroll(record, gallery, new_crop(number)), range(12)))
    eventually(lambda: len(listed_ids(record, gallery)) == len(ids) == 12)
