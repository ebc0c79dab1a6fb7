"""Stopping at the end of a step when SIGINT or SIGTERM asks for it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class TrainingStopped(Exception):
    """A run that was asked to stop, and that can be resumed.

    Attributes:
        signal_number: of the signal that asked.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


class StopRequest:
    """Whether a signal has asked the run to stop.

    Attributes:
        signal_number: of the signal, None before there is one.
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """Remembers the signal; a second Ctrl-C no longer waits for the end of the step."""
        if self.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal_number = number


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Holds signals back while the run trains; only a program's main thread can."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, request.receive) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
