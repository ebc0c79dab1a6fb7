"""The change of a record of a former format into one of this program's, by the first start."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.desk.tables import index_visits
from service.errors import DamagedRecord
from service.ops.data_directory import UNFINISHED, failpoint, hold, sync
from service.ops.locks import ProcessLock
from service.record.schema import FORMAT, changing_statements, describe_sizes
from service.record.sqlite import PRAGMAS, SQLiteSource, read_format, require_schema
from service.record.transaction import FILE, Transaction
from service.record.vectors import PRIVATE_FILE
from service.settings import Settings
from service.store.verify import UntouchedRecord

log = logging.getLogger(__name__)
# The record before the change, with the number of its format and the time of the change.
COPY_NAME = "record-of-format-{}-{:%Y%m%dT%H%M%SZ}.sqlite3"
COPIES = "record-of-format-*.sqlite3"
PART = f"record-of-former-format{UNFINISHED}"


def change_format(settings: Settings) -> None:
    """Turn the record of a former format into one of this program's; leave any other as it is.

    SQLite's is copied before, for the way back.

    Raises:
        InputProblem: it cannot be changed, and is as it was.
    """
    folder = settings.data_dir
    if url := settings.database_with_password:
        # An optional dependency.
        from service.postgres.formats import change_format_in_postgres

        change_format_in_postgres(folder, url, settings.database_accept)
    elif _is_former(folder):
        try:
            (folder / "lock").touch()
            with hold(folder / "lock"):
                _change_beside_copy(folder)
        except BlockingIOError as error:
            raise InputProblem(
                f"data directory {folder}: this version changes the format of its record, and "
                "another process is serving it; stop that one first"
            ) from error
        except (OSError, sqlite3.OperationalError) as error:
            raise InputProblem(
                f"data directory {folder}: the format of its record could not be changed "
                f"({error}), and the record is as it was; its copy needs as much space as {FILE}: "
                "free space there, and start again"
            ) from error


def change_tables(record: SQLiteSource) -> None:
    """Turn the tables of a record into those of this program, in one transaction.

    Raises:
        OtherFormat: the record has neither these nor those of a former format.
        sqlite3.OperationalError: the disk is full or fails; nothing was changed.
    """
    former = read_format(record)
    if former == FORMAT:
        return
    connection = record.connection()
    connection.execute("BEGIN EXCLUSIVE")
    try:
        for statement in changing_statements(former):
            connection.execute(statement)
        index_visits(Transaction(record))
        describe_sizes(connection)
        connection.execute(f"PRAGMA user_version = {FORMAT}")
        require_schema(record)
        failpoint("format.changed")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    failpoint("format.committed")


@contextlib.contextmanager
def open_any_format(folder: Path) -> Iterator[SQLiteSource]:
    """Open a record to change its tables; nobody else may be using it."""
    with contextlib.closing(SQLiteSource(folder)) as record:
        for pragma in PRAGMAS:
            record.connection().execute(f"PRAGMA {pragma}")
        yield record


def _is_former(folder: Path) -> bool:
    # A record that cannot be read is named when it is opened.
    with (
        contextlib.suppress(sqlite3.Error, DamagedRecord, InputProblem),
        contextlib.closing(UntouchedRecord(folder)) as record,
    ):
        return read_format(record) != FORMAT
    return False


def _change_beside_copy(folder: Path) -> None:
    lock = ProcessLock(folder / "record.lock", "starts", turn=folder / "record.turn")
    # A command may be writing, which holds no lock of the directory.
    with contextlib.closing(lock), lock.hold(), open_any_format(folder) as record:
        former = read_format(record)
        log.info("changing the record of format %d to format %d", former, FORMAT)
        copy = _copy_aside(record, former)
        try:
            change_tables(record)
        except BaseException:
            copy.unlink()
            raise
    log.warning(
        "the record had format %d and now has format %d; %s is a copy of it as it was, for a "
        "way back to the former version: delete it once you stay with this one, as it has the "
        "crops of people who are forgotten from now on",
        *(former, FORMAT, copy),
    )


def _copy_aside(record: SQLiteSource, former: int) -> Path:
    """Copy a record into a file beside it; nothing is left if that fails."""
    copy = record.folder / COPY_NAME.format(former, datetime.now(UTC))
    # A start that was killed amid its copy has left this file.
    part = record.folder / PART
    part.unlink(missing_ok=True)
    # SQLite fills an empty file, and creates others so that everybody may read them.
    part.touch(mode=PRIVATE_FILE)
    try:
        record.connection().execute("VACUUM main INTO ?", (str(part),))
        sync(part)
        part.rename(copy)
        sync(record.folder)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    failpoint("format.copied")
    return copy
