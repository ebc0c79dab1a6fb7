"""The parts of watch lists in a running service."""

from __future__ import annotations

from service.ops.metrics import Metrics
from service.ops.shared import SharedRedis
from service.record.record import Record
from service.settings import Settings
from service.watch.active import ArmedLists
from service.watch.addresses import PermittedAddresses
from service.watch.camera_contacts import CameraContacts
from service.watch.sender import Sender
from service.watch.stills import Stills
from service.watch.tables.parts import WatchTables
from service.watch.tracks import OpenTracks


class Watch(WatchTables):
    """Watch lists in a process: their tables in the record, and their state in memory.

    Attributes:
        lists: the armed lists; used on the event loop only.
        contacts: requests of cameras to this process; used on the event loop only.
        tracks: open tracks of sightings; used on the event loop only.
        stills: stills of cameras; used on the event loop only.
        sender: delivers messages to webhooks.
    """

    def __init__(
        self,
        record: Record,
        settings: Settings,
        metrics: Metrics,
        shared: SharedRedis | None,
    ) -> None:
        super().__init__(record.database)
        self.lists = ArmedLists(record.galleries.group_secret())
        self.contacts = CameraContacts()
        self.tracks = OpenTracks(metrics)
        is_only_process = settings.processes == 1 and record.database.machine is None
        self.stills = Stills(shared, is_only_process)
        permitted = PermittedAddresses.read(settings.webhook_private, settings.port)
        self.sender = Sender(permitted)

    def close(self) -> None:
        self.tracks.threads.shutdown()
        self.sender.close()
