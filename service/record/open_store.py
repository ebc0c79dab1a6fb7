"""Opens the record store that the settings name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlsplit

from model.problems import InputProblem
from service.ops.high_water import SUFFIX, HighWaterMark
from service.record.record import Record, open_redis, open_sqlite


def open_store(
    redis_url: str | None,
    database: Path,
    redis_password_file: Path | None = None,
    alone: bool = False,
) -> Record:
    """The record in Redis where one is named, and else in the SQLite file.

    Args:
        redis_url: the Redis; None for the file.
        database: the SQLite file; beside it is noted what Redis has acknowledged.
        redis_password_file: where the URL's password stands, if not in the URL.
        alone: no other process uses the file.

    Raises:
        InputProblem: where it cannot be used.
    """
    if redis_url:
        mark = HighWaterMark(database.with_name(f"redis{SUFFIX}"))
        return open_redis(_with_password(redis_url, redis_password_file), mark=mark)
    return open_sqlite(database, alone)


def _with_password(url: str, file: Path | None) -> str:
    if file is None:
        return url
    parts = urlsplit(url)
    user, _, place = parts.netloc.rpartition("@")
    if ":" in user:
        raise InputProblem(
            "GMN_REDIS_URL has a password, and GMN_REDIS_PASSWORD_FILE names another; leave one out"
        )
    try:
        password = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputProblem(
            f"{file}: the password of Redis cannot be read ({reason}); name a readable file in "
            "GMN_REDIS_PASSWORD_FILE"
        ) from error
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{place}").geturl()
