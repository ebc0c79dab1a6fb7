"""Watch lists: arm and disarm them, and read their state."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from gmn_client.models import Forecast, WatchSettings
from service.errors import InvalidField
from service.record.database import RecordPart, transactional
from service.record.galleries import require_entry
from service.record.schema import now_micros
from service.record.transaction import Transaction
from service.record.values import Sender
from service.watch.tables.alerts import (
    MICROS_OF_DAY,
    NEWEST_ALERT,
    NEXT_NUMBER,
    NotedVisit,
    about_list,
    write_alert,
)
from service.watch.tables.armed_lists import ARMED, ArmedList, find_armed, read_lists
from service.watch.tables.camera_reviews import CameraReviews, ignore_reviews, read_reviews
from service.watch.tables.passages import remove_passages
from service.watch.tables.trials import LONGEST_TRIAL, read_trials

MOST_ARMED = 100
NOT_ARMED = "gallery: is not armed as a watch list; arm it first"


class Watches(RecordPart):
    """Galleries as watch lists."""

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
        _leave_out_pause(transaction, gallery_id, now)
        if not settings.explain_passages:
            remove_passages(transaction, gallery_id)
        armed = {
            "gallery_id": gallery_id,
            "settings": settings.model_dump_json(),
            "forecast": forecast.model_dump_json(),
            "embedder": embedder,
            "armed_at": now,
            "key_id": key_id,
            "disarmed_at": None,
            "paused_at": None,
            "why": None,
            "kept_silent": 0,
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
        return write_alert(transaction, gallery_id, about_list("disarmed", why))

    @transactional
    def pause(self, transaction: Transaction, gallery_id: int, is_paused: bool) -> None:
        """Compare an armed list with nothing from now on, or resume it.

        Raises:
            InvalidField: the list is not armed.
        """
        if find_armed(transaction, gallery_id) is None:
            raise InvalidField(NOT_ARMED)
        if is_paused:
            paused = "UPDATE watches SET paused_at = coalesce(paused_at, ?) WHERE gallery_id = ?"
            transaction.change(paused, (now_micros(), gallery_id), is_private=False)
            return
        _leave_out_pause(transaction, gallery_id, now_micros())
        resumed = "UPDATE watches SET paused_at = NULL WHERE gallery_id = ?"
        transaction.change(resumed, (gallery_id,), is_private=False)

    @transactional
    def warn(self, transaction: Transaction, gallery_id: int, detail: str) -> NotedVisit | None:
        """Write an alert that an armed list breaks its promise, at most once a day for each topic.

        Args:
            detail: topic of the warning, which has no % or _, a colon and the rest.
        """
        topic = detail.partition(":")[0]
        watch = find_armed(transaction, gallery_id)
        earlier = (
            "SELECT 1 FROM alerts WHERE gallery_id = ? AND kind = 'promise_broken' "
            "AND number >= ? AND created_at > ? AND detail LIKE ?"
        )
        since = now_micros() - MICROS_OF_DAY
        told = (gallery_id, watch and watch.armed_at, since, f"{topic}:%")
        if watch is None or transaction.value(earlier, told):
            return None
        return write_alert(transaction, gallery_id, about_list("promise_broken", detail))

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
            for watch in read_lists(reader, "gallery_id = ?", (gallery_id,)):
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
        return read_lists(self._reader, f"{ARMED} ORDER BY gallery_id")

    def reviews_by_camera(
        self, gallery_id: int, armed_at: datetime, score_kind: str
    ) -> dict[Sender, CameraReviews]:
        """Return the reviews of the alerts that a list raised since it was armed, by camera.

        Args:
            score_kind: identifies comparable scores.
        """
        return read_reviews(self._reader, gallery_id, armed_at, score_kind)

    @transactional
    def ignore_reviews(
        self, transaction: Transaction, gallery_id: int, sender: Sender, are_ignored: bool
    ) -> None:
        """Let the reviews of a camera move no threshold until the list is armed again, or let them.

        Raises:
            InvalidField: the list is not armed.
        """
        if find_armed(transaction, gallery_id) is None:
            raise InvalidField(NOT_ARMED)
        ignore_reviews(transaction, gallery_id, sender, are_ignored)


def _leave_out_pause(transaction: Transaction, gallery_id: int, now: int) -> None:
    """Leave out the time until now in which the list was paused or disarmed, and nothing counted.

    Traffic a day is counted over the rest.
    """
    for table in ("watch_traffic", "camera_traffic"):
        transaction.change(
            f"UPDATE {table} SET since = since + ? - coalesce(paused_at, disarmed_at) FROM watches "
            f"WHERE {table}.gallery_id = ? AND watches.gallery_id = {table}.gallery_id "
            "AND coalesce(paused_at, disarmed_at) IS NOT NULL",
            (now, gallery_id),
            is_private=False,
        )


def stop_watching(transaction: Transaction) -> None:
    """Disarm every list and give up waiting deliveries, after a restore of the record."""
    why = "the record was restored"
    disarmed = f"UPDATE watches SET disarmed_at = ?, why = ? WHERE {ARMED}"
    transaction.change(disarmed, (now_micros(), why))
    given_up = "UPDATE deliveries SET state = 'dead', error = ? WHERE state = 'waiting'"
    transaction.change(given_up, (why,))
