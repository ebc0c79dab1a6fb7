"""A new record from what holds of a damaged one, and from the snapshots beside it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from model.problems import InputProblem
from service.record.archive import Description, check_snapshots, describe_snapshot, read_archive
from service.record.crop_changes import put_crops
from service.record.database import FILE, UNFINISHED
from service.record.feeds import begin_feed
from service.record.galleries import require_entry
from service.record.marks import DeletedIds
from service.record.record import Record
from service.record.replacing import count_crops
from service.record.restoring import move_into_place
from service.record.schema import (
    API_KEYS,
    CASE_DELETIONS,
    CASE_SEARCHES,
    CASES,
    CROPS,
    GALLERIES,
    GROUPS,
    MERGED_CROPS,
    MERGES,
    PEOPLE,
    PICTURES,
    RECORD,
    REVIEWS,
    SEARCH_PICTURES,
    SEARCHES,
    SHOWN,
    STRAY_PICTURES,
    TOMBSTONES,
    TRACKS,
    Table,
)
from service.record.transaction import Reader, Transaction, batches
from service.record.values import GallerySettings
from service.record.verify import GalleryFound, Inspection, Values

PART = f"recover{UNFINISHED}"
ROWS_AT_ONCE = 500
# Single values that are taken over; jobs are left out, and programs for features chosen anew.
VALUES = ("record_id", "group_secret", "next_gallery", "keys_asked_for")
BEFORE_CROPS = (TOMBSTONES, API_KEYS, PEOPLE, STRAY_PICTURES)
AFTER_CROPS = (
    TRACKS,
    PICTURES,
    MERGES,
    MERGED_CROPS,
    GROUPS,
    SEARCHES,
    SEARCH_PICTURES,
    SHOWN,
    REVIEWS,
    CASES,
    CASE_SEARCHES,
    CASE_DELETIONS,
)
NOTHING_COUNTED = {
    "staged_embedder": None,
    "staged_side": None,
    "staged_dimension": None,
    "staged_slot": 0,
    "staged_crops": 0,
    "crops": 0,
    "people": 0,
    "unnamed": 0,
    "image_bytes": 0,
}


@dataclass
class Recovered(GalleryFound):
    """The outcome for one gallery.

    Attributes:
        from_snapshots: how many crops came from there.
        lost: those lines of `damage` whose crops no snapshot has either.
    """

    from_snapshots: int = 0
    lost: list[str] = field(default_factory=list)


@dataclass
class Recovery:
    """The outcome of a recovery.

    Attributes:
        unread: problems of the whole; crops deleted since a snapshot may be back where there are
            any.
        snapshots: the folders that were copied.
    """

    galleries: list[Recovered] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    snapshots: list[Path] = field(default_factory=list)


def recover(damaged: Path, into: Path, removed: Iterable[str] = ()) -> Recovery:
    """Write a new data directory from what holds of a damaged one and of its snapshots.

    Galleries keep their numbers, crops their ids. Deleted crops stay deleted, as far as the damaged
    directory or the caller knows of them.

    Args:
        damaged: the data directory, which no service uses; it is only read.
        into: an empty or a new folder.
        removed: ids of crops that are known to be deleted.
    """
    part = into / PART
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    deleted = {*removed, *DeletedIds(damaged / "deleted.ids").read()}
    with contextlib.ExitStack() as opened:
        record = opened.enter_context(contextlib.closing(Record(part)))
        inspection = None
        if (damaged / FILE).is_file():
            with contextlib.suppress(InputProblem, sqlite3.DatabaseError):
                inspection = opened.enter_context(Inspection(damaged))
        work = _Recovery(record, damaged, inspection)
        work.copy_rows()
        work.fill_from_snapshots(deleted)
        work.delete(deleted)
        work.copy_snapshots()
    move_into_place(part, into)
    return work.done


class _Recovery:
    def __init__(self, record: Record, damaged: Path, inspection: Inspection | None) -> None:
        self.done = Recovery()
        self._record = record
        self._damaged = damaged
        self._inspection = inspection
        snapshots = check_snapshots(damaged).items()
        self._snapshots: dict[Path, Description] = {
            folder: description
            for folder, description in snapshots
            if isinstance(description, Description)
        }

    def copy_rows(self) -> None:
        if self._inspection is None:
            self.done.unread.append("the record")
        else:
            self._copy_values(self._inspection)
            for row in self._inspection.galleries.values():
                self._write(_add_gallery, row | NOTHING_COUNTED)
            for table in BEFORE_CROPS:
                self._copy_table(self._inspection, table)
            self._copy_crops(self._inspection)
            for table in AFTER_CROPS:
                self._copy_table(self._inspection, table)
            self.done.unread += self._inspection.found.problems
        known = {gallery.gallery_id for gallery in self._record.galleries.all()}
        for description in reversed(self._snapshots.values()):
            (gallery,) = description.galleries
            if gallery.gallery_id not in known:
                known.add(gallery.gallery_id)
                self._write(_add_lost_gallery, description)

    def fill_from_snapshots(self, deleted: Collection[str]) -> None:
        for entry in self._record.galleries.all():
            found = self._inspection and self._inspection.found.galleries.get(entry.gallery_id)
            became = Recovered(entry.gallery_id, entry.name)
            self.done.galleries.append(became)
            became.whole = entry.crops
            became.damage = [*found.damage] if found else ["its record is gone"]
            # A page that cannot be read may have had crops of any gallery.
            is_damaged = became.damage or self.done.unread
            for folder, description in reversed(self._snapshots.items()):
                (gallery,) = description.galleries
                alike = gallery.embedder == entry.embedding_fingerprint
                if is_damaged and alike and gallery.gallery_id == entry.gallery_id:
                    for crops in batches(read_archive(folder), ROWS_AT_ONCE):
                        wanted = [crop for crop in crops if crop.record.crop_id not in deleted]
                        added = self._write(_add_missing, entry.gallery_id, wanted)
                        became.from_snapshots += added
            there = {crop.crop_id for page in self._pages(entry.gallery_id) for crop in page}
            became.lost = [
                line for line in became.damage if not any(word in there for word in line.split())
            ]

    def delete(self, deleted: Collection[str]) -> None:
        for entry in self._record.galleries.all():
            for some in batches(sorted(deleted), ROWS_AT_ONCE):
                if self._record.crops.by_id(entry.gallery_id, some):
                    self._record.crops.remove(entry.gallery_id, some)

    def copy_snapshots(self) -> None:
        for folder, description in self._snapshots.items():
            copy = self._record.database.folder / folder.relative_to(self._damaged)
            shutil.copytree(folder, copy)
            self._record.snapshots.keep(describe_snapshot(copy, description.created_at))
            self.done.snapshots.append(folder)

    def _write(self, rule: Any, *arguments: Any) -> Any:
        return self._record.database.write(rule, *arguments)

    def _pages(self, gallery_id: int) -> Iterable[Any]:
        crops = (crop.label for crop in self._record.crops.vectors(gallery_id))
        return batches(crops, ROWS_AT_ONCE)

    def _copy_values(self, inspection: Inspection) -> None:
        values = [row for row in inspection.rows(RECORD) if row["name"] in VALUES]
        newest = max(inspection.galleries, default=0) + 1
        for row in values:
            if row["name"] == "next_gallery":
                row["value"] = max(row["value"], newest)
        self._write(_insert_holding, RECORD, values, True)

    def _copy_table(self, inspection: Inspection, table: Table) -> None:
        for rows in batches(inspection.rows(table), ROWS_AT_ONCE):
            self._write(_insert_holding, table, rows)

    def _copy_crops(self, inspection: Inspection) -> None:
        copied = Reader(self._record.database).execute("SELECT person_id FROM people").fetchall()
        people = {None, *(person_id for (person_id,) in copied)}
        for some in batches(inspection.crops(), ROWS_AT_ONCE):
            rows = []
            for row, vector in some:
                if row["person_id"] not in people:
                    line = f"the name of crop {row['crop_id']} is gone"
                    inspection.found.note(row["gallery_id"], line)
                    row["person_id"] = None
                rows.append((row, vector))
            self._write(_add_crops, inspection.galleries, rows)


def _insert_holding(
    transaction: Transaction, table: Table, rows: Iterable[Values], instead: bool = False
) -> None:
    for row in rows:
        with contextlib.suppress(sqlite3.IntegrityError):
            transaction.insert(table, row, instead=instead)


def _add_gallery(transaction: Transaction, row: Values) -> None:
    begin_feed(transaction, row["gallery_id"])
    # Followers of the damaged gallery have to read it again.
    transaction.insert(GALLERIES, row | {"version": row["version"] + 1})


def _add_lost_gallery(transaction: Transaction, description: Description) -> None:
    (gallery,) = description.galleries
    taken = transaction.value("SELECT 1 FROM galleries WHERE name = ?", (gallery.name,))
    row = {
        "gallery_id": gallery.gallery_id,
        "name": f"recovered-{gallery.gallery_id}" if taken else gallery.name,
        "embedder": gallery.embedder,
        "settings": to_json(GallerySettings()).decode(),
        "created_at": int(datetime.now(UTC).timestamp() * 1_000_000),
        "version": gallery.version,
        "next_slot": 1,
        "next_side": 1,
        "side": 0,
        "removals": 0,
        "restores": 0,
    }
    _add_gallery(transaction, row | NOTHING_COUNTED)
    raised = "UPDATE record SET value = max(value, ?) WHERE name = 'next_gallery'"
    transaction.change(raised, (gallery.gallery_id + 1,))


def _add_crops(
    transaction: Transaction, galleries: dict[int, Values], crops: Iterable[Any]
) -> None:
    changed = set()
    for row, vector in crops:
        gallery_id = row["gallery_id"]
        removed = "SELECT 1 FROM tombstones WHERE gallery_id = ? AND crop_id = ?"
        if transaction.value(removed, (gallery_id, row["crop_id"])):
            continue
        transaction.insert(CROPS, row)
        side = galleries[gallery_id]["side"]
        transaction.write_vectors(gallery_id, side, {row["slot"]: (row["crop_id"], vector)})
        changed.add(gallery_id)
    for gallery_id in changed:
        count_crops(transaction, gallery_id)


def _add_missing(transaction: Transaction, gallery_id: int, crops: Iterable[Any]) -> int:
    known = (
        "SELECT 1 FROM crops WHERE gallery_id = ? AND crop_id = ? UNION ALL "
        "SELECT 1 FROM tombstones WHERE gallery_id = ? AND crop_id = ?"
    )
    slot = require_entry(transaction, gallery_id).rows
    missing = []
    for crop in crops:
        if not transaction.value(known, (gallery_id, crop.record.crop_id) * 2):
            slot += 1
            missing.append(replace(crop, record=replace(crop.record, row_id=slot)))
    if missing:
        put_crops(transaction, gallery_id, missing)
        raised = "UPDATE galleries SET next_slot = ? WHERE gallery_id = ?"
        transaction.change(raised, (slot + 1, gallery_id))
        count_crops(transaction, gallery_id)
    return len(missing)
