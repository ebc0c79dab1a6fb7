"""Recovery of a new record from the intact parts of a damaged one and its snapshots."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.problems import InputProblem
from service.record.archive import (
    check_snapshots,
    describe_snapshot,
    open_archive,
)
from service.record.galleries import EMPTY, add_gallery, count_crops
from service.record.marks import DeletedIds
from service.record.record import Record
from service.record.replacing import add_missing_crops
from service.record.restoring import NAME_FORMAT, new_data_directory
from service.record.schema import TABLES
from service.record.transaction import FILE, Reader, Transaction, batches
from service.record.vectors import Vector
from service.record.verify import GalleryFound, Inspection, Values
from service.record.watch import NEWEST_ALERT, stop_watching

ROWS_AT_ONCE = 500
# Single values that are copied; the runtimes for features are chosen again.
VALUES = ("record_id", "group_secret", "next_gallery", "keys_asked_for", NEWEST_ALERT)
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
    "snapshots",
    "unneeded_files",
    "remote_indexes",
)


@dataclass
class Recovered(GalleryFound):
    """The outcome for one gallery.

    Attributes:
        from_snapshots: number of crops recovered from snapshots.
        lost: lines of `damage` whose crops are in no snapshot either.
    """

    from_snapshots: int = 0
    lost: list[str] = field(default_factory=list)


@dataclass
class Recovery:
    """The outcome of a recovery.

    Attributes:
        unread: problems of the whole record. If there are any, crops deleted since a snapshot may
            have come back.
        snapshots: the folders that were copied.
    """

    galleries: list[Recovered] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    snapshots: list[Path] = field(default_factory=list)


def recover(damaged: Path, into: Path, removed: Iterable[str] = ()) -> Recovery:
    """Write a new data directory from the intact parts of a damaged one and its snapshots.

    Galleries and crops keep their ids. Deleted crops stay deleted if the damaged directory or the
    caller knows of them.

    Args:
        damaged: the data directory, which no service may be using; it is only read.
        into: an empty or new folder.
        removed: ids of crops known to be deleted.
    """
    deleted = {*removed, *DeletedIds(damaged / "deleted.ids").read()}
    with new_data_directory(into) as part, contextlib.ExitStack() as stack:
        record = stack.enter_context(contextlib.closing(Record(part)))
        inspection = None
        if (damaged / FILE).is_file():
            with contextlib.suppress(InputProblem, sqlite3.DatabaseError):
                inspection = stack.enter_context(Inspection(damaged))
        recovery = _Recovery(record, damaged, inspection)
        recovery.copy_rows()
        record.delete_again(deleted)
        recovery.fill_from_snapshots(deleted)
        recovery.copy_snapshots()
        record.database.write(stop_watching)
    return recovery.done


def _taken_at(snapshot: Path) -> datetime:
    # Every change of a snapshot sets the time of its folder.
    time, _, _ = snapshot.stem.partition("-")
    return datetime.strptime(time, NAME_FORMAT).replace(tzinfo=UTC)


class _Recovery:
    def __init__(self, record: Record, damaged: Path, inspection: Inspection | None) -> None:
        self.done = Recovery()
        self._record = record
        self._damaged = damaged
        self._inspection = inspection
        snapshots = check_snapshots(damaged).items()
        self._snapshots = [
            (folder, describe_snapshot(folder, _taken_at(folder)))
            for folder, damage in snapshots
            if damage is None
        ]

    def copy_rows(self) -> None:
        if self._inspection is None:
            self.done.unread.append("the record")
        else:
            inspection = self._inspection
            values = (row for row in inspection.rows("record") if row["name"] in VALUES)
            self._write(_insert_holding, "record", list(values), True)
            for row in inspection.galleries.values():
                self._write(_add_gallery, row)
            self._copy_table(inspection, "people")
            self._copy_crops(inspection)
            for table in TABLES:
                if table not in LEFT_OUT:
                    self._copy_table(inspection, table)
            self.done.unread += inspection.found.problems
        self._add_lost_galleries()
        for gallery in self._record.galleries.all():
            self._write(count_crops, gallery.gallery_id)

    def fill_from_snapshots(self, deleted: Collection[str]) -> None:
        database = self._record.database
        entries = self._record.galleries.all()
        for entry in entries:
            inspected = self._inspection and self._inspection.found.galleries.get(entry.gallery_id)
            outcome = Recovered(entry.gallery_id, entry.name, entry.crops)
            self.done.galleries.append(outcome)
            outcome.damage = [*inspected.damage] if inspected else ["its record is missing"]
            # An unreadable page may have contained crops of any gallery.
            is_damaged = outcome.damage or self.done.unread
            for folder, snapshot in reversed(self._snapshots):
                is_of_gallery = folder.parent.name == str(entry.gallery_id)
                same_embedder = snapshot.embedding_fingerprint == entry.embedding_fingerprint
                if is_damaged and is_of_gallery and same_embedder:
                    database.write_from(folder, add_missing_crops, entry.gallery_id, folder)
                    database.write(count_crops, entry.gallery_id)
        self._record.delete_again(deleted)
        for entry, outcome in zip(entries, self.done.galleries, strict=True):
            statement = "SELECT crop_id FROM crops WHERE gallery_id = ?"
            present = set(Reader(database).column(statement, (entry.gallery_id,)))
            outcome.from_snapshots = len(present) - outcome.whole
            outcome.lost = [
                line for line in outcome.damage if not any(word in present for word in line.split())
            ]

    def copy_snapshots(self) -> None:
        for folder, snapshot in self._snapshots:
            shutil.copytree(
                folder, self._record.database.folder / folder.relative_to(self._damaged)
            )
            self._record.snapshots.keep(int(folder.parent.name), snapshot)
            self.done.snapshots.append(folder)

    def _write(self, rule: Any, *arguments: Any) -> Any:
        return self._record.database.write(rule, *arguments)

    def _copy_table(self, inspection: Inspection, table: str) -> None:
        for rows in batches(inspection.rows(table), ROWS_AT_ONCE):
            self._write(_insert_holding, table, rows)

    def _copy_crops(self, inspection: Inspection) -> None:
        people_ids = Reader(self._record.database).column("SELECT person_id FROM people")
        people = {None, *people_ids}
        for batch in batches(inspection.crops(), ROWS_AT_ONCE):
            for row, _ in batch:
                if row["person_id"] not in people:
                    line = f"the name of crop {row['crop_id']} is missing"
                    inspection.found.note(row["gallery_id"], line)
                    row["person_id"] = None
            self._write(_insert_crops, batch, inspection.galleries)

    def _add_lost_galleries(self) -> None:
        known = {gallery.gallery_id for gallery in self._record.galleries.all()}
        for folder, _ in reversed(self._snapshots):
            with open_archive(folder) as reader:
                (row,) = reader.rows("galleries")
            if row["gallery_id"] not in known:
                known.add(row["gallery_id"])
                self._write(_add_lost_gallery, TABLES["galleries"].values(row))
        self._write(
            Transaction.change,
            "UPDATE record SET value = max(value, (SELECT coalesce(max(gallery_id), 0) + 1 "
            "FROM galleries)) WHERE name = 'next_gallery'",
        )


def _insert_crops(
    transaction: Transaction, crops: Sequence[tuple[Values, Vector]], galleries: dict[int, Values]
) -> None:
    transaction.insert("crops", *(row for row, _ in crops))
    for row, vector in crops:
        gallery_id = row["gallery_id"]
        vectors = {row["slot"]: (row["crop_id"], vector)}
        transaction.write_vectors(gallery_id, galleries[gallery_id]["side"], vectors)


def _insert_holding(
    transaction: Transaction, table: str, rows: Iterable[Values], instead: bool = False
) -> None:
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):
            transaction.insert(table, row, instead=instead)


def _add_gallery(transaction: Transaction, row: Values) -> None:
    # Followers of the damaged gallery must read it again.
    add_gallery(transaction, row | EMPTY | {"version": row["version"] + 1})


def _add_lost_gallery(transaction: Transaction, row: Values) -> None:
    taken = transaction.value("SELECT 1 FROM galleries WHERE name = ?", (row["name"],))
    name = f"recovered-{row['gallery_id']}" if taken else row["name"]
    _add_gallery(transaction, row | {"name": name, "next_slot": 1})
