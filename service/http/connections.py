"""Connections: how many are answered, how many are kept open, and how long one may stay silent."""

from __future__ import annotations

import asyncio
import resource

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from service.http.middleware import CROWDED

# Of the files that the process may open: its own, and connections accepted in one turn of the loop.
OTHER_FILES = 100
# A refusal is better than silence, and costs memory.
REFUSED_PER_SERVED = 3


def bounded_connections(limit: int, silent_seconds: float) -> type[asyncio.Protocol]:
    """The protocol of a server whose clients cannot exhaust its files.

    Args:
        limit: connections that are answered. A request on a further one is 503, and still further
            ones are closed at once.
        silent_seconds: a connection without a whole request is closed after so long: a new one,
            and one whose last request was answered, while the rest of a body comes or the next.
    """
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    most_open = min((1 + REFUSED_PER_SERVED) * limit, files - OTHER_FILES)

    class BoundedConnection(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._await_request()
            if len(self.connections) > most_open:
                transport.abort()
            elif len(self.connections) > limit:
                self.app_state = {**self.app_state, CROWDED: True}

        def connection_lost(self, error: Exception | None) -> None:
            self._closing.cancel()
            super().connection_lost(error)

        def on_response_complete(self) -> None:
            self._closing.cancel()
            # First: what follows may begin the next request.
            self._await_request()
            super().on_response_complete()

        def _await_request(self) -> None:
            self._closing = self.loop.call_later(silent_seconds, self._close_after, self.cycle)

        def _close_after(self, last: RequestResponseCycle | None) -> None:
            if self.cycle is last:
                self.transport.close()

    return BoundedConnection


def raise_file_limit() -> None:
    """Lets this process open as many files as its supervisor allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
