"""The armed lists in the memory of one process."""

from __future__ import annotations

import asyncio
import hmac
import math
import re
import time
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from typing import Literal, get_args
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from gmn_client.hours import find_day
from gmn_client.models import Forecast, WatchSettings, Weekday
from model.problems import InputProblem
from service.errors import RecordUnavailable
from service.gallery.gallery import Gallery
from service.ops.critical_sections import log_failure
from service.record.keys import ApiKey
from service.watch.camera_thresholds import CameraThresholds
from service.watch.scores import WatchList
from service.watch.silent import SilentGallery
from service.watch.tables.armed_lists import watches_camera

READY_WITHIN_SECONDS = 20.0
# A list with a fault is fitted again after this time, even if it does not change.
FIT_AGAIN_SECONDS = 60.0
# The package with the files of time zones, in Python.
ZONE_PACKAGE = "tzdata"
UNREADABLE_ZONE = (KeyError, ValueError, OSError)
SECONDS = re.compile(r"[0-9]{1,11}")
ListState = Literal["compared", "impaired", "not_compared", "paused"]
WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)


@dataclass(frozen=True)
class ActiveList:
    """A list with its fitted thresholds, ready to be compared with sightings.

    Attributes:
        watch_list: the named crops of the gallery at one moment.
        slots: those of the crops of `watch_list`, `(n,)`.
        embedder: fingerprint of the embedder of their vectors.
        score_kind: identifies the scores, and so the traffic, that are comparable with the list's.
        silent: the people whose tracks raise no alert; None if it was armed without.
        faults: in what it is not compared as it should be, each as a topic, a colon and a reason.
    """

    gallery: Gallery
    settings: WatchSettings
    watch_list: WatchList
    slots: NDArray[np.int64]
    forecast: Forecast
    thresholds: CameraThresholds
    embedder: str
    score_kind: str
    silent: SilentGallery | None
    faults: tuple[str, ...] = ()

    @property
    def crops(self) -> int:
        """Number of crops that a sighting is compared with."""
        silent = self.silent.people if self.silent else None
        return len(self.slots) + (len(silent.people) if silent else 0)

    def takes(self, camera: str | None, moment: datetime) -> bool:
        """Return True if the list watches this camera at this time, which has a time zone."""
        settings = self.settings
        if settings.expires_at <= moment or not watches_camera(settings, camera):
            return False
        try:
            return is_within_hours(settings, moment)
        except UNREADABLE_ZONE:
            # Its hours are not known, as its faults say.
            return True


def is_within_hours(settings: WatchSettings, moment: datetime) -> bool:
    """Return True if a time, which has a time zone, is within the hours and weekdays of a list."""
    if not settings.hours and not settings.weekdays:
        return True
    local = moment.astimezone(read_time_zone(settings.time_zone))
    day = find_day(settings.hours, local)
    if day is None:
        return False
    return not settings.weekdays or WEEKDAYS[day.weekday()] in settings.weekdays


def read_time_zone(name: str) -> tzinfo:
    """Return a time zone by its name, such as `Europe/Zurich`; UTC needs no files of zones.

    Raises:
        KeyError, ValueError, OSError: there is none of this name, or it cannot be read.
    """
    return UTC if name == "UTC" else ZoneInfo(name)


def find_fault_of_hours(settings: WatchSettings) -> str | None:
    """Return why a list rings at any time although it has hours; None if they can be read."""
    try:
        is_within_hours(settings, datetime.now(UTC))
    except UNREADABLE_ZONE:
        zone = settings.time_zone
        return f"it rings at any time: the time zone {zone} cannot be read; install {ZONE_PACKAGE}"
    return None


@dataclass(frozen=True)
class HeldList:
    """An armed list and the state for which it was fitted.

    Attributes:
        state: None if it has to be fitted again.
        active: None if nothing is compared with it, as `why` explains.
        why: reason for which it is not compared as it should be.
        warnings: what its alerts tell once a day, each as a topic, a colon and a reason.
        due: earliest time of the next fit, by `time.monotonic`.
        again: time from which it is fitted again even if its state stays.
        warn_at: time of the next look whether its warnings have to be told again.
        tracks: number of tracks in the traffic for which it is known whether it has to be fitted.
        is_paused: it is compared with nothing.
    """

    state: object
    active: ActiveList | None
    why: str | None = None
    warnings: tuple[str, ...] = ()
    due: float = 0.0
    again: float = math.inf
    warn_at: float = 0.0
    tracks: int = -1
    is_paused: bool = False

    def with_fault(self, fault: str) -> HeldList:
        """Return the list with another fault, to be told and fitted again soon."""
        if fault in self.warnings:
            return self
        return replace(
            self,
            why=fault if self.why is None else f"{self.why}; {fault}",
            warnings=(*self.warnings, fault),
            again=time.monotonic() + FIT_AGAIN_SECONDS,
            warn_at=0.0,
        )

    def describe(self) -> ListState:
        if self.active is None:
            return "not_compared"
        if self.why is not None:
            return "impaired"
        return "paused" if self.is_paused else "compared"


def describe_error(error: Exception) -> str:
    if isinstance(error, InputProblem):
        return str(error).removeprefix("gallery: ")
    return "an error of the service, which its log has"


class ArmedLists:
    """The armed lists of a process, and the secret that signs confirmations and addresses."""

    def __init__(self, secret: bytes) -> None:
        self._key = hmac.digest(secret, b"watch", "sha256")
        # By `gallery_id`. Another task may change it during any `await`.
        self.held: dict[int, HeldList] = {}
        # Set after the first update.
        self.loaded = asyncio.Event()
        # Set at the next change of alerts or deliveries, and then replaced.
        self.changed = asyncio.Event()

    def announce(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def note_failure(self, gallery: Gallery, error: Exception) -> None:
        """Note that a crop could not be compared with a list, which must not end the others."""
        fault = f"some crops are not compared with it: {describe_error(error)}"
        held = self.held.get(gallery.gallery_id)
        if held and fault not in held.warnings:
            log_failure(f"comparing with list {gallery.name}", error)
            self.held[gallery.gallery_id] = held.with_fault(fault)

    def count_by_state(self) -> Counter[ListState]:
        return Counter(held.describe() for held in self.held.values())

    def find_impaired(self) -> dict[int, HeldList]:
        """Return the lists that are compared with nothing, or not as they should be."""
        # Another thread may ask.
        return {number: held for number, held in dict(self.held).items() if held.why}

    def seen_by(self, caller: ApiKey) -> list[ActiveList]:
        lists = [held.active for held in self.held.values() if held.active and not held.is_paused]
        return [active for active in lists if caller.may_see(active.gallery.name)]

    async def ready(self) -> None:
        """Wait until the armed lists have been read after a start.

        Raises:
            RecordUnavailable: they were not read in time.
        """
        try:
            async with asyncio.timeout(READY_WITHIN_SECONDS):
                await self.loaded.wait()
        except TimeoutError as error:
            raise RecordUnavailable("the watch lists are not read yet") from error

    def sign(self, until: datetime, *values: object) -> str:
        """Return a token that proves the values and is valid until a time, in whole seconds."""
        seconds = int(until.timestamp())
        signed = repr((seconds, *values)).encode()
        return f"{seconds}.{hmac.digest(self._key, signed, 'sha256').hex()}"

    def is_signed(self, token: str, *values: object) -> bool:
        seconds, _, _ = token.partition(".")
        if not SECONDS.fullmatch(seconds):
            return False
        until = datetime.fromtimestamp(int(seconds), UTC)
        is_right = hmac.compare_digest(token.encode(), self.sign(until, *values).encode())
        return is_right and until > datetime.now(UTC)
