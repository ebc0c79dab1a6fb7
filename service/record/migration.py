"""A record of the format before this one, written anew in this one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from pydantic_core import from_json

from gmn_client.models import JobProblem
from service.record.api_keys import API_KEY, SCOPES, ApiKey, Keys
from service.record.crop_changes import CropChanges, tombstone
from service.record.engine import Engine, Transaction, key, now, transact
from service.record.entries import ENTRY, put_entry, require_entry
from service.record.files import Snapshots
from service.record.galleries import NAMES, NEXT_GALLERY
from service.record.garbage import note_strays
from service.record.jobs import JOB, Job, put_job
from service.record.records import (
    ArchivedCrop,
    GalleryRecord,
    PublishedCalibration,
    Snapshot,
    StoredCrop,
)

CROPS_AT_ONCE = 200
NAMES_AT_ONCE = 1000
# What a crop had before: these columns, or fields of a hash.
CROP = tuple(
    one.name for one in fields(StoredCrop) if one.name not in ("row_id", "inside", "changes")
)


@dataclass(frozen=True)
class OldGallery:
    """A gallery with what belongs to it.

    Attributes:
        entry: with its number, name, embedder, settings and version; the counts are 0.
        crops: in the order of their rows, which are given out anew.
        tombstones: ids of crops that were removed for good.
        published: calibrations by subject.
    """

    entry: GalleryRecord
    crops: Iterable[ArchivedCrop]
    tombstones: Sequence[str] = ()
    snapshots: Sequence[Snapshot] = ()
    jobs: Sequence[tuple[Job, Sequence[JobProblem]]] = ()
    published: dict[str, PublishedCalibration] = field(default_factory=dict)


@dataclass(frozen=True)
class OldRecord:
    """A record of the format before.

    Attributes:
        galleries: one is used up before the next.
        last_gallery: the number that was given to the newest gallery.
        runtimes: what computes the features, by the embedder's fingerprint.
        stray_pictures: outside, of no crop: gallery, crop id, and from when, as text.
    """

    galleries: Iterable[OldGallery]
    last_gallery: int
    api_keys: Sequence[ApiKey]
    runtimes: Mapping[str, str]
    stray_pictures: Sequence[tuple[int, str, str]]


def old_entry(kept: Mapping[str, Any]) -> GalleryRecord:
    """A gallery's entry from the texts and numbers that were kept of it."""
    names = ("gallery_id", "name", "embedding_fingerprint", "created_at", "version")
    settings = {name: kept[name] for name in ("calibration", "retention_from")}
    settings["retention_days"] = kept.get("retention_days") or None
    return ENTRY.validate_python({**{name: kept[name] for name in names}, "settings": settings})


def old_crop(row_id: int, kept: Mapping[str, Any], vector: bytes, picture: Any) -> ArchivedCrop:
    """A crop from the texts and numbers that were kept of it."""
    known = {**kept, "content_type": kept["content_type"] or None}
    known["metadata"] = from_json(kept["metadata"]) if kept["metadata"] else None
    return ArchivedCrop(StoredCrop(row_id, **known), np.frombuffer(vector, "<f4"), picture)


def old_job(kept: Mapping[str, Any], problems: Sequence[JobProblem]) -> Job:
    """A job from the texts that were kept of it; no process works on it."""
    names = ("job_id", "gallery_id", "kind", "state", "created_at", "updated_at")
    known = {name: kept[name] for name in names}
    known |= {name: from_json(kept[name]) for name in ("parameters", "progress")}
    known |= {"problems": len(problems), "cancelling": bool(kept["cancelling"])}
    return JOB.validate_python({**known, "detail": kept["detail"] or None})


def old_api_key(kept: Mapping[str, Any], scopes: Sequence[str]) -> ApiKey:
    """An API key from what was kept of it, without scopes that are no more."""
    known = {**kept, "scopes": [one for one in SCOPES if one in scopes]}
    return API_KEY.validate_python({**known, "expires_at": kept.get("expires_at") or None})


def migrate(old: OldRecord, engine: Engine) -> None:
    """Writes a record into an empty engine.

    Searches that calibrations learn from are left out, and so are vectors that a reindex had
    prepared: both come anew. Requests that were answered are forgotten.
    """
    for gallery in old.galleries:
        gallery_id, crops = gallery.entry.gallery_id, iter(gallery.crops)
        transact(engine, _begin, gallery)
        while batch := list(itertools.islice(crops, CROPS_AT_ONCE)):
            transact(engine, _put, gallery_id, batch)
        for first in range(0, len(gallery.tombstones), NAMES_AT_ONCE):
            names = gallery.tombstones[first : first + NAMES_AT_ONCE]
            transact(engine, _bury, gallery_id, names)
        for snapshot in gallery.snapshots:
            Snapshots(engine).keep(snapshot)
        for job, problems in gallery.jobs:
            transact(engine, put_job, job, problems)
    for api_key in old.api_keys:
        Keys(engine).add(api_key)
    transact(engine, _end, old)


def _begin(transaction: Transaction, gallery: OldGallery) -> None:
    entry = gallery.entry
    transaction.put_json(NAMES + key(entry.name), entry.gallery_id)
    put_entry(transaction, entry)
    for subject, one in gallery.published.items():
        transaction.put_json(key("published", entry.gallery_id, subject), one)


def _put(transaction: Transaction, gallery_id: int, crops: Sequence[ArchivedCrop]) -> None:
    entry = require_entry(transaction, gallery_id)
    CropChanges(transaction, entry).put_all(crops)
    put_entry(transaction, entry)


def _bury(transaction: Transaction, gallery_id: int, crop_ids: Sequence[str]) -> None:
    moment = now()
    for crop_id in crop_ids:
        transaction.put_json(tombstone(gallery_id, crop_id), moment)


def _end(transaction: Transaction, old: OldRecord) -> None:
    transaction.put_json(NEXT_GALLERY, old.last_gallery)
    for embedder, choice in old.runtimes.items():
        transaction.put_json(key("runtime", embedder), choice)
    for gallery_id, crop_id, moment in old.stray_pictures:
        note_strays(transaction, gallery_id, [crop_id], moment)
