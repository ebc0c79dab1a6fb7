"""A record of the format before this one, written anew in this one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from gmn_client.models import JobProblem
from service.record import jobs, strays
from service.record.crop_changes import CropChanges, tombstone
from service.record.crop_entries import Contents
from service.record.encoding import key
from service.record.engine import Engine, Transaction, transact
from service.record.galleries import NEXT_GALLERY, name_key
from service.record.gallery_entries import Entry, put_entry, read_entry
from service.record.jobs import Job
from service.record.records import PublishedCalibration, Snapshot
from service.record.small_records import ApiKey, Keys, Snapshots
from service.record.stored_values import now

CROPS_AT_ONCE = 200
NAMES_AT_ONCE = 1000


@dataclass(frozen=True)
class OldGallery:
    """A gallery with what belongs to it.

    Attributes:
        entry: with its number, name, embedder, settings and version; the counts are 0.
        crops: in the order of their rows, which are given out anew.
        tombstones: ids of crops that were removed for good.
        published: calibrations by subject.
    """

    entry: Entry
    crops: Iterable[Contents]
    tombstones: Iterable[str] = ()
    snapshots: Sequence[Snapshot] = ()
    jobs: Sequence[tuple[Job, Sequence[JobProblem]]] = ()
    published: dict[str, PublishedCalibration] = field(default_factory=dict)


class OldRecord(Protocol):
    """A record of the format before."""

    def galleries(self) -> Iterator[OldGallery]:
        """Every gallery; one is used up before the next."""

    def last_gallery(self) -> int:
        """The number that was given to the newest gallery."""

    def api_keys(self) -> list[ApiKey]:
        """API keys."""

    def runtimes(self) -> dict[str, str]:
        """What computes the features, by the embedder's fingerprint."""

    def stray_pictures(self) -> list[tuple[int, str, str]]:
        """Pictures outside that belong to no crop: gallery, crop id, and from when, as text."""


def migrate(old: OldRecord, engine: Engine) -> None:
    """Writes a record into an empty engine.

    Searches that calibrations learn from are left out, and so are vectors that a reindex had
    prepared: both come anew. Requests that were answered are forgotten.
    """
    for gallery in old.galleries():
        _migrate_gallery(gallery, engine)
    for api_key in old.api_keys():
        Keys(engine).add(api_key)

    def rest(transaction: Transaction) -> None:
        transaction.put_json(NEXT_GALLERY, old.last_gallery())
        for embedder, choice in old.runtimes().items():
            transaction.put_json(key("runtime", embedder), choice)
        for gallery_id, crop_id, moment in old.stray_pictures():
            strays.note(transaction, gallery_id, [crop_id], moment)

    transact(engine, rest)


def _migrate_gallery(gallery: OldGallery, engine: Engine) -> None:
    entry = gallery.entry

    def begin(transaction: Transaction) -> None:
        transaction.put_json(name_key(entry.name), entry.gallery_id)
        put_entry(transaction, entry)
        for subject, one in gallery.published.items():
            own = key("published", entry.gallery_id, subject)
            transaction.put_json(own, {"version": one.version, "body": one.body})

    transact(engine, begin)
    for crops in _batches(gallery.crops, CROPS_AT_ONCE):

        def put(transaction: Transaction, crops: list[Contents] = crops) -> None:
            current = read_entry(transaction, entry.gallery_id)
            if current is None:
                return
            change = CropChanges(transaction, current)
            for crop in crops:
                change.put(crop.crop, crop.vector, crop.picture)
            change.put_sightings()
            put_entry(transaction, current)

        transact(engine, put)
    moment = now()
    for names in _batches(gallery.tombstones, NAMES_AT_ONCE):

        def bury(transaction: Transaction, names: list[str] = names) -> None:
            for crop_id in names:
                transaction.put_json(tombstone(entry.gallery_id, crop_id), moment)

        transact(engine, bury)
    for snapshot in gallery.snapshots:
        Snapshots(engine).keep(snapshot)
    for job, problems in gallery.jobs:
        transact(engine, lambda change: jobs.put_job(change, job, problems))  # noqa: B023


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
