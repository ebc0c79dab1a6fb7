"""The record in PostgreSQL, which several machines serve.

One advisory lock gives all writers their turns, so that a rule finds the record as its predecessor
left it, as with SQLite.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import psycopg

from model.problems import InputProblem
from service.errors import RecordUnavailable, RecordWaits, StorageFailed
from service.ops.data_directory import MACHINE, make_folder
from service.ops.locks import WORKS_BY, ProcessLock, WorkLock
from service.ops.threads import waiting
from service.record.database import (
    NOT_LOGGED,
    NOT_WRITTEN,
    NOTE_COMMIT,
    RECORD_ID,
    Database,
    storage_failure,
)
from service.record.deletions import KEPT_FOR
from service.record.postgres_address import sentence_of
from service.record.postgres_connection import (
    PROBE_SECONDS,
    SILENT_SECONDS,
    PostgresConnection,
    ServerSilent,
    require_server,
)
from service.record.postgres_locks import CREATORS, WRITERS, PostgresWorkLock
from service.record.postgres_sql import table_definitions
from service.record.postgres_vectors import CachedVectorFiles
from service.record.schema import FORMAT
from service.record.transaction import Reader, Transaction, Values
from service.record.vectors import PRIVATE_FILE

log = logging.getLogger(__name__)
# A COMMIT without an answer is asked for during this time.
ANSWER_SECONDS = 10.0
PAUSE_SECONDS = 0.1
NEWEST_COMMIT = "SELECT CAST(value AS INTEGER) FROM record WHERE name = 'commit'"
# Changes when an earlier state is adopted, whose commits then get numbers that were given before.
LINEAGE = "lineage"
LINEAGE_FILE = f"record.{LINEAGE}"
STATE = (
    "SELECT CAST(newest.value AS BIGINT), lineage.value FROM record AS newest, record AS lineage "
    f"WHERE newest.name = 'commit' AND lineage.name = '{LINEAGE}'"
)
# More commits than there are while one without an answer is asked for.
KEPT_TOKENS = 20_000
NOTE_TOKEN = (
    "INSERT INTO commits (slot, token) VALUES (?, ?) "
    "ON CONFLICT (slot) DO UPDATE SET token = excluded.token"
)
EARLIER_STATE = (
    "PostgreSQL lacks commits that were acknowledged: a standby that lagged was promoted, or an "
    "earlier state was restored; start this service anew, which says what to do"
)


class PostgresDatabase(Database):
    """The tables in a schema of PostgreSQL, and a machine's copy of the vectors in its folder.

    Args:
        folder: the data directory of this machine.
        url: of libpq, such as `postgresql://gmn@db1,db2/gmn`.
        accepted: those of `DURABLE` that the server may have off.

    Raises:
        InputProblem: the server cannot be used for a record, or its record lacks commits that this
            machine has acknowledged.
        RecordUnavailable: PostgreSQL does not answer.
    """

    BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
    # The server's pages have them.
    HAS_CHECKSUMS = False
    JSON_ARRAY = "coalesce(json_agg({}), '[]')::text"

    def __init__(self, folder: Path, url: str, accepted: Sequence[str] = ()) -> None:
        make_folder(folder)
        super().__init__(folder)
        self._url = url
        self._accepted = accepted
        self.vectors: CachedVectorFiles = CachedVectorFiles(folder, self)
        # The deletions of all machines go into the log of this one.
        self._log_lock = ProcessLock(folder / "record.lock", "lines of deletions.log")
        self.machine = _machine_of(folder)
        self._is_open = False
        self._lineage_file = folder / LINEAGE_FILE
        self._lineage: str | None = None
        # Until then, by `time.monotonic`, calls are refused without asking a server that did not
        # answer; the follower goes on to ask it.
        self._silent_until = 0.0
        # A server that died with its machine ends no connection: those that were opened before one
        # of them was found silent are not used again.
        self._trusted_from = 0.0
        # Token of the commit that was sent last, and what was asked with it, by thread.
        self._sent = threading.local()
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def connection(self) -> PostgresConnection:
        connection: PostgresConnection | None = getattr(self._local, "connection", None)
        if connection is not None and self._is_lost(connection):
            self.close_connection()
            connection = None
        if connection is None or not connection.in_transaction:
            self._require_answers()
        return cast("PostgresConnection", super().connection())

    def fetch_tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        return self.connection().fetch_tuples(statement, values)

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.errors.LockNotAvailable as error:
            raise RecordWaits("the turn of the writers") from error
        except psycopg.errors.DiskFull as error:
            raise storage_failure(NOT_WRITTEN, error) from error
        except ServerSilent as error:
            self._trusted_from = time.monotonic()
            self._silent_until = self._trusted_from + SILENT_SECONDS + PROBE_SECONDS
            raise _unavailable(error) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise _unavailable(error) from error

    def work_lock(self, work: str) -> WorkLock:
        return PostgresWorkLock(work, self, self._connect)

    def note_followed(self, commit: int) -> None:
        self._acknowledge(commit)

    def tend(self) -> None:
        """Log and overwrite what other machines have deleted."""
        with contextlib.suppress(RecordUnavailable, StorageFailed):
            self._acknowledge(Reader(self).newest_commit())

    def empty_log(self) -> None:
        """Do nothing: the operator decides when PostgreSQL's log and its pages are overwritten."""

    def rebuild_indexes(self) -> None:
        self.note_indexes_rebuilt()

    def trim_deletions(self) -> None:
        with self._log_lock.hold():
            self.deletions.trim(datetime.now(UTC))
        oldest = "now() - ? * INTERVAL '1 day'"
        for table in ("deletions", "unneeded_files"):
            self.write(
                Transaction.change,
                f"DELETE FROM {table} WHERE noted_at < {oldest}",
                (KEPT_FOR.days,),
            )

    @property
    def writes_wait(self) -> bool:
        return False

    def data_version(self) -> int:
        with self._version_lock, self.naming_errors():
            connection = cast("PostgresConnection | None", self._version_connection)
            if connection is None or self._is_lost(connection):
                if connection is not None:
                    connection.close()
                connection = self._connect()
                self._version_connection = connection
            ((newest,),) = connection.fetch_tuples(NEWEST_COMMIT, ())
            self._silent_until = 0.0
            return int(newest)

    def prefetch(self) -> None:
        """Do nothing: PostgreSQL reads ahead by itself."""

    def check_pages(self, _table: str) -> list[str]:
        """Return no problem: PostgreSQL's own checksums of its pages tell them."""
        return []

    def stored_bytes(self) -> int:
        return int(Reader(self).value("SELECT pg_database_size(current_database())"))

    def close(self) -> None:
        super().close()
        if self._version_connection is not None:
            self._version_connection.close()
        self._log_lock.close()

    def _connect(self) -> PostgresConnection:
        began = time.monotonic()
        try:
            connection = PostgresConnection(self._url, self.machine)
            # After a failover the former host may be silent, and each attempt at it takes seconds.
            self._url = connection.url
        except psycopg.OperationalError as error:
            # For as long as an attempt takes, the others need not try.
            ended = time.monotonic()
            self._silent_until = ended + (ended - began)
            raise _unavailable(error) from error
        except psycopg.ProgrammingError as error:
            raise InputProblem(f"GMN_DATABASE_URL: {sentence_of(error)}") from error
        if self._is_open:
            # Another server may answer now, or the same one with an earlier state.
            try:
                # Another process of this machine may acknowledge a commit after this one has asked.
                acknowledged = self.acknowledged.read()
                with self.naming_errors():
                    ((newest, lineage),) = connection.fetch_tuples(STATE, ())
                self._require_known_commits(newest, lineage, acknowledged)
            except BaseException:
                connection.close()
                raise
        return connection

    def _is_lost(self, connection: PostgresConnection) -> bool:
        is_old = connection.opened_at < self._trusted_from
        return connection.is_gone or (is_old and not connection.in_transaction)

    def _require_answers(self) -> None:
        if time.monotonic() < self._silent_until:
            raise RecordUnavailable("PostgreSQL does not answer")

    def _require_known_commits(self, newest: int, lineage: str, acknowledged: int | None) -> None:
        if newest < (acknowledged or 0) or lineage != self._lineage:
            raise RecordUnavailable(EARLIER_STATE)

    def _open(self) -> None:
        with self.naming_errors():
            connection = self.connection()
            require_server(connection, self._accepted)
            connection.execute(f"SELECT pg_advisory_lock({CREATORS})")
            try:
                if not Reader(self).value("SELECT to_regclass('record') IS NOT NULL"):
                    self._create(connection)
                self.require_format()
                self._acknowledge_first(self._join(connection))
            finally:
                connection.execute(f"SELECT pg_advisory_unlock({CREATORS})")

    def _acknowledge_first(self, newest: int) -> None:
        """Acknowledge the newest commit before another process of this machine joins."""
        if self.is_adopted:
            # Slots that an older copy of the record gives again may have other vectors here.
            self.vectors.forget()
            # A log that begins now gets what the record itself has deleted and noted.
            self.is_adopted = self.deletions.path.exists()
        try:
            with self._log_lock.hold():
                self.deletions.begin(Reader(self).value(RECORD_ID))
        except OSError as error:
            raise storage_failure(NOT_LOGGED, error) from error
        self._is_open = True
        self._acknowledge(newest)

    def _create(self, connection: PostgresConnection) -> None:
        try:
            with _transaction(connection):
                create_tables(connection)
                self._put_first_values(
                    {
                        "format": FORMAT,
                        "group_secret": secrets.token_hex(32),
                        LINEAGE: secrets.token_hex(8),
                    }
                )
        except psycopg.ProgrammingError as error:
            raise InputProblem(
                f"GMN_DATABASE_URL: the tables cannot be created ({sentence_of(error)}); name a "
                "database, or a schema, that this user owns"
            ) from error

    def require_format(self) -> None:
        version = int(Reader(self).value("SELECT value FROM record WHERE name = 'format'") or 0)
        if version != FORMAT:
            raise InputProblem(
                f"GMN_DATABASE_URL: the record has format version {version}, and this program "
                f"reads {FORMAT}; use the program version that wrote it"
            )

    def _join(self, connection: PostgresConnection) -> int:
        """Go on with the record's state, and return its newest commit.

        Raises:
            InputProblem: it lacks commits that this machine has acknowledged or shown.
        """
        # Another process of this machine may acknowledge a commit after this one has asked.
        acknowledged = self.acknowledged.read()
        ((newest, lineage),) = connection.fetch_tuples(STATE, ())
        known = self._lineage_file.read_text() if self._lineage_file.exists() else None
        self.is_adopted = acknowledged is None
        if acknowledged is not None and (newest < acknowledged or known != lineage):
            raise InputProblem(
                f"GMN_DATABASE_URL: the record lacks commits that {self.folder} has acknowledged, "
                f"of which the last had the number {acknowledged}: a standby that lacked them was "
                "promoted, or an earlier state was restored. Find them, or go on without them: gmn "
                f"store adopt --data-dir {self.folder} deletes again what deletions.log names"
            )
        if self.is_adopted and known == lineage:
            # The other machines must not take its next commits for those that they have seen.
            lineage = secrets.token_hex(8)
            with _transaction(connection):
                connection.execute(f"SELECT pg_advisory_xact_lock({WRITERS})")
                row = {"name": LINEAGE, "value": lineage}
                Transaction(self).insert("record", row, instead=True)
        self._lineage_file.touch(PRIVATE_FILE)
        self._lineage_file.write_text(lineage)
        self._lineage = lineage
        return int(newest)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        try:
            with self.naming_errors():
                yield
        except OSError as error:
            raise storage_failure(NOT_WRITTEN, error) from error

    def _begin(self) -> int:
        connection = self.connection()
        self._sent.token = None
        try:
            newest, lineage = connection.begin(f"SELECT pg_advisory_xact_lock({WRITERS}); {STATE}")
            self._require_known_commits(newest, lineage, self.acknowledged.read())
            if isinstance(lock := WORKS_BY.get(), PostgresWorkLock):
                lock.require(Reader(self))
        except BaseException:
            if connection.in_transaction:
                self._end("ROLLBACK")
            raise
        return int(newest)

    def _end(self, statement: Literal["COMMIT", "ROLLBACK"]) -> None:
        if statement == "COMMIT":
            # A synchronous standby may be away for any time.
            with waiting():
                self.connection().commit()
        else:
            self.connection().roll_back()

    def _note_commit(self, transaction: Transaction) -> None:
        token = secrets.token_hex(8)
        transaction.change_many(NOTE_COMMIT, [(transaction.commit,)])
        transaction.change_many(NOTE_TOKEN, [(transaction.commit % KEPT_TOKENS, token)])
        self._sent.token = token
        # The answer comes with that of COMMIT.
        statement = "SELECT 1 FROM deletions WHERE committed = ? LIMIT 1"
        asked = self.connection().execute(statement, (transaction.commit,))
        self._sent.deletions = transaction.commit, asked

    def _has_committed(self, number: int) -> bool:
        """Return whether the last transaction of this thread was committed.

        Raises:
            RecordUnavailable: PostgreSQL does not answer.
        """
        token = self._sent.token
        if token is None:
            return False
        until = time.monotonic() + ANSWER_SECONDS
        while True:
            try:
                with self.naming_errors():
                    return bool(self._find_token(number) == token)
            except (RecordUnavailable, RecordWaits):
                if time.monotonic() > until:
                    raise RecordUnavailable("PostgreSQL went away while this was written") from None
            time.sleep(PAUSE_SECONDS)

    def _find_token(self, number: int) -> str | None:
        with _transaction(self.connection()):
            # The transaction has ended once its lock is free.
            self.fetch_tuples(f"SELECT pg_advisory_xact_lock({WRITERS})")
            rows = self.fetch_tuples(
                "SELECT token FROM commits WHERE slot = ?", (number % KEPT_TOKENS,)
            )
        return rows[0][0] if rows else None

    def _acknowledge(self, commit: int) -> None:
        try:
            with self._log_lock.hold():
                # A new record has no commit yet.
                known = self.acknowledged.read()
                if known is None:
                    known = -1
                if commit <= known:
                    return
                # The rows stay for the other machines; `trim_deletions` drops them.
                if commit > known + 1 or self._may_have_deleted(commit):
                    self._finish_deletions("committed > ? AND committed <= ?", (known, commit))
                self.acknowledged.write(commit)
        except OSError as error:
            raise storage_failure(NOT_LOGGED, error) from error

    def _may_have_deleted(self, commit: int) -> bool:
        """Return False if a commit of this thread is known to have deleted nothing."""
        number, asked = getattr(self._sent, "deletions", (None, None))
        if number != commit or asked is None:
            return True
        try:
            return bool(asked.fetchall())
        except psycopg.Error:
            return True


def create_tables(connection: PostgresConnection) -> None:
    """Create all tables of a new record, in the open transaction."""
    own = Path(__file__).with_name("postgres.sql").read_text(encoding="utf-8")
    connection.run_script(";\n".join([*table_definitions(), own]))


def _unavailable(error: BaseException) -> RecordUnavailable:
    return RecordUnavailable(f"PostgreSQL does not answer ({sentence_of(error)})")


@contextlib.contextmanager
def _transaction(connection: PostgresConnection) -> Iterator[None]:
    connection.execute("BEGIN")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _machine_of(folder: Path) -> str:
    """Return the name of the machine that has a data directory; it gets one at first."""
    path = folder / MACHINE
    if not path.exists():
        # One of several processes that start at once gives the name.
        part = folder / f"{MACHINE}.{secrets.token_hex(4)}"
        part.touch(PRIVATE_FILE)
        part.write_text(f"{socket.gethostname()}-{secrets.token_hex(4)}")
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(part)
        part.unlink()
    return path.read_text()
