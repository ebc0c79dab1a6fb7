"""Watch lists and their alerts: a visit, its picture and its deliveries are one commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic_core import from_json

from gmn_client.models import Alert, AlertKind, AlertState, Forecast, WatchSettings
from service.errors import InvalidField
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import (
    ALERT_PICTURES,
    ALERTS,
    DELIVERIES,
    RECORD,
    WATCH_TRAFFIC,
    WATCHES,
    as_micros,
    as_moment,
)
from service.record.transaction import AMONG, Reader, Transaction, as_json
from service.record.values import Picture, new_crop_id

MOST_ARMED = 100
KEPT_ALERTS = 100_000
# With as many webhooks as there may be, 10,000 deliveries wait at most.
WAITING_OF_WEBHOOK = 500
EXPIRED_AT_ONCE = 1000
# The oldest alerts about the person with the most give place: one picture that is sent again and
# again by invented cameras pushes out no alert about other people.
GIVING_PLACE = """
DELETE FROM alerts WHERE number IN (
    SELECT number FROM alerts WHERE person_id IS (
        SELECT person_id FROM alerts GROUP BY person_id ORDER BY count(*) DESC, min(number) LIMIT 1
    ) ORDER BY number LIMIT ?
)
"""
NEWEST_ALERT = "newest_alert"
ARMED = "disarmed_at IS NULL"
OF_SUBJECT = "WHERE gallery_id = ? AND subject = ?"
# A gallery without a name is being deleted.
OF_GALLERIES = "gallery_id IN (SELECT gallery_id FROM galleries WHERE name IS NOT NULL)"


@dataclass(frozen=True)
class ArmedList:
    """A gallery that is, or was, armed as a watch list.

    Attributes:
        forecast: by which it was armed.
        key_id: of the key that armed it.
        outdated: it was restored, or embedded anew, since it was armed.
        tracks: that were counted of its traffic.
    """

    gallery_id: int
    settings: WatchSettings
    forecast: Forecast
    armed_at: datetime
    key_id: str
    disarmed_at: datetime | None
    why: str | None
    outdated: bool
    tracks: int

    @property
    def armed(self) -> bool:
        return self.disarmed_at is None


@dataclass(frozen=True, kw_only=True)
class VisitSeen:
    """New crops of one track that matched a list.

    Attributes:
        row_id: slot of the list's nearest crop, which tells the person.
        first_seen, last_seen: of these crops, with time zone.
        crops: how many they are.
        score: of the track, above the `threshold`.
        cohesion: least cosine of a crop to the mean of the others; None for a single crop.
        picture: of the crop that matched best.
    """

    kind: Literal["visit", "late"]
    row_id: int
    camera: str | None
    track: str | None
    first_seen: datetime
    last_seen: datetime
    crops: int
    score: float
    threshold: float
    probability: float
    cohesion: float | None
    calibration_version: str
    picture: Picture | None


@dataclass(frozen=True)
class NotedVisit:
    """A visit in the record: `dropped` webhooks had too many waiting, `removed` alerts gave place.

    Attributes:
        is_new: it is a new alert; else an earlier visit goes on.
    """

    alert: Alert
    is_new: bool
    dropped: int = 0
    removed: int = 0


@dataclass(frozen=True)
class AlertFilter:
    """A filter of alerts; None, or empty, asks nothing.

    Attributes:
        after, before: exclusive bounds of the number.
    """

    gallery_id: int | None = None
    identity: str | None = None
    camera: str | None = None
    kind: AlertKind | None = None
    state: AlertState | None = None
    after: int | None = None
    before: int | None = None


class Watches(RecordPart):
    """Armed lists, their traffic, and the alerts about them."""

    @transactional
    def arm(
        self,
        transaction: Transaction,
        gallery_id: int,
        settings: WatchSettings,
        forecast: Forecast,
        key_id: str,
    ) -> ArmedList:
        """Arm a list, or an armed one by other settings.

        Raises:
            UnknownGallery: the gallery was deleted.
            InvalidField: as many as may be are armed.
        """
        entry = require_entry(transaction, gallery_id)
        others = f"SELECT count(*) FROM watches WHERE {ARMED} AND gallery_id != ?"
        if transaction.value(others, (gallery_id,)) >= MOST_ARMED:
            raise InvalidField(f"gallery: {MOST_ARMED} lists are armed, the most; disarm one first")
        now = as_micros(datetime.now(UTC))
        # No traffic was counted while it was disarmed.
        transaction.change(
            "UPDATE watch_traffic SET since = since + ? - watches.disarmed_at FROM watches "
            "WHERE watch_traffic.gallery_id = ? AND watches.gallery_id = watch_traffic.gallery_id "
            "AND watches.disarmed_at IS NOT NULL",
            (now, gallery_id),
        )
        armed = {
            "gallery_id": gallery_id,
            "settings": settings.model_dump_json(),
            "forecast": forecast.model_dump_json(),
            "embedder": entry.embedding_fingerprint,
            "restores": entry.at,
            "armed_at": now,
            "key_id": key_id,
        }
        transaction.insert(WATCHES, armed, instead=True)
        (watch,) = _read_lists(transaction, "WHERE gallery_id = ?", (gallery_id,))
        return watch

    @transactional
    def disarm(
        self, transaction: Transaction, gallery_id: int, why: str, alert: bool = False
    ) -> NotedVisit | None:
        """Disarm a list; with `alert` write one that says why.

        Returns:
            The alert; None where there is none, or the list was disarmed before.
        """
        disarmed = f"UPDATE watches SET disarmed_at = ?, why = ? WHERE gallery_id = ? AND {ARMED}"
        now = as_micros(datetime.now(UTC))
        if not transaction.change(disarmed, (now, why, gallery_id)) or not alert:
            return None
        return _write(transaction, gallery_id, _about_list("disarmed", why))

    @transactional
    def warn(self, transaction: Transaction, gallery_id: int, detail: str) -> NotedVisit | None:
        """Write that an armed list raises more than was promised, once since it was armed."""
        watch = _armed(transaction, gallery_id)
        if watch is None:
            return None
        asked = (
            "SELECT 1 FROM alerts WHERE gallery_id = ? AND kind = 'promise_broken' "
            "AND created_at >= ?"
        )
        if transaction.value(asked, (gallery_id, as_micros(watch.armed_at))):
            return None
        return _write(transaction, gallery_id, _about_list("promise_broken", detail))

    def get(self, gallery_id: int) -> ArmedList | None:
        """Return a list, also one that is disarmed; None where it was never armed."""
        with self._database.read() as reader:
            return next(iter(_read_lists(reader, "WHERE gallery_id = ?", (gallery_id,))), None)

    def armed(self) -> list[ArmedList]:
        with self._database.read() as reader:
            return _read_lists(reader, f"WHERE {ARMED} ORDER BY gallery_id")

    @transactional
    def add_traffic(
        self, transaction: Transaction, gallery_id: int, subject: str, counts: Sequence[int]
    ) -> None:
        """Add the counts of a histogram to those of a list; those of another subject are dropped.

        Args:
            subject: names what the scores that are counted depend on.
        """
        require_entry(transaction, gallery_id)
        row = transaction.row(WATCH_TRAFFIC, OF_SUBJECT, (gallery_id, subject))
        if row:
            counts = [sum(both) for both in zip(counts, from_json(row["counts"]), strict=True)]
        values = {
            "gallery_id": gallery_id,
            "subject": subject,
            "counts": as_json(counts),
            "tracks": sum(counts),
            "since": row["since"] if row else as_micros(datetime.now(UTC)),
        }
        transaction.insert(WATCH_TRAFFIC, values, instead=True)

    def traffic(self, gallery_id: int, subject: str) -> tuple[list[int], datetime] | None:
        """Return the counts of a list's histogram, and since when they were counted.

        Returns:
            None where there are none of this subject.
        """
        row = self._reader.row(WATCH_TRAFFIC, OF_SUBJECT, (gallery_id, subject))
        return (from_json(row["counts"]), as_moment(row["since"])) if row else None

    @transactional
    def note_visit(
        self, transaction: Transaction, gallery_id: int, seen: VisitSeen
    ) -> NotedVisit | None:
        """Extend the visit of a person at a camera, or write the alert, picture and deliveries.

        Processes that call it for one visit at once write one alert.

        Returns:
            None where the list is disarmed, or its nearest crop is gone or has no name now.
        """
        watch = _armed(transaction, gallery_id)
        asked = "SELECT crop_id, person_id FROM crops WHERE gallery_id = ? AND slot = ?"
        crop = transaction.execute(asked, (gallery_id, seen.row_id)).fetchone()
        if watch is None or crop is None or crop["person_id"] is None:
            return None
        going_on = _extend(transaction, crop["person_id"], seen, watch.settings.quiet_seconds)
        if going_on is not None:
            (alert,) = _read(transaction, "WHERE number = ?", (going_on,))
            return NotedVisit(alert, False)
        before = (
            "SELECT alert_id FROM alerts WHERE person_id = ? AND camera IS NOT ? "
            "AND last_seen <= ? ORDER BY last_seen DESC LIMIT 1"
        )
        person = (crop["person_id"], seen.camera, as_micros(seen.first_seen))
        values = {
            "person_id": crop["person_id"],
            "kind": seen.kind,
            "camera": seen.camera,
            "track": seen.track,
            "first_seen": as_micros(seen.first_seen),
            "last_seen": as_micros(seen.last_seen),
            "crops": seen.crops,
            "score": seen.score,
            "threshold": seen.threshold,
            "probability": seen.probability,
            "cohesion": seen.cohesion,
            "calibration_version": seen.calibration_version,
            "crop_id": crop["crop_id"],
            "follows": transaction.value(before, person),
        }
        return _write(transaction, gallery_id, values, seen.picture)

    def newest_number(self) -> int:
        """Return the number of the newest alert, also where that is gone; 0 before the first."""
        return _newest(self._reader)

    def alerts(self, wanted: AlertFilter, limit: int, oldest_first: bool = False) -> list[Alert]:
        """Return up to `limit` alerts that pass a filter, the newest first."""
        conditions = {
            "gallery_id = ?": wanted.gallery_id,
            "person_id IN (SELECT person_id FROM people WHERE name = ?)": wanted.identity,
            "camera = ?": wanted.camera,
            "kind = ?": wanted.kind,
            "state = ?": wanted.state,
            "number > ?": wanted.after,
            "number < ?": wanted.before,
        }
        asked = {text: value for text, value in conditions.items() if value is not None}
        order = "" if oldest_first else "DESC"
        rest = f"WHERE {' AND '.join([OF_GALLERIES, *asked])} ORDER BY number {order} LIMIT ?"
        with self._database.read() as reader:
            return _read(reader, rest, [*asked.values(), limit])

    def alert(self, alert_id: str) -> Alert | None:
        with self._database.read() as reader:
            return next(iter(_read(reader, "WHERE alert_id = ?", (alert_id,))), None)

    def picture(self, alert_id: str) -> Picture | None:
        """Return the picture of an alert; None where none is kept, or the alert is gone."""
        of_alert = "WHERE number = (SELECT number FROM alerts WHERE alert_id = ?)"
        row = self._reader.row(ALERT_PICTURES, of_alert, (alert_id,))
        return Picture(row["content"], row["content_type"]) if row else None

    @transactional
    def review(
        self, transaction: Transaction, alert_id: str, decision: AlertState, key_id: str
    ) -> Alert | None:
        """Note whether an alert shows its person; `open` takes that back. None where it is gone."""
        is_open = decision == "open"
        by = None if is_open else key_id
        at = None if is_open else as_micros(datetime.now(UTC))
        transaction.change(
            "UPDATE alerts SET state = ?, reviewed_by = ?, reviewed_at = ? WHERE alert_id = ?",
            (decision, by, at, alert_id),
        )
        return next(iter(_read(transaction, "WHERE alert_id = ?", (alert_id,))), None)

    def counts(self, gallery_id: int, since: datetime) -> dict[AlertState, int]:
        """Count the visits of a list by the state of their review."""
        counted = self._reader.execute(
            "SELECT state, count(*) FROM alerts WHERE gallery_id = ? AND kind = 'visit' "
            "AND created_at >= ? GROUP BY state",
            (gallery_id, as_micros(since)),
        )
        return dict(counted.fetchall())

    @transactional
    def expire(self, transaction: Transaction, gallery_id: int) -> int:
        """Remove some alerts of a list that are older than its days; return how many."""
        watches = _read_lists(transaction, "WHERE gallery_id = ?", (gallery_id,))
        if not watches:
            return 0
        oldest = datetime.now(UTC) - timedelta(watches[0].settings.retention_days)
        removed = transaction.change(
            "DELETE FROM alerts WHERE number IN (SELECT number FROM alerts WHERE gallery_id = ? "
            "AND created_at < ? ORDER BY number LIMIT ?)",
            (gallery_id, as_micros(oldest), EXPIRED_AT_ONCE),
        )
        transaction.removes = removed > 0
        return removed


def stop_watching(transaction: Transaction) -> None:
    """Disarm every list, and send nothing that waits: the record is one of before."""
    why = "the record was restored"
    now = as_micros(datetime.now(UTC))
    disarmed = f"UPDATE watches SET disarmed_at = ?, why = ? WHERE {ARMED}"
    transaction.change(disarmed, (now, why))
    given_up = "UPDATE deliveries SET state = 'dead', error = ? WHERE state = 'waiting'"
    transaction.change(given_up, (why,))


def forget_alerts(transaction: Transaction, person_id: int) -> tuple[int, dict[str, int]]:
    """Remove the alerts about a person, with pictures and deliveries.

    Returns:
        How many, and how many messages about them were sent to each address.
    """
    sent = transaction.execute(
        "SELECT sent_to, count(*) FROM deliveries JOIN alerts USING (number) "
        "WHERE person_id = ? AND sent_to IS NOT NULL GROUP BY sent_to ORDER BY sent_to",
        (person_id,),
    )
    sent_to = dict(sent.fetchall())
    transaction.removes = True
    removed = transaction.change("DELETE FROM alerts WHERE person_id = ?", (person_id,))
    return removed, sent_to


def _armed(reader: Reader, gallery_id: int) -> ArmedList | None:
    """Return a list that is armed and not expired; None where it is not."""
    require_entry(reader, gallery_id)
    watches = _read_lists(reader, f"WHERE gallery_id = ? AND {ARMED}", (gallery_id,))
    now = datetime.now(UTC)
    return next((watch for watch in watches if watch.settings.expires_at > now), None)


def _read_lists(reader: Reader, rest: str, values: Sequence[Any] = ()) -> list[ArmedList]:
    rows = reader.rows(WATCHES, rest, values)
    found = reader.execute(
        "SELECT gallery_id, embedder, restores, coalesce(tracks, 0) FROM galleries "
        "LEFT JOIN watch_traffic USING (gallery_id) "
        f"WHERE name IS NOT NULL AND gallery_id IN {AMONG}",
        (as_json(row["gallery_id"] for row in rows),),
    )
    now = {gallery_id: (vectors, tracks) for gallery_id, *vectors, tracks in found}
    return [
        ArmedList(
            gallery_id=row["gallery_id"],
            settings=WatchSettings.model_validate_json(row["settings"]),
            forecast=Forecast.model_validate_json(row["forecast"]),
            armed_at=as_moment(row["armed_at"]),
            key_id=row["key_id"],
            disarmed_at=as_moment(row["disarmed_at"]),
            why=row["why"],
            outdated=now[row["gallery_id"]][0] != [row["embedder"], row["restores"]],
            tracks=now[row["gallery_id"]][1],
        )
        for row in rows
        if row["gallery_id"] in now
    ]


def _newest(reader: Reader) -> int:
    row = reader.row(RECORD, "WHERE name = ?", (NEWEST_ALERT,))
    return row["value"] if row else 0


def _extend(
    transaction: Transaction, person_id: int, seen: VisitSeen, quiet_seconds: int
) -> int | None:
    """Extend the visit that these crops go on with; return its number, or None for a new one."""
    quiet = quiet_seconds * 1_000_000
    # A crop that comes late may go on with a visit, and never becomes one.
    kinds = ["visit"] if seen.kind == "visit" else ["visit", "late"]
    number: int | None = transaction.value(
        "SELECT number FROM alerts WHERE person_id = ? AND last_seen >= ? AND first_seen <= ? "
        f"AND camera IS ? AND kind IN {AMONG} ORDER BY last_seen DESC LIMIT 1",
        (
            person_id,
            as_micros(seen.first_seen) - quiet,
            as_micros(seen.last_seen) + quiet,
            seen.camera,
            as_json(kinds),
        ),
    )
    if number is not None:
        transaction.change(
            "UPDATE alerts SET first_seen = min(first_seen, ?), last_seen = max(last_seen, ?), "
            "crops = crops + ? WHERE number = ?",
            (as_micros(seen.first_seen), as_micros(seen.last_seen), seen.crops, number),
        )
    return number


def _about_list(kind: AlertKind, detail: str) -> dict[str, Any]:
    now = as_micros(datetime.now(UTC))
    return {"kind": kind, "detail": detail, "first_seen": now, "last_seen": now, "crops": 0}


def _write(
    transaction: Transaction,
    gallery_id: int,
    values: Mapping[str, Any],
    picture: Picture | None = None,
) -> NotedVisit:
    """Write an alert with its picture and deliveries; beyond `KEPT_ALERTS` the oldest goes."""
    number = _newest(transaction) + 1
    transaction.insert(RECORD, {"name": NEWEST_ALERT, "value": number}, instead=True)
    now = as_micros(datetime.now(UTC))
    made = {
        "number": number,
        "alert_id": new_crop_id(),
        "gallery_id": gallery_id,
        "state": "open",
        "created_at": now,
    }
    transaction.insert(ALERTS, {**made, **values})
    if picture is not None:
        kept = {"content_type": picture.content_type, "content": picture.content}
        transaction.insert(ALERT_PICTURES, {"number": number, **kept})
    dropped = 0
    if values["kind"] != "late":
        dropped = _deliver(transaction, gallery_id, number, now)
    count = transaction.value("SELECT count(*) FROM alerts")
    removed = 0
    if count > KEPT_ALERTS:
        removed = transaction.change(GIVING_PLACE, (count - KEPT_ALERTS,))
        transaction.removes = True
    transaction.note("alerts")
    (alert,) = _read(transaction, "WHERE number = ?", (number,))
    return NotedVisit(alert, True, dropped, removed)


def _deliver(transaction: Transaction, gallery_id: int, number: int, now: int) -> int:
    """Write a delivery for each webhook of a list; return how many had no place for one."""
    wanting = transaction.execute(
        "SELECT webhook_id, (SELECT count(*) FROM deliveries "
        "WHERE deliveries.webhook_id = webhooks.webhook_id AND state = 'waiting') FROM webhooks "
        "WHERE enabled AND (gallery_id IS NULL OR gallery_id = ?)",
        (gallery_id,),
    )
    waiting = dict(wanting.fetchall())
    full = [webhook_id for webhook_id, count in waiting.items() if count >= WAITING_OF_WEBHOOK]
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
        for webhook_id in waiting.keys() - full
    ]
    transaction.insert(DELIVERIES, *deliveries)
    dropped = f"UPDATE webhooks SET dropped = dropped + 1 WHERE webhook_id IN {AMONG}"
    transaction.change(dropped, (as_json(full),))
    return len(full)


def _read(reader: Reader, rest: str, values: Sequence[Any]) -> list[Alert]:
    rows = reader.rows(ALERTS, rest, values)
    ids = as_json({row["person_id"] for row in rows if row["person_id"] is not None})
    asked = f"SELECT person_id, name FROM people WHERE person_id IN {AMONG}"
    people = dict(reader.execute(asked, (ids,)).fetchall())
    ids = as_json({row["gallery_id"] for row in rows})
    asked = f"SELECT gallery_id, name FROM galleries WHERE gallery_id IN {AMONG}"
    galleries = dict(reader.execute(asked, (ids,)).fetchall())
    asked = f"SELECT number FROM alert_pictures WHERE number IN {AMONG}"
    numbers = as_json(row["number"] for row in rows)
    pictured = {number for (number,) in reader.execute(asked, (numbers,))}
    return [
        _as_alert(row, gallery, people.get(row["person_id"]), row["number"] in pictured)
        for row in rows
        if (gallery := galleries[row["gallery_id"]]) is not None
    ]


def _as_alert(row: sqlite3.Row, gallery: str, identity: str | None, pictured: bool) -> Alert:
    moments = ("first_seen", "last_seen", "reviewed_at", "created_at")
    crop_id = row["crop_id"]
    reference = crop_id and f"/v1/galleries/{gallery}/crops/{crop_id}/image"
    picture = f"/v1/alerts/{row['alert_id']}/image" if pictured else None
    names = {"gallery": gallery, "identity": identity}
    urls = {"image_url": picture, "reference_url": reference}
    values = {**dict(row), **{name: as_moment(row[name]) for name in moments}, **names, **urls}
    return Alert.model_validate(values)
