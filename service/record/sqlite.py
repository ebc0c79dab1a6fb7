"""The record in SQLite: one file for all processes of a machine, and its log beside it."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from pydantic_core import to_json

from model.problems import InputProblem
from model.wording import counted
from service.errors import DamagedRecord, ServiceStopping, StorageFailed
from service.ops.data_directory import EXPORTS, UNFINISHED, file_bytes, sync
from service.ops.file_writes import FileWrites
from service.ops.locks import FileWorkLock, ProcessLock, WorkLock
from service.ops.threads import Wake, is_cut_off, waiting
from service.record.database import (
    GENERATIONS,
    LOOK_SECONDS,
    NEWEST_DELETION,
    NOT_LOGGED,
    NOT_WRITTEN,
    NOTE_DELETION,
    POLL_SECONDS,
    RECORD_ID,
    Database,
    storage_failure,
)
from service.record.deletions import LOG_NAME, newest_number, read_deletions
from service.record.dialect import Dialect
from service.record.schema import (
    FORMAT,
    FORMER,
    create_tables,
    digest_of,
    index_names,
    read_schema,
    schema_of_format,
)
from service.record.transaction import FILE, Reader, Source, Transaction, Values
from service.record.values import JsonObject
from service.record.vectors import PRIVATE_FILE

log = logging.getLogger(__name__)
PRAGMAS = (
    "page_size = 4096",
    "journal_mode = WAL",
    # Sync each commit to the disk before it is acknowledged.
    "synchronous = FULL",
    "secure_delete = ON",
    # `Database._truncate_log` checkpoints the log.
    "wal_autocheckpoint = 0",
    "foreign_keys = ON",
)
# Time for which emptying the log waits for readers, in milliseconds.
LOG_BUSY_MS = 1000
# The log is emptied after a commit that leaves it larger than this, about a thousand pages.
LOG_BYTES = 4 * 1024**2
# A larger file contains pictures, which are not read at the start.
PREFETCHED_BYTES = 2 * 1024**3
DESCRIPTORS = Path("/proc/self/fd")
# Connections wait this long for a reader that recovers a log; writers wait for the lock file.
BUSY_SECONDS = 30.0
# A commit is visible some time after its last write to the log, on a slow disk tenths of a second.
SETTLED_SECONDS = 1.0
# Virtual machine instructions of a statement after which it is seen whether the process stops; they
# take tenths of a second.
STEPS_PER_LOOK = 1_000_000
NOT_A_DATABASE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
# A flipped bit can leave invalid UTF-8, which SQLite returns and Python refuses to decode, or JSON
# that SQLite cannot read.
UNREADABLE = (
    "could not decode",
    "malformed json",
    "json cannot hold",
)
NOT_REBUILT = (
    "the indexes of the record could not be built anew ({}), and copies of deleted labels may "
    "remain in them; free space in the data directory"
)


def _as_json(value: Any) -> str:
    return to_json(value if isinstance(value, dict) else list(value)).decode()


# Statements take collections as values: each is one JSON text.
for kind in (dict, list, tuple, set, frozenset, range):
    sqlite3.register_adapter(kind, _as_json)
sqlite3.register_adapter(JsonObject, lambda stored: stored.text)


class SQLiteDialect(Dialect):
    """The SQL of SQLite, where a collection is a JSON text."""

    def among(self, column: str, value: str = "?") -> str:
        return f"{column} IN (SELECT value FROM json_each({value}))"

    def gathered(self, expression: str, condition: str | None = None) -> str:
        array = f"json_group_array({expression})"
        return array if condition is None else f"{array} FILTER (WHERE {condition})"

    def unindexed(self, expression: str) -> str:
        return f"+{expression}"


class SQLiteSource(Source):
    """The SQLite file and the vector files of a record."""

    dialect = SQLiteDialect()

    def __init__(self, folder: Path, only_read: bool = False) -> None:
        super().__init__(folder, only_read)
        self._log = folder / f"{FILE}-wal"

    def connection(self) -> sqlite3.Connection:
        return cast("sqlite3.Connection", super().connection())

    def fetch_tuples(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        # Plain tuples are twice as fast as named rows.
        cursor = self.connection().cursor()
        cursor.row_factory = None
        return cursor.execute(statement, values).fetchall()

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_INTERRUPT:
                raise ServiceStopping(
                    "the service is shutting down; nothing was stored, send the request again later"
                ) from error
            message = str(error)
            if code in NOT_A_DATABASE or message.lower().startswith(UNREADABLE):
                raise self.damage(message) from error
            raise
        except UnicodeDecodeError as error:
            # SQLite's own message quotes the text that could not be decoded.
            raise self.damage(error.object.decode(errors="replace")) from error

    def _connect(self, uri: str | None = None) -> sqlite3.Connection:
        connection = sqlite3.connect(
            uri or self.path,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_SECONDS,
            uri=True,
        )
        connection.row_factory = sqlite3.Row
        # A statement over a large gallery may run for minutes, and would delay a stop.
        connection.set_progress_handler(is_cut_off, STEPS_PER_LOOK)
        return connection


class SQLiteDatabase(SQLiteSource, Database):
    """The tables in `record.sqlite3` of a folder, and the vector files beside it.

    Any number of processes of one machine may share a folder; writers take turns.

    Attributes:
        older_copy: a sentence on the deletions that the record lacked when it was opened; None if
            it had all.

    Raises:
        InputProblem: the file is not a record that this program can use.
        DamagedRecord: acknowledged data is missing.
    """

    older_copy: str | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._log_waits = False
        self._log_writes: FileWrites | None = None
        self._written_at = time.monotonic()
        self._lock = ProcessLock(
            folder / "record.lock", "writes of the record", turn=folder / "record.turn"
        )
        try:
            with self._lock.hold():
                self._open()
        except sqlite3.OperationalError as error:
            self.close()
            raise InputProblem(
                f"{self.path}: cannot be used as the record ({error}); make it readable and "
                f"writable, check it by gmn store verify --data-dir {folder}, or name another one"
            ) from error
        except BaseException:
            self.close()
            raise

    def work_lock(self, work: str) -> WorkLock:
        return FileWorkLock(self.folder / f"{work}.lock")

    def tend(self) -> None:
        if self._write_lock.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError, StorageFailed), self._lock.hold(wait=False):
                    self._log_deletions()
                    if self._log_waits:
                        self._truncate_log()
            finally:
                self._write_lock.release()

    def rebuild_indexes(self) -> None:
        # Sorting must not write names into TMPDIR.
        self.connection().execute("PRAGMA temp_store = MEMORY")
        for name in index_names(self.connection()):
            with self._lock_writers(), self._lock.hold(), self.naming_errors():
                try:
                    self.connection().execute(f"REINDEX {name}")
                except sqlite3.OperationalError as error:
                    raise storage_failure(NOT_REBUILT, error) from error
                self._truncate_log()
        super().rebuild_indexes()

    @property
    def writes_wait(self) -> bool:
        return self._lock.watch.holder is not None

    def data_version(self) -> int:
        # The values are comparable only within one connection.
        with self._version_lock:
            if self._version_connection is None:
                self._version_connection = self._open_connection()
            return int(self._version_connection.execute("PRAGMA data_version").fetchone()[0])

    def wait_for_commits(self, wake: Wake) -> bool:
        writes = self._watch_log()
        if writes is not None:
            now = time.monotonic()
            if writes.take():
                self._written_at = now
            is_settled = now > self._written_at + SETTLED_SECONDS
            if is_settled and wake.wait(LOOK_SECONDS, writes.descriptor):
                return True
        # Commits that follow one another are looked at together.
        return wake.wait(POLL_SECONDS)

    def _watch_log(self) -> FileWrites | None:
        """Return what tells of writes to the log; None if the machine has no more such notices."""
        if self._log_writes is None:
            with contextlib.suppress(OSError):
                self._log_writes = FileWrites(self._log)
        return self._log_writes

    def prefetch(self) -> None:
        if file_bytes(self.path) > PREFETCHED_BYTES:
            return
        # A process that closes a descriptor of the file loses all locks that SQLite has on it, so
        # the request is made by one of SQLite's own.
        path = self.path.resolve()
        for descriptor in DESCRIPTORS.iterdir():
            with contextlib.suppress(OSError):
                if descriptor.readlink() == path:
                    os.posix_fadvise(int(descriptor.name), 0, 0, os.POSIX_FADV_WILLNEED)
                    return

    def check_pages(self, table: str) -> list[str]:
        # Reading a table of pictures may take hours.
        with waiting():
            return Reader(self).column(f"PRAGMA quick_check({table})")

    def stored_bytes(self) -> int:
        return file_bytes(self.path) + file_bytes(self._log)

    def close(self) -> None:
        super().close()
        self._lock.close()
        if self._log_writes is not None:
            self._log_writes.close()

    def _connect(self, uri: str | None = None) -> sqlite3.Connection:
        connection = super()._connect(uri)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        # SQLite copies pages before a statement changes them. It would write the copies to TMPDIR,
        # which may be full, and where deleted pictures would stay on the disk.
        self.connection().execute("PRAGMA temp_store = MEMORY")
        try:
            with self._lock.hold():
                yield
        except (OSError, sqlite3.OperationalError) as error:
            raise storage_failure(NOT_WRITTEN, error) from error

    def _begin(self) -> int:
        self.connection().execute("BEGIN IMMEDIATE")
        return Reader(self).newest_commit()

    def _open(self) -> None:
        if not file_bytes(self.path):
            require_new(self.folder)
        # SQLite creates the files beside it with the same permissions.
        self.path.touch(mode=PRIVATE_FILE)
        self.path.chmod(PRIVATE_FILE)
        with self.naming_errors():
            connection = self.connection()
            # A start that was killed may have left a file without tables.
            is_new = not read_schema(connection)
            if is_new:
                self._create(connection)
            require_schema(self)
        if is_new:
            sync(self.folder)
        try:
            self.deletions.begin(Reader(self).value(RECORD_ID), self.newest_deletion())
        except OSError as error:
            raise storage_failure(NOT_LOGGED, error) from error
        self.older_copy = find_older_copy(self)
        if self.older_copy:
            self.unapplied_after = self.newest_deletion()
            log.warning("%s: %s", self.path, self.older_copy)
        self._log_deletions()
        self._cut_vectors()
        # A killed process may have left deleted contents in the log.
        self._truncate_log()

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        create_tables(connection)
        self._put_first_values({NEWEST_DELETION: 0})
        connection.execute("COMMIT")

    def _acknowledge(self, _commit: int) -> None:
        self._log_deletions()

    def _log_deletions(self) -> None:
        """Finish deletions, also those of processes that were killed before they did."""
        newest = self._finish_deletions()
        if newest is None:
            return
        # Rows that a power cut or a failing disk leaves are lines that the log has twice.
        connection = self.connection()
        connection.execute("PRAGMA synchronous = NORMAL")
        try:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("BEGIN IMMEDIATE")
                with connection:
                    connection.execute("DELETE FROM deletions")
                    # A kill amid lines that are being applied must not count them as applied.
                    if self.unapplied_after is None:
                        connection.execute(NOTE_DELETION, (newest,))
        finally:
            connection.execute("PRAGMA synchronous = FULL")

    def _cut_vectors(self) -> None:
        reader = Reader(self)
        # A writer may have been killed before the commit that makes this generation known.
        uncommitted = "SELECT gallery_id, next_generation FROM galleries"
        for gallery_id, generation in reader.tuples(uncommitted):
            self.vectors.remove(gallery_id, generation)
        statement = f"SELECT gallery_id, generation, dimension, next_slot FROM {GENERATIONS}"
        for gallery_id, generation, dimension, next_slot in reader.tuples(statement):
            if self.vectors.path(gallery_id, generation).exists():
                file = self.vectors.open(gallery_id, generation, dimension or 1)
                file.cut(next_slot if dimension else 0)

    def _clean_after(self, transaction: Transaction) -> None:
        super()._clean_after(transaction)
        if self._log_waits or transaction.overwrites or file_bytes(self._log) > LOG_BYTES:
            self._truncate_log()

    def _truncate_log(self) -> None:
        """Copy the write-ahead log into the file, and empty it: it may contain deleted data.

        A reader of an older state prevents this; the next commits try again, and the service each
        second.
        """
        connection = self.connection()
        # A backup may read for minutes; only the first write waits for it.
        busy_ms = 0 if self._log_waits else LOG_BUSY_MS
        self._log_waits = True
        with contextlib.suppress(sqlite3.DatabaseError):
            connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
            is_busy, _, _ = connection.execute("PRAGMA main.wal_checkpoint(TRUNCATE)").fetchone()
            self._log_waits = bool(is_busy)
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


def find_older_copy(database: SQLiteDatabase) -> str | None:
    """Return a sentence on the deletions of its log that a record lacks; None if it has all."""
    path = database.deletions.path
    # Read before the record: a line of a running service is in the record first.
    newest = newest_number(path)
    with database.read() as reader:
        known = database.newest_deletion()
        rows = reader.tuples("SELECT kind, id, gallery_id FROM deletions")
    if newest <= known:
        return None
    # A process was killed before it noted their lines.
    pending = {(kind, deleted_id, gallery_id or None) for kind, deleted_id, gallery_id in rows}
    times = [
        deletion.at
        for deletion in read_deletions(path)
        if known < deletion.number <= newest
        and (deletion.kind, deletion.id, deletion.gallery) not in pending
    ]
    if not times:
        return None
    return (
        f"an older copy of the record: it lacks deletions from {times[0]:%Y-%m-%d %H:%M} to "
        f"{times[-1]:%Y-%m-%d %H:%M} UTC. The start makes these again; what else was acknowledged "
        "since then is gone. If there is a newer copy, stop the service and put that in place"
    )


# The consequence of a former format.
OF_FORMER = (
    "it is of format {}, which a start of this version changes to that of its own: start the "
    "service once (gmn serve), or use the version that wrote it"
)


class OtherFormat(InputProblem):
    """A record whose tables or triggers are not those that this program makes."""


def read_format(source: SQLiteSource) -> int:
    """Return the format of a record, which may be a former one that a start changes.

    Raises:
        OtherFormat: it is neither, or has other tables or triggers.
    """
    version: int = Reader(source).value("PRAGMA user_version")
    schema = read_schema(source.connection())
    is_known = version == FORMAT and schema == schema_of_format()
    if is_known or FORMER.get(version) == digest_of(schema):
        return version
    raise OtherFormat(
        f"{source.path}: its tables are not those of format {FORMAT}, which this program "
        "reads; use the program version that wrote it, or restore a backup if it is damaged"
    )


def require_schema(source: SQLiteSource) -> None:
    """Raise `OtherFormat` if a record has another format, or other tables or triggers."""
    former = read_format(source)
    if former != FORMAT:
        raise OtherFormat(f"{source.path}: {OF_FORMER.format(former)}")


def require_new(folder: Path) -> None:
    """Raise `InputProblem` if a folder without a record has other files of a data directory."""
    path = folder / FILE
    for unfinished in folder.glob(f"*{UNFINISHED}"):
        raise InputProblem(
            f"{folder}: a restore into it was cut off ({unfinished.name}); delete "
            "this directory and start over"
        )
    if (folder / LOG_NAME).exists():
        raise DamagedRecord(path, "the file is missing, but its log of deletions exists")
    exports = list(folder.glob(f"{EXPORTS}/*/*"))
    if exports:
        exist = counted(len(exports), "export exists", "exports exist")
        raise DamagedRecord(path, f"the file is missing, but {exist}")


def stored_uri(path: Path) -> str:
    # In a read-only folder SQLite cannot create its log, and the file cannot change.
    option = "" if os.access(path.parent, os.W_OK) else "&immutable=1"
    return f"file:{quote(str(path))}?mode=ro{option}"
