"""Redis, for what processes share beside the record: rates of keys, and events for other programs.

Nothing in it is missed when it is lost. While it does not answer, each process counts by itself and
drops the events.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from pathlib import Path
from typing import Any

import redis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from model.problems import InputProblem

log = logging.getLogger(__name__)
ANSWERS_WITHIN_SECONDS = 0.05
ASKED_AGAIN_SECONDS = 1.0
AT_START_SECONDS = 2.0
EVENTS_WAITING = 1000
EVENTS_KEPT = 10_000
# Takes from a bucket that fills within a minute. The answer is the seconds to wait, 0 for none.
TAKE = """
local rate, count, capacity = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[1])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local known = redis.call('HMGET', KEYS[1], 'left', 'at')
local left = tonumber(known[1]) or capacity
left = math.min(capacity, left + (now - (tonumber(known[2]) or now)) * rate / 60)
if left < count then return tostring((count - left) * 60 / rate) end
redis.call('HSET', KEYS[1], 'left', tostring(left - count), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], 120)
return '0'
"""
Event = tuple[str, dict[Any, Any]]


class SharedRedis:
    """Rates and events in Redis; lives on the event loop.

    Attributes:
        is_up: False from the first call without an answer until Redis answers again.
    """

    def __init__(self, url: str, password_file: Path | None) -> None:
        """Look at Redis once; one that does not answer is asked again later.

        Raises:
            InputProblem: the address or the password cannot be used, or the record of an earlier
                version lies there.
        """
        password = _read_password(password_file)
        _refuse_old_record(url, password)
        self._redis = Redis.from_url(
            url,
            password=password,
            socket_timeout=ANSWERS_WITHIN_SECONDS,
            socket_connect_timeout=ANSWERS_WITHIN_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        self._take = self._redis.register_script(TAKE)
        self._events: asyncio.Queue[Event] = asyncio.Queue(EVENTS_WAITING)
        self.is_up = True

    async def take(self, key_id: str, rate: int, count: int) -> float | None:
        """Take requests or images from a key's minute.

        Returns:
            Seconds to wait until there are as many left; 0 if they were taken, None if Redis does
            not answer.
        """
        if not self.is_up:
            return None
        try:
            async with asyncio.timeout(ANSWERS_WITHIN_SECONDS):
                return float(await self._take([f"gmn:rate:{key_id}"], [rate, count]))
        except (redis.RedisError, OSError, TimeoutError) as error:
            self._note_away(error)
            return None

    def announce(self, gallery: str, event: str, **what: Any) -> None:
        """Append an event to a gallery's stream; dropped where Redis is away or too slow."""
        if self.is_up and not self._events.full():
            fields: dict[Any, Any] = {"event": event, "at": f"{time.time():.3f}"}
            fields |= {name: json.dumps(value) for name, value in what.items()}
            self._events.put_nowait((gallery, fields))

    async def run(self) -> None:
        """Send events, and ask for Redis while it is away, until this is cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(ASKED_AGAIN_SECONDS):
                        event = await self._events.get()
                except TimeoutError:
                    if not self.is_up:
                        await self._ask_again()
                else:
                    await self._send(*event)
        finally:
            await self._redis.aclose()

    async def _send(self, gallery: str, fields: dict[Any, Any]) -> None:
        try:
            await self._redis.xadd(f"gmn:events:{gallery}", fields, maxlen=EVENTS_KEPT)
        except (redis.RedisError, OSError) as error:
            self._note_away(error)

    async def _ask_again(self) -> None:
        try:
            await self._redis.ping()
        except (redis.RedisError, OSError):
            return
        log.warning("Redis answers again: keys' rates are counted over all processes")
        self.is_up = True

    def _note_away(self, error: Exception) -> None:
        if self.is_up:
            log.warning(
                "Redis does not answer (%s): each process counts keys' rates by itself, and events "
                "are dropped",
                error or type(error).__name__,
            )
        self.is_up = False


class KeyRates:
    """Requests or images that keys may send: a bucket for each key, which a minute fills."""

    def __init__(self, processes: int = 1, shared: SharedRedis | None = None) -> None:
        """Count in Redis, or while it is away in this process.

        Args:
            processes: each has an equal share of a rate where it counts by itself.
        """
        self._processes = processes
        self._shared = shared
        # Requests or images left of a key, and the time at which that was counted.
        self._left: dict[str, tuple[float, float]] = {}

    async def take(self, key_id: str, rate: int, count: int) -> float:
        """Take requests or images from a key's minute, at most `rate`.

        Returns:
            Seconds to wait until there are as many left; 0 if they were taken.
        """
        wait = None
        if self._shared is not None:
            wait = await self._shared.take(key_id, rate, count)
        return self._take(key_id, rate / self._processes, count) if wait is None else wait

    def _take(self, key_id: str, share: float, count: int) -> float:
        now = time.monotonic()
        left, counted_at = self._left.get(key_id, (share, now))
        left = min(share, left + (now - counted_at) * share / 60)
        # More than the share is taken from a full bucket, and is owed.
        needed = min(count, share)
        if left < needed:
            return (needed - left) * 60 / share
        self._left[key_id] = (left - count, now)
        return 0.0


def _read_password(file: Path | None) -> str | None:
    try:
        return file.read_text().strip() if file else None
    except OSError as error:
        raise InputProblem(
            f"GMN_REDIS_PASSWORD_FILE={file}: cannot be read ({error.strerror}); name a file that "
            "this user may read"
        ) from error


def _refuse_old_record(url: str, password: str | None) -> None:
    try:
        asked = redis.Redis.from_url(
            url,
            password=password,
            socket_timeout=AT_START_SECONDS,
            socket_connect_timeout=AT_START_SECONDS,
        )
        with asked:
            has_record = bool(asked.exists("gmn:format"))
    except ValueError as error:
        raise InputProblem(
            f"GMN_REDIS_URL: cannot be read ({error}); write it like redis://127.0.0.1:6379/0"
        ) from error
    except redis.AuthenticationError as error:
        raise InputProblem(
            f"GMN_REDIS_URL: Redis refuses the password ({error}); name it in "
            "GMN_REDIS_PASSWORD_FILE"
        ) from error
    except (redis.RedisError, OSError) as error:
        log.warning("Redis does not answer (%s); it is asked again", error)
        return
    if has_record:
        raise InputProblem(
            "GMN_REDIS_URL: the record of version 0.4 or earlier lies there, and this version "
            "keeps it in the data directory. Upgrade it: gmn backup BACKUPS by the old version, "
            "with its GMN_REDIS_URL, then gmn store upgrade BACKUPS/NAME --into DATA_DIR by this "
            "one; then name another database of Redis, such as /1, or empty this one"
        )
