"""Talking to Redis: scripts that write once however often they are sent, and reads."""

from __future__ import annotations

import json
import secrets
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from model.problems import InputProblem
from service.gallery.redis.scripts import script
from service.problems import RecordUnavailable, UnknownGallery
from service.pulse import beat
from service.record.redis_errors import RETRY_AFTER_S, shown_url, translate_redis_errors

Argument = str | bytes | int | float
# Every write may be sent again, as it carries an id that Redis remembers; so may every read.
RETRIES = 2
CLIENT_NAME = "gmn"


class Database:
    """One Redis, and what this process may expect of it.

    Attributes:
        place: which one, for messages.
        epoch: of the record that is there; see `RecordFormat`.
        waits_for_disk: whether a write has to ask for the disk, because Redis answers before it.
    """

    def __init__(self, url: str, kept_changes: int, timeout_seconds: float) -> None:
        """Connects to nothing yet.

        Args:
            url: `redis://`, `rediss://` or `unix://`, with user and password where needed.
            kept_changes: about how many changes are kept for followers.
            timeout_seconds: how long a command may take, and a connection.

        Raises:
            InputProblem: for a URL that cannot be used.
        """
        self.place = shown_url(url)
        self.timeout_seconds = timeout_seconds
        self.epoch = ""
        self.waits_for_disk = False
        self._kept_changes = kept_changes
        # Its commands are sent as they are written; their types are not told by redis-py.
        self._client: Any
        try:
            self._client = redis.Redis.from_url(
                url,
                protocol=2,
                socket_timeout=timeout_seconds,
                socket_connect_timeout=timeout_seconds,
                socket_keepalive=True,
                health_check_interval=30,
                retry=Retry(ExponentialBackoff(cap=0.5, base=0.05), RETRIES),
                client_name=CLIENT_NAME,
            )
        except ValueError as error:
            raise InputProblem(
                f"GMN_REDIS_URL {self.place}: cannot be used ({error}); write it like "
                "redis://user:password@host:6379/0, rediss:// for TLS"
            ) from error

    def command(self, *command: Argument) -> Any:
        """Answers one command that reads, or that changes nothing when it is sent twice."""
        with translate_redis_errors(self.place):
            answer = self._client.execute_command(*command)
        beat()
        return answer

    def read(self, name: str, *arguments: Argument) -> Any:
        """Answers a script that only reads."""
        return self._run(name, "", arguments)

    def write(self, name: str, *arguments: Argument) -> dict[str, Any]:
        """Runs a script that writes, once; it is on the disk when this returns.

        Returns:
            What the script answers, with `refused` where it changed nothing.

        Raises:
            StorageFailed: Redis is full; nothing was written.
            RecordUnavailable: Redis does not answer; the write may have happened, or may yet.
            UnknownGallery: the gallery was deleted.
        """
        answer: dict[str, Any] = json.loads(self._run(name, secrets.token_hex(16), arguments))
        refused = answer.get("refused")
        if refused == "another_database":
            raise RecordUnavailable(
                f"Redis at {self.place} holds another record than before: it was emptied or "
                "replaced; put its data back, or restart the service to begin with what is there",
                RETRY_AFTER_S,
            )
        if refused == "gone":
            raise UnknownGallery(str(arguments[0]))
        return answer

    def batch(self, name: str, *arguments: Argument) -> str:
        """Runs a script that does the same work when it is sent twice; answers its word."""
        word: bytes = self._run(name, "", arguments)
        return word.decode()

    def close(self) -> None:
        """Closes every connection."""
        self._client.close()

    def _run(self, name: str, write_id: str, arguments: tuple[Argument, ...]) -> Any:
        wanted = script(name)
        sent = (0, write_id, self.epoch, self._kept_changes, *arguments)
        # What takes long is many scripts, each of which is quick.
        beat()
        with translate_redis_errors(self.place):
            try:
                return self._send("EVALSHA", wanted.sha1, *sent, durable=bool(write_id))
            except NoScriptError:
                # A server that was restarted knows none; this teaches it this one.
                return self._send("EVAL", wanted.text, *sent, durable=bool(write_id))

    def _send(self, *command: Argument, durable: bool) -> Any:
        if not (durable and self.waits_for_disk):
            return self._client.execute_command(*command)
        # On one connection: WAITAOF waits for what was written on its own.
        timeout_ms = int(self.timeout_seconds * 500)
        with self._client.pipeline(transaction=False) as pipeline:
            pipeline.execute_command(*command)
            pipeline.execute_command("WAITAOF", 1, 0, timeout_ms)
            answer, waited = pipeline.execute(raise_on_error=False)
        for one in (answer, waited):
            if isinstance(one, Exception):
                raise one
        if int(waited[0]) < 1:
            raise RecordUnavailable(
                f"Redis at {self.place} did not write to its disk within {timeout_ms} ms; the "
                "write may be lost if it fails now",
                RETRY_AFTER_S,
            )
        return answer
