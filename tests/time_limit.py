"""The time limit of the running test, which may be set aside."""

import contextlib
import threading


class TimeLimit:
    """The limit that pytest-timeout has set for the running test."""

    def __init__(self):
        self._item = None
        self._settings = None

    def note(self, item, settings):
        """Note which limit was set for which test."""
        self._item = item
        self._settings = settings

    @contextlib.contextmanager
    def set_aside(self):
        """Let the limit begin anew after the block, as long as if the test began then."""
        # Only the main thread may set the timer.
        if self._item is None or threading.current_thread() is not threading.main_thread():
            yield
            return
        item = self._item
        settings = self._settings
        item.config.hook.pytest_timeout_cancel_timer(item=item)
        try:
            yield
        finally:
            item.config.hook.pytest_timeout_set_timer(item=item, settings=settings)


time_limit = TimeLimit()
