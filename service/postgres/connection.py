"""Connections to PostgreSQL for statements and values of the record, and demands on the server."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from model.problems import InputProblem
from service.ops.threads import waiting
from service.postgres.address import (
    SCHEMES,
    Parameters,
    UnusableAddress,
    begin_with,
    names_of_environment,
    read_address,
    sentence_of,
    split_options,
)
from service.postgres.dialect import number_placeholders
from service.postgres.values import as_parameters, named_row, register
from service.record.transaction import Values

Result = TypeVar("Result")
# An error that ends a pipeline is raised; psycopg logs it, too.
logging.getLogger("psycopg").setLevel(logging.ERROR)
# Settings without which an acknowledged commit may be lost.
DURABLE = ("fsync", "full_page_writes", "synchronous_commit")
EARLIEST_SERVER = 150_000
CONNECT_SECONDS = 5
# A server that has not answered for so long is asked, by another connection, whether it works: by
# the request for TLS, which it answers before it knows the user.
SILENT_SECONDS = 2.0
PROBE_SECONDS = 3.0
SSL_REQUEST = struct.pack("!ii", 8, 80877103)
# Pause between two looks of psycopg at whether its thread is interrupted.
WAIT_SECONDS = 0.1
STATEMENT_SECONDS = 60
# A server ends a statement by then after its time limit, unless its process stands still.
ENDING_SECONDS = 5
# A process of the server that works has read every statement by then.
UNREAD_SECONDS = 15
# A writer waits no longer than this for its turn.
TURN_SECONDS = 20
# A rule reads all commits before its turn.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# Parameters of libpq that a URL, or a variable of the environment, may set otherwise.
PARAMETERS: Parameters = {
    "connect_timeout": CONNECT_SECONDS,
    "target_session_attrs": "read-write",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
# Settings that the `options` of a URL may set otherwise.
SETTINGS = {
    "jit": "off",
    # A plan that is kept while a table grows would read all of it as if it were small.
    "plan_cache_mode": "force_custom_plan",
    # The server ends the session of a machine that died within seconds, with its locks.
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
}
# These settings take the place of those of a role, a database, the server and the environment, so
# that statements and values mean the same in every session, and a server says if a commit waits for
# no standby.
MEANING = {
    "array_nulls": "on",
    "bytea_output": "hex",
    "client_min_messages": "warning",
    "datestyle": "ISO",
    "default_transaction_isolation": "read committed",
    "exit_on_error": "off",
    "extra_float_digits": "1",
    "standard_conforming_strings": "on",
    "timezone": "UTC",
    "transform_null_equals": "off",
}
# A commit that waits for a standby waits until that has it on its disk.
WAIT_FOR_STANDBY = (
    "set_config('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN "
    "('local', 'remote_write') THEN 'on' ELSE current_setting('synchronous_commit') END, false)"
)
# Versions of the server from which it has a setting.
TRANSACTION_TIMEOUT = 170_000
# The server shows what its process was about also if that stands still. One that waits for its
# client has not read the statement. A commit may wait for a synchronous standby for any time.
IS_AT_WORK = (
    "SELECT coalesce(wait_event, '') = 'SyncRep' OR (coalesce(wait_event, '') != 'ClientRead' "
    "AND query_start > clock_timestamp() - %s * INTERVAL '1 second') "
    "FROM pg_stat_activity WHERE pid = %s"
)
# Settings that no session may change: their value, and the consequence of another one.
FIXED = {
    "transaction_read_only": (
        "off",
        "nothing can be written; name the primary, or ALTER ROLE … RESET "
        "default_transaction_read_only",
    ),
    "session_replication_role": (
        "origin",
        "deletions are not noted; ALTER ROLE … RESET session_replication_role",
    ),
}
SCHEMAS = """
SELECT current_schema(), (
    SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE pg_class.oid = to_regclass('record')
)
"""
# So often a pooler is asked for the process of a session, beside another session's transaction.
POOL_ROUNDS = 10
POOL_BY_SESSION = (
    "a pooler between gives the server's processes to a session for a transaction alone; let it "
    "pool by session, as by pool_mode=session of PgBouncer, or name PostgreSQL itself"
)


class _Cursor(psycopg.RawCursor[Any]):
    """A cursor that waits for the server where its number of rows is asked for."""

    @property
    def rowcount(self) -> int:
        self._fetch_pipeline()
        return super().rowcount


class _Cursors:
    """The cursors of a statement that was sent once for each of several rows."""

    def __init__(self, cursors: list[_Cursor]) -> None:
        self._cursors = cursors

    @property
    def rowcount(self) -> int:
        return sum(cursor.rowcount for cursor in self._cursors)


class ServerSilent(psycopg.OperationalError):
    """A server whose processes stand still, or that cannot be reached any more."""


class CommitUncertain(psycopg.OperationalError):
    """A COMMIT of which the server warns: its wait for a standby ended before that had it."""


class _Server(psycopg.Connection[Any]):
    """A connection that waits for an answer as long as its server answers others.

    The system of a server whose processes stand still acknowledges every packet, so that no time
    limit of TCP, nor of the server itself, ends the wait. If only the process of this session
    stands still, or the server behind a pooler, the wait ends once that has read nothing for a
    while, or after the time limit of statements.

    Attributes:
        parameters: those of the connection.
        process: number of the server's process; None until the session is set up.
    """

    parameters: Parameters
    process: int | None = None

    def wait(
        self, gen: PQGen[Result], interval: float = WAIT_SECONDS, timeout: float | None = None
    ) -> Result:
        try:
            return super().wait(gen, interval, SILENT_SECONDS if timeout is None else timeout)
        except psycopg.errors._WaitTimeout:
            if timeout is not None:
                raise
        # This wait is bounded, so that a shorter GMN_STALL_SECONDS must not end the process.
        with waiting():
            return self._wait_longer(gen, interval)

    def _wait_longer(self, gen: PQGen[Result], interval: float) -> Result:
        began = time.monotonic()
        until = began + (CONNECT_SECONDS if self.process is None else UNREAD_SECONDS)
        while True:
            self._require_life()
            if time.monotonic() > until:
                self._require_progress(time.monotonic() - began)
                until = time.monotonic() + ENDING_SECONDS
            with contextlib.suppress(psycopg.errors._WaitTimeout):
                return super().wait(gen, interval, SILENT_SECONDS)

    def _require_life(self) -> None:
        try:
            with _open_socket(self.info) as probe:
                probe.sendall(SSL_REQUEST)
                answer = probe.recv(1)
        except OSError:
            answer = b""
        if not answer:
            self.close()
            raise ServerSilent("it stands still or cannot be reached")

    def _require_progress(self, seconds: float) -> None:
        if not self._is_at_work():
            self.close()
            raise psycopg.OperationalError(
                f"its process of this session has not answered for {seconds:.0f} s; if a pooler "
                "is between, see whether that has a process for each session"
            )

    def _is_at_work(self) -> bool:
        if self.process is None:
            return False
        try:
            question = _Question.connect(autocommit=True, **self.parameters)
            with contextlib.closing(question):
                longest = STATEMENT_SECONDS + ENDING_SECONDS
                row = question.execute(IS_AT_WORK, (longest, self.process)).fetchone()
        except psycopg.Error:
            return False
        return row is not None and bool(row[0])


class _Question(psycopg.Connection[Any]):
    """A connection that waits for seconds at most."""

    def wait(
        self, gen: PQGen[Result], interval: float = WAIT_SECONDS, timeout: float | None = None
    ) -> Result:
        return super().wait(gen, interval, PROBE_SECONDS if timeout is None else timeout)


def _open_socket(info: psycopg.ConnectionInfo) -> socket.socket:
    if not info.host.startswith("/"):
        return socket.create_connection((info.hostaddr or info.host, info.port), PROBE_SECONDS)
    opened = socket.socket(socket.AF_UNIX)
    opened.settimeout(PROBE_SECONDS)
    try:
        opened.connect(f"{info.host}/.s.PGSQL.{info.port}")
    except OSError:
        opened.close()
        raise
    return opened


class PostgresConnection:
    """A connection that takes statements and values as SQLite's does.

    Within a transaction that writes, a statement is sent with the next one whose answer is asked
    for: each wait for the server costs a way through the network.

    Attributes:
        url: that of the same server, whose host is the first one that is tried.
    """

    def __init__(self, url: str) -> None:
        """Connect and set up the session.

        Args:
            url: of libpq; its parameters have precedence over the defaults of this program.

        Raises:
            psycopg.OperationalError: the server does not answer, or takes no connection.
            psycopg.ProgrammingError: the URL, or a setting in its options, cannot be used.
        """
        named = read_address(url)
        options = named.get("options", os.environ.get("PGOPTIONS", ""))
        of_the_start, settings = split_options(options)
        of_the_environment = names_of_environment(os.environ)
        defaults = {
            "fallback_application_name": "gmn",
            **{name: value for name, value in PARAMETERS.items() if name not in of_the_environment},
        }
        parameters = {
            **defaults,
            **named,
            # The environment may name another one.
            "client_encoding": "UTF8",
        }
        if options:
            parameters["options"] = of_the_start
        self._server = _Server.connect(
            autocommit=True, row_factory=named_row, cursor_factory=_Cursor, **parameters
        )
        self._server.parameters = parameters
        register(self._server.adapters)
        try:
            self._set_up({**SETTINGS, **settings, **_required_settings(self._server)})
        except BaseException:
            self._server.close()
            raise
        info = self._server.info
        own = make_conninfo("", **begin_with(named, info.host, info.port))
        # The environment may name everything.
        self.url = own or SCHEMES[0]
        self.opened_at = time.monotonic()
        self._pipeline = contextlib.ExitStack()
        self._changes = 0
        self._is_writing = False
        # Statements of the present transaction of which it is not known whether they changed rows.
        self._unread: list[_Cursor] = []
        # Called at each notice, if the connection listens.
        self._note: Callable[[], None] | None = None

    def _set_up(self, settings: Mapping[str, str]) -> None:
        # A pooler passes these on, but not the `options` of a connection.
        numbers = range(1, 2 * len(settings), 2)
        set_each = ", ".join(f"set_config(${number}, ${number + 1}, false)" for number in numbers)
        values = [text for setting in settings.items() for text in setting]
        statement = f"SELECT pg_backend_pid(), {set_each}, {WAIT_FOR_STANDBY}"
        try:
            with self._server.cursor(row_factory=tuple_row) as cursor:
                ((process, *_),) = cursor.execute(statement.encode(), values).fetchall()
        except (psycopg.DataError, psycopg.errors.CantChangeRuntimeParam) as error:
            raise UnusableAddress(f"options: {sentence_of(error)}") from None
        self._server.process = process

    @property
    def is_pooled(self) -> bool:
        """True if a pooler is between, which gives its clients numbers of its own."""
        return self._server.info.backend_pid != self._server.process

    def require_own_process(self) -> None:
        """Raise `InputProblem` if a pooler gives the process of this session to others.

        Their settings, locks and prepared statements would be each other's.
        """
        try:
            with contextlib.closing(PostgresConnection(self.url)) as other:
                is_shared = any(self._shares_process(other) for _ in range(POOL_ROUNDS))
        except psycopg.errors.ProtocolViolation:
            # It pools by statement, and refuses transactions.
            is_shared = True
        if is_shared:
            raise InputProblem(f"GMN_DATABASE_URL: {POOL_BY_SESSION}")

    def _shares_process(self, other: PostgresConnection) -> bool:
        if self._server.process == other._server.process:
            return True
        # A pooler gives the process of a transaction to no other session meanwhile.
        other.run_script("BEGIN")
        has_moved = other._has_moved() or self._has_moved()
        other.run_script("ROLLBACK")
        return has_moved

    def _has_moved(self) -> bool:
        ((process,),) = self.fetch_tuples("SELECT pg_backend_pid()", ())
        return bool(process != self._server.process)

    @property
    def is_gone(self) -> bool:
        """True if it is closed, or if the server has ended it while it was idle."""
        if self._server.closed or self.in_transaction:
            return self._server.closed
        if self._note is not None:
            self.read_notices()
            return self._server.closed
        # A server that says something without being asked says that it ends.
        # `select.select` takes no descriptor from 1,024 on, and a service has more connections.
        poll = select.poll()
        poll.register(self._server.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    @property
    def descriptor(self) -> int:
        return self._server.fileno()

    @property
    def in_transaction(self) -> bool:
        return self._server.info.transaction_status not in (
            TransactionStatus.IDLE,
            TransactionStatus.UNKNOWN,
        )

    @property
    def total_changes(self) -> int:
        """A number that has grown if statements have changed rows."""
        before = self._changes
        while self._unread and self._changes == before:
            self._changes += max(self._unread.pop().rowcount, 0)
        return self._changes

    def listen(self, channel: str, note: Callable[[], None]) -> None:
        """Have a function called at each notice of a channel that this connection reads."""
        self._note = note
        self._server.add_notify_handler(lambda _: note())
        self._server.execute(f'LISTEN "{channel}"'.encode())

    def read_notices(self) -> None:
        """Read the messages that no statement asked for; close the connection if it ended."""
        poll = select.poll()
        poll.register(self._server.fileno(), select.POLLIN)
        try:
            while poll.poll(0):
                self._server.pgconn.consume_input()
                while self._server.pgconn.notifies():
                    if self._note is not None:
                        self._note()
        except psycopg.OperationalError:
            self._server.close()

    def begin(self, statements: str) -> tuple[Any, ...]:
        """Begin a transaction that writes, by statements whose last one returns a row."""
        cursor = self._server.cursor(row_factory=tuple_row)
        cursor.execute(f"{BEGIN}; {statements}".encode())
        while cursor.nextset():
            pass
        row: tuple[Any, ...] = cursor.fetchall()[0]
        self._pipeline.enter_context(self._server.pipeline())
        self._is_writing = True
        return row

    def commit(self) -> None:
        """Commit; raises `CommitUncertain` if a synchronous standby may lack the commit."""
        with self._requiring_no_warning():
            self._server.execute("COMMIT")
            self._end_writing()
            try:
                self._pipeline.close()
            except psycopg.errors.PipelineAborted as aborted:
                # It hides the error of the statement after which the others were not run.
                raise (aborted.__context__ or aborted) from None

    def wait_for_standby(self) -> None:
        """Return once a synchronous standby, if one is required, has all that is visible here.

        A commit whose wait for the standby was cut off is visible before the standby has it. The
        standby receives commits in order, so a later one that it has acknowledged proves the
        former ones. A message in the log is the least that a transaction can commit.

        Raises:
            CommitUncertain: this wait was cut off, too.
        """
        with self._requiring_no_warning():
            message = "SELECT pg_logical_emit_message(true, 'gmn', '')"
            self._server.execute(f"{BEGIN}; {message}; COMMIT".encode())

    @contextlib.contextmanager
    def _requiring_no_warning(self) -> Iterator[None]:
        warnings: list[str] = []

        def note(message: psycopg.errors.Diagnostic) -> None:
            if message.severity_nonlocalized == "WARNING":
                warnings.append(message.message_primary or "")

        self._server.add_notice_handler(note)
        try:
            yield
        finally:
            self._server.remove_notice_handler(note)
        if warnings:
            raise CommitUncertain(warnings[0])

    def roll_back(self) -> None:
        self._end_writing()
        with contextlib.suppress(psycopg.Error):
            self._pipeline.close()
        self._server.execute("ROLLBACK")

    def _end_writing(self) -> None:
        self._is_writing = False
        self._unread.clear()

    def execute(self, statement: str, values: Values = ()) -> _Cursor:
        return self._run(self._cursor(), statement, values)

    def fetch_tuples(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        return self._run(self._cursor(row_factory=tuple_row), statement, values).fetchall()

    def fetch_binary(self, statement: str, values: Values) -> list[tuple[Any, ...]]:
        """Return rows whose values come in binary form, which is half as long for `BYTEA`."""
        cursor = self._cursor(row_factory=tuple_row, binary=True)
        return self._run(cursor, statement, values).fetchall()

    def executemany(self, statement: str, rows: Iterable[Values]) -> _Cursors:
        return _Cursors([self.execute(statement, row) for row in rows])

    def copy_rows(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Insert many rows by COPY, which is several times as fast as statements."""
        statement = f"COPY {table} ({', '.join(columns)}) FROM STDIN"
        with self._server.cursor() as cursor, cursor.copy(statement.encode()) as copy:
            for row in rows:
                copy.write_row(row)

    def run_script(self, statements: str) -> None:
        """Run statements without values; `?` is not special in them."""
        self._server.execute(statements.encode())

    def interrupt(self) -> None:
        self._server.cancel_safe()

    def close(self) -> None:
        self._server.close()

    def _run(self, cursor: _Cursor, statement: str, values: Values) -> _Cursor:
        numbered = number_placeholders(statement)
        cursor.execute(numbered.text, as_parameters(numbered.names, values))
        if self._is_writing and not statement.lstrip().startswith(("SELECT", "WITH")):
            self._unread.append(cursor)
        return cursor

    def _cursor(self, **options: Any) -> _Cursor:
        return cast("_Cursor", self._server.cursor(**options))


def _required_settings(server: _Server) -> dict[str, str]:
    settings = {
        **MEANING,
        "statement_timeout": f"{STATEMENT_SECONDS}s",
        "lock_timeout": f"{TURN_SECONDS}s",
        "idle_in_transaction_session_timeout": f"{STATEMENT_SECONDS}s",
        # The locks of jobs and webhooks are those of idle sessions.
        "idle_session_timeout": "0",
    }
    if server.info.server_version >= TRANSACTION_TIMEOUT:
        settings["transaction_timeout"] = "0"
    return settings


def examine_server(
    url: str, accepted: Sequence[str] = ()
) -> Iterator[tuple[Literal["ok", "warning"], str]]:
    """Yield what an operator should know of a server.

    Raises:
        InputProblem: no record can be kept there.
    """
    try:
        with contextlib.closing(PostgresConnection(url)) as connection:
            require_server(connection, accepted)
            shown = _read_settings(connection, ("server_version", "data_checksums"))
            is_pooled = connection.is_pooled
    except psycopg.Error as error:
        raise InputProblem(f"GMN_DATABASE_URL: {sentence_of(error)}") from error
    pooler = ", through a pooler that pools by session" if is_pooled else ""
    yield "ok", f"it is in PostgreSQL {shown['server_version']}{pooler}"
    if shown["data_checksums"] == "off":
        yield "warning", "the server has no checksums of its pages; run pg_checksums --enable"


def _read_settings(connection: PostgresConnection, names: Iterable[str]) -> dict[str, str]:
    return {name: connection.fetch_tuples(f"SHOW {name}", ())[0][0] for name in names}


def require_server(connection: PostgresConnection, accepted: Sequence[str] = ()) -> None:
    """Raise `InputProblem` if a server is too old, or may lose acknowledged commits.

    Args:
        accepted: those of `DURABLE` that may be off.
    """
    names = ("server_version_num", "server_encoding", *FIXED, *DURABLE)
    settings = _read_settings(connection, names)
    if int(settings["server_version_num"]) < EARLIEST_SERVER:
        raise InputProblem("GMN_DATABASE_URL: the server is older than PostgreSQL 15; upgrade it")
    if settings["server_encoding"] != "UTF8":
        raise InputProblem(
            f"GMN_DATABASE_URL: the database has the encoding {settings['server_encoding']}; "
            "create it with ENCODING 'UTF8'"
        )
    for name, (value, why) in FIXED.items():
        if settings[name] != value:
            raise InputProblem(f"GMN_DATABASE_URL: {name} is {settings[name]}, so that {why}")
    for name in DURABLE:
        if settings[name] == "off" and name not in accepted:
            raise InputProblem(
                f"GMN_DATABASE_URL: the server has {name} off and may lose what it has "
                "acknowledged; switch it on, or name it in GMN_DATABASE_ACCEPT if the server's "
                "provider keeps commits by other means"
            )
    _require_one_schema(connection)
    if connection.is_pooled:
        connection.require_own_process()


def _require_one_schema(connection: PostgresConnection) -> None:
    """Raise `InputProblem` if the tables that are found are not in the schema that has the locks.

    With another search_path another machine would then write the same tables at the same time.
    """
    ((own, found),) = connection.fetch_tuples(SCHEMAS, ())
    if found not in (None, own):
        raise InputProblem(
            f"GMN_DATABASE_URL: the record is in the schema {found}, and the first schema of the "
            f"search_path is {own}; add ?options=-csearch_path%3D{found} to the URL"
        )
