"""What Redis answers where it cannot do something, in the service's own words."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

import redis.exceptions

from service.errors import DamagedRedisRecord, RecordUnavailable, StorageFailed

FULL = ("OOM ", "MISCONF ")
# As the scripts say it, wherever Redis puts that into its own words.
DAMAGED = re.compile(r"DAMAGED\[(.*?)\]")


def shown_url(url: str) -> str:
    """A URL of Redis without user, password and options, fit for a message."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"


@contextlib.contextmanager
def translate_redis_errors(place: str) -> Iterator[None]:
    """Raises errors of Redis as errors of the service.

    Args:
        place: which Redis, as `shown_url` shows it.

    Raises:
        StorageFailed: it is full, or cannot write to its disk.
        RecordUnavailable: it does not answer, or is not ready to.
        DamagedRedisRecord: what is in it is not what was written.
    """
    try:
        yield
    except redis.exceptions.ReadOnlyError as error:
        raise _unavailable(place, "is a replica, which takes no writes") from error
    except redis.exceptions.AuthenticationError as error:
        raise _unavailable(place, f"does not let this user in ({error})") from error
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError) as error:
        raise _unavailable(place, f"does not answer ({error})") from error
    except redis.exceptions.ResponseError as error:
        if any(word in str(error) for word in FULL) or isinstance(
            error, redis.exceptions.OutOfMemoryError
        ):
            raise StorageFailed(
                f"Redis at {place} could not take it ({error}); nothing was stored, raise its "
                "maxmemory or free space on its disk, and send the request again"
            ) from error
        if isinstance(error, redis.exceptions.NoPermissionError):
            raise _unavailable(
                place, f"does not allow this user what is needed ({error})"
            ) from error
        if damage := DAMAGED.search(str(error)):
            raise DamagedRedisRecord(damage[1]) from error
        if str(error).startswith("BUSY"):
            raise _unavailable(place, "is busy with a script") from error
        raise


def _unavailable(place: str, what: str) -> RecordUnavailable:
    return RecordUnavailable(f"Redis at {place} {what}")
