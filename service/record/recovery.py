"""Recovery of a new record from the intact parts of a damaged one."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from model.problems import InputProblem
from service.record.backup import new_data_directory
from service.record.database import Database
from service.record.deletions import FORMER_NAME, LOG_NAME, Deletion, read_deletions, read_former
from service.record.galleries import EMPTY, INDEX_OWNERS, add_gallery, count_crops
from service.record.keys import ASKED_FOR, ask_for_keys
from service.record.record import Record
from service.record.schema import TABLES
from service.record.transaction import FILE, Reader, Transaction, batches
from service.record.vectors import Vector
from service.record.verify import GalleryFound, Inspection, RecordFound, Values, inspect
from service.record.watch import NEWEST_ALERT, stop_watching

ROWS_AT_ONCE = 500
# Single values that are copied; the runtimes for features are chosen again.
VALUES = (
    "record_id",
    "group_secret",
    "next_gallery",
    ASKED_FOR,
    NEWEST_ALERT,
    INDEX_OWNERS,
)
# Tables that are rebuilt, or whose rows have no use in the new record.
LEFT_OUT = (
    "record",
    "feeds",
    "changes",
    "galleries",
    "people",
    "crops",
    "checksums",
    "requests",
    "jobs",
    "job_problems",
    "calibrations",
    "calibration_searches",
    "runtimes",
    "unneeded_files",
    "remote_indexes",
)


@dataclass
class Recovered(GalleryFound):
    """The outcome for one gallery.

    Attributes:
        lost: lines of `damage` whose crops are lost.
    """

    lost: list[str] = field(default_factory=list)


@dataclass
class Recovery:
    """The outcome of a recovery.

    Attributes:
        unread: problems of the whole record. If there are any, keys may be missing; the new record
            asks for a key.
    """

    galleries: list[Recovered] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def recover(damaged: Path, into: Path, removed: Iterable[str] = ()) -> Recovery:
    """Write a new data directory from the intact parts of a damaged one.

    Galleries and crops keep their ids. Deleted crops stay deleted if the damaged directory or the
    caller knows of them.

    Args:
        damaged: the data directory, which no service may be using; it is only read.
        into: an empty or new folder.
        removed: ids of crops known to be deleted.
    """
    now = datetime.now(UTC)
    deleted = [Deletion(now, "crop", crop_id) for crop_id in removed]
    deleted += read_former(damaged / FORMER_NAME, now)
    deleted += read_deletions(damaged / LOG_NAME)
    with new_data_directory(into) as part, contextlib.ExitStack() as stack:
        record = stack.enter_context(contextlib.closing(Record(part)))
        inspection = None
        found = RecordFound(problems=["the record"])
        if (damaged / FILE).is_file():
            with contextlib.suppress(InputProblem, sqlite3.DatabaseError):
                inspection = stack.enter_context(inspect(damaged))
        if inspection is not None:
            found = inspection.found
            _copy_rows(record.database, inspection)
        recovery = Recovery(unread=[*found.problems])
        record.database.write(
            Transaction.change,
            "UPDATE record SET value = max(value, (SELECT coalesce(max(gallery_id), 0) + 1 "
            "FROM galleries)) WHERE name = 'next_gallery'",
        )
        for entry in record.galleries.all():
            record.database.write(count_crops, entry.gallery_id)
        record.delete_again(deleted)
        for entry in record.galleries.all():
            outcome = Recovered(entry.gallery_id, entry.name, entry.crops)
            recovery.galleries.append(outcome)
            inspected = found.galleries.get(entry.gallery_id)
            outcome.damage = [*inspected.damage] if inspected else ["its record is missing"]
        record.delete_again(deleted)
        for outcome in recovery.galleries:
            _note_recovered(record.database, outcome)
        record.database.write(stop_watching)
        if recovery.unread:
            # Without its lost keys a service would let in everybody on its machine.
            record.database.write(ask_for_keys)
    return recovery


def _copy_rows(database: Database, inspection: Inspection) -> None:
    values = [row for row in inspection.rows("record") if row["name"] in VALUES]
    database.write(_insert_consistent, "record", values, instead=True)
    for row in inspection.galleries.values():
        database.write(_add_gallery, row)
    _copy_table(database, inspection, "people")
    people = {None, *Reader(database).column("SELECT person_id FROM people")}
    for batch in batches(inspection.crops(), ROWS_AT_ONCE):
        for row, _ in batch:
            if row["person_id"] not in people:
                line = f"the name of crop {row['crop_id']} is missing"
                inspection.found.note(row["gallery_id"], line)
                row["person_id"] = None
        database.write(_insert_crops, batch, inspection.galleries)
    for table in TABLES:
        if table not in LEFT_OUT:
            _copy_table(database, inspection, table)


def _copy_table(database: Database, inspection: Inspection, table: str) -> None:
    for rows in batches(inspection.rows(table), ROWS_AT_ONCE):
        database.write(_insert_consistent, table, rows)


def _note_recovered(database: Database, outcome: Recovered) -> None:
    """Note which damaged crops are lost."""
    statement = "SELECT crop_id FROM crops WHERE gallery_id = ?"
    present = set(Reader(database).column(statement, (outcome.gallery_id,)))
    outcome.lost = [
        line for line in outcome.damage if not any(word in present for word in line.split())
    ]


def _insert_crops(
    transaction: Transaction, crops: Sequence[tuple[Values, Vector]], galleries: dict[int, Values]
) -> None:
    transaction.insert("crops", *(row for row, _ in crops))
    for row, vector in crops:
        gallery_id = row["gallery_id"]
        vectors = {row["slot"]: (row["crop_id"], vector)}
        transaction.write_vectors(gallery_id, galleries[gallery_id]["side"], vectors)


def _insert_consistent(
    transaction: Transaction, table: str, rows: Iterable[Values], instead: bool = False
) -> None:
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):
            transaction.insert(table, row, instead=instead)


def _add_gallery(transaction: Transaction, row: Values) -> None:
    # Followers of the damaged gallery must read it again.
    add_gallery(transaction, row | EMPTY | {"version": row["version"] + 1})
