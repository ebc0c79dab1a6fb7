"""Compaction: replacing the segments of indexes by new ones without deleted crops, while serving.

A segment is planned on the device thread, built on a separate thread, and adopted on the device
thread. The columns stay readable: crops are appended and vectors erased in place, never moved.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import CancelledError

from service.engine.device import retry_out_of_memory
from service.ops.health import heartbeat
from service.runtime import Runtime
from service.search.index import GalleryIndex

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 2.0
# Pause after a failure: retrying at once would cost more than a new segment gains.
REST_SECONDS = 300.0


async def compact_indexes(runtime: Runtime) -> None:
    """Rebuild the segments of indexes that need it, one at a time, until cancelled.

    After a failure an index keeps its masked segment and stays correct.
    """
    rests_until: dict[int, float] = {}
    while True:
        for gallery in runtime.galleries.all():
            if time.monotonic() < rests_until.get(gallery.gallery_id, 0.0):
                continue
            try:
                if gallery.own_index:
                    await _compact(runtime, gallery.own_index)
            except Exception:
                log.exception("gallery %s: its index stays as it is", gallery.name)
                rests_until[gallery.gallery_id] = time.monotonic() + REST_SECONDS
        await asyncio.sleep(LOOK_EVERY_SECONDS)


async def _compact(runtime: Runtime, index: GalleryIndex) -> None:
    device = runtime.model.networks.device
    make = await runtime.device.run(index.next_segment, device if device != "cpu" else None)
    if make is None:
        return
    stopped = threading.Event()

    def between() -> None:
        heartbeat()
        if stopped.is_set():
            raise CancelledError

    try:
        segment = await runtime.pools.compaction.run(retry_out_of_memory, make, between)
        await runtime.device.run(index.adopt, segment)
    finally:
        stopped.set()
