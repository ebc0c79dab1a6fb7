"""Crops in the record: how they are enrolled, removed, renamed and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from functools import partial

from gmn_client.models import Identity, IdentityDetail, RetentionFrom
from service.errors import CropConflict
from service.ops.failpoints import failpoint
from service.record import archives, requests, restoring, strays
from service.record.archives import Archive
from service.record.crop_changes import CropChanges, tombstone
from service.record.crop_entries import (
    Generation,
    Sightings,
    as_crop,
    read_contents,
    read_crops,
    read_picture,
    rows_by,
    scan_crops,
)
from service.record.encoding import above, below, key, last_number, last_text
from service.record.engine import Engine, Reader, Scan, Transaction, as_data, transact
from service.record.gallery_entries import bind, read_entry, require_entry
from service.record.merges import follow_rename, forget_merges, keep_merge
from service.record.records import (
    ArchivedCrop,
    CropFields,
    CropFilter,
    Enrolment,
    IndexedCrop,
    LandedCrop,
    NewCrop,
    Picture,
    Relabelling,
    Removal,
    RequestKey,
    StoredCrop,
    StrayPicture,
)
from service.record.stored_values import as_text, contains_text, kept_already, now, same_image

NAMED_IN_WARNINGS = 3
ROWS_AT_ONCE = 500
KEYS_AT_ONCE = 1000


class Crops:
    """Crops with their vectors and pictures."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._reader = Reader(engine)

    def enroll(
        self,
        gallery_id: int,
        embedding_fingerprint: str,
        crops: Sequence[NewCrop],
        request: RequestKey | None = None,
    ) -> Enrolment:
        """Stores crops at once; a request that happened already changes nothing."""

        def rule(transaction: Transaction) -> Enrolment:
            entry = require_entry(transaction, gallery_id)
            if request and (past := requests.find(transaction, entry, request)):
                return past
            bind(transaction, entry, embedding_fingerprint)
            change = CropChanges(transaction, entry)
            # Read together: in Redis each read apart would be a round trip.
            names = dict.fromkeys(crop.identity for crop in crops if crop.identity is not None)
            transaction.get([change.at.sightings(name) for name in names])
            landed, added = [], []
            same_bytes = _same_bytes(transaction, change.at, crops)
            new = [crop for crop in crops if _duplicate(crop, same_bytes[crop.sha256]) is None]
            _require_new_ids(transaction, change.at, new)
            for crop in crops:
                outcome = _duplicate(crop, same_bytes[crop.sha256])
                if outcome is None:
                    stored = change.insert(crop)
                    outcome = LandedCrop(
                        stored.crop_id,
                        crop.identity,
                        crop.camera,
                        duplicate=False,
                        warnings=tuple(
                            same_image(other.crop_id)
                            for other in same_bytes[crop.sha256][:NAMED_IN_WARNINGS]
                        ),
                    )
                    same_bytes[crop.sha256].append(stored)
                    added.append(IndexedCrop(stored.label, crop.vector))
                    failpoint("enroll.crop-written")
                landed.append(outcome)
            version = entry.version
            if added:
                version = change.finish()
                rows = [one.label.row_id for one in added]
                transaction.note("added", gallery_id, version, rows)
            if request:
                requests.keep(transaction, gallery_id, request, version, landed)
            return Enrolment(version, embedding_fingerprint, tuple(landed), tuple(added))

        return transact(self._engine, rule)

    def remove(self, gallery_id: int, crop_ids: Sequence[str]) -> Removal | None:
        """Removes crops with vectors and pictures for good; None where none of them is there."""

        def rows(reader: Reader, at: Generation) -> list[int]:
            found = reader.get([at.crop_id(crop_id) for crop_id in dict.fromkeys(crop_ids)])
            return [as_data(body)[0] for body in found if body is not None]

        return self._remove(gallery_id, rows)

    def remove_identity(self, gallery_id: int, identity: str) -> Removal | None:
        """Removes an identity's crops and the merges that name it; None where there is none."""
        return self._remove(gallery_id, lambda reader, at: _rows_of(reader, at, identity), identity)

    def remove_older(
        self, gallery_id: int, than: datetime, limit: int, since: RetentionFrom = "captured"
    ) -> Removal | None:
        """Removes up to `limit` crops captured, or else enrolled, before; None where none is."""

        def rows(reader: Reader, at: Generation) -> list[int]:
            older = Scan(at.key(since), at.key(since, as_text(than)), limit)
            return [last_number(own) for own, _ in reader.scan(older)[0]]

        return self._remove(gallery_id, rows)

    def relabel(self, gallery_id: int, identity: str, new: str) -> Relabelling | None:
        """Gives every crop of an identity another one; None where there is no such crop."""

        def rule(transaction: Transaction) -> Relabelling | None:
            entry = require_entry(transaction, gallery_id)
            change = CropChanges(transaction, entry)
            rows = _rows_of(transaction, change.at, identity)
            if not rows:
                return None
            merged = bool(rows_by(transaction, change.at, "identity", [new], 0, 1)[0])
            crops = read_crops(transaction, change.at, rows)
            changed = change.update(crops.values(), identity=new)
            follow_rename(transaction, gallery_id, identity, new)
            merge_id = None
            if merged:
                ids = [crop.crop_id for crop in changed]
                merge_id = keep_merge(transaction, gallery_id, identity, new, ids)
            return change.finish_relabelling(changed, merge_id)

        return transact(self._engine, rule)

    def change(self, gallery_id: int, crop_id: str, fields: CropFields) -> Relabelling | None:
        """Changes what is known of a crop; None where it is not there.

        Raises:
            CropConflict: another crop of the same image bears that identity and camera.
        """

        def rule(transaction: Transaction) -> Relabelling | None:
            entry = require_entry(transaction, gallery_id)
            change = CropChanges(transaction, entry)
            (found,) = transaction.get([change.at.crop_id(crop_id)])
            crops = read_crops(transaction, change.at, [as_data(found)[0]] if found else [])
            if not crops:
                return None
            (crop,) = crops.values()
            if all(getattr(crop, name) == value for name, value in fields.items()):
                return Relabelling(entry.version, ())
            changed = change.update([crop], **fields)
            _require_alone(transaction, change.at, changed[0])
            return change.finish_relabelling(changed)

        return transact(self._engine, rule)

    def get(self, gallery_id: int, crop_id: str) -> StoredCrop | None:
        """One crop's record."""
        found = self._find(gallery_id, crop_id)
        return found[1] if found else None

    def page(self, gallery_id: int, wanted: CropFilter, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops with a `row_id` above `after`, in that order."""
        at = self._searched(gallery_id)
        if at is None:
            return []
        given = {name: value for name, value in vars(wanted).items() if value is not None}
        found: list[StoredCrop] = []
        while len(found) < limit:
            rows = self._rows(at, given, after, max(limit, ROWS_AT_ONCE) if given else limit)
            if not rows:
                break
            after = rows[-1].row_id
            found += [
                crop
                for crop in rows
                if all(getattr(crop, name) == value for name, value in given.items())
            ]
        return found[:limit]

    def identities(
        self, gallery_id: int, after: str, limit: int, query: str = ""
    ) -> list[Identity]:
        """Up to `limit` identities that sort after `after` and contain `query`, in any case."""
        at = self._searched(gallery_id)
        if at is None:
            return []
        prefix = at.key("identity")
        found: list[Identity] = []
        for one, body in self._reader.every(above(prefix, after), max(limit, ROWS_AT_ONCE)):
            name = last_text(one, prefix)
            if contains_text(name, query):
                seen: Sightings = as_data(body)
                cameras = len(seen["cameras"])
                found.append(Identity(identity=name, crops=seen["crops"], cameras=cameras))
                if len(found) == limit:
                    break
        return found

    def identity(self, gallery_id: int, identity: str) -> IdentityDetail | None:
        """One identity; None where no crop bears it."""
        at = self._searched(gallery_id)
        seen: Sightings | None = self._reader.json(at.sightings(identity)) if at else None
        if seen is None:
            return None
        cameras = sorted(seen["cameras"])
        return IdentityDetail(identity=identity, crops=seen["crops"], cameras=cameras)

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """One crop's kept picture."""
        found = self._find(gallery_id, crop_id)
        if found is None:
            return None
        return read_picture(self._reader, *found)

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop as the index needs it, by `row_id`, each held against its checksums.

        Raises:
            ServiceError: a crop is damaged, or gone without a trace.
        """
        entry = read_entry(self._reader, gallery_id)
        if entry is None:
            return
        at, row, count = Generation.searched(entry), 0, 0
        while found := scan_crops(self._reader, at, row, ROWS_AT_ONCE):
            for one in read_contents(self._reader, at, entry.side, found):
                count += 1
                yield one.indexed()
            row = found[-1].row_id
        after = read_entry(self._reader, gallery_id)
        if after and after.version == entry.version and count != entry.crops:
            raise self._engine.damage(
                f"gallery {entry.name} has {count} crops, and {entry.crops} were written"
            )

    def indexed(self, gallery_id: int, row_ids: Sequence[int]) -> list[IndexedCrop]:
        """Those of these crops that are there, as the index needs them, by `row_id`."""
        entry = read_entry(self._reader, gallery_id)
        if entry is None:
            return []
        at = Generation.searched(entry)
        found = read_crops(self._reader, at, sorted(row_ids)).values()
        contents = read_contents(self._reader, at, entry.side, list(found))
        return [one.indexed() for one in contents]

    def by_row(self, gallery_id: int, row_ids: Sequence[int]) -> dict[int, StoredCrop]:
        """Those of these crops that are there now, by `row_id`."""
        at = self._searched(gallery_id)
        if at is None:
            return {}
        return read_crops(self._reader, at, row_ids)

    def removed_among(self, gallery_id: int, crop_ids: Sequence[str]) -> list[str]:
        """Which of these crops of a gallery were removed for good."""
        found = self._reader.get([tombstone(gallery_id, crop_id) for crop_id in crop_ids])
        return [one for one, there in zip(crop_ids, found, strict=True) if there is not None]

    def drop_tombstones(self, gallery_id: int, before: datetime) -> None:
        """Forgets which crops were removed before a moment.

        No snapshot may be from before it: a restore of one would bring the crops back.
        """
        found = self._reader.every(below(key("tombstone", gallery_id)))
        old = [own for own, body in found if "" < as_data(body) < as_text(before)]
        for first in range(0, len(old), KEYS_AT_ONCE):
            part = old[first : first + KEYS_AT_ONCE]
            transact(self._engine, partial(_delete, part))

    def expect_pictures(self, gallery_id: int, crop_ids: Sequence[str], until: datetime) -> None:
        """Notes pictures that are about to be kept elsewhere: strays if no crop lands by then."""
        transact(
            self._engine, lambda change: strays.note(change, gallery_id, crop_ids, as_text(until))
        )

    def stray_pictures(self, now: datetime, limit: int) -> list[StrayPicture]:
        """Up to `limit` pictures elsewhere that belong to no crop, and to none that may land."""
        return strays.until(self._reader, as_text(now), limit)

    def forget_strays(self, crop_ids: Sequence[str]) -> None:
        """Notes that these pictures are gone."""
        transact(self._engine, lambda change: strays.forget(change, crop_ids))

    def archive(self, gallery_id: int) -> AbstractContextManager[Archive]:
        """The gallery as it is at this moment, also while it is written."""
        return archives.archive(self._engine, gallery_id)

    def replace(
        self, gallery_id: int, embedding_fingerprint: str, crops: Iterable[ArchivedCrop]
    ) -> int:
        """Puts an archive's crops in the place of a gallery's own, at once; answers its version."""
        return restoring.replace_crops(self._engine, gallery_id, embedding_fingerprint, crops)

    def _remove(
        self,
        gallery_id: int,
        choose: Callable[[Reader, Generation], list[int]],
        identity: str | None = None,
    ) -> Removal | None:
        def rule(transaction: Transaction) -> Removal | None:
            entry = require_entry(transaction, gallery_id)
            change = CropChanges(transaction, entry)
            removed = change.remove(choose(transaction, change.at))
            transaction.commit.removes = True
            merges = identity is not None and forget_merges(transaction, gallery_id, identity)
            if not removed:
                return Removal(entry.version, ()) if merges else None
            moment = now()
            for crop in removed.values():
                # Without these a restore would bring back what was asked to be gone.
                transaction.put_json(tombstone(gallery_id, crop.crop_id), moment)
            version = change.finish()
            rows = sorted(removed)
            transaction.note("removed", gallery_id, version, rows)
            return Removal(version, tuple(rows), tuple(removed[row].crop_id for row in rows))

        return transact(self._engine, rule)

    def _searched(self, gallery_id: int) -> Generation | None:
        entry = read_entry(self._reader, gallery_id)
        return Generation.searched(entry) if entry else None

    def _find(self, gallery_id: int, crop_id: str) -> tuple[Generation, StoredCrop] | None:
        at = self._searched(gallery_id)
        found = self._reader.json(at.crop_id(crop_id)) if at else None
        if at is None or found is None:
            return None
        (body,) = self._reader.get([at.crop(found[0])])
        return (at, as_crop(body)) if body else None

    def _rows(
        self, at: Generation, given: dict[str, str], after: int, limit: int
    ) -> list[StoredCrop]:
        """Crops above a row: all, or those that have one of the given values."""
        if not given:
            return scan_crops(self._reader, at, after, limit)
        # The last is what fewest crops share.
        name = [name for name in ("camera", "identity", "external_id") if name in given][-1]
        rows = rows_by(self._reader, at, name, [given[name]], after, limit)[0]
        return list(read_crops(self._reader, at, rows).values())


def _rows_of(reader: Reader, at: Generation, identity: str) -> list[int]:
    return rows_by(reader, at, "identity", [identity], 0)[0]


def _same_bytes(
    reader: Reader, at: Generation, crops: Sequence[NewCrop]
) -> dict[str, list[StoredCrop]]:
    """For each image's SHA-256 the crops that have it, oldest first."""
    hashes = list(dict.fromkeys(crop.sha256 for crop in crops))
    rows = rows_by(reader, at, "sha256", hashes, 0)
    known = read_crops(reader, at, [row for some in rows for row in some])
    return {
        one: [known[row] for row in some if row in known]
        for one, some in zip(hashes, rows, strict=True)
    }


def _require_alone(reader: Reader, at: Generation, crop: StoredCrop) -> None:
    """Raises `CropConflict` where another crop has this image, identity and camera."""
    rows = rows_by(reader, at, "sha256", [crop.sha256], 0)[0]
    for other in read_crops(reader, at, rows).values():
        alike = (other.identity, other.camera) == (crop.identity, crop.camera)
        if alike and other.crop_id != crop.crop_id:
            raise CropConflict(crop.crop_id, other.crop_id)


def _require_new_ids(reader: Reader, at: Generation, crops: Sequence[NewCrop]) -> None:
    given = [crop.crop_id for crop in crops if crop.crop_id]
    known = reader.get([at.crop_id(crop_id) for crop_id in given])
    for crop_id, row in zip(given, known, strict=True):
        if row is not None:
            raise ValueError(f"there is a crop {crop_id} already")


def _duplicate(crop: NewCrop, same_bytes: Sequence[StoredCrop]) -> LandedCrop | None:
    """What becomes of a crop that is there already; None for a new one."""
    for other in same_bytes:
        if (other.identity, other.camera) == (crop.identity, crop.camera):
            ignored = [
                name
                for name in ("captured_at", "external_id", "metadata")
                if getattr(crop, name) not in (None, getattr(other, name))
            ]
            warnings = kept_already(ignored)
            return LandedCrop(other.crop_id, crop.identity, crop.camera, True, warnings)
    return None


def _delete(keys: Sequence[bytes], transaction: Transaction) -> None:
    transaction.delete(*keys)
