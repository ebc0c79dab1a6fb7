"""Kept scores of searches, the calibration that is fitted to them, and its cost."""

import asyncio
import contextlib
import gc
import json
import os
import sqlite3
import time
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from model.gallery_thresholds import RULE
from model.search_calibration import pack_search, unpack_searches
from service.forgetting import forget_identity
from service.gallery.enroll import ImageToEnroll
from service.index.filters import SearchFilter
from service.record.transaction import FILE
from service.record.values import GallerySettings
from service.search import refit
from service.search.options import QueryOptions
from service.search.query import GalleriesQuery
from service.search.refit import LEAST_SEARCHES, REFIT_AFTER_SEARCHES
from tests.service.conftest import running
from tests.service.test_search_calibration import draw
from tests.waiting import LONGEST_SECONDS

pytestmark = pytest.mark.slow

COSINE = QueryOptions(scoring="cosine")


@pytest.fixture
def runtime(tiny_artefact, tmp_path, engine):
    with running(tiny_artefact, tmp_path) as opened:
        yield opened


def default(runtime):
    return runtime.galleries.get("default")


async def fill(runtime, people=range(80), named=True, camera=None):
    images = [
        ImageToEnroll(image=draw(person, 0), identity=str(person) if named else None, camera=camera)
        for person in people
    ]
    await runtime.enrollment.enroll(default(runtime), images)


async def fit(runtime):
    await runtime.fitter.fit_if_due(default(runtime))


async def search(runtime, image, options=COSINE):
    (query,) = await runtime.search.answer(GalleriesQuery(["default"], [image], options))
    return query.answer


async def ask(runtime, people):
    return [(await search(runtime, draw(person, 7))).verdict for person in people]


def calibration(runtime):
    return runtime.calibrations.current(default(runtime), "cosine")


def state(runtime):
    return calibration(runtime).as_state(40)


def version(runtime):
    published = calibration(runtime).published
    return published.version if published else ""


def publish(runtime, body, after=0):
    """Publish the calibration of another process or version."""
    gallery = default(runtime)
    score_kind = calibration(runtime).score_kind
    assert runtime.record.calibrations.publish(gallery.gallery_id, score_kind, body, after)
    runtime.galleries.reload_calibration(gallery)


def kept(runtime):
    score_kind = calibration(runtime).score_kind
    return list(runtime.record.calibrations.searches(default(runtime).gallery_id, score_kind))


@pytest.mark.skipif("REID_TEST_DATA" not in os.environ, reason="needs $REID_TEST_DATA")
async def test_photographed_people_are_found_and_strangers_are_not_without_a_search_before(
    tmp_path,
):
    crops = Path(os.environ["REID_TEST_DATA"]) / "cuhk01" / "campus"

    def image(person, shot):
        return (crops / f"{person:04d}{shot:03d}.png").read_bytes()

    async def verdicts(runtime):
        enrolled = [
            ImageToEnroll(image=image(person, shot), identity=str(person), camera="a")
            for person in range(1, 61)
            for shot in (1, 2)
        ]
        await runtime.enrollment.enroll(default(runtime), enrolled)
        await fit(runtime)
        return [
            [(await search(runtime, image(person, 3), QueryOptions())).verdict for person in people]
            for people in (range(1, 61), range(61, 121))
        ]

    with running("bundled", tmp_path, runtime="openvino") as runtime:
        known, strangers = await verdicts(runtime)
    assert known.count("no_match") <= 20
    assert known.count("match") >= 6
    assert strangers.count("match") <= 2


async def test_a_refit_takes_sixteen_new_searches_and_a_minute(runtime, monkeypatch):
    due = {}
    start = time.monotonic()
    monkeypatch.setattr(refit.time, "monotonic", lambda: start)

    await fill(runtime, named=False)
    seen = []
    people = iter(range(300, 400))
    for count in (LEAST_SEARCHES - 1, 1, REFIT_AFTER_SEARCHES - 1, 1):
        await ask(runtime, [next(people) for _ in range(count)])
        await runtime.fitter.store_and_refit(due)
        seen.append(version(runtime))
    before, fitted, fewer, too_soon = seen
    assert before != fitted
    assert fitted == fewer == too_soon
    monkeypatch.setattr(refit.time, "monotonic", lambda: start + 3600.0)
    await runtime.fitter.store_and_refit(due)
    assert version(runtime) != fitted


async def test_a_fit_while_the_clock_was_ahead_does_not_stop_the_next(runtime, monkeypatch):
    async def refitted(people):
        await ask(runtime, people)
        await runtime.fitter.store_and_refit({})
        return version(runtime)

    await fill(runtime, named=False)
    now = time.time()
    with monkeypatch.context() as patched:
        patched.setattr(refit.time, "time", lambda: now + 400 * 86_400)
        ahead = await refitted(range(300, 320))
    assert await refitted(range(320, 340)) != ahead


@pytest.mark.promise("thresholds-of-names")
async def test_searches_of_a_gallery_with_names_are_not_stored_and_change_nothing(runtime):
    await fill(runtime)
    await fit(runtime)
    before = version(runtime)
    await ask(runtime, range(30))
    await ask(runtime, range(300, 330))
    await runtime.fitter.store_and_refit({})
    assert kept(runtime) == []
    assert version(runtime) == before
    # A later fit to more crops has the thresholds of a gallery that nobody searched.
    assert calibration(runtime).published.searches == 0


async def test_a_filtered_search_is_judged_by_its_level_and_the_identities_that_pass(runtime):
    await fill(runtime, range(60))
    await fill(runtime, range(60, 80), camera="west")
    await fit(runtime)
    west = SearchFilter(cameras=frozenset(["west"]))
    options = QueryOptions(scoring="cosine", wanted=west, group_by="identity", top_k=20)
    results = (await search(runtime, draw(65, 7), options)).results
    scores = np.array([result.cosine for result in results])
    fitted = calibration(runtime).published.calibration
    among_20, among_80 = (
        fitted.tail(identities).probability(scores, scores[1:9].mean()) for identities in (20, 80)
    )
    assert [result.probability for result in results] == pytest.approx(among_20.tolist(), abs=1e-5)
    assert abs(among_20 - among_80).max() > 1e-3


async def test_a_gallery_that_has_changed_in_size_is_fitted_again(runtime):
    seen = []
    for people in (range(17), range(17, 30), range(30, 35), range(35, 46)):
        await fill(runtime, people)
        await fit(runtime)
        seen.append(state(runtime).identities)
    for person in range(24, 46):
        await forget_identity(runtime, default(runtime), str(person))
    await fit(runtime)
    assert [*seen, state(runtime).identities] == [0, 30, 30, 46, 24]


async def publish_by_an_earlier_rule(runtime):
    """Publish thresholds of forty people by another rule, and return their version."""
    await fill(runtime, range(40))
    await fit(runtime)
    gallery_id = default(runtime).gallery_id
    fitted = runtime.record.calibrations.published(gallery_id)[calibration(runtime).score_kind]
    body = json.loads(fitted.body)
    body |= {"rule": RULE - 1, "rule_since": None}
    publish(runtime, json.dumps(body), fitted.version)
    return version(runtime)


async def test_thresholds_that_an_update_changes_say_so_in_the_answer_for_a_month(
    runtime, monkeypatch
):
    former = await publish_by_an_earlier_rule(runtime)
    assert "update" not in state(runtime).basis

    await fit(runtime)

    assert version(runtime) != former
    today = datetime.now(UTC).date()
    answer = await search(runtime, draw(3, 7))
    assert f"An update of the service has changed them on {today}" in answer.calibration.basis
    # Later fits by the same rule keep the day.
    await fill(runtime, range(40, 60))
    await fit(runtime)
    assert f"changed them on {today}" in state(runtime).basis
    later = time.time() + 31 * 86400
    monkeypatch.setattr(time, "time", lambda: later)
    assert "update" not in state(runtime).basis


async def test_frozen_thresholds_stay_as_they_are_after_an_update(runtime):
    former = await publish_by_an_earlier_rule(runtime)
    await runtime.gallery_changes.change(default(runtime), {"calibration": "frozen"})

    await fit(runtime)
    await runtime.fitter.store_and_refit({})

    assert version(runtime) == former
    assert "update" not in state(runtime).basis


@pytest.mark.parametrize("body", ["", "{}", "null", '{"fitted_at": 1, "calibration": {"x": 1}}'])
async def test_a_damaged_publication_is_fitted_again(runtime, body):
    publish(runtime, body)
    await fill(runtime, range(20))
    assert len(await ask(runtime, [3])) == 1
    await fit(runtime)
    assert state(runtime).identities == 20


def test_a_reset_by_another_process_drops_the_searches_that_wait_here(runtime):
    gallery = default(runtime)
    place = gallery.gallery_id, "cosine"
    scores = pack_search([*range(9, 0, -1)], 50, 1.0)
    runtime.calibrations.record_search_scores(place, np.ones(4, np.float32), scores)
    runtime.record.galleries.change(gallery.gallery_id, {}, reset_calibration=True)
    runtime.galleries.reload_calibration(gallery)
    assert runtime.calibrations.take_recorded() == {}


async def test_searches_are_kept_as_numbers_alone_and_those_that_wait_when_the_service_stops(
    runtime,
):
    await fill(runtime, range(20))
    working = asyncio.create_task(runtime.fitter.refit_calibrations())
    await asyncio.sleep(0)
    await ask(runtime, range(3))
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await runtime.galleries.write(lambda: None)
    rows = kept(runtime)
    assert len(rows) == 3
    assert all(len(row) < 100 for row in rows)
    for unpacked in unpack_searches(rows):
        assert (len(unpacked["scores"]), unpacked["identities"]) == (9, 20)


@pytest.mark.sqlite_alone
def test_what_was_learnt_adds_nothing_to_what_an_enrolment_writes(runtime, tmp_path):
    def logged(person):
        """Return the bytes that one enrollment writes into the database's log."""
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        asyncio.run(fill(runtime, [person]))
        return (tmp_path / f"{FILE}-wal").stat().st_size

    async def learn():
        await fit(runtime)
        await ask(runtime, range(300, 300 + 3 * LEAST_SEARCHES))
        await runtime.fitter.store_and_refit({})

    # Both are measured on a filled gallery, whose entries lie on as many pages.
    asyncio.run(fill(runtime, range(40)))
    before = logged(900)
    asyncio.run(learn())
    assert version(runtime)
    assert logged(901) <= before + 8 * 4096


async def test_a_listing_of_galleries_keeps_little_in_memory(runtime):
    for number in range(300):
        await runtime.galleries.create(f"g{number}", GallerySettings())

    def keeps_little():
        gc.collect()
        return tracemalloc.get_traced_memory()[0] < 200_000

    for _ in range(2):
        gc.collect()
        tracemalloc.start()
        await runtime.browser.list_galleries()
        # The reader thread still refers to the answer for a moment.
        async with asyncio.timeout(LONGEST_SECONDS):
            while not keeps_little():
                await asyncio.sleep(0.05)
        tracemalloc.stop()


async def test_a_query_runs_its_own_pass_and_at_most_sixty_four_pairs_more(runtime, monkeypatch):
    networks = runtime.model.networks
    scored = []
    score = networks.pair_scores

    def counting(queries, candidates):
        scored.append(len(candidates))
        return score(queries, candidates)

    # Twenty-two people of ten crops each: the hundred nearest show too few of them.
    images = [
        ImageToEnroll(image=draw(person, shot), identity=str(person))
        for person in range(22)
        for shot in range(10)
    ]
    await runtime.enrollment.enroll(default(runtime), images)
    monkeypatch.setattr(networks, "pair_scores", counting)
    await search(runtime, draw(0, 20), QueryOptions(rerank_depth=100))
    ((_, rows),) = runtime.calibrations.take_recorded().items()
    assert len(rows) == 1
    assert len(scored) == 1
    assert 100 <= scored[0] <= 164
