"""How committed changes reach the indexes: at once, where this process alone writes the record."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from gmn_client.answers import RecordState
from service.engine.device import DeviceThread
from service.gallery.gallery import Gallery
from service.gallery.held_galleries import HeldGalleries
from service.ops.pulse import Stage
from service.record.record import Record
from service.record.records import CropLabel

IN_STEP = RecordState()


@dataclass(frozen=True)
class Confirmation:
    """What the record says of crops that a search found.

    Attributes:
        gone: row ids of those that were deleted.
        stale: it could not be asked, or the search saw a gallery that was replaced since.
    """

    gone: frozenset[int] = frozenset()
    stale: bool = False


class Learner(Protocol):
    """Told of what becomes of a gallery's own calibration by other hands."""

    def forget(self, gallery: Gallery) -> None:
        """What was learnt means nothing any more; called on the device thread, and quick."""

    def follow(self, gallery: Gallery) -> None:
        """The record has other learnt numbers than before; blocks."""


class IndexUpdates(Protocol):
    """Brings committed changes into the indexes; used from any thread."""

    @property
    def state(self) -> RecordState:
        """How the indexes stand to the record."""

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Its threads, for the watchdog."""

    def load(self, learner: Learner) -> None:
        """Reads every gallery into memory; blocks."""

    def shown(self, begin: Callable[[], Future[None]]) -> Future[None]:
        """Done once the indexes show what has just been committed; called by who committed it.

        Args:
            begin: begins to apply it, where nobody else does.

        Raises:
            RecordUnavailable: nobody can say.
        """

    def require_record(self, patience_seconds: float = 0.0) -> None:
        """Raises `RecordUnavailable` where the record has not answered for longer than that."""

    def caught_up(self) -> Future[None]:
        """Done once the indexes show what was committed before; blocks for an answer or so."""

    def confirm(self, gallery: Gallery, crops: list[CropLabel]) -> Confirmation:
        """Asks the record for crops that a search found; blocks.

        Raises:
            UnknownGallery: the gallery was deleted.
            RecordUnavailable: it does not answer.
        """

    def doubt(self) -> None:
        """Somebody waited for the record in vain: it is taken to be gone until it answers."""

    def close(self) -> None:
        """Ends what goes on beside the requests."""


class DirectUpdates:
    """Implements `IndexUpdates` for a record of one process: who commits applies."""

    state = IN_STEP
    stages = ()

    def __init__(self, store: Record, held: HeldGalleries, device: DeviceThread) -> None:
        self._store = store
        self._held = held
        self._device = device

    def load(self, learner: Learner) -> None:  # noqa: ARG002 - nobody else learns
        """Reads every gallery into memory; blocks."""
        for record in self._store.galleries.all():
            loaded = self._held.read(record.gallery_id)
            if loaded is not None:
                self._device.submit(partial(self._held.show, loaded)).result()

    def shown(self, begin: Callable[[], Future[None]]) -> Future[None]:
        """Applies it; the writer's thread and the device's keep the order of the commits."""
        return begin()

    def require_record(self, patience_seconds: float = 0.0) -> None:
        """It is a file of this process."""

    def caught_up(self) -> Future[None]:
        """Nobody else writes; what is committed is in the device thread's line by then."""
        return self._device.submit(lambda: None)

    def confirm(self, gallery: Gallery, crops: list[CropLabel]) -> Confirmation:  # noqa: ARG002
        """A change is shown at once, so that no search finds what was deleted."""
        return Confirmation()

    def doubt(self) -> None:
        """There is nothing to doubt."""

    def close(self) -> None:
        """There is nothing to end."""


def finished() -> Future[None]:
    """A future that is done."""
    future: Future[None] = Future()
    future.set_result(None)
    return future
