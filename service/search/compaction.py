"""Compaction: indexes are rewritten while they serve.

A rewrite is planned on the device thread, built on a thread of its own, and replaced on the device
thread. A plan stays readable meanwhile: rows are appended and vectors erased in place, never moved,
so that building works on the live table.
"""

from __future__ import annotations

import asyncio
import logging
import time

from service.ops.failpoints import failpoint
from service.runtime import Runtime
from service.search.index import GalleryIndex

log = logging.getLogger(__name__)
LOOK_EVERY_SECONDS = 2.0
# After a failure: trying again at once would cost more than a compaction gains.
REST_SECONDS = 300.0


async def compact_indexes(runtime: Runtime) -> None:
    """Rewrites indexes that need it, one at a time, until it is cancelled.

    A failure leaves an index as it is, masked and right.
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
    threads = runtime.pools.compaction
    device = runtime.model.networks.device
    plan = await runtime.device.run(index.compaction, device if device != "cpu" else None)
    if plan is None:
        return
    failpoint("compaction.planned")
    try:
        await threads.run(plan.build)
        failpoint("compaction.built")
        await runtime.device.run(index.replace, plan)
        failpoint("compaction.adopted")
    finally:
        plan.stopped = True
