"""A record in Redis of format 3, the one before: hashes and sorted sets of each gallery."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from pydantic_core import from_json

from gmn_client.models import JobProblem
from model.problems import InputProblem
from service.record.crop_changes import tombstone
from service.record.engine import as_text, key, now
from service.record.galleries import NEXT_GALLERY
from service.record.jobs import Job
from service.record.migration import (
    CROP,
    Entries,
    migrate,
    old_api_key,
    old_crop,
    old_entry,
    old_job,
    old_stray,
)
from service.record.records import ArchivedCrop, GalleryRecord, PublishedCalibration, Snapshot
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
    migrate(engine, _galleries(engine), _jobs(engine), _others(engine))
    # Followers of the old record read everything again.
    engine.command("DEL", STREAM)
    _remove(engine, *OLD)
    engine.command("SET", "gmn:format", NEW_FORMAT)


def _galleries(engine: RedisEngine) -> Iterator[tuple[GalleryRecord, Iterator[ArchivedCrop]]]:
    for name, number in _texts(engine, "gmn:names").items():
        at = f"gmn:g:{number}"
        kept = _texts(engine, at)
        kept |= {"gallery_id": number, "name": name, "embedding_fingerprint": kept["embedder"]}
        yield old_entry(kept), _crops(engine, f"{at}:{kept['generation']}:", kept["side"])


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


def _jobs(engine: RedisEngine) -> Iterator[tuple[Job, Sequence[JobProblem]]]:
    for number in _texts(engine, "gmn:names").values():
        for job_id in engine.command("ZRANGE", f"gmn:g:{number}:jobs", 0, -1):
            at = f"gmn:job:{job_id.decode()}"
            texts = _texts(engine, at)
            kept = {"detail": None, **texts, "job_id": job_id.decode()}
            kept["cancelling"] = "cancelling" in texts
            found = engine.command("HVALS", f"{at}:problems")
            yield old_job(kept, [JobProblem.model_validate_json(text) for text in found])


def _others(engine: RedisEngine) -> Entries:
    moment = now()
    for gallery in map(int, _texts(engine, "gmn:names").values()):
        at = f"gmn:g:{gallery}"
        for crop_id in engine.command("ZRANGE", f"{at}:tombstones", 0, -1):
            yield tombstone(gallery, crop_id.decode()), moment
        for text in engine.command("HVALS", f"{at}:snapshots"):
            snapshot = Snapshot(**from_json(text))
            yield key("snapshot", gallery, snapshot.snapshot_id), snapshot
        for subject, text in _texts(engine, f"{at}:published").items():
            version, _, body = text.partition(":")
            yield key("published", gallery, subject), PublishedCalibration(int(version), body)
    for text in engine.command("HVALS", "gmn:keys"):
        kept = from_json(text)
        yield old_api_key(kept, kept["scopes"])
    for embedder, choice in _texts(engine, "gmn:runtimes").items():
        yield key("runtime", embedder), choice
    galleries = _texts(engine, "gmn:strays:galleries")
    for one, at_us in engine.command("ZRANGE", "gmn:strays", 0, -1, "WITHSCORES"):
        if (crop_id := one.decode()) in galleries:
            since = datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at_us)
            yield from old_stray(int(galleries[crop_id]), crop_id, as_text(since))
    yield NEXT_GALLERY, int(engine.command("GET", "gmn:galleries") or 0)


def _texts(engine: RedisEngine, hash_key: str) -> dict[str, str]:
    found = engine.command("HGETALL", hash_key)
    return {name.decode(): value.decode() for name, value in found.items()}


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
