"""Open tracks: the best score of each with each list, in memory until the track ends.

A tracker's label may go over from one person to another. Each person then has a track.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import unit_rows
from model.crops.frames import ImageFile
from service.gallery.gallery import Gallery
from service.ops.metrics import Metrics
from service.ops.threads import MonitoredThreadPool
from service.record.tracks import cohesion
from service.record.values import Picture, Sender
from service.watch.silent import Likeness
from service.watch.tables.passages import BestLook, EndedPassage

# Only this many crops of a track are compared: more find little and raise more false alarms.
MOST_LOOKS = 8
# A track ends after this time without a crop; after its crop of a person who stays, for whom a
# camera sends one a minute, it waits longer. It also ends after a time in all, as ids are reused.
QUIET_SECONDS = 10.0
STILL_SECONDS = 90.0
LONGEST_SECONDS = 1800.0
# Upper bound on open tracks of all callers.
MOST_OPEN = 20_000
TrafficKey = tuple[int, str]
"""The `gallery_id` of a list, and the `score_kind` of its traffic."""
Label = tuple[str, str | None, str | None]
"""The API key, the camera and the tracker's id."""


@dataclass(eq=False)
class Match:
    """The match of a track with a list, by the track's best crop so far.

    Attributes:
        gallery: the list.
        slot: that of the list's nearest crop.
        needed: the probability of the lowest score that raises an alert.
        score_kind: identifies the scores that this one is comparable with.
        image: the track's best crop; None once its picture was made.
        captured: time of capture of that crop.
        zone: the zone in which the person stood at that crop.
        noted: number of the track's crops in the record.
        noted_at: time of the last write, by `time.monotonic`.
        picture: picture of the best crop, for alerts.
    """

    gallery: Gallery
    slot: int
    score: float
    threshold: float
    probability: float
    needed: float
    calibration_version: str
    score_kind: str
    image: ImageFile | None
    captured: datetime
    zone: str | None
    noted: int = 0
    noted_at: float = 0.0
    picture: Picture | None = None


class OwnAlert(NamedTuple):
    """An alert that shows a track, by a crop of this score."""

    alert_id: str
    score: float


@dataclass(eq=False)
class Track:
    """The passage of a person before a camera, as a tracker sees it.

    Attributes:
        caller, camera, name: the API key, and the labels that were sent; a crop without a track's
            name is a track by itself.
        began: time of capture of the first crop that was sent, in seconds since 1970.
        number: number of tracks into which the label's presence was divided before this one.
        until: time of capture until which crops continue the track.
        opened: time of arrival of the first crop, by `time.monotonic`.
        last_arrival: time of arrival of the newest crop, or later if the track waits longer after
            it.
        crops: number of crops that were found to show the track's person.
        first_seen, last_seen: times of capture of the first and last of them.
        looks: number of compared crops.
        best: best score with each list.
        likeness: best cosine with each list that has silent people, and the one that they demand.
        kept_silent: `gallery_id` of the lists for which silent people explain the track better.
        matches: matches by `gallery_id` of the list.
        best_looks: best look by `gallery_id` of each list that explains its passages.
        alerts: the alert that shows the track by `gallery_id` of the list; None for one that shows
            a better track.
        vectors: vectors `(d,)` of the newest embedded crops by embedder.
        ended: True if its traffic is counted.
        is_counted: True if it is among the tracks of its camera.
    """

    caller: str
    camera: str | None
    name: str | None
    began: float
    number: int = 0
    until: float = -math.inf
    opened: float = field(default_factory=time.monotonic)
    last_arrival: float = 0.0
    crops: int = 0
    first_seen: float = math.inf
    last_seen: float = -math.inf
    looks: int = 0
    best: dict[TrafficKey, float] = field(default_factory=dict)
    likeness: dict[TrafficKey, Likeness] = field(default_factory=dict)
    kept_silent: set[int] = field(default_factory=set)
    matches: dict[int, Match] = field(default_factory=dict)
    best_looks: dict[int, BestLook] = field(default_factory=dict)
    alerts: dict[int, OwnAlert | None] = field(default_factory=dict)
    vectors: dict[str, list[NDArray[np.float16]]] = field(default_factory=dict)
    ended: bool = False
    is_counted: bool = False

    @property
    def label(self) -> Label:
        return self.caller, self.camera, self.name

    def has_matched(self, gallery_id: int) -> bool:
        """Return True if it raised an alert of a list, or would have without silent people."""
        is_noted = gallery_id in self.matches or gallery_id in self.alerts
        is_kept_silent = gallery_id in self.kept_silent
        return is_noted or is_kept_silent or self.best_looks[gallery_id].matches

    def can_take(self, captured: float) -> bool:
        # The clock of a camera may stand still.
        has_lasted = time.monotonic() - self.opened
        is_long = max(has_lasted, captured - self.began) > LONGEST_SECONDS
        return self.is_near(captured) and not is_long and not self.ended

    def is_near(self, captured: float) -> bool:
        return self.began - QUIET_SECONDS <= captured <= self.until

    def add_crop(self, captured: float) -> None:
        self.crops += 1
        self.first_seen = min(self.first_seen, captured)
        self.last_seen = max(self.last_seen, captured)

    def take_look(self) -> bool:
        """Return True if the next crop is compared, of which there are `MOST_LOOKS` at most."""
        if self.looks == MOST_LOOKS:
            return False
        self.looks += 1
        return True

    def add_vector(self, embedder: str, vector: NDArray[np.float32]) -> None:
        vectors = self.vectors.setdefault(embedder, [])
        vectors.append(vector.astype(np.float16))
        del vectors[:-MOST_LOOKS]

    def similarity(self, embedder: str, vector: NDArray[np.float32]) -> float | None:
        """Return the cosine of a crop `(d,)` to the mean of the track's; None if it has none."""
        if embedder not in self.vectors:
            return None
        others = unit_rows(np.stack(self.vectors[embedder]).astype(np.float32)).sum(axis=0)
        units = unit_rows(np.stack([others, vector]))
        return float(units[0] @ units[1])

    def cohesion(self, embedder: str) -> float | None:
        """Return the least cosine of one of the newest embedded crops to the mean of the others.

        Returns:
            None if fewer than two crops were embedded.
        """
        vectors = self.vectors.get(embedder, [])
        if len(vectors) < 2:
            return None
        return cohesion(np.stack(vectors).astype(np.float32))


class EndedTrack(NamedTuple):
    """A track, or the part of it that one process saw, with its best score with one list.

    Attributes:
        sender: the camera that saw it.
        name: identifies the track among all processes; None for a crop without a tracker's id.
        began, until: times of capture between which it was open, in seconds since 1970.
        kept_silent: it raised no alert because a silent person explains it better.
    """

    sender: Sender
    score: float
    name: bytes | None
    began: float
    until: float
    kept_silent: bool


class OpenTracks:
    """The open tracks of one process, and the traffic of ended ones; not thread-safe.

    Attributes:
        threads: a thread that compares crops with lists.
        traffic: ended tracks that were compared with each list, until they are stored.
        passages: ended tracks by `gallery_id` of each list that explains them, until they are
            stored.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.threads = MonitoredThreadPool(1, "comparing threads")
        self.traffic: defaultdict[TrafficKey, list[EndedTrack]] = defaultdict(list)
        self.passages: defaultdict[int, list[EndedPassage]] = defaultdict(list)
        self._metrics = metrics
        # For each API key its tracks, in the order of their newest crops.
        self._open: defaultdict[str, OrderedDict[Track, None]] = defaultdict(OrderedDict)
        # The track that the next crop with a label belongs to, and one that the label had before.
        self._labelled: dict[Label, list[Track]] = {}

    def take(
        self,
        caller: str,
        camera: str | None,
        name: str | None,
        captured: float,
        still: bool = False,
    ) -> Track:
        """Return the track that a crop continues, a new one if no open one does."""
        label = caller, camera, name
        known = self._labelled.get(label, []) if name is not None else []
        if known and known[0].can_take(captured):
            track = known[0]
        else:
            # The former track ends when it is quiet: its last crops may still be in comparison.
            goes_on = bool(known) and known[0].is_near(captured)
            track = Track(*label, captured, number=_next_number(known) if goes_on else 0)
            if name is not None:
                self._labelled[label] = [track]
        self._extend(track, captured, still)
        return track

    def move(
        self,
        track: Track,
        captured: float,
        still: bool,
        shows: Callable[[Track], bool],
    ) -> Track:
        """Move a crop to the track of its person, a new one if no open one of its label shows them.

        The label's next crops belong to that track.

        Args:
            track: the track that took the crop, which shows somebody else.
            captured: time of capture of the crop.
            still: whether its person stays.
            shows: return True for a track that shows the crop's person.
        """
        known = self._labelled.get(track.label, [])
        others = [other for other in known if other is not track and other.can_take(captured)]
        person = next((other for other in others if shows(other)), None)
        if person is None:
            number = _next_number([track, *known])
            person = Track(*track.label, captured, number=number)
        before = [other for other in known if other is not person]
        self._labelled[track.label] = [person, *before[:1]]
        self._extend(person, captured, still)
        return person

    def _extend(self, track: Track, captured: float, still: bool) -> None:
        seconds = STILL_SECONDS if still else QUIET_SECONDS
        track.began = min(track.began, captured)
        track.until = max(track.until, captured + seconds)
        track.last_arrival = max(track.last_arrival, time.monotonic() + seconds - QUIET_SECONDS)
        tracks = self._open[track.caller]
        tracks[track] = None
        tracks.move_to_end(track)

    def end(self, arrived_before: float) -> list[Track]:
        """End and return tracks without a newer crop, and count the traffic.

        Beyond `MOST_OPEN`, the oldest track of the caller with the most ends too.

        Args:
            arrived_before: a time by `time.monotonic`.
        """
        ended = []
        callers = self._open.values()
        for tracks in callers:
            quiet = [track for track in tracks if track.last_arrival < arrived_before]
            for track in quiet:
                del tracks[track]
            ended += quiet
        count = sum(len(tracks) for tracks in callers)
        for _ in range(count - MOST_OPEN):
            ended.append(max(callers, key=len).popitem(last=False)[0])
            self._metrics.tracks_forgotten.inc()
        for track in ended:
            self._count(track)
        self._metrics.open_tracks.set(min(count, MOST_OPEN))
        return ended

    def _count(self, track: Track) -> None:
        track.ended = True
        known = [other for other in self._labelled.pop(track.label, []) if other is not track]
        if known:
            self._labelled[track.label] = known
        name = None
        if track.name is not None:
            name = hashlib.sha256(repr((*track.label, track.number)).encode()).digest()
        sender = Sender(track.caller, track.camera)
        for key, score in track.best.items():
            gallery_id, _ = key
            kept_silent = gallery_id in track.kept_silent
            ended = EndedTrack(sender, score, name, track.began, track.until, kept_silent)
            self.traffic[key].append(ended)
        for gallery_id, best in track.best_looks.items():
            passage = EndedPassage(
                name,
                datetime.fromtimestamp(track.began, UTC),
                datetime.fromtimestamp(track.until, UTC),
                track.camera,
                track.name,
                best,
                hidden=track.has_matched(gallery_id),
            )
            self.passages[gallery_id].append(passage)
        self._metrics.tracks_kept_silent.inc(len(track.kept_silent))


def _next_number(tracks: Sequence[Track]) -> int:
    return 1 + max(track.number for track in tracks)
