"""Merges of identities, kept for 30 days so that they can be undone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import from_json

from gmn_client.models import Merge
from service.record.crop_changes import CropChanges
from service.record.crop_entries import read_crops, rows_of_ids
from service.record.encoding import as_text, key, last_text, new_crop_id, now
from service.record.engine import Reader, RecordPart, Transaction, transactional
from service.record.gallery_entries import read_entry
from service.record.records import Relabelling

KEPT_FOR = timedelta(days=30)
KIND = "merge"


class Merges(RecordPart):
    """The merges of each gallery's identities that can be undone."""

    def all(self, gallery_id: int) -> list[Merge]:
        """A gallery's merges of the last 30 days, newest first."""
        found = _entries(self._reader, gallery_id)
        merges = [_merge(merge_id, entry) for merge_id, entry in found]
        return [one for one in reversed(merges) if one.undo_until > datetime.now(UTC)]

    @transactional
    def undo(self, transaction: Transaction, gallery_id: int, merge_id: str) -> Relabelling | None:
        """Gives the crops of a merge their former identity again.

        Crops that were deleted, or got yet another identity, stay as they are. A rename of the
        identity that they were merged into does not count as such.

        Returns:
            What was changed; None where there is no such merge any more.
        """
        entry = read_entry(transaction, gallery_id)
        merge = transaction.json(key(KIND, gallery_id, merge_id))
        if entry is None or merge is None or merge["merged_at"] < _oldest():
            return None
        change = CropChanges(transaction, entry)
        rows = sorted(rows_of_ids(transaction, change.at, merge["crop_ids"]))
        crops = read_crops(transaction, change.at, rows).values()
        own = [crop for crop in crops if crop.identity == merge["into"]]
        changed = change.update(own, identity=merge["identity"])
        transaction.delete(key(KIND, gallery_id, merge_id))
        # What had been merged into this identity before is found under it again.
        undone = set(merge["crop_ids"])
        for other_id, other in _entries(transaction, gallery_id):
            if other_id < merge_id and undone.intersection(other["crop_ids"]):
                other["into"] = merge["identity"]
                transaction.put_json(key(KIND, gallery_id, other_id), other)
        return replace(change.finish_relabelling(changed), restored_identity=merge["identity"])

    @transactional
    def remove_expired(self, transaction: Transaction, gallery_id: int) -> None:
        """Removes merges that are older than 30 days."""
        for merge_id, entry in _entries(transaction, gallery_id):
            if entry["merged_at"] < _oldest():
                transaction.commit.removes = True
                transaction.delete(key(KIND, gallery_id, merge_id))


def keep_merge(
    transaction: Transaction, gallery_id: int, identity: str, into: str, crop_ids: Sequence[str]
) -> str:
    """Keeps a merge, and answers its id; ids sort by time."""
    merge_id = new_crop_id()
    entry = {"identity": identity, "into": into, "merged_at": now(), "crop_ids": list(crop_ids)}
    transaction.put_json(key(KIND, gallery_id, merge_id), entry)
    return merge_id


def follow_rename(transaction: Transaction, gallery_id: int, identity: str, new: str) -> None:
    """Notes the new name of an identity that others were merged into."""
    for merge_id, entry in _entries(transaction, gallery_id):
        if entry["into"] == identity:
            transaction.put_json(key(KIND, gallery_id, merge_id), {**entry, "into": new})


def forget_merges(transaction: Transaction, gallery_id: int, identity: str) -> bool:
    """Removes every merge that names an identity; False where there is none."""
    found = [
        key(KIND, gallery_id, merge_id)
        for merge_id, entry in _entries(transaction, gallery_id)
        if identity in (entry["identity"], entry["into"])
    ]
    transaction.delete(*found)
    return bool(found)


def _entries(reader: Reader, gallery_id: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every merge that is kept, oldest first, by id."""
    prefix = key(KIND, gallery_id)
    for own, body in reader.below(prefix):
        yield last_text(own, prefix), from_json(body)


def _merge(merge_id: str, entry: dict[str, Any]) -> Merge:
    merged_at = datetime.fromisoformat(entry["merged_at"])
    return Merge(
        merge_id=merge_id,
        identity=entry["identity"],
        into=entry["into"],
        crops=len(entry["crop_ids"]),
        merged_at=merged_at,
        undo_until=merged_at + KEPT_FOR,
    )


def _oldest() -> str:
    return as_text(datetime.now(UTC) - KEPT_FOR)
