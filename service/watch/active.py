"""Armed lists in the memory of one process, with which its sightings are compared."""

from __future__ import annotations

import asyncio
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from gmn_client.models import Forecast, WatchSettings
from service.errors import RecordUnavailable
from service.gallery.gallery import Gallery
from service.watch.scores import WatchList

READY_WITHIN_SECONDS = 20.0
SECONDS = re.compile(r"[0-9]{1,11}")


@dataclass(frozen=True)
class ActiveList:
    """A list that sightings are compared with.

    Attributes:
        watch_list: its named crops, of one moment.
        row_ids: their slots, `(n,)`.
        embedder: fingerprint of the one that made their vectors.
        subject: of its traffic: names what scores depend on.
    """

    gallery: Gallery
    settings: WatchSettings
    watch_list: WatchList
    row_ids: NDArray[np.int64]
    forecast: Forecast
    embedder: str
    subject: str

    @cached_property
    def _zone(self) -> ZoneInfo:
        return ZoneInfo(self.settings.time_zone)

    def takes(self, camera: str | None, moment: datetime) -> bool:
        """Return whether it watches a camera at a time, which has a time zone."""
        if self.settings.expires_at <= moment:
            return False
        if self.settings.cameras and camera not in self.settings.cameras:
            return False
        if not self.settings.hours:
            return True
        start, end = self.settings.hours.split("-")
        now = f"{moment.astimezone(self._zone):%H:%M}"
        if start < end:
            return start <= now < end
        return now >= start or now < end


@dataclass(frozen=True)
class HeldList:
    """An armed list with the state that it was fitted to.

    Attributes:
        active: None where it could not be fitted, which `why` explains.
        due: it is not fitted again before, by `time.monotonic`.
    """

    state: object
    active: ActiveList | None
    why: str | None = None
    due: float = 0.0


class ArmedLists:
    """The armed lists that can be compared with, and the secret by which the watch is signed."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"watch", "sha256")
        # By the numbers of their galleries.
        self.held: dict[int, HeldList] = {}
        # One task at a time compares these lists with the record's.
        self.lock = asyncio.Lock()
        # Set once the lists of the record were looked at for the first time.
        self.loaded = asyncio.Event()
        # Set at the next change of alerts or of their deliveries, and then another one.
        self.changed = asyncio.Event()

    def announce(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def ready(self) -> None:
        """Wait until the lists of the record are there, after a start.

        Raises:
            RecordUnavailable: that takes long.
        """
        try:
            async with asyncio.timeout(READY_WITHIN_SECONDS):
                await self.loaded.wait()
        except TimeoutError as error:
            raise RecordUnavailable("the watch lists are not read yet") from error

    def current(self) -> list[ActiveList]:
        return [held.active for held in self.held.values() if held.active]

    def sign(self, until: datetime, *values: object) -> str:
        """Return a token for values that is valid until a time, in whole seconds."""
        seconds = int(until.timestamp())
        signed = repr((seconds, *values)).encode()
        return f"{seconds}.{hmac.digest(self._key, signed, 'sha256').hex()}"

    def is_signed(self, token: str, *values: object) -> bool:
        seconds, _, _ = token.partition(".")
        if not SECONDS.fullmatch(seconds):
            return False
        until = datetime.fromtimestamp(int(seconds), UTC)
        right = hmac.compare_digest(token.encode(), self.sign(until, *values).encode())
        return right and until > datetime.now(UTC)
