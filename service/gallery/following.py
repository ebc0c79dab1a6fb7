"""Galleries in memory, in step with a record that all processes of a machine write."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from service.errors import UnknownGallery
from service.gallery.catch_up import read_changes
from service.gallery.follow import Follower
from service.gallery.gallery import CropsChange, Gallery
from service.gallery.registry import Confirmation, GalleryRegistry
from service.ops.failpoints import failpoint
from service.ops.health import HealthCheck, MonitoredThreadPool
from service.record.records import CropLabel, Enrolment, Relabelling, Removal
from service.tables.feeds import ALL_GALLERIES
from service.tables.transaction import Change

# Writes that wait together are committed together.
WRITE_THREADS = 8


@dataclass(eq=False)
class FollowingGalleries(GalleryRegistry):
    """Shows what any process has committed, in the order of each gallery's feed.

    A write of this process is shown from memory; what another one wrote is read from the record.
    """

    def __post_init__(self) -> None:
        """Hold no gallery yet."""
        super().__post_init__()
        self._writer = MonitoredThreadPool(WRITE_THREADS, "writer")
        self._follower = Follower(self.record.database, self._apply, self._read)
        # Changes that this process has committed and not shown yet, by gallery and version.
        self._committed: dict[tuple[int, int], CropsChange] = {}

    @property
    def health_checks(self) -> list[HealthCheck]:
        """Its threads, for the watchdog."""
        return [*super().health_checks, self._follower.health_check]

    async def find(self, name: str) -> Gallery:
        """As `get`, also one that another process has just created."""
        if name not in self._by_name:
            await self.catch_up()
        return self.get(name)

    async def confirm(self, gallery: Gallery, crops: Sequence[CropLabel], /) -> Confirmation:
        """Ask the record whether crops are still there, where it has changed since it was shown.

        Raises:
            UnknownGallery: the gallery was deleted.
        """
        if not crops or self._follower.is_in_step:
            return Confirmation()
        return await self.read(self._confirm, gallery, [crop.row_id for crop in crops])

    def close(self) -> None:
        """Store the indexes, finish the writes under way, and follow no more."""
        super().close()
        self._follower.close()

    def _load(self) -> None:
        self._follower.start()

    def _caught_up(self) -> Future[Any]:
        feeds = self.record.database.feeds()
        self._follower.wake()
        waits = [self._follower.wait_for(gallery, mark.seq) for gallery, mark in feeds.items()]
        return self._readers.submit(lambda: [future.result() for future in waits] and None)

    def _publish(self, name: str, committed: object, /) -> Future[Any]:
        gallery = self._by_name.get(name)
        if gallery is not None and isinstance(committed, CropsChange):
            self._committed[gallery.gallery_id, committed.version] = committed
        gallery_id = getattr(committed, "gallery_id", None) or self.get(name).gallery_id
        newest = self.record.database.feeds().get(gallery_id)
        if newest is None:
            return self._caught_up()
        self._follower.wake()
        shown = self._follower.wait_for(gallery_id, newest.seq)
        if isinstance(committed, CropsChange):
            known = (gallery_id, committed.version)
            shown.add_done_callback(lambda _: self._committed.pop(known, None))
        return shown

    def _confirm(self, gallery: Gallery, rows: Sequence[int]) -> Confirmation:
        with self.record.database.read():
            present = self.record.crops.by_row(gallery.gallery_id, rows)
            if self.record.galleries.get(gallery.gallery_id) is None:
                raise UnknownGallery(gallery.name)
        return Confirmation(frozenset(rows) - present.keys())

    def _apply(self, gallery_id: int, changes: Sequence[Change]) -> None:
        """Show changes of a gallery; blocks until searches see them."""
        if gallery_id == ALL_GALLERIES:
            return
        gallery = self.by_id(gallery_id)
        if gallery is None:
            raise UnknownGallery(str(gallery_id))
        if any(change.kind == "calibration" for change in changes):
            self.refresh_calibration(gallery)
        own = [self._committed.get((gallery_id, change.version)) for change in changes]
        failpoint("follower.changes-read")
        if all(_is_of(change, made) for change, made in zip(changes, own, strict=True)):
            self.device.change(lambda: [gallery.apply(made) for made in own if made]).result()
        else:
            apply = read_changes(self.record, gallery, changes)
            if apply is None:
                self._read(gallery_id)
            else:
                self.device.change(apply).result()
        failpoint("follower.changes-applied")

    def _read(self, gallery_id: int) -> None:
        """Read a gallery again, or drop one that was deleted; blocks until searches see it."""
        if gallery_id != ALL_GALLERIES:
            self.device.change(self.read_gallery(gallery_id)).result()


def _is_of(change: Change, made: CropsChange | None) -> bool:
    """Return whether a change of the feed is the one that this process made."""
    kinds = {Enrolment: "added", Removal: "removed", Relabelling: "relabelled"}
    return made is not None and kinds[type(made)] == change.kind
