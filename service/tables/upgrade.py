"""A record of format 7, or a backup of one, written anew as tables."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic_core import from_json, to_json

from model.problems import InputProblem
from service.errors import DamagedSnapshot
from service.ops.data_directory import (
    DATABASE_NAME,
    IMPORTS,
    make_folder,
    snapshot_name,
)
from service.record import record as old_record
from service.record.engine import Reader as OldReader
from service.record.entries import Generation, every_crop, read_contents
from service.record.galleries import NEXT_GALLERY, SECRET
from service.record.garbage import SEARCH_BY_HASH
from service.record.identity_changes import MERGE, MERGED
from service.record.kept_queries import Case, KeptQuery
from service.record.keys import below, key, last_number, last_text
from service.record.picture_folder import PictureFolder
from service.record.records import ArchivedCrop, GalleryRecord
from service.record.snapshot_file import read_snapshot, snapshot_header
from service.record.sqlite_engine import SqliteEngine
from service.tables.archive import (
    Description,
    GalleryInArchive,
    describe_archive,
    describe_snapshot,
)
from service.tables.crop_changes import put_crops
from service.tables.database import Database
from service.tables.feeds import begin_feed
from service.tables.jobs import job_values
from service.tables.record import Record
from service.tables.replacing import replace_crops
from service.tables.restoring import move_into_place
from service.tables.schema import (
    CALIBRATION_SEARCHES,
    CALIBRATIONS,
    CASE_DELETIONS,
    CASE_SEARCHES,
    CASES,
    GALLERIES,
    GROUPS,
    JOB_PROBLEMS,
    JOBS,
    MERGED_CROPS,
    MERGES,
    RECORD,
    REQUESTS,
    REVIEWS,
    RUNTIMES,
    STRAY_PICTURES,
    TOMBSTONES,
    UNNEEDED_COLLECTIONS,
)
from service.tables.transaction import Reader, Transaction
from service.tables.values import as_micros, now_ms

log = logging.getLogger(__name__)
PART = "upgrade.part"
CROPS_AT_ONCE = 200
SEARCHES_AT_ONCE = 50
ALL = 2**31
VECTOR_SUFFIX = ".f32"


@dataclass
class Upgraded:
    """The outcome: crops by the names of galleries, and snapshots left out as damaged."""

    crops: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def upgrade(old: Path, into: Path) -> Upgraded:
    """Write the record of a data directory, or of a backup, as tables into another directory.

    Galleries keep their numbers and versions, and crops their ids and row numbers. The old record
    is only read.

    Args:
        old: a data directory that no service uses, or a folder that `gmn backup` wrote.
        into: an empty or a new folder.

    Raises:
        InputProblem: there is no record of format 7, or something is there already.
        DamagedRecord: the old record is damaged; recover it with the version that wrote it.
    """
    if not (old / DATABASE_NAME).is_file():
        raise InputProblem(f"{old}: has no {DATABASE_NAME}; name a data directory or a backup")
    if into.exists() and any(path.name != PART for path in into.iterdir()):
        raise InputProblem(f"{into}: holds something already; name a new directory")
    part = into / PART
    shutil.rmtree(part, ignore_errors=True)
    make_folder(part)
    with contextlib.closing(SqliteEngine(old / DATABASE_NAME, only_read=True)) as engine:
        engine.copy_to(part / DATABASE_NAME)
    with contextlib.ExitStack() as opened:
        # A copy is opened, since that finishes changes which were cut off.
        reader = opened.enter_context(
            contextlib.closing(old_record.open_sqlite(part / DATABASE_NAME, alone=False))
        )
        reader.engine.outside = PictureFolder.of_backup(old)
        written = opened.enter_context(contextlib.closing(Record(part)))
        upgraded = _Upgrade(reader, written, old, part).run()
    for path in [*part.glob(f"{Path(DATABASE_NAME).stem}.*"), part / "deleted.ids"]:
        path.unlink(missing_ok=True)
    for path in old.glob("audit*"):
        shutil.copy(path, part)
    if (old / IMPORTS).is_dir():
        shutil.copytree(old / IMPORTS, part / IMPORTS)
    move_into_place(part, into)
    return upgraded


@dataclass
class _Upgrade:
    """Reads the old record and writes the new one, both open."""

    old: old_record.Record
    new: Record
    old_folder: Path
    folder: Path

    def run(self) -> Upgraded:
        done = Upgraded()
        self._write_values()
        for entry in self.old.galleries.all():
            self._write(_add_gallery, entry)
            self._write_crops(entry)
            self._write(self._add_marks, entry)
            self._write_desk(entry.gallery_id)
            self._write(self._add_calibrations, entry.gallery_id)
            self._write_snapshots(entry, done)
            done.crops[entry.name] = entry.crops
        self._write(self._add_jobs)
        self._write(self._add_collections)
        self._write_keys()
        return done

    @property
    def _reader(self) -> OldReader:
        return OldReader(self.old.engine)

    def _write(self, rule: Any, *arguments: Any) -> None:
        self.new.database.write(rule, *arguments)

    def _named(self, *prefix: str | int) -> Iterator[tuple[str, Any]]:
        """Read the values below a prefix, by the last part of their keys."""
        own = key(*prefix)
        for name, body in self._reader.every(below(own)):
            yield last_text(name, own), from_json(body)

    def _write_values(self) -> None:
        secret = self._reader.json(SECRET)
        values: dict[str, Any] = {"next_gallery": (self._reader.json(NEXT_GALLERY) or 0) + 1}
        if secret is not None:
            values["group_secret"] = bytes.fromhex(secret)
        rows = [{"name": name, "value": values[name]} for name in values]
        runtimes = [
            {"embedder": embedder, "choice": choice} for embedder, choice in self._named("runtime")
        ]
        self._write(lambda transaction: transaction.insert(RECORD, *rows, instead=True))
        self._write(Transaction.insert, RUNTIMES, *runtimes)

    def _add_collections(self, transaction: Transaction) -> None:
        """Note every collection in Milvus as unneeded: they follow numbers of the old record."""
        names = {name for name, _ in self._named("unneeded collection")}
        for entry in self.old.galleries.all():
            state = self.old.remote_indexes.state(entry.gallery_id)
            names |= {state.collection, state.building} - {""} if state else set()
        unneeded = [{"name": name, "since_ms": now_ms()} for name in names]
        transaction.insert(UNNEEDED_COLLECTIONS, *unneeded)

    def _write_crops(self, entry: GalleryRecord) -> None:
        at = Generation.searched(entry)
        for crops in every_crop(self._reader, at, CROPS_AT_ONCE):
            contents = list(read_contents(self._reader, at, crops, pictures=True))
            self._write(_add_crops, entry.gallery_id, contents)
            ready = [crop for crop in crops if crop.row_id <= entry.staged_row]
            if entry.staged_side is not None and ready:
                staged = replace(at, side=entry.staged_side)
                self._write(_add_staged, entry, list(read_contents(self._reader, staged, ready)))

    def _add_marks(self, transaction: Transaction, entry: GalleryRecord) -> None:
        """Add the tombstones, requests, merges, groups and stray pictures of a gallery."""
        gallery_id = entry.gallery_id
        tombstones = [
            {"gallery_id": gallery_id, "crop_id": crop_id, "removed_at": _micros(moment)}
            for crop_id, moment in self._named("tombstone", gallery_id)
        ]
        transaction.insert(TOMBSTONES, *tombstones)
        requests = [
            {
                "gallery_id": gallery_id,
                "key": name,
                "digest": past.pop("digest"),
                "happened_at": _micros(past.pop("happened_at")),
                "answer": to_json(past).decode(),
            }
            for name, past in self._named("request", gallery_id)
        ]
        transaction.insert(REQUESTS, *requests)
        people = {
            row["name"]: row["person_id"]
            for row in transaction.execute(
                "SELECT name, person_id FROM people WHERE gallery_id = ?", (gallery_id,)
            )
        }
        for merge_id, merge in self._named(MERGE, gallery_id):
            # Without anybody of that name there is nothing to be undone.
            if merge["into"] in people:
                self._add_merge(transaction, gallery_id, merge_id, merge, people[merge["into"]])
        grouping = self._reader.json(key("groups", gallery_id))
        if grouping is not None:
            kept = {"gallery_id": gallery_id, "grouping": to_json(grouping).decode()}
            transaction.insert(GROUPS, kept)
        strays = [
            {"gallery_id": gallery_id, "name": name, "until": _micros(moment)}
            for name, moment in self._named("stray", gallery_id)
            if not name.endswith(VECTOR_SUFFIX)
        ]
        transaction.insert(STRAY_PICTURES, *strays, instead=True)

    def _add_merge(
        self, transaction: Transaction, gallery_id: int, merge_id: str, merge: Any, into: int
    ) -> None:
        values = {name: merge[name] for name in ("identity", "crops", "version")}
        values |= {"merge_id": merge_id, "gallery_id": gallery_id, "into_person": into}
        transaction.insert(MERGES, values | {"merged_at": _micros(merge["merged_at"])})
        parts = self._reader.every(below(key(MERGED, gallery_id, merge_id)))
        ids = {crop_id for _, body in parts for crop_id in from_json(body)}
        merged = [{"merge_id": merge_id, "crop_id": crop_id} for crop_id in ids]
        transaction.insert(MERGED_CROPS, *merged)

    def _write_desk(self, gallery_id: int) -> None:
        """Write kept searches with their reviews, and cases."""
        before = None
        while searches := self.old.kept.page(gallery_id, before, SEARCHES_AT_ONCE):
            before = searches[-1].query_id
            pictured = []
            for search in searches:
                picture = self.old.kept.picture(gallery_id, search.query_id)
                pictured.append((search, picture.content if picture else None))
            kept, _ = self.new.kept.keep(gallery_id, pictured, ALL)
            self._write(_add_reviews, [search for search in searches if search.query_id in kept])
        self._write(_add_cases, gallery_id, self.old.cases.page(gallery_id, None, ALL))

    def _add_calibrations(self, transaction: Transaction, gallery_id: int) -> None:
        published = self.old.calibrations.published(gallery_id)
        counted = {
            subject: counts["next"] for subject, counts in self._named("searches", gallery_id)
        }
        for subject in published.keys() | counted.keys():
            found = published.get(subject)
            values = {"gallery_id": gallery_id, "subject": subject}
            values |= {"version": found.version if found else 0}
            values |= {"body": found.body if found else None}
            transaction.insert(CALIBRATIONS, values | {"searches": counted.get(subject, 0)})
            by_name = key(SEARCH_BY_HASH, gallery_id, subject)
            prefix = key("search", gallery_id, subject)
            for search_key, body in self._reader.every(below(prefix)):
                end = body.index(b"\0", len(by_name)) + 1
                search = {"gallery_id": gallery_id, "subject": subject}
                search |= {
                    "number": last_number(search_key),
                    "name": last_text(body[:end], by_name),
                }
                transaction.insert(CALIBRATION_SEARCHES, search | {"body": body[end:]})

    def _write_snapshots(self, entry: GalleryRecord, done: Upgraded) -> None:
        for snapshot in self.old.snapshots.all(entry.gallery_id):
            name = snapshot_name(entry.gallery_id, snapshot.snapshot_id)
            folder = self.folder / name
            try:
                self._write_archive(entry, self.old_folder / name, folder, snapshot.created_at)
            except DamagedSnapshot as error:
                log.error("%s was left out: %s", name, error.detail)
                done.left_out.append(name)
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self.new.snapshots.keep(describe_snapshot(folder, snapshot.created_at))

    def _write_archive(
        self, entry: GalleryRecord, file: Path, folder: Path, created_at: datetime
    ) -> None:
        header = snapshot_header(file)
        embedder = header.embedding_fingerprint or entry.embedding_fingerprint
        make_folder(folder)
        then = GalleryRecord(entry.gallery_id, entry.name, embedder, entry.created_at)
        with contextlib.closing(Database(folder)) as archive:
            archive.write(_add_gallery, then)
            replace_crops(archive, entry.gallery_id, embedder, read_snapshot(file))
            version = "UPDATE galleries SET version = ?, restores = 0"
            archive.write(Transaction.change, version, (header.version,))
        asked = "SELECT value FROM record WHERE name = 'record_id'"
        record_id = Reader(self.new.database).value(asked)
        gallery = GalleryInArchive(
            entry.gallery_id, header.gallery or entry.name, embedder, header.version, header.crops
        )
        describe_archive(folder, Description("snapshot", record_id, created_at, [gallery]))

    def _add_jobs(self, transaction: Transaction) -> None:
        for job in self.old.jobs.page(None, ALL):
            transaction.insert(JOBS, job_values(job))
            problems = [
                {
                    "job_id": job.job_id,
                    "number": problem.position,
                    "problem": problem.model_dump_json(),
                }
                for problem in self.old.jobs.problems(job.job_id, -1, ALL)
            ]
            transaction.insert(JOB_PROBLEMS, *problems)

    def _write_keys(self) -> None:
        for api_key in self.old.keys.all():
            self.new.keys.add(api_key)
        self.new.keys.note_used(self.old.keys.last_used())
        if self.old.keys.asked_for:
            asked_for = {"name": "keys_asked_for", "value": 1}
            self._write(lambda transaction: transaction.insert(RECORD, asked_for, instead=True))


def _add_gallery(transaction: Transaction, entry: GalleryRecord) -> None:
    begin_feed(transaction, entry.gallery_id)
    transaction.insert(
        GALLERIES,
        {
            "gallery_id": entry.gallery_id,
            "name": entry.name,
            "embedder": entry.embedding_fingerprint,
            "settings": to_json(entry.settings).decode(),
            "created_at": as_micros(entry.created_at),
            "version": entry.version,
            "next_slot": entry.rows + 1,
            "next_side": entry.sides,
            "side": entry.side,
            "staged_embedder": entry.staged_fingerprint,
            "staged_side": entry.staged_side,
            "staged_slot": entry.staged_row,
            "staged_crops": entry.staged_crops,
            "crops": 0,
            "people": 0,
            "unnamed": 0,
            "image_bytes": 0,
            "removals": entry.removals,
            "restores": entry.at,
        },
    )


def _add_crops(transaction: Transaction, gallery_id: int, crops: Sequence[ArchivedCrop]) -> None:
    # Pictures that a backup holds beside its record lie inside from now on.
    inside = [
        replace(crop, record=replace(crop.record, inside=crop.picture is not None))
        for crop in crops
    ]
    counts = put_crops(transaction, gallery_id, inside)
    del counts["next_slot"]
    added = ", ".join(f"{name} = {name} + ?" for name in counts)
    statement = f"UPDATE galleries SET {added} WHERE gallery_id = ?"
    transaction.change(statement, (*counts.values(), gallery_id))


def _add_staged(
    transaction: Transaction, entry: GalleryRecord, crops: Sequence[ArchivedCrop]
) -> None:
    gallery_id = entry.gallery_id
    for crop in crops:
        record = crop.record
        place = (gallery_id, entry.staged_side or 0, record.row_id)
        transaction.write_vector(*place, record.crop_id, np.asarray(crop.vector))
        dimension = "UPDATE galleries SET staged_dimension = ? WHERE gallery_id = ?"
        transaction.change(dimension, (len(crop.vector), gallery_id))


def _add_reviews(transaction: Transaction, searches: Iterable[KeptQuery]) -> None:
    reviews = [
        {
            "query_id": search.query_id,
            "crop_id": crop_id,
            "decision": review.decision,
            "key_id": review.key_id,
            "reviewed_at": as_micros(review.reviewed_at),
        }
        for search in searches
        for crop_id, review in search.reviews.items()
    ]
    transaction.insert(REVIEWS, *reviews)


def _add_cases(transaction: Transaction, gallery_id: int, cases: Sequence[Case]) -> None:
    there = {query_id for (query_id,) in transaction.execute("SELECT query_id FROM searches")}
    for case in cases:
        values = {name: getattr(case, name) for name in ("case_id", "name", "notes", "key_id")}
        values |= {"gallery_id": gallery_id, "created_at": as_micros(case.created_at)}
        transaction.insert(CASES, values | {"changed_at": as_micros(case.changed_at)})
        held = [
            {
                "case_id": case.case_id,
                "query_id": query_id,
                "added_at": as_micros(entry.added_at),
                "note": entry.note,
            }
            for query_id, entry in case.queries.items()
            if query_id in there
        ]
        transaction.insert(CASE_SEARCHES, *held)
        deleted = [
            {"case_id": case.case_id, "day": day.isoformat(), "searches": searches}
            for day, searches in case.deleted_searches.items()
        ]
        transaction.insert(CASE_DELETIONS, *deleted)


def _micros(moment: str) -> int:
    return as_micros(datetime.fromisoformat(moment))
