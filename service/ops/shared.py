"""Redis, for state that processes share beside the record: key rates, events and short-lived bytes.

Losing it does no harm. While it does not answer, each process counts by itself and keeps its newest
events in memory.
"""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gmn_client.addresses import REMEDY, is_malformed
from model.problems import InputProblem
from service.ops.threads import MonitoredThreadPool
from service.settings import read_password

if TYPE_CHECKING:
    import redis

log = logging.getLogger(__name__)
ANSWERS_WITHIN_SECONDS = 0.05
CONNECTS_WITHIN_SECONDS = 2.0
# Number of events that wait in memory, are sent in one call, and stay in a gallery's stream.
EVENTS_WAITING = 1000
EVENTS_AT_ONCE = 100
EVENTS_KEPT = 10_000
Result = TypeVar("Result")
# Take from a token bucket that refills within a minute. Returns the seconds to wait, or 0.
TAKE = """
local rate, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local known = redis.call('HMGET', KEYS[1], 'left', 'at')
local passed = math.max(0, now - (tonumber(known[2]) or now))
local left = math.min(rate, (tonumber(known[1]) or rate) + passed * rate / 60)
local wait = 0
if left < count then wait = (count - left) * 60 / rate else left = left - count end
redis.call('HSET', KEYS[1], 'left', tostring(left), 'at', tostring(now))
redis.call('EXPIRE', KEYS[1], 120)
return tostring(wait)
"""
AWAY = "Redis does not answer: each process counts keys' rates by itself, and events wait"
FORM = "redis://127.0.0.1:6379/0"


class SharedRedis:
    """Redis, asked by one thread so that the event loop never blocks.

    Attributes:
        is_up: False from the first unanswered call until Redis answers again.
    """

    def __init__(self, url: str, password_file: Path | None) -> None:
        """Connect; a Redis that does not answer is tried again by `check`.

        Raises:
            InputProblem: the address or password cannot be used.
        """
        # Imported where it is used: a service without Redis would start later, and take 6 MB more.
        import redis

        self.is_up = True
        self.threads = MonitoredThreadPool(1, "redis")
        self._redis = _make_client(url, password_file)
        self._events: deque[tuple[str, dict[str, Any]]] = deque(maxlen=EVENTS_WAITING)
        # An announced event is sent by a call that already waits.
        self._sending = False
        self._is_logged = False
        try:
            self._connect()
        except redis.AuthenticationError as error:
            raise InputProblem(
                f"GMN_REDIS_URL: Redis refuses the user or the password ({error}); name the right "
                "one there or in GMN_REDIS_PASSWORD_FILE"
            ) from error
        except (redis.RedisError, OSError) as error:
            self._note_away(error)

    async def take(self, key_id: str, rate: int, count: int) -> float | None:
        """Take requests or images from a key's rate.

        Returns:
            Seconds to wait until enough are available; 0 if they were taken, None if Redis does not
            answer.
        """

        def take() -> float:
            return float(self._redis.eval(TAKE, 1, f"gmn:rate:{key_id}", rate, count))

        return await self.threads.run(self._ask, take) if self.is_up else None

    async def hold(self, name: str, content: bytes, seconds: int) -> bool:
        """Hold bytes under a name for some seconds; return False if Redis does not answer."""
        return bool(
            await self.threads.run(self._ask, lambda: self._redis.set(name, content, ex=seconds))
        )

    async def read(self, name: str) -> bytes | None:
        """Return the bytes held under a name; None if there are none or Redis does not answer."""

        def read() -> bytes | None:
            content = self._redis.get(name)
            return content if isinstance(content, bytes) else None

        return await self.threads.run(self._ask, read)

    async def drop(self, name: str) -> bool:
        """Drop the bytes held under a name; return False if Redis does not answer."""
        return await self.threads.run(self._ask, lambda: self._redis.delete(name)) is not None

    def announce(self, gallery: str, event: str, **what: Any) -> None:
        """Append an event to a gallery's stream; the oldest waiting events are dropped first."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._events.append((gallery, {"event": event, "at": now, **what}))
        if self.is_up and not self._sending:
            self._sending = True
            self.threads.submit(self._ask, self._send_events)

    def check(self) -> None:
        try:
            self._connect()
        except Exception as error:
            self._note_away(error)
        self._ask(self._send_events)

    def close(self) -> None:
        self.threads.shutdown()
        self.is_up = False
        self._redis.close()

    def _ask(self, call: Callable[[], Result]) -> Result | None:
        try:
            # Redis may have stopped answering while the call waited.
            return call() if self.is_up else None
        except Exception as error:
            self._note_away(error)
            return None

    def _send_events(self) -> None:
        # Events that are announced from now on need another call.
        self._sending = False
        while self._events:
            pipeline = self._redis.pipeline(transaction=False)
            for gallery, event in list(self._events)[:EVENTS_AT_ONCE]:
                stream = f"gmn:events:{gallery}"
                pipeline.xadd(stream, {"json": json.dumps(event)}, maxlen=EVENTS_KEPT)
            # Without an answer the events stay and are sent again.
            for answer in pipeline.execute(raise_on_error=False):
                self._events.popleft()
                if isinstance(answer, Exception):
                    raise answer

    def _connect(self) -> None:
        self._redis.ping()
        if not self.is_up:
            log.warning("Redis answers again: keys' rates are counted over all processes")
        self._is_logged = False
        self.is_up = True

    def _note_away(self, error: Exception) -> None:
        self.is_up = False
        if not self._is_logged:
            log.warning("%s (%r)", AWAY, error)
        self._is_logged = True


class KeyRates:
    """Rates of keys: a token bucket per key that refills within a minute."""

    def __init__(self, processes: int = 1, shared: SharedRedis | None = None) -> None:
        """Count in Redis, or in this process while Redis is away.

        Args:
            processes: number of processes that share each rate equally when they count by
                themselves.
        """
        self._processes = processes
        self._shared = shared
        # Remaining requests or images of a key, and when that was computed.
        self._left: dict[str, tuple[float, float]] = {}

    async def take(self, key_id: str, rate: int, count: int) -> float:
        """Take requests or images from a key's bucket, at most `rate`.

        Returns:
            Seconds to wait until enough are available; 0 if they were taken.
        """
        wait = None
        if self._shared:
            wait = await self._shared.take(key_id, rate, count)
        return self._take(key_id, rate / self._processes, count) if wait is None else wait

    def _take(self, key_id: str, share: float, count: int) -> float:
        now = time.monotonic()
        left, counted_at = self._left.get(key_id, (share, now))
        left = min(share, left + (now - counted_at) * share / 60)
        # A request larger than the share is taken from a full bucket, which goes into debt.
        needed = min(count, share)
        if left < needed:
            return (needed - left) * 60 / share
        self._left[key_id] = (left - count, now)
        return 0.0


def _make_client(url: str, password_file: Path | None) -> redis.Redis:
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    if is_malformed(url):
        raise InputProblem(f"GMN_REDIS_URL: {REMEDY}; write it like {FORM}")
    password = read_password("GMN_REDIS_PASSWORD_FILE", password_file) if password_file else None
    try:
        return redis.Redis.from_url(
            url,
            password=password,
            protocol=2,
            socket_timeout=ANSWERS_WITHIN_SECONDS,
            socket_connect_timeout=CONNECTS_WITHIN_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise InputProblem(
            f"GMN_REDIS_URL: cannot be read ({error}); write it like {FORM}"
        ) from error
