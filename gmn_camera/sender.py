"""Sends the crops of a camera in order, and repeats requests until the service answers."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from uuid import uuid4

from gmn_camera.crops import ChosenCrop
from gmn_camera.settings import CameraSettings
from gmn_client import Client, Image
from gmn_client.errors import (
    GmnError,
    KeyRefused,
    RequestRefused,
    ServiceFailed,
    ServiceUnreachable,
)
from gmn_client.models import Problem
from model.wording import counted

log = logging.getLogger(__name__)
MOST_AT_ONCE = 16
# With longer pauses, alerts would be a minute late after a restart of the service.
LONGEST_WAIT = 10.0
WAIT_WHILE_CLOSING = 2.0
CLOSE_SECONDS = 20.0
POLL_SECONDS = 0.5
# With these statuses the service would refuse other crops, too: there is no such gallery, it keeps
# crops for ever, or the camera's name is not allowed.
LASTING = (404, 422)


class CropSender:
    """Sends crops from a queue, one request at a time; nothing is written to the disk.

    Attributes:
        sent: number of crops that the service accepted.
        refused: number of crops that the service refused.
        dropped: number of crops that were given up because too many waited, or at the end.
        lag: seconds from the capture of the newest answered crop to its answer.
        problem: reason why the sender has ended early; None without one.
    """

    def __init__(
        self, client: Client, settings: CameraSettings, *, drops: bool, stop: threading.Event
    ) -> None:
        """Start the thread that sends.

        Args:
            client: client that makes one attempt per request.
            drops: whether a full queue drops its oldest crop, as for a stream, which cannot be made
                to wait; otherwise `put` waits.
            stop: set by the sender if it ends early.
        """
        self.sent = 0
        self.refused = 0
        self.dropped = 0
        self.lag: float | None = None
        self.problem: str | None = None
        self._client = client
        self._camera = settings.camera
        self._gallery = settings.enroll
        self._most_waiting = settings.queue
        self._drops = drops
        self._stop = stop
        self._waiting: deque[ChosenCrop] = deque()
        self._in_flight = 0
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._has_given_up = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Return the number of crops without an answer."""
        return len(self._waiting) + self._in_flight

    def put(self, crop: ChosenCrop) -> None:
        """Add a crop to the queue; if it is full, drop the oldest crop or wait."""
        with self._changed:
            if len(self._waiting) >= self._most_waiting:
                if self._drops:
                    self._waiting.popleft()
                    self.dropped += 1
                else:
                    while not self._changed.wait_for(self._has_room, POLL_SECONDS):
                        pass
            self._waiting.append(crop)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return len(self._waiting) < self._most_waiting or self._stop.is_set()

    def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Send the waiting crops for at most `seconds`, and count the rest as dropped."""
        with self._changed:
            self._closing.set()
            self._changed.notify_all()
        self._thread.join(seconds)
        self._has_given_up.set()
        if self.waiting:
            self.dropped += self.waiting
            given_up = counted(self.waiting, "crop was", "crops were")
            log.warning("%s given up, as the service did not answer", given_up)

    def _run(self) -> None:
        try:
            while batch := self._next_batch():
                self._send_until_answered(batch)
                self._in_flight = 0
        except GmnError as error:
            self.problem = str(error)
        except Exception as error:
            if self._has_given_up.is_set():
                # The client was closed under this thread, and its error means nothing.
                return
            self.problem = f"{type(error).__name__}: {error}"
            log.exception("the sender failed")
        if self.problem is not None:
            self._stop.set()
            with self._changed:
                self._changed.notify_all()

    def _next_batch(self) -> list[ChosenCrop]:
        """Wait for crops, and return some; none after the last crop."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            count = min(MOST_AT_ONCE, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            self._in_flight = count
            self._changed.notify_all()
        return batch

    def _send_until_answered(self, batch: Sequence[ChosenCrop]) -> None:
        """Send crops until the service answers.

        Raises:
            GmnError: all further crops would be refused, too.
        """
        # A repeated request has the same key, so that the service stores nothing twice. A repeated
        # sighting belongs to the same visit.
        idempotency_key = uuid4().hex
        wait = 1.0
        failures = 0
        while True:
            try:
                refusals = self._send(batch, idempotency_key)
                break
            except KeyRefused:
                raise
            except RequestRefused as refusal:
                results = refusal.problem.results or []
                if not results and refusal.problem.status in LASTING:
                    raise
                refused = counted(len(batch), "crop was", "crops were")
                log.warning("%s refused: %s", refused, refusal)
                self.refused += len(batch)
                return
            except (ServiceUnreachable, ServiceFailed) as error:
                failures += 1
                if failures == 1:
                    log.warning("%s; the crops are sent again until it answers", error)
                asked = error.retry_after if isinstance(error, ServiceFailed) else None
                self._wait(min(max(wait, asked or 0.0), LONGEST_WAIT))
                wait = min(2 * wait, LONGEST_WAIT)
        if failures:
            log.info("the service answers again, at attempt %d", failures + 1)
        for problem in refusals:
            log.warning("a crop was refused: %s", problem.detail or problem.title)
        self.refused += len(refusals)
        self.sent += len(batch) - len(refusals)
        self.lag = time.monotonic() - max(crop.seconds for crop in batch)

    def _wait(self, seconds: float) -> None:
        if self._closing.is_set():
            time.sleep(min(seconds, WAIT_WHILE_CLOSING))
        else:
            self._closing.wait(seconds)

    def _send(self, batch: Sequence[ChosenCrop], idempotency_key: str) -> list[Problem]:
        """Send crops, and return the problems of the refused ones."""
        if self._gallery is not None:
            enrolled = self._client.enroll(
                [
                    Image(
                        crop.jpeg,
                        camera=self._camera,
                        captured_at=crop.captured_at,
                        track=crop.track,
                        external_id=f"{crop.track}/{crop.number}",
                    )
                    for crop in batch
                ],
                gallery=self._gallery,
                idempotency_key=idempotency_key,
                watch=True,
                still=[crop.still for crop in batch],
                zone=[crop.zone for crop in batch],
            )
            results = [result.problem for result in enrolled.results]
        else:
            sighted = self._client.sight(
                *(
                    Image(crop.jpeg, captured_at=crop.captured_at, track=crop.track)
                    for crop in batch
                ),
                camera=self._camera,
                still=[crop.still for crop in batch],
                zone=[crop.zone for crop in batch],
            )
            results = [result.problem for result in sighted.results]
        return [problem for problem in results if problem is not None]
