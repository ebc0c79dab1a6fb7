"""Tracks under way: the best score of each with each list, kept in memory until the track ends."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.crops.frames import ImageFile
from service.gallery.gallery import Gallery
from service.ops.metrics import Metrics
from service.ops.threads import TurnTakingPool
from service.record.tracks import cohesion

# Crops of a track that are compared: further ones find little more, and raise more false alarms.
MOST_LOOKS = 8
# A track ends after so long without a crop, and after so long in all: ids are used again.
QUIET_SECONDS = 10.0
LONGEST_SECONDS = 60.0
MOST_OPEN = 20_000
# The key that sent it, the camera, and the tracker's own id.
TrackKey = tuple[str, str | None, str]
# A list: the number of its gallery, and the subject of its traffic.
Place = tuple[int, str]


@dataclass(eq=False)
class Match:
    """A person of a list that a track shows, by its best crop so far.

    Attributes:
        gallery: the list.
        embedder: whose features were compared.
        row_id: slot of the list's nearest crop.
        image: the track's best crop; None once the record has it.
        noted: how many crops of the track the record has.
        noted_at: since when, by `time.monotonic`.
    """

    gallery: Gallery
    embedder: str
    row_id: int
    score: float
    threshold: float
    probability: float
    calibration_version: str
    image: ImageFile | None
    noted: int = 0
    noted_at: float = 0.0


@dataclass(eq=False)
class Track:
    """A person on the way past a camera, as the tracker of a key sees it.

    Attributes:
        camera, name: as sent; a crop without a track's name is a track of its own.
        began, last: when its first and its last crop were captured, seconds since 1970.
        heard: when its newest crop arrived, by `time.monotonic`.
        crops: how many were sent.
        looks: how many of them were, or are being, compared.
        best: its greatest score with each list.
        matches: by the number of the list's gallery.
        vectors: of the compared crops by embedder, float16.
    """

    camera: str | None
    name: str | None
    began: float
    last: float
    heard: float = 0.0
    crops: int = 0
    looks: int = 0
    best: dict[Place, float] = field(default_factory=dict)
    matches: dict[int, Match] = field(default_factory=dict)
    vectors: dict[str, list[NDArray[np.float16]]] = field(default_factory=dict)

    def goes_on(self, captured: float) -> bool:
        """Return whether a crop that was captured at a time may be of this track."""
        if not self.began - QUIET_SECONDS <= captured <= self.last + QUIET_SECONDS:
            return False
        return captured <= self.began + LONGEST_SECONDS

    def add(self, captured: float) -> None:
        self.began = min(self.began, captured)
        self.last = max(self.last, captured)
        self.heard = time.monotonic()
        self.crops += 1

    def cohesion(self, embedder: str) -> float | None:
        """Return the least cosine of a compared crop to the mean of the others; None for one."""
        vectors = self.vectors.get(embedder, [])
        return cohesion(np.stack(vectors).astype(np.float32)) if len(vectors) > 1 else None


class OpenTracks:
    """Tracks of one process that have not ended, and the traffic of ended ones.

    It lives on the event loop.

    Attributes:
        threads: compare crops with lists.
        comparing: work that goes on after its request was answered.
        traffic: the best scores of ended tracks with each list, until they are stored.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.threads = TurnTakingPool(1, "comparing threads")
        self.comparing: set[asyncio.Task[None]] = set()
        self.traffic: defaultdict[Place, list[float]] = defaultdict(list)
        self._metrics = metrics
        # In the order of their newest crops.
        self._open: OrderedDict[TrackKey, Track] = OrderedDict()
        self._ended: list[Track] = []

    def take(self, caller: str, camera: str | None, name: str | None, captured: float) -> Track:
        """Return the track of a crop, which is counted; a new one where none goes on."""
        track = Track(camera, name, captured, captured)
        if name is not None:
            key = caller, camera, name
            known = self._open.pop(key, None)
            if known is not None and known.goes_on(captured):
                track = known
            elif known is not None:
                self._ended.append(known)
            self._open[key] = track
        else:
            self._ended.append(track)
        if len(self._open) > MOST_OPEN:
            self._ended.append(self._open.popitem(last=False)[1])
            self._metrics.tracks_forgotten.inc()
        track.add(captured)
        self._metrics.open_tracks.set(len(self._open))
        return track

    def end(self, heard_before: float) -> list[Track]:
        """End tracks of which nothing was heard since, count and return all that have ended.

        Args:
            heard_before: by `time.monotonic`.
        """
        while self._open and next(iter(self._open.values())).heard < heard_before:
            self._ended.append(self._open.popitem(last=False)[1])
        self._metrics.open_tracks.set(len(self._open))
        # Crops of a track that ended by its next one may still be compared.
        ended = [track for track in self._ended if track.heard < heard_before]
        self._ended = [track for track in self._ended if track.heard >= heard_before]
        for track in ended:
            for place, score in track.best.items():
                self.traffic[place].append(score)
        return ended
