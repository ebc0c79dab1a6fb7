"""Conversion of a record of format 7, or of a backup of one, to tables."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic_core import to_json

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
from service.record.galleries import EMPTY, add_gallery, count_crops
from service.record.keys import API_KEY
from service.record.record import Record
from service.record.restoring import new_data_directory
from service.record.schema import as_micros
from service.record.transaction import Transaction, batches
from service.record.values import ArchivedCrop, GalleryRecord

log = logging.getLogger(__name__)
CROPS_AT_ONCE = 200
SEARCHES_AT_ONCE = 50
KEPT_AS_THEY_ARE = ("query_id", "key_id", "crop_id", "content_type")
KEPT_AS_JSON = ("request", "answer", "results")
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
            (part / "deleted.ids").unlink(missing_ok=True)
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
            _fill_gallery(self.new.database, _gallery_values(entry), crops)
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
        rows = [{"name": name, "value": values[name]} for name in values]
        runtimes = [
            {"embedder": embedder, "choice": choice}
            for embedder, choice in self.old.named("runtime")
        ]
        self._write(lambda transaction: transaction.insert("record", *rows, instead=True))
        self._write(Transaction.insert, "runtimes", *runtimes)

    def _add_marks(self, transaction: Transaction, entry: GalleryRecord) -> None:
        gallery_id = entry.gallery_id
        tombstones = [
            {"gallery_id": gallery_id, "crop_id": crop_id, "removed_at": _micros(moment)}
            for crop_id, moment in self.old.named("tombstone", gallery_id)
        ]
        transaction.insert("tombstones", *tombstones)
        requests = [
            {
                "gallery_id": gallery_id,
                "key": name,
                "digest": answer.pop("digest"),
                "happened_at": _micros(answer.pop("happened_at")),
                "answer": to_json(answer).decode(),
            }
            for name, answer in self.old.named("request", gallery_id)
        ]
        transaction.insert("requests", *requests)
        statement = "SELECT name, person_id FROM people WHERE gallery_id = ?"
        people = dict(transaction.tuples(statement, (gallery_id,)))
        for merge_id, merge in self.old.named("merge", gallery_id):
            # If nobody has that name, there is nothing to undo.
            if merge["into"] in people:
                self._add_merge(transaction, gallery_id, merge_id, merge, people[merge["into"]])
        strays = [
            {"gallery_id": gallery_id, "name": name, "until": _micros(moment)}
            for name, moment in self.old.named("stray", gallery_id)
            if not name.endswith(VECTOR_SUFFIX)
        ]
        transaction.insert("stray_pictures", *strays, instead=True)

    def _add_merge(
        self, transaction: Transaction, gallery_id: int, merge_id: str, merge: Any, into: int
    ) -> None:
        values = {name: merge[name] for name in ("identity", "crops", "version")}
        values |= {"merge_id": merge_id, "gallery_id": gallery_id, "into_person": into}
        transaction.insert("merges", values | {"merged_at": _micros(merge["merged_at"])})
        parts = self.old.named("merged crops", gallery_id, merge_id)
        ids = {crop_id for _, crop_ids in parts for crop_id in crop_ids}
        merged = [{"merge_id": merge_id, "crop_id": crop_id} for crop_id in ids]
        transaction.insert("merged_crops", *merged)

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
            row = {name: search.get(name) for name in KEPT_AS_THEY_ARE}
            row |= {name: to_json(search[name]).decode() for name in KEPT_AS_JSON}
            row |= {"gallery_id": gallery_id, "created_at": _micros(search["created_at"])}
            transaction.insert("searches", row)
            picture = self.old.body("kept picture", gallery_id, query_id, looked_up=True)
            if picture is not None:
                transaction.insert("search_pictures", {"query_id": query_id, "content": picture})
            for crop_id, review in search.get("reviews", {}).items():
                values = {**review, "reviewed_at": _micros(review["reviewed_at"])}
                transaction.insert("reviews", {"query_id": query_id, "crop_id": crop_id, **values})
            find_identifying(transaction, query_id)

    def _add_calibrations(self, transaction: Transaction, gallery_id: int) -> None:
        published = dict(self.old.named("published", gallery_id))
        counted = {
            subject: counts["next"] for subject, counts in self.old.named("searches", gallery_id)
        }
        for subject in published.keys() | counted.keys():
            calibration = published.get(subject, {"version": 0, "body": None})
            values = {"gallery_id": gallery_id, "subject": subject}
            values |= {"version": calibration["version"], "body": calibration["body"]}
            transaction.insert("calibrations", values | {"searches": counted.get(subject, 0)})
            prefix = key(SEARCH_BY_HASH, gallery_id, subject)
            for number, body in self.old.below("search", gallery_id, subject):
                end = body.index(END, len(prefix)) + 1
                search = {
                    "gallery_id": gallery_id,
                    "subject": subject,
                    "number": int(number, 16),
                    "name": body[len(prefix) : end - 1].decode(),
                    "body": body[end:],
                }
                transaction.insert("calibration_searches", search)

    def _write_snapshots(self, entry: GalleryRecord, upgraded: Upgraded) -> None:
        for _, body in self.old.below("snapshot", entry.gallery_id):
            snapshot = Snapshot.model_validate_json(body)
            name = snapshot_name(entry.gallery_id, snapshot.snapshot_id)
            folder = self.folder / name
            make_folder(folder)
            try:
                header = open_old_snapshot(self.old_folder / name)
                embedder = header.embedding_fingerprint or entry.embedding_fingerprint
                archived = GalleryRecord(entry.gallery_id, entry.name, embedder, entry.created_at)
                values = _gallery_values(archived) | {"version": header.version}
                with open_to_change(folder) as archive:
                    _fill_gallery(archive, values, header.read())
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
    database: Database, values: Mapping[str, Any], crops: Iterable[ArchivedCrop]
) -> None:
    gallery_id = values["gallery_id"]
    database.write(add_gallery, {**values, **EMPTY})
    for batch in batches(crops, CROPS_AT_ONCE):
        database.write(put_crops, gallery_id, batch)
    database.write(count_crops, gallery_id)


def _gallery_values(entry: GalleryRecord) -> dict[str, Any]:
    return {
        "gallery_id": entry.gallery_id,
        "name": entry.name,
        "embedder": entry.embedding_fingerprint,
        "settings": to_json(entry.settings).decode(),
        "created_at": as_micros(entry.created_at),
        "version": entry.version,
        "next_slot": entry.rows + 1,
        "next_side": entry.sides,
        "side": entry.side,
        "removals": entry.removals,
        "restores": entry.at,
    }


def _add_case(transaction: Transaction, gallery_id: int, case: dict[str, Any]) -> None:
    case_id = case["case_id"]
    values = {name: case[name] for name in ("case_id", "name", "notes", "key_id")}
    values |= {name: _micros(case[name]) for name in ("created_at", "changed_at")}
    transaction.insert("cases", {"gallery_id": gallery_id, **values})
    stored_ids = set(transaction.column("SELECT query_id FROM searches"))
    entries = [
        {"case_id": case_id, "query_id": query_id, "added_at": _micros(added_at), "note": note}
        for query_id, (added_at, note) in case.get("queries", {}).items()
        if query_id in stored_ids
    ]
    transaction.insert("case_searches", *entries)
    deleted = [
        {"case_id": case_id, "day": day, "searches": searches}
        for day, searches in case.get("deleted_searches", {}).items()
    ]
    transaction.insert("case_deletions", *deleted)


def _micros(moment: str) -> int:
    return as_micros(datetime.fromisoformat(moment))
