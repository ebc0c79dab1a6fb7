"""Compaction: an index is rewritten while it serves.

It is planned on the device thread, built on a thread of its own, and replaced on the device thread.
A plan stays readable meanwhile: rows are appended and zeroed in place, never moved, so that
building works on the live table and `GalleryIndex.replace` applies what was removed, added or
relabelled meanwhile. While a table is rewritten there are two of it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from service.engine.device import DeviceThread
from service.errors import DeviceFull, DeviceLost, ServiceStopping
from service.ops.failpoints import failpoint
from service.ops.health import HealthCheck, Heartbeat
from service.search.gpu import DeviceVectors
from service.search.ivf import IvfSegment
from service.search.table import RowTable

log = logging.getLogger(__name__)
# After a failure: trying again with every write would cost more than a compaction gains.
REST_SECONDS = 300.0
CLOSING_SECONDS = 5.0
# Training a segment is one step, and takes minutes where a gallery is large.
TIMEOUT_FACTOR = 30.0


class CompactionStopped(Exception):
    """The service is closing."""


@dataclass
class Compaction:
    """What to rewrite of an index, and once it is built the outcome.

    Attributes:
        table: the index's own, read without being changed.
        size: the number of its rows.
        rows: the valid ones, ascending.
        rewrite: whether to make a table without the deleted ones.
        train: whether to train a segment.
        generation: of the index that planned; a later one refuses the outcome.
        rewritten, trained: the outcome.
    """

    table: RowTable
    size: int
    rows: NDArray[np.int64]
    rewrite: bool
    train: bool
    generation: int
    rewritten: RowTable | None = None
    trained: IvfSegment | None = None

    def build(self, between: Callable[[], None] = lambda: None) -> Compaction:
        """Does the work; on any thread.

        Args:
            between: called between the steps; an error of it ends this.

        Raises:
            MemoryError: nothing has changed.
        """
        table, size, rows = self.table, self.size, self.rows
        if self.rewrite:
            table = self.rewritten = table.rewritten(rows, between)
            size, rows = table.size, np.arange(table.size)
        if self.train:
            self.trained = IvfSegment.train(table, size, rows, between)
        return self


class CompactedIndex(Protocol):
    """An index whose table can be rewritten; it lives on the device thread."""

    dimension: int

    @property
    def on_device(self) -> bool:
        """Whether a copy of its vectors is on the device."""

    def move_to_device(self, device: DeviceVectors) -> None:
        """Copies its vectors to a device; raises `DeviceFull`."""

    def compaction(self) -> Compaction | None:
        """What to rewrite; None for nothing."""

    def replace(self, built: Compaction) -> bool:
        """Adopts what was built; False where it cannot."""


class Compactor:
    """Runs one compaction at a time; a failure leaves an index as it is, masked and right."""

    def __init__(
        self, device: DeviceThread, device_vectors: Callable[[int], DeviceVectors] | None = None
    ) -> None:
        """Compacts indexes of a device thread; `device_vectors` copies theirs to a GPU."""
        self._device = device
        self._device_vectors = device_vectors
        self._waiting: dict[CompactedIndex, None] = {}
        self._building: threading.Thread | None = None
        self._resting_until = 0.0
        self._closing = threading.Event()
        self._heartbeat = Heartbeat()

    @property
    def health_check(self) -> HealthCheck:
        """Of its thread, from the beginning of a compaction until it is adopted."""
        silent = self._heartbeat.silent_seconds
        return HealthCheck("compactor", silent, timeout_factor=TIMEOUT_FACTOR)

    def schedule_if_needed(self, index: CompactedIndex) -> None:
        """Does for an index what its last change calls for; on the device thread, and quick."""
        if self._closing.is_set() or time.monotonic() < self._resting_until:
            return
        try:
            if self._device_vectors and not index.on_device:
                index.move_to_device(self._device_vectors(index.dimension))
            self._waiting[index] = None
            self._begin_next()
        except DeviceFull:
            log.exception("the device is too small for a gallery; it is searched on the host")
            self._rest()
        except Exception:
            # The change that called for this is committed and shown: it must not look failed.
            log.exception("an index could not be compacted; it stays as it is")
            self._rest()

    def close(self) -> None:
        """Gives up what is being built; waits a little for it, and no longer.

        Training cannot be interrupted. Its thread touches nothing that is closed, its outcome is
        refused, and it does not keep the process alive.
        """
        self._closing.set()
        if self._building:
            self._building.join(CLOSING_SECONDS)

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
                self._heartbeat.beat()
                self._building.start()

    def _build(self, index: CompactedIndex, plan: Compaction) -> None:
        built: Compaction | None = None
        try:
            built = plan.build(self._between)
            failpoint("compaction.built")
        except CompactionStopped:
            return
        except MemoryError:
            log.exception("too little memory to compact an index; it stays as it is")
        except Exception:
            log.exception("an index could not be compacted; it stays as it is")
        with contextlib.suppress(ServiceStopping, DeviceLost):
            self._device.submit(partial(self._finish, index, built))

    def _between(self) -> None:
        self._heartbeat.beat()
        if self._closing.is_set():
            raise CompactionStopped

    def _finish(self, index: CompactedIndex, built: Compaction | None) -> None:
        self._building = None
        self._heartbeat.stop()
        if self._closing.is_set():
            return
        if built is not None and index.replace(built):
            failpoint("compaction.adopted")
            self._waiting[index] = None
            self._begin_next()
        else:
            self._rest()

    def _rest(self) -> None:
        self._resting_until = time.monotonic() + REST_SECONDS
        self._waiting.clear()
