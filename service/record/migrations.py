"""Migrations of the tables of a record from the formats of earlier releases to today's.

A change of `schema.sql` needs a new format and a migration to it, unless that format is not
released yet: then its migration changes too. A test compares the tables of a migrated record with
those of a new one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from pydantic_core import from_json, to_json

from model.crops.texts import nfc
from model.problems import InputProblem
from service.record.schema import FORMAT, describe_sizes, run_script
from service.record.transaction import Reader, Source

# Format of version 0.5.0, and the earliest that is read.
EARLIEST_FORMAT = 11
# The last format that only earlier releases read, and the last one of the development of 0.6.
LAST_BEFORE_0_5 = 10
LAST_UNRELEASED = 14


def _migrate_to_15(connection: sqlite3.Connection) -> None:
    run_script(connection, "to_format_15.sql")
    _rename_filters_of_groupings(connection)


def _rename_filters_of_groupings(connection: sqlite3.Connection) -> None:
    statement = "SELECT job_id, parameters FROM jobs WHERE kind = 'grouping'"
    for job_id, parameters in connection.execute(statement).fetchall():
        wanted = from_json(parameters)
        wanted.pop("unnamed", None)
        wanted["named"] = False
        if camera := wanted.pop("camera", None):
            wanted["cameras"] = [nfc(camera)]
        connection.execute(
            "UPDATE jobs SET parameters = ? WHERE job_id = ?", (to_json(wanted).decode(), job_id)
        )


# Each function changes a record of the preceding format of this table, or of the earliest.
MIGRATIONS: dict[int, Callable[[sqlite3.Connection], None]] = {15: _migrate_to_15}


def read_format(source: Source) -> int:
    """Return the format of a record.

    Raises:
        DamagedRecord: the file is damaged.
        InputProblem: neither this program nor a migration reads it.
    """
    version: int = Reader(source).value("PRAGMA user_version")
    require_format(source.path, version)
    return version


def require_format(path: Path, version: int) -> None:
    """Raise `InputProblem` if neither this program nor a migration reads the format of a record."""
    if version in (EARLIEST_FORMAT, *MIGRATIONS):
        return
    remedy = "use the program version that wrote it"
    if 0 < version <= LAST_BEFORE_0_5:
        remedy = "serve it once with version 0.5.0, which brings it to format 11"
    elif EARLIEST_FORMAT < version <= LAST_UNRELEASED:
        remedy = (
            "a version wrote it that was never released; restore a backup of version 0.5.0, or "
            "enroll the crops again"
        )
    raise InputProblem(
        f"{path}: has format version {version}, and this program reads {FORMAT}; {remedy}"
    )


def require_upgraded(path: Path, version: int) -> None:
    """Raise `InputProblem` if a record is not of today's format."""
    require_format(path, version)
    if version < FORMAT:
        raise InputProblem(
            f"{path}: is of version 0.5 (format {version}); the next start of gmn serve upgrades "
            f"it to format {FORMAT}, and then this command works"
        )


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring the tables of a record to today's format, in the open transaction.

    Args:
        version: its format, which `require_format` accepts.
    """
    for number, change in sorted(MIGRATIONS.items()):
        if number > version:
            change(connection)
    describe_sizes(connection)
    connection.execute(f"PRAGMA user_version = {FORMAT}")
