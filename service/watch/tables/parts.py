"""The tables of watch lists over one record."""

from __future__ import annotations

from collections.abc import Mapping

from service.record.database import Database
from service.record.deleted_rows import DeleteRows, rows_of
from service.watch.tables.alerts import Alerts
from service.watch.tables.cameras import Cameras
from service.watch.tables.lists import Watches
from service.watch.tables.passages import Passages
from service.watch.tables.traffic import ListTraffic
from service.watch.tables.webhooks import Webhooks

DELETED_ROWS: Mapping[str, DeleteRows] = {
    "alert": rows_of("alerts", "alert_id"),
    "webhook": rows_of("webhooks", "webhook_id"),
}


class WatchTables:
    """Lists, their traffic, passages and alerts, webhooks and cameras in a record."""

    def __init__(self, database: Database) -> None:
        self.watches = Watches(database)
        self.traffic = ListTraffic(database)
        self.passages = Passages(database)
        self.alerts = Alerts(database)
        self.webhooks = Webhooks(database)
        self.cameras = Cameras(database)
