"""Work that one process does alone, among all that share a record."""

import contextvars

import pytest

from service.errors import RecordUnavailable
from service.ops.locks import WORKS_BY
from tests.service.gallery.new_crops import new_gallery, open_record

pytestmark = pytest.mark.promise("several-machines")


@pytest.fixture
def other(tmp_path, engine):
    """Open the record a second time: with PostgreSQL, on another machine."""
    folder = tmp_path / "other" if engine == "postgres" else tmp_path
    with open_record(folder, tmp_path) as opened:
        yield opened


def test_one_process_at_a_time_has_the_right(record, other):
    lock = record.database.work_lock("jobs")
    waiting = other.database.work_lock("jobs")
    assert lock.acquire()
    assert lock.keep()
    assert not waiting.acquire()
    beside = other.database.work_lock("webhooks")
    assert beside.acquire()
    lock.release()
    assert waiting.acquire()
    assert not lock.acquire()
    for held in (lock, waiting, beside):
        held.release()


@pytest.mark.postgres_alone
def test_whose_session_has_ended_writes_no_more_in_the_place_of_its_successor(record, other):
    lock = record.database.work_lock("jobs")
    successor = other.database.work_lock("jobs")
    assert lock.acquire()
    working = contextvars.copy_context()
    working.run(WORKS_BY.set, lock)
    working.run(new_gallery, record, "before")
    end_session = (
        "SELECT count(pg_terminate_backend(pid, 10000)) FROM pg_locks "
        "WHERE locktype = 'advisory' AND pid != pg_backend_pid()"
    )
    other.database.fetch_tuples(end_session)
    assert not lock.keep()
    assert successor.acquire()
    with pytest.raises(RecordUnavailable, match="another process has taken over jobs"):
        working.run(new_gallery, record, "after")
    assert [entry.name for entry in other.galleries.all()] == ["before"]
    # What is no part of the work goes on.
    new_gallery(record, "beside")
    lock.release()
    successor.release()
