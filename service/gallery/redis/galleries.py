"""Galleries in Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from gmn_client.models import RetentionFrom
from service.gallery.records import CalibrationMode, GalleryRecord, GallerySettings, SettingsChanges
from service.gallery.redis.chores import do_chores
from service.gallery.redis.database import Argument, Database
from service.gallery.stored_values import now
from service.problems import GalleryConflict, UnknownGallery


class RedisGalleries:
    """Implements `GalleryRecords`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[GalleryRecord]:
        """Every gallery, by name."""
        found = [_gallery(one) for one in self._database.read("galleries")]
        return sorted(found, key=lambda gallery: gallery.name)

    def get(self, gallery_id: int) -> GalleryRecord | None:
        """One gallery, counted now; None where it was deleted."""
        found = self._database.read("galleries", gallery_id)
        return _gallery(found[0]) if found else None

    def create(
        self, name: str, embedding_fingerprint: str, settings: GallerySettings
    ) -> GalleryRecord:
        """Creates an empty gallery; raises `GalleryConflict` where the name is taken."""
        created_at = now()
        answer = self._database.write(
            "create_gallery",
            name,
            embedding_fingerprint,
            created_at,
            "" if settings.retention_days is None else settings.retention_days,
            settings.calibration,
            settings.retention_from,
        )
        if "refused" in answer:
            raise GalleryConflict(
                f"there is a gallery {name!r} already; enrol into it or choose another name"
            )
        return GalleryRecord(
            gallery_id=int(answer["gallery"]),
            name=name,
            embedding_fingerprint=embedding_fingerprint,
            staged_fingerprint=None,
            version=0,
            crops=0,
            identities=0,
            image_bytes=0,
            created_at=datetime.fromisoformat(created_at),
            settings=settings,
        )

    def change(self, gallery_id: int, changes: SettingsChanges) -> GallerySettings:
        """Changes the given settings in one transaction, and answers all of them."""
        sent: list[Argument] = []
        for name, value in changes.items():
            sent += (name, "" if value is None else cast("Argument", value))
        answer = self._database.write("change_gallery", gallery_id, *sent)
        return _settings(*answer["settings"])

    def delete(self, gallery_id: int) -> None:
        """Removes a gallery and all that belongs to it."""
        with contextlib.suppress(UnknownGallery):
            self._database.write("delete_gallery", gallery_id)
        do_chores(self._database)


def _settings(days: str, calibration: str, retention_from: str) -> GallerySettings:
    return GallerySettings(
        int(days) if days else None,
        cast("CalibrationMode", calibration),
        cast("RetentionFrom", retention_from),
    )


def _gallery(found: Sequence[Any]) -> GalleryRecord:
    gallery_id, crops, identities, image_bytes, fields = found
    texts = [field.decode() if field is not None else "" for field in fields]
    name, embedder, staged, version, created_at, *settings = texts
    return GalleryRecord(
        gallery_id=int(gallery_id),
        name=name,
        embedding_fingerprint=embedder,
        staged_fingerprint=staged or None,
        version=int(version),
        crops=int(crops),
        identities=int(identities),
        image_bytes=int(image_bytes),
        created_at=datetime.fromisoformat(created_at),
        settings=_settings(*settings),
    )
