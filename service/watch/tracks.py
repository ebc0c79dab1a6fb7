"""Open tracks: the best score of each with each list, in memory until the track ends."""

from __future__ import annotations

import time
from collections import OrderedDict, defaultdict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from model.crops.frames import ImageFile
from service.gallery.gallery import Gallery
from service.ops.metrics import Metrics
from service.ops.threads import MonitoredThreadPool
from service.record.tracks import cohesion

# Only this many crops of a track are compared: more find little and raise more false alarms.
MOST_LOOKS = 8
# A track ends after this time without a crop, and after this time in all, as ids are reused.
QUIET_SECONDS = 10.0
LONGEST_SECONDS = 60.0
# Upper bound on open tracks of all callers.
MOST_OPEN = 20_000
Place = tuple[int, str]
"""A list: `gallery_id`, and the subject of its traffic."""


@dataclass(eq=False)
class Match:
    """The match of a track with a list, by the track's best crop so far.

    Attributes:
        gallery: the list.
        row_id: slot of the list's nearest crop.
        image: the track's best crop; None once it is in the record.
        noted: number of the track's crops in the record.
        noted_at: time of the last write, by `time.monotonic`.
    """

    gallery: Gallery
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
    """The passage of a person before a camera, as a tracker sees it.

    Attributes:
        camera, name: labels that were sent; a crop without a track's name is a track by itself.
        began, last: times of capture of the first and last crop, in seconds since 1970.
        opened, heard: times of arrival of the first and newest crop, by `time.monotonic`.
        crops: number of crops that were sent.
        looks: number of compared crops, and of those in comparison.
        best: best score with each list.
        matches: matches by `gallery_id` of the list.
        vectors: vectors `(d,)` of the compared crops by embedder.
    """

    camera: str | None
    name: str | None
    began: float
    last: float
    opened: float = field(default_factory=time.monotonic)
    heard: float = 0.0
    crops: int = 0
    looks: int = 0
    best: dict[Place, float] = field(default_factory=dict)
    matches: dict[int, Match] = field(default_factory=dict)
    vectors: dict[str, list[NDArray[np.float16]]] = field(default_factory=dict)

    def can_take(self, captured: float) -> bool:
        latest = min(self.last + QUIET_SECONDS, self.began + LONGEST_SECONDS)
        # The clock of a camera may stand still.
        is_long = time.monotonic() > self.opened + LONGEST_SECONDS
        return not is_long and self.began - QUIET_SECONDS <= captured <= latest

    def cohesion(self, embedder: str) -> float | None:
        """Return the least cosine of a compared crop to the mean of the others.

        Returns:
            None if fewer than two crops were compared.
        """
        vectors = self.vectors.get(embedder, [])
        if len(vectors) < 2:
            return None
        return cohesion(np.stack(vectors).astype(np.float32))


class OpenTracks:
    """The open tracks of one process, and the traffic of ended ones; not thread-safe.

    Attributes:
        threads: a thread that compares crops with lists.
        traffic: best scores of ended tracks with each list, until they are stored.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.threads = MonitoredThreadPool(1, "comparing threads")
        self.traffic: defaultdict[Place, list[float]] = defaultdict(list)
        self._metrics = metrics
        # For each API key its tracks, by camera and the tracker's id, in the order of their newest
        # crops. Tracks that no crop can continue have a unique key instead.
        self._open: defaultdict[str, OrderedDict[object, Track]] = defaultdict(OrderedDict)

    def take(self, caller: str, camera: str | None, name: str | None, captured: float) -> Track:
        """Add a crop to its track and return the track, a new one if no open one continues."""
        key = object() if name is None else (camera, name)
        tracks = self._open[caller]
        track = tracks.pop(key, None)
        if track is not None and not track.can_take(captured):
            # It ends when it is quiet: its last crops may still be in comparison.
            tracks[object()] = track
            track = None
        track = track or Track(camera, name, captured, captured)
        tracks[key] = track
        track.began = min(track.began, captured)
        track.last = max(track.last, captured)
        track.heard = time.monotonic()
        track.crops += 1
        return track

    def end(self, heard_before: float) -> list[Track]:
        """End and return tracks without a newer crop, and count the traffic.

        Beyond `MOST_OPEN`, the oldest track of the caller with the most ends too.

        Args:
            heard_before: a time by `time.monotonic`.
        """
        ended = []
        callers = self._open.values()
        for tracks in callers:
            while tracks and next(iter(tracks.values())).heard < heard_before:
                ended.append(tracks.popitem(last=False)[1])
        count = sum(len(tracks) for tracks in callers)
        for _ in range(count - MOST_OPEN):
            ended.append(max(callers, key=len).popitem(last=False)[1])
            self._metrics.tracks_forgotten.inc()
        for track in ended:
            for place, score in track.best.items():
                self.traffic[place].append(score)
        self._metrics.open_tracks.set(min(count, MOST_OPEN))
        return ended
