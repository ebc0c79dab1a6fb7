"""Galleries in Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from service.gallery.records import GalleryRecord, GallerySettings
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
            *(value for _, value in _set(settings)),
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

    def change(self, gallery_id: int, settings: GallerySettings) -> None:
        """Replaces a gallery's settings."""
        pairs = (part for pair in _set(settings) for part in pair)
        self._change(gallery_id, "gallery_changed", *pairs)

    def delete(self, gallery_id: int) -> None:
        """Removes a gallery and all that belongs to it."""
        with contextlib.suppress(UnknownGallery):
            self._database.write("delete_gallery", gallery_id)
        do_chores(self._database)

    def calibration(self, gallery_id: int) -> str | None:
        """What the gallery learnt from its searches, JSON; None where it has learnt nothing."""
        kept = self._database.command("HGET", f"gmn:g:{gallery_id}", "calibration")
        return kept.decode() if kept else None

    def keep_calibration(self, gallery_id: int, state: str | None) -> None:
        """Keeps, or with None drops, what the gallery learnt."""
        self._change(gallery_id, "calibration", "calibration", state or "")

    def _change(self, gallery_id: int, kind: str, *pairs: Argument) -> None:
        # A gallery that was deleted meanwhile has nothing to be changed.
        with contextlib.suppress(UnknownGallery):
            self._database.write("change_gallery", gallery_id, kind, *pairs)


def _set(settings: GallerySettings) -> list[tuple[str, Argument]]:
    days = settings.retention_days
    return [
        ("retention_days", "" if days is None else days),
        ("recalibration", int(settings.recalibration)),
    ]


def _gallery(found: Sequence[Any]) -> GalleryRecord:
    gallery_id, crops, identities, image_bytes, fields = found
    texts = [field.decode() if field is not None else "" for field in fields]
    name, embedder, staged, version, created_at, days, recalibration = texts
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
        settings=GallerySettings(int(days) if days else None, recalibration == "1"),
    )
