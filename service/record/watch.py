"""Watch lists and their alerts; an alert, its picture and its deliveries are one commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gmn_client.models import Alert, AlertKind, AlertState, Forecast, Watch, WatchSettings
from model.crops.texts import nfc
from service.errors import InvalidField
from service.record.camera_reviews import (
    CameraReviews,
    count_change,
    ignore_reviews,
    read_reviews,
)
from service.record.database import RecordPart, transactional
from service.record.galleries import read_entry, require_entry
from service.record.keys import ApiKey
from service.record.schema import as_micros, as_moment, now_micros
from service.record.transaction import (
    AMONG,
    JOIN_IN_ORDER,
    Reader,
    Transaction,
    all_of,
    settings_of,
    upsert,
)
from service.record.trials import LONGEST_TRIAL, is_on_trial, read_trials
from service.record.values import Picture, Sender, new_crop_id

MOST_ARMED = 100
KEPT_ALERTS = 100_000
# With the most webhooks of all galleries and of one, 20,000 deliveries wait for them at most.
WAITING_OF_WEBHOOK = 500
# With so many, alerts about cameras are dropped: the other half is for alerts about people.
WAITING_ABOUT_CAMERAS = WAITING_OF_WEBHOOK // 2
# Upper bound on the cameras of one API key for which a list has a histogram of traffic.
MOST_CAMERAS = 100
# Type of a count in a stored histogram of traffic.
COUNT = np.dtype("<i8")
# A process counts a part of a track at its end, at the latest this long after another process did.
PARTS_WITHIN_MICROS = 3_600_000_000
Counts = NDArray[np.int64]
EXPIRED_AT_ONCE = 1000
MICROS_OF_SECOND = 1_000_000
MICROS_OF_DAY = 86_400 * MICROS_OF_SECOND
# Remove the oldest alerts about the person with the most: one picture that is sent repeatedly under
# invented cameras cannot push out alerts about other people.
DELETE_SURPLUS = """
DELETE FROM alerts WHERE number IN (
    SELECT number FROM alerts WHERE coalesce(person_id, 0) = (
        SELECT coalesce(person_id, 0) FROM alerts GROUP BY coalesce(person_id, 0)
        ORDER BY count(*) DESC, min(number) LIMIT 1
    ) ORDER BY number LIMIT ?
)
"""
# Extend the visit that new crops belong to. Late crops may extend a visit, but a late entry never
# becomes a visit. Only the track that raised a rejected alert goes on with it: whoever comes later
# may be the listed person. A visit is to one camera, or to all cameras of the list.
EXTEND_VISIT = """
UPDATE alerts SET
    first_seen = CASE WHEN first_seen < :first_seen THEN first_seen ELSE :first_seen END,
    last_seen = CASE WHEN last_seen > :last_seen THEN last_seen ELSE :last_seen END,
    crops = crops + :crops
WHERE number = (
    SELECT number FROM alerts WHERE person_id = :person_id
        AND (:quiet_scope = 'list' OR coalesce(camera, '') = coalesce(:camera, ''))
        AND last_seen >= :first_seen - :quiet AND first_seen <= :last_seen + :quiet
        AND kind IN ('visit', :kind) AND (state != 'rejected' OR alert_id = :own_alert)
    ORDER BY alert_id = :own_alert DESC, last_seen DESC LIMIT 1
) RETURNING number
"""
# The person's previous visit to another camera.
FORMER_VISIT = """
SELECT alert_id FROM alerts WHERE person_id = :person_id
    AND coalesce(camera, '') != coalesce(:camera, '') AND last_seen <= :first_seen
    AND state != 'rejected' ORDER BY last_seen DESC LIMIT 1
"""
# Columns of an alert about the crop that it shows.
OF_SHOWN_CROP = (
    "camera",
    "key_id",
    "track",
    "captured_at",
    "score",
    "subject",
    "threshold",
    "probability",
    "cohesion",
    "calibration_version",
    "crop_id",
    "trial",
)
# Columns of an alert about a visit when it is written.
OF_VISIT = ("kind", "person_id", "first_seen", "last_seen", "crops", "follows", *OF_SHOWN_CROP)
# Show the crop of a visit with the highest score. A reviewed alert keeps the crop that was decided
# on.
TAKE_BEST = f"""
UPDATE alerts SET {settings_of(OF_SHOWN_CROP)}
WHERE number = :number AND state = 'open' AND score < :score
"""
# Webhooks that receive an alert of a gallery, by the number of their waiting deliveries.
WANTED_BY = """
WHERE enabled = 1 AND (gallery_id IS NULL OR gallery_id = :gallery_id) AND (
    SELECT count(*) FROM deliveries
    WHERE deliveries.webhook_id = webhooks.webhook_id AND state = 'waiting'
)
"""
NEWEST_ALERT = "newest_alert"
# Plain counts would show a key for one gallery how many alerts others have.
NEXT_NUMBER = upsert(
    "record",
    ("name", "value"),
    "VALUES (?, ?)",
    """value = CASE
        WHEN CAST(excluded.value AS INTEGER) > CAST(record.value AS INTEGER)
            THEN CAST(excluded.value AS INTEGER)
        ELSE CAST(record.value AS INTEGER) + 1
    END""",
)
ARMED = "disarmed_at IS NULL"
OF_SUBJECT = "WHERE gallery_id = ? AND subject = ?"
OF_IDENTITY = "person_id IN (SELECT person_id FROM people WHERE name = ?)"
# Columns beside those of `watches` and `alerts`, and their tables. A gallery that is being deleted
# has no name.
OF_WATCHES = """,
name AS gallery, forecast AS promised, coalesce(tracks, 0) AS tracks,
coalesce(changes, 0) AS review_changes,
CASE WHEN disarmed_at IS NULL THEN 'armed' ELSE 'disarmed' END AS state,
watches.embedder != galleries.embedder AS outdated
"""
BESIDE_WATCHES = """
JOIN galleries USING (gallery_id) LEFT JOIN watch_traffic USING (gallery_id)
LEFT JOIN review_changes USING (gallery_id)
WHERE name IS NOT NULL AND
"""
OF_ALERTS = """,
name AS gallery,
(SELECT name FROM people WHERE people.person_id = alerts.person_id) AS identity,
alert_pictures.number IS NOT NULL AS has_picture
"""
# The order of the tables is fixed, so that a page is read along an index of `alerts`.
BESIDE_ALERTS = f"""
{JOIN_IN_ORDER} galleries USING (gallery_id) LEFT JOIN alert_pictures USING (number)
WHERE name IS NOT NULL AND
"""


class ArmedList(Watch):
    """The stored state of a list that is or was armed.

    Attributes:
        outdated: the gallery was reindexed since the list was armed.
        tracks: number of tracks in the stored traffic.
        review_changes: how often its reviews have changed.
    """

    gallery_id: int
    settings: WatchSettings
    armed_at: datetime
    promised: Forecast
    outdated: bool
    tracks: int
    review_changes: int


class StoredAlert(Alert):
    """An alert without the addresses of its pictures.

    Attributes:
        crop_id: the nearest crop of the list; None for news about a list or camera.
        has_picture: the picture of the visit's best crop is kept.
    """

    image_url: str | None = None
    reference_url: str | None = None
    crop_id: str | None = Field(exclude=True)
    has_picture: bool = Field(exclude=True)


@dataclass(frozen=True)
class SightedPerson:
    """New crops of one track that show a person of a list, and the best crop of the track.

    Attributes:
        kind: `visit`, or `late` if nobody is to be told.
        slot: that of the list's nearest crop, whose person is the match.
        first_seen, last_seen: times of the track.
        crops: number of the new crops.
        key_id: the API key that sent them.
        track: the tracker's id.
        captured_at: time of capture of the best crop.
        score: that of the best crop.
        subject: identifies what the score is comparable with.
        picture: picture of the best crop, if it is new.
        own_alert: id of the alert that was written for this track and list before.
    """

    kind: AlertKind
    slot: int
    first_seen: datetime
    last_seen: datetime
    crops: int
    camera: str | None
    key_id: str
    track: str | None
    captured_at: datetime
    score: float
    subject: str
    threshold: float
    probability: float
    cohesion: float | None
    calibration_version: str
    picture: Picture | None
    own_alert: str | None

    @property
    def sender(self) -> Sender:
        return Sender(self.key_id, self.camera)


@dataclass(frozen=True)
class NotedVisit:
    """An alert after a write.

    Attributes:
        is_new: False if an earlier visit was extended.
        dropped: number of webhooks with too many waiting deliveries.
        removed: number of old alerts that were removed to make room.
    """

    alert: StoredAlert
    is_new: bool
    dropped: int = 0
    removed: int = 0


class TrackPart(NamedTuple):
    """A track that one process saw, or the part of it that it saw.

    Attributes:
        name: identifies the track, unless the same name was given to another one later.
        began, until: times of capture between which it was open.
        bin: bin of its best score in the histogram.
    """

    name: bytes
    began: datetime
    until: datetime
    bin: int


@dataclass(frozen=True)
class EndedTracks:
    """Tracks that ended since the last ones were counted.

    Attributes:
        counts: numbers of whole tracks, one per bin of a histogram.
        parts: further tracks, of which other processes may have seen a part. A track counts once,
            by its best score.
    """

    counts: Counts
    parts: Sequence[TrackPart] = ()


class CameraTraffic(NamedTuple):
    """The traffic of one camera, as `Watches.traffic` has that of all.

    Attributes:
        counts: numbers of tracks, one per bin.
        tracks: their sum.
        since: time from which they were counted.
    """

    counts: Counts
    tracks: int
    since: datetime


class Watches(RecordPart):
    """Armed lists, their traffic, and the alerts about them."""

    @transactional
    def arm(
        self,
        transaction: Transaction,
        gallery_id: int,
        settings: WatchSettings,
        forecast: Forecast,
        embedder: str,
        key_id: str,
    ) -> None:
        """Arm a list, or replace the settings of an armed one.

        Args:
            embedder: fingerprint of the embedder that the forecast was made with.

        Raises:
            UnknownGallery: the gallery was deleted.
            InvalidField: it was reindexed since, or the largest number of lists is armed.
        """
        entry = require_entry(transaction, gallery_id)
        if entry.embedding_fingerprint != embedder:
            raise InvalidField(
                "confirm: the gallery was reindexed since its forecast; send the settings without "
                "it, read the forecast, and send both"
            )
        others = f"SELECT count(*) FROM watches WHERE {ARMED} AND gallery_id != ?"
        if transaction.value(others, (gallery_id,)) >= MOST_ARMED:
            raise InvalidField(f"gallery: {MOST_ARMED} lists are armed, the most; disarm one first")
        transaction.change("DELETE FROM ignored_reviews WHERE gallery_id = ?", (gallery_id,))
        new_trials = "UPDATE camera_traffic SET tracks_since_armed = 0 WHERE gallery_id = ?"
        transaction.change(new_trials, (gallery_id,))
        now = now_micros()
        # Later alerts have greater numbers than this time, even if the clock is set back.
        transaction.change(NEXT_NUMBER, (NEWEST_ALERT, now))
        # Exclude the time while the list was disarmed, in which no traffic was counted.
        for table in ("watch_traffic", "camera_traffic"):
            transaction.change(
                f"UPDATE {table} SET since = since + ? - watches.disarmed_at FROM watches "
                f"WHERE {table}.gallery_id = ? AND watches.gallery_id = {table}.gallery_id "
                "AND watches.disarmed_at IS NOT NULL",
                (now, gallery_id),
            )
        armed = {
            "gallery_id": gallery_id,
            "settings": settings.model_dump_json(),
            "forecast": forecast.model_dump_json(),
            "embedder": embedder,
            "armed_at": now,
            "key_id": key_id,
            "disarmed_at": None,
            "why": None,
        }
        transaction.insert("watches", armed, instead=True)

    @transactional
    def disarm(
        self,
        transaction: Transaction,
        gallery_id: int,
        why: str,
        armed_at: datetime | None = None,
    ) -> NotedVisit | None:
        """Disarm a list.

        Args:
            armed_at: leave a list alone that was armed later, and write an alert that says why.

        Returns:
            The alert; None if none was written, also because the list was not armed.
        """
        disarmed = (
            "UPDATE watches SET disarmed_at = ?, why = ? "
            f"WHERE gallery_id = ? AND {ARMED} AND armed_at = coalesce(?, armed_at)"
        )
        values = (now_micros(), why, gallery_id, armed_at)
        if not transaction.change(disarmed, values) or armed_at is None:
            return None
        return _write_alert(transaction, gallery_id, _about_list("disarmed", why))

    @transactional
    def warn(self, transaction: Transaction, gallery_id: int, detail: str) -> NotedVisit | None:
        """Write an alert that an armed list breaks its promise, at most once for each arming."""
        watch = _find_armed(transaction, gallery_id)
        earlier = (
            "SELECT 1 FROM alerts WHERE gallery_id = ? AND kind = 'promise_broken' AND number >= ?"
        )
        if watch is None or transaction.value(earlier, (gallery_id, watch.armed_at)):
            return None
        return _write_alert(transaction, gallery_id, _about_list("promise_broken", detail))

    def get(self, gallery_id: int) -> ArmedList | None:
        """Return a list with the counts of its kept alerts; None if it never was armed.

        An armed list also has its trials.
        """
        counted = (
            "SELECT count(*) AS alerts, count(*) FILTER (WHERE state = 'confirmed') AS confirmed, "
            "count(*) FILTER (WHERE state = 'rejected') AS rejected FROM alerts "
            "WHERE gallery_id = ? AND kind = 'visit' AND number >= ?"
        )
        with self._database.read() as reader:
            for watch in _read_lists(reader, "gallery_id = ?", (gallery_id,)):
                now = datetime.now(UTC)
                # Alerts before this time are removed.
                kept_since = now - timedelta(days=watch.settings.retention_days)
                since = max(watch.armed_at, kept_since)
                (counts,) = reader.execute(counted, (gallery_id, since))
                alerts, confirmed, rejected = counts.values()
                days = max(0.0, ((watch.disarmed_at or now) - since) / timedelta(days=1))
                reviewed = confirmed + rejected
                # After the clock was set back, the list seems to be armed in the future.
                is_known = reviewed and days
                false_alarms = alerts / days * rejected / reviewed if is_known else None
                changes = {**counts, "days": days, "false_alarms": false_alarms}
                if watch.state == "armed":
                    changes["trials"] = read_trials(reader, gallery_id, watch.armed_at)
                    changes["trial_until"] = watch.armed_at + LONGEST_TRIAL
                return watch.model_copy(update=changes)
        return None

    def armed(self) -> list[ArmedList]:
        return _read_lists(self._reader, f"{ARMED} ORDER BY gallery_id")

    @transactional
    def add_traffic(
        self,
        transaction: Transaction,
        gallery_id: int,
        subject: str,
        tracks: Mapping[Sender, EndedTracks],
    ) -> None:
        """Add tracks to the histograms of a list and of its cameras.

        Tracks of another subject are dropped, and those of a deleted gallery are ignored. Of each
        API key the first `MOST_CAMERAS` cameras have a histogram; tracks of further ones count in
        that of the list alone.

        Args:
            subject: identifies comparable traffic.
            tracks: ended tracks by camera.
        """
        if read_entry(transaction, gallery_id) is None:
            return
        row = transaction.row("watch_traffic", OF_SUBJECT, (gallery_id, subject))
        if row is None:
            for table in ("counted_tracks", "camera_traffic"):
                transaction.change(f"DELETE FROM {table} WHERE gallery_id = ?", (gallery_id,))
        added = {
            sender: _count_tracks(transaction, gallery_id, ended)
            for sender, ended in tracks.items()
        }
        for sender, counts in added.items():
            _add_to_camera(transaction, gallery_id, subject, sender, counts)
        counts = np.sum(list(added.values()), axis=0)
        if row:
            counts = counts + np.frombuffer(row["histogram"], COUNT)
        values = {
            "gallery_id": gallery_id,
            "subject": subject,
            "histogram": counts.astype(COUNT).tobytes(),
            "tracks": int(counts.sum()),
            "since": row["since"] if row else now_micros(),
        }
        transaction.insert("watch_traffic", values, instead=True)

    def traffic(self, gallery_id: int, subject: str) -> tuple[Counts, datetime]:
        """Return the counts of a list's traffic and the time of the first; empty if there are none.

        Args:
            subject: as in `add_traffic`.
        """
        row = self._reader.row("watch_traffic", OF_SUBJECT, (gallery_id, subject))
        histogram, since = (row["histogram"], row["since"]) if row else (b"", now_micros())
        return np.frombuffer(histogram, COUNT), as_moment(since)

    def traffic_by_camera(self, gallery_id: int, subject: str) -> dict[Sender, CameraTraffic]:
        """Return the traffic of each camera of a list that has a histogram.

        Args:
            subject: as in `add_traffic`.
        """
        traffic = {}
        for row in self._reader.rows("camera_traffic", OF_SUBJECT, (gallery_id, subject)):
            counts = np.frombuffer(row["histogram"], COUNT)
            sender = Sender(row["key_id"], row["camera"] or None)
            traffic[sender] = CameraTraffic(counts, int(counts.sum()), as_moment(row["since"]))
        return traffic

    def reviews_by_camera(
        self, gallery_id: int, armed_at: datetime, subject: str
    ) -> dict[Sender, CameraReviews]:
        """Return the reviews of the alerts that a list raised since it was armed, by camera.

        Args:
            subject: identifies comparable scores.
        """
        return read_reviews(self._reader, gallery_id, armed_at, subject)

    @transactional
    def ignore_reviews(
        self, transaction: Transaction, gallery_id: int, sender: Sender, are_ignored: bool
    ) -> None:
        """Let the reviews of a camera move no threshold until the list is armed again, or let them.

        Raises:
            InvalidField: the list is not armed.
        """
        if _find_armed(transaction, gallery_id) is None:
            raise InvalidField("gallery: is not armed as a watch list; arm it first")
        ignore_reviews(transaction, gallery_id, sender, are_ignored)

    @transactional
    def note_visit(
        self, transaction: Transaction, gallery_id: int, sighted: SightedPerson
    ) -> NotedVisit | None:
        """Extend the visit of a person, or write an alert, its picture and deliveries.

        Processes that note the same visit at the same time write one alert. An open alert shows the
        crop with the highest score.

        Returns:
            None if the list is disarmed or deleted, or its nearest crop was deleted or has no name
            any more.
        """
        watch = _find_armed(transaction, gallery_id)
        of_slot = "WHERE gallery_id = ? AND slot = ?"
        crop = transaction.row("crops", of_slot, (gallery_id, sighted.slot))
        if watch is None or crop is None or crop["person_id"] is None:
            return None
        values = {
            **vars(sighted),
            "person_id": crop["person_id"],
            "crop_id": crop["crop_id"],
            "trial": is_on_trial(transaction, gallery_id, watch.armed_at, sighted.sender),
            "quiet": watch.settings.quiet_seconds * MICROS_OF_SECOND,
            "quiet_scope": watch.settings.quiet_scope,
        }
        number = transaction.value(EXTEND_VISIT, values)
        if number is None:
            values["follows"] = transaction.value(FORMER_VISIT, values)
            columns = {name: values[name] for name in OF_VISIT}
            return _write_alert(transaction, gallery_id, columns, sighted.picture)
        if transaction.change(TAKE_BEST, values | {"number": number}):
            _show_picture(transaction, number, sighted.picture)
        (alert,) = _read_alerts(transaction, "number = ?", (number,))
        return NotedVisit(alert, is_new=False)

    def newest_number(self) -> int:
        """Return the number of the newest alert, even if it was removed; 0 before the first."""
        statement = "SELECT CAST(value AS INTEGER) FROM record WHERE name = ?"
        return self._reader.value(statement, (NEWEST_ALERT,)) or 0

    def alerts(
        self,
        limit: int,
        gallery_id: int | None = None,
        identity: str | None = None,
        camera: str | None = None,
        kind: AlertKind | None = None,
        state: AlertState | None = None,
        before: int | None = None,
        after: int | None = None,
    ) -> list[StoredAlert]:
        """Return up to `limit` alerts, newest first, or with `after` oldest first.

        Args:
            before, after: exclusive bounds of `number`.
        """
        conditions = {
            "gallery_id = ?": gallery_id,
            OF_IDENTITY: identity,
            "camera = ?": camera and nfc(camera),
            "kind = ?": kind,
            "state = ?": state,
            "number < ?": before,
            "number > ?": after,
        }
        wanted, values = all_of(conditions)
        order = "DESC" if after is None else ""
        condition = f"{wanted} ORDER BY number {order} LIMIT ?"
        return _read_alerts(self._reader, condition, [*values, limit])

    def alert(self, alert_id: str) -> StoredAlert | None:
        return next(iter(_read_alerts(self._reader, "alert_id = ?", (alert_id,))), None)

    def picture(self, alert_id: str) -> Picture | None:
        clauses = "WHERE number = (SELECT number FROM alerts WHERE alert_id = ?)"
        row = self._reader.row("alert_pictures", clauses, (alert_id,))
        return Picture(row["content"], row["content_type"]) if row else None

    @transactional
    def review(
        self,
        transaction: Transaction,
        alert_id: str,
        decision: AlertState,
        caller: ApiKey,
        score: float | None = None,
    ) -> None:
        """Store a decision on an alert, or remove it with `open`.

        Args:
            score: score of the crop that was decided on; None if the caller does not say it.

        Raises:
            Forbidden: another key has decided, and this one has no `admin`.
            InvalidField: the alert shows another crop.
        """
        shown = transaction.value("SELECT score FROM alerts WHERE alert_id = ?", (alert_id,))
        if score is not None and score != shown:
            raise InvalidField(
                "score: the alert shows another crop now; read the alert, look at its picture, and "
                "send its new score, or none"
            )
        decided = "SELECT reviewed_by FROM alerts WHERE alert_id = ? AND reviewed_by IS NOT NULL"
        for key_id in transaction.column(decided, (alert_id,)):
            caller.require_own(key_id)
        reviewed = (None, None) if decision == "open" else (caller.key_id, now_micros())
        transaction.change(
            "UPDATE alerts SET state = ?, reviewed_by = ?, reviewed_at = ? WHERE alert_id = ?",
            (decision, *reviewed, alert_id),
        )
        of_alert = "SELECT gallery_id FROM alerts WHERE alert_id = ?"
        for gallery_id in transaction.column(of_alert, (alert_id,)):
            count_change(transaction, gallery_id)

    @transactional
    def expire(self, transaction: Transaction, gallery_id: int) -> int:
        """Remove some alerts of a list that are past its retention; return how many.

        Tracks are forgotten once no process can have another part of them.
        """
        old = (now_micros() - PARTS_WITHIN_MICROS,)
        transaction.change("DELETE FROM counted_tracks WHERE counted_at < ?", old)
        watch = transaction.row("watches", "WHERE gallery_id = ?", (gallery_id,))
        if watch is None:
            return 0
        oldest = now_micros() - watch["settings"]["retention_days"] * MICROS_OF_DAY
        expired = transaction.column(
            "SELECT number FROM alerts WHERE gallery_id = ? AND created_at < ? "
            "ORDER BY number LIMIT ?",
            (gallery_id, oldest, EXPIRED_AT_ONCE),
        )
        return _remove_alerts(transaction, expired)


def watches_camera(settings: WatchSettings, camera: str | None) -> bool:
    return not settings.cameras or camera in settings.cameras


def alert_lists_of_camera(
    transaction: Transaction,
    kind: AlertKind,
    key: ApiKey,
    camera: str,
    detail: str,
    first_seen: datetime,
    last_seen: datetime,
) -> list[NotedVisit]:
    """Write an alert about a camera for each armed list that watches it and that its key may see.

    Args:
        first_seen, last_seen: times between which the camera was not heard.
    """
    values = {
        "kind": kind,
        "camera": camera,
        "detail": detail,
        "first_seen": first_seen,
        "last_seen": last_seen,
        "crops": 0,
        "trial": False,
    }
    return [
        _write_alert(transaction, watch.gallery_id, values)
        for watch in _read_lists(transaction, ARMED)
        if key.may_see(watch.gallery) and watches_camera(watch.settings, camera)
    ]


def stop_watching(transaction: Transaction) -> None:
    """Disarm every list and give up waiting deliveries, after a restore of the record."""
    why = "the record was restored"
    disarmed = f"UPDATE watches SET disarmed_at = ?, why = ? WHERE {ARMED}"
    transaction.change(disarmed, (now_micros(), why))
    given_up = "UPDATE deliveries SET state = 'dead', error = ? WHERE state = 'waiting'"
    transaction.change(given_up, (why,))


def forget_alerts(
    transaction: Transaction, person_ids: Sequence[int]
) -> tuple[int, dict[str, int]]:
    """Remove the alerts about people, with pictures and deliveries.

    Returns:
        Number of alerts, and number of messages about them that were sent or due to each address.
    """
    # A message that is due may be under way: its outcome is noted when the receiver has answered.
    counted = transaction.tuples(
        "SELECT coalesce(sent_to, url) AS address, count(*) FROM deliveries "
        "JOIN alerts USING (number) LEFT JOIN webhooks USING (webhook_id) "
        f"WHERE person_id IN {AMONG} AND (sent_to IS NOT NULL "
        "OR deliveries.state = 'waiting' AND enabled = 1 AND next_at <= ?) "
        "GROUP BY address ORDER BY address",
        (person_ids, now_micros()),
    )
    sent: Counter[str] = Counter()
    for address, messages in counted:
        sent[origin_of(address)] += messages
    statement = f"SELECT number FROM alerts WHERE person_id IN {AMONG}"
    numbers = transaction.column(statement, (person_ids,))
    return _remove_alerts(transaction, numbers), dict(sent)


def origin_of(url: str) -> str:
    """Return the scheme, name and port of a URL, whose path may contain a secret."""
    parsed = urlsplit(url)
    return f"{parsed.scheme}://{parsed.netloc}"


def _count_tracks(transaction: Transaction, gallery_id: int, ended: EndedTracks) -> Counts:
    """Return what tracks add to each bin; below 0 where a track gets a better score."""
    counts = ended.counts.copy()
    for part in ended.parts:
        _count_part(transaction, gallery_id, part, counts)
    return counts


def _add_to_camera(
    transaction: Transaction, gallery_id: int, subject: str, sender: Sender, added: Counts
) -> None:
    values = {
        "gallery_id": gallery_id,
        "key_id": sender.key_id,
        "camera": sender.camera or "",
        "subject": subject,
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
    transaction.insert("camera_traffic", values, instead=True)


def _count_part(transaction: Transaction, gallery_id: int, part: TrackPart, counts: Counts) -> None:
    """Count a track in a histogram, together with the parts that were counted before."""
    joined = transaction.tuples(
        "DELETE FROM counted_tracks WHERE gallery_id = ? AND name = ? AND began <= ? "
        "AND until >= ? RETURNING began, until, bin",
        (gallery_id, part.name, part.until, part.began),
    )
    track: dict[str, Any] = {
        "gallery_id": gallery_id,
        "name": part.name,
        "began": as_micros(part.began),
        "until": as_micros(part.until),
        "bin": part.bin,
        "counted_at": now_micros(),
    }
    for began, until, score_bin in joined:
        counts[score_bin] -= 1
        track["began"] = min(track["began"], began)
        track["until"] = max(track["until"], until)
        track["bin"] = max(track["bin"], score_bin)
    counts[track["bin"]] += 1
    transaction.insert("counted_tracks", track)


def _remove_alerts(transaction: Transaction, numbers: Sequence[int]) -> int:
    if not numbers:
        return 0
    return transaction.change(f"DELETE FROM alerts WHERE number IN {AMONG}", (numbers,))


def _find_armed(reader: Reader, gallery_id: int) -> ArmedList | None:
    watches = _read_lists(reader, f"gallery_id = ? AND {ARMED}", (gallery_id,))
    now = datetime.now(UTC)
    return next((watch for watch in watches if watch.settings.expires_at > now), None)


def _read_lists(reader: Reader, condition: str, values: Sequence[Any] = ()) -> list[ArmedList]:
    rows = reader.rows("watches", f"{BESIDE_WATCHES} {condition}", values, OF_WATCHES)
    # Only a process that holds the list knows its current forecast.
    return [ArmedList.model_validate(row | {"forecast": None}) for row in rows]


def _about_list(kind: AlertKind, detail: str) -> dict[str, Any]:
    now = now_micros()
    return {
        "kind": kind,
        "detail": detail,
        "first_seen": now,
        "last_seen": now,
        "crops": 0,
        "trial": False,
    }


def _write_alert(
    transaction: Transaction,
    gallery_id: int,
    values: Mapping[str, Any],
    picture: Picture | None = None,
) -> NotedVisit:
    """Write an alert with its picture and deliveries; remove old ones beyond `KEPT_ALERTS`."""
    now = now_micros()
    number = transaction.value(
        f"{NEXT_NUMBER} RETURNING CAST(value AS INTEGER)", (NEWEST_ALERT, now)
    )
    fields = {
        "number": number,
        "alert_id": new_crop_id(),
        "gallery_id": gallery_id,
        "state": "open",
        "created_at": now,
    }
    transaction.insert("alerts", {**fields, **values})
    _show_picture(transaction, number, picture)
    dropped = 0
    # Nobody is told of a late entry.
    if values["kind"] != "late":
        is_about_camera = values["kind"] in ("silent", "heard")
        most_waiting = WAITING_ABOUT_CAMERAS if is_about_camera else WAITING_OF_WEBHOOK
        dropped = _deliver(transaction, gallery_id, number, most_waiting)
    count = transaction.value("SELECT count(*) FROM alerts")
    removed = 0
    if count > KEPT_ALERTS:
        removed = transaction.change(DELETE_SURPLUS, (count - KEPT_ALERTS,))
    transaction.note_alerts()
    (alert,) = _read_alerts(transaction, "number = ?", (number,))
    return NotedVisit(alert, True, dropped, removed)


def _show_picture(transaction: Transaction, number: int, picture: Picture | None) -> None:
    """Let an alert have the picture of a crop, in place of that of an earlier crop."""
    transaction.change("DELETE FROM alert_pictures WHERE number = ?", (number,))
    if picture is not None:
        transaction.insert("alert_pictures", {"number": number, **asdict(picture)})


def _deliver(transaction: Transaction, gallery_id: int, number: int, most_waiting: int) -> int:
    """Write a delivery for each webhook of a list; return the number of dropped deliveries."""
    values = {"gallery_id": gallery_id, "most": most_waiting}
    full = f"UPDATE webhooks SET dropped = dropped + 1 {WANTED_BY} >= :most"
    dropped = transaction.change(full, values)
    now = now_micros()
    ready = f"SELECT webhook_id FROM webhooks {WANTED_BY} < :most ORDER BY webhook_id"
    deliveries = [
        {
            "delivery_id": new_crop_id(),
            "webhook_id": webhook_id,
            "number": number,
            "state": "waiting",
            "attempts": 0,
            "next_at": now,
            "created_at": now,
        }
        for webhook_id in transaction.column(ready, values)
    ]
    transaction.insert("deliveries", *deliveries)
    return dropped


def _read_alerts(reader: Reader, condition: str, values: Sequence[Any]) -> list[StoredAlert]:
    rows = reader.rows("alerts", f"{BESIDE_ALERTS} {condition}", values, OF_ALERTS)
    return [StoredAlert.model_validate(row) for row in rows]
