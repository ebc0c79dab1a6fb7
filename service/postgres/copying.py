"""The copy of a record into PostgreSQL and out of it."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psycopg

from model.problems import InputProblem
from service.errors import StorageFailed
from service.postgres.acknowledged import Acknowledged, AcknowledgedState, Commit
from service.postgres.address import sentence_of
from service.postgres.connection import BEGIN, PostgresConnection, require_server
from service.postgres.database import (
    KEPT_TOKENS,
    NEWEST_COMMIT,
    OTHER_TABLES,
    create_tables,
    describe_format,
)
from service.postgres.locks import CREATORS
from service.record.deletions import Deletion, DeletionLog, read_lines
from service.record.keys import ASKED_FOR
from service.record.record import Record
from service.record.schema import TABLES
from service.record.transaction import Values, batches
from service.store.backup import new_data_directory
from service.store.copying import (
    Copied,
    CopySource,
    CopyTarget,
    SQLiteCopySource,
    SQLiteCopyTarget,
    StoredVector,
    copy_record,
    lines_of,
    read_since,
    vectors_statement,
)

DELETIONS_AT_ONCE = 5000
TABLES_THERE = (
    "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
    "WHERE nspname = current_schema() AND relkind IN ('r', 'p') ORDER BY relname LIMIT 3"
)
DELETIONS = (
    "SELECT kind, gallery_id, id, noted_at FROM deletions {condition} "
    f"ORDER BY kind, gallery_id, id LIMIT {DELETIONS_AT_ONCE}"
)
PUT_DELETIONS = (
    "INSERT INTO deletions (kind, gallery_id, id, committed, noted_at) "
    "SELECT kind, gallery_id, id, max(committed), max(noted_at) FROM new_deletions "
    "GROUP BY kind, gallery_id, id"
)
DELETION_COLUMNS = ("kind", "gallery_id", "id", "committed", "noted_at")


def copy_into_postgres(
    folder: Path, url: str, machine: Path | None, accepted: Sequence[str] = ()
) -> Copied:
    """Copy the record of a data directory into an empty schema of PostgreSQL.

    Args:
        folder: a data directory that no service uses.
        url: as in `PostgresDatabase`.
        machine: the new data directory of a machine that will serve the copy, which gets the log of
            deletions; None for no directory.
        accepted: as of `PostgresDatabase`.

    Raises:
        InputProblem: the target is not empty, or the record is damaged; nothing was copied.
        StorageFailed: a disk is full, or PostgreSQL does not answer; nothing was copied, unless the
            message says otherwise.
    """
    with contextlib.closing(Record(folder)) as record, record.database.read():
        source = SQLiteCopySource(record.database)
        with PostgresCopyTarget(url, accepted) as target:
            copied = copy_record(source, target)
            target.finish()
    if machine is not None:
        target.prepare_machine(machine, folder)
    return copied


def copy_into_folder(url: str, into: Path, machine: Path) -> Copied:
    """Copy a record from PostgreSQL into an empty data directory, with SQLite.

    Args:
        machine: the data directory of a machine that has served the record; its log of deletions,
            if there is one, goes into that of the copy.

    Raises:
        InputProblem: there is no record, it is damaged, or the machine served another one.
        StorageFailed: the disk of the copy is full or fails, or PostgreSQL does not answer.
    """
    try:
        with PostgresCopySource(url) as source, new_data_directory(into) as part:
            since = read_since(source, machine)
            lines = lines_of(DeletionLog(machine).path)
            with contextlib.closing(SQLiteCopyTarget(part, since, lines)) as target:
                copied = copy_record(source, target)
                target.finish()
            return source.note_later(copied)
    except (OSError, sqlite3.OperationalError) as error:
        raise StorageFailed(
            f"the record could not be copied to {into} ({error}); nothing is left of the copy, "
            "free space there, or name another directory that this user may write"
        ) from error


class _Session(ABC):
    """A connection with a transaction that ends with the block.

    A transaction that was not committed is rolled back by the server.
    """

    def __init__(self, url: str) -> None:
        with _naming_errors():
            self._connection = _connect(url)

    def __enter__(self) -> Self:
        with _naming_errors():
            try:
                self._begin()
            except BaseException:
                self._connection.close()
                raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    @abstractmethod
    def _begin(self) -> None: ...


class PostgresCopySource(_Session, CopySource):
    """A record in PostgreSQL as it is when the copy begins, which others may go on writing."""

    has_checksums = False
    remedy = "delete it and enroll it again, or restore a backup of PostgreSQL"

    name = "the record in PostgreSQL"

    def tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        with _naming_errors():
            return self._connection.fetch_tuples(statement, values)

    def vectors(self, after: Sequence[int] | None) -> list[StoredVector]:
        with _naming_errors():
            rows = self._connection.fetch_binary(*vectors_statement(after, ", content"))
        return [StoredVector(*row) for row in rows]

    def deletions(self) -> Iterator[Deletion]:
        page = self.tuples(DELETIONS.format(condition=""))
        while page:
            for kind, gallery_id, deleted_id, noted_at in page:
                yield Deletion(noted_at, kind, deleted_id, gallery_id or None)
            condition = "WHERE (kind, gallery_id, id) > (?, ?, ?)"
            page = self.tuples(DELETIONS.format(condition=condition), page[-1][:3])

    def note_later(self, copied: Copied) -> Copied:
        """Return the outcome with the number of commits that others made since the copy began."""
        ((before,),) = self.tuples(NEWEST_COMMIT)
        with _naming_errors():
            self._connection.execute("ROLLBACK")
        ((after,),) = self.tuples(NEWEST_COMMIT)
        return replace(copied, later_commits=after - before)

    def _begin(self) -> None:
        self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        if not self.tuples("SELECT to_regclass('record') IS NOT NULL")[0][0]:
            schema = _schema_of(self._connection)
            raise InputProblem(f"{schema}: has no record; name the database of a service")
        if self.tuples("SELECT value FROM record WHERE name = 'format'") != [(describe_format(),)]:
            raise InputProblem(f"{_schema_of(self._connection)}: {OTHER_TABLES}")


class PostgresCopyTarget(_Session, CopyTarget):
    """A schema without tables, which gets those of a record in one transaction."""

    def __init__(self, url: str, accepted: Sequence[str]) -> None:
        super().__init__(url)
        self._accepted = accepted
        self._commit = 0
        self._token = secrets.token_hex(8)
        self._asks_for_keys = False

    def put_values(self, values: Mapping[str, Any]) -> None:
        self._commit = int(values["commit"])
        self._asks_for_keys = ASKED_FOR in values
        own = {"format": describe_format(), **values}
        texts = [
            (name, value.hex() if isinstance(value, bytes) else str(value))
            for name, value in own.items()
        ]
        self.insert("record", ("name", "value"), texts)
        self.insert("commits", ("slot", "token"), [(self._commit % KEPT_TOKENS, self._token)])

    def insert(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        with _naming_errors():
            self._connection.copy_rows(table, columns, rows)

    def put_vectors(self, vectors: Sequence[StoredVector]) -> None:
        self.insert(
            "checksums",
            ("gallery_id", "slot", "side", "checksum", "content"),
            [(*stored.row, stored.content) for stored in vectors],
        )

    def put_deletions(self, deletions: Iterable[Deletion]) -> None:
        """Note deletions, which each machine that joins takes over into its log."""
        self.change(
            "CREATE TEMPORARY TABLE new_deletions (kind TEXT, gallery_id BIGINT, id TEXT, "
            "committed BIGINT, noted_at TIMESTAMPTZ) ON COMMIT DROP"
        )
        rows = (
            (
                deletion.kind,
                deletion.gallery or 0,
                deletion.id,
                self._commit,
                deletion.at.astimezone(UTC).isoformat(),
            )
            for deletion in deletions
            if self._is_still_deleted(deletion)
        )
        for batch in batches(rows, DELETIONS_AT_ONCE):
            self.insert("new_deletions", DELETION_COLUMNS, batch)
        self.change(PUT_DELETIONS)

    def change(self, statement: str) -> None:
        with _naming_errors():
            self._connection.execute(statement)

    def count(self, table: str) -> int:
        with _naming_errors():
            return int(self._connection.fetch_tuples(f"SELECT count(*) FROM {table}", ())[0][0])

    def count_vectors(self) -> int:
        with _naming_errors():
            statement = "SELECT count(content) FROM checksums"
            return int(self._connection.fetch_tuples(statement, ())[0][0])

    def finish(self) -> None:
        with _naming_errors():
            for table in TABLES:
                self._connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
                self._connection.execute(f"ANALYZE {table}")
        try:
            self._connection.commit()
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            raise StorageFailed(
                f"PostgreSQL went away when the copy was committed ({sentence_of(error)}); try "
                "again: if the copy is there, this is refused as there are tables, and the copy "
                "can be served with an empty data directory"
            ) from error

    def prepare_machine(self, folder: Path, former: Path) -> None:
        """Make a new data directory that of a machine which knows the copy.

        Args:
            former: the data directory whose log of deletions it gets.

        Raises:
            StorageFailed: the disk fails; the copy stays.
        """
        try:
            DeletionLog(folder).write(read_lines(DeletionLog(former).path))
            AcknowledgedState(folder).write(Acknowledged(Commit(self._commit, self._token)))
        except OSError as error:
            raise StorageFailed(
                f"the record was copied, but {folder} cannot be prepared ({error}); serve the copy "
                "with an empty data directory, which gets the deletions from PostgreSQL"
            ) from error

    def _is_still_deleted(self, deletion: Deletion) -> bool:
        # A service may have answered without a key again, after its last one was removed.
        return deletion.kind != "since" and (deletion.kind != "keyless" or self._asks_for_keys)

    def _begin(self) -> None:
        connection = self._connection
        require_server(connection, self._accepted)
        # A service that starts meanwhile waits for it before it creates tables of its own.
        connection.execute(f"SELECT pg_advisory_lock({CREATORS})")
        connection.run_script(BEGIN)
        if there := connection.fetch_tuples(TABLES_THERE, ()):
            names = ", ".join(name for (name,) in there)
            raise InputProblem(
                f"{_schema_of(connection)}: has tables already ({names}); name an empty database "
                "with --into, or a new schema of it by options=-csearch_path=SCHEMA"
            )
        create_tables(connection)
        for table in TABLES:
            # The triggers would note each tombstone as a deletion of now; they are back at the end.
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")


def _connect(url: str) -> PostgresConnection:
    try:
        return PostgresConnection(url)
    except psycopg.ProgrammingError as error:
        raise InputProblem(f"the URL of PostgreSQL: {sentence_of(error)}") from error


def _schema_of(connection: PostgresConnection) -> str:
    statement = "SELECT coalesce(current_schema(), 'unknown'), current_database()"
    ((schema, database),) = connection.fetch_tuples(statement, ())
    return f"schema {schema} of database {database}"


@contextlib.contextmanager
def _naming_errors() -> Iterator[None]:
    try:
        yield
    except psycopg.errors.LockNotAvailable as error:
        raise InputProblem(
            "another process is creating a record in this schema; name another one with --into"
        ) from error
    except psycopg.errors.DiskFull as error:
        raise StorageFailed(
            f"the disk of PostgreSQL is full ({sentence_of(error)}); nothing was copied, free "
            "space there"
        ) from error
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise StorageFailed(
            f"PostgreSQL does not answer ({sentence_of(error)}); nothing was copied, try again "
            "once it does"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise InputProblem(
            f"PostgreSQL: {sentence_of(error)}; name a database, or a schema, that this user owns"
        ) from error
