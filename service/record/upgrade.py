"""The upgrade of a record of version 0.5: its tables, and the forms of its labels.

Labels were stored as they were sent, and are stored in Unicode normal form C since. People whose
names become equal by that are joined, and their merges can be undone.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

from model.crops.texts import nfc
from model.problems import InputProblem
from service.errors import DamagedRecord, StorageFailed
from service.ops.locks import holder_of
from service.record.crop_changes import mark_changed
from service.record.crop_rows import read_ids
from service.record.galleries import next_version
from service.record.migrations import migrate, read_format
from service.record.people import OF_PERSON, find_person, merge_person
from service.record.schema import FORMAT, TABLES, as_bytes, natural_order, read_schema
from service.record.spellings import NOT_ASCII
from service.record.sqlite import PRAGMAS, SQLiteSource, require_schema
from service.record.transaction import FILE, Reader, Row, Transaction, settings_of

log = logging.getLogger(__name__)
# Name of the path of the copy that was made before the upgrade, in the table `record`.
COPY = "copy_before_upgrade"
# Labels beside the names of people, as (table, column).
LABELS = (
    ("crops", "camera"),
    ("tracks", "track"),
    ("alerts", "camera"),
    ("alerts", "track"),
    ("merges", "identity"),
)
# Tables whose rows belong to the crop in their slot.
OF_SLOTS = ("crops", "tracks")


def upgrade_record(folder: Path, copy: Path | None = None) -> None:
    """Bring a record of version 0.5 to this version, in one transaction, or leave it as it is.

    A record of this version is not changed.

    Args:
        copy: the backup that was made of it before; the record then names it.

    Raises:
        InputProblem: another process has the record open, or no upgrade reads its format.
        DamagedRecord: the file is damaged.
        StorageFailed: the disk is full or fails.
    """
    try:
        _upgrade(folder, copy)
    except sqlite3.OperationalError as error:
        raise StorageFailed(
            f"{folder / FILE} could not be upgraded ({error}); nothing was changed, free space "
            "there and start again"
        ) from error


def _upgrade(folder: Path, copy: Path | None) -> None:
    with contextlib.closing(SQLiteSource(folder)) as source, _only_here(source) as connection:
        version = read_format(source)
        if version == FORMAT:
            return
        # A table that a migration creates anew must not take the rows that refer to it along.
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.execute("BEGIN EXCLUSIVE")
        try:
            migrate(connection, version)
            require_schema(source)
            transaction = Transaction(source, commit=Reader(source).newest_commit())
            for gallery in transaction.intact_rows("galleries", "WHERE name IS NOT NULL"):
                _normalize_labels(transaction, gallery)
            if copy is not None:
                transaction.insert("record", {"name": COPY, "value": str(copy)})
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def find_copy(reader: Reader) -> Path | None:
    """Return the backup that was made before the upgrade, if the record names one."""
    row = reader.row("record", "WHERE name = ?", (COPY,))
    return Path(row["value"]) if row else None


def forget_copy(transaction: Transaction) -> None:
    transaction.change("DELETE FROM record WHERE name = ?", (COPY,))


@contextlib.contextmanager
def _only_here(source: SQLiteSource) -> Iterator[sqlite3.Connection]:
    """Open a record that no other process has open, and that none can open meanwhile."""
    with source.naming_errors():
        connection = source.connection()
        connection.execute("PRAGMA busy_timeout = 0")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            for pragma in PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            read_schema(connection)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise InputProblem(
                f"{source.path}: {holder_of(source.path)} has it open; end that process and start "
                "again. Nothing was changed"
            ) from error
        yield connection


def _normalize_labels(transaction: Transaction, gallery: Row) -> None:
    slots: set[int] = set()
    for table, column in LABELS:
        slots |= _normalize_column(transaction, table, column, gallery["gallery_id"])
    slots |= _normalize_people(transaction, gallery)
    if slots:
        version = next_version(transaction, gallery["gallery_id"])
        mark_changed(transaction, gallery["gallery_id"], sorted(slots), version)


def _normalize_column(
    transaction: Transaction, table: str, column: str, gallery_id: int
) -> set[int]:
    """Bring a label to NFC; return the slots of changed crops."""
    keys = TABLES[table].key
    rows = transaction.tuples(
        f"SELECT {', '.join(keys)}, {as_bytes(column)} FROM "
        f"(SELECT {column} AS text, * FROM {table} WHERE gallery_id = ?) WHERE {NOT_ASCII}",
        (gallery_id,),
    )
    slots = set()
    for *values, stored in rows:
        normal = _normalize(stored)
        key = dict(zip(keys, values, strict=True))
        if normal is not None and _change_intact(transaction, table, key, {column: normal}):
            slots.update([key["slot"]] if table in OF_SLOTS else [])
    # A new version of a damaged crop would give it a checksum that matches.
    return {slot for slot in slots if _is_intact_crop(transaction, gallery_id, slot)}


def _is_intact_crop(transaction: Transaction, gallery_id: int, slot: int) -> bool:
    try:
        return bool(read_ids(transaction, "WHERE gallery_id = ? AND slot = ?", (gallery_id, slot)))
    except DamagedRecord:
        return False


def _normalize_people(transaction: Transaction, gallery: Row) -> set[int]:
    """Bring names to NFC, and join people whose names become equal; return their slots."""
    gallery_id = gallery["gallery_id"]
    people: dict[str, list[int]] = defaultdict(list)
    for person_id, stored in transaction.tuples(
        f"SELECT person_id, {as_bytes('text')} FROM "
        f"(SELECT name AS text, * FROM people WHERE gallery_id = ?) WHERE {NOT_ASCII} "
        "ORDER BY person_id",
        (gallery_id,),
    ):
        if (normal := _normalize(stored)) is not None:
            people[normal].append(person_id)
    slots: set[int] = set()
    for name, person_ids in people.items():
        for person_id in person_ids:
            try:
                statement = f"SELECT slot FROM crops {OF_PERSON}"
                own_slots = transaction.column(statement, (gallery_id, person_id))
                intact = {
                    slot for slot in own_slots if _is_intact_crop(transaction, gallery_id, slot)
                }
                target = find_person(transaction, gallery_id, name)
                own_name = _find_free_name(transaction, gallery_id, name) if target else name
                if not _rename(transaction, person_id, own_name):
                    continue
                slots |= intact
                if target and len(intact) == len(own_slots):
                    person = transaction.rows("people", "WHERE person_id = ?", (person_id,))[0]
                    merge_person(transaction, person, target, len(intact), gallery["version"])
                elif target:
                    # Moving a damaged crop would give it a checksum that matches.
                    log.error(
                        "a person of gallery %s has a damaged crop and is not merged with another "
                        "one of the same name; the name now ends in a number",
                        gallery["name"],
                    )
            except DamagedRecord as damage:
                log.error("a name of gallery %s keeps its form: %s", gallery["name"], damage.why)
    return slots


def _find_free_name(transaction: Transaction, gallery_id: int, name: str) -> str:
    """Return a name that an undone merge gives back: two people cannot have one name."""
    number = 2
    while find_person(transaction, gallery_id, f"{name} ({number})"):
        number += 1
    return f"{name} ({number})"


def _rename(transaction: Transaction, person_id: int, name: str) -> bool:
    changes = {"name": name, "sort_key": natural_order(name)}
    return _change_intact(transaction, "people", {"person_id": person_id}, changes)


def _normalize(stored: bytes) -> str | None:
    """Return the NFC of a stored text; None if it is NFC, or no text."""
    try:
        text = stored.decode()
    except UnicodeDecodeError:
        return None
    normal = nfc(text)
    return None if normal == text else normal


def _change_intact(
    transaction: Transaction, table: str, key: Mapping[str, object], changes: Mapping[str, object]
) -> bool:
    """Change a row, unless it is damaged: a new checksum would make it look whole."""
    clauses = f"WHERE {' AND '.join(f'{name} = :{name}' for name in key)}"
    try:
        rows = transaction.rows(table, clauses, key)
    except DamagedRecord as damage:
        log.error("a row of %s keeps its labels: %s", table, damage.why)
        return False
    transaction.change(f"UPDATE {table} SET {settings_of(changes)} {clauses}", {**key, **changes})
    return bool(rows)
