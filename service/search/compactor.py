"""Keeps indexes in shape while they serve: plans on the device thread, builds on one of its own."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from service.engine.device import DeviceThread
from service.errors import DeviceLost, ServiceStopping
from service.ops.failpoints import failpoint
from service.ops.health import HealthCheck, Heartbeat
from service.search.compaction import BuiltCompaction, CompactionPlan, CompactionStopped
from service.search.device_rows import DeviceRows
from service.search.index import GalleryIndex

log = logging.getLogger(__name__)
# After a failure: trying again with every write would cost more than it mends.
REST_SECONDS = 300.0
CLOSING_SECONDS = 5.0
# Training a segment is one step, and takes minutes where a gallery is large.
TIMEOUT_FACTOR = 30.0


class Compactor:
    """One compaction at a time; whatever fails leaves an index as it is, masked and right."""

    def __init__(
        self, device: DeviceThread, device_rows: Callable[[int], DeviceRows] | None = None
    ) -> None:
        """Starts nothing yet.

        Args:
            device: the thread that owns the indexes.
            device_rows: makes room on the networks' device for vectors of a dimension; None
                leaves them in the host's memory alone.
        """
        self._device = device
        self._device_rows = device_rows
        self._waiting: dict[GalleryIndex, None] = {}
        self._building: threading.Thread | None = None
        self._resting_until = 0.0
        self._closing = threading.Event()
        self._heartbeat = Heartbeat()

    @property
    def health_check(self) -> HealthCheck:
        """Of its thread, from the beginning of a compaction until it is adopted."""
        silent = self._heartbeat.silent_seconds
        return HealthCheck("compactor", silent, timeout_factor=TIMEOUT_FACTOR)

    def consider(self, index: GalleryIndex) -> None:
        """Does for an index what its last change calls for; on the device thread, and quick."""
        if self._closing.is_set() or time.monotonic() < self._resting_until:
            return
        try:
            if self._device_rows and not index.on_device:
                self._attach(index, self._device_rows)
            self._waiting[index] = None
            self._begin_next()
        except Exception:
            # The change that called for this is committed and shown: it must not look failed.
            log.exception("an index could not be looked after; it stays as it is")
            self._rest()

    def close(self) -> None:
        """Gives up what is being built; waits a little for it, and no longer.

        Training cannot be interrupted. Its thread touches nothing that is closed, its outcome is
        refused, and it does not keep the process alive.
        """
        self._closing.set()
        building = self._building
        if building:
            building.join(CLOSING_SECONDS)

    def _attach(self, index: GalleryIndex, device_rows: Callable[[int], DeviceRows]) -> None:
        try:
            index.attach(device_rows(index.dimension))
        except MemoryError:
            log.exception("the device is too small for a gallery; it is searched on the host")
            self._rest()

    def _begin_next(self) -> None:
        while self._building is None and self._waiting:
            index = next(iter(self._waiting))
            del self._waiting[index]
            plan = index.compaction()
            if plan is not None:
                failpoint("compaction.planned")
                self._building = threading.Thread(
                    target=self._build, args=(index, plan), name="compactor", daemon=True
                )
                self._heartbeat.start()
                self._building.start()

    def _build(self, index: GalleryIndex, plan: CompactionPlan) -> None:
        built: BuiltCompaction | None = None
        try:
            built = plan.build(self._asked_between)
            failpoint("compaction.built")
        except CompactionStopped:
            return
        except MemoryError:
            log.exception("too little memory to compact an index; it stays as it is")
        except Exception:
            log.exception("an index could not be compacted; it stays as it is")
        with contextlib.suppress(ServiceStopping, DeviceLost):
            self._device.submit(lambda: self._finish(index, built))

    def _asked_between(self) -> bool:
        self._heartbeat.beat()
        return self._closing.is_set()

    def _finish(self, index: GalleryIndex, built: BuiltCompaction | None) -> None:
        self._building = None
        self._heartbeat.stop()
        if self._closing.is_set():
            return
        if built is not None and index.adopt(built):
            failpoint("compaction.adopted")
            self._waiting[index] = None
            self._begin_next()
        else:
            self._rest()

    def _rest(self) -> None:
        self._resting_until = time.monotonic() + REST_SECONDS
        self._waiting.clear()
