"""Versions: wait until a gallery shows what a write has answered."""

from __future__ import annotations

import asyncio
import time

from service.errors import VersionNotReached
from service.runtime import Runtime

PATIENCE_SECONDS = 2.0
LOOK_EVERY_SECONDS = 0.01
RETRY_AFTER_SECONDS = 1


async def wait_for_version(runtime: Runtime, gallery: str, version: int) -> None:
    """Returns once a gallery shows a version or a later one.

    Raises:
        UnknownGallery: there is none of that name.
        VersionNotReached: where it does not come within two seconds.
    """
    until = time.monotonic() + PATIENCE_SECONDS
    while (shown := runtime.galleries.get(gallery).version) < version:
        if time.monotonic() >= until:
            raise VersionNotReached(gallery, shown, version, RETRY_AFTER_SECONDS)
        await asyncio.sleep(LOOK_EVERY_SECONDS)
