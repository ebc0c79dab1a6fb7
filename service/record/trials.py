"""Trials of watch lists: one at each camera, until it has shown enough and alerts are reviewed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from gmn_client.models import Trial
from service.record.schema import now_micros
from service.record.transaction import Reader, Row, Transaction

# A trial ends after this many tracks, once its first alerts are reviewed.
TRIAL_TRACKS = 200
REVIEWED_ALERTS = 20
# A trial ends by itself at this time after its list was armed.
LONGEST_TRIAL = timedelta(days=14)
# Upper bound on the cameras of one API key for which a list counts tracks. At further cameras the
# trial lasts its longest time.
MOST_CAMERAS = 100
OF_CAMERA = "gallery_id = :gallery_id AND key_id = :key_id AND camera = :camera"
NO_FEWER_THAN_0 = "CASE WHEN tracks + :tracks > 0 THEN tracks + :tracks ELSE 0 END"
# Alerts of an earlier arming have lower numbers than the time of this one.
RAISED = """
SELECT number FROM trial_alerts WHERE trial_alerts.gallery_id = watch_trials.gallery_id
    AND trial_alerts.key_id = watch_trials.key_id AND trial_alerts.camera = watch_trials.camera
    AND number >= :armed_at ORDER BY number
"""
COUNTS = f""",
(SELECT count(*) FROM ({RAISED}) AS raised) AS alerts,
(SELECT count(*) FROM alerts WHERE state = 'open'
    AND number IN ({RAISED} LIMIT {REVIEWED_ALERTS})) AS unreviewed
"""


@dataclass(frozen=True)
class CameraTrial:
    """The trial of an armed list at one camera of one API key.

    Attributes:
        camera: None stands for all crops without a camera.
        armed_at: time at which the list was armed and the trial began.
    """

    gallery_id: int
    key_id: str
    camera: str | None
    armed_at: datetime

    def is_on(self, reader: Reader) -> bool:
        row = self._read(reader)
        return not self._is_timed_out and (row is None or row["ended_at"] is None)

    def add_tracks(self, transaction: Transaction, tracks: int) -> None:
        """Count ended tracks; fewer than 0 if tracks turned out to be parts of one."""
        self._begin(transaction)
        added = f"UPDATE watch_trials SET tracks = {NO_FEWER_THAN_0} WHERE {OF_CAMERA}"
        transaction.change(added, self._values | {"tracks": tracks})
        self.end_if_passed(transaction)

    def add_alert(self, transaction: Transaction, number: int, is_held: bool) -> None:
        """Mark an alert as raised during the trial.

        Args:
            is_held: its messages wait until it is confirmed.
        """
        self._begin(transaction)
        values = {"number": number, "held": is_held, **self._key}
        transaction.insert("trial_alerts", values)

    def end_if_passed(self, transaction: Transaction) -> None:
        row = self._read(transaction)
        if row is None or row["ended_at"] is not None or self._is_timed_out:
            return
        if row["tracks"] >= TRIAL_TRACKS and row["unreviewed"] == 0:
            ended = f"UPDATE watch_trials SET ended_at = :now WHERE {OF_CAMERA}"
            transaction.change(ended, self._values | {"now": now_micros()})

    @property
    def _is_timed_out(self) -> bool:
        return datetime.now(UTC) >= self.armed_at + LONGEST_TRIAL

    @property
    def _key(self) -> dict[str, int | str]:
        return {
            "gallery_id": self.gallery_id,
            "key_id": self.key_id,
            "camera": self.camera or "",
        }

    @property
    def _values(self) -> dict[str, object]:
        return {**self._key, "armed_at": self.armed_at}

    def _read(self, reader: Reader) -> Row | None:
        rows = reader.rows("watch_trials", f"WHERE {OF_CAMERA}", self._values, COUNTS)
        return next(iter(rows), None)

    def _begin(self, transaction: Transaction) -> None:
        transaction.change(
            "INSERT INTO watch_trials (gallery_id, key_id, camera, tracks) "
            "SELECT :gallery_id, :key_id, :camera, 0 WHERE (SELECT count(*) FROM watch_trials "
            "WHERE gallery_id = :gallery_id AND key_id = :key_id) < :most ON CONFLICT DO NOTHING",
            self._values | {"most": MOST_CAMERAS},
        )


def read_trials(reader: Reader, gallery_id: int, armed_at: datetime) -> list[Trial]:
    """Return the trials of an armed list at the cameras that it has heard of, by name."""
    rows = reader.rows(
        "watch_trials",
        "WHERE gallery_id = :gallery_id ORDER BY camera, key_id",
        {"gallery_id": gallery_id, "armed_at": armed_at},
        COUNTS,
    )
    return [_as_trial(row, armed_at + LONGEST_TRIAL) for row in rows]


def end_holding(transaction: Transaction, number: int) -> bool:
    """Return True if the messages of an alert were held, which they are no longer."""
    released = "UPDATE trial_alerts SET held = 0 WHERE number = ? AND held = 1"
    return bool(transaction.change(released, (number,)))


def _as_trial(row: Row, latest: datetime) -> Trial:
    ended_at = row["ended_at"]
    timed_out = ended_at is None and latest <= datetime.now(UTC)
    return Trial(
        key_id=row["key_id"],
        camera=row["camera"] or None,
        tracks=row["tracks"],
        tracks_needed=TRIAL_TRACKS,
        alerts=row["alerts"],
        unreviewed=row["unreviewed"],
        ended_at=latest if timed_out else ended_at,
        timed_out=timed_out,
    )
