"""Conversion of a record of format 7, or of a backup of one, to tables."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from gmn_client.models import Snapshot
from model.problems import InputProblem
from service.errors import DamagedSnapshot
from service.ops.data_directory import (
    DATABASE_NAME,
    make_folder,
    snapshot_name,
)
from service.record.archive import describe_snapshot, open_to_change
from service.record.crop_changes import put_crops
from service.record.database import Database
from service.record.desk import find_identifying
from service.record.format7 import END, OldRecord, key, open_old_snapshot
from service.record.galleries import add_gallery, as_row, count_crops
from service.record.keys import API_KEY
from service.record.record import Record
from service.record.restoring import new_data_directory
from service.record.schema import TABLES
from service.record.transaction import Transaction, batches
from service.record.values import ArchivedCrop, GalleryRecord

log = logging.getLogger(__name__)
CROPS_AT_ONCE = 200
SEARCHES_AT_ONCE = 50
# Columns with these ends contain times.
TIMES = ("_at", "until")
VECTOR_SUFFIX = ".f32"
SEARCH_BY_HASH = "search of"


@dataclass
class Upgraded:
    """The outcome: number of crops by gallery name, and snapshots left out as damaged."""

    crops: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def upgrade(old: Path, into: Path) -> Upgraded:
    """Convert the record of a data directory or backup, writing it into another directory.

    Galleries keep their ids and versions, crops their ids and row numbers. Jobs are left out with
    their results. The old record is only read.

    Args:
        old: a data directory that no service uses, or a folder written by `gmn backup`.
        into: an empty or new folder.

    Raises:
        InputProblem: `old` has no record of format 7, or `into` is not empty.
        DamagedRecord: the old record is damaged; recover it with the version that wrote it.
    """
    if not (old / DATABASE_NAME).is_file():
        raise InputProblem(f"{old}: has no {DATABASE_NAME}; name a data directory or a backup")
    if into.exists() and any(into.iterdir()):
        raise InputProblem(f"{into}: is not empty; name a new directory")
    with contextlib.closing(OldRecord(old / DATABASE_NAME)) as reader:
        if any(True for _ in reader.below("pending identity change")):
            raise InputProblem(
                f"{old}: a change of a person was cut off; start the service once with the version "
                "that wrote it, which finishes the change, then upgrade"
            )
        with new_data_directory(into) as part:
            with contextlib.closing(Record(part)) as written:
                upgraded = _Upgrade(reader, written, old, part).run()
            for path in old.glob("audit*"):
                shutil.copy(path, part)
    return upgraded


@dataclass
class _Upgrade:
    """The old record to be read and the new one to be written, both open."""

    old: OldRecord
    new: Record
    old_folder: Path
    folder: Path

    def run(self) -> Upgraded:
        upgraded = Upgraded()
        self._write_values()
        for entry in sorted(self.old.galleries(), key=lambda gallery: gallery.name):
            crops = self.old.crops(entry)
            _fill_gallery(self.new.database, entry, crops)
            self._write(self._add_marks, entry)
            self._write_desk(entry.gallery_id)
            self._write(self._add_calibrations, entry.gallery_id)
            self._write_snapshots(entry, upgraded)
            upgraded.crops[entry.name] = entry.crops
        self._write_keys()
        return upgraded

    def _write(self, rule: Any, *arguments: Any) -> None:
        self.new.database.write(rule, *arguments)

    def _write_values(self) -> None:
        secret = self.old.json("group secret")
        values: dict[str, Any] = {"next_gallery": (self.old.json("next gallery") or 0) + 1}
        if secret is not None:
            values["group_secret"] = bytes.fromhex(secret)
        if self.old.json("api key changes") is not None:
            values["keys_asked_for"] = 1
        rows = [{"name": name, "value": value} for name, value in values.items()]
        runtimes = [
            {"embedder": embedder, "choice": choice}
            for embedder, choice in self.old.named("runtime")
        ]
        self._write(_insert, "record", *rows)
        self._write(_insert, "runtimes", *runtimes)

    def _add_marks(self, transaction: Transaction, entry: GalleryRecord) -> None:
        of_gallery = {"gallery_id": entry.gallery_id}
        for crop_id, moment in self.old.named("tombstone", entry.gallery_id):
            tombstone = {"crop_id": crop_id, "removed_at": moment}
            _insert(transaction, "tombstones", of_gallery | tombstone)
        for name, answer in self.old.named("request", entry.gallery_id):
            request = {**of_gallery, "key": name, "answer": answer}
            _insert(transaction, "requests", answer | request)
        statement = "SELECT name, person_id FROM people WHERE gallery_id = ?"
        people = dict(transaction.tuples(statement, (entry.gallery_id,)))
        for merge_id, merge in self.old.named("merge", entry.gallery_id):
            # If nobody has that name, there is nothing to undo.
            if merge["into"] in people:
                merge |= {**of_gallery, "merge_id": merge_id, "into_person": people[merge["into"]]}
                _insert(transaction, "merges", merge)
                parts = self.old.named("merged crops", entry.gallery_id, merge_id)
                crop_ids = [crop_id for _, part in parts for crop_id in part]
                merged = [{"merge_id": merge_id, "crop_id": crop_id} for crop_id in crop_ids]
                _insert(transaction, "merged_crops", *merged)
        for name, moment in self.old.named("stray", entry.gallery_id):
            if not name.endswith(VECTOR_SUFFIX):
                stray = {**of_gallery, "name": name, "until": moment}
                _insert(transaction, "stray_pictures", stray)

    def _write_desk(self, gallery_id: int) -> None:
        for entries in batches(self.old.named("kept query", gallery_id), SEARCHES_AT_ONCE):
            self._write(self._add_searches, gallery_id, [search for _, search in entries])
        for _, case in self.old.named("case", gallery_id):
            self._write(_add_case, gallery_id, case)

    def _add_searches(
        self, transaction: Transaction, gallery_id: int, searches: Sequence[dict[str, Any]]
    ) -> None:
        for search in searches:
            query_id = search["query_id"]
            _insert(transaction, "searches", {**search, "gallery_id": gallery_id})
            picture = self.old.body("!kept picture", gallery_id, query_id)
            if picture is not None:
                _insert(transaction, "search_pictures", {"query_id": query_id, "content": picture})
            for crop_id, review in search.get("reviews", {}).items():
                place = {"query_id": query_id, "crop_id": crop_id}
                _insert(transaction, "reviews", review | place)
            find_identifying(transaction, query_id)

    def _add_calibrations(self, transaction: Transaction, gallery_id: int) -> None:
        published = dict(self.old.named("published", gallery_id))
        counted = {
            subject: counts["next"] for subject, counts in self.old.named("searches", gallery_id)
        }
        for subject in published.keys() | counted.keys():
            of_subject = {"gallery_id": gallery_id, "subject": subject}
            calibration = published.get(subject, {"version": 0})
            calibration |= {**of_subject, "searches": counted.get(subject, 0)}
            _insert(transaction, "calibrations", calibration)
            prefix = key(SEARCH_BY_HASH, gallery_id, subject)
            for number, body in self.old.below("search", gallery_id, subject):
                name, _, content = body.removeprefix(prefix).partition(END)
                search = {
                    **of_subject,
                    "number": int(number, 16),
                    "name": name.decode(),
                    "body": content,
                }
                _insert(transaction, "calibration_searches", search)

    def _write_snapshots(self, entry: GalleryRecord, upgraded: Upgraded) -> None:
        for _, body in self.old.below("snapshot", entry.gallery_id):
            snapshot = Snapshot.model_validate_json(body)
            name = snapshot_name(entry.gallery_id, snapshot.snapshot_id)
            folder = self.folder / name
            make_folder(folder)
            try:
                header = open_old_snapshot(self.old_folder / name)
                embedder = header.embedding_fingerprint or entry.embedding_fingerprint
                gallery = replace(entry, embedding_fingerprint=embedder, version=header.version)
                with open_to_change(folder) as archive:
                    _fill_gallery(archive, gallery, header.read())
            except DamagedSnapshot as error:
                log.error("%s was left out: %s", name, error.detail)
                upgraded.left_out.append(name)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            described = describe_snapshot(folder, snapshot.created_at)
            self.new.snapshots.keep(entry.gallery_id, described)

    def _write_keys(self) -> None:
        for _, body in self.old.below("api key"):
            self.new.keys.add(API_KEY.validate_json(body))
        used = self.old.named("key used")
        self.new.keys.note_used({name: datetime.fromisoformat(at) for name, at in used})


def _fill_gallery(
    database: Database, gallery: GalleryRecord, crops: Iterable[ArchivedCrop]
) -> None:
    database.write(add_gallery, as_row(gallery))
    for batch in batches(crops, CROPS_AT_ONCE):
        database.write(put_crops, gallery.gallery_id, batch)
    database.write(count_crops, gallery.gallery_id)


def _add_case(transaction: Transaction, gallery_id: int, case: dict[str, Any]) -> None:
    of_case = {"case_id": case["case_id"]}
    _insert(transaction, "cases", {**case, "gallery_id": gallery_id})
    stored_ids = set(transaction.column("SELECT query_id FROM searches"))
    for query_id, (added_at, note) in case.get("queries", {}).items():
        if query_id in stored_ids:
            search = {"query_id": query_id, "added_at": added_at, "note": note}
            _insert(transaction, "case_searches", of_case | search)
    for day, searches in case.get("deleted_searches", {}).items():
        _insert(transaction, "case_deletions", {**of_case, "day": day, "searches": searches})


def _insert(transaction: Transaction, table: str, *entries: Mapping[str, Any]) -> None:
    """Insert entries of an old record by the columns of a table, without their other fields."""
    rows = [
        {name: _column(name, entry.get(name)) for name in TABLES[table].columns}
        for entry in entries
    ]
    transaction.insert(table, *rows, instead=True)


def _column(name: str, value: Any) -> Any:
    if isinstance(value, str) and name.endswith(TIMES):
        return datetime.fromisoformat(value)
    return value
