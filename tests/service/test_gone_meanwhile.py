"""A gallery that another process deletes or creates while a request is answered."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading

import httpx
import pytest

from gmn_client.models import JobProblem
from service.errors import UnknownGallery
from service.gallery import registry
from service.http.app import create_app
from service.jobs import runner
from service.record.values import GallerySettings
from service.runtime import Runtime
from service.settings import Settings
from tests.outside import problem, zip_of_crops
from tests.service.conftest import files
from tests.service.gallery.new_jobs import new_job


@pytest.fixture
def asked(tiny_artefact, tmp_path):
    """Return a function that runs calls against an application in this process."""
    settings = Settings(
        artefact=str(tiny_artefact), data_dir=tmp_path, device="cpu", runtime="torch"
    )

    def run(calls):
        async def within():
            runtime = await asyncio.to_thread(Runtime, settings)
            app = create_app(settings, runtime)
            transport = httpx.ASGITransport(app, client=("127.0.0.1", 50_000))
            async with contextlib.AsyncExitStack() as held:
                await held.enter_async_context(app.router.lifespan_context(app))
                http = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")
                return await calls(await held.enter_async_context(http), runtime)

        return asyncio.run(within())

    return run


@pytest.mark.parametrize("call", ["snapshots", "imports"])
def test_what_is_begun_in_a_gallery_that_was_just_deleted_is_not_found(asked, call, drawn_crops):
    sent = {"archive": zip_of_crops(drawn_crops[:1])} if call == "imports" else None

    async def calls(http, runtime):
        await http.post("/v1/galleries", data={"name": "lobby"})
        number = runtime.galleries.get("lobby").gallery_id
        await runtime.galleries.write(lambda: runtime.record.galleries.delete(number))
        return await http.post(f"/v1/galleries/lobby/{call}", files=sent)

    answer = asked(calls)
    assert problem(answer) == (404, "unknown_gallery")
    assert "'lobby'" in answer.json()["detail"]


def test_jobs_are_listed_without_those_of_a_gallery_that_is_deleted_amid_the_list(
    asked, monkeypatch
):
    load_galleries = runner.load_galleries

    async def calls(http, runtime):
        await http.post("/v1/galleries", data={"name": "lobby"})
        here, there = (runtime.galleries.get(name).gallery_id for name in ("default", "lobby"))
        for job_id, gallery in (("here", here), ("there", there)):
            job = dataclasses.replace(new_job(job_id, gallery), state="done")
            await runtime.galleries.write(runtime.record.jobs.create, job)

        async def deleted_meanwhile(runtime, jobs):
            await load_galleries(runtime, jobs)
            assert len(jobs) == 2
            assert (await http.delete("/v1/galleries/lobby")).status_code == 200

        monkeypatch.setattr(runner, "load_galleries", deleted_meanwhile)
        return await http.get("/v1/jobs")

    listed = asked(calls)
    assert listed.status_code == 200
    assert [job["job_id"] for job in listed.json()["results"]] == ["here"]


@pytest.mark.slow
def test_an_unknown_gallery_is_not_found_while_the_device_is_busy(asked, monkeypatch):
    monkeypatch.setattr(registry, "CAUGHT_UP_WITHIN_SECONDS", 60.0)

    async def calls(http, runtime):
        free = threading.Event()
        runtime.device.submit(lambda: free.wait(30))
        try:
            async with asyncio.timeout(10):
                return await http.get("/v1/galleries/nowhere")
        finally:
            free.set()

    assert asked(calls).status_code == 404


@pytest.mark.slow
def test_two_changes_of_a_gallery_at_once_are_both_kept(asked):
    async def calls(http, runtime):
        await http.post("/v1/galleries", data={"name": "lobby"})
        changes = ({"retention_days": "7"}, {"calibration": "off"}, {"retention_from": "enrolled"})
        patches = (http.patch("/v1/galleries/lobby", data=change) for change in changes)
        answers = await asyncio.gather(*patches)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        number = runtime.galleries.get("lobby").gallery_id
        return runtime.record.galleries.get(number).settings

    assert asked(calls) == GallerySettings(7, "off", "enrolled")


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r"])
@pytest.mark.slow
def test_a_report_runs_no_formula_in_a_spreadsheet(asked, begins):
    async def calls(http, runtime):
        store = runtime.record
        here = runtime.galleries.get("default").gallery_id
        problem = JobProblem(
            position=0,
            source=f"{begins}cmd|' /C calc'!A0.png",
            code="unreadable",
            detail="cannot be read",
        )

        def write():
            store.jobs.create(dataclasses.replace(new_job("one", here), state="done"))
            store.jobs.update("one", "done", {}, [problem])

        await runtime.galleries.write(write)
        return await http.get("/v1/jobs/one/report")

    assert f"'{begins}cmd" in asked(calls).text.partition("\n")[2]


def test_a_search_of_several_images_that_fails_leaves_none_of_them_under_way(asked, drawn_crops):
    begun = []
    cancelled = []

    async def calls(http, runtime):
        async def find_crops(gallery, row_ids):
            begun.append(gallery)
            if len(begun) == 1:
                raise UnknownGallery(gallery.name)
            try:
                await asyncio.sleep(30.0)
            except asyncio.CancelledError:
                cancelled.append(gallery)
                raise

        crop = files(drawn_crops[4].png)
        await http.post("/v1/galleries/default/crops", files=crop)
        runtime.galleries.find_crops = find_crops
        images = [("images", (f"{at}.png", drawn_crops[at].png)) for at in range(4)]
        separate = {"mode": "separate"}
        answer = await http.post("/v1/galleries/default/queries", files=images, data=separate)
        await asyncio.sleep(1.0)
        return answer.status_code, len(begun) - 1 - len(cancelled)

    assert asked(calls) == (404, 0)
