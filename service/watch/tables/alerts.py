"""Alerts of watch lists, from the visit to its review.

An alert, its picture and its deliveries are one commit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import Field
from pydantic_core import from_json, to_json

from gmn_client.models import Alert, AlertKind, AlertState
from model.crops.texts import nfc
from service.errors import InvalidField
from service.record.database import RecordPart, transactional
from service.record.keys import ApiKey
from service.record.schema import now_micros
from service.record.transaction import (
    Reader,
    Transaction,
    all_of,
    settings_of,
    upsert,
)
from service.record.values import Picture, Sender, new_crop_id
from service.watch.tables.armed_lists import ARMED, find_armed, read_lists, watches_camera
from service.watch.tables.camera_reviews import count_change
from service.watch.tables.trials import is_on_trial

KEPT_ALERTS = 100_000
# With the most webhooks of all galleries and of one, 20,000 deliveries wait for them at most.
WAITING_OF_WEBHOOK = 500
# From this number on, alerts about cameras are dropped: the other half is for alerts about people.
WAITING_ABOUT_CAMERAS = WAITING_OF_WEBHOOK // 2
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
        AND last_seen >= :earliest AND first_seen <= :latest
        AND kind IN ('visit', :kind) AND (state != 'rejected' OR alert_id = :own_alert)
    ORDER BY alert_id = :own_alert DESC, last_seen DESC LIMIT 1
) RETURNING number, score
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
    "zone",
    "key_id",
    "track",
    "captured_at",
    "score",
    "score_kind",
    "threshold",
    "probability",
    "needed",
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
# Name of the number of the commit that last changed alerts or deliveries, in the table `record`.
ALERTS_CHANGED = "alerts_changed"
# Name of the newest changes of alerts, in the table `record`: the number of each alert and its
# `AlertUpdate`, as JSON.
UPDATES = "alert_updates"
KEPT_UPDATES = 100
# Plain counts would show a key for one gallery how many alerts others have.
NEXT_NUMBER = upsert(
    "record",
    ("name", "value"),
    "VALUES (?, ?)",
    """value = CASE
        WHEN CAST(excluded.value AS BIGINT) > CAST(record.value AS BIGINT)
            THEN CAST(excluded.value AS BIGINT)
        ELSE CAST(record.value AS BIGINT) + 1
    END""",
)
OF_IDENTITY = "person_id IN (SELECT person_id FROM people WHERE name = ?)"
# Columns beside those of `alerts`, and their tables. A gallery that is being deleted has no name.
OF_ALERTS = """,
name AS gallery,
(SELECT name FROM people WHERE people.person_id = alerts.person_id) AS identity,
alert_pictures.number IS NOT NULL AS has_picture
"""
BESIDE_ALERTS = """
JOIN galleries USING (gallery_id) LEFT JOIN alert_pictures USING (number)
WHERE name IS NOT NULL AND
"""


class AlertUpdate(NamedTuple):
    """The newest change of an alert.

    Attributes:
        commit: its number.
        same_since: score of the first crop that the alert showed of the track that it shows.
    """

    commit: int
    same_since: float | None


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
        zone: the zone in which the person stood at the best crop.
        score: that of the best crop.
        score_kind: identifies the scores that this one is comparable with.
        picture: picture of the best crop, if it is new.
        own_alert: id of the alert that was written for this track and list before.
        own_score: score of the track's crop that this alert showed then.
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
    zone: str | None
    score: float
    score_kind: str
    threshold: float
    probability: float
    needed: float
    cohesion: float | None
    calibration_version: str
    picture: Picture | None
    own_alert: str | None
    own_score: float | None = None

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


class Alerts(RecordPart):
    """Alerts about visits of listed people, and news about lists and cameras."""

    @transactional
    def note_visit(
        self, transaction: Transaction, gallery_id: int, sighted: SightedPerson
    ) -> NotedVisit | None:
        """Extend the visit of a person, or write an alert, its picture and deliveries.

        Processes that note the same visit at the same time write one alert. An open alert shows the
        crop with the highest score.

        Returns:
            None if the list is disarmed, paused or deleted, or its nearest crop was deleted or has
            no name any more.
        """
        watch = find_armed(transaction, gallery_id)
        of_slot = "WHERE gallery_id = ? AND slot = ?"
        crop = transaction.row("crops", of_slot, (gallery_id, sighted.slot))
        if watch is None or watch.paused_at is not None:
            return None
        if crop is None or crop["person_id"] is None:
            return None
        quiet = timedelta(seconds=watch.settings.quiet_seconds)
        values = {
            **vars(sighted),
            "person_id": crop["person_id"],
            "crop_id": crop["crop_id"],
            "trial": is_on_trial(transaction, gallery_id, watch.armed_at, sighted.sender),
            "earliest": sighted.first_seen - quiet,
            "latest": sighted.last_seen + quiet,
            "quiet_scope": watch.settings.quiet_scope,
        }
        extended = transaction.change_returning(EXTEND_VISIT, values)
        if not extended:
            values["follows"] = transaction.value(FORMER_VISIT, values)
            columns = {name: values[name] for name in OF_VISIT}
            return write_alert(transaction, gallery_id, columns, sighted.picture)
        ((number, shown),) = extended
        same_since = shown
        if transaction.change(TAKE_BEST, values | {"number": number}):
            _show_picture(transaction, number, sighted.picture)
            if shown != sighted.own_score:
                # Another track is shown now, and maybe another person.
                same_since = None
        note_update(transaction, number, same_since)
        (alert,) = _read_alerts(transaction, "number = ?", (number,))
        return NotedVisit(alert, is_new=False)

    def newest_number(self) -> int:
        """Return the number of the newest alert, even if it was removed; 0 before the first."""
        statement = "SELECT CAST(value AS BIGINT) FROM record WHERE name = ?"
        return self._reader.value(statement, (NEWEST_ALERT,)) or 0

    def newest_update(self) -> int:
        """Return the number of the commit that last changed an alert; 0 before the first."""
        return max((update.commit for update in _read_updates(self._reader).values()), default=0)

    def updated(self, after: int, gallery_id: int | None = None) -> tuple[int, list[StoredAlert]]:
        """Return the alerts that were changed after a commit, and the number of the newest such.

        Only the newest `KEPT_UPDATES` changes are known.
        """
        updates = _read_updates(self._reader)
        later = {
            number: update.commit for number, update in updates.items() if update.commit > after
        }
        if not later:
            return after, []
        wanted, values = all_of({"gallery_id = ?": gallery_id})
        condition = f"{wanted} AND {self._reader.dialect.among('number')} ORDER BY number"
        return max(later.values()), _read_alerts(self._reader, condition, [*values, list(later)])

    def page(
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

    def get(self, alert_id: str) -> StoredAlert | None:
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
            InvalidField: the alert shows the crop of another track.
        """
        if score is not None:
            _require_same_person(transaction, alert_id, score)
        decided = "SELECT reviewed_by FROM alerts WHERE alert_id = ? AND reviewed_by IS NOT NULL"
        for key_id in transaction.column(decided, (alert_id,)):
            caller.require_own(key_id)
        reviewed = (None, None) if decision == "open" else (caller.key_id, now_micros())
        transaction.change(
            "UPDATE alerts SET state = ?, reviewed_by = ?, reviewed_at = ? WHERE alert_id = ?",
            (decision, *reviewed, alert_id),
        )
        of_alert = "SELECT gallery_id, number, score FROM alerts WHERE alert_id = ?"
        for gallery_id, number, shown in transaction.tuples(of_alert, (alert_id,)):
            count_change(transaction, gallery_id)
            note_update(transaction, number, shown)

    @transactional
    def expire(self, transaction: Transaction, gallery_id: int) -> int:
        """Remove some alerts of a list that are past its retention; return how many."""
        watch = transaction.row("watches", "WHERE gallery_id = ?", (gallery_id,))
        if watch is None:
            return 0
        oldest = now_micros() - watch["settings"]["retention_days"] * MICROS_OF_DAY
        expired = transaction.column(
            "SELECT number FROM alerts WHERE gallery_id = ? AND created_at < ? "
            "ORDER BY number LIMIT ?",
            (gallery_id, oldest, EXPIRED_AT_ONCE),
        )
        delete = f"DELETE FROM alerts WHERE {transaction.dialect.among('number')}"
        return transaction.change(delete, (expired,))


class ChangedAlerts:
    """Finds commits of any process that have changed alerts or their deliveries.

    Args:
        announce: called after such commits.
    """

    def __init__(self, announce: Callable[[], object]) -> None:
        self._announce = announce
        self._newest = 0

    def look(self, reader: Reader) -> None:
        statement = "SELECT CAST(value AS BIGINT) FROM record WHERE name = ?"
        newest = reader.value(statement, (ALERTS_CHANGED,)) or 0
        if newest > self._newest:
            self._announce()
            self._newest = newest


def note_update(transaction: Transaction, number: int, same_since: float | None) -> None:
    """Have every process tell of a changed alert.

    Args:
        same_since: score of the crop that the alert showed before, if that was of the same track;
            None if the alert shows another track now.
    """
    updates = _read_updates(transaction)
    former = updates.pop(number, None)
    if same_since is None:
        score = transaction.value("SELECT score FROM alerts WHERE number = ?", (number,))
    else:
        score = former.same_since if former else same_since
    updates[number] = AlertUpdate(transaction.commit, score)
    newest = list(updates.items())[-KEPT_UPDATES:]
    value = to_json([(number, *update) for number, update in newest]).decode()
    row = {"name": UPDATES, "value": value}
    transaction.insert("record", row, instead=True, is_private=False)
    note_change(transaction)


def _read_updates(reader: Reader) -> dict[int, AlertUpdate]:
    """Return the newest updates by the number of the alert, the newest one last."""
    value = reader.value("SELECT value FROM record WHERE name = ?", (UPDATES,))
    return {number: AlertUpdate(*update) for number, *update in from_json(value or "[]")}


def _require_same_person(reader: Reader, alert_id: str, score: float) -> None:
    """Raise `InvalidField` if an alert no longer shows the track that it showed by a score."""
    of_alert = "SELECT number, score FROM alerts WHERE alert_id = ?"
    for number, shown in reader.tuples(of_alert, (alert_id,)):
        update = _read_updates(reader).get(number)
        same_since = update.same_since if update else None
        # The scores of the crops that an alert shows only grow.
        lowest = shown if same_since is None else same_since
        if shown is None or not lowest <= score <= shown:
            raise InvalidField(
                "score: the alert shows another crop now; read the alert, look at its picture, and "
                "send its new score, or none"
            )


def note_change(transaction: Transaction) -> None:
    """Have every process look for changed alerts and deliveries."""
    changed = {"name": ALERTS_CHANGED, "value": transaction.commit}
    transaction.insert("record", changed, instead=True, is_private=False)


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
        write_alert(transaction, watch.gallery_id, values)
        for watch in read_lists(transaction, ARMED)
        if key.may_see(watch.gallery) and watches_camera(watch.settings, camera)
    ]


def count_alerts(reader: Reader, person_id: int) -> int:
    """Return the number of alerts about a person, which go with the person."""
    return int(reader.value("SELECT count(*) FROM alerts WHERE person_id = ?", (person_id,)))


def count_messages(reader: Reader, person_id: int) -> dict[str, int]:
    """Count the messages about a person that were sent or are due, by the receiver's address."""
    # A message that is due may be under way: its outcome is noted when the receiver has answered.
    counted = reader.tuples(
        "SELECT coalesce(sent_to, url) AS address, count(*) FROM deliveries "
        "JOIN alerts USING (number) LEFT JOIN webhooks USING (webhook_id) "
        "WHERE person_id = ? AND (sent_to IS NOT NULL "
        "OR deliveries.state = 'waiting' AND enabled = 1 AND next_at <= ?) "
        "GROUP BY address ORDER BY address",
        (person_id, now_micros()),
    )
    sent: Counter[str] = Counter()
    for address, messages in counted:
        sent[origin_of(address)] += messages
    return dict(sent)


def origin_of(url: str) -> str:
    """Return the scheme, name and port of a URL, whose path may contain a secret."""
    parsed = urlsplit(url)
    return f"{parsed.scheme}://{parsed.netloc}"


def about_list(kind: AlertKind, detail: str) -> dict[str, Any]:
    now = now_micros()
    return {
        "kind": kind,
        "detail": detail,
        "first_seen": now,
        "last_seen": now,
        "crops": 0,
        "trial": False,
    }


def write_alert(
    transaction: Transaction,
    gallery_id: int,
    values: Mapping[str, Any],
    picture: Picture | None = None,
) -> NotedVisit:
    """Write an alert with its picture and deliveries; remove old ones beyond `KEPT_ALERTS`."""
    now = now_micros()
    ((number,),) = transaction.change_returning(
        f"{NEXT_NUMBER} RETURNING CAST(value AS BIGINT)", (NEWEST_ALERT, now), is_private=False
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
    note_change(transaction)
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
    dropped = transaction.change(full, values, is_private=False)
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
