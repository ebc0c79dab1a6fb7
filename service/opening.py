"""Opening of a data directory: the record on its engine, with the tables of every slice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from service.desk import tables as desk
from service.record.database import Database
from service.record.record import Record
from service.record.sqlite import SQLiteDatabase
from service.watch.tables import parts as watch

DELETED_ROWS = {**desk.DELETED_ROWS, **watch.DELETED_ROWS}
REMOVAL_RULES = (desk.forget_visits,)


def open_folder(folder: Path, url: str | None = None, accepted: Sequence[str] = ()) -> Record:
    """Open the record of a data directory.

    Args:
        url: URL of PostgreSQL; None for the SQLite file in the folder.
        accepted: settings for durability that PostgreSQL may have off.

    Raises:
        InputProblem: it is no record that this program can use.
        DamagedRecord: acknowledged data is missing.
        RecordUnavailable: PostgreSQL does not answer.
    """
    database = open_database(folder, url, accepted)
    database.removal_rules = REMOVAL_RULES
    return Record(database, DELETED_ROWS)


def open_database(folder: Path, url: str | None, accepted: Sequence[str] = ()) -> Database:
    if url is None:
        return SQLiteDatabase(folder)
    # An optional dependency.
    from service.postgres.database import PostgresDatabase

    return PostgresDatabase(folder, url, accepted)
