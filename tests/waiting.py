"""Waiting for what comes about by itself."""

import contextlib
import time

import httpx2

# Long enough for a machine on which many other tests run.
LONGEST_SECONDS = 90.0
# Each look asks a service; without longer pauses a wait of seconds would take a third of a core.
SHORTEST_PAUSE_SECONDS = 0.02
LONGEST_PAUSE_SECONDS = 0.2


def growing_pauses():
    """Yield the seconds to wait between one look and the next."""
    pause = SHORTEST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(1.5 * pause, LONGEST_PAUSE_SECONDS)


def eventually(what, seconds=LONGEST_SECONDS):
    """Return once a condition holds; fail if it does not within some seconds.

    A service that does not answer, or whose answer lacks a field, is asked again.
    """
    until = time.monotonic() + seconds
    pauses = growing_pauses()
    while time.monotonic() < until:
        with contextlib.suppress(httpx2.TransportError, KeyError):
            if what():
                return
        time.sleep(next(pauses))
    assert what(), "it never came about"
