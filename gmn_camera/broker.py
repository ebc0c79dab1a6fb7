"""The connection to an MQTT broker."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Generic, NamedTuple, TypeVar

from gmn_camera.service import read_secret
from gmn_client.errors import InvalidInput

log = logging.getLogger(__name__)
Item = TypeVar("Item")
PORT = 1883
TLS_PORT = 8883
LONGEST_WAIT = 60
# Messages that wait for a broker that is away.
MOST_WAITING = 1000
POLL_SECONDS = 0.5


class Broker(NamedTuple):
    """Where the broker is, and who connects.

    Attributes:
        host, port: its address.
        username, password: None for a broker that asks for none.
        tls: whether the connection is encrypted, and the broker's certificate checked.
    """

    host: str
    port: int
    username: str | None
    password: str | None
    tls: bool

    def client(self, name: str) -> Any:
        """Return a client that `connect_async` connects, again and again if necessary.

        Args:
            name: identifies the program to the broker.
        """
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        client = Client(CallbackAPIVersion.VERSION2, client_id=name)
        client.reconnect_delay_set(1, LONGEST_WAIT)
        client.max_queued_messages_set(MOST_WAITING)
        if self.username is not None:
            client.username_pw_set(self.username, self.password)
        if self.tls:
            client.tls_set()
        client.on_disconnect = self._warn_of_end
        client.on_connect_fail = self._warn_of_failure
        return client

    def start(self, client: Any) -> None:
        """Connect a client from a thread of its own."""
        client.connect_async(self.host, self.port)
        client.loop_start()

    def _warn_of_end(self, _client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason != "Normal disconnection":
            log.warning("%s:%d: the broker ended the connection (%s)", *self[:2], reason)

    def _warn_of_failure(self, _client: Any, _data: Any) -> None:
        log.warning("%s:%d: no broker answers there; it is asked again", *self[:2])


def read_broker(
    address: str,
    username: str | None,
    password: str | None,
    password_file: Path | None = None,
    *,
    tls: bool,
) -> Broker:
    """Return a broker by HOST or HOST:PORT.

    Args:
        password_file: a file with the password, in place of `password`.

    Raises:
        InvalidInput: the address or the file cannot be used.
    """
    host, _, port = address.partition(":")
    if not port:
        port = str(TLS_PORT if tls else PORT)
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise InvalidInput(f"--broker: {address!r} is no address; write it like mqtt.example:1883")
    if password_file is not None:
        password = read_secret("--password-file", password_file, "the broker's password")
    return Broker(host, int(port), username, password, tls)


class Inbox(Generic[Item]):
    """A queue from other threads to the main one; if it is full, the oldest item is dropped.

    Attributes:
        dropped: number of those.
    """

    def __init__(self, size: int = 256) -> None:
        """Begin empty, and listen to SIGTERM and SIGINT; the caller is the main thread."""
        self.dropped = 0
        self._items: Queue[Item] = Queue(size)
        self._signals: list[int] = []
        # A signal may come before the first item is waited for.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.append(number))

    def put(self, item: Item) -> None:
        """Add an item."""
        while True:
            try:
                self._items.put_nowait(item)
            except Full:
                self._drop()
            else:
                return

    def handle_until_stopped(
        self, handle: Callable[[Item], None], beside: Callable[[], None] | None = None
    ) -> None:
        """Handle items until SIGTERM or SIGINT comes.

        Args:
            beside: called at least every half a second.
        """
        while not self._signals:
            try:
                item = self._items.get(timeout=POLL_SECONDS)
            except Empty:
                item = None
            if item is not None:
                handle(item)
            if beside is not None:
                beside()

    def _drop(self) -> None:
        try:
            self._items.get_nowait()
        except Empty:
            return
        self.dropped += 1
        log.warning("too many messages wait; the oldest was dropped (%d so far)", self.dropped)
