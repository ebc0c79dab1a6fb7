"""The record behind an engine, shared by all processes, and its vector files.

A rule is a function that reads and changes the record through the `Transaction` passed to it.
`Database.write` runs it and returns when its changes are on the disk.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import threading
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar

from service.errors import ServiceError, StorageFailed
from service.ops.data_directory import (
    failpoint,
)
from service.ops.locks import WorkLock
from service.ops.threads import Wake, holding
from service.record.deletions import Deletion, DeletionLog
from service.record.schema import (
    as_moment,
    now_micros,
)
from service.record.transaction import (
    Connection,
    Reader,
    Source,
    Transaction,
    Values,
)
from service.record.vectors import VectorFile

Params = ParamSpec("Params")
Result = TypeVar("Result")

# Pause between two looks for new commits, and while none is announced.
POLL_SECONDS = 0.02
LOOK_SECONDS = 1.0
# Name of the time at which the indexes were built anew, in the table `record`.
REBUILT = "indexes_rebuilt"
NOT_WRITTEN = (
    "the record could not be written ({}); nothing was stored, free space in the data directory "
    "and send the request again"
)
NOT_LOGGED = (
    "what was deleted is gone, but could not be noted in deletions.log ({}); free space in the "
    "data directory; the next change, or the next start, tries again"
)
NOT_OVERWRITTEN = (
    "the crops are removed, but their vectors could not be overwritten on the disk ({}); the next "
    "change of the gallery, or the next start, tries again"
)
# Generations of the galleries' vectors: the searched ones, and those that a reindex prepares. No
# vectors of a generation are committed before its dimension is known.
GENERATIONS = """(
    SELECT gallery_id, name, generation, dimension, next_slot FROM galleries
    UNION ALL
    SELECT gallery_id, name, staged_generation, staged_dimension, next_slot FROM galleries
    WHERE staged_generation IS NOT NULL
) AS generations"""
RECORD_ID = "SELECT value FROM record WHERE name = 'record_id'"
NOTE_COMMIT = "UPDATE record SET value = ? WHERE name = 'commit'"
# Number of the newest line of the log of deletions that a record in SQLite has.
NEWEST_DELETION = "newest_deletion"
NOTE_DELETION = f"UPDATE record SET value = ? WHERE name = '{NEWEST_DELETION}'"
# Slots whose vectors a commit may have left to be overwritten.
SLOTS_TO_OVERWRITE = """
SELECT gallery_id, slot FROM deletions JOIN tombstones USING (gallery_id)
JOIN galleries USING (gallery_id)
WHERE kind = 'crop' AND crop_id = id AND name IS NOT NULL
"""


class Database(Source):
    """A record whose rules run in turns; each engine has a subclass.

    An engine implements the abstract methods, and those of `Source`. It overrides the others if it
    has something to do there.

    Attributes:
        machine: name of this machine among those that share the record; None if it is the only one.
        unapplied_after: number of the line of the log of deletions after which all lines have to be
            applied to the record, which is an earlier state; None if it has them.
    """

    def __init__(self, folder: Path, only_read: bool = False) -> None:
        super().__init__(folder, only_read)
        self.deletions = DeletionLog(folder)
        self.machine: str | None = None
        self.unapplied_after: int | None = None
        self._version_connection: Connection | None = None
        self._version_lock = threading.Lock()
        self._write_lock = threading.Lock()

    def write(
        self,
        rule: Callable[Concatenate[Transaction, Params], Result],
        *args: Params.args,
        **kwargs: Params.kwargs,
    ) -> Result:
        """Run a rule in a transaction; its changes are on the disk when this returns.

        Raises:
            StorageFailed: the disk is full or fails; nothing was changed, unless the message says
                otherwise.
            Exception: any error of the rule, after its changes were rolled back.
        """
        with self._lock_writers(), self._turn():
            return self._commit(lambda transaction: rule(transaction, *args, **kwargs))

    def note_indexes_rebuilt(self) -> None:
        now = {"name": REBUILT, "value": now_micros()}
        self.write(Transaction.insert, "record", now, instead=True)

    def indexes_rebuilt_at(self) -> datetime | None:
        row = Reader(self).row("record", "WHERE name = ?", (REBUILT,))
        return as_moment(int(row["value"])) if row else None

    def newest_deletion(self) -> int:
        """Return the number of the newest line of the log of deletions that the record has."""
        statement = "SELECT CAST(value AS BIGINT) FROM record WHERE name = ?"
        return Reader(self).value(statement, (NEWEST_DELETION,)) or 0

    def note_applied(self, newest: int) -> None:
        """Note that the record has all lines of the log of deletions up to a number."""
        self.unapplied_after = None
        self.write(Transaction.change, NOTE_DELETION, (newest,))

    def trim_deletions(self) -> None:
        """Drop old lines of the log of deletions; raises `OSError`."""
        self.write(lambda _: self.deletions.trim(datetime.now(UTC)))

    @abstractmethod
    def work_lock(self, work: str) -> WorkLock:
        """Return the right to do some work of the record alone, by a name of the work."""

    def note_followed(self, _commit: int) -> None:
        """Note that this process is about to show a commit of another one.

        Where all processes share a data directory, the one that committed has noted it.

        Raises:
            StorageFailed: deletions of that process could not be noted or overwritten here.
        """

    def tend(self) -> None:
        """Finish the commit of a killed process, and see whether other processes can write.

        Call this every second. It never waits for another writer.
        """

    def rebuild_indexes(self) -> None:
        """Build every index anew, if copies of deleted labels may remain in its pages.

        Others write between two indexes.

        Raises:
            StorageFailed: the disk is full or fails; the indexes are as before.
        """
        self.note_indexes_rebuilt()

    @property
    def writes_wait(self) -> bool:
        """True while writes are refused, because a process that holds the lock stands still."""
        return False

    @abstractmethod
    def data_version(self) -> int:
        """Return a number that changes with every commit of any process or thread."""

    @abstractmethod
    def wait_for_commits(self, wake: Wake) -> bool:
        """Wait until there may be a new commit, or for a short while; return True if woken."""

    def prefetch(self) -> None:
        """Ask the system to read the record into its cache, unless it is large.

        Call this before reading every crop: their rows are scattered over the file.
        """

    @abstractmethod
    def stored_bytes(self) -> int: ...

    def _lock_writers(self) -> AbstractContextManager[None]:
        # A restore may hold the lock for minutes.
        return holding(self._write_lock)

    @abstractmethod
    def _turn(self) -> AbstractContextManager[None]:
        """Lock out the writers of other processes.

        Raises:
            StorageFailed: the disk is full or fails; nothing was changed.
            RecordWaits: the process that writes stands still.
        """

    @abstractmethod
    def _begin(self) -> int:
        """Begin a transaction that writes, and return the number of the newest commit."""

    def _end(self, statement: Literal["COMMIT", "ROLLBACK"]) -> None:
        """End the transaction."""
        self.connection().execute(statement)

    def _note_commit(self, transaction: Transaction) -> None:
        transaction.change(NOTE_COMMIT, (transaction.commit,), is_private=False)

    def _has_committed(self, number: int) -> bool:
        """Return whether a transaction was committed whose COMMIT raised an error."""
        return Reader(self).newest_commit() == number

    def wait_until_kept(self, _commit: int) -> None:
        """Return once a commit that this thread has seen cannot be lost any more.

        An answer that rests on a commit of another request, and has none of its own, waits here: a
        repeated request is told that its first attempt has happened. In an engine without
        standbys, every commit that a thread sees is on the disk.

        Raises:
            RecordUnavailable: PostgreSQL does not answer.
        """

    def check_pages(self, _table: str) -> list[str]:
        """Return the damage in the pages of a table and its indexes, a line for each."""
        return []

    def _put_first_values(self, more: Mapping[str, Any]) -> None:
        values = {
            **more,
            "record_id": secrets.token_hex(16),
            "group_secret": secrets.token_hex(32),
            "next_gallery": 1,
            "commit": 0,
            REBUILT: now_micros(),
        }
        statement = "INSERT INTO record (name, value) VALUES (?, ?)"
        Transaction(self).change_many(statement, values.items())

    @abstractmethod
    def _acknowledge(self, commit: int) -> None:
        """Note a commit, and finish its deletions; raises `StorageFailed` as that does."""

    def _finish_deletions(self, condition: str = "TRUE", values: Values = ()) -> int | None:
        """Log deletions, and overwrite the vectors of removed crops.

        Args:
            condition, values: which rows of `deletions` are meant.

        Returns:
            The number of the newest line; None if nothing was deleted.

        Raises:
            StorageFailed: the disk is full or fails; the next commit, or the next start, tries
                again.
        """
        statement = f"SELECT kind, id, gallery_id FROM deletions WHERE {condition}"
        rows = Reader(self).tuples(statement, values)
        if not rows:
            return None
        now = datetime.now(UTC)
        try:
            # Another process may have been killed amid a line.
            newest = self.deletions.begin(Reader(self).value(RECORD_ID), self.newest_deletion())
            # A backup that finds a vector overwritten finds the deletion in the log.
            self.deletions.append(
                Deletion(number, now, kind, deleted_id, gallery_id or None)
                for number, (kind, deleted_id, gallery_id) in enumerate(rows, newest + 1)
            )
        except OSError as error:
            raise storage_failure(NOT_LOGGED, error) from error
        try:
            self._overwrite_removed(condition, values)
        except OSError as error:
            raise storage_failure(NOT_OVERWRITTEN, error) from error
        return newest + len(rows)

    def _overwrite_removed(self, condition: str, values: Values) -> None:
        removed: dict[int, list[int]] = defaultdict(list)
        statement = f"{SLOTS_TO_OVERWRITE} AND {condition}"
        for gallery_id, slot in Reader(self).tuples(statement, values):
            removed[gallery_id].append(slot)
        for gallery_id, slots in removed.items():
            for file in self.vector_files(gallery_id):
                file.clear(slots)

    def vector_files(self, gallery_id: int) -> list[VectorFile]:
        """Open a gallery's vector files: the searched one and the one being prepared, if any."""
        statement = (
            f"SELECT generation, dimension FROM {GENERATIONS} "
            "WHERE gallery_id = ? AND dimension IS NOT NULL"
        )
        return [
            self.vectors.open(gallery_id, generation, dimension)
            for generation, dimension in Reader(self).tuples(statement, (gallery_id,))
        ]

    def _commit(self, rule: Callable[[Transaction], Result]) -> Result:
        connection = self.connection()
        changed_before = connection.total_changes
        number = -1
        with self.naming_errors():
            newest = self._begin()
            try:
                number = newest + 1
                transaction = Transaction(self, commit=number)
                result = rule(transaction)
                if connection.total_changes == changed_before:
                    self._end("ROLLBACK")
                    self.wait_until_kept(newest)
                    return result
                for file in transaction.unsynced:
                    file.sync()
                self._note_commit(transaction)
                failpoint("record.before-commit")
                self._end("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    self._end("ROLLBACK")
                # The commit may have succeeded although the engine reported an error.
                if not self._has_committed(number):
                    if isinstance(error, ServiceError) and error.status < 500:
                        # A refusal may rest on what another request has changed.
                        self.wait_until_kept(newest)
                    raise
        failpoint("record.committed")
        try:
            self._acknowledge(number)
        except StorageFailed:
            # The commit is stored, but deleted bytes may still be on the disk.
            if transaction.overwrites:
                raise
        finally:
            self._clean_after(transaction)
        return result

    def _clean_after(self, transaction: Transaction) -> None:
        for gallery_id, generation in transaction.dropped:
            with contextlib.suppress(OSError):
                self.vectors.remove(gallery_id, generation)
        failpoint("record.settled")


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


def storage_failure(sentence: str, error: BaseException) -> ServiceError:
    failure = StorageFailed(sentence.format(error))
    failure.__cause__ = error
    return failure
