"""Requests that happen once: under its `Idempotency-Key` each one is kept with what it did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter

from gmn_client.models import EnrolledImage
from service.errors import RequestConflict
from service.record.engine import Reader, Scan, Transaction
from service.record.keys import as_text, key, now
from service.record.records import Enrolment, GalleryRecord

KEPT_OF_LANDED = attrgetter("crop_id", "duplicate", "warnings")
KEPT_FOR = timedelta(days=1)
# Each request that is kept removes up to so many that are older.
REMOVED_AT_ONCE = 3


@dataclass(frozen=True)
class RequestKey:
    """A client's name for a request, so that it happens once however often it is sent.

    Attributes:
        key: the client's own word.
        digest: of the whole request; another one under the same key is a mistake.
        problems: of the answer, the refused images and faults; opaque JSON.
    """

    key: str
    digest: str
    problems: str = "[]"


def find_request(reader: Reader, entry: GalleryRecord, request: RequestKey) -> Enrolment | None:
    """What a request did that happened already; None where it is new.

    Identities and cameras are not kept here, where forgetting would not find them: the same
    request names them again.

    Raises:
        RequestConflict: for a key that stood for another request.
    """
    past = reader.json(key("request", entry.gallery_id, request.key))
    if past is None or past["happened_at"] < as_text(datetime.now(UTC) - KEPT_FOR):
        return None
    if past["digest"] != request.digest:
        raise RequestConflict(request.key.split(":", 2)[-1])
    landed = tuple(
        EnrolledImage(
            crop_id=crop_id, identity=None, camera=None, duplicate=duplicate, warnings=warnings
        )
        for crop_id, duplicate, warnings in past["landed"]
    )
    embedder, problems = entry.embedding_fingerprint, past["problems"]
    return Enrolment(past["version"], embedder, landed, (), replayed=True, problems=problems)


def keep_request(
    transaction: Transaction,
    gallery_id: int,
    request: RequestKey,
    version: int,
    landed: Sequence[EnrolledImage],
) -> None:
    """Keeps what a request did, and removes some that are older than a day."""
    oldest = as_text(datetime.now(UTC) - KEPT_FOR)
    ages = Scan(key("request age"), key("request age", oldest), REMOVED_AT_ONCE)
    for age, own in transaction.scan(ages)[0]:
        transaction.delete(age)
        # Read by key: another process may put a newer request under it meanwhile.
        past = transaction.json(own)
        if past is not None and past["happened_at"] < oldest:
            transaction.delete(own)
    moment, own = now(), key("request", gallery_id, request.key)
    ids = list(map(KEPT_OF_LANDED, landed))
    kept = {"version": version, "landed": ids, "problems": request.problems}
    transaction.put_json(own, {**kept, "digest": request.digest, "happened_at": moment})
    transaction.put(key("request age", moment, gallery_id, request.key), own)
