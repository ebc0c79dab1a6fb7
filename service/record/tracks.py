"""Tracks: crops of one person joined by a tracker in one camera."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.record.crop_rows import find_vectors, read_by_slot, read_texts, read_vectors
from service.record.database import RecordPart
from service.record.people import BY_PICTURE
from service.record.schema import as_moment
from service.record.transaction import AMONG, as_json

# Upper bound on the crops from which the cohesion of a track is computed.
COHESION_CROPS = 64
SHORTEST = 1e-12
OF_TRACK = (
    "tracks JOIN crops USING (gallery_id, slot) WHERE gallery_id = ? AND track = ? AND camera IS ?"
)


COUNTED = (
    "SELECT track, camera, count(*) AS crops, min(seen_at) AS first_seen, "
    "max(seen_at) AS last_seen FROM tracks JOIN crops USING (gallery_id, slot) "
    f"WHERE gallery_id = ? AND track IN {AMONG} AND (? IS NULL OR camera = ?) "
    "GROUP BY track, camera ORDER BY track, camera"
)
BY_SLOT = "SELECT slot, track FROM tracks WHERE gallery_id = ? AND"


@dataclass(frozen=True)
class Track:
    """A track and its crops.

    Attributes:
        track: the tracker's id, unique only within the camera.
        identities: names of its crops, sorted.
        first_seen, last_seen: times of capture, or of enrollment where those are unknown.
        crop_id: the crop with the best picture.
        pictured: this picture is stored.
        cohesion: smallest cosine of a crop to the mean of the others; None for a single crop.
    """

    track: str
    camera: str | None
    crops: int
    identities: Sequence[str]
    first_seen: datetime
    last_seen: datetime
    crop_id: str
    pictured: bool
    cohesion: float | None


class Tracks(RecordPart):
    """The tracks of galleries."""

    def page(
        self, gallery_id: int, after: str, limit: int, camera: str | None = None
    ) -> tuple[list[Track], str | None]:
        """Return the tracks of up to `limit` ids after one, and the cursor of the next page.

        An id used by several cameras is a separate track in each. With `camera` a page may be
        empty.

        Returns:
            The tracks sorted by id and camera, and the last of these ids; None on the last page.
        """
        statement = (
            "SELECT DISTINCT track FROM tracks WHERE gallery_id = ? AND track > ? "
            "ORDER BY track LIMIT ?"
        )
        rows_of_ids = self._reader.execute(statement, (gallery_id, after, limit + 1))
        names = [name for (name,) in rows_of_ids[:limit]]
        values = (gallery_id, as_json(names), camera, camera)
        rows = self._reader.execute(COUNTED, values)
        tracks = [self._as_track(gallery_id, row) for row in rows]
        existing = [track for track in tracks if track is not None]
        return existing, names[-1] if len(rows_of_ids) > limit else None

    def spans(
        self, gallery_id: int, tracks: Iterable[str]
    ) -> dict[tuple[str, str | None], dict[str, Any]]:
        """Return `crops`, `first_seen` and `last_seen` of tracks, by id and camera."""
        rows = self._reader.tuples(COUNTED, (gallery_id, as_json(set(tracks)), None, None))
        return {
            (track, camera): {
                "crops": crops,
                "first_seen": as_moment(first),
                "last_seen": as_moment(last),
            }
            for track, camera, crops, first, last in rows
        }

    def by_slot(self, gallery_id: int, slots: Sequence[int]) -> Iterator[tuple[int, str]]:
        return read_texts(self._reader, BY_SLOT, gallery_id, slots)

    def cameras(self, gallery_id: int, track: str) -> list[str | None]:
        """Return the cameras that have a track with this id, sorted; None for an unknown one."""
        statement = (
            "SELECT DISTINCT camera FROM tracks JOIN crops USING (gallery_id, slot) "
            "WHERE gallery_id = ? AND track = ? ORDER BY camera"
        )
        return [camera for (camera,) in self._reader.tuples(statement, (gallery_id, track))]

    def spread(self, gallery_id: int, track: str, camera: str | None, most: int) -> list[int]:
        """Split a track into `most` parts by time; return the best-pictured slot of each."""
        parts = f"SELECT crops.*, ntile(?) OVER (ORDER BY seen_at, slot) AS part FROM {OF_TRACK}"
        places = f"SELECT slot, row_number() OVER (PARTITION BY part {BY_PICTURE}) AS place"
        statement = f"SELECT slot FROM ({places} FROM ({parts})) WHERE place = 1 ORDER BY slot"
        rows = self._reader.tuples(statement, (most, gallery_id, track, camera))
        return [slot for (slot,) in rows]

    def slots(self, gallery_id: int, track: str, camera: str | None, most: int = -1) -> list[int]:
        """Return the `most` best-pictured slots of a track, sorted; all if negative."""
        statement = f"SELECT slot FROM {OF_TRACK} {BY_PICTURE} LIMIT ?"
        rows = self._reader.execute(statement, (gallery_id, track, camera, most))
        return sorted(slot for (slot,) in rows)

    def _as_track(self, gallery_id: int, row: sqlite3.Row) -> Track | None:
        of_track = (gallery_id, row["track"], row["camera"])
        best = f"SELECT crop_id, content_type FROM {OF_TRACK} {BY_PICTURE} LIMIT 1"
        best_crop = next(iter(self._reader.execute(best, of_track)), None)
        if best_crop is None:
            # The track was deleted after it was counted.
            return None
        people = f"SELECT person_id FROM {OF_TRACK}"
        statement = f"SELECT name FROM people WHERE person_id IN ({people}) ORDER BY name"
        names = self._reader.execute(statement, of_track)
        return Track(
            track=row["track"],
            camera=row["camera"],
            crops=row["crops"],
            identities=[name for (name,) in names],
            first_seen=as_moment(row["first_seen"]),
            last_seen=as_moment(row["last_seen"]),
            crop_id=best_crop["crop_id"],
            pictured=best_crop["content_type"] is not None,
            cohesion=self._cohesion(gallery_id, self.slots(*of_track, COHESION_CROPS)),
        )

    def _cohesion(self, gallery_id: int, slots: Sequence[int]) -> float | None:
        crops = read_by_slot(self._reader, gallery_id, slots)
        indexed = read_vectors(self._reader, find_vectors(self._reader, gallery_id), crops)
        if len(indexed) < 2:
            return None
        return cohesion(np.stack([crop.vector for crop in indexed]))


def cohesion(vectors: NDArray[np.float32]) -> float:
    """Return the smallest cosine of a vector to the mean direction of the others.

    Args:
        vectors: `(n, d)`, n at least 2, of any length.
    """
    units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), SHORTEST)
    others = units.sum(axis=0) - units
    lengths = np.maximum(np.linalg.norm(others, axis=1), SHORTEST)
    return float(((units * others).sum(axis=1) / lengths).min())
