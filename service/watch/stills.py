"""Stills: single frames of cameras that administrators ask for, held in memory for ten minutes."""

from __future__ import annotations

import asyncio

from service.errors import NeedsRedis, RedisAway
from service.ops.shared import SharedRedis

KEPT_SECONDS = 600
# Upper bounds on a still, and on those that one process holds.
MAX_STILL_BYTES = 256 * 1024
MOST_STILLS = 64
HELD = "stills of cameras"


class Stills:
    """The stills of cameras; used on the event loop only.

    They are in Redis for all processes, or without Redis in this process if it is the only one.
    """

    def __init__(self, shared: SharedRedis | None, is_only_process: bool) -> None:
        self._shared = shared
        self._is_only_process = is_only_process
        # By key and camera, the oldest first, each with the timer that drops it.
        self._held: dict[tuple[str, str], tuple[bytes, asyncio.TimerHandle]] = {}

    async def hold(self, key_id: str, camera: str, jpeg: bytes) -> None:
        """Hold a still in place of the camera's former one.

        Raises:
            NeedsRedis: no place for it is configured.
            RedisAway: Redis does not answer.
        """
        self._require_place()
        if self._shared is not None:
            if not await self._shared.hold(_name_of(key_id, camera), jpeg, KEPT_SECONDS):
                raise RedisAway(HELD)
            return
        self._drop((key_id, camera))
        if len(self._held) == MOST_STILLS:
            self._drop(next(iter(self._held)))
        timer = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._drop, (key_id, camera))
        self._held[key_id, camera] = (jpeg, timer)

    async def read(self, key_id: str, camera: str) -> bytes | None:
        """Return the still of a camera; None if there is none.

        Raises:
            NeedsRedis: no place for it is configured.
            RedisAway: Redis does not answer.
        """
        self._require_place()
        if self._shared is not None:
            still = await self._shared.read(_name_of(key_id, camera))
            if still is None and not self._shared.is_up:
                raise RedisAway(HELD)
            return still
        jpeg, _ = self._held.get((key_id, camera), (None, None))
        return jpeg

    async def drop(self, key_id: str, camera: str) -> None:
        """Drop the still of a camera, if there is one.

        Raises:
            NeedsRedis: no place for stills is configured.
            RedisAway: Redis does not answer.
        """
        self._require_place()
        if self._shared is None:
            self._drop((key_id, camera))
        elif not await self._shared.drop(_name_of(key_id, camera)):
            raise RedisAway(HELD)

    def _require_place(self) -> None:
        """Raise `NeedsRedis` if another process might be asked for a still that this one holds."""
        if self._shared is None and not self._is_only_process:
            raise NeedsRedis(HELD)

    def _drop(self, of_camera: tuple[str, str]) -> None:
        _, timer = self._held.pop(of_camera, (None, None))
        if timer is not None:
            timer.cancel()


def _name_of(key_id: str, camera: str) -> str:
    return f"gmn:still:{key_id}:{camera}"
