"""Watch lists that are or were armed, as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from gmn_client.models import Forecast, Watch, WatchSettings
from service.record.transaction import Reader

ARMED = "disarmed_at IS NULL"
# Columns beside those of `watches`, and their tables. A gallery that is being deleted has no name.
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


class ArmedList(Watch):
    """The stored state of a list that is or was armed.

    Attributes:
        outdated: the gallery was reindexed since the list was armed.
        tracks: number of tracks in the stored traffic.
        review_changes: how often its reviews have changed.
        kept_silent: number of tracks that were kept silent since it was armed.
    """

    gallery_id: int
    settings: WatchSettings
    armed_at: datetime
    promised: Forecast
    outdated: bool
    tracks: int
    review_changes: int
    kept_silent: int


def read_lists(reader: Reader, condition: str, values: Sequence[Any] = ()) -> list[ArmedList]:
    rows = reader.rows("watches", f"{BESIDE_WATCHES} {condition}", values, OF_WATCHES)
    # Only a process that holds the list knows its current forecast.
    return [ArmedList.model_validate(row | {"forecast": None}) for row in rows]


def find_armed(reader: Reader, gallery_id: int) -> ArmedList | None:
    watches = read_lists(reader, f"gallery_id = ? AND {ARMED}", (gallery_id,))
    now = datetime.now(UTC)
    return next((watch for watch in watches if watch.settings.expires_at > now), None)


def watches_camera(settings: WatchSettings, camera: str | None) -> bool:
    return not settings.cameras or camera in settings.cameras
