"""Two processes of the service: jobs that change hands, and thresholds learnt from searches."""

import asyncio
import contextlib
import io
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from model.search_calibration import pack_search
from service import forgetting
from service.errors import UnknownCrop, UnknownIdentity
from service.gallery import forget
from service.gallery.changes import AuditEntry
from service.gallery.enroll import ImageToEnroll
from service.jobs import runner
from service.jobs.imports import begin_import
from service.jobs.runner import work_on_jobs, work_on_jobs_of_machine
from service.maintenance import JOBS
from service.record.values import GallerySettings
from service.search.options import QueryOptions
from service.search.query import GalleriesQuery
from tests.outside import zip_of_crops
from tests.service.conftest import running
from tests.service.gallery.new_crops import is_on_disk
from tests.waiting import eventually

pytestmark = pytest.mark.slow

WAITED = 30.0
LASTING = {"retention_days": None}


@pytest.fixture(scope="module")
def runtimes(tiny_artefact, data_dir):
    with running(tiny_artefact, data_dir) as one, running(tiny_artefact, data_dir) as other:
        yield [one, other]


@pytest.fixture
def third(tiny_artefact, data_dir):
    with running(tiny_artefact, data_dir) as opened:
        yield opened


async def _ended(runtime, job_id):
    async with asyncio.timeout(WAITED):
        while not (
            job := await runner.find_job(runtime.record.jobs, runtime.galleries, job_id)
        ).finished:
            await asyncio.sleep(0.02)
        return job


@contextlib.asynccontextmanager
async def _working(runtime, kinds=JOBS):
    working = [work_on_jobs(runtime, kinds)]
    # With PostgreSQL an import is run by the machine that has its files.
    if machine := runtime.record.database.machine:
        working.append(work_on_jobs_of_machine(runtime, kinds, machine))
    tasks = [asyncio.create_task(work) for work in working]
    yield
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.promise("jobs-go-on")
async def test_a_job_whose_process_ended_is_gone_on_with_by_another(runtimes, third, drawn_crops):
    one, _ = runtimes

    async def take_turns():
        begun = asyncio.Event()

        async def begin(*_):
            begun.set()
            await asyncio.sleep(WAITED)

        archive = io.BytesIO(zip_of_crops(drawn_crops))
        job = await begin_import(
            third, third.galleries.get("default"), {"identity": "a"}, archive, "key"
        )
        async with _working(third, {"import": begin}):
            async with asyncio.timeout(WAITED):
                await begun.wait()
            # For as long as its process works on it nobody else does.
            async with _working(one):
                await asyncio.sleep(0.5)
                assert (
                    await runner.find_job(one.record.jobs, one.galleries, job.job_id)
                ).progress == {}
        third.close()
        async with _working(one):
            return await _ended(one, job.job_id)

    ended = await take_turns()
    assert ended.state == "done"
    assert ended.progress["landed"] == len(drawn_crops)
    assert not list((one.settings.data_dir / "imports").iterdir())


@pytest.mark.promise("jobs-go-on")
def test_both_answer_by_what_one_has_learnt(runtimes):
    one, other = runtimes
    asyncio.run(one.galleries.create("learnt", GallerySettings()))
    galleries = [asyncio.run(runtime.galleries.find("learnt")) for runtime in runtimes]

    def in_force(runtime, gallery):
        return runtime.calibrations.current(gallery, "cosine").as_state(60)

    chance = np.random.default_rng(5)
    score_kind = one.calibrations.current(galleries[0], "cosine").score_kind
    for _ in range(40):
        scores = np.sort(chance.gumbel(0.4, 0.05, 60))[::-1][:9]
        row = pack_search(scores, 60, time.time())
        query = chance.normal(size=64).astype(np.float32)
        one.calibrations.record_search_scores((galleries[0].gallery_id, score_kind), query, row)
    asyncio.run(one.fitter.store_and_refit({}))
    first = in_force(one, galleries[0])
    assert (first.state, first.searches) == ("own", 40)
    eventually(lambda: in_force(other, galleries[1]).version == first.version)
    for setting, state in (("frozen", "frozen"), ("on", "artefact"), ("off", "off")):
        asked = {"calibration": setting}
        reset = setting == "on"
        asyncio.run(other.gallery_changes.change(galleries[1], asked, reset_calibration=reset))
        eventually(lambda state=state: in_force(one, galleries[0]).state == state)
        if setting == "frozen":
            assert in_force(one, galleries[0]).version == first.version


@pytest.mark.promise("several-processes")
async def test_a_crop_that_was_deleted_since_takes_no_place(runtimes, third, images):
    one, _ = runtimes

    await one.galleries.create("left", GallerySettings())
    gallery = await one.galleries.find("left")
    landed, _ = await one.enrollment.enroll(
        gallery, [ImageToEnroll(image=image) for image in images[:8]]
    )
    ids = [result.crop_id for result in landed.results]
    behind = await third.galleries.find("left")
    third.galleries._follower.close()
    gone = UnknownCrop("left", ids[0])
    entry = AuditEntry("delete_crop", {"crop_ids": ids[:3]})

    def remove(gallery_id):
        return one.record.crops.remove(gallery_id, ids[:3])

    await one.crop_changes.commit(gallery, entry, "delete-crop", remove, unknown=gone)
    assert behind.crops == 8
    options = QueryOptions(top_k=5, rerank_depth=5)
    (answered,) = await third.search.answer(GalleriesQuery(["left"], images[:1], options))
    results = answered.answer.results
    assert [result.rank for result in results] == [1, 2, 3, 4, 5]
    assert {result.crop_id for result in results} == set(ids[3:])
    by_crop = GalleriesQuery(["left"], [], QueryOptions(crop_ids=(ids[0],)))
    with pytest.raises(UnknownCrop):
        await third.search.answer(by_crop)


async def test_retention_deletes_nothing_more_once_another_process_has_ended_it(
    runtimes, images, monkeypatch
):
    one, other = runtimes
    await one.galleries.create("kept longer", GallerySettings(retention_days=1))
    gallery = await one.galleries.find("kept longer")
    old = datetime.now(UTC) - timedelta(days=9)
    await one.enrollment.enroll(
        gallery, [ImageToEnroll(image=image, captured_at=old) for image in images[:3]]
    )
    monkeypatch.setattr(forget, "CROPS_PER_SWEEP", 1)
    run = one.audited.run

    async def end_retention_after_a_sweep(*args, **details):
        result = await run(*args, **details)
        await other.gallery_changes.change(await other.galleries.find(gallery.name), LASTING)
        return result

    monkeypatch.setattr(one.audited, "run", end_retention_after_a_sweep)
    await one.crop_deletions.forget_expired(gallery)
    assert gallery.crops == 2


async def test_a_name_in_an_import_that_ended_later_is_forgotten_by_the_second_request(
    runtimes, images
):
    one, other = runtimes
    await one.galleries.create("named", GallerySettings())
    gallery = await one.galleries.find("named")
    await one.enrollment.enroll(
        gallery, [ImageToEnroll(image=images[0], identity="Annabel-Quirke")]
    )
    job = await runner.create_job(one, gallery, "import", {"identity": "Annabel-Quirke"}, "key")
    forgotten = await forgetting.forget_identity(one, gallery, "Annabel-Quirke")
    assert f"import job {job.job_id}" in [place.where for place in forgotten.remaining]
    other.record.jobs.cancel(job.job_id)
    # The import has enrolled nobody.
    with pytest.raises(UnknownIdentity):
        await forgetting.forget_identity(one, gallery, "Annabel-Quirke")
    assert other.record.jobs.get(job.job_id).parameters == {"identity": "…"}
    assert not is_on_disk(one.settings.data_dir, b"Annabel-Quirke")
