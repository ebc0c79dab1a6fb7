"""Crops in Redis, with their vectors and pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any

from gmn_client.models import Identity, IdentityDetail, RetentionFrom
from service.gallery.record_store import Archive
from service.gallery.records import (
    ArchivedCrop,
    CropFilter,
    Enrolment,
    IndexedCrop,
    NewCrop,
    Picture,
    Relabelling,
    Removal,
    RequestKey,
    StoredCrop,
    StrayPicture,
)
from service.gallery.redis import archives, enrolment, restoring, scanning
from service.gallery.redis.archives import OnDamage
from service.gallery.redis.database import Argument, Database
from service.gallery.redis.sums import check_content, check_onwards
from service.gallery.redis.values import microseconds, now_microseconds, stored_crop
from service.gallery.stored_values import as_text, contains_text

# So many crops are changed by one script: nobody else is answered meanwhile.
CROPS_PER_WRITE = 200
NAMES_LOOKED_AT = 1000


class RedisCrops:
    """Implements `CropRecords`.

    What is said of more than `CROPS_PER_WRITE` crops at once, to remove or rename them, happens in
    several steps, each of which raises the version; an enrolment is one step.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def enroll(
        self,
        gallery_id: int,
        embedding_fingerprint: str,
        crops: Sequence[NewCrop],
        request: RequestKey | None = None,
    ) -> Enrolment:
        """Stores crops by one script; a request that happened already changes nothing."""
        return enrolment.enroll(self._database, gallery_id, embedding_fingerprint, crops, request)

    def happened(self, gallery_id: int, request: RequestKey) -> Enrolment | None:
        """What a request did that is answered already; None where it is new."""
        key = f"gmn:g:{gallery_id}"
        kept = self._database.command("GET", f"{key}:request:{request.key}")
        embedder = self._database.command("HGET", key, "embedder")
        if kept is None or embedder is None:
            return None
        return enrolment.past_enrolment(request, kept, embedder.decode())

    def remove(self, gallery_id: int, crop_ids: Sequence[str]) -> Removal | None:
        """Removes crops with vectors and pictures for good; None where none of them is there."""
        batches = scanning.batches(crop_ids, CROPS_PER_WRITE)
        return _as_one(self._remove(gallery_id, "crops", *batch) for batch in batches)

    def remove_identity(self, gallery_id: int, identity: str) -> Removal | None:
        """Removes every crop of an identity; None where there is none."""
        steps = iter(lambda: self._remove(gallery_id, "identity", identity), None)
        return _as_one(steps)

    def remove_older(
        self, gallery_id: int, than: datetime, limit: int, since: RetentionFrom = "captured"
    ) -> Removal | None:
        """Removes up to `limit` crops captured, or else enrolled, before; None where none is."""
        if since == "enrolled":
            return self.remove(gallery_id, self._enrolled_before(gallery_id, than, limit))

        def steps() -> Iterator[Removal | None]:
            left = limit
            while left > 0:
                step = self._remove(
                    gallery_id, "older", microseconds(than), at_most=min(left, CROPS_PER_WRITE)
                )
                yield step
                left = left - len(step.row_ids) if step else 0

        return _as_one(steps())

    def relabel(self, gallery_id: int, identity: str, new: str) -> Relabelling | None:
        """Gives every crop of an identity another one; None where there is no such crop."""
        steps = []
        while True:
            answer = self._database.write("relabel", gallery_id, identity, new, CROPS_PER_WRITE)
            if "refused" in answer:
                break
            steps.append(answer)
            if identity == new:
                break
        if not steps:
            return None
        rows = sorted(int(row) for step in steps for row in step["rows"])
        return Relabelling(int(steps[-1]["version"]), new, tuple(rows), steps[0]["merged"])

    def get(self, gallery_id: int, crop_id: str) -> StoredCrop | None:
        """One crop's record."""
        found = self._database.read("find", gallery_id, crop_id)
        return stored_crop(*found) if found else None

    def page(self, gallery_id: int, wanted: CropFilter, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops with a `row_id` above `after`, in that order."""
        # The last is what fewest crops share, and is looked up.
        names = ("camera", "identity", "external_id")
        given = [
            part
            for name in names
            if (value := getattr(wanted, name)) is not None
            for part in (name, value)
        ]
        return scanning.read_crops(self._database, "page", gallery_id, after, limit, *given)

    def identities(
        self, gallery_id: int, after: str, limit: int, query: str = ""
    ) -> list[Identity]:
        """Up to `limit` identities that sort after `after` and contain `query`, in any case."""
        found: list[Identity] = []
        size = NAMES_LOOKED_AT if query else limit
        while len(found) < limit:
            names = self._database.read("identities", gallery_id, after, size)
            page = [
                Identity(identity=name.decode(), crops=int(crops), cameras=int(on))
                for name, crops, on in names
            ]
            found += [one for one in page if contains_text(one.identity, query)]
            if len(page) < size:
                break
            after = page[-1].identity
        return found[:limit]

    def identity(self, gallery_id: int, identity: str) -> IdentityDetail | None:
        """One identity; None where no crop bears it."""
        crops, *cameras = self._database.read("identity", gallery_id, identity)
        if not crops:
            return None
        names = sorted(one.decode() for one in cameras)
        return IdentityDetail(identity=identity, crops=crops, cameras=names)

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """One crop's kept picture."""
        fields = ("picture", "content_type", "sum:picture")
        found = self._database.read("find", gallery_id, crop_id, *fields)
        if not found:
            return None
        content, content_type, kept = found[1]
        check_content("picture", crop_id, content, kept)
        return Picture(content, content_type.decode()) if content is not None else None

    def expect_pictures(self, gallery_id: int, crop_ids: Sequence[str], until: datetime) -> None:
        """Notes pictures that are about to be kept elsewhere: strays if no crop lands by then."""
        for batch in scanning.batches(crop_ids, CROPS_PER_WRITE):
            self._database.write("strays", "expect", gallery_id, microseconds(until), *batch)

    def stray_pictures(self, now: datetime, limit: int) -> list[StrayPicture]:
        """Up to `limit` pictures elsewhere that belong to no crop, and to none that may land."""
        crop_ids = self._database.command(
            "ZRANGEBYSCORE", "gmn:strays", "-inf", microseconds(now), "LIMIT", 0, limit
        )
        if not crop_ids:
            return []
        galleries = self._database.command("HMGET", "gmn:strays:galleries", *crop_ids)
        return [
            StrayPicture(int(gallery), crop_id.decode())
            for gallery, crop_id in zip(galleries, crop_ids, strict=True)
            if gallery is not None
        ]

    def forget_strays(self, crop_ids: Sequence[str]) -> None:
        """Notes that these pictures are gone."""
        for batch in scanning.batches(crop_ids, CROPS_PER_WRITE):
            self._database.write("strays", "forget", *batch)

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop as the index needs it, by `row_id`.

        Raises:
            RecordUnavailable: the gallery was replaced while it was read; read it again.
        """
        return scanning.read_vectors(self._database, gallery_id, "searched")

    def indexed(self, gallery_id: int, row_ids: Sequence[int]) -> list[IndexedCrop]:
        """Those of these crops that are there, as the index needs them, by `row_id`."""
        return scanning.read_indexed(self._database, gallery_id, row_ids)

    def by_row(self, gallery_id: int, row_ids: Sequence[int]) -> dict[int, StoredCrop]:
        """Those of these crops that are there now, by `row_id`."""
        found = self._database.read("by_row", gallery_id, *row_ids)
        return {int(row): stored_crop(row, values) for row, values in found}

    def removed_among(self, gallery_id: int, crop_ids: Sequence[str]) -> list[str]:
        """Which of these crops of a gallery were removed for good."""
        removed: list[str] = []
        for batch in scanning.batches(crop_ids, 1000):
            scores = self._database.command("ZMSCORE", f"gmn:g:{gallery_id}:tombstones", *batch)
            removed += [one for one, score in zip(batch, scores, strict=True) if score]
        return removed

    def archive(
        self, gallery_id: int, on_damage: OnDamage | None = None
    ) -> AbstractContextManager[Archive]:
        """The gallery as it is at this moment, whatever is written while it is read.

        Args:
            gallery_id: which.
            on_damage: told of a crop that is not what was written, and is left out; by default the
                reading ends there.
        """
        return archives.archive(self._database, gallery_id, on_damage)

    def replace(
        self, gallery_id: int, embedding_fingerprint: str, crops: Iterable[ArchivedCrop]
    ) -> int:
        """Puts an archive's crops in the place of a gallery's own, at once; answers its version."""
        return restoring.replace(self._database, gallery_id, embedding_fingerprint, crops)

    def _enrolled_before(self, gallery_id: int, than: datetime, limit: int) -> list[str]:
        """Ids of up to `limit` crops; restored crops are not in the order of their enrolment."""
        found: list[str] = []
        onwards: Argument = 0
        while onwards != b"" and len(found) < limit:
            further, *crops = self._database.read("enrolments", gallery_id, onwards)
            onwards = check_onwards(onwards, further)
            found += [
                crop_id.decode()
                for crop_id, created_at in crops
                if created_at and created_at.decode() < as_text(than)
            ]
        return found[:limit]

    def _remove(
        self, gallery_id: int, how: str, *what: Argument, at_most: int = CROPS_PER_WRITE
    ) -> Removal | None:
        answer = self._database.write("remove", gallery_id, now_microseconds(), at_most, how, *what)
        return _removal(answer) if "refused" not in answer else None


def _removal(answer: dict[str, Any]) -> Removal:
    rows = tuple(int(row) for row in answer["rows"])
    return Removal(int(answer["version"]), rows, tuple(answer["crop_ids"]))


def _as_one(steps: Iterable[Removal | None]) -> Removal | None:
    """What several steps removed together, by row id."""
    done = [step for step in steps if step]
    if not done:
        return None
    pairs = sorted(pair for step in done for pair in zip(step.row_ids, step.crop_ids, strict=True))
    row_ids, crop_ids = zip(*pairs, strict=True)
    return Removal(max(step.version for step in done), row_ids, crop_ids)
