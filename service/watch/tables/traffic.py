"""Traffic of watch lists: how many tracks reached each score, by list and by camera."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.record.database import RecordPart, transactional
from service.record.galleries import read_entry
from service.record.schema import as_micros, as_moment, now_micros
from service.record.transaction import Transaction
from service.record.values import Sender

# Upper bound on the cameras of one API key for which a list has a histogram of traffic.
MOST_CAMERAS = 100
# Type of a count in a stored histogram of traffic.
COUNT = np.dtype("<i8")
# A process counts a part of a track at its end, at the latest this long after another process did.
PARTS_WITHIN_MICROS = 3_600_000_000
Counts = NDArray[np.int64]
OF_LIST = "WHERE gallery_id = ?"
OF_SCORE_KIND = f"{OF_LIST} AND score_kind = ?"


class TrackPart(NamedTuple):
    """A track that one process saw, or the part of it that it saw.

    Attributes:
        name: identifies the track, unless the same name was given to another one later.
        began, until: times of capture between which it was open.
        bin: bin of its best score in the histogram.
        kept_silent: it raised no alert because a silent person explains it better.
    """

    name: bytes
    began: datetime
    until: datetime
    bin: int
    kept_silent: bool = False


@dataclass(frozen=True)
class EndedTracks:
    """Tracks that ended since the last ones were counted.

    Attributes:
        counts: numbers of whole tracks, one per bin of a histogram.
        parts: further tracks, of which other processes may have seen a part. A track counts once,
            by its best score.
        kept_silent: number of the whole tracks that were kept silent.
    """

    counts: Counts
    parts: Sequence[TrackPart] = ()
    kept_silent: int = 0


class CameraTraffic(NamedTuple):
    """The traffic of one camera, as `ListTraffic.of_list` has that of all.

    Attributes:
        counts: numbers of tracks, one per bin.
        tracks: their sum.
        since: time from which they were counted.
    """

    counts: Counts
    tracks: int
    since: datetime


class CountedTraffic(NamedTuple):
    """The traffic of a list, whatever its scores were.

    Attributes:
        score_kind: identifies the scores that its histogram has.
        tracks: number of all tracks, also of those with earlier scores.
        since: time from which they were counted.
    """

    score_kind: str
    tracks: int
    since: datetime


class ListTraffic(RecordPart):
    """The histograms of scores of the tracks that watch lists were compared with."""

    @transactional
    def add(
        self,
        transaction: Transaction,
        gallery_id: int,
        score_kind: str,
        tracks: Mapping[Sender, EndedTracks],
    ) -> None:
        """Add tracks to the histograms of a list and of its cameras.

        Scores of another kind begin new histograms, and the tracks are counted on. Those of another
        embedder begin new counts, too. Tracks of a deleted gallery are ignored. Of each API key the
        first `MOST_CAMERAS` cameras have a histogram; tracks of further ones count in that of the
        list alone.

        Args:
            score_kind: identifies comparable scores; its first word is their embedder.
            tracks: ended tracks by camera.
        """
        if read_entry(transaction, gallery_id) is None:
            return
        row = transaction.row("watch_traffic", OF_LIST, (gallery_id,))
        if row and _embedder_of(row["score_kind"]) != _embedder_of(score_kind):
            row = None
        is_comparable = row is not None and row["score_kind"] == score_kind
        if not is_comparable:
            # Their bins are those of other scores.
            transaction.change(f"DELETE FROM counted_tracks {OF_LIST}", (gallery_id,))
        if row is None:
            transaction.change(f"DELETE FROM camera_traffic {OF_LIST}", (gallery_id,))
        added = {}
        kept_silent = 0
        for sender, ended in tracks.items():
            added[sender], silenced = _count_tracks(transaction, gallery_id, ended)
            kept_silent += silenced
        if kept_silent:
            _count_silent(transaction, gallery_id, kept_silent)
        for sender, counts in added.items():
            _add_to_camera(transaction, gallery_id, score_kind, sender, counts)
        counts = np.sum(list(added.values()), axis=0)
        counted = int(counts.sum())
        if row and is_comparable:
            counts = counts + np.frombuffer(row["histogram"], COUNT)
        values = {
            "gallery_id": gallery_id,
            "score_kind": score_kind,
            "histogram": counts.astype(COUNT).tobytes(),
            "tracks": counted + (row["tracks"] if row else 0),
            "since": row["since"] if row else now_micros(),
        }
        transaction.insert("watch_traffic", values, instead=True, is_private=False)

    def counted(self, gallery_id: int) -> CountedTraffic | None:
        """Return how many tracks were compared with a list; None before the first."""
        row = self._reader.row("watch_traffic", OF_LIST, (gallery_id,))
        if row is None:
            return None
        return CountedTraffic(row["score_kind"], row["tracks"], as_moment(row["since"]))

    def of_list(self, gallery_id: int, score_kind: str) -> tuple[Counts, datetime]:
        """Return the counts of a list's traffic and the time of the first; empty if there are none.

        Args:
            score_kind: as in `add`.
        """
        row = self._reader.row("watch_traffic", OF_SCORE_KIND, (gallery_id, score_kind))
        histogram, since = (row["histogram"], row["since"]) if row else (b"", now_micros())
        return np.frombuffer(histogram, COUNT), as_moment(since)

    def by_camera(self, gallery_id: int, score_kind: str) -> dict[Sender, CameraTraffic]:
        """Return the traffic of each camera of a list that has a histogram.

        Args:
            score_kind: as in `add`.
        """
        traffic = {}
        for row in self._reader.rows("camera_traffic", OF_SCORE_KIND, (gallery_id, score_kind)):
            counts = np.frombuffer(row["histogram"], COUNT)
            sender = Sender(row["key_id"], row["camera"] or None)
            traffic[sender] = CameraTraffic(counts, int(counts.sum()), as_moment(row["since"]))
        return traffic

    @transactional
    def forget_tracks(self, transaction: Transaction) -> None:
        """Forget the counted tracks of which no process can have another part any more."""
        old = (now_micros() - PARTS_WITHIN_MICROS,)
        transaction.change("DELETE FROM counted_tracks WHERE counted_at < ?", old)


def _count_tracks(
    transaction: Transaction, gallery_id: int, ended: EndedTracks
) -> tuple[Counts, int]:
    """Return what tracks add to each bin, and to those kept silent.

    It is below 0 where a track gets a better score, and where several of its parts become one.
    """
    counts = ended.counts.copy()
    kept_silent = ended.kept_silent
    for part in ended.parts:
        kept_silent += _count_part(transaction, gallery_id, part, counts)
    return counts, kept_silent


def _embedder_of(score_kind: str) -> str:
    return score_kind.partition(" ")[0]


def _count_silent(transaction: Transaction, gallery_id: int, added: int) -> None:
    # Parts that become one may have been counted before the list was armed again.
    transaction.change(
        "UPDATE watches SET kept_silent = kept_silent + ? "
        "WHERE gallery_id = ? AND kept_silent + ? >= 0",
        (added, gallery_id, added),
        is_private=False,
    )


def _add_to_camera(
    transaction: Transaction, gallery_id: int, score_kind: str, sender: Sender, added: Counts
) -> None:
    values = {
        "gallery_id": gallery_id,
        "key_id": sender.key_id,
        "camera": sender.camera or "",
        "score_kind": score_kind,
        "since": now_micros(),
    }
    row = transaction.row(
        "camera_traffic",
        "WHERE gallery_id = :gallery_id AND key_id = :key_id AND camera = :camera",
        values,
    )
    counts = added
    tracks_since_armed = int(added.sum())
    if row:
        if row["score_kind"] == score_kind:
            counts = added + np.frombuffer(row["histogram"], COUNT)
        tracks_since_armed += row["tracks_since_armed"]
        values["since"] = row["since"]
    else:
        cameras = "SELECT count(*) FROM camera_traffic WHERE gallery_id = ? AND key_id = ?"
        if transaction.value(cameras, (gallery_id, sender.key_id)) >= MOST_CAMERAS:
            return
    # Earlier parts of a track may have been counted before its camera had a histogram, or before
    # the list was armed.
    values["histogram"] = np.maximum(counts, 0).astype(COUNT).tobytes()
    values["tracks_since_armed"] = max(0, tracks_since_armed)
    transaction.insert("camera_traffic", values, instead=True, is_private=False)


def _count_part(transaction: Transaction, gallery_id: int, part: TrackPart, counts: Counts) -> int:
    """Count a track in a histogram, together with the parts that were counted before.

    Returns:
        What it adds to the tracks that were kept silent.
    """
    joined = transaction.change_returning(
        "DELETE FROM counted_tracks WHERE gallery_id = ? AND name = ? AND began <= ? "
        "AND until >= ? RETURNING began, until, bin, kept_silent",
        (gallery_id, part.name, part.until, part.began),
        is_private=False,
    )
    track: dict[str, Any] = {
        "gallery_id": gallery_id,
        "name": part.name,
        "began": as_micros(part.began),
        "until": as_micros(part.until),
        "bin": part.bin,
        "kept_silent": int(part.kept_silent),
        "counted_at": now_micros(),
    }
    counted_silent = 0
    for began, until, score_bin, kept_silent in joined:
        counts[score_bin] -= 1
        track["began"] = min(track["began"], began)
        track["until"] = max(track["until"], until)
        track["bin"] = max(track["bin"], score_bin)
        track["kept_silent"] = max(track["kept_silent"], kept_silent)
        counted_silent += kept_silent
    counts[track["bin"]] += 1
    transaction.insert("counted_tracks", track)
    return int(track["kept_silent"]) - counted_silent
