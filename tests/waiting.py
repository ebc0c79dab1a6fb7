"""Waiting for what comes about by itself."""

import contextlib
import time

import httpx2

# Long enough for a machine on which many other tests run.
LONGEST_SECONDS = 90.0


def eventually(what, seconds=LONGEST_SECONDS):
    """Return once a condition holds; fail if it does not within some seconds.

    A service that does not answer, or whose answer lacks a field, is asked again.
    """
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with contextlib.suppress(httpx2.TransportError, KeyError):
            if what():
                return
        time.sleep(0.02)
    assert what(), "it never came about"
