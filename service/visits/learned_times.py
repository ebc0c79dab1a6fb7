"""Travel times as each gallery has learned them: in the record, in memory, and learned anew."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.engine.device import DeviceThread
from service.gallery.gallery import Gallery
from service.gallery.registry import GalleryRegistry
from service.index.columns import Columns, Slots
from service.index.filters import EVERY_CROP
from service.index.moments import Moments
from service.ops.critical_sections import attempt
from service.ops.threads import MonitoredThreadPool, heartbeat
from service.record.database import RecordPart, transactional
from service.record.galleries import note_calibrated, read_entry
from service.record.tracks import Tracks
from service.record.transaction import Transaction
from service.search.calibration import GalleryCalibrations
from service.visits.travel_times import (
    BINS,
    FEWEST_MATCHES,
    TimedCrops,
    TravelTimes,
    learn_travel_times,
)

LOOK_EVERY_SECONDS = 5.0
# Travel times are learned anew when the crops have grown or shrunk by this factor, and after a day
# in which any of them changed, so that deleted crops do not teach for longer.
GROWTH = 1.2
LEARNED_FOR_SECONDS = 86_400.0
# Travel times are learned from the newest crops with a camera and a time, at most this many.
MOST_CROPS = 20_000
# With fewer crops no pair of cameras has enough matches.
FEWEST_CROPS = 2 * FEWEST_MATCHES
# A clock that is ahead by this much more or less than before was set, or has stopped.
CLOCK_MOVED_SECONDS = 30.0
# Decimals of stored log-odds.
DIGITS = 3


class StoredPair(BaseModel):
    """Log-odds in each bin of the difference of times at two cameras."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cameras: tuple[str, str]
    log_odds: tuple[float, ...] = Field(min_length=BINS, max_length=BINS)


class StoredTimes(BaseModel):
    """The travel times of a gallery, as they are stored.

    Attributes:
        learned_at: seconds since 1970.
        crops, gallery_version: of the gallery when it learned.
        pairs: pairs of cameras that are not silent.
        clocks: seconds by which the clock of each camera was ahead then, where that was known.
        moved: cameras whose clock has moved, and when, in seconds since 1970; crops that they took
            before teach nothing.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    learned_at: float
    crops: int
    gallery_version: int
    pairs: tuple[StoredPair, ...] = ()
    clocks: dict[str, float] = {}
    moved: dict[str, float] = {}

    def without(self, cameras: dict[str, float], now: float) -> StoredTimes:
        """Return the same without some cameras, whose clocks, given by name, have just moved."""
        pairs = tuple(pair for pair in self.pairs if not cameras.keys() & set(pair.cameras))
        moved = self.moved | dict.fromkeys(cameras, now)
        changes = {"pairs": pairs, "clocks": self.clocks | cameras, "moved": moved}
        return self.model_copy(update=changes)


class TravelTimeTables(RecordPart):
    """The travel times of galleries, which are deleted with their gallery."""

    def body(self, gallery_id: int) -> str | None:
        body: str | None = self._reader.value(
            "SELECT body FROM travel_times WHERE gallery_id = ?", (gallery_id,)
        )
        return body

    @transactional
    def put(self, transaction: Transaction, gallery_id: int, body: str) -> None:
        """Store what a gallery has learned, unless it was deleted or uses times no more."""
        entry = read_entry(transaction, gallery_id)
        if entry is not None and entry.settings.time_evidence:
            row = {"gallery_id": gallery_id, "body": body}
            transaction.insert("travel_times", row, instead=True)
            note_calibrated(transaction, gallery_id)

    @transactional
    def drop(self, transaction: Transaction, gallery_id: int) -> None:
        entry = read_entry(transaction, gallery_id)
        if entry is not None and not entry.settings.time_evidence:
            transaction.change("DELETE FROM travel_times WHERE gallery_id = ?", (gallery_id,))
            note_calibrated(transaction, gallery_id)


class GalleryTravelTimes:
    """The travel times of all galleries in memory. Safe to use from any thread."""

    def __init__(self, tables: TravelTimeTables) -> None:
        self._tables = tables
        self._stored: dict[int, StoredTimes] = {}
        self._learned: dict[int, TravelTimes] = {}

    def of(self, gallery: Gallery) -> TravelTimes | None:
        if not gallery.settings.time_evidence:
            return None
        learned = self._learned.get(gallery.gallery_id)
        return learned if learned and learned.tables else None

    def stored(self, gallery: Gallery) -> StoredTimes | None:
        return self._stored.get(gallery.gallery_id)

    def reload(self, gallery: Gallery) -> None:
        """Read the travel times of a gallery from the record; blocks."""
        body = self._tables.body(gallery.gallery_id)
        # Another version of the service may have written what this one cannot read.
        with contextlib.suppress(ValidationError):
            if body is not None:
                stored = StoredTimes.model_validate_json(body)
                tables = {pair.cameras: np.array(pair.log_odds) for pair in stored.pairs}
                version = hashlib.sha256(body.encode()).hexdigest()
                self._stored[gallery.gallery_id] = stored
                self._learned[gallery.gallery_id] = TravelTimes(tables, version)
                return
        self.forget(gallery.gallery_id)

    def forget(self, gallery_id: int) -> None:
        self._stored.pop(gallery_id, None)
        self._learned.pop(gallery_id, None)


@dataclass(frozen=True)
class TravelTimeLearner:
    """Learns the travel times of galleries that use times.

    Attributes:
        read_columns: reads the columns of a gallery that an index outside this process searches;
            blocks.
        read_clocks: reads by how many seconds the clock of each camera is ahead; blocks.
        threads: the calibration's thread.
    """

    galleries: GalleryRegistry
    calibrations: GalleryCalibrations
    tables: TravelTimeTables
    tracks: Tracks
    learned: GalleryTravelTimes
    device: DeviceThread
    read_columns: Callable[[Gallery], Columns]
    read_clocks: Callable[[], Mapping[str, float]]
    threads: MonitoredThreadPool
    now: Callable[[], float] = field(default=time.time)

    async def learn_all(self) -> None:
        """Learn the travel times of each gallery that has none or has outgrown them."""
        for gallery in self.galleries.all():
            name = f"travel times of gallery {gallery.name}"
            await attempt(name, self.learn_if_due(gallery))

    async def learn_if_due(self, gallery: Gallery) -> None:
        stored = self.learned.stored(gallery)
        if not gallery.settings.time_evidence:
            if stored:
                await self.galleries.write(self.tables.drop, gallery.gallery_id)
                self.learned.forget(gallery.gallery_id)
            return
        clocks = dict(await self.galleries.read(self.read_clocks))
        if stored and (moved := _moved_clocks(stored, clocks)):
            stored = stored.without(moved, self.now())
            await self._publish(gallery, stored)
        elif not gallery.needs_reindex and self._is_due(gallery, stored):
            await self._publish(gallery, await self._learn(gallery, stored, clocks))

    def _is_due(self, gallery: Gallery, stored: StoredTimes | None) -> bool:
        if stored is None:
            return gallery.crops >= FEWEST_CROPS
        fewer, more = sorted((stored.crops, gallery.crops))
        if fewer < more and fewer * GROWTH <= more:
            return True
        is_old = self.now() - stored.learned_at > LEARNED_FOR_SECONDS
        return is_old and gallery.version != stored.gallery_version

    async def _learn(
        self, gallery: Gallery, stored: StoredTimes | None, clocks: Mapping[str, float]
    ) -> StoredTimes:
        crops = gallery.crops
        version = gallery.version
        moved = stored.moved if stored else {}
        if gallery.own_index:
            columns = gallery.own_index.columns
            slots, moments = await self.device.run(_select, columns, moved)
        else:
            columns = await self.threads.run(self.read_columns, gallery)
            slots, moments = await self.threads.run(_select, columns, moved)
        by_slot = self.tracks.by_slot
        tracks = await self.galleries.read(
            lambda: dict(by_slot(gallery.gallery_id, slots.tolist()))
        )
        lowest_cosine = self.calibrations.current(gallery, None).joins_at

        def learn() -> TravelTimes:
            timed = _read_crops(columns, slots, moments, tracks)
            return learn_travel_times(timed, lowest_cosine, heartbeat)

        times = await self.threads.run(learn)
        pairs = [
            StoredPair(cameras=cameras, log_odds=tuple(table.round(DIGITS).tolist()))
            for cameras, table in times.tables.items()
        ]
        known = set(moments.cameras.tolist())
        return StoredTimes(
            learned_at=self.now(),
            crops=crops,
            gallery_version=version,
            pairs=tuple(pairs),
            clocks={camera: ahead for camera, ahead in clocks.items() if camera in known},
            moved=moved,
        )

    async def _publish(self, gallery: Gallery, stored: StoredTimes) -> None:
        def publish() -> None:
            self.tables.put(gallery.gallery_id, stored.model_dump_json())
            self.learned.reload(gallery)

        await self.galleries.write(publish)


def _moved_clocks(stored: StoredTimes, clocks: Mapping[str, float]) -> dict[str, float]:
    return {
        camera: clocks[camera]
        for camera, before in stored.clocks.items()
        if camera in clocks and abs(clocks[camera] - before) > CLOCK_MOVED_SECONDS
    }


def _select(columns: Columns, moved: Mapping[str, float]) -> tuple[Slots, Moments]:
    """Choose the newest crops with a camera and a time by a clock that has not moved since.

    Call it on the thread that writes the columns.
    """
    slots = columns.select(EVERY_CROP)
    is_timed = (columns.cameras[slots] != 0) & np.isfinite(columns.captured[slots])
    slots = slots[is_timed][-MOST_CROPS:]
    moments = columns.moments(slots)
    since = np.array([moved.get(camera, -np.inf) for camera in moments.cameras.tolist()])
    usable = moments.captured >= since
    return slots[usable], Moments(moments.cameras[usable], moments.captured[usable])


def _read_crops(
    columns: Columns, slots: Slots, moments: Moments, tracks: Mapping[int, str]
) -> TimedCrops:
    codes: dict[tuple[str, str], int] = {}
    track_codes = -1 - np.arange(len(slots))
    for row, (slot, camera) in enumerate(
        zip(slots.tolist(), moments.cameras.tolist(), strict=True)
    ):
        if slot in tracks:
            track_codes[row] = codes.setdefault((camera, tracks[slot]), len(codes))
    return TimedCrops(
        # They are compared with τ, which is one of vectors without centring.
        units=columns.units(columns.compared(slots, None)),
        cameras=moments.cameras,
        captured=moments.captured,
        people=columns.groups[slots],
        tracks=track_codes,
    )
