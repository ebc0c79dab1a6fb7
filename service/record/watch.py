"""Watch lists and their alerts: a visit, its picture and its deliveries are one commit."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from gmn_client.models import Alert, AlertKind, AlertState, Forecast, Watch, WatchSettings
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
    now_micros,
)
from service.record.transaction import AMONG, Reader, Transaction, as_json
from service.record.values import Picture, new_crop_id

MOST_ARMED = 100
KEPT_ALERTS = 100_000
# With as many webhooks as there may be, 10,000 deliveries wait at most.
WAITING_OF_WEBHOOK = 500
# A stored histogram of traffic has one such number a bin.
COUNTS = np.dtype("<i8")
EXPIRED_AT_ONCE = 1000
MICROS_OF_DAY = 86_400_000_000
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


class ArmedList(Watch):
    """A list that is, or was, armed, without what this process alone knows of it.

    Attributes:
        outdated: it was restored, or embedded anew, since it was armed.
        tracks: that were counted of its traffic.
    """

    gallery_id: int
    settings: WatchSettings
    armed_at: datetime
    promised: Forecast
    outdated: bool
    tracks: int


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
        now = now_micros()
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
        now = now_micros()
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
        """Return a list with its alarms, also one that is disarmed; None if it never was armed."""
        counted = (
            "SELECT count(*) AS alerts, total(state = 'confirmed') AS confirmed, "
            "total(state = 'rejected') AS rejected FROM alerts "
            "WHERE gallery_id = ? AND kind = 'visit' AND created_at >= ?"
        )
        with self._database.read() as reader:
            for watch in _read_lists(reader, "WHERE gallery_id = ?", (gallery_id,)):
                values = (gallery_id, as_micros(watch.armed_at))
                alerts, confirmed, rejected = reader.execute(counted, values)[0]
                days = ((watch.disarmed_at or datetime.now(UTC)) - watch.armed_at) / timedelta(1)
                reviewed = confirmed + rejected
                return watch.model_copy(
                    update={
                        "alerts": alerts,
                        "confirmed": int(confirmed),
                        "rejected": int(rejected),
                        "days": days,
                        "false_alarms": alerts / days * rejected / reviewed if reviewed else None,
                    }
                )
        return None

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
            counts = [sum(both) for both in zip(counts, _counts_of(row), strict=True)]
        values = {
            "gallery_id": gallery_id,
            "subject": subject,
            "histogram": np.array(counts, COUNTS).tobytes(),
            "tracks": sum(counts),
            "since": row["since"] if row else now_micros(),
        }
        transaction.insert(WATCH_TRAFFIC, values, instead=True)

    def traffic(self, gallery_id: int, subject: str) -> tuple[list[int], datetime] | None:
        """Return the counts of a list's histogram, and since when they were counted.

        Returns:
            None where there are none of this subject.
        """
        row = self._reader.row(WATCH_TRAFFIC, OF_SUBJECT, (gallery_id, subject))
        return (_counts_of(row), as_moment(row["since"])) if row else None

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
        crop = next(iter(transaction.execute(asked, (gallery_id, seen.row_id))), None)
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
        columns = [name for name in ALERTS.columns if hasattr(seen, name)]
        values = {name: getattr(seen, name) for name in columns}
        values |= {
            "person_id": crop["person_id"],
            "first_seen": as_micros(seen.first_seen),
            "last_seen": as_micros(seen.last_seen),
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
        at = None if is_open else now_micros()
        transaction.change(
            "UPDATE alerts SET state = ?, reviewed_by = ?, reviewed_at = ? WHERE alert_id = ?",
            (decision, by, at, alert_id),
        )
        return next(iter(_read(transaction, "WHERE alert_id = ?", (alert_id,))), None)

    @transactional
    def expire(self, transaction: Transaction, gallery_id: int) -> int:
        """Remove some alerts of a list that are older than its days; return how many."""
        oldest = "SELECT ? - json_extract(settings, '$.retention_days') * ? FROM watches"
        removed = transaction.change(
            "DELETE FROM alerts WHERE number IN (SELECT number FROM alerts WHERE gallery_id = ? "
            f"AND created_at < ({oldest} WHERE watches.gallery_id = alerts.gallery_id) "
            "ORDER BY number LIMIT ?)",
            (gallery_id, now_micros(), MICROS_OF_DAY, EXPIRED_AT_ONCE),
        )
        transaction.removes = removed > 0
        return removed


def stop_watching(transaction: Transaction) -> None:
    """Disarm every list, and send nothing that waits: the record is one of before."""
    why = "the record was restored"
    now = now_micros()
    disarmed = f"UPDATE watches SET disarmed_at = ?, why = ? WHERE {ARMED}"
    transaction.change(disarmed, (now, why))
    given_up = "UPDATE deliveries SET state = 'dead', error = ? WHERE state = 'waiting'"
    transaction.change(given_up, (why,))


def forget_alerts(transaction: Transaction, person_id: int) -> tuple[int, dict[str, int]]:
    """Remove the alerts about a person, with pictures and deliveries.

    Returns:
        How many, and how many messages about them were sent to each address.
    """
    sent = transaction.tuples(
        "SELECT sent_to, count(*) FROM deliveries JOIN alerts USING (number) "
        "WHERE person_id = ? AND sent_to IS NOT NULL GROUP BY sent_to ORDER BY sent_to",
        (person_id,),
    )
    sent_to: dict[str, int] = dict(sent)
    transaction.removes = True
    removed = transaction.change("DELETE FROM alerts WHERE person_id = ?", (person_id,))
    return removed, sent_to


def _armed(reader: Reader, gallery_id: int) -> ArmedList | None:
    """Return a list that is armed and not expired; None where it is not."""
    require_entry(reader, gallery_id)
    watches = _read_lists(reader, f"WHERE gallery_id = ? AND {ARMED}", (gallery_id,))
    now = datetime.now(UTC)
    return next((watch for watch in watches if watch.settings.expires_at > now), None)


def _counts_of(row: sqlite3.Row) -> list[int]:
    counts: list[int] = np.frombuffer(row["histogram"], COUNTS).tolist()
    return counts


def _read_lists(reader: Reader, rest: str, values: Sequence[Any] = ()) -> list[ArmedList]:
    rows = reader.rows(WATCHES, rest, values)
    found = reader.execute(
        "SELECT gallery_id, name, embedder, restores, coalesce(tracks, 0) FROM galleries "
        "LEFT JOIN watch_traffic USING (gallery_id) "
        f"WHERE name IS NOT NULL AND gallery_id IN {AMONG}",
        (as_json(row["gallery_id"] for row in rows),),
    )
    galleries = {gallery_id: about for gallery_id, *about in found}
    lists = []
    for row in rows:
        if row["gallery_id"] in galleries:
            name, *vectors, tracks = galleries[row["gallery_id"]]
            watch = ArmedList(
                gallery_id=row["gallery_id"],
                gallery=name,
                state="armed" if row["disarmed_at"] is None else "disarmed",
                settings=WatchSettings.model_validate_json(row["settings"]),
                promised=Forecast.model_validate_json(row["forecast"]),
                armed_at=as_moment(row["armed_at"]),
                key_id=row["key_id"],
                disarmed_at=as_moment(row["disarmed_at"]),
                why=row["why"],
                outdated=vectors != [row["embedder"], row["restores"]],
                tracks=tracks,
            )
            lists.append(watch)
    return lists


def _newest(reader: Reader) -> int:
    row = reader.row(RECORD, "WHERE name = ?", (NEWEST_ALERT,))
    return row["value"] if row else 0


def _extend(
    transaction: Transaction, person_id: int, seen: VisitSeen, quiet_seconds: int
) -> int | None:
    """Extend the visit that these crops go on with; return its number, or None for a new one."""
    quiet = quiet_seconds * 1_000_000
    # A crop that comes late may go on with a visit, and never becomes one.
    number: int | None = transaction.value(
        "SELECT number FROM alerts WHERE person_id = ? AND last_seen >= ? AND first_seen <= ? "
        "AND camera IS ? AND kind IN ('visit', ?) ORDER BY last_seen DESC LIMIT 1",
        (
            person_id,
            as_micros(seen.first_seen) - quiet,
            as_micros(seen.last_seen) + quiet,
            seen.camera,
            seen.kind,
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
    now = now_micros()
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
    now = now_micros()
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
    webhooks = transaction.execute(
        "SELECT webhook_id, (SELECT count(*) FROM deliveries "
        "WHERE deliveries.webhook_id = webhooks.webhook_id AND state = 'waiting') FROM webhooks "
        "WHERE enabled AND (gallery_id IS NULL OR gallery_id = ?)",
        (gallery_id,),
    )
    dropped = 0
    for webhook_id, waiting in webhooks:
        if waiting >= WAITING_OF_WEBHOOK:
            full = "UPDATE webhooks SET dropped = dropped + 1 WHERE webhook_id = ?"
            dropped += transaction.change(full, (webhook_id,))
            continue
        delivery = {
            "delivery_id": new_crop_id(),
            "webhook_id": webhook_id,
            "number": number,
            "state": "waiting",
            "attempts": 0,
            "next_at": now,
            "created_at": now,
        }
        transaction.insert(DELIVERIES, delivery)
    return dropped


def _read(reader: Reader, rest: str, values: Sequence[Any]) -> list[Alert]:
    rows = reader.rows(ALERTS, rest, values)
    found = reader.execute(
        "SELECT number, galleries.name AS gallery, people.name AS identity, "
        "alert_pictures.number IS NOT NULL AS pictured FROM alerts "
        "JOIN galleries ON galleries.gallery_id = alerts.gallery_id "
        "LEFT JOIN people USING (person_id) LEFT JOIN alert_pictures USING (number) "
        f"WHERE galleries.name IS NOT NULL AND number IN {AMONG}",
        (as_json(row["number"] for row in rows),),
    )
    about = {row["number"]: row for row in found}
    return [_as_alert(row, about[row["number"]]) for row in rows if row["number"] in about]


def _as_alert(row: sqlite3.Row, about: sqlite3.Row) -> Alert:
    url = f"/v1/alerts/{row['alert_id']}/image"
    crop = row["crop_id"] and f"/v1/galleries/{about['gallery']}/crops/{row['crop_id']}/image"
    moments = ("first_seen", "last_seen", "reviewed_at", "created_at")
    return Alert.model_validate(
        {
            **row,
            **about,
            **{name: as_moment(row[name]) for name in moments},
            "image_url": url if about["pictured"] else None,
            "reference_url": crop,
        }
    )
