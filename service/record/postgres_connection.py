"""Connections to PostgreSQL that take statements as SQLite's do, and demands on the server."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from psycopg.adapt import Dumper, Loader
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from model.problems import InputProblem
from service.record.postgres_sql import bind, translate
from service.record.schema import as_micros
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
# A writer waits no longer than this for its turn.
TURN_SECONDS = 20
# A COMMIT whose wait for a standby is cancelled succeeds with a warning, which the settings of a
# role may keep from the client.
BEGIN = "BEGIN; SET LOCAL client_min_messages = warning"


class PostgresRow(tuple[Any, ...]):
    """A row: values by position, or by the column's name."""

    positions: Mapping[str, int]

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(self.positions[key] if isinstance(key, str) else key)

    def keys(self) -> Iterable[str]:
        return self.positions.keys()


def _named_row(cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], PostgresRow]:
    positions: dict[str, int] = {}
    for position, column in enumerate(cursor.description or ()):
        positions.setdefault(column.name, position)

    def make(values: Sequence[Any]) -> PostgresRow:
        row = PostgresRow(values)
        row.positions = positions
        return row

    return make


class _Number(Dumper):
    """Sends a number as PostgreSQL's bigint."""

    oid = psycopg.adapters.types["int8"].oid

    def dump(self, obj: Any) -> bytes:
        number = as_micros(obj) if isinstance(obj, datetime) else int(obj)
        if not -(2**63) <= number < 2**63:
            raise OverflowError(f"{number} has more than 64 bits")
        return b"%d" % number


class _Numeric(Loader):
    """Reads a sum of integers as an integer."""

    def load(self, data: Any) -> int | float:
        text = bytes(data)
        return float(text) if b"." in text else int(text)


class _Cursor(psycopg.Cursor[Any]):
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

    The system of a server whose processes stand still acknowledges what is sent to it, so that no
    time limit of TCP, nor of the server itself, ends the wait.
    """

    def wait(
        self, gen: PQGen[Result], interval: float = WAIT_SECONDS, timeout: float | None = None
    ) -> Result:
        while True:
            try:
                return super().wait(gen, interval, SILENT_SECONDS if timeout is None else timeout)
            except psycopg.errors._WaitTimeout:
                if timeout is not None:
                    raise
            self._require_life()

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

    Raises:
        RecordUnavailable: PostgreSQL does not answer.
    """

    # Called at each notice, if the connection listens.
    _note: Callable[[], None] | None = None

    def __init__(self, url: str) -> None:
        options = (
            f"-c statement_timeout={STATEMENT_SECONDS}s -c lock_timeout={TURN_SECONDS}s "
            f"-c idle_in_transaction_session_timeout={STATEMENT_SECONDS}s -c jit=off "
            # A plan is kept while a table grows, and each statement has an index.
            "-c enable_seqscan=off "
            # The server ends the session of a machine that died within seconds, with its locks.
            "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3"
        )
        given = psycopg.conninfo.conninfo_to_dict(url)
        self._server = _Server.connect(
            url,
            autocommit=True,
            row_factory=_named_row,
            cursor_factory=_Cursor,
            options=f"{given.get('options', '')} {options}",
            application_name="gmn",
            connect_timeout=CONNECT_SECONDS,
            target_session_attrs="read-write",
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            tcp_user_timeout=15_000,
        )
        for kind in (bool, int, datetime):
            self._server.adapters.register_dumper(kind, _Number)
        self._server.adapters.register_loader("numeric", _Numeric)
        self.opened_at = time.monotonic()
        self._pipeline = contextlib.ExitStack()
        self._changes = 0
        self._is_writing = False
        # Statements of the present transaction of which it is not known whether they changed rows.
        self._unread: list[_Cursor] = []

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
        """Read what the server has said without being asked; close the connection if it ended."""
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
        """Run statements without values; `%` and `?` are not special in them."""
        self._server.execute(statements.encode())

    def interrupt(self) -> None:
        self._server.cancel_safe()

    def close(self) -> None:
        self._server.close()

    def _run(self, cursor: _Cursor, statement: str, values: Values) -> _Cursor:
        translation = translate(statement)
        cursor.execute(translation.text, bind(translation, values))
        if self._is_writing and not statement.lstrip().startswith(("SELECT", "WITH")):
            self._unread.append(cursor)
        return cursor

    def _cursor(self, **options: Any) -> _Cursor:
        return cast("_Cursor", self._server.cursor(**options))


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
    except psycopg.Error as error:
        raise InputProblem(f"GMN_DATABASE_URL: {sentence_of(error)}") from error
    yield "ok", f"it is in PostgreSQL {shown['server_version']}"
    if shown["data_checksums"] == "off":
        yield "warning", "the server has no checksums of its pages; run pg_checksums --enable"


def _read_settings(connection: PostgresConnection, names: Iterable[str]) -> dict[str, str]:
    return {name: connection.fetch_tuples(f"SHOW {name}", ())[0][0] for name in names}


def require_server(connection: PostgresConnection, accepted: Sequence[str] = ()) -> None:
    """Raise `InputProblem` if a server is too old, or may lose what it has acknowledged.

    Args:
        accepted: those of `DURABLE` that may be off.
    """
    settings = _read_settings(connection, ("server_version_num", "server_encoding", *DURABLE))
    if int(settings["server_version_num"]) < EARLIEST_SERVER:
        raise InputProblem("GMN_DATABASE_URL: the server is older than PostgreSQL 15; upgrade it")
    if settings["server_encoding"] != "UTF8":
        raise InputProblem(
            f"GMN_DATABASE_URL: the database has the encoding {settings['server_encoding']}; "
            "create it with ENCODING 'UTF8'"
        )
    for name in DURABLE:
        if settings[name] == "off" and name not in accepted:
            raise InputProblem(
                f"GMN_DATABASE_URL: the server has {name} off and may lose what it has "
                "acknowledged; switch it on, or name it in GMN_DATABASE_ACCEPT if the server's "
                "provider keeps commits by other means"
            )


def sentence_of(error: BaseException) -> str:
    """Return an error of psycopg in one line."""
    return " ".join(str(error).split())
