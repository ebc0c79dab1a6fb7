"""The connection to an MQTT broker."""

from __future__ import annotations

import logging
import secrets
import signal
from collections.abc import Callable
from pathlib import Path
from queue import Empty, Full, Queue
from typing import Any, Generic, NamedTuple, TypeVar

from gmn_camera.endpoints import read_endpoint, write_endpoint
from gmn_camera.service import read_secret
from gmn_client.errors import InvalidInput, KeyRefused

log = logging.getLogger(__name__)
Item = TypeVar("Item")
PORT = 1883
TLS_PORT = 8883
LONGEST_WAIT = 60
# Limit of the messages that wait for an unreachable broker.
MOST_WAITING = 1000
POLL_SECONDS = 0.5
LONGEST_TOPIC = 200


class Broker(NamedTuple):
    """Address of an MQTT broker, with the credentials for it.

    Attributes:
        host, port: address of the broker.
        username, password: None for a broker that asks for none.
        tls: whether the connection is encrypted, and the broker's certificate checked.
    """

    host: str
    port: int
    username: str | None
    password: str | None
    tls: bool

    @property
    def address(self) -> str:
        """Return HOST:PORT, for messages."""
        return write_endpoint(self.host, self.port)

    def client(self, name: str) -> Any:
        """Return a client for `start`, which connects again after each failure.

        Args:
            name: name of the program in the broker's log.
        """
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion

        # A broker ends a connection when another client connects with the same id.
        client_id = f"{name}-{secrets.token_hex(4)}"
        client = Client(CallbackAPIVersion.VERSION2, client_id=client_id)
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
        """Connect a client, and serve it in a background thread."""
        client.connect_async(self.host, self.port)
        client.loop_start()

    def _warn_of_end(self, _client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason != "Normal disconnection":
            log.warning("%s: the broker ended the connection (%s)", self.address, reason)

    def _warn_of_failure(self, _client: Any, _data: Any) -> None:
        log.warning("%s: no broker answers there; it is asked again", self.address)


def read_broker(
    address: str,
    username: str | None,
    password: str | None,
    password_file: Path | None = None,
    *,
    tls: bool,
) -> Broker:
    """Return the broker at HOST or HOST:PORT; an IPv6 address may be in brackets.

    Args:
        password_file: a file with the password, in place of `password`.

    Raises:
        InvalidInput: the address or the file cannot be used.
    """
    try:
        host, port = read_endpoint(address)
        if not host or port == 0:
            raise ValueError("host or port is missing")
    except ValueError as error:
        raise InvalidInput(
            f"--broker: {address!r} is no address ({error}); write it like mqtt.example:1883, or "
            "[::1]:1883"
        ) from error
    if port is None:
        port = TLS_PORT if tls else PORT
    if password_file is not None:
        password = read_secret("--password-file", password_file, "the broker's password")
    return Broker(host, port, username, password, tls)


def read_topic(option: str, topic: str) -> str:
    """Check a topic that becomes the prefix of others, and return it without slashes at its end.

    Raises:
        InvalidInput: no topic can begin with it.
    """
    is_text = topic.isprintable() and not set("+#") & set(topic)
    if not is_text or not topic.strip("/") or len(topic) > LONGEST_TOPIC:
        raise InvalidInput(
            f"{option}: {topic[:LONGEST_TOPIC]!r} is no topic; give a text of at most "
            f"{LONGEST_TOPIC} characters without + and #"
        )
    return topic.rstrip("/")


class Inbox(Generic[Item]):
    """A queue from other threads to the main thread, which drops its oldest item when it is full.

    Attributes:
        dropped: number of dropped items.
    """

    def __init__(self, size: int = 256) -> None:
        """Create an empty queue, and listen to SIGTERM and SIGINT; call it from the main thread."""
        self.dropped = 0
        self._items: Queue[Item] = Queue(size)
        self._signals: list[int] = []
        # A signal may come before the main thread waits for an item.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: self._signals.append(number))

    def put(self, item: Item) -> None:
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
        """Call `handle` with each item until SIGTERM or SIGINT comes, and log its errors.

        Args:
            beside: called after each item, and at least every half a second.

        Raises:
            KeyRefused: the service refuses the key.
        """
        while not self._signals:
            try:
                item = self._items.get(timeout=POLL_SECONDS)
            except Empty:
                item = None
            try:
                if item is not None:
                    handle(item)
                if beside is not None:
                    beside()
            except KeyRefused:
                raise
            except Exception:
                log.exception("a message cannot be handled; the next ones are")

    def _drop(self) -> None:
        try:
            self._items.get_nowait()
        except Empty:
            return
        self.dropped += 1
        log.warning("too many messages wait; the oldest was dropped (%d so far)", self.dropped)
