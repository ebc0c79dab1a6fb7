"""Locks of PostgreSQL, by which the processes of all machines take turns."""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import psycopg

from model.problems import InputProblem
from service.errors import RecordUnavailable
from service.ops.locks import WorkLock
from service.record.transaction import Reader, Transaction

if TYPE_CHECKING:
    from service.postgres.connection import PostgresConnection
    from service.record.database import Database

log = logging.getLogger(__name__)
# Advisory locks of one record, which has a schema.
_LOCK = "hashtextextended('gmn-{}:' || current_schema(), 0)"
WRITERS = _LOCK.format("writers")
CREATORS = _LOCK.format("creators")
# A holder whose connection has ended is noticed within this time.
BEAT_SECONDS = 1.0
TOKEN = "SELECT value FROM record WHERE name = ?"
# A writer for which others wait has its session ended after this time, if it stands still.
STILL_SECONDS = 10.0
LOOK_SECONDS = 1.0
# The session that has the turn of the writers, while the server waits for its next statement; the
# time of its last one tells whether it goes on. `active` is also said of a session whose statements
# are sent without waiting for answers, so that no time limit of the server ends it.
STILL_WRITER = f"""
FROM pg_locks JOIN pg_stat_activity USING (pid)
WHERE locktype = 'advisory' AND granted AND objsubid = 1
    AND pg_locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (CAST(classid AS BIGINT) << 32) | CAST(objid AS BIGINT) = {WRITERS}
    AND wait_event = 'ClientRead'
    AND state_change IS NOT NULL
"""
SESSION = (
    "pid, CAST(backend_start AS TEXT), CAST(state_change AS TEXT), CAST(query_start AS TEXT), "
    "coalesce(host(client_addr), 'this computer')"
)
FIND_STILL_WRITER = f"SELECT {SESSION} {STILL_WRITER}"
END_STILL_WRITER = f"""
SELECT pg_terminate_backend(pid) {STILL_WRITER}
    AND pid = ? AND CAST(backend_start AS TEXT) = ? AND CAST(state_change AS TEXT) = ?
"""


LOCKED = f"""
SELECT EXISTS (
    SELECT 1 FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        AND (CAST(classid AS BIGINT) << 32) | CAST(objid AS BIGINT) = {_LOCK}
)
"""


class PostgresWorkLock(WorkLock):
    """An advisory lock of a session, and a token in the record.

    PostgreSQL gives the lock to another process when the session ends, as after a failover, while
    the former holder may still be at work. So the holder puts a token into the record, and each of
    its writes requires it.
    """

    beat_seconds = BEAT_SECONDS

    def __init__(
        self, work: str, database: Database, connect: Callable[[], PostgresConnection]
    ) -> None:
        super().__init__(work)
        self._database = database
        self._connect = connect
        self._session: PostgresConnection | None = None
        self._token: str | None = None
        self._name = f"works at {work}"

    def acquire(self) -> bool:
        """Take the right; raises `RecordUnavailable` if PostgreSQL does not answer."""
        with self._database.naming_errors():
            if self._session is None or self._session.is_gone:
                self.release()
                self._session = self._connect()
            lock = _LOCK.format(self.work)
            ((is_free,),) = self._session.fetch_tuples(f"SELECT pg_try_advisory_lock({lock})", ())
        if not is_free:
            return False
        token = secrets.token_hex(8)
        try:
            row = {"name": self._name, "value": token}
            self._database.write(Transaction.insert, "record", row, instead=True, is_private=False)
        except BaseException:
            self.release()
            raise
        self._token = token
        return True

    def keep(self) -> bool:
        return self._session is not None and not self._session.is_gone

    def release(self) -> None:
        self._token = None
        if self._session is not None:
            # PostgreSQL notices a closed connection later.
            with contextlib.suppress(psycopg.Error):
                self._session.execute("SELECT pg_advisory_unlock_all()")
            self._session.close()
            self._session = None

    def require(self, reader: Reader) -> None:
        """Raise `RecordUnavailable` if another process has the right, in a transaction."""
        if self._token is None or reader.value(TOKEN, (self._name,)) != self._token:
            raise RecordUnavailable(f"another process has taken over {self.work}")


def is_locked(connection: PostgresConnection, work: str) -> bool:
    """Return whether a process of any machine has the right to some work."""
    ((locked,),) = connection.fetch_tuples(LOCKED.format(work), ())
    return bool(locked)


class TurnWatch:
    """A thread that ends the session of a writer that stands still and for which others wait.

    The system of a process that was stopped, as by `docker pause`, keeps its connections, and so
    the turn of the writers. Its transaction is rolled back; the process finds that out when it goes
    on. A session that works, or waits for a standby, is never ended.

    Args:
        connect: opens a connection of the thread.
    """

    def __init__(self, connect: Callable[[], PostgresConnection]) -> None:
        self._connect = connect
        self._session: PostgresConnection | None = None
        self._lock = threading.Condition()
        # When each writer of this process began to wait.
        self._waiting: dict[object, float] = {}
        self._closed = threading.Event()
        # The session that stands still, and when it was first and last seen so.
        self._still: tuple[Any, ...] | None = None
        self._still_since = 0.0
        self._looked_at = 0.0
        threading.Thread(target=self._run, name="watch of the writers' turn", daemon=True).start()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Have who stands still ended while the block waits for the turn of the writers."""
        wait = object()
        with self._lock:
            self._waiting[wait] = time.monotonic()
            self._lock.notify()
        try:
            yield
        finally:
            with self._lock:
                del self._waiting[wait]

    def close(self) -> None:
        self._closed.set()
        with self._lock:
            self._lock.notify()

    def _run(self) -> None:
        while not self._closed.is_set():
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._closed.is_set())
            # Nearly every wait is shorter.
            self._closed.wait(LOOK_SECONDS)
            with self._lock:
                began = min(self._waiting.values(), default=None)
            if began is None or time.monotonic() - began < LOOK_SECONDS:
                self._still = None
                self._disconnect()
                continue
            try:
                self._look()
            except (psycopg.Error, InputProblem):
                # The threads that wait notice it themselves.
                self._still = None
                self._disconnect()
        self._disconnect()

    def _look(self) -> None:
        if self._session is None or self._session.is_gone:
            self._disconnect()
            self._session = self._connect()
        rows = self._session.fetch_tuples(FIND_STILL_WRITER, ())
        now = time.monotonic()
        # After a pause of this process itself, a session may have gone on meanwhile.
        has_paused = now - self._looked_at > 3 * LOOK_SECONDS
        self._looked_at = now
        still = rows[0] if rows else None
        if still != self._still or has_paused:
            self._still = still
            self._still_since = now
        elif still is not None and now - self._still_since >= STILL_SECONDS:
            self._end(still)

    def _end(self, still: tuple[Any, ...]) -> None:
        if self._session is not None and self._session.fetch_tuples(END_STILL_WRITER, still[:3]):
            log.warning(
                "ended the session of a service at %s that stood still amid a write for %.0f s, "
                "while others waited; nothing of that write is stored",
                *(still[4], STILL_SECONDS),
            )
        self._still = None

    def _disconnect(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None
