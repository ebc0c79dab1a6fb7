"""The record in PostgreSQL, which several machines serve.

One advisory lock gives all writers their turns, so that a rule finds the record as its predecessor
left it, as with SQLite.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, cast

import psycopg

from model.problems import InputProblem
from service.errors import (
    InvalidField,
    RecordLacksCommits,
    RecordUnavailable,
    StorageFailed,
    TurnWaits,
)
from service.ops.data_directory import MACHINE, make_folder, sync, write_private
from service.ops.locks import WORKS_BY, ProcessLock, WorkLock
from service.ops.threads import WAITS_SINCE, Wake, waiting
from service.postgres.acknowledged import (
    NO_COMMIT,
    NO_TOKEN,
    Acknowledged,
    AcknowledgedState,
    Commit,
)
from service.postgres.address import sentence_of
from service.postgres.connection import (
    PROBE_SECONDS,
    SILENT_SECONDS,
    TURN_SECONDS,
    PostgresConnection,
    ServerSilent,
    require_server,
)
from service.postgres.dialect import PostgresDialect, table_definitions
from service.postgres.locks import CREATORS, WRITERS, PostgresWorkLock, TurnWatch
from service.postgres.vectors import CachedVectorFiles
from service.record.database import (
    LOOK_SECONDS,
    NOT_LOGGED,
    NOT_WRITTEN,
    NOTE_COMMIT,
    POLL_SECONDS,
    RECORD_ID,
    Database,
    storage_failure,
)
from service.record.deletions import KEPT_FOR
from service.record.schema import FORMAT, SERVICE
from service.record.sqlite import OF_FORMER
from service.record.transaction import Reader, Transaction, Values

log = logging.getLogger(__name__)
# A COMMIT without an answer is asked for during this time.
ANSWER_SECONDS = 10.0
PAUSE_SECONDS = 0.1
NEWEST_COMMIT = "SELECT CAST(value AS BIGINT) FROM record WHERE name = 'commit'"
# More commits than a machine misses that is away for a while.
KEPT_TOKENS = 20_000
NOTE_TOKEN = (
    "INSERT INTO commits (slot, token) VALUES (?, ?) "
    "ON CONFLICT (slot) DO UPDATE SET token = excluded.token"
)
NOTE_MACHINE = (
    "INSERT INTO machines (machine, number, token) VALUES (?, ?, ?) "
    "ON CONFLICT (machine) DO UPDATE SET number = excluded.number, token = excluded.token"
)
# The newest commit, the token that the record has for a commit that a machine knows, and the newest
# commit of that machine.
STATE = f"""
SELECT newest.number, at_newest.token, at_known.token, machines.number, machines.token
FROM (
    SELECT CAST(value AS BIGINT) AS number FROM record WHERE name = 'commit'
) AS newest
LEFT JOIN commits AS at_newest ON at_newest.slot = MOD(newest.number, {KEPT_TOKENS})
LEFT JOIN commits AS at_known ON at_known.slot = {{slot}}
LEFT JOIN machines ON machines.machine = {{machine}}
"""
OTHER_TABLES = (
    f"its tables are not those of format {FORMAT}, which this program reads; use the program "
    "version that wrote it"
)
WITH_NUL = "text: one has the character NUL, which PostgreSQL does not take; send it without"
# Digests of the tables of the former formats, by number.
FORMER = {1: "4eefda08986c1c8b"}
# It fits the names that `_machine_of` gives, and those that an operator may write in their place.
MACHINE_NAME = re.compile(r"[!-~]{1,300}")


@dataclass(frozen=True)
class State:
    """The state of a record, seen by a machine.

    Attributes:
        newest: the newest commit.
        at_known: token of the newest commit with the number that the machine knows, modulo
            `KEPT_TOKENS`.
        own: the newest commit of the machine; `NO_COMMIT` if there is none.
    """

    newest: Commit
    at_known: str
    own: Commit

    def lacks(self, known: Acknowledged) -> bool:
        """Return True if commits that a machine knows are certainly missing."""
        missing = self.newest.number - known.newest.number
        if missing < 0 or (missing < KEPT_TOKENS and self.at_known != known.newest.token):
            return True
        if self.own.number == known.own.number:
            return self.own.token != known.own.token
        # It may have been killed before it wrote down its last commits.
        return self.own.number < known.own.number


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

    dialect = PostgresDialect()
    BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

    def __init__(self, folder: Path, url: str, accepted: Sequence[str] = ()) -> None:
        make_folder(folder)
        super().__init__(folder)
        self.acknowledged = AcknowledgedState(folder)
        self._url = url
        self._accepted = accepted
        self.vectors: CachedVectorFiles = CachedVectorFiles(folder, self)
        # The deletions of all machines go into the log of this one.
        self._log_lock = ProcessLock(folder / "record.lock", "lines of deletions.log")
        self.machine = _machine_of(folder)
        self._turns = TurnWatch(self._connect)
        self._is_open = False
        # Writes were refused since the last one that had its turn.
        self._is_refusing = False
        # Each commit is announced there to the followers.
        self._channel = ""
        self._has_notice = False
        # Commits up to this number are known to be on every standby that has to have them: a COMMIT
        # of this process was acknowledged after it.
        self._kept = -1
        # Until then, by `time.monotonic`, calls are refused without asking a server that did not
        # answer; the follower goes on to ask it.
        self._silent_until = 0.0
        # A server that died with its machine ends no connection: those that were opened before one
        # of them was found silent are not used again.
        self._trusted_from = 0.0
        # By thread: token of the commit that was sent last, the state that was asked for with it,
        # and until when the thread waits for its turn to write.
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
            raise self._writes_waited() from error
        except psycopg.errors.DiskFull as error:
            raise storage_failure(NOT_WRITTEN, error) from error
        except psycopg.DataError as error:
            if "NUL" in str(error):
                raise InvalidField(WITH_NUL) from error
            raise
        except ServerSilent as error:
            self._trusted_from = time.monotonic()
            self._silent_until = self._trusted_from + SILENT_SECONDS + PROBE_SECONDS
            raise _unavailable(error) from error
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise _unavailable(error) from error

    def newest_deletion(self) -> int:
        """Return 0: each machine numbers the lines of its own log."""
        return 0

    def work_lock(self, work: str) -> WorkLock:
        return PostgresWorkLock(work, self, self._connect)

    def note_followed(self, commit: int) -> None:
        known = self.acknowledged.read()
        if known is not None and commit <= known.newest.number:
            return
        with self.naming_errors():
            newest = self._read_state(self.connection(), known).newest
            if newest.number < commit:
                raise RecordLacksCommits
            # The server also shows commits whose wait for the standby was cut off.
            if self._requires_standby():
                self._wait_for_standby()
        self._note_acknowledged(newest)

    def tend(self) -> None:
        """Log the deletions of other machines, and overwrite the vectors."""
        with contextlib.suppress(RecordUnavailable, StorageFailed):
            # The follower may have to wait for a standby, and does this then.
            if not self._requires_standby():
                self.note_followed(Reader(self).newest_commit())

    def wait_until_kept(self, commit: int) -> None:
        if commit > self._kept:
            with self.naming_errors():
                self._wait_for_standby()
            self._kept = max(self._kept, commit)

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

    def data_version(self) -> int:
        with self._version_lock, self.naming_errors():
            connection = cast("PostgresConnection | None", self._version_connection)
            if connection is None or self._is_lost(connection):
                if connection is not None:
                    connection.close()
                connection = self._connect()
                self._version_connection = connection
                connection.listen(self._channel, self._note_notice)
            ((newest,),) = connection.fetch_tuples(NEWEST_COMMIT, ())
            self._silent_until = 0.0
            return int(newest)

    def wait_for_commits(self, wake: Wake) -> bool:
        # A notice that is lost does no harm: the number of the newest commit is read anyway.
        descriptor = self._read_notices()
        if descriptor is not None and not self._has_notice:
            if wake.wait(LOOK_SECONDS, descriptor):
                return True
            self._read_notices()
        self._has_notice = False
        # Commits that follow one another are looked at together.
        return wake.wait(POLL_SECONDS)

    def _read_notices(self) -> int | None:
        """Return the descriptor of the connection that listens; None if it has ended."""
        with self._version_lock:
            connection = cast("PostgresConnection | None", self._version_connection)
            if connection is None or connection.is_gone:
                return None
            return connection.descriptor

    def _note_notice(self) -> None:
        self._has_notice = True

    def stored_bytes(self) -> int:
        return int(Reader(self).value("SELECT pg_database_size(current_database())"))

    def close(self) -> None:
        super().close()
        if self._version_connection is not None:
            self._version_connection.close()
        self._turns.close()
        self._log_lock.close()

    def _connect(self) -> PostgresConnection:
        began = time.monotonic()
        try:
            connection = PostgresConnection(self._url)
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
                known = self.acknowledged.read()
                with self.naming_errors():
                    _require_known(self._read_state(connection, known), known)
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

    def _state_query(self, known: Acknowledged | None) -> str:
        number = known.newest.number if known else 0
        machine = str(self.machine).replace("'", "''")
        return STATE.format(slot=number % KEPT_TOKENS, machine=f"'{machine}'")

    def _read_state(self, connection: PostgresConnection, known: Acknowledged | None) -> State:
        (row,) = connection.fetch_tuples(self._state_query(known), ())
        return _as_state(row)

    def _open(self) -> None:
        with self.naming_errors():
            connection = self.connection()
            require_server(connection, self._accepted)
            connection.execute(f"SELECT pg_advisory_lock({CREATORS})")
            try:
                if not Reader(self).value("SELECT to_regclass('record') IS NOT NULL"):
                    self._create(connection)
                self.require_format()
                self._channel = f"gmn {Reader(self).value(RECORD_ID)}"
                self._note_first(self._join(connection))
            finally:
                connection.execute(f"SELECT pg_advisory_unlock({CREATORS})")

    def _note_first(self, state: State) -> None:
        """Note the newest commits before another process of this machine joins."""
        if self.unapplied_after is not None:
            # Slots that an earlier state of the record gives again may have other vectors here.
            self.vectors.forget()
            # A log that begins now gets the deletions that the record itself has noted.
            if not self.deletions.path.exists():
                self.unapplied_after = None
        try:
            with self._log_lock.hold():
                self.deletions.begin(Reader(self).value(RECORD_ID), 0)
        except OSError as error:
            raise storage_failure(NOT_LOGGED, error) from error
        self._is_open = True
        self._note_acknowledged(state.newest, state.own)

    def _create(self, connection: PostgresConnection) -> None:
        try:
            with _transaction(connection):
                create_tables(connection)
                self._put_first_values({"format": describe_format()})
                connection.execute(NOTE_TOKEN, (0, secrets.token_hex(8)))
        except psycopg.ProgrammingError as error:
            raise InputProblem(
                f"GMN_DATABASE_URL: the tables cannot be created ({sentence_of(error)}); name a "
                "database, or a schema, that this user owns"
            ) from error

    def read_format(self) -> int:
        """Return the format of the record, which may be a former one that a start changes.

        Raises:
            InputProblem: it is neither.
        """
        stored = Reader(self).value("SELECT value FROM record WHERE name = 'format'")
        if stored == describe_format():
            return FORMAT
        for former, digest in FORMER.items():
            if stored == f"{former} {digest}":
                return former
        raise InputProblem(f"GMN_DATABASE_URL: {OTHER_TABLES}")

    def require_format(self) -> None:
        former = self.read_format()
        if former != FORMAT:
            raise InputProblem(f"GMN_DATABASE_URL: {OF_FORMER.format(former)}")

    def _join(self, connection: PostgresConnection) -> State:
        """Return the record's state, with which this machine goes on.

        Raises:
            InputProblem: it lacks commits that this machine has acknowledged or shown.
        """
        # Another process of this machine may acknowledge a commit after this one has asked.
        known = self.acknowledged.read()
        state = self._read_state(connection, known)
        if known is None:
            self.unapplied_after = 0
            return state
        if state.lacks(known):
            raise InputProblem(
                f"GMN_DATABASE_URL: the record lacks commits that {self.folder} has acknowledged "
                f"or shown, of which the last had the number {known.newest.number}: a standby that "
                "lacked them was promoted, an earlier state was restored, or the server is a "
                "former primary. Find them, or go on without them: gmn store "
                f"accept-earlier-state --data-dir {self.folder} deletes again what deletions.log "
                "names"
            )
        if state.newest.number - known.newest.number >= KEPT_TOKENS:
            # The last commits of other machines that it has shown cannot be compared any more.
            self.vectors.forget()
        return state

    @contextlib.contextmanager
    def _lock_writers(self) -> Iterator[None]:
        # The waits for a commit before, for other threads and for other processes count together.
        now = time.monotonic()
        since = WAITS_SINCE.get()
        self._sent.turn_until = (now if since is None else since) + TURN_SECONDS
        with waiting():
            has_turn = self._write_lock.acquire(timeout=max(0.0, self._sent.turn_until - now))
        if not has_turn:
            raise self._writes_waited()
        try:
            yield
        finally:
            self._write_lock.release()

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
        known = self.acknowledged.read()
        left_seconds = max(0.001, self._sent.turn_until - time.monotonic())
        statements = (
            f"SET LOCAL lock_timeout = {left_seconds * 1000:.0f}",
            f"SELECT pg_advisory_xact_lock({WRITERS})",
            f"SET LOCAL lock_timeout = {TURN_SECONDS * 1000}",
            self._state_query(known),
        )
        try:
            with self._turns.waiting():
                state = _as_state(connection.begin("; ".join(statements)))
            _require_known(state, known)
            if isinstance(lock := WORKS_BY.get(), PostgresWorkLock):
                lock.require(Reader(self))
        except BaseException:
            if connection.in_transaction:
                self._end("ROLLBACK")
            raise
        if self._is_refusing:
            self._is_refusing = False
            log.warning("writes have their turn again")
        return state.newest.number

    def _writes_waited(self) -> TurnWaits:
        if not self._is_refusing:
            self._is_refusing = True
            log.error(
                "writes are refused that have waited %d s for their turn: another one may wait for "
                "a synchronous standby that is away",
                TURN_SECONDS,
            )
        return TurnWaits(TURN_SECONDS)

    def _end(self, statement: Literal["COMMIT", "ROLLBACK"]) -> None:
        if statement == "COMMIT":
            # A synchronous standby may be away for any time.
            with waiting():
                self.connection().commit()
            self._kept = max(self._kept, self._sent.number)
        else:
            self.connection().roll_back()

    def _note_commit(self, transaction: Transaction) -> None:
        token = secrets.token_hex(8)
        transaction.change_many(NOTE_COMMIT, [(transaction.commit,)], is_private=False)
        slot = transaction.commit % KEPT_TOKENS
        transaction.change_many(NOTE_TOKEN, [(slot, token)], is_private=False)
        machine = (self.machine, transaction.commit, token)
        transaction.change_many(NOTE_MACHINE, [machine], is_private=False)
        self.connection().execute("SELECT pg_notify(?, '')", (self._channel,))
        self._sent.token = token
        self._sent.number = transaction.commit
        # The answer comes with that of COMMIT.
        statement = "SELECT 1 FROM deletions WHERE committed = ? LIMIT 1"
        asked = self.connection().execute(statement, (transaction.commit,))
        self._sent.deletions = transaction.commit, asked

    def _has_committed(self, number: int) -> bool:
        """Return whether the last transaction of this thread was committed, and is kept.

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
                    if self._find_token(number) != token:
                        return False
                    # It is visible also if no standby has it.
                    self._wait_for_standby()
                    return True
            except RecordUnavailable:
                if time.monotonic() > until:
                    raise RecordUnavailable("PostgreSQL went away while this was written") from None
            time.sleep(PAUSE_SECONDS)

    def _find_token(self, number: int) -> str | None:
        with _transaction(self.connection()):
            self.connection().execute(f"SET LOCAL lock_timeout = '{ANSWER_SECONDS:.0f}s'")
            # The transaction has ended once its lock is free.
            with self._turns.waiting():
                self.fetch_tuples(f"SELECT pg_advisory_xact_lock({WRITERS})")
            rows = self.fetch_tuples(
                "SELECT token FROM commits WHERE slot = ?", (number % KEPT_TOKENS,)
            )
        return rows[0][0] if rows else None

    def _requires_standby(self) -> bool:
        statement = "SELECT current_setting('synchronous_standby_names') != ''"
        return bool(Reader(self).value(statement))

    def _wait_for_standby(self) -> None:
        # A synchronous standby may be away for any time.
        with waiting():
            self.connection().wait_for_standby()

    def _acknowledge(self, commit: int) -> None:
        own = Commit(commit, self._sent.token)
        self._note_acknowledged(own, own)

    def _note_acknowledged(self, newest: Commit, own: Commit = NO_COMMIT) -> None:
        try:
            with self._log_lock.hold():
                known = self.acknowledged.read()
                # A new record has no commit yet.
                before = known.newest.number if known else -1
                number = newest.number
                # The rows stay for the other machines; `trim_deletions` drops them.
                is_next = number == before + 1
                if number > before and not (is_next and not self._may_have_deleted(number)):
                    self._finish_deletions("committed > ? AND committed <= ?", (before, number))
                if known is not None:
                    newest = max(newest, known.newest, key=_number_of)
                    own = max(own, known.own, key=_number_of)
                if known != Acknowledged(newest, own):
                    self.acknowledged.write(Acknowledged(newest, own))
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
    connection.run_script(schema())


def describe_format() -> str:
    """Return the number of the format with a digest of its tables."""
    return f"{FORMAT} {hashlib.sha256(schema().encode()).hexdigest()[:16]}"


def schema() -> str:
    """Return the statements that create all tables, with their triggers."""
    own = Path(__file__).with_name("triggers.sql")
    of_slices = sorted(SERVICE.glob("*/postgres.sql"))
    triggers = "".join(path.read_text(encoding="utf-8") for path in (own, *of_slices))
    return ";\n".join([*table_definitions(), triggers])


def _as_state(row: Sequence[Any]) -> State:
    newest, at_newest, at_known, own, own_token = row
    return State(
        Commit(newest, at_newest or NO_TOKEN),
        at_known or NO_TOKEN,
        Commit(own or 0, own_token or NO_TOKEN),
    )


def _require_known(state: State, known: Acknowledged | None) -> None:
    if known is not None and state.lacks(known):
        raise RecordLacksCommits


def _number_of(commit: Commit) -> int:
    return commit.number


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
        write_private(part, f"{socket.gethostname()}-{secrets.token_hex(4)}".encode())
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(part)
        part.unlink()
        sync(folder)
    name = path.read_text(errors="replace")
    if not MACHINE_NAME.fullmatch(name):
        raise InputProblem(
            f"{path}: is empty or damaged, and had the name of this machine; remove it, and the "
            "machine gets a new name. Cancel the imports that it had accepted under the former one"
        )
    return name
