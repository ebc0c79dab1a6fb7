"""Crops in the record: how they are enrolled, removed, renamed and read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from gmn_client.models import CropOrder, EnrolledImage, RetentionFrom
from service.errors import NeedsReindex
from service.ops.failpoints import failpoint
from service.record.crop_changes import (
    SEEN_AS,
    CropChanges,
    RequestKey,
    find_request,
    keep_request,
    require_unlike,
    tombstone,
)
from service.record.crop_lists import CropPage, list_crops
from service.record.engine import RecordPart, Scan, Transaction, batches, transact, transactional
from service.record.entries import (
    Generation,
    every_crop,
    find_generation,
    put_entry,
    read_contents,
    read_crops,
    read_entry,
    require_entry,
    rows_of_ids,
    vector_name,
)
from service.record.garbage import forget_strays
from service.record.identity_changes import changed_at_once, finish_change
from service.record.keys import as_text, below, key, last_number
from service.record.records import (
    ArchivedCrop,
    CropFields,
    CropFilter,
    Enrolment,
    IndexedCrop,
    Picture,
    Relabelling,
    Removal,
    StoredCrop,
)
from service.record.replacing import Archive, archive, replace_crops

# It names neither that crop nor its labels: a key that may only enroll must not learn them, and
# they are not kept with a request's answer, where forgetting would not find them.
SAME_IMAGE = "the same image is already enrolled under another identity or camera"
ROWS_AT_ONCE = 500
KEYS_AT_ONCE = 1000
EVERY_CROP = CropFilter()


class Crops(RecordPart):
    """Crops with their vectors and pictures."""

    @transactional
    def enroll(
        self,
        transaction: Transaction,
        gallery_id: int,
        embedding_fingerprint: str,
        crops: Sequence[ArchivedCrop],
        request: RequestKey | None = None,
    ) -> Enrolment:
        """Stores crops at once; a request that happened already changes nothing.

        Raises:
            NeedsReindex: another embedder filled the gallery.
        """
        entry = require_entry(transaction, gallery_id)
        if request and (past := find_request(transaction, entry, request)):
            return past
        if entry.embedding_fingerprint != embedding_fingerprint:
            if entry.crops:
                raise NeedsReindex(entry.name, entry.embedding_fingerprint, embedding_fingerprint)
            entry.embedding_fingerprint = embedding_fingerprint
            put_entry(transaction, entry)
            transaction.note("gallery_changed", gallery_id, entry.version)
        change = CropChanges(transaction, entry)
        records = [crop.record for crop in crops]
        same_bytes = change.same_bytes(records)
        newest = entry.rows
        landed: list[EnrolledImage] = []
        added: list[IndexedCrop] = []
        elsewhere: list[str] = []
        for crop, record in zip(crops, records, strict=True):
            same = same_bytes[record.sha256]
            alike = [one for one in same if SEEN_AS(one) == SEEN_AS(record)]
            if alike:
                stored = alike[0]
                warnings = _kept_warnings(record, alike[0])
            else:
                warnings = [SAME_IMAGE] if same else []
                stored = change.put(crop)
                same.append(stored)
                added.append(IndexedCrop(stored.label, crop.vector))
                elsewhere += [stored.crop_id] if stored.elsewhere else []
                elsewhere += [vector_name(stored.crop_id, change.at.side)] if entry.outside else []
                failpoint("enroll.crop-written")
            landed.append(
                EnrolledImage(
                    crop_id=stored.crop_id,
                    identity=record.identity,
                    camera=record.camera,
                    duplicate=bool(alike),
                    warnings=warnings,
                )
            )
        if elsewhere:
            forget_strays(transaction, gallery_id, elsewhere)
        if added:
            change.finish("added", range(newest + 1, entry.rows + 1))
        if request:
            keep_request(transaction, gallery_id, request, entry.version, landed)
        return Enrolment(entry.version, embedding_fingerprint, tuple(landed), tuple(added))

    def happened(self, gallery_id: int, request: RequestKey) -> Enrolment | None:
        """What a request did that is answered already; None where it is new."""
        entry = read_entry(self._reader, gallery_id)
        return find_request(self._reader, entry, request) if entry else None

    @property
    def at_once(self) -> int:
        """How many crops one commit may change."""
        return changed_at_once(self._engine)

    @transactional
    def remove(
        self,
        transaction: Transaction,
        gallery_id: int,
        crop_ids: Sequence[str],
        wanted: CropFilter = EVERY_CROP,
    ) -> Removal | None:
        """Removes crops with vectors and pictures for good; None where there is none to remove.

        Args:
            wanted: those that do not pass it now stay.
        """
        change = CropChanges(transaction, require_entry(transaction, gallery_id))
        found = self._passing(transaction, change, crop_ids, wanted)
        return change.remove_for_good([crop.row_id for crop in found])

    @transactional
    def remove_older(
        self,
        transaction: Transaction,
        gallery_id: int,
        than: datetime,
        limit: int,
        since: RetentionFrom = "captured",
    ) -> Removal | None:
        """Removes up to `limit` crops captured, or else enrolled, before; None where none is."""
        change = CropChanges(transaction, require_entry(transaction, gallery_id))
        older = _older(change.at, than, since, limit)
        return change.remove_for_good([last_number(own) for own, _ in transaction.scan(older)[0]])

    def has_older(self, gallery_id: int, than: datetime, since: RetentionFrom) -> bool:
        """Whether `remove_older` would remove any."""
        at = find_generation(self._reader, gallery_id)
        return bool(self._reader.scan(_older(at, than, since, 1))[0])

    @transactional
    def change(
        self,
        transaction: Transaction,
        gallery_id: int,
        crop_ids: Sequence[str],
        fields: CropFields,
        wanted: CropFilter = EVERY_CROP,
    ) -> Relabelling | None:
        """Changes what is known of crops; None where none of them is there.

        Args:
            wanted: those that do not pass it now stay as they are.

        Raises:
            CropConflict: another crop of the same image bears that identity and camera.
        """
        entry = require_entry(transaction, gallery_id)
        change = CropChanges(transaction, entry)
        found = self._passing(transaction, change, crop_ids, wanted)
        # As JSON, in which true is not 1.
        differing = [
            crop
            for crop in found
            if any(to_json(getattr(crop, name)) != to_json(one) for name, one in fields.items())
        ]
        if not differing:
            return Relabelling(entry.version, ()) if found else None
        changed = change.update(differing, **fields)
        require_unlike(change, differing, changed)
        return change.finish_relabelling(changed)

    def get(self, gallery_id: int, crop_id: str) -> StoredCrop | None:
        """One crop's record."""
        return self._crop(find_generation(self._reader, gallery_id), crop_id)

    def page(
        self,
        gallery_id: int,
        wanted: CropFilter,
        after: str = "",
        limit: int = 1000,
        order: CropOrder = "enrolled",
    ) -> CropPage:
        """Up to `limit` crops that pass a filter, as `list_crops` does."""
        at = find_generation(self._reader, gallery_id)
        return list_crops(self._reader, at, wanted, order, after, limit)

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """One crop's picture; None where none is kept inside, or where it is removed meanwhile.

        Raises:
            ServiceError: it is missing, or not what was written.
        """
        at = find_generation(self._reader, gallery_id)
        crop = self._crop(at, crop_id)
        if crop is None:
            return None
        keys = [at.key("crop", crop.row_id), at.lookup("picture", crop.row_id)]
        record, content = self._reader.get(keys, ["", f"the picture of crop {crop_id}"])
        if content is None and crop.inside and record is not None:
            raise self._engine.damage(f"the picture of crop {crop_id} is gone")
        return None if content is None else Picture(content, crop.content_type or "")

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop as the index needs it, by `row_id`, each held against its checksums.

        Raises:
            ServiceError: a crop is damaged, or gone without a trace.
        """
        entry = read_entry(self._reader, gallery_id)
        if entry is None:
            return
        at = Generation.searched(entry)
        count = 0
        for found in every_crop(self._reader, at, ROWS_AT_ONCE):
            for one in read_contents(self._reader, at, found):
                count += 1
                yield one.indexed
        after = read_entry(self._reader, gallery_id)
        if after and after.version == entry.version and count != entry.crops:
            raise self._engine.damage(
                f"gallery {entry.name} has {count} crops, and {entry.crops} were written"
            )

    def indexed(self, gallery_id: int, row_ids: Sequence[int]) -> list[IndexedCrop]:
        """Those of these crops that are there, as the index needs them, by `row_id`."""
        at = find_generation(self._reader, gallery_id)
        found = list(read_crops(self._reader, at, sorted(row_ids)).values())
        return [one.indexed for one in read_contents(self._reader, at, found)]

    def vectors_of(
        self, gallery_id: int, crops: Sequence[StoredCrop]
    ) -> tuple[str, dict[int, NDArray[np.float32]]]:
        """The embedder's fingerprint, and those of these crops' vectors that are there, by row."""
        entry = require_entry(self._reader, gallery_id)
        found = read_contents(self._reader, Generation.searched(entry), crops)
        vectors = {one.record.row_id: one.vector for one in found}
        return entry.embedding_fingerprint, vectors

    def by_row(self, gallery_id: int, row_ids: Sequence[int]) -> dict[int, StoredCrop]:
        """Those of these crops that are there now, by `row_id`."""
        return read_crops(self._reader, find_generation(self._reader, gallery_id), row_ids)

    def by_id(self, gallery_id: int, crop_ids: Iterable[str]) -> dict[str, StoredCrop]:
        """Those of these crops that are there now, by `crop_id`."""
        at = find_generation(self._reader, gallery_id)
        rows = rows_of_ids(self._reader, at, crop_ids)
        return {one.crop_id: one for one in read_crops(self._reader, at, rows).values()}

    def removed_among(self, gallery_id: int, crop_ids: Sequence[str]) -> list[str]:
        """Which of these crops of a gallery were removed for good."""
        found = self._reader.get([tombstone(gallery_id, crop_id) for crop_id in crop_ids])
        return [one for one, there in zip(crop_ids, found, strict=True) if there is not None]

    def drop_tombstones(self, gallery_id: int, before: datetime) -> None:
        """Forgets which crops were removed before a moment.

        No snapshot may be from before it: a restore of one would bring the crops back.
        """
        found = self._reader.every(below(key("tombstone", gallery_id)))
        old = [own for own, body in found if "" < from_json(body) < as_text(before)]
        for some in batches(old, KEYS_AT_ONCE):
            transact(self._engine, Transaction.delete, *some)

    def archive(self, gallery_id: int) -> AbstractContextManager[Archive]:
        """The gallery as it is at this moment, also while it is written."""
        return archive(self._engine, gallery_id)

    def replace(
        self,
        gallery_id: int,
        embedding_fingerprint: str,
        crops: Iterable[ArchivedCrop],
    ) -> int:
        """Puts an archive's crops in the place of a gallery's own, at once; answers its version."""
        # A person whose forgetting was cut off would come back with those crops.
        finish_change(self._engine, gallery_id)
        return replace_crops(self._engine, gallery_id, embedding_fingerprint, crops)

    @staticmethod
    def _passing(
        transaction: Transaction, change: CropChanges, crop_ids: Sequence[str], wanted: CropFilter
    ) -> list[StoredCrop]:
        rows = rows_of_ids(transaction, change.at, crop_ids)
        found = read_crops(transaction, change.at, rows).values()
        return [crop for crop in found if wanted.passes(crop)]

    def _crop(self, at: Generation, crop_id: str) -> StoredCrop | None:
        found = read_crops(self._reader, at, rows_of_ids(self._reader, at, [crop_id]))
        return next(iter(found.values()), None)


def _older(at: Generation, than: datetime, since: RetentionFrom, limit: int) -> Scan:
    return Scan(at.key(since), at.key(since, as_text(than)), limit)


def _kept_warnings(crop: StoredCrop, stored: StoredCrop) -> list[str]:
    """The warnings about what a duplicate would change of the crop that is there."""
    return [
        f"the crop is enrolled already and keeps its {name}; delete it first to change that"
        for name in ("captured_at", "external_id", "metadata")
        if getattr(crop, name) not in (None, getattr(stored, name))
    ]
