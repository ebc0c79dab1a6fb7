"""The SQLite file of the record, which all processes of a machine share, and the vectors beside it.

A rule is a function that reads and changes the record by the `Transaction` it is given; it runs
within `Database.write`, and its changes are on the disk when that returns.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import secrets
import sqlite3
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from model.problems import InputProblem
from service.errors import DamagedRecord, ServiceError, StorageFailed
from service.ops.data_directory import UNFINISHED, snapshot_name, sync
from service.ops.failpoints import failpoint
from service.ops.health import heartbeat
from service.record.feeds import (
    ALL_GALLERIES,
    TOKEN_BYTES,
    add_changes,
    begin_feed,
    read_changes,
    read_feeds,
    slots_of,
)
from service.record.marks import COMMITS, DeletedIds, Mark, Marks
from service.record.schema import (
    EARLIEST_FORMAT,
    FORMAT,
    RECORD,
    create_tables,
    read_schema,
    row_crc,
    schema_of_format,
)
from service.record.transaction import Change, Reader, Transaction
from service.record.vectors import Vector, VectorFile, VectorFiles
from service.record.wiping import CopiedFrames, PageFile

Given = ParamSpec("Given")
Result = TypeVar("Result")

FILE = "record.sqlite3"
PRAGMAS = (
    "page_size = 4096",
    "journal_mode = WAL",
    # A commit is on the disk, not in a cache, before it is acknowledged.
    "synchronous = FULL",
    "secure_delete = ON",
    # The log is copied into the file by `Database._empty_log`.
    "wal_autocheckpoint = 0",
    "foreign_keys = ON",
)
PRIVATE_FILE = 0o600
# Writers wait for the lock file; SQLite's own waiting is for readers that recover a log.
BUSY_SECONDS = 30.0
LOG_BUSY_MS = 1000
# Size of the log, some thousand pages, from which it is emptied after a commit.
LOG_BYTES = 4 * 1024**2
# Steps of SQLite's machine, some tenths of a second.
STEPS_PER_BEAT = 1_000_000
RULES_AT_ONCE = 64
# The number and the id of a commit.
COMMIT = struct.Struct(f">q{TOKEN_BYTES}s")
NOTE_COMMIT = "UPDATE record SET value = ? WHERE name = 'commit'"
NOT_A_DATABASE = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
# A bit that changed may make a text that is none, which SQLite hands over and Python refuses.
UNREADABLE = ("could not decode", "user-defined function raised")


@dataclass
class _Work:
    """A rule that waits to be run, and what became of it."""

    rule: Callable[[Transaction], Any]
    done: Future[Any] = field(default_factory=Future)
    result: Any = None
    error: BaseException | None = None


class Database:
    """The tables in `record.sqlite3` of a folder, and the vector files beside it.

    Any number of processes of one machine may share a folder; writers come one after another. Reads
    may be made from any thread.

    Raises:
        InputProblem: the file is not a record that this program can use.
        DamagedRecord: something that was acknowledged is not in it any more.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / FILE
        self.vectors = VectorFiles(folder)
        self.marks = Marks(folder / "record.acknowledged")
        self.deleted = DeletedIds(folder / "deleted.ids")
        self._local = threading.local()
        self._opened: list[sqlite3.Connection] = []
        self._opening = threading.Lock()
        # Its numbers of versions can be compared, as those of different connections cannot.
        self._watch: sqlite3.Connection | None = None
        self._watching = threading.Lock()
        self._waiting: deque[_Work] = deque()
        self._writing = threading.Lock()
        self._log_has_deleted = False
        self._pages: PageFile | None = None
        self._frames = CopiedFrames(self._log)
        self._lock = (folder / "record.lock").open("ab")
        self._turn = (folder / "record.turn").open("ab")
        try:
            with self._exclusive():
                self._open()
        except sqlite3.OperationalError as error:
            self.close()
            raise InputProblem(
                f"{self.path}: cannot be used as the record ({error}); make it readable and "
                "writable, see what is whole of it with gmn store verify --data-dir "
                f"{folder}, or name another directory with --data-dir"
            ) from error
        except BaseException:
            self.close()
            raise

    def write(
        self,
        rule: Callable[Concatenate[Transaction, Given], Result],
        *args: Given.args,
        **kwargs: Given.kwargs,
    ) -> Result:
        """Run a rule in a transaction; its changes are on the disk when this returns.

        Rules of several threads that wait together are committed together; one that fails leaves
        nothing of itself and no trace in the others.

        Raises:
            StorageFailed: the disk is full or fails; nothing was changed.
            Exception: an error of the rule, of which nothing is kept.
        """
        work = _Work(functools.partial(_call, rule, args, kwargs))
        self._waiting.append(work)
        with self._writing:
            # The thread that held the lock before may have run this rule together with its own.
            while not work.done.done():
                self._run_waiting()
        result: Result = work.done.result()
        return result

    @contextlib.contextmanager
    def read(self) -> Iterator[Reader]:
        """Read the record as it is at one moment, also while it is written."""
        connection = self.connection()
        if connection.in_transaction:
            yield Reader(self, connection)
            return
        with self.naming_errors():
            connection.execute("BEGIN")
        try:
            yield Reader(self, connection)
        finally:
            connection.execute("ROLLBACK")
        self.overwrite_log()

    def overwrite_log(self) -> None:
        """Overwrite SQLite's log, where a long read has prevented it after a deletion."""
        if self._log_has_deleted:
            with self._writing, self._exclusive():
                self._empty_log()

    def feeds(self) -> dict[int, Mark]:
        return read_feeds(Reader(self))

    def changes(self, gallery_id: int, after: Mark, limit: int) -> list[Change]:
        """Return up to `limit` changes of a gallery after one, in order.

        Raises:
            ChangesLost: that change is kept no more, or another one bears its number.
        """
        return read_changes(Reader(self), gallery_id, after, limit)

    def data_version(self) -> int:
        """Return a number that is another one after each commit of any process or thread."""
        with self._watching:
            if self._watch is None:
                self._watch = self._connect()
            return int(self._watch.execute("PRAGMA data_version").fetchone()[0])

    def damage(self, what: str) -> ServiceError:
        return DamagedRecord(self.path, what)

    def prefetch(self) -> None:
        """Have the system read the file, unless it is large, beside this process.

        For who reads the rows of every crop, which lie all over it.
        """
        if self._pages is not None:
            self._pages.prefetch()

    def stored_bytes(self) -> int:
        return _size(self.path) + _size(self._log)

    def connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = self._connect()
        return connection

    def close_connection(self) -> None:
        """Close this thread's connection, before the thread ends."""
        connection = getattr(self._local, "connection", None)
        if connection is not None:
            self._local.connection = None
            with self._opening:
                self._opened.remove(connection)
            connection.close()

    def close(self) -> None:
        """Close every connection and file; it may be called again."""
        if self._opened and not self._lock.closed:
            # SQLite would copy the log into the file by itself, as the last one to close it.
            with contextlib.suppress(Exception), self._exclusive():
                self._empty_log()
        with self._opening:
            for connection in self._opened:
                connection.close()
            self._opened.clear()
            if self._pages is not None:
                self._pages.close()
                self._pages = None
        self.vectors.close()
        self._lock.close()
        self._turn.close()

    @contextlib.contextmanager
    def naming_errors(self) -> Iterator[None]:
        """Raise `DamagedRecord` for what SQLite says of a damaged file."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            said = str(error)
            if code in NOT_A_DATABASE or said.lower().startswith(UNREADABLE):
                raise self.damage(said) from error
            raise
        except UnicodeDecodeError as error:
            # SQLite's own message quotes what cannot be read.
            raise self.damage(error.object.decode(errors="replace")) from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS, uri=True
        )
        with self._opening:
            self._opened.append(connection)
        connection.row_factory = sqlite3.Row
        connection.create_function("row_crc", -1, row_crc, deterministic=True)
        # A statement over a large gallery may take minutes, which a hanging disk looks like.
        connection.set_progress_handler(heartbeat, STEPS_PER_BEAT)
        for pragma in PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
        return connection

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        # Otherwise a process that has just written would take the lock again before others wake up.
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        finally:
            fcntl.flock(self._turn, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def _open(self) -> None:
        is_new = not self.path.exists() or not self.path.stat().st_size
        marked = self.marks.read()
        if is_new:
            self._require_nothing_left(marked)
        # SQLite gives the files beside it the same rights.
        self.path.touch(mode=PRIVATE_FILE)
        self.path.chmod(PRIVATE_FILE)
        with self.naming_errors():
            connection = self.connection()
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if not found and not read_schema(connection):
                self._create(connection)
            elif EARLIEST_FORMAT <= found < FORMAT:
                connection.execute("BEGIN IMMEDIATE")
                create_tables(connection)
                connection.execute("COMMIT")
            elif found != FORMAT:
                raise InputProblem(
                    f"{self.path}: has format version {found}, and this program reads {FORMAT}; "
                    "serve it with the program version that wrote it"
                )
            if read_schema(connection) != schema_of_format():
                raise self.damage("its tables are not those that were created")
        if is_new:
            sync(self.folder)
        held = {**self.feeds(), COMMITS: self._last_commit()}
        self._require_acknowledged(held, marked)
        self._settle(held)
        self._cut_vectors()
        # A process that was killed may have left deleted contents in the log.
        self._empty_log()

    @property
    def _log(self) -> Path:
        return self.path.with_name(f"{self.path.name}-wal")

    def _require_nothing_left(self, marked: dict[int, Mark]) -> None:
        for path in self.folder.glob(f"*{UNFINISHED}"):
            raise InputProblem(
                f"{self.folder}: a restore or an upgrade into it was cut off ({path.name}); delete "
                "this directory and begin again"
            )
        if marked:
            raise DamagedRecord(self.path, "it is gone, and changes of it were acknowledged")
        snapshots = list(self.folder.glob(snapshot_name("[0-9]*", "*")))
        if snapshots:
            raise DamagedRecord(self.path, f"it is gone, and {len(snapshots)} snapshots are left")

    def _create(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        create_tables(connection)
        transaction = Transaction(self, connection)
        values = {
            "record_id": secrets.token_hex(16),
            "group_secret": secrets.token_bytes(32),
            "next_gallery": 1,
            "commit": COMMIT.pack(0, b""),
        }
        transaction.insert(RECORD, *({"name": name, "value": values[name]} for name in values))
        begin_feed(transaction, ALL_GALLERIES)
        connection.execute("COMMIT")

    def _last_commit(self) -> Mark:
        row = Reader(self).row(RECORD, "WHERE name = 'commit'")
        if row is None:
            raise self.damage("the number of its last commit is gone")
        return Mark(*COMMIT.unpack(row["value"]))

    def _require_acknowledged(self, held: dict[int, Mark], marked: dict[int, Mark]) -> None:
        asked = "SELECT token FROM changes WHERE gallery_id = ? AND seq = ?"
        for number, mark in marked.items():
            newest = held.get(number, Mark(0, b""))
            token = newest.token
            if newest.seq != mark.seq:
                # Changes from long ago are not kept.
                token = Reader(self).value(asked, (number, mark.seq)) or mark.token
            if newest.seq < mark.seq or token != mark.token:
                what = "commits" if number == COMMITS else f"changes of gallery {number}"
                raise DamagedRecord(
                    self.path,
                    f"it holds {newest.seq} {what}, and {mark.seq} were acknowledged: its end "
                    f"({self.path.name}-wal) was cut off or damaged, or an older copy was put "
                    f"back. To go on with what it holds, remove {self.marks.path.name}. Otherwise",
                )

    def _settle(self, feeds: dict[int, Mark]) -> None:
        """Overwrite the vectors of removed crops, and note the changes as acknowledged.

        Changes that a killed process committed and did not settle are settled too.
        """
        marked = self.marks.read(feeds)
        removed = (
            "SELECT slots FROM changes WHERE gallery_id = ? AND seq > ? "
            "AND kind IN ('removed', 'replaced')"
        )
        for gallery_id in feeds.keys() - {ALL_GALLERIES, COMMITS}:
            seen = marked.get(gallery_id, Mark(-1, b""))
            rows = Reader(self).execute(removed, (gallery_id, seen.seq)).fetchall()
            self._clear(gallery_id, [slot for (text,) in rows for slot in slots_of(text)])
        self.marks.note(feeds)

    def _clear(self, gallery_id: int, slots: Sequence[int]) -> None:
        for side in self.sides(gallery_id) if slots else ():
            side.clear(slots)

    def sides(self, gallery_id: int) -> list[VectorFile]:
        """Open the vector files of a gallery: of those searched, and of those prepared."""
        asked = (
            "SELECT side, dimension, staged_side, staged_dimension FROM galleries "
            "WHERE gallery_id = ?"
        )
        row = Reader(self).execute(asked, (gallery_id,)).fetchone()
        pairs = [] if row is None else [tuple(row[:2]), tuple(row[2:])]
        return [
            self.vectors.open(gallery_id, side, dimension)
            for side, dimension in pairs
            if side is not None and dimension is not None
        ]

    def _cut_vectors(self) -> None:
        asked = (
            "SELECT gallery_id, next_slot, side, dimension, staged_side, staged_dimension "
            "FROM galleries"
        )
        there = self.vectors.there()
        for gallery_id, next_slot, *sides in Reader(self).execute(asked).fetchall():
            for side, dimension in (sides[:2], sides[2:]):
                if (gallery_id, side) in there:
                    file = self.vectors.open(gallery_id, side, dimension or 1)
                    # Before its dimension is known, none of its vectors is committed.
                    file.cut(next_slot if dimension else 0)

    def _run_waiting(self) -> None:
        count = min(len(self._waiting), RULES_AT_ONCE)
        batch = [self._waiting.popleft() for _ in range(count)]
        try:
            with self._exclusive():
                self._commit(batch)
        except BaseException as error:
            for work in batch:
                work.error = error
        for work in batch:
            if work.error is None:
                work.done.set_result(work.result)
            else:
                work.done.set_exception(_named(work.error))

    def _commit(self, batch: Sequence[_Work]) -> None:
        connection = self.connection()
        changed_before = connection.total_changes
        commit: Mark | None = None
        with self.naming_errors():
            connection.execute("BEGIN IMMEDIATE")
            try:
                commit = Mark(self._last_commit().seq + 1, secrets.token_bytes(TOKEN_BYTES))
                found: list[Transaction | None] = []
                for work in batch:
                    found.append(self._run(connection, work, tuple(found)))
                done = [transaction for transaction in found if transaction is not None]
                if connection.total_changes == changed_before:
                    connection.execute("ROLLBACK")
                    return
                self._write_vectors(done)
                notes = [note for transaction in done for note in transaction.notes]
                feeds = add_changes(Transaction(self, connection), notes)
                deleted = [note.gallery_id for note in notes if note.kind == "gallery_deleted"]
                self.marks.note(dict.fromkeys(deleted))
                connection.execute(NOTE_COMMIT, (COMMIT.pack(*commit),))
                failpoint("record.before-commit")
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                # An error may arrive although the commit has happened.
                if self._last_commit() != commit:
                    raise
        failpoint("record.committed")
        try:
            self._settle({**feeds, COMMITS: commit})
        except OSError as error:
            for work, transaction in zip(batch, found, strict=True):
                if transaction is not None and transaction.removes:
                    work.error = _not_overwritten(error)
        failpoint("record.settled")
        self.deleted.add(crop_id for transaction in done for crop_id in transaction.deleted)
        removes = any(transaction.removes for transaction in done)
        if self._log_has_deleted or removes or _size(self._log) > LOG_BYTES:
            self._empty_log()

    def _run(
        self, connection: sqlite3.Connection, work: _Work, earlier: Sequence[Transaction | None]
    ) -> Transaction | None:
        """Run a rule; None where it failed, and nothing of it is left."""
        transaction = Transaction(self, connection, earlier=earlier)
        connection.execute("SAVEPOINT rule")
        try:
            work.result = work.rule(transaction)
        except BaseException as error:
            # A full disk ends the whole transaction, with the changes of other rules.
            if not connection.in_transaction:
                raise
            connection.execute("ROLLBACK TO rule")
            connection.execute("RELEASE rule")
            work.error = error
            return None
        connection.execute("RELEASE rule")
        return transaction

    def _write_vectors(self, done: Iterable[Transaction]) -> None:
        files: dict[tuple[int, int, int], dict[int, Vector]] = {}
        for transaction in done:
            for place, vectors in transaction.vectors.items():
                files.setdefault(place, {}).update(vectors)
        for (gallery_id, side, dimension), vectors in files.items():
            self.vectors.open(gallery_id, side, dimension).write(vectors)

    def _empty_log(self) -> None:
        """Copy the write-ahead log into the file, and overwrite the log and free space in the file.

        Both may hold deleted contents. A read of an earlier moment prevents it; its end and the
        next commits try again.
        """
        connection = self.connection()
        # A backup may read for minutes, and no write waits for it twice.
        busy_ms = 0 if self._log_has_deleted else LOG_BUSY_MS
        self._log_has_deleted = True
        with contextlib.suppress(sqlite3.DatabaseError, OSError):
            connection.execute(f"PRAGMA busy_timeout = {busy_ms}")
            _, frames, copied = connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
            if self._pages is None:
                self._pages = PageFile(self.path)
            self._pages.wipe(self._frames.new_pages(copied))
            self._frames.note_wiped(copied)
            # Emptying the log would copy pages that a read has held up, and not wipe them.
            if copied == frames:
                busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                self._log_has_deleted = bool(busy)
        connection.execute(f"PRAGMA busy_timeout = {int(BUSY_SECONDS * 1000)}")


class RecordPart:
    """Reads and rules of one kind of thing in the record."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reader = Reader(database)


Part = TypeVar("Part", bound=RecordPart)


def transactional(
    rule: Callable[Concatenate[Part, Transaction, Given], Result],
) -> Callable[Concatenate[Part, Given], Result]:
    """Make a method a rule that `Database.write` runs; callers leave out its `transaction`."""

    @functools.wraps(rule)
    def run(self: Part, /, *args: Given.args, **kwargs: Given.kwargs) -> Result:
        return self._database.write(functools.partial(rule, self), *args, **kwargs)

    return run


def _call(
    rule: Callable[..., Result],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    transaction: Transaction,
) -> Result:
    return rule(transaction, *args, **kwargs)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _named(error: BaseException) -> BaseException:
    """Return the error that a caller is told of one that the disk or SQLite raised."""
    if not isinstance(error, OSError | sqlite3.OperationalError):
        return error
    named = StorageFailed(
        f"the record could not be written ({error}); nothing was stored, free space in the data "
        "directory and send the request again"
    )
    named.__cause__ = error
    return named


def _not_overwritten(error: OSError) -> ServiceError:
    named = StorageFailed(
        f"the crops are removed, and their vectors could not be overwritten on the disk ({error}); "
        "that happens with the next change of the gallery, or at the next start"
    )
    named.__cause__ = error
    return named
