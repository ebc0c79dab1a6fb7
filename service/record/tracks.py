"""Tracks: crops of one person joined by a tracker in one camera, and the best of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json

from gmn_client.models import Page
from model.arrays import unit_rows
from service.errors import InvalidField
from service.record.crop_rows import read_by_slot, read_intact_vectors, read_texts, read_vectors
from service.record.database import RecordPart
from service.record.dialect import Dialect
from service.record.galleries import read_entry, require_entry
from service.record.people import BY_PICTURE
from service.record.transaction import Row, Transaction
from service.record.values import ArchivedCrop, StoredCrop
from service.record.vectors import Vector

# Upper bound on the crops from which the cohesion of a track is computed.
COHESION_CROPS = 64
# Upper bound on the stored crops of a track compared while other writers wait.
MOST_OF_TRACK = 1_000
# Assumed quality of a crop whose quality was not measured.
LEAST_QUALITY = 1.0
# Exceeds any quality times distance, so that a named crop always precedes an unnamed one.
NAMED_FIRST = 1e6
# Largest distance of two vectors of unit length.
FARTHEST = 2.0
BY_SLOT = "SELECT slot, track FROM tracks WHERE gallery_id = ?"
# An unknown camera is an empty text.
OF_TRACK = (
    "tracks JOIN crops USING (gallery_id, slot) WHERE gallery_id = ? AND track = ? "
    "AND coalesce(camera, '') = ?"
)
# Crops of some tracks, numbered within each track from the best-pictured one on.
NUMBERED = f"""
SELECT *, row_number() OVER (PARTITION BY track, camera {BY_PICTURE}) AS number FROM tracks
JOIN crops USING (gallery_id, slot) WHERE gallery_id = ? AND {{of_tracks}}
AND (CAST(? AS TEXT) IS NULL OR camera = ?) AND (track, coalesce(camera, '')) >= (?, ?)
"""
COUNTED = """
SELECT track, camera, count(*) AS crops, min(seen_at) AS first_seen, max(seen_at) AS last_seen
FROM tracks JOIN crops USING (gallery_id, slot) WHERE gallery_id = ? AND {of_tracks}
GROUP BY track, camera
"""
DESCRIBED = f"""
SELECT track, camera, count(*) AS crops, min(seen_at) AS first_seen, max(seen_at) AS last_seen,
    {{names}} AS identities,
    max(crop_id) FILTER (WHERE number = 1) AS crop_id,
    count(content_type) FILTER (WHERE number = 1) AS has_picture,
    {{best_slots}} AS slots
FROM ({NUMBERED}) AS numbered LEFT JOIN people USING (person_id)
GROUP BY track, camera ORDER BY track, coalesce(camera, '') LIMIT ?
"""


class Tracks(RecordPart):
    """The tracks of galleries."""

    def page(
        self, gallery_id: int, cursor: str | None, limit: int, camera: str | None = None
    ) -> Page[Row]:
        """Return up to `limit` tracks, sorted by id and camera.

        An id used by several cameras is a separate track in each. With `camera` a page may be
        empty.
        """
        # A camera contains no comma.
        first_camera, _, first_track = (cursor or "").partition(",")
        ids = self._reader.column(
            "SELECT DISTINCT track FROM tracks WHERE gallery_id = ? AND track >= ? "
            "ORDER BY track LIMIT ?",
            (gallery_id, first_track, limit + 1),
        )
        names = ids[:limit]
        values = (gallery_id, names, camera, camera, first_track, first_camera, limit + 1)
        rows = self._reader.execute(_describing(self._reader.dialect), values)
        slots = [slot for row in rows[:limit] for slot in from_json(row["slots"])]
        vectors = self._read_intact(gallery_id, slots)
        tracks = [_describe(row, vectors) for row in rows[:limit]]
        following = [f"{row['camera'] or ''},{row['track']}" for row in rows[limit:]]
        following += [f",{track}" for track in ids[limit:]]
        return Page(results=tracks, next_cursor=following[0] if following else None)

    def spans(
        self, gallery_id: int, tracks: Iterable[str]
    ) -> dict[tuple[str, str | None], dict[str, Any]]:
        """Return `crops`, `first_seen` and `last_seen` of tracks, by id and camera."""
        statement = COUNTED.format(of_tracks=self._reader.dialect.among("track"))
        rows = self._reader.execute(statement, (gallery_id, set(tracks)))
        return {(row["track"], row["camera"]): row for row in rows}

    def _read_intact(self, gallery_id: int, slots: Sequence[int]) -> dict[int, Vector]:
        entry = read_entry(self._reader, gallery_id)
        if entry is None or entry.dimension is None:
            return {}
        # Thousands of whole crops may have gigabytes of metadata.
        those = self._reader.dialect.among("slot")
        statement = f"SELECT slot, crop_id FROM crops WHERE gallery_id = ? AND {those}"
        crop_ids = dict(self._reader.tuples(statement, (gallery_id, slots)))
        return read_intact_vectors(
            self._reader, gallery_id, entry.generation, entry.dimension, crop_ids
        )

    def by_slot(self, gallery_id: int, slots: Sequence[int]) -> Iterator[tuple[int, str]]:
        return read_texts(self._reader, BY_SLOT, gallery_id, slots)

    def cameras(self, gallery_id: int, track: str) -> list[str | None]:
        """Return the cameras that have a track with this id, sorted; None for an unknown one."""
        statement = (
            "SELECT DISTINCT coalesce(camera, '') AS name FROM tracks "
            "JOIN crops USING (gallery_id, slot) WHERE gallery_id = ? AND track = ? ORDER BY name"
        )
        cameras = self._reader.column(statement, (gallery_id, track))
        return [camera or None for camera in cameras]

    def spread(self, gallery_id: int, track: str, camera: str | None, most: int) -> list[int]:
        """Split a track into `most` parts by time; return the best-pictured slot of each."""
        part = "ntile(CAST(? AS SMALLINT)) OVER (ORDER BY seen_at, slot)"
        rank = f"row_number() OVER (PARTITION BY part {BY_PICTURE})"
        statement = (
            f"SELECT slot FROM (SELECT slot, {rank} AS rank "
            f"FROM (SELECT crops.*, {part} AS part FROM {OF_TRACK}) AS parts) AS ranked "
            "WHERE rank = 1 ORDER BY slot"
        )
        return self._reader.column(statement, (most, gallery_id, track, camera or ""))

    def share_slots(
        self,
        gallery_id: int,
        tracks: Collection[tuple[str, str | None]],
        without: Set[int],
        most: int,
    ) -> tuple[list[int], int]:
        """Choose crops of tracks, each of which has an equal share, spread evenly in time.

        Crops that are set aside are left out.

        Args:
            tracks: their ids and cameras.
            without: slots that are not chosen.
            most: upper bound on the crops; what a short track leaves goes to the longer ones.

        Returns:
            Slots, and the number of further crops of the tracks.
        """
        those = self._reader.dialect.among("track")
        statement = (
            "SELECT slot, track, camera FROM tracks JOIN crops USING (gallery_id, slot) "
            f"WHERE gallery_id = ? AND {those} AND set_aside = 0 ORDER BY seen_at, slot"
        )
        ids = {track for track, _ in tracks}
        by_track: defaultdict[tuple[str, str | None], list[int]] = defaultdict(list)
        for slot, track, camera in self._reader.tuples(statement, (gallery_id, ids)):
            if (track, camera) in tracks and slot not in without:
                by_track[track, camera].append(slot)
        chosen: list[int] = []
        for number, slots in enumerate(sorted(by_track.values(), key=len)):
            share = min(len(slots), (most - len(chosen)) // (len(by_track) - number))
            positions = np.linspace(0, len(slots) - 1, share, dtype=np.int64)
            chosen += [slots[position] for position in positions]
        return chosen, sum(map(len, by_track.values())) - len(chosen)

    def slots(self, gallery_id: int, track: str, camera: str | None) -> list[int]:
        statement = f"SELECT slot FROM {OF_TRACK}"
        return self._reader.column(statement, (gallery_id, track, camera or ""))


def _describing(dialect: Dialect) -> str:
    return DESCRIBED.format(
        names=dialect.gathered("DISTINCT people.name", "people.name IS NOT NULL"),
        best_slots=dialect.gathered("slot", f"number <= {COHESION_CROPS}"),
        of_tracks=dialect.among("track"),
    )


def _describe(track: Row, vectors: Mapping[int, Vector]) -> Row:
    track["identities"].sort()
    track_vectors = [vectors[slot] for slot in from_json(track["slots"]) if slot in vectors]
    track["cohesion"] = cohesion(np.stack(track_vectors)) if len(track_vectors) > 1 else None
    return track


def cohesion(vectors: NDArray[np.float32]) -> float:
    """Return the smallest cosine of a vector to the mean direction of the others.

    Args:
        vectors: `(n, d)`, n at least 2, of any length.
    """
    units = unit_rows(vectors)
    others = unit_rows(units.sum(axis=0) - units)
    return float((units * others).sum(axis=1).min())


def choose_best(
    transaction: Transaction,
    gallery_id: int,
    new: Sequence[ArchivedCrop],
    known: Sequence[StoredCrop],
    most: int,
) -> tuple[set[str], list[StoredCrop]]:
    """Choose up to `most` crops of each track that has new or known crops.

    The choice does not depend on the order within a request, so repeating it changes nothing.

    Returns:
        The ids of all rejected crops, and the rejected crops that are stored.

    Raises:
        InvalidField: a track has too many crops.
    """
    # A repeated track may also be cut to fewer crops.
    records = [*(crop.record for crop in new), *known]
    tracks = dict.fromkeys(_track_of(record) for record in records if record.track is not None)
    rejected: set[str] = set()
    displaced: list[StoredCrop] = []
    for track, camera in tracks:
        stored = _read_stored(transaction, gallery_id, track, camera)
        sent = [crop for crop in new if _track_of(crop.record) == (track, camera)]
        # Crop ids cannot serve as the key: an image sent again gets a new one.
        candidates = sorted(
            [*stored, *sent],
            key=lambda crop: (crop.record.sent_sha256, crop.record.identity or ""),
        )
        best = _choose_positions(candidates, most)
        rejected.update(
            crop.record.crop_id for position, crop in enumerate(candidates) if position not in best
        )
        displaced += [crop.record for crop in stored if crop.record.crop_id in rejected]
    return rejected, displaced


def _track_of(record: StoredCrop) -> tuple[str, str | None]:
    """Return the id and camera of a crop's track; the id is empty without a track."""
    return record.track or "", record.camera


def _choose_positions(crops: Sequence[ArchivedCrop], most: int) -> list[int]:
    """Choose crops greedily by quality times distance to the nearest chosen crop.

    The first has the highest quality. Rejected crops do not influence the choice.
    """
    units = unit_rows(np.stack([crop.vector for crop in crops])).astype(np.float64)
    qualities = np.array([max(crop.record.quality or 0.0, LEAST_QUALITY) for crop in crops])
    named = np.array([crop.record.identity is not None for crop in crops])
    distances: NDArray[np.float64] = np.full(len(crops), FARTHEST)
    is_chosen = np.zeros(len(crops), np.bool_)
    chosen: list[int] = []
    while len(chosen) < min(most, len(crops)):
        gains = qualities * distances + NAMED_FIRST * named
        position = int(np.where(is_chosen, -1.0, gains).argmax())
        chosen.append(position)
        is_chosen[position] = True
        # einsum sums each row separately, so other rows cannot change its last digits.
        cosines = np.einsum("nd,d->n", units, units[position])
        distances = np.minimum(distances, np.sqrt(np.maximum(2.0 - 2.0 * cosines, 0.0)))
    return chosen


def _read_stored(
    transaction: Transaction, gallery_id: int, track: str, camera: str | None
) -> list[ArchivedCrop]:
    statement = f"SELECT slot FROM {OF_TRACK} LIMIT ?"
    values = (gallery_id, track, camera or "", MOST_OF_TRACK + 1)
    slots = transaction.column(statement, values)
    if len(slots) > MOST_OF_TRACK:
        raise InvalidField(
            f"keep_best: track {track!r} has more than {MOST_OF_TRACK:,} crops, too many to "
            "choose from; delete some of them first"
        )
    crops = read_by_slot(transaction, gallery_id, slots)
    return read_vectors(transaction, require_entry(transaction, gallery_id), crops)
