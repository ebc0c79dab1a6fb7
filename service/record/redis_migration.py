"""A record in Redis of format 3, the one before: hashes and sorted sets of each gallery."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pydantic_core import from_json

from gmn_client.models import JobProblem
from service.record.gallery_entries import ENTRY
from service.record.jobs import Job
from service.record.migration import (
    CROP,
    OldGallery,
    migrate,
    old_api_key,
    old_crop,
    old_job,
)
from service.record.records import ArchivedCrop, PublishedCalibration, Snapshot
from service.record.redis_engine import FORMAT as NEW_FORMAT
from service.record.redis_engine import STREAM, RedisEngine
from service.record.small_records import ApiKey
from service.record.stored_values import as_text

FORMAT, MIGRATING = b"3", b"3 to 4"
ROWS_AT_ONCE = 100
KEYS_AT_ONCE = 1000
NEW = ("gmn:v:*", "gmn:order", "gmn:commit:*")
OLD = (
    *("gmn:g:*", "gmn:job:*", "gmn:jobs", "gmn:jobs:open", "gmn:keys", "gmn:names"),
    *("gmn:galleries", "gmn:rows", "gmn:runtimes", "gmn:strays", "gmn:strays:galleries"),
    *("gmn:chores", "gmn:write:*"),
)


def migrate_redis(engine: RedisEngine) -> None:
    """Writes a record of format 3 anew beside itself, and then removes the old one.

    The record gets another name first: processes of the program version before are refused from
    then on. Where this ends early the old record is whole, and the next start begins again.
    Redis holds both meanwhile.
    """
    if engine.command("GET", "gmn:format") not in (FORMAT, MIGRATING):
        return
    engine.command("MSET", "gmn:format", MIGRATING, "gmn:epoch", secrets.token_hex(16))
    engine.adopt()
    _remove(engine, *NEW)
    migrate(OldRedis(engine), engine)
    # Followers of the old record read everything again.
    engine.command("DEL", STREAM)
    _remove(engine, *OLD)
    engine.command("SET", "gmn:format", NEW_FORMAT)


class OldRedis:
    """Implements `OldRecord`."""

    def __init__(self, engine: RedisEngine) -> None:
        self._engine = engine

    def galleries(self) -> Iterator[OldGallery]:
        """Every gallery."""
        for name, number in self._texts("gmn:names").items():
            at = f"gmn:g:{number}"
            kept = self._texts(at)
            entry = {
                "gallery_id": number,
                "name": name,
                "embedding_fingerprint": kept["embedder"],
                "created_at": kept["created_at"],
                "version": kept["version"],
                "settings": {
                    "retention_days": kept.get("retention_days") or None,
                    "calibration": kept["calibration"],
                    "retention_from": kept["retention_from"],
                },
            }
            yield OldGallery(
                ENTRY.validate_python(entry),
                self._crops(f"{at}:{kept['generation']}:", kept["side"]),
                [one.decode() for one in self._ask("ZRANGE", f"{at}:tombstones", 0, -1)],
                [Snapshot(**from_json(text)) for text in self._ask("HVALS", f"{at}:snapshots")],
                [self._job(one.decode()) for one in self._ask("ZRANGE", f"{at}:jobs", 0, -1)],
                {
                    subject: _published(text)
                    for subject, text in self._texts(f"{at}:published").items()
                },
            )

    def last_gallery(self) -> int:
        """The number that was given to the newest gallery."""
        return int(self._ask("GET", "gmn:galleries") or 0)

    def api_keys(self) -> list[ApiKey]:
        """API keys."""
        found = [from_json(text) for text in self._ask("HVALS", "gmn:keys")]
        return [old_api_key(one, one["scopes"]) for one in found]

    def runtimes(self) -> dict[str, str]:
        """What computes the features, by the embedder's fingerprint."""
        return self._texts("gmn:runtimes")

    def stray_pictures(self) -> list[tuple[int, str, str]]:
        """Pictures outside that belong to no crop: gallery, crop id, and from when, as text."""
        galleries = self._texts("gmn:strays:galleries")
        scored = self._ask("ZRANGE", "gmn:strays", 0, -1, "WITHSCORES")
        begin = datetime(1970, 1, 1, tzinfo=UTC)
        strays = [(one.decode(), begin + timedelta(microseconds=at)) for one, at in scored]
        return [
            (int(galleries[crop_id]), crop_id, as_text(since))
            for crop_id, since in strays
            if crop_id in galleries
        ]

    def _crops(self, at: str, side: str) -> Iterator[ArchivedCrop]:
        first = 0
        while rows := self._ask("ZRANGE", f"{at}rows", first, first + ROWS_AT_ONCE - 1):
            first += len(rows)
            for row in rows:
                *values, vector, picture = self._ask(
                    "HMGET", f"{at}crop:{row.decode()}", *CROP, f"vector:{side}", "picture"
                )
                texts = (value.decode() if value is not None else None for value in values)
                yield old_crop(int(row), dict(zip(CROP, texts, strict=True)), vector, picture)

    def _job(self, job_id: str) -> tuple[Job, list[JobProblem]]:
        found = self._ask("HVALS", f"gmn:job:{job_id}:problems")
        problems = [JobProblem.model_validate_json(text) for text in found]
        texts = self._texts(f"gmn:job:{job_id}")
        kept = {"detail": None, **texts, "job_id": job_id, "cancelling": "cancelling" in texts}
        return old_job(kept, problems), problems

    def _texts(self, hash_key: str) -> dict[str, str]:
        """Names and values of a hash."""
        return {
            name.decode(): value.decode() for name, value in self._ask("HGETALL", hash_key).items()
        }

    def _ask(self, *command: str | int) -> Any:
        return self._engine.command(*command)


def _published(text: str) -> PublishedCalibration:
    version, _, body = text.partition(":")
    return PublishedCalibration(int(version), body)


def _remove(engine: RedisEngine, *patterns: str) -> None:
    for pattern in patterns:
        cursor = None
        while cursor != 0:
            cursor, found = engine.command(
                "SCAN", cursor or 0, "MATCH", pattern, "COUNT", KEYS_AT_ONCE
            )
            cursor = int(cursor)
            if found:
                engine.command("UNLINK", *found)
