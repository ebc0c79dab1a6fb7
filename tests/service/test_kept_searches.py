"""Kept scores of searches, the calibration that is fitted to them, and its cost."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sqlite3
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gmn_client.models import RankedCrop
from model.search_calibration import artefact_search_calibration, pack_search, unpack_searches
from service.gallery.browse import describe_gallery, list_galleries
from service.gallery.enroll import ImageToEnroll, enroll
from service.gallery.forget import forget_identity
from service.record.transaction import FILE
from service.record.values import GallerySettings
from service.runtime import Runtime
from service.search import refit
from service.search.options import QueryOptions
from service.search.query import GalleriesQuery
from service.search.refit import (
    LEAST_SEARCHES,
    REFIT_AFTER_SEARCHES,
    fit_if_due,
    store_and_refit,
)
from service.settings import Settings
from tests.service.test_search_calibration import draw

pytestmark = pytest.mark.slow

SCORES = pack_search([*range(9, 0, -1)], 50, 1.0)
COSINE = QueryOptions(scoring="cosine")


@pytest.fixture
def runtime(tiny_artefact, tmp_path):
    settings = Settings(
        artefact=str(tiny_artefact), data_dir=tmp_path, device="cpu", runtime="torch"
    )
    with contextlib.closing(Runtime(settings)) as opened:
        yield opened


async def fill(runtime, people=range(80), named: bool = True) -> None:
    for person in people:
        name = str(person) if named else None
        image = ImageToEnroll(draw(person, 0), name, None, None, None, None)
        await enroll(runtime, runtime.galleries.get("default"), [image])


async def fit(runtime) -> None:
    await fit_if_due(runtime, runtime.galleries.get("default"))


async def ask(runtime, people) -> list[str]:
    answers = [
        await GalleriesQuery(runtime, ["default"], [draw(person, 7)], COSINE).answer()
        for person in people
    ]
    return [query.answer.verdict for (query,) in answers]


def kept(runtime) -> list[bytes]:
    gallery = runtime.galleries.get("default")
    subject = runtime.calibrations.current(gallery, "cosine").subject
    return list(runtime.record.calibrations.searches(gallery.gallery_id, subject))


def version(runtime) -> str:
    published = runtime.calibrations.current(runtime.galleries.get("default"), "cosine").published
    return published.version if published else ""


@pytest.mark.skipif("REID_TEST_DATA" not in os.environ, reason="needs $REID_TEST_DATA")
def test_photographed_people_are_found_and_strangers_are_not_without_a_search_before(tmp_path):
    crops = Path(os.environ["REID_TEST_DATA"]) / "cuhk01" / "campus"

    def image(person: int, shot: int) -> bytes:
        return (crops / f"{person:04d}{shot:03d}.png").read_bytes()

    async def search(runtime) -> list[list[str]]:
        gallery = runtime.galleries.get("default")
        for person in range(1, 61):
            for shot in (1, 2):
                crop = ImageToEnroll(image(person, shot), str(person), "a", None, None, None)
                await enroll(runtime, gallery, [crop])
        await fit(runtime)
        verdicts = []
        for people in (range(1, 61), range(61, 121)):
            images = [image(person, 3) for person in people]
            answers = [
                (await GalleriesQuery(runtime, ["default"], [crop], QueryOptions()).answer())[0]
                for crop in images
            ]
            verdicts.append([query.answer.verdict for query in answers])
        return verdicts

    settings = Settings(artefact="bundled", data_dir=tmp_path, device="cpu", runtime="torch")
    with contextlib.closing(Runtime(settings)) as runtime:
        enrolled, strangers = asyncio.run(search(runtime))
    assert enrolled.count("no_match") <= 20
    assert enrolled.count("match") >= 6
    assert strangers.count("match") <= 2


@pytest.mark.parametrize("named", [True, False])
def test_a_refit_takes_sixteen_new_searches_and_a_minute(runtime, monkeypatch, named):
    due = {}
    start = time.monotonic()
    first = REFIT_AFTER_SEARCHES if named else LEAST_SEARCHES

    async def search() -> list[str]:
        await fill(runtime, named=named)
        if named:
            await fit(runtime)
        seen = []
        people = iter(range(300, 400))
        for count in (first - 1, 1, REFIT_AFTER_SEARCHES - 1, 1):
            await ask(runtime, [next(people) for _ in range(count)])
            await store_and_refit(runtime, due)
            seen.append(version(runtime))
        return seen

    before, fitted, fewer, too_soon = asyncio.run(search())
    assert before != fitted
    assert fitted == fewer == too_soon
    monkeypatch.setattr(refit.time, "monotonic", lambda: start + 3600.0)
    asyncio.run(store_and_refit(runtime, due))
    assert version(runtime) != fitted


def test_a_fit_while_the_clock_was_ahead_does_not_stop_the_next(runtime, monkeypatch):
    async def search(people) -> str:
        await ask(runtime, people)
        await store_and_refit(runtime, {})
        return version(runtime)

    asyncio.run(fill(runtime))
    asyncio.run(fit(runtime))
    real = time.time
    monkeypatch.setattr(refit.time, "time", lambda: real() + 400 * 86_400)
    ahead = asyncio.run(search(range(300, 320)))
    monkeypatch.setattr(refit.time, "time", real)
    assert asyncio.run(search(range(320, 340))) != ahead


def test_a_filtered_search_is_judged_by_its_level_and_the_identities_that_pass(runtime):
    gallery = runtime.galleries.get("default")

    async def search() -> list[RankedCrop]:
        await fill(runtime, range(60))
        for person in range(60, 80):
            image = ImageToEnroll(draw(person, 0), str(person), "west", None, None, None)
            await enroll(runtime, gallery, [image])
        await fit(runtime)
        options = QueryOptions(scoring="cosine", cameras=("west",), group_by="identity", top_k=20)
        (query,) = await GalleriesQuery(runtime, ["default"], [draw(65, 7)], options).answer()
        return query.answer.results

    results = asyncio.run(search())
    scores = np.array([result.cosine for result in results])
    fitted = runtime.calibrations.current(gallery, "cosine").published.calibration
    among_20, among_80 = (
        fitted.tail(identities).probability(scores, scores[1:9].mean()) for identities in (20, 80)
    )
    assert [result.probability for result in results] == pytest.approx(among_20.tolist(), abs=1e-5)
    assert abs(among_20 - among_80).max() > 1e-3


def test_a_gallery_that_has_changed_in_size_is_fitted_again(runtime):
    gallery = runtime.galleries.get("default")

    async def fitted_names() -> int:
        await fit(runtime)
        return runtime.calibrations.current(gallery, "cosine").as_state(20).identities

    async def change() -> list[int]:
        seen = []
        for people in (range(17), range(17, 30), range(30, 40), range(40, 46)):
            await fill(runtime, people)
            seen.append(await fitted_names())
        for person in range(24, 46):
            await forget_identity(runtime, gallery, str(person))
        return [*seen, await fitted_names()]

    assert asyncio.run(change()) == [0, 30, 30, 46, 24]


def test_a_fit_that_judged_several_pictures_as_one_is_used_until_the_next_fit(runtime):
    gallery = runtime.galleries.get("default")
    asyncio.run(fill(runtime, range(40)))
    asyncio.run(fit(runtime))
    subject = runtime.calibrations.current(gallery, "cosine").subject
    stored = runtime.record.calibrations.published(gallery.gallery_id)[subject]
    body = json.loads(stored.body)
    del body["calibration"]["mean_scales"]
    publish = runtime.record.calibrations.publish
    assert publish(gallery.gallery_id, subject, json.dumps(body), stored.version)
    runtime.calibrations.reload(gallery)
    before = runtime.calibrations.current(gallery, "cosine")
    assert before.as_state(40).state == "own"
    assert not before.published.judges_means
    asyncio.run(fit(runtime))
    after = runtime.calibrations.current(gallery, "cosine").published
    assert after.judges_means
    asyncio.run(fit(runtime))
    assert runtime.calibrations.current(gallery, "cosine").published == after


def test_what_an_older_version_published_is_used_until_the_gallery_is_fitted(runtime):
    gallery = runtime.galleries.get("default")
    subject = runtime.calibrations.current(gallery, "cosine").subject
    artefact = runtime.model.description.calibration.scorings["cosine"]
    older = artefact_search_calibration(artefact).model_dump(mode="json")
    body = json.dumps({"fitted_at": 1.0, "calibration": older})
    publish = runtime.record.calibrations.publish
    assert publish(gallery.gallery_id, subject, body, 0)
    runtime.calibrations.reload(gallery)
    assert runtime.calibrations.current(gallery, "cosine").as_state(40).state == "own"
    asyncio.run(fill(runtime, range(40)))
    asyncio.run(fit(runtime))
    assert runtime.calibrations.current(gallery, "cosine").as_state(40).identities == 40


@pytest.mark.parametrize("body", ["", "{}", "null", '{"fitted_at": 1, "calibration": {"x": 1}}'])
def test_a_damaged_publication_is_fitted_again(runtime, body):
    gallery = runtime.galleries.get("default")
    subject = runtime.calibrations.current(gallery, "cosine").subject
    assert runtime.record.calibrations.publish(gallery.gallery_id, subject, body, 0)
    runtime.calibrations.reload(gallery)
    asyncio.run(fill(runtime, range(20)))
    assert len(asyncio.run(ask(runtime, [3]))) == 1
    asyncio.run(fit(runtime))
    assert runtime.calibrations.current(gallery, "cosine").as_state(20).identities == 20


def test_a_reset_by_another_process_drops_the_searches_that_wait_here(runtime):
    gallery = runtime.galleries.get("default")
    place = gallery.gallery_id, "cosine"
    runtime.calibrations.record_search_scores(place, np.ones(4, np.float32), SCORES)
    runtime.record.galleries.change(gallery.gallery_id, {}, reset_calibration=True)
    runtime.calibrations.reload(gallery)
    assert runtime.calibrations.take_recorded() == {}


def test_a_search_is_kept_as_numbers_alone(runtime):
    async def search() -> None:
        await fill(runtime, range(20))
        await ask(runtime, [3])
        await store_and_refit(runtime, {})

    asyncio.run(search())
    (row,) = kept(runtime)
    assert len(row) < 100
    (search,) = unpack_searches([row])
    assert (len(search["scores"]), search["identities"]) == (9, 20)


def test_what_was_learnt_adds_nothing_to_what_an_enrolment_writes(runtime, tmp_path):
    async def learn() -> None:
        await fit(runtime)
        await ask(runtime, range(300, 300 + 3 * LEAST_SEARCHES))
        await store_and_refit(runtime, {})

    def logged(person: int) -> int:
        """Return the bytes that one enrollment writes into the database's log."""
        with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        asyncio.run(fill(runtime, [person]))
        return (tmp_path / f"{FILE}-wal").stat().st_size

    # Both are measured on a filled gallery, whose entries lie on as many pages.
    asyncio.run(fill(runtime, range(40)))
    before = logged(900)
    asyncio.run(learn())
    assert version(runtime)
    assert logged(901) <= before + 8 * 4096


@pytest.mark.parametrize("listed_before", [True, False])
def test_a_listing_of_galleries_keeps_little_in_memory(runtime, listed_before):
    async def measure() -> int:
        for number in range(300):
            await runtime.galleries.create(f"g{number}", GallerySettings())
        await describe_gallery(runtime, runtime.galleries.get("default"))
        if listed_before:
            await list_galleries(runtime)
        gc.collect()
        tracemalloc.start()
        await list_galleries(runtime)
        # The reader thread still refers to the answer for a moment.
        await asyncio.sleep(0.1)
        gc.collect()
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return held

    assert asyncio.run(measure()) < 200_000


def test_a_query_runs_its_own_pass_and_at_most_sixty_four_pairs_more(runtime, monkeypatch):
    networks = runtime.model.networks
    scored = []
    score = networks.pair_scores

    def counting(queries, candidates):
        scored.append(len(candidates))
        return score(queries, candidates)

    async def search() -> int:
        # Twenty-two people of ten crops each: the hundred nearest show too few of them.
        for person in range(22):
            images = [
                ImageToEnroll(draw(person, shot), str(person), None, None, None, None)
                for shot in range(10)
            ]
            await enroll(runtime, runtime.galleries.get("default"), images)
        monkeypatch.setattr(networks, "pair_scores", counting)
        options = QueryOptions(rerank_depth=100)
        await GalleriesQuery(runtime, ["default"], [draw(0, 20)], options).answer()
        ((_, rows),) = runtime.calibrations.take_recorded().items()
        return len(rows)

    assert asyncio.run(search()) == 1
    assert len(scored) == 1
    assert 100 <= scored[0] <= 164


def test_what_waits_is_stored_when_the_service_stops(runtime):
    async def stop_amid_searches() -> None:
        await fill(runtime, range(20))
        working = asyncio.create_task(refit.refit_calibrations(runtime))
        await asyncio.sleep(0)
        await ask(runtime, range(3))
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        await runtime.galleries.write(lambda: None)

    asyncio.run(stop_amid_searches())
    assert len(kept(runtime)) == 3
