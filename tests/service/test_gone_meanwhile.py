"""Galleries that are deleted, and requests that fail or wait, while others are answered."""

import asyncio
import contextlib
import dataclasses
import io
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from service.app import create_app
from service.desk.routes import case_export
from service.errors import UnknownGallery
from service.gallery import registry
from service.http.problems import csv_line
from service.jobs import runner
from service.ops.data_directory import remove_folder
from service.runtime import Runtime
from service.search.ranking import SHORT_DEPTH
from service.settings import Settings
from service.store import exports
from tests.engines import database_url
from tests.outside import problem, zip_of_crops
from tests.service.conftest import files
from tests.service.gallery.new_jobs import new_job


@pytest.fixture
def asked(tiny_artefact, tmp_path, engine):
    """Return a function that runs calls against an application in this process."""
    settings = Settings(
        artefact=str(tiny_artefact),
        data_dir=tmp_path,
        database_url=database_url(tmp_path),
        device="cpu",
        runtime="torch",
    )

    def run(calls):
        async def within():
            runtime = await asyncio.to_thread(Runtime, settings)
            app = create_app(settings, runtime)
            transport = httpx2.ASGITransport(app, client=("127.0.0.1", 50_000))
            async with (
                app.router.lifespan_context(app),
                httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http,
            ):
                await http.post("/v1/galleries", data={"name": "lobby"})
                return await calls(http, runtime)

        return asyncio.run(within())

    return run


@pytest.mark.parametrize("call", ["exports", "imports"])
def test_what_is_begun_in_a_gallery_that_another_process_just_deleted_is_not_found(
    asked, call, drawn_crops
):
    sent = {"archive": zip_of_crops(drawn_crops[:1])} if call == "imports" else None

    async def calls(http, runtime):
        number = runtime.galleries.get("lobby").gallery_id
        await runtime.galleries.write(lambda: runtime.record.galleries.delete(number))
        return await http.post(f"/v1/galleries/lobby/{call}", files=sent)

    answer = asked(calls)
    assert problem(answer) == (404, "unknown_gallery")
    assert "'lobby'" in answer.json()["detail"]


def test_an_export_whose_folder_goes_with_its_gallery_is_not_found(asked, monkeypatch):
    write_export = exports.write_export

    async def calls(http, runtime):
        def deleted_meanwhile(record, part, gallery_id, *rest):
            description = write_export(record, part, gallery_id, *rest)
            record.galleries.delete(gallery_id)
            remove_folder(part.parent)
            return description

        monkeypatch.setattr(exports, "write_export", deleted_meanwhile)
        return await http.post("/v1/galleries/lobby/exports")

    assert problem(asked(calls)) == (404, "unknown_gallery")


def test_jobs_are_listed_without_those_of_a_gallery_that_is_deleted_amid_the_list(
    asked, monkeypatch
):
    load_galleries = runner.load_galleries

    async def calls(http, runtime):
        for name in ("default", "lobby"):
            job = new_job(name, runtime.galleries.get(name).gallery_id)
            done = dataclasses.replace(job, state="done")
            await runtime.galleries.write(runtime.record.jobs.create, done)

        async def deleted_meanwhile(galleries, jobs):
            await load_galleries(galleries, jobs)
            assert len(jobs) == 2
            assert (await http.delete("/v1/galleries/lobby")).status_code == 200

        monkeypatch.setattr(runner, "load_galleries", deleted_meanwhile)
        return await http.get("/v1/jobs")

    assert [job["job_id"] for job in asked(calls).json()["results"]] == ["default"]


def test_an_export_goes_on_where_a_search_is_deleted_before_its_picture_is_read(
    asked, images, monkeypatch
):
    open_search = case_export.open_search

    async def deleted_meanwhile(call, query_id):
        opened = await open_search(call, query_id)
        await call.write(call.runtime.desk.kept.remove, [query_id])
        return opened

    async def calls(http, runtime):
        url = "/v1/galleries/default"
        await http.post(f"{url}/crops", files=files(images[0]))
        kept = {"keep": "true", "keep_picture": "true"}
        found = (await http.post(f"{url}/queries", files=files(images[0]), data=kept)).json()
        case = (await http.post(f"{url}/cases", data={"name": "case"})).json()
        held = f"{url}/cases/{case['case_id']}/queries/{found['query_id']}"
        assert (await http.put(held)).json()["count"] == 1
        monkeypatch.setattr(case_export, "open_search", deleted_meanwhile)
        return await http.get(f"{url}/cases/{case['case_id']}/export")

    with zipfile.ZipFile(io.BytesIO(asked(calls).content)) as export:
        names = export.namelist()
    assert names[-1] == "SHA256SUMS"
    assert [name for name in names if name.startswith("pictures/search-")] == []


def test_an_export_holds_no_metadata_of_the_results_it_has_read(asked, images, monkeypatch):
    held = []
    finish = case_export._finish
    monkeypatch.setattr(case_export, "_finish", lambda *args: held.append(args[3]) or finish(*args))

    async def calls(http, runtime):
        url = "/v1/galleries/default"
        labels = {"metadata": '{"shift": "night"}', "identity": "Ann"}
        await http.post(f"{url}/crops", files=files(images[0]), data=labels)
        found = await http.post(f"{url}/queries", files=files(images[0]), data={"keep": "true"})
        case = (await http.post(f"{url}/cases", data={"name": "case"})).json()
        address = f"{url}/cases/{case['case_id']}"
        await http.put(f"{address}/queries/{found.json()['query_id']}")
        return await http.get(f"{address}/export")

    with zipfile.ZipFile(io.BytesIO(asked(calls).content)) as export:
        assert b"Ann" in export.read("results.csv")
    (search,) = held[0]
    assert [result.metadata for result in search.opened.answer.results] == [None]


@pytest.mark.slow
def test_an_unknown_gallery_is_not_found_while_the_device_is_busy(asked, monkeypatch):
    monkeypatch.setattr(registry, "CAUGHT_UP_WITHIN_SECONDS", 60.0)

    async def calls(http, runtime):
        free = threading.Event()
        runtime.device.submit(lambda: free.wait(30))
        with contextlib.ExitStack() as held:
            held.callback(free.set)
            async with asyncio.timeout(10):
                return await http.get("/v1/galleries/nowhere")

    assert asked(calls).status_code == 404


def test_changes_of_a_gallery_at_once_are_all_kept(served, gallery):
    url = f"/v1/galleries/{gallery}"
    changes = ({"retention_days": 7}, {"calibration": "off"}, {"retention_from": "enrolled"})
    with ThreadPoolExecutor(3) as clients:
        answers = clients.map(lambda change: served.http.patch(url, data=change), changes)
        assert [answer.status_code for answer in answers] == [200, 200, 200]
    changed = served.read(url)
    assert (changed["retention_days"], changed["retention_from"]) == (7, "enrolled")
    assert changed["calibration"]["state"] == "off"


@pytest.mark.parametrize("begins", ["=", "+", "-", "@", "\t", "\r"])
def test_a_table_runs_no_formula_in_a_spreadsheet(begins):
    assert f"'{begins}cmd" in csv_line(f"{begins}cmd|' /C calc'!A0.png")


def test_a_search_of_several_images_that_fails_leaves_none_of_them_under_way(asked, images):
    begun = []
    cancelled = []

    async def read_crops(gallery):
        begun.append(gallery)
        if len(begun) == 1:
            raise UnknownGallery(gallery.name)
        try:
            await asyncio.sleep(30.0)
        except asyncio.CancelledError:
            cancelled.append(gallery)
            raise

    async def calls(http, runtime):
        await http.post("/v1/galleries/default/crops", files=files(images[4]))
        galleries = runtime.galleries
        read = galleries.read

        async def read_or_wait(call, *args):
            if getattr(call, "func", None) == galleries.read_crops:
                return await read_crops(call.args[0])
            return await read(call, *args)

        galleries.read = read_or_wait
        # A short search is one call of a thread, which is not cancelled.
        separate = {"mode": "separate", "rerank_depth": SHORT_DEPTH + 1}
        answer = await http.post(
            "/v1/galleries/default/queries", files=files(*images[:4]), data=separate
        )
        await asyncio.sleep(1.0)
        return answer.status_code

    assert asked(calls) == 404
    assert len(begun) - 1 == len(cancelled)
