"""Locks of PostgreSQL, by which the processes of all machines take turns."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

import psycopg

from service.errors import RecordUnavailable
from service.ops.locks import WorkLock
from service.record.transaction import Reader, Transaction

if TYPE_CHECKING:
    from service.record.database import Database
    from service.record.postgres_connection import PostgresConnection

# Advisory locks of one record, which has a schema.
_LOCK = "hashtextextended('gmn-{}:' || current_schema(), 0)"
WRITERS = _LOCK.format("writers")
CREATORS = _LOCK.format("creators")
# A holder whose connection has ended is noticed within this time.
BEAT_SECONDS = 1.0
TOKEN = "SELECT value FROM record WHERE name = ?"


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
            self._database.write(Transaction.insert, "record", row, instead=True)
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
