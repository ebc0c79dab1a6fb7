"""Keeps a restore alone in its gallery: what else is written there would come before or after."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Gate:
    """Many may pass together, or one alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone, 30)
            self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self, seconds: float) -> Iterator[bool]:
        """Yield whether it is; those who come meanwhile wait."""
        with self._changed:
            free = not self._alone
            if free:
                self._alone = True
                free = self._changed.wait_for(lambda: self._inside == 0, seconds)
                self._alone = free
                self._changed.notify_all()
        try:
            yield free
        finally:
            if free:
                with self._changed:
                    self._alone = False
                    self._changed.notify_all()
