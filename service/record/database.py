"""The SQLite file of the record, shared by all processes of a machine, and its vector files.

A rule is a function that reads and changes the record through the `Transaction` passed to it.
`Database.write` runs it and returns when its changes are on the disk.
"""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import sqlite3
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar
from urllib.parse import quote

from model.problems import InputProblem
from service.errors import DamagedRecord, ServiceError, StorageFailed
from service.ops.data_directory import (
    DATABASE_NAME,
    EXPORTS,
    UNFINISHED,
    failpoint,
    file_bytes,
    sync,
)
from service.ops.locks import ProcessLock
from service.ops.threads import waiting
from service.record.acknowledged import FORMER_NAME, PRIVATE_FILE, AcknowledgedCommit
from service.record.deletions import Deletion, DeletionLog
from service.record.migrations import require_upgraded
from service.record.schema import (
    as_moment,
    create_tables,
    now_micros,
    read_schema,
    schema_of_format,
)
from service.record.transaction import (
    BUSY_SECONDS,
    FILE,
    Reader,
    Row,
    RunAlone,
    Source,
    Transaction,
)
from service.record.vectors import VectorFile

Params = ParamSpec("Params")
Result = TypeVar("Result")

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
# Name of the time at which the indexes were built anew, in the table `record`.
REBUILT = "indexes_rebuilt"
# Upper bound on the rules of one commit.
RULES_AT_ONCE = 64
NOT_WRITTEN = (
    "the record could not be written ({}); nothing was stored, free space in the data directory "
    "and send the request again"
)
NOT_REBUILT = (
    "the indexes of the record could not be built anew ({}), and copies of deleted labels may "
    "remain in them; free space in the data directory"
)
NOT_LOGGED = (
    "what was deleted is gone, but could not be noted in deletions.log ({}); free space in the "
    "data directory; the next change, or the next start, tries again"
)
NOT_OVERWRITTEN = (
    "the crops are removed, but their vectors could not be overwritten on the disk ({}); the next "
    "change of the gallery, or the next start, tries again"
)
# Sides of the galleries: the searched ones, and those that a reindex prepares. No vectors of a side
# are committed before its dimension is known.
SIDES = """(
    SELECT gallery_id, name, side, dimension, next_slot FROM galleries
    UNION ALL
    SELECT gallery_id, name, staged_side, staged_dimension, next_slot FROM galleries
    WHERE staged_side IS NOT NULL
)"""
RECORD_ID = "SELECT value FROM record WHERE name = 'record_id'"
NOTE_COMMIT = "UPDATE record SET value = ? WHERE name = 'commit'"
# Vectors of removed crops that a commit may have left.
REMOVED_SLOTS = """
SELECT gallery_id, slot FROM deletions JOIN tombstones USING (gallery_id)
JOIN galleries USING (gallery_id)
WHERE kind = 'crop' AND crop_id = id AND slot IS NOT NULL AND name IS NOT NULL
"""


@dataclass
class _Work:
    """A rule waiting for its turn, and its outcome."""

    rule: Callable[[Transaction], Any]
    done: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None
    overwrites: bool = False


class Database(Source):
    """The tables in `record.sqlite3` of a folder, and the vector files beside it.

    Any number of processes of one machine may share a folder; writers take turns. Any thread may
    read.

    Attributes:
        is_adopted: the record was put into its folder since it was last open, and may be older than
            its log of deletions.

    Raises:
        InputProblem: the file is not a record that this program can use.
        DamagedRecord: acknowledged data is missing.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.acknowledged = AcknowledgedCommit(folder)
        self.deletions = DeletionLog(folder)
        # data_version values are comparable only within one connection.
        self._version_connection: sqlite3.Connection | None = None
        self._version_lock = threading.Lock()
        self._queue: deque[_Work] = deque()
        self._write_lock = threading.Lock()
        self._log_waits = False
        self._lock = ProcessLock(
            folder / "record.lock", "writes of the record", turn=folder / "record.turn"
        )
        self.is_adopted = False
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

    def write(
        self,
        rule: Callable[Concatenate[Transaction, Params], Result],
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Result:
        """Run a rule in a transaction; its changes are on the disk when this returns.

        Rules waiting in several threads are committed together. A rule that fails is rolled back
        and does not affect the others.

        Raises:
            StorageFailed: the disk is full or fails; nothing was changed.
            Exception: any error of the rule, after its changes were rolled back.
        """
        work = _Work(lambda transaction: rule(transaction, *args, **kwargs))
        # SQLite copies pages before a savepoint or a statement changes them. It would write the
        # copies to TMPDIR, which may be full, and where deleted pictures would stay on the disk.
        self.connection().execute("PRAGMA temp_store = MEMORY")
        self._queue.append(work)
        with self._lock_writers():
            # The previous holder of the lock may have run this rule together with its own.
            while not work.done.done():
                count = min(len(self._queue), RULES_AT_ONCE)
                self._run_together([self._queue.popleft() for _ in range(count)])
        result: Result = work.done.result()
        return result

    def tend(self) -> None:
        """End what a killed process left of its commit; see whether other processes can write.

        Call this every second. It never waits for another writer.
        """
        if self._write_lock.acquire(blocking=False):
            try:
                with contextlib.suppress(OSError, StorageFailed), self._lock.hold(wait=False):
                    self._finish_deletions()
                    if self._log_waits:
                        self._truncate_log()
            finally:
                self._write_lock.release()

    def empty_log(self) -> None:
        """Empty SQLite's log, which may contain what another process deleted."""
        with self._lock_writers(), self._lock.hold():
            self._truncate_log()

    def rebuild_indexes(self) -> None:
        """Build every index anew, in whose pages copies of deleted labels may remain.

        Others write between two indexes.

        Raises:
            StorageFailed: the disk is full or fails; the indexes are as before.
        """
        # Sorting must not write names into TMPDIR.
        self.connection().execute("PRAGMA temp_store = MEMORY")
        for name in Reader(self).column("SELECT name FROM sqlite_master WHERE type = 'index'"):
            with self._lock_writers(), self._lock.hold(), self.naming_errors():
                try:
                    self.connection().execute(f"REINDEX {name}")
                except sqlite3.OperationalError as error:
                    raise _storage_failure(NOT_REBUILT, error) from error
                self._truncate_log()
        self.write(Transaction.insert, "record", _rebuilt_now(), instead=True)

    def indexes_rebuilt_at(self) -> datetime | None:
        row = Reader(self).row("record", "WHERE name = ?", (REBUILT,))
        return as_moment(row["value"]) if row else None

    def trim_deletions(self) -> None:
        """Drop old lines of the log of deletions; raises `OSError`."""
        self.write(lambda _: self.deletions.trim(datetime.now(UTC)))

    @property
    def writes_wait(self) -> bool:
        """True while writes are refused, because a process that holds the lock stands still."""
        return self._lock.watch.holder is not None

    def data_version(self) -> int:
        """Return a number that changes with every commit of any process or thread."""
        with self._version_lock:
            if self._version_connection is None:
                self._version_connection = self._connect()
            return int(self._version_connection.execute("PRAGMA data_version").fetchone()[0])

    def prefetch(self) -> None:
        """Ask the system to read the file into its cache, unless it is large.

        Call this before reading every crop: their rows are scattered over the file.
        """
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

    def stored_bytes(self) -> int:
        return file_bytes(self.path) + file_bytes(self._log)

    def close(self) -> None:
        """Close all connections and files; closing twice is harmless."""
        super().close()
        self._lock.close()

    def _connect(self, uri: str | None = None) -> sqlite3.Connection:
        connection = super()._connect(uri)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    @contextlib.contextmanager
    def _lock_writers(self) -> Iterator[None]:
        # A restore may hold the lock for minutes.
        with waiting():
            self._write_lock.acquire()
        try:
            yield
        finally:
            self._write_lock.release()

    def _open(self) -> None:
        is_new = not self.path.exists() or not self.path.stat().st_size
        acknowledged = self.acknowledged.read()
        if is_new:
            require_new(self.folder)
        # SQLite creates the files beside it with the same permissions.
        self.path.touch(mode=PRIVATE_FILE)
        self.path.chmod(PRIVATE_FILE)
        with self.naming_errors():
            connection = self.connection()
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if not version and not read_schema(connection):
                self._create(connection)
            else:
                require_upgraded(self.path, version)
            require_schema(self)
        if is_new:
            sync(self.folder)
        newest = Reader(self).newest_commit()
        self._require_acknowledged(newest, acknowledged or 0)
        self.is_adopted = not is_new and acknowledged is None
        try:
            self.deletions.begin(Reader(self).value(RECORD_ID))
        except OSError as error:
            raise _storage_failure(NOT_LOGGED, error) from error
        self._acknowledge(newest)
        (self.folder / FORMER_NAME).unlink(missing_ok=True)
        self._cut_vectors()
        # A killed process may have left deleted contents in the log.
        self._truncate_log()

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        create_tables(connection)
        transaction = Transaction(self)
        values = {
            "record_id": secrets.token_hex(16),
            "group_secret": secrets.token_bytes(32),
            "next_gallery": 1,
            "commit": 0,
            REBUILT: now_micros(),
        }
        transaction.change_many("INSERT INTO record (name, value) VALUES (?, ?)", values.items())
        connection.execute("COMMIT")

    def _require_acknowledged(self, newest: int, acknowledged: int) -> None:
        if newest < acknowledged:
            raise DamagedRecord(
                self.path,
                f"it has {newest} commits, but {acknowledged} were acknowledged: its end "
                f"({self.path.name}-wal) was cut off or damaged, or an older copy was put "
                "back. To go on with its contents, run gmn store adopt. Otherwise",
            )

    def _acknowledge(self, commit: int) -> None:
        """Note a commit, and finish its deletions; raises `StorageFailed` as that does."""
        self.acknowledged.write(commit)
        self._finish_deletions()

    def _finish_deletions(self) -> None:
        """Log what was deleted, and overwrite the vectors of removed crops.

        This also does so for commits of processes that were killed before they did.

        Raises:
            StorageFailed: the disk is full or fails; the next commit, or the next start, tries
                again.
        """
        connection = self.connection()
        with self.naming_errors():
            if not connection.execute("SELECT 1 FROM deletions LIMIT 1").fetchone():
                return
        try:
            # A backup that finds a vector overwritten finds the deletion in the log.
            self._log_deletions()
        except OSError as error:
            raise _storage_failure(NOT_LOGGED, error) from error
        try:
            self._overwrite_removed()
        except OSError as error:
            raise _storage_failure(NOT_OVERWRITTEN, error) from error
        # Rows that a power cut or a failing disk leaves are lines that the log has twice.
        connection.execute("PRAGMA synchronous = NORMAL")
        try:
            with contextlib.suppress(sqlite3.OperationalError):
                connection.execute("DELETE FROM deletions")
        finally:
            connection.execute("PRAGMA synchronous = FULL")

    def _log_deletions(self) -> None:
        # Another process may have been killed amid a line.
        self.deletions.begin(Reader(self).value(RECORD_ID))
        with self.naming_errors():
            rows = self.connection().execute("SELECT kind, id, gallery_id FROM deletions")
            now = datetime.now(UTC)
            self.deletions.append(
                Deletion(now, kind, deleted_id, gallery_id or None)
                for kind, deleted_id, gallery_id in rows
            )

    def _overwrite_removed(self) -> None:
        removed: dict[int, list[int]] = defaultdict(list)
        for gallery_id, slot in Reader(self).tuples(REMOVED_SLOTS):
            removed[gallery_id].append(slot)
        for gallery_id, slots in removed.items():
            for side in self.sides(gallery_id):
                side.clear(slots)

    def sides(self, gallery_id: int) -> list[VectorFile]:
        """Open a gallery's vector files: the searched one and the one being prepared, if any."""
        statement = (
            f"SELECT side, dimension FROM {SIDES} WHERE gallery_id = ? AND dimension IS NOT NULL"
        )
        return [
            self.vectors.open(gallery_id, side, dimension)
            for side, dimension in Reader(self).tuples(statement, (gallery_id,))
        ]

    def _cut_vectors(self) -> None:
        reader = Reader(self)
        # A writer may have been killed before the commit that makes this side known.
        for place in reader.tuples("SELECT gallery_id, next_side FROM galleries"):
            self.vectors.remove(*place)
        statement = f"SELECT gallery_id, side, dimension, next_slot FROM {SIDES}"
        for gallery_id, side, dimension, next_slot in reader.tuples(statement):
            if self.vectors.path(gallery_id, side).exists():
                file = self.vectors.open(gallery_id, side, dimension or 1)
                file.cut(next_slot if dimension else 0)

    def _run_together(self, batch: Sequence[_Work]) -> None:
        try:
            with self._lock.hold():
                self._commit(batch)
        except BaseException as error:
            for work in batch:
                work.error = error
        for work in batch:
            if isinstance(work.error, RunAlone):
                work.error = None
                self._run_together([work])
            elif isinstance(work.error, OSError | sqlite3.OperationalError):
                work.done.set_exception(_storage_failure(NOT_WRITTEN, work.error))
            elif work.error is not None:
                work.done.set_exception(work.error)
            else:
                work.done.set_result(work.result)

    def _commit(self, batch: Sequence[_Work]) -> None:
        connection = self.connection()
        changed_before = connection.total_changes
        number = -1
        with self.naming_errors():
            connection.execute("BEGIN IMMEDIATE")
            try:
                number = Reader(self).newest_commit() + 1
                combined = Transaction(self, commit=number)
                # Alone, a rule is rolled back with its transaction. A savepoint would make SQLite
                # copy every page that the rule changes.
                run = self._run if len(batch) == 1 else self._run_in_savepoint
                for work in batch:
                    run(work, combined)
                if connection.total_changes == changed_before:
                    connection.execute("ROLLBACK")
                    return
                for file in combined.unsynced:
                    file.sync()
                connection.execute(NOTE_COMMIT, (number,))
                failpoint("record.before-commit")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                # The commit may have succeeded although SQLite reported an error.
                if Reader(self).newest_commit() != number:
                    raise
        failpoint("record.committed")
        try:
            self._acknowledge(number)
        except StorageFailed as failure:
            for work in batch:
                if work.overwrites:
                    work.error = failure
        for side in combined.dropped:
            with contextlib.suppress(OSError):
                self.vectors.remove(*side)
        failpoint("record.settled")
        if self._log_waits or combined.overwrites or file_bytes(self._log) > LOG_BYTES:
            self._truncate_log()

    def _run_in_savepoint(self, work: _Work, combined: Transaction) -> None:
        """Run a rule, or roll it back alone if it fails."""
        connection = self.connection()
        connection.execute("SAVEPOINT rule")
        try:
            self._run(work, combined, in_batch=True)
        except BaseException as error:
            # A full disk rolls back the whole transaction, with the changes of other rules.
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO rule")
            work.error = error
        connection.execute("RELEASE rule")

    def _run(self, work: _Work, combined: Transaction, in_batch: bool = False) -> None:
        """Run a rule, and add its changes to those of the whole commit."""
        transaction = Transaction(self, commit=combined.commit, in_batch=in_batch)
        with self.naming_errors():
            work.result = work.rule(transaction)
        work.overwrites = transaction.overwrites
        combined.add(transaction)

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


class RecordPart:
    """Base class of the readers and rules of one kind of data in the record.

    A reader that a rule calls sees the changes of that rule: both use the connection of the thread.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = Reader(database)


Part = TypeVar("Part", bound=RecordPart)


def transactional(
    rule: Callable[Concatenate[Part, Transaction, Params], Result],
) -> Callable[Concatenate[Part, Params], Result]:
    """Turn a method into a rule run by `Database.write`; callers omit its `transaction`."""

    @functools.wraps(rule)
    def run(self: Part, /, *args: Params.args, **kwargs: Params.kwargs) -> Result:
        return self._database.write(functools.partial(rule, self), *args, **kwargs)

    return run


def require_schema(source: Source) -> None:
    """Raise `DamagedRecord` if a record of today's format has other tables, or triggers."""
    if read_schema(source.connection()) != schema_of_format():
        raise source.damage("its tables differ from those of its format")


def require_new(folder: Path) -> None:
    """Raise `InputProblem` if a folder without a record has other files of a data directory."""
    path = folder / FILE
    if (folder / DATABASE_NAME).exists():
        raise InputProblem(
            f"data directory {folder}: was written by a version before 0.5; install version 0.5.0, "
            f"run its gmn store upgrade {folder} --into NEW, and serve NEW by this version"
        )
    for unfinished in folder.glob(f"*{UNFINISHED}"):
        raise InputProblem(
            f"{folder}: a restore or an upgrade into it was cut off ({unfinished.name}); delete "
            "this directory and start over"
        )
    if AcknowledgedCommit(folder).read() or (folder / FORMER_NAME).exists():
        raise DamagedRecord(path, "the file is missing, but changes in it were acknowledged")
    exports = list(folder.glob(f"{EXPORTS}/*/*"))
    if exports:
        raise DamagedRecord(path, f"the file is missing, but {len(exports)} exports exist")


def _rebuilt_now() -> Row:
    return {"name": REBUILT, "value": now_micros()}


def stored_uri(path: Path) -> str:
    # In a read-only folder SQLite cannot create its log, and the file cannot change.
    option = "" if os.access(path.parent, os.W_OK) else "&immutable=1"
    return f"file:{quote(str(path))}?mode=ro{option}"


def _storage_failure(sentence: str, error: BaseException) -> ServiceError:
    failure = StorageFailed(sentence.format(error))
    failure.__cause__ = error
    return failure
