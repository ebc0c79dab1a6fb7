"""Crops in SQLite, with their vectors and pictures."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from gmn_client.models import Identity, IdentityDetail, RetentionFrom
from service.failpoints import Failpoint, passed
from service.gallery.record_store import Archive
from service.gallery.records import (
    ArchivedCrop,
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
from service.gallery.sqlite.calibrations import drop_calibrations
from service.gallery.sqlite.checked_reading import (
    archived_crops,
    indexed_crops,
    required,
    whole_crops,
)
from service.gallery.sqlite.checksums import content_checksum, keep_record_checksums
from service.gallery.sqlite.database import Database
from service.gallery.sqlite.enrolment import insert_crop, store_crop
from service.gallery.sqlite.galleries import (
    bind,
    gallery_version,
    note_strays,
    searched_side,
)
from service.gallery.sqlite.reading import COLUMNS, stored_crop
from service.gallery.sqlite.requests import find_request, keep_request
from service.gallery.stored_values import as_text, now
from service.problems import DamagedRecord, UnknownGallery


class SqliteCrops:
    """Implements `CropRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def enroll(
        self,
        gallery_id: int,
        embedding_fingerprint: str,
        crops: Sequence[NewCrop],
        request: RequestKey | None = None,
    ) -> Enrolment:
        """Stores crops in one transaction; a request that happened already changes nothing."""
        landed: list[LandedCrop] = []
        added: list[IndexedCrop] = []
        with self._database.transaction() as connection:
            past = find_request(connection, gallery_id, request) if request else None
            if past is not None:
                return past
            bind(connection, gallery_id, embedding_fingerprint)
            side = searched_side(connection, gallery_id)
            for crop in crops:
                outcome, new = store_crop(connection, gallery_id, side, crop)
                passed(Failpoint.ENROLL__CROP_WRITTEN)
                landed.append(outcome)
                if new:
                    added.append(new)
            version = gallery_version(connection, gallery_id, raised=bool(added))
            if request:
                keep_request(connection, gallery_id, request, version, landed)
        return Enrolment(version, embedding_fingerprint, tuple(landed), tuple(added))

    def happened(self, gallery_id: int, request: RequestKey) -> Enrolment | None:
        """What a request did that is answered already; None where it is new."""
        return find_request(self._database.connection, gallery_id, request)

    def remove(self, gallery_id: int, crop_ids: Sequence[str]) -> Removal | None:
        """Removes crops with vectors and pictures for good; None where none of them is there."""
        # As one JSON text: SQLite allows only so many parameters.
        return self._remove(
            gallery_id,
            "crop_id IN (SELECT value FROM json_each(?))",
            json.dumps(list(crop_ids)),
        )

    def remove_identity(self, gallery_id: int, identity: str) -> Removal | None:
        """Removes every crop of an identity; None where there is none."""
        return self._remove(gallery_id, "identity = ?", identity)

    def remove_older(
        self, gallery_id: int, than: datetime, limit: int, since: RetentionFrom = "captured"
    ) -> Removal | None:
        """Removes up to `limit` crops captured, or else enrolled, before; None where none is."""
        age = "created_at" if since == "enrolled" else "coalesce(captured_at, created_at)"
        narrowed = (
            f"row_id IN (SELECT row_id FROM crops WHERE gallery_id = ? AND {age} < ? LIMIT ?)"
        )
        return self._remove(gallery_id, narrowed, gallery_id, as_text(than), limit)

    def relabel(self, gallery_id: int, identity: str, new: str) -> Relabelling | None:
        """Gives every crop of an identity another one; None where there is no such crop."""
        with self._database.transaction() as connection:
            merged = connection.execute(
                "SELECT 1 FROM crops WHERE gallery_id = ? AND identity = ? LIMIT 1",
                (gallery_id, new),
            ).fetchone()
            changed = connection.execute(
                "UPDATE crops SET identity = ? WHERE gallery_id = ? AND identity = ? "
                "RETURNING row_id",
                (new, gallery_id, identity),
            ).fetchall()
            if not changed:
                return None
            rows = tuple(sorted(row_id for (row_id,) in changed))
            keep_record_checksums(connection, rows)
            version = gallery_version(connection, gallery_id, raised=True)
        self._database.empty_log()
        return Relabelling(version, new, rows, merged=bool(merged))

    def get(self, gallery_id: int, crop_id: str) -> StoredCrop | None:
        """One crop's record."""
        row = self._database.connection.execute(
            f"SELECT {COLUMNS} FROM crops WHERE gallery_id = ? AND crop_id = ?",
            (gallery_id, crop_id),
        ).fetchone()
        return stored_crop(row) if row else None

    def page(self, gallery_id: int, wanted: CropFilter, after: int, limit: int) -> list[StoredCrop]:
        """Up to `limit` crops with a `row_id` above `after`, in that order."""
        given = {name: value for name, value in vars(wanted).items() if value is not None}
        # Only what is asked stands in the query, so that SQLite finds the index that fits it.
        narrowed = "".join(f" AND {name} = :{name}" for name in given)
        rows = self._database.connection.execute(
            f"SELECT {COLUMNS} FROM crops WHERE gallery_id = :gallery AND row_id > :after"
            f"{narrowed} ORDER BY row_id LIMIT :limit",
            {"gallery": gallery_id, "after": after, "limit": limit, **given},
        )
        return [stored_crop(row) for row in rows]

    def identities(
        self, gallery_id: int, after: str, limit: int, query: str = ""
    ) -> list[Identity]:
        """Up to `limit` identities that sort after `after` and contain `query`, in any case."""
        # Once for each identity, not for each of its crops.
        named = (
            "AND identity IN (WITH names AS MATERIALIZED (SELECT DISTINCT identity FROM crops "
            "WHERE gallery_id = ?1 AND identity > ?2) SELECT identity FROM names "
            "WHERE contains_text(identity, ?4) ORDER BY identity LIMIT ?3)"
        )
        rows = self._database.connection.execute(
            "SELECT identity, count(*), count(DISTINCT camera) FROM crops "
            f"WHERE gallery_id = ?1 AND identity > ?2 {named if query else ''} "
            "GROUP BY identity ORDER BY identity LIMIT ?3",
            (gallery_id, after, limit, *((query,) if query else ())),
        )
        return [Identity(identity=name, crops=n, cameras=m) for name, n, m in rows]

    def identity(self, gallery_id: int, identity: str) -> IdentityDetail | None:
        """One identity; None where no crop bears it."""
        rows = self._database.connection.execute(
            "SELECT camera, count(*) FROM crops WHERE gallery_id = ? AND identity = ? "
            "GROUP BY camera ORDER BY camera",
            (gallery_id, identity),
        ).fetchall()
        if not rows:
            return None
        cameras = [camera for camera, _ in rows if camera is not None]
        crops = sum(crops for _, crops in rows)
        return IdentityDetail(identity=identity, crops=crops, cameras=cameras)

    def picture(self, gallery_id: int, crop_id: str) -> Picture | None:
        """One crop's kept picture."""
        row = self._database.connection.execute(
            "SELECT content, content_type, picture FROM crops JOIN pictures USING (row_id) "
            "JOIN checksums USING (row_id) WHERE crops.gallery_id = ? AND crop_id = ?",
            (gallery_id, crop_id),
        ).fetchone()
        if row is None:
            return None
        content, content_type, checksum = row
        if content_checksum(content) != checksum:
            raise DamagedRecord(
                self._database.path, f"the picture of crop {crop_id} is not what was written"
            )
        return Picture(content, content_type)

    def expect_pictures(self, gallery_id: int, crop_ids: Sequence[str], until: datetime) -> None:
        """Notes pictures that are about to be kept elsewhere: strays if no crop lands by then."""
        with self._database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO stray_pictures VALUES (?, ?, ?)",
                [(crop_id, gallery_id, as_text(until)) for crop_id in crop_ids],
            )

    def stray_pictures(self, now: datetime, limit: int) -> list[StrayPicture]:
        """Up to `limit` pictures elsewhere that belong to no crop, and to none that may land."""
        rows = self._database.connection.execute(
            "SELECT gallery_id, crop_id FROM stray_pictures WHERE removable_from <= ? LIMIT ?",
            (as_text(now), limit),
        )
        return [StrayPicture(*row) for row in rows]

    def forget_strays(self, crop_ids: Sequence[str]) -> None:
        """Notes that these pictures are gone."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM stray_pictures WHERE crop_id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(crop_ids)),),
            )

    def vectors(self, gallery_id: int) -> Iterator[IndexedCrop]:
        """Every crop as the index needs it, by `row_id`."""
        connection = self._database.connection
        side = searched_side(connection, gallery_id)
        return whole_crops(self._database.path, connection, gallery_id, side)

    def indexed(self, gallery_id: int, row_ids: Sequence[int]) -> list[IndexedCrop]:
        """Those of these crops that are there, as the index needs them, by `row_id`."""
        connection = self._database.connection
        side = searched_side(connection, gallery_id)
        return list(indexed_crops(connection, gallery_id, side, row_ids))

    def by_row(self, gallery_id: int, row_ids: Sequence[int]) -> dict[int, StoredCrop]:
        """Those of these crops that are there now, by `row_id`."""
        rows = self._database.connection.execute(
            f"SELECT {COLUMNS} FROM crops WHERE gallery_id = ? "
            "AND row_id IN (SELECT value FROM json_each(?))",
            (gallery_id, json.dumps(list(row_ids))),
        )
        return {crop.row_id: crop for crop in map(stored_crop, rows)}

    def removed_among(self, gallery_id: int, crop_ids: Sequence[str]) -> list[str]:
        """Which of these crops of a gallery were removed for good."""
        rows = self._database.connection.execute(
            "SELECT crop_id FROM tombstones WHERE gallery_id = ? "
            "AND crop_id IN (SELECT value FROM json_each(?))",
            (gallery_id, json.dumps(list(crop_ids))),
        )
        return [crop_id for (crop_id,) in rows]

    @contextlib.contextmanager
    def archive(self, gallery_id: int) -> Iterator[Archive]:
        """The gallery as it is at this moment, whatever is written while it is read."""
        with self._database.moment() as connection:
            row = connection.execute(
                "SELECT version, embedding_fingerprint FROM galleries WHERE gallery_id = ?",
                (gallery_id,),
            ).fetchone()
            if row is None:
                raise UnknownGallery(str(gallery_id))
            version, fingerprint = row
            side = searched_side(connection, gallery_id)
            crops = archived_crops(connection, gallery_id, side)
            yield Archive(version, fingerprint, required(self._database.path, crops))

    def replace(
        self, gallery_id: int, embedding_fingerprint: str, crops: Iterable[ArchivedCrop]
    ) -> int:
        """Puts an archive's crops in the place of a gallery's own, in one transaction."""
        with self._database.transaction() as connection:
            note_strays(connection, gallery_id)
            connection.execute("DELETE FROM crops WHERE gallery_id = ?", (gallery_id,))
            connection.execute(
                "UPDATE galleries SET embedding_fingerprint = ?, staged_fingerprint = NULL "
                "WHERE gallery_id = ?",
                (embedding_fingerprint, gallery_id),
            )
            drop_calibrations(connection, gallery_id)
            side = searched_side(connection, gallery_id)
            for crop in crops:
                removed = connection.execute(
                    "SELECT 1 FROM tombstones WHERE crop_id = ?", (crop.record.crop_id,)
                ).fetchone()
                if not removed:
                    insert_crop(connection, gallery_id, side, crop.as_new())
            version = gallery_version(connection, gallery_id, raised=True)
        self._database.empty_log()
        return version

    def _remove(self, gallery_id: int, narrowed: str, *values: object) -> Removal | None:
        with self._database.transaction() as connection:
            note_strays(connection, gallery_id, f"AND {narrowed}", *values)
            rows = connection.execute(
                f"DELETE FROM crops WHERE gallery_id = ? AND {narrowed} RETURNING row_id, crop_id",
                (gallery_id, *values),
            ).fetchall()
            if not rows:
                return None
            # Without this a restore would bring back what somebody asked to be gone.
            connection.executemany(
                "INSERT OR IGNORE INTO tombstones VALUES (?, ?, ?)",
                [(crop_id, gallery_id, now()) for _, crop_id in rows],
            )
            version = gallery_version(connection, gallery_id, raised=True)
        self._database.empty_log()
        row_ids, crop_ids = zip(*sorted(rows), strict=True)
        return Removal(version, row_ids, crop_ids)
