"""A record written anew: one of the format before this one, or what is whole of a damaged one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
from pydantic_core import from_json

from gmn_client.models import JobProblem
from service.record.api_keys import API_KEY, SCOPES
from service.record.crop_changes import CropChanges
from service.record.engine import LOOKUP, Engine, Transaction, key, transact
from service.record.entries import ENTRY, put_entry, require_entry
from service.record.galleries import NAMES
from service.record.jobs import JOB, Job, put_job
from service.record.records import ArchivedCrop, GalleryRecord, StoredCrop

CROPS_AT_ONCE = 200
KEYS_AT_ONCE = 1000
# What a crop had before: these columns, or fields of a hash.
CROP = tuple(
    one.name for one in fields(StoredCrop) if one.name not in ("row_id", "inside", "changes")
)
Item = TypeVar("Item")
Entries = Iterable[tuple[bytes, Any]]
"""Keys of a record with their plain data."""


def migrate(
    engine: Engine,
    galleries: Iterable[tuple[GalleryRecord, Iterable[ArchivedCrop]]],
    jobs: Iterable[tuple[Job, Sequence[JobProblem]]],
    others: Entries,
) -> None:
    """Writes a record into an empty engine; each argument is used up before the next.

    Args:
        galleries: entries whose counts are 0, and their crops, whose rows are given out anew.
    """
    for entry, crops in galleries:
        transact(engine, _begin, entry)
        for batch in _batches(crops, CROPS_AT_ONCE):
            transact(engine, _put_crops, entry.gallery_id, batch)
    for job, problems in jobs:
        transact(engine, put_job, job, problems)
    for entries in _batches(others, KEYS_AT_ONCE):
        transact(engine, _put_all, entries)


def _begin(transaction: Transaction, entry: GalleryRecord) -> None:
    transaction.put_json(NAMES + key(entry.name), entry.gallery_id)
    put_entry(transaction, entry)


def _put_crops(transaction: Transaction, gallery_id: int, crops: Sequence[ArchivedCrop]) -> None:
    entry = require_entry(transaction, gallery_id)
    CropChanges(transaction, entry).put_all(crops)
    put_entry(transaction, entry)


def _put_all(transaction: Transaction, entries: Entries) -> None:
    for own, body in entries:
        transaction.put_json(own, body)


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    left = iter(items)
    while batch := list(itertools.islice(left, size)):
        yield batch


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


def old_job(
    kept: Mapping[str, Any], problems: Sequence[JobProblem]
) -> tuple[Job, Sequence[JobProblem]]:
    """A job from the texts that were kept of it, and its problems; no process works on it."""
    names = ("job_id", "gallery_id", "kind", "state", "created_at", "updated_at")
    known = {name: kept[name] for name in names}
    known |= {name: from_json(kept[name]) for name in ("parameters", "progress")}
    known |= {"problems": len(problems), "cancelling": bool(kept["cancelling"])}
    return JOB.validate_python({**known, "detail": kept["detail"] or None}), problems


def old_api_key(kept: Mapping[str, Any], scopes: Sequence[str]) -> tuple[bytes, Any]:
    """An API key from what was kept of it, without scopes that are no more."""
    known = {**kept, "scopes": [one for one in SCOPES if one in scopes]}
    known["expires_at"] = kept.get("expires_at") or None
    return key("api key", kept["key_id"]), API_KEY.validate_python(known)


def old_stray(gallery_id: int, crop_id: str, moment: str) -> Entries:
    """A picture outside of the record that belongs to no crop from a moment on."""
    yield key("stray", moment, crop_id), gallery_id
    yield LOOKUP + key("stray since", crop_id), moment
