"""A record in Redis of format 3, the one before: hashes and sorted sets of each gallery."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pydantic_core import from_json

from gmn_client.models import JobProblem
from model.problems import InputProblem
from service.record.engine import as_text
from service.record.jobs import Job
from service.record.migration import (
    CROP,
    OldGallery,
    OldRecord,
    migrate,
    old_api_key,
    old_crop,
    old_entry,
    old_job,
)
from service.record.records import ArchivedCrop, PublishedCalibration, Snapshot
from service.record.redis_engine import FORMAT as NEW_FORMAT
from service.record.redis_engine import STREAM, RedisEngine, record_name

FORMAT, MIGRATING = b"3", b"3 to 4"
ROWS_AT_ONCE = 100
KEYS_AT_ONCE = 1000
NEW = ("gmn:v:*", "gmn:order", "gmn:commit:*")
OLD = (
    *("gmn:g:*", "gmn:job:*", "gmn:jobs", "gmn:jobs:open", "gmn:keys", "gmn:names"),
    *("gmn:galleries", "gmn:rows", "gmn:runtimes", "gmn:strays", "gmn:strays:galleries"),
    *("gmn:chores", "gmn:write:*"),
)


def is_older_redis(engine: RedisEngine) -> bool:
    """Whether Redis holds a record of the format before."""
    return engine.command("GET", "gmn:format") in (FORMAT, MIGRATING)


def migrate_redis(engine: RedisEngine) -> None:
    """Writes a record of format 3 anew beside itself, and then removes the old one.

    The epoch of the record changes first: processes that connect later and hold the one before are
    refused. Where this ends early the old record is whole, and the next upgrade begins again. Redis
    holds both meanwhile.

    Raises:
        InputProblem: where another process is connected, or what was acknowledged is missing.
    """
    engine.require_acknowledged()
    if engine.others_connected():
        raise InputProblem(
            f"Redis at {engine.place}: its record is of an older format, and other processes of "
            "this program are connected to it; stop every service, then run gmn store upgrade or "
            "start one"
        )
    name = record_name((engine.command("GET", "gmn:epoch") or b"").decode())
    epoch = f"{name or secrets.token_hex(16)}-{secrets.token_hex(8)}"
    engine.command("MSET", "gmn:format", MIGRATING, "gmn:epoch", epoch)
    engine.adopt()
    _remove(engine, *NEW)
    migrate(_old_record(engine), engine)
    # Followers of the old record read everything again.
    engine.command("DEL", STREAM)
    _remove(engine, *OLD)
    engine.command("SET", "gmn:format", NEW_FORMAT)


def _old_record(engine: RedisEngine) -> OldRecord:
    names = _texts(engine, "gmn:names").items()
    keys = [from_json(text) for text in engine.command("HVALS", "gmn:keys")]
    galleries = _texts(engine, "gmn:strays:galleries")
    strays = [
        (one.decode(), datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at))
        for one, at in engine.command("ZRANGE", "gmn:strays", 0, -1, "WITHSCORES")
    ]
    return OldRecord(
        galleries=(_gallery(engine, name, number) for name, number in names),
        last_gallery=int(engine.command("GET", "gmn:galleries") or 0),
        api_keys=[old_api_key(one, one["scopes"]) for one in keys],
        runtimes=_texts(engine, "gmn:runtimes"),
        stray_pictures=[
            (int(galleries[crop_id]), crop_id, as_text(since))
            for crop_id, since in strays
            if crop_id in galleries
        ],
    )


def _gallery(engine: RedisEngine, name: str, number: str) -> OldGallery:
    at = f"gmn:g:{number}"
    kept = _texts(engine, at)
    entry = {**kept, "gallery_id": number, "name": name, "embedding_fingerprint": kept["embedder"]}
    published = _texts(engine, f"{at}:published")
    return OldGallery(
        old_entry(entry),
        _crops(engine, f"{at}:{kept['generation']}:", kept["side"]),
        [one.decode() for one in engine.command("ZRANGE", f"{at}:tombstones", 0, -1)],
        [Snapshot(**from_json(text)) for text in engine.command("HVALS", f"{at}:snapshots")],
        [_job(engine, one.decode()) for one in engine.command("ZRANGE", f"{at}:jobs", 0, -1)],
        {subject: _published(text) for subject, text in published.items()},
    )


def _crops(engine: RedisEngine, at: str, side: str) -> Iterator[ArchivedCrop]:
    first = 0
    while rows := engine.command("ZRANGE", f"{at}rows", first, first + ROWS_AT_ONCE - 1):
        first += len(rows)
        for row in rows:
            *values, vector, picture = engine.command(
                "HMGET", f"{at}crop:{row.decode()}", *CROP, f"vector:{side}", "picture"
            )
            texts = (value.decode() if value is not None else None for value in values)
            yield old_crop(int(row), dict(zip(CROP, texts, strict=True)), vector, picture)


def _job(engine: RedisEngine, job_id: str) -> tuple[Job, list[JobProblem]]:
    found = engine.command("HVALS", f"gmn:job:{job_id}:problems")
    problems = [JobProblem.model_validate_json(text) for text in found]
    texts = _texts(engine, f"gmn:job:{job_id}")
    kept = {"detail": None, **texts, "job_id": job_id, "cancelling": "cancelling" in texts}
    return old_job(kept, problems), problems


def _texts(engine: RedisEngine, hash_key: str) -> dict[str, str]:
    found = engine.command("HGETALL", hash_key)
    return {name.decode(): value.decode() for name, value in found.items()}


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
