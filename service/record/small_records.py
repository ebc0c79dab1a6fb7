"""Small records: API keys, snapshots, runtimes, answered requests, calibrations."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass as kept
from pydantic_core import from_json

from gmn_client.models import EnrolledImage
from model.search_calibration import KEPT_SEARCHES
from service.errors import Forbidden, RequestConflict
from service.ops.durable import snapshot_name
from service.record.engine import (
    Reader,
    RecordPart,
    Scan,
    Transaction,
    as_text,
    below,
    key,
    last_text,
    now,
    transactional,
)
from service.record.entries import read_entry, require_entry
from service.record.files import forget_unneeded, note_unneeded
from service.record.records import (
    Enrolment,
    GalleryRecord,
    PublishedCalibration,
    RequestKey,
    Snapshot,
)

Scope = Literal["query", "enroll", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = ("query", "enroll", "metrics", "admin")
REQUESTS_KEPT_FOR = timedelta(days=1)
# Each request that is kept removes up to so many that are older.
REQUESTS_REMOVED_AT_ONCE = 3
HASH = "search of"
KINDS = ("search", HASH, "searches", "published")


@kept(frozen=True)
class ApiKey:
    """Who may do what.

    Attributes:
        key_id: the public part, by which a key is named in logs and revoked.
        secret_sha256: of the secret part, hexadecimal. The secret is 256 random bits, so that a
            fast hash does: there is no dictionary of them.
        scopes: what it may do; `admin` may do everything.
        gallery: the only gallery it may touch; None for all.
        note: whom it was made for.
        learn: whether its searches count for the calibration of the galleries they search.
        expires_at: from then on it is refused; None for never.
    """

    key_id: str
    secret_sha256: str
    scopes: tuple[Scope, ...]
    gallery: str | None
    note: str
    created_at: datetime
    learn: bool = True
    expires_at: datetime | None = None

    def require(self, any_of: Collection[Scope]) -> None:
        """Raises `Forbidden` unless it has one of these scopes, or `admin`."""
        if not {"admin", *any_of} & set(self.scopes):
            raise Forbidden(
                f"the key {self.key_id} has the scope {', '.join(self.scopes)}, and this call "
                f"needs {' or '.join(any_of)}; send a key that has it"
            )

    def require_gallery(self, gallery: str | None) -> None:
        """Raises `Forbidden` where it is for another gallery; None stands for all."""
        if self.gallery not in (None, gallery):
            other = "all of them" if gallery is None else f"{gallery!r}"
            raise Forbidden(
                f"the key {self.key_id} is for the gallery {self.gallery!r} and this call is about "
                f"{other}; send a key for that, or for all"
            )

    def may_see(self, gallery: str) -> bool:
        """Whether it may see a gallery."""
        return self.gallery in (None, gallery)


class Keys(RecordPart):
    """API keys."""

    def all(self) -> list[ApiKey]:
        """Every key that was not revoked, oldest first."""
        found = self._reader.every(below(key("api key")))
        keys = [API_KEY.validate_json(body) for _, body in found]
        return sorted(keys, key=lambda one: (one.created_at, one.key_id))

    @transactional
    def add(self, transaction: Transaction, api_key: ApiKey) -> None:
        """Keeps a key."""
        transaction.put_json(key("api key", api_key.key_id), api_key)
        transaction.note("keys")

    @transactional
    def revoke(self, transaction: Transaction, key_id: str) -> bool:
        """Removes a key; False where there is no such one."""
        own = key("api key", key_id)
        if transaction.json(own) is None:
            return False
        transaction.delete(own)
        transaction.removes = True
        transaction.note("keys")
        return True


class Snapshots(RecordPart):
    """Which snapshots there are; their files lie elsewhere."""

    def all(self, gallery_id: int) -> list[Snapshot]:
        """A gallery's snapshots, oldest first."""
        found = self._reader.every(below(key("snapshot", gallery_id)))
        snapshots = [_SNAPSHOT.validate_json(body) for _, body in found]
        return sorted(snapshots, key=lambda one: (one.created_at, one.snapshot_id))

    @transactional
    def keep(self, transaction: Transaction, snapshot: Snapshot) -> None:
        """Keeps a snapshot, or what has changed of it; raises `UnknownGallery`."""
        require_entry(transaction, snapshot.gallery_id)
        own = key("snapshot", snapshot.gallery_id, snapshot.snapshot_id)
        transaction.put_json(own, snapshot)
        forget_unneeded(transaction, [snapshot_name(snapshot.gallery_id, snapshot.snapshot_id)])

    @transactional
    def remove(self, transaction: Transaction, gallery_id: int, snapshot_id: str) -> bool:
        """Forgets a snapshot, whose file is unneeded then; False where there is no such one."""
        own = key("snapshot", gallery_id, snapshot_id)
        there = transaction.json(own) is not None
        if there:
            transaction.delete(own)
            note_unneeded(transaction, [snapshot_name(gallery_id, snapshot_id)])
        return there


class Runtimes(RecordPart):
    """What computes the features, by the embedder's fingerprint."""

    def get(self, embedder: str) -> str | None:
        """What was kept for an embedder; None where nothing was."""
        choice: str | None = self._reader.json(key("runtime", embedder))
        return choice

    @transactional
    def keep_first(self, transaction: Transaction, embedder: str, choice: str) -> str:
        """Keeps a choice where there is none, and answers the one that is kept."""
        own = key("runtime", embedder)
        before: str | None = transaction.json(own)
        if before is None:
            transaction.put_json(own, choice)
        return before or choice

    @transactional
    def forget(self, transaction: Transaction) -> int:
        """Removes the choices of all embedders, and answers how many there were."""
        found = [own for own, _ in transaction.below(key("runtime"))]
        transaction.delete(*found)
        return len(found)


API_KEY, _SNAPSHOT = TypeAdapter(ApiKey), TypeAdapter(Snapshot)


def find_request(reader: Reader, entry: GalleryRecord, request: RequestKey) -> Enrolment | None:
    """What a request did that happened already; None where it is new.

    Identities and cameras are not kept here, where forgetting would not find them: the same
    request names them again.

    Raises:
        RequestConflict: for a key that stood for another request.
    """
    past = reader.json(key("request", entry.gallery_id, request.key))
    if past is None or past["happened_at"] < as_text(datetime.now(UTC) - REQUESTS_KEPT_FOR):
        return None
    if past["digest"] != request.digest:
        raise RequestConflict(request.key.split(":", 2)[-1])
    landed = tuple(
        EnrolledImage(
            crop_id=crop_id, identity=None, camera=None, duplicate=duplicate, warnings=warnings
        )
        for crop_id, duplicate, warnings in past["landed"]
    )
    return Enrolment(
        past["version"],
        entry.embedding_fingerprint,
        landed,
        (),
        replayed=True,
        problems=past["problems"],
    )


def keep_request(
    transaction: Transaction,
    gallery_id: int,
    request: RequestKey,
    version: int,
    landed: Sequence[EnrolledImage],
) -> None:
    """Keeps what a request did, and removes some that are older than a day."""
    oldest = as_text(datetime.now(UTC) - REQUESTS_KEPT_FOR)
    ages = Scan(key("request age"), key("request age", oldest), REQUESTS_REMOVED_AT_ONCE)
    for age, own in transaction.scan(ages)[0]:
        transaction.delete(age)
        # Read by key: another process may put a newer request under it meanwhile.
        past = transaction.json(own)
        if past is not None and past["happened_at"] < oldest:
            transaction.delete(own)
    moment, own = now(), key("request", gallery_id, request.key)
    transaction.put_json(
        own,
        {
            "digest": request.digest,
            "version": version,
            "landed": [[one.crop_id, one.duplicate, one.warnings] for one in landed],
            "problems": request.problems,
            "happened_at": moment,
        },
    )
    transaction.put(key("request age", moment, gallery_id, request.key), own)


class StoredCalibrations(RecordPart):
    """What galleries learn from their searches; a gallery's deletion removes its own.

    Writing them leaves the gallery's version as it is. A reindex and a restore drop a gallery's
    searches and published calibrations.
    """

    @transactional
    def add_searches(
        self,
        transaction: Transaction,
        gallery_id: int,
        subject: str,
        rows: Sequence[tuple[str, bytes]],
    ) -> None:
        """Adds searches, of which the newest `KEPT_SEARCHES` are kept for each subject.

        A search of the same name takes the place of an older one.
        """
        if read_entry(transaction, gallery_id) is None:
            return
        counted = key("searches", gallery_id, subject)
        counts = transaction.json(counted) or {"next": 0, "kept": 0}
        newest: dict[bytes, bytes] = {}
        for name, body in rows:
            own = key(HASH, gallery_id, subject, name)
            newest.pop(own, None)
            newest[own] = body
        new = list(newest.items())[-KEPT_SEARCHES:]
        before = transaction.get([own for own, _ in new])
        replaced = [key("search", gallery_id, subject, from_json(one)) for one in before if one]
        transaction.delete(*replaced)
        too_many = counts["kept"] + len(new) - len(replaced) - KEPT_SEARCHES
        if too_many > 0:
            searches = below(key("search", gallery_id, subject))
            oldest = transaction.scan(Scan(*searches, too_many + len(replaced)))[0]
            left = [(own, body) for own, body in oldest if own not in replaced]
            for own, body in left[:too_many]:
                transaction.delete(own, _of_search(body, gallery_id, subject)[0])
        for own, body in new:
            transaction.put(key("search", gallery_id, subject, counts["next"]), own + body)
            transaction.put_json(own, counts["next"])
            counts["next"] += 1
        counts["kept"] += len(new) - len(replaced) - max(0, too_many)
        transaction.put_json(counted, counts)

    def searches(self, gallery_id: int, subject: str) -> list[bytes]:
        """The rows that are kept, oldest first."""
        found = self._reader.every(below(key("search", gallery_id, subject)))
        return [_of_search(body, gallery_id, subject)[1] for _, body in found]

    def counted(self, gallery_id: int, subject: str) -> int:
        """How many searches were added since the last drop, also those that are not kept."""
        return _counted(self._reader, gallery_id, subject)

    def published(self, gallery_id: int) -> dict[str, PublishedCalibration]:
        """What every replica answers by, by subject."""
        prefix = key("published", gallery_id)
        return {
            last_text(own, prefix): PublishedCalibration(**from_json(body))
            for own, body in self._reader.every(below(prefix))
        }

    @transactional
    def publish(
        self,
        transaction: Transaction,
        gallery_id: int,
        subject: str,
        body: str,
        after_version: int,
        counted: int = 0,
        vectors: tuple[int, int] | None = None,
    ) -> bool:
        """Publishes a calibration as the next version.

        Args:
            after_version: of the one that is published, 0 for none.
            counted: how many searches were counted at the fit.
            vectors: the generation and the side of the vectors behind it; None for any.

        Returns:
            False where another one is published, the searches or the vectors were dropped since,
            or the gallery's calibration was frozen or switched off.
        """
        entry = read_entry(transaction, gallery_id)
        own = key("published", gallery_id, subject)
        before = transaction.json(own)
        if entry is None or (before["version"] if before else 0) != after_version:
            return False
        if entry.settings.calibration != "on" or vectors not in (None, (entry.at, entry.side)):
            return False
        if _counted(transaction, gallery_id, subject) < counted:
            return False
        transaction.put_json(own, PublishedCalibration(after_version + 1, body))
        transaction.note("calibration", gallery_id, entry.version)
        return True


def _counted(reader: Reader, gallery_id: int, subject: str) -> int:
    counts = reader.json(key("searches", gallery_id, subject))
    return counts["next"] if counts else 0


def drop_calibrations(transaction: Transaction, gallery_id: int) -> None:
    """Removes a gallery's searches and published calibrations."""
    scans = [Scan(*below(key(kind, gallery_id))) for kind in KINDS]
    for found in transaction.scan(*scans):
        transaction.delete(*(own for own, _ in found))
        for own, _ in found:
            # A search that another process adds meanwhile changes a count, and is dropped too.
            if own.startswith(key("searches", gallery_id)):
                transaction.json(own)


def _of_search(body: bytes, gallery_id: int, subject: str) -> tuple[bytes, bytes]:
    """The key of a search's hash, and its row."""
    prefix = key(HASH, gallery_id, subject)
    end = body.index(b"\0", len(prefix)) + 1
    return body[:end], body[end:]
