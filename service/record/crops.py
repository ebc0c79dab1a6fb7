"""Crops: enrollment, removal, relabelling and reading."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from pydantic_core import to_json

from gmn_client.models import CropOrder, EnrolledImage
from model.crops.texts import nfc
from model.wording import counted
from service.errors import (
    CropConflict,
    NeedsReindex,
    RecordUnavailable,
    RequestConflict,
    ServiceError,
    UnknownCrop,
)
from service.ops.data_directory import failpoint
from service.record.crop_changes import (
    change_embedder,
    find_alike,
    find_request,
    keep_requests,
    put_crops,
    relabel_crops,
    remove_crops,
    seen_as,
)
from service.record.crop_rows import (
    METADATA,
    CropPage,
    list_crops,
    read_by_id,
    read_by_slot,
    read_pages,
    read_slots,
    read_texts,
    read_vectors,
)
from service.record.database import Database, RecordPart, transactional
from service.record.deletions import DeletedCrops
from service.record.galleries import read_entry, require_entry
from service.record.tracks import choose_best
from service.record.transaction import Reader, Transaction, batches
from service.record.values import (
    ArchivedCrop,
    CommittedEnrollment,
    CropsChange,
    EnrollmentRequest,
    GalleryRecord,
    ListFilter,
    Picture,
    RequestKey,
    StoredCrop,
    as_dict,
)
from service.record.vectors import VectorFile

# The message names neither that crop nor its labels: a key that may only enroll must not learn
# them, and they must not be stored with a request's answer, where forgetting would not find them.
SAME_IMAGE = "the same image is already enrolled under another identity or camera"
NOT_KEPT = {"crop_id": None, "duplicate": False, "kept": False}
# Upper bound on the slots examined while other writers wait.
SLOTS_AT_ONCE = 100_000
# Upper bound on the images of one statement, each of which is a value.
IMAGES_AT_ONCE = 500
# One image may have any number of crops, so these are not read as a whole.
OF_SAME_IMAGES = """
SELECT sent_sha256, name, camera, slot FROM crops LEFT JOIN people USING (person_id)
WHERE crops.gallery_id = ? AND {of_images}
"""
PICTURE = "SELECT content, checksum FROM pictures WHERE gallery_id = ? AND slot = ?"
AGES = {"captured": "seen_at", "enrolled": "created_at"}


class Crops(RecordPart):
    """Crops with their vectors and pictures."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        # Number of removals when the space of each gallery was last released.
        self._released: dict[int, int] = {}

    @transactional
    def enroll(
        self,
        transaction: Transaction,
        gallery_id: int,
        embedding_fingerprint: str,
        crops: Sequence[ArchivedCrop],
        key: RequestKey | None = None,
        keep_best: int | None = None,
        import_job: str | None = None,
        deletions: DeletedCrops | None = None,
    ) -> CommittedEnrollment:
        """Store crops in one commit; a repeated request returns its first answer.

        A request without crops is not remembered.

        Args:
            keep_best: number of crops to keep for each of their tracks; None keeps all.
            import_job: id of the import that stores them, if one does.
            deletions: for crops of an export, which keep their ids. Those that were deleted, from
                any gallery, are not kept, and those that the gallery has are duplicates.

        Raises:
            NeedsReindex: the gallery was filled by another embedder.
            RequestConflict: the key belongs to a different request.
            InvalidField: a track has too many crops to choose the best of them.
        """
        left_out: dict[str, EnrolledImage] = {}
        if deletions is not None:
            left_out = _find_left_out(transaction, gallery_id, crops, deletions)
        new = [crop for crop in crops if crop.record.crop_id not in left_out]
        request = EnrollmentRequest(embedding_fingerprint, new, key, import_job)
        (outcome,) = _enroll(transaction, gallery_id, [request], keep_best)
        if isinstance(outcome, Exception):
            raise outcome
        if not left_out:
            return outcome
        images = iter(outcome.landed)
        crop_ids = [crop.record.crop_id for crop in crops]
        landed = tuple(
            left_out[crop_id] if crop_id in left_out else next(images) for crop_id in crop_ids
        )
        return replace(outcome, landed=landed)

    def enroll_together(
        self, gallery_id: int, requests: Sequence[EnrollmentRequest]
    ) -> list[CommittedEnrollment | Exception]:
        """Store the crops of several requests; requests of the same kind share a commit.

        Returns:
            The outcome or the error of each request, as if it had been stored alone after the
            previous ones. Only the version may be a later one.
        """
        outcomes: list[CommittedEnrollment | Exception] = []
        for alike in _split_alike(requests):
            try:
                outcomes += self._database.write(_enroll, gallery_id, alike)
            except RecordUnavailable as error:
                # It may have happened, so that no other error may take the place of this one.
                outcomes += [error] * (len(requests) - len(outcomes))
                break
            except Exception:
                # A damaged row or a full disk then fails only the requests that it concerns.
                outcomes += [self._enroll_alone(gallery_id, request) for request in alike]
        return outcomes

    def _enroll_alone(
        self, gallery_id: int, request: EnrollmentRequest
    ) -> CommittedEnrollment | Exception:
        try:
            (outcome,) = self._database.write(_enroll, gallery_id, [request])
        except Exception as error:
            return error
        return outcome

    def find_exported(
        self, gallery_id: int, crop_ids: Sequence[str], import_job: str, deletions: DeletedCrops
    ) -> dict[str, str]:
        """Return the outcomes of the crops of an export that must not be stored again.

        A crop is `deleted` if it was deleted from any gallery, `landed` if this import has stored
        it before, and one of the `duplicates` if the gallery has it otherwise.
        """
        statement = (
            "SELECT crop_id FROM crops JOIN imported_crops USING (gallery_id, slot) "
            f"WHERE gallery_id = ? AND {self._reader.dialect.among('crop_id')} AND job_id = ?"
        )
        deleted = deleted_among(self._reader, deletions, crop_ids)
        stored = stored_among(self._reader, gallery_id, crop_ids)
        own = self._reader.column(statement, (gallery_id, crop_ids, import_job))
        return {
            **dict.fromkeys(deleted, "deleted"),
            **dict.fromkeys(stored, "duplicates"),
            **dict.fromkeys(own, "landed"),
        }

    @transactional
    def remove(
        self, transaction: Transaction, gallery_id: int, crop_ids: Collection[str]
    ) -> CropsChange:
        those = transaction.dialect.among("crop_id")
        statement = f"SELECT slot FROM crops WHERE gallery_id = ? AND {those}"
        slots = transaction.column(statement, (gallery_id, crop_ids))
        return remove_crops(transaction, gallery_id, slots)

    @transactional
    def remove_matching(
        self, transaction: Transaction, gallery_id: int, wanted: ListFilter
    ) -> CropsChange:
        return remove_crops(transaction, gallery_id, read_slots(transaction, gallery_id, wanted))

    @transactional
    def remove_imported(
        self, transaction: Transaction, gallery_id: int, job_id: str, limit: int
    ) -> CropsChange:
        """Remove up to `limit` crops that an import stored."""
        statement = (
            "SELECT slot FROM imported_crops WHERE gallery_id = ? AND job_id = ? "
            "ORDER BY slot LIMIT ?"
        )
        slots = transaction.column(statement, (gallery_id, job_id, limit))
        return remove_crops(transaction, gallery_id, slots)

    def count_imported(self, gallery_id: int, job_id: str) -> tuple[int, int]:
        """Count the crops of an import: all, and the renamed ones."""
        statement = (
            "SELECT count(*), count(*) FILTER (WHERE renamed = 1) FROM imported_crops "
            "WHERE gallery_id = ? AND job_id = ?"
        )
        (counts,) = self._reader.tuples(statement, (gallery_id, job_id))
        return counts

    @transactional
    def remove_expired(self, transaction: Transaction, gallery_id: int, limit: int) -> CropsChange:
        """Remove up to `limit` crops that the gallery no longer keeps, the oldest first.

        Settings that another process has changed apply at once.
        """
        return remove_crops(transaction, gallery_id, _find_expired(transaction, gallery_id, limit))

    def has_expired(self, gallery_id: int) -> bool:
        return bool(_find_expired(self._reader, gallery_id, 1))

    @transactional
    def change(
        self,
        transaction: Transaction,
        gallery_id: int,
        wanted: ListFilter,
        fields: Mapping[str, Any],
    ) -> CropsChange:
        """Change labels of all crops that pass a filter.

        Raises:
            CropConflict: another crop of the same image has that identity and camera.
        """
        entry = require_entry(transaction, gallery_id)
        crops = read_by_slot(transaction, gallery_id, read_slots(transaction, gallery_id, wanted))
        differing = [
            crop
            for crop in crops
            if any(
                _as_json(getattr(crop, name)) != _as_json(value) for name, value in fields.items()
            )
        ]
        unchanged = len(crops) - len(differing)
        if not differing:
            return CropsChange(entry.version, unchanged=unchanged)
        slots = [crop.slot for crop in differing]
        relabelling = relabel_crops(transaction, gallery_id, slots, fields)
        # Two crops that a merge made alike can still have their other fields corrected.
        moved = {
            crop.slot for crop in differing if seen_as(replace(crop, **fields)) != seen_as(crop)
        }
        if conflict := find_alike(transaction, gallery_id, moved):
            raise CropConflict(*conflict)
        return replace(relabelling, unchanged=unchanged)

    def get(self, gallery_id: int, crop_id: str) -> StoredCrop:
        """Return a crop; raises `UnknownCrop`."""
        for crop in read_by_id(self._reader, gallery_id, [crop_id]):
            return crop
        raise UnknownCrop(require_entry(self._reader, gallery_id).name, crop_id)

    def page(
        self,
        gallery_id: int,
        wanted: ListFilter,
        after: str = "",
        limit: int = 1000,
        order: CropOrder = "enrolled",
    ) -> CropPage:
        return list_crops(self._reader, gallery_id, wanted, order, after, limit)

    def slots(self, gallery_id: int, wanted: ListFilter, limit: int | None = None) -> list[int]:
        return read_slots(self._reader, gallery_id, wanted, limit)

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """Return a crop's picture; None if the record has no such crop or not its picture.

        Raises:
            DamagedRecord: the picture is missing or damaged.
        """
        with self._database.read() as reader:
            crop = next(iter(read_by_id(reader, gallery_id, [crop_id])), None)
            if crop is None or not crop.inside:
                return None
            stored = reader.tuples(PICTURE, (gallery_id, crop.slot))
        for content, checksum in stored:
            # A flipped bit can make a text of it.
            if isinstance(content, bytes) and zlib.crc32(content) == checksum:
                return Picture(content, crop.content_type or "")
        self._database.leave_out(gallery_id, crop.slot, crop_id, "picture")
        raise self._database.damage(f"the picture of crop {crop_id} is missing or corrupt")

    def vector_file(self, gallery: GalleryRecord | None) -> VectorFile | None:
        if gallery is None or gallery.dimension is None:
            return None
        return self._database.vectors.open(
            gallery.gallery_id, gallery.generation, gallery.dimension
        )

    def metadata(self, gallery_id: int, slots: Sequence[int]) -> Iterator[tuple[int, str]]:
        return read_texts(self._reader, METADATA, gallery_id, slots)

    def vectors(self, gallery_id: int) -> Iterator[ArchivedCrop]:
        """Yield every crop with its vector in the order of slots, leaving out damaged ones.

        Raises:
            DamagedRecord: a page of the crops cannot be read.
        """
        entry = read_entry(self._reader, gallery_id)
        count = 0
        for crops in read_pages(self._reader, gallery_id):
            count += len(crops)
            yield from read_vectors(self._reader, read_entry(self._reader, gallery_id), crops)
        now = read_entry(self._reader, gallery_id)
        damaged = sum(owner == gallery_id for owner, _ in self._database.damaged)
        if entry and now and now.version == entry.version and count + damaged < entry.crops:
            stored = counted(count + damaged, "crop")
            self._database.note_problem(
                f"gallery {entry.name} has {stored}, and {entry.crops:,} were written"
            )

    def indexed(self, gallery_id: int, slots: Sequence[int]) -> list[ArchivedCrop]:
        crops = read_by_slot(self._reader, gallery_id, slots)
        return read_vectors(self._reader, read_entry(self._reader, gallery_id), crops)

    def vectors_of(self, gallery_id: int, slots: Sequence[int]) -> tuple[str, list[ArchivedCrop]]:
        """Return the embedder of a gallery, and its crops in slots that match their checksums.

        Raises:
            UnknownGallery: the gallery was deleted.
        """
        while True:
            with self._database.read() as reader:
                entry = require_entry(reader, gallery_id)
                crops = read_by_slot(reader, gallery_id, slots)
            vectors = read_vectors(self._reader, entry, crops)
            if len(vectors) == len(crops):
                return entry.embedding_fingerprint, vectors
            # A reindex drops the vectors of the former generation, perhaps before they were read.
            if require_entry(self._reader, gallery_id).generation == entry.generation:
                return entry.embedding_fingerprint, vectors

    def by_slot(self, gallery_id: int, slots: Sequence[int]) -> dict[int, StoredCrop]:
        return {crop.slot: crop for crop in read_by_slot(self._reader, gallery_id, slots)}

    def by_id(self, gallery_id: int, crop_ids: Iterable[str]) -> dict[str, StoredCrop]:
        return {crop.crop_id: crop for crop in read_by_id(self._reader, gallery_id, crop_ids)}

    @transactional
    def drop_tombstones(self, transaction: Transaction, gallery_id: int, before: datetime) -> None:
        """Forget which crops were removed before a time.

        Importing an older export would bring the crops back.
        """
        statement = "DELETE FROM tombstones WHERE gallery_id = ? AND removed_at < ?"
        transaction.change(statement, (gallery_id, before))

    def release_space(self, gallery_id: int) -> None:
        """Return the space of removed vectors to the file system, blocking writes piece by piece.

        Raises:
            OSError: the file system does not support it.
        """
        entry = read_entry(self._reader, gallery_id)
        if entry is None or entry.removals == self._released.get(gallery_id, 0):
            return
        for first in range(0, entry.next_slot, SLOTS_AT_ONCE):
            self._release_some(gallery_id, first, min(first + SLOTS_AT_ONCE, entry.next_slot))
        self._released[gallery_id] = entry.removals

    @transactional
    def _release_some(
        self, transaction: Transaction, gallery_id: int, first: int, end: int
    ) -> None:
        statement = (
            "SELECT slot FROM crops WHERE gallery_id = ? AND slot BETWEEN ? AND ? ORDER BY slot"
        )
        used = transaction.column(statement, (gallery_id, first, end - 1))
        for file in self._database.vector_files(gallery_id):
            file.release(used, first, end)


def deleted_among(reader: Reader, deletions: DeletedCrops, crop_ids: Sequence[str]) -> set[str]:
    """Return which of some crops were deleted, from any gallery of the record."""
    # The log has the crops of deleted galleries, and lacks what another machine has just deleted.
    removed = reader.column(
        "SELECT crop_id FROM galleries JOIN tombstones USING (gallery_id) "
        f"WHERE {reader.dialect.among('crop_id')}",
        (crop_ids,),
    )
    return deletions.among(crop_ids).union(removed)


def _find_left_out(
    reader: Reader, gallery_id: int, crops: Sequence[ArchivedCrop], deletions: DeletedCrops
) -> dict[str, EnrolledImage]:
    """Return the outcomes of the crops of an export that were deleted, or that are stored."""
    crop_ids = [crop.record.crop_id for crop in crops]
    stored = stored_among(reader, gallery_id, crop_ids)
    left_out = stored | deleted_among(reader, deletions, crop_ids)
    return {
        crop.record.crop_id: EnrolledImage(
            crop_id=crop.record.crop_id if crop.record.crop_id in stored else None,
            identity=crop.record.identity,
            camera=crop.record.camera,
            duplicate=crop.record.crop_id in stored,
            kept=crop.record.crop_id in stored,
            warnings=[],
        )
        for crop in crops
        if crop.record.crop_id in left_out
    }


def stored_among(reader: Reader, gallery_id: int, crop_ids: Sequence[str]) -> set[str]:
    those = reader.dialect.among("crop_id")
    statement = f"SELECT crop_id FROM crops WHERE gallery_id = ? AND {those}"
    return set(reader.column(statement, (gallery_id, crop_ids)))


def _split_alike(requests: Iterable[EnrollmentRequest]) -> Iterator[list[EnrollmentRequest]]:
    """Split requests, keeping their order, into parts that are stored like one request."""
    alike: list[EnrollmentRequest] = []
    keys: set[str] = set()
    for request in requests:
        key = request.key.key if request.key else None
        is_alike = not alike or (alike[0].embedder, alike[0].import_job) == (
            request.embedder,
            request.import_job,
        )
        if key in keys or not is_alike:
            yield alike
            alike = []
            keys = set()
        alike.append(request)
        if key is not None:
            keys.add(key)
    if alike:
        yield alike


def _enroll(
    transaction: Transaction,
    gallery_id: int,
    requests: Sequence[EnrollmentRequest],
    keep_best: int | None = None,
) -> list[CommittedEnrollment | ServiceError]:
    """Store the crops of requests that are alike, after all of them were checked.

    Raises:
        InvalidField: a track has too many crops to choose the best of them.
    """
    entry = require_entry(transaction, gallery_id)
    outcomes = [_check_request(transaction, entry, request) for request in requests]
    new = [request for request, outcome in zip(requests, outcomes, strict=True) if outcome is None]
    stored = iter(_store_requests(transaction, entry, new, keep_best) if new else ())
    return [next(stored) if outcome is None else outcome for outcome in outcomes]


def _check_request(
    reader: Reader, entry: GalleryRecord, request: EnrollmentRequest
) -> CommittedEnrollment | ServiceError | None:
    """Return the outcome of a request that stores nothing; None if its crops are to be stored."""
    try:
        if request.key and (past := find_request(reader, entry, request.key)):
            return past
        if not request.crops:
            return CommittedEnrollment(entry.version)
        _require_embedder(entry, request.embedder)
    except (NeedsReindex, RequestConflict) as error:
        return error
    return None


def _store_requests(
    transaction: Transaction,
    entry: GalleryRecord,
    requests: Sequence[EnrollmentRequest],
    keep_best: int | None,
) -> list[CommittedEnrollment]:
    """Store the crops of checked requests as if one request had sent them; return the outcomes."""
    gallery_id = entry.gallery_id
    first = requests[0]
    crops = [crop for request in requests for crop in request.crops]
    landed, added, known = _compare_with_stored(transaction, gallery_id, crops)
    displaced: list[StoredCrop] = []
    if keep_best is not None:
        rejected, displaced = choose_best(transaction, gallery_id, added, known, keep_best)
        added = [crop for crop in added if crop.record.crop_id not in rejected]
        landed = [
            image.model_copy(update=NOT_KEPT) if image.crop_id in rejected else image
            for image in landed
        ]
    version = entry.version
    _bind_embedder(transaction, entry, first.embedder)
    if added:
        added = _number(added, entry)
        version = _put(transaction, gallery_id, added, first.import_job)
    removal = None
    if displaced:
        slots = [crop.slot for crop in displaced]
        removal = remove_crops(transaction, gallery_id, slots)
        version = removal.version
    outcomes: list[CommittedEnrollment] = []
    answers: list[tuple[RequestKey, Sequence[EnrolledImage]]] = []
    images = iter(landed)
    records = iter([crop.record for crop in added])
    for request in requests:
        own_images = tuple(itertools.islice(images, len(request.crops)))
        is_new = [image.kept and not image.duplicate for image in own_images]
        own_records = tuple(itertools.islice(records, sum(is_new)))
        outcomes.append(CommittedEnrollment(version, own_images, own_records, removal=removal))
        if request.key:
            answers.append((request.key, own_images))
    keep_requests(transaction, gallery_id, version, answers)
    return outcomes


def _require_embedder(entry: GalleryRecord, embedder: str) -> None:
    if entry.crops and entry.embedding_fingerprint != embedder:
        raise NeedsReindex(entry.name, entry.embedding_fingerprint, embedder)


def _bind_embedder(transaction: Transaction, entry: GalleryRecord, embedder: str) -> None:
    """Bind a gallery, which is empty unless it is bound already, to an embedder."""
    if entry.embedding_fingerprint != embedder:
        change_embedder(transaction, entry, embedder)


def _number(crops: Sequence[ArchivedCrop], entry: GalleryRecord) -> list[ArchivedCrop]:
    return [
        replace(crop, record=replace(crop.record, slot=slot))
        for slot, crop in enumerate(crops, entry.next_slot)
    ]


def _put(
    transaction: Transaction,
    gallery_id: int,
    crops: Sequence[ArchivedCrop],
    import_job: str | None,
) -> int:
    """Store new crops and return the gallery's version."""
    version = put_crops(transaction, gallery_id, crops)
    slots = [crop.record.slot for crop in crops]
    if import_job is not None:
        rows = [
            {"gallery_id": gallery_id, "slot": slot, "job_id": import_job, "renamed": 0}
            for slot in slots
        ]
        transaction.insert("imported_crops", *rows)
    return version


def _find_expired(reader: Reader, gallery_id: int, limit: int) -> list[int]:
    """Return the slots of up to `limit` crops older than the gallery's retention.

    The age counts from the capture or, if that is unknown or the gallery says so, the enrollment.
    """
    entry = read_entry(reader, gallery_id)
    if entry is None or entry.settings.retention is None:
        return []
    oldest = datetime.now(UTC) - entry.settings.retention
    age = AGES[entry.settings.retention_from]
    statement = f"SELECT slot FROM crops WHERE gallery_id = ? AND {age} < ? ORDER BY {age} LIMIT ?"
    return reader.column(statement, (gallery_id, oldest, limit))


def _compare_with_stored(
    reader: Reader, gallery_id: int, crops: Sequence[ArchivedCrop]
) -> tuple[list[EnrolledImage], list[ArchivedCrop], list[StoredCrop]]:
    """Compare crops with each other and with the stored crops of the same images.

    Returns:
        The outcome of each crop, the new crops, and the known crops that were sent again under
        their track.
    """
    sent = {seen_as(crop.record) for crop in crops}
    enrolled_images = set()
    slots = []
    hashes = {sent_sha256 for sent_sha256, *_ in sent}
    for seen, slot in _read_same_images(reader, gallery_id, hashes):
        enrolled_images.add(seen[0])
        if seen in sent:
            slots.append(slot)
    # A merge may have made crops alike: the oldest counts.
    stored = {seen_as(crop): crop for crop in reversed(read_by_slot(reader, gallery_id, slots))}
    landed: list[EnrolledImage] = []
    added: list[ArchivedCrop] = []
    known: list[StoredCrop] = []
    for crop in crops:
        record = replace(crop.record, inside=crop.picture is not None)
        first = stored.setdefault(seen_as(record), record)
        is_new = first is record
        warnings = []
        if is_new:
            if record.sent_sha256 in enrolled_images:
                warnings.append(SAME_IMAGE)
            added.append(replace(crop, record=record))
            enrolled_images.add(record.sent_sha256)
            failpoint("enroll.crop-written")
        else:
            warnings = [
                f"the crop is enrolled already and keeps its {name}; delete it first to change that"
                for name in ("captured_at", "external_id", "metadata", "track")
                if not _is_kept(name, getattr(record, name), getattr(first, name))
            ]
            # A crop sent under another track says nothing about the track that it is in.
            if record.track == first.track:
                known.append(first)
        landed.append(
            EnrolledImage(
                crop_id=first.crop_id,
                identity=record.identity,
                camera=record.camera,
                duplicate=not is_new,
                warnings=warnings,
            )
        )
    return landed, added, known


def _read_same_images(
    reader: Reader, gallery_id: int, hashes: Iterable[str]
) -> Iterator[tuple[tuple[str, str | None, str | None], int]]:
    """Yield the `seen_as` fields of each stored crop of some images, and its slot."""
    for batch in batches(hashes, IMAGES_AT_ONCE):
        placeholders = ", ".join("?" * len(batch))
        statement = OF_SAME_IMAGES.format(of_images=f"sent_sha256 IN ({placeholders})")
        values = (gallery_id, *(bytes.fromhex(sent_sha256) for sent_sha256 in batch))
        for sent_sha256, name, camera, slot in reader.tuples(statement, values):
            yield (sent_sha256.hex(), name, camera), slot


def _is_kept(name: str, sent: Any, stored: Any) -> bool:
    """Return whether a label that was sent again is the stored one, or none."""
    if name == "external_id" and sent and stored:
        return nfc(sent) == nfc(stored)
    return sent is None or sent == stored


def _as_json(label: Any) -> bytes:
    """Return a label as JSON, in which true differs from 1."""
    return to_json(label, fallback=as_dict)
