"""A record in Redis of format 3, the one before: hashes and sorted sets of each gallery."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

from gmn_client.models import JobProblem
from service.record.crop_entries import Contents
from service.record.gallery_entries import Entry
from service.record.jobs import Job
from service.record.migration import OldGallery, migrate
from service.record.records import PublishedCalibration, Snapshot, StoredCrop
from service.record.redis_engine import FORMAT as NEW_FORMAT
from service.record.redis_engine import STREAM, RedisEngine
from service.record.small_records import SCOPES, ApiKey
from service.record.stored_values import as_text, as_time

FORMAT, MIGRATING = b"3", b"3 to 4"
CROP = tuple(
    one.name for one in fields(StoredCrop) if one.name not in ("row_id", "inside", "changes")
)
ROWS_AT_ONCE = 100
KEYS_AT_ONCE = 1000
BEGIN = datetime(1970, 1, 1, tzinfo=UTC)
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
        for name, number in _pairs(self._ask("HGETALL", "gmn:names")):
            at = f"gmn:g:{number.decode()}"
            kept = {one: value.decode() for one, value in _pairs(self._ask("HGETALL", at))}
            days = kept.get("retention_days")
            yield OldGallery(
                Entry(
                    gallery_id=int(number),
                    name=name,
                    embedding_fingerprint=kept["embedder"],
                    created_at=kept["created_at"],
                    settings={
                        "retention_days": int(days) if days else None,
                        "calibration": kept["calibration"],
                        "retention_from": kept["retention_from"],
                    },
                    version=int(kept["version"]),
                ),
                self._crops(f"{at}:{kept['generation']}:", kept["side"]),
                [one.decode() for one in self._ask("ZRANGE", f"{at}:tombstones", 0, -1)],
                [
                    Snapshot(**_times(json.loads(text), "created_at"))
                    for text in self._ask("HVALS", f"{at}:snapshots")
                ],
                [self._job(one.decode()) for one in self._ask("ZRANGE", f"{at}:jobs", 0, -1)],
                {
                    subject: _published(text)
                    for subject, text in _pairs(self._ask("HGETALL", f"{at}:published"))
                },
            )

    def last_gallery(self) -> int:
        """The number that was given to the newest gallery."""
        return int(self._ask("GET", "gmn:galleries") or 0)

    def api_keys(self) -> list[ApiKey]:
        """API keys."""
        found = (json.loads(text) for text in self._ask("HVALS", "gmn:keys"))
        return [
            ApiKey(
                **{
                    **dict(one),
                    "scopes": tuple(scope for scope in SCOPES if scope in one["scopes"]),
                    "expires_at": as_time(one.get("expires_at")),
                }
            )
            for one in found
        ]

    def runtimes(self) -> dict[str, str]:
        """What computes the features, by the embedder's fingerprint."""
        return {one: text.decode() for one, text in _pairs(self._ask("HGETALL", "gmn:runtimes"))}

    def stray_pictures(self) -> list[tuple[int, str, str]]:
        """Pictures outside that belong to no crop: gallery, crop id, and from when, as text."""
        galleries = dict(_pairs(self._ask("HGETALL", "gmn:strays:galleries")))
        scored = self._ask("ZRANGE", "gmn:strays", 0, -1, "WITHSCORES")
        begin = datetime(1970, 1, 1, tzinfo=UTC)
        return [
            (
                int(galleries[one.decode()]),
                one.decode(),
                as_text(begin + timedelta(microseconds=at)),
            )
            for one, at in scored
            if one.decode() in galleries
        ]

    def _crops(self, at: str, side: str) -> Iterator[Contents]:
        first = 0
        while rows := self._ask("ZRANGE", f"{at}rows", first, first + ROWS_AT_ONCE - 1):
            first += len(rows)
            for row in rows:
                *values, vector, picture = self._ask(
                    "HMGET", f"{at}crop:{row.decode()}", *CROP, f"vector:{side}", "picture"
                )
                texts = (value.decode() if value is not None else None for value in values)
                entry: dict[str, Any] = dict(zip(CROP, texts, strict=True))
                entry["image_bytes"] = int(entry["image_bytes"])
                entry["content_type"] = entry["content_type"] or None
                entry["metadata"] = json.loads(entry["metadata"]) if entry["metadata"] else None
                yield Contents(StoredCrop(int(row), **entry), vector, picture)

    def _job(self, job_id: str) -> tuple[Job, list[JobProblem]]:
        found = dict(_pairs(self._ask("HGETALL", f"gmn:job:{job_id}")))
        texts = {one: value.decode() for one, value in found.items()}
        problems = [
            JobProblem(**json.loads(text))
            for text in self._ask("HVALS", f"gmn:job:{job_id}:problems")
        ]
        job = Job(
            job_id=job_id,
            gallery_id=int(texts["gallery_id"]),
            kind=texts["kind"],  # type: ignore[arg-type]
            state=texts["state"],  # type: ignore[arg-type]
            parameters=json.loads(texts["parameters"]),
            progress=json.loads(texts["progress"]),
            problems=len(problems),
            cancelling="cancelling" in texts,
            worker=None,
            detail=texts.get("detail") or None,
            created_at=datetime.fromisoformat(texts["created_at"]),
            updated_at=datetime.fromisoformat(texts["updated_at"]),
        )
        return job, problems

    def _ask(self, *command: str | int) -> Any:
        return self._engine.command(*command)


def _published(text: bytes) -> PublishedCalibration:
    version, _, body = text.decode().partition(":")
    return PublishedCalibration(int(version), body)


def _pairs(found: Any) -> list[tuple[str, bytes]]:
    """Names and values of a hash, as redis-py answers it."""
    return [(name.decode(), value) for name, value in found.items()]


def _times(kept: dict[str, Any], *names: str) -> dict[str, Any]:
    return {**kept, **{name: datetime.fromisoformat(kept[name]) for name in names}}


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
