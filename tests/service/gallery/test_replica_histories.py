"""What clients of two processes see while the way to their record lags, stalls, breaks and resets.

Every crop is absent, then present, then absent. What was acknowledged is so for every query that
begins later: a deletion always, an enrolment where its version is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from dataclasses import dataclass, field

import pytest

from service.errors import RecordUnavailable, ServiceError, UnknownCrop, VersionNotReached
from service.gallery.registry import DEFAULT_GALLERY as HERE
from tests.service.gallery.new_crops import new_crop
from tests.service.gallery.replicas import Replica
from tests.service.lagging_proxy import LaggingProxy
from tests.waiting import eventually

pytestmark = pytest.mark.slow

SECONDS = 8.0
WRITERS = 4
READERS = 4
AGAIN_SECONDS = 0.05


@dataclass
class Life:
    """One crop, and between which moments what happened to it was begun and acknowledged."""

    crop_id: str
    enrolled: tuple[float, float] = (0.0, float("inf"))
    version: int = 0
    removed: tuple[float, float] = (float("inf"), float("inf"))
    removed_version: int = 0


@dataclass
class Seen:
    """One query: when, of which version at least, what it showed, and whether from memory alone."""

    began: float
    ended: float
    min_version: int
    crop_ids: set[str]
    stale: bool


@dataclass
class History:
    """Everything that clients did and saw."""

    lives: list[Life] = field(default_factory=list)
    queries: list[Seen] = field(default_factory=list)
    newest_version: int = 0


@pytest.fixture
def lagging(redis_record):
    """Two replicas, each behind a proxy of its own."""
    redis_record.ask("FLUSHALL")
    with contextlib.ExitStack() as held:
        proxies = [
            held.enter_context(contextlib.closing(LaggingProxy(redis_record.port, seed)))
            for seed in (1, 2)
        ]
        yield (
            [held.enter_context(contextlib.closing(Replica(one.url))) for one in proxies],
            proxies,
        )


async def _trouble(proxies, until, chance):
    """One misfortune after another, on one way or the other."""
    while time.monotonic() < until:
        proxy = chance.choice(proxies)
        proxy.delay = chance.choice([0.0, 0.005, 0.02])
        match chance.randrange(6):
            case 0:
                proxy.cut()
            case 1:
                proxy.reset()
            case 2:
                proxy.stall()
                await asyncio.sleep(chance.uniform(0.05, 0.4))
                proxy.flow()
        await asyncio.sleep(chance.uniform(0.05, 0.3))


async def _until_answered(call):
    """A client asks again while the record does not answer."""
    while True:
        try:
            return await call()
        except RecordUnavailable:
            await asyncio.sleep(AGAIN_SECONDS)


def _enroll(replica, crop):
    return replica.enrolling(replica.galleries.get(HERE), [crop])


def _remove(replica, crop_id):
    return replica.removing(replica.galleries.get(HERE), crop_id)


async def _write(history, replicas, until, numbers, chance):
    while time.monotonic() < until:
        number = next(numbers)
        life = Life(f"crop-{number}")
        history.lives.append(life)
        crop = new_crop(number, crop_id=life.crop_id)
        began = time.monotonic()
        life.enrolled = (began, float("inf"))
        enrolment = await _until_answered(lambda crop=crop: _enroll(chance.choice(replicas), crop))
        assert enrolment.landed[0].crop_id == life.crop_id
        life.enrolled = (began, time.monotonic())
        life.version = enrolment.version
        history.newest_version = max(history.newest_version, enrolment.version)
        await asyncio.sleep(chance.uniform(0, 0.2))
        if chance.random() < 0.3:
            continue
        life.removed = (time.monotonic(), float("inf"))
        # One that was removed by a request whose answer was lost is unknown.
        with contextlib.suppress(UnknownCrop):
            removal = await _until_answered(
                lambda life=life: _remove(chance.choice(replicas), life.crop_id)
            )
            life.removed_version = removal.version
        life.removed = (life.removed[0], time.monotonic())


async def _read(history, replicas, until, chance):
    while time.monotonic() < until:
        wanted = history.newest_version if chance.random() < 0.5 else 0
        began = time.monotonic()
        try:
            found, stale = await chance.choice(replicas).query(HERE, wanted)
        except (VersionNotReached, LookupError):
            continue
        history.queries.append(Seen(began, time.monotonic(), wanted, found, stale))
        await asyncio.sleep(0.005)


def _what_is_wrong(history):
    """Every query that showed what it must not, or did not show what it must."""
    for life, query in itertools.product(history.lives, history.queries):
        shown = life.crop_id in query.crop_ids
        deleted_before = query.began > life.removed[1]
        known_deleted = not query.stale or 0 < life.removed_version <= query.min_version
        if shown and deleted_before and known_deleted:
            yield "a deleted crop was shown", life, query
        if shown and query.ended < life.enrolled[0]:
            yield "a crop was shown before it was enrolled", life, query
        acknowledged = query.began > life.enrolled[1] and query.min_version >= life.version
        if not shown and acknowledged and query.ended < life.removed[0]:
            yield "an enrolled crop was not shown", life, query


def test_histories_under_random_lag_are_linearisable_per_crop(lagging):
    replicas, proxies = lagging
    chance = random.Random(11)
    history = History()
    numbers = itertools.count()
    until = time.monotonic() + SECONDS

    async def all_of_it():
        async with asyncio.TaskGroup() as clients:
            clients.create_task(_trouble(proxies, until, chance))
            for _ in range(WRITERS):
                clients.create_task(_write(history, replicas, until, numbers, chance))
            for _ in range(READERS):
                clients.create_task(_read(history, replicas, until, chance))

    asyncio.run(all_of_it())
    for proxy in proxies:
        proxy.delay = 0.0
        proxy.flow()
    assert len(history.lives) > 20
    assert sum(not query.stale for query in history.queries) > 50
    assert any(query.min_version for query in history.queries)
    assert list(_what_is_wrong(history)) == []
    left = {life.crop_id for life in history.lives if life.removed[0] == float("inf")}
    for replica in replicas:
        eventually(lambda replica=replica: replica.shown(HERE).keys() == left)
        eventually(lambda replica=replica: replica.galleries.record_state.state == "in_step")


def test_a_way_that_stalls_is_told_and_mends_itself(lagging):
    replicas, proxies = lagging
    one, other = replicas
    first = one.enroll(HERE, 1)[0]
    eventually(lambda: first in other.shown(HERE))
    proxies[1].stall()
    began = time.monotonic()
    for _ in range(20):
        found, stale = asyncio.run(other.query(HERE))
        assert (found, stale) == ({first}, True)
    version = one.remove(HERE, first)
    # What cannot be known is not claimed: with the version it is asked for, and refused.
    with pytest.raises(ServiceError):
        asyncio.run(other.query(HERE, version))
    assert time.monotonic() - began < 15.0
    with pytest.raises(RecordUnavailable):
        other.enroll(HERE, 2)
    proxies[1].flow()
    eventually(lambda: other.galleries.record_state.state == "in_step")
    assert asyncio.run(other.query(HERE, version)) == (set(), False)
    assert other.enroll(HERE, 3)[0] in other.shown(HERE)
