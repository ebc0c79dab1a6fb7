"""Large answers, dependencies and long streams do not hold up the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import io
import threading
from datetime import UTC, datetime
from types import SimpleNamespace

import fastapi.dependencies.utils
import httpx
import numpy as np
import PIL.Image
import pytest

from service.engine.batcher import EmbeddedImage
from service.engine.images import Pipeline
from service.http import thumbnails
from service.http.app import create_app
from service.http.forms import CropsQuery, SomeImagesForm
from service.http.keys import LOCAL_ADMIN
from service.http.routes import crops, jobs, queries
from service.jobs.imports import begin_import
from service.jobs.runner import create_job
from service.record.crop_lists import CropPage
from service.record.database import Database
from service.record.values import Picture, StoredCrop
from service.runtime import Call, GalleryCall, Runtime
from service.settings import Settings

LONGEST_SECONDS = 30.0


@pytest.fixture(scope="module")
def runtime(tiny_artefact, other_artefact, tmp_path_factory):
    settings = Settings(
        artefact=str(tiny_artefact),
        previous=str(other_artefact),
        data_dir=tmp_path_factory.mktemp("loop"),
        device="cpu",
        runtime="torch",
        max_images_per_request=4,
    )
    with contextlib.closing(Runtime(settings)) as opened:
        yield opened


@pytest.fixture
def client(runtime):
    app = create_app(runtime.settings, runtime)
    app.state.runtime = runtime
    app.state.metrics = runtime.metrics
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1")


async def _turns_meanwhile(answering) -> int:
    """How often the event loop gets to other work before an answer is there."""
    turns = 0
    answer = asyncio.ensure_future(answering)
    while not answer.done():
        await asyncio.sleep(0)
        turns += 1
    await answer
    return turns


@pytest.mark.slow
def test_the_loop_does_other_work_while_a_hundred_embeddings_are_written(runtime, monkeypatch):
    vector = np.random.default_rng(0).normal(size=2048).astype(np.float32)
    outcomes = [EmbeddedImage(vector, 0.0, 0.0)] * 128

    async def embedded(*_):
        return outcomes

    async def read(*_):
        return []

    monkeypatch.setattr(Pipeline, "embed", embedded)
    monkeypatch.setattr(SomeImagesForm, "read_images", read)
    request = SimpleNamespace(headers={})
    call = Call(runtime, LOCAL_ADMIN)
    form = SomeImagesForm.model_construct()
    turns = asyncio.run(_turns_meanwhile(queries.embed_images(request, call, form)))
    assert turns > 10


def test_the_loop_does_other_work_while_a_long_page_of_crops_is_written(runtime, monkeypatch):
    crop = StoredCrop(
        row_id=1,
        crop_id="c" * 32,
        identity=None,
        camera=None,
        captured_at=None,
        external_id=None,
        metadata={f"k{number}": "x" * 100 for number in range(140)},
        sha256="0" * 64,
        content_type="image/png",
        image_bytes=1,
        created_at=datetime.now(UTC),
    )

    monkeypatch.setattr(runtime.record.crops, "page", lambda *_: CropPage([crop] * 1000, None))
    asked = CropsQuery(limit=1000)
    call = GalleryCall(runtime, LOCAL_ADMIN, runtime.galleries.get("default"))
    turns = asyncio.run(_turns_meanwhile(crops.list_crops(call, asked)))
    assert turns > 10


@pytest.mark.parametrize(("side", "is_large"), [(64, False), (1500, True)])
def test_a_large_picture_is_made_small_on_no_thread_of_crops(runtime, monkeypatch, side, is_large):
    used: list[str] = []
    monkeypatch.setattr(
        thumbnails, "thumbnail", lambda *_: used.append(threading.current_thread().name) or b""
    )
    file = io.BytesIO()
    PIL.Image.new("RGB", (side, side)).save(file, "PNG")

    async def read() -> Picture:
        return Picture(file.getvalue(), "image/png")

    request = SimpleNamespace(headers={})
    asyncio.run(thumbnails.answer_picture(request, runtime, "a", 32, read))
    assert ["large" in name for name in used] == [is_large]


def test_no_dependency_of_a_request_takes_a_thread(client, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a dependency was handed to a thread")

    monkeypatch.setattr(fastapi.dependencies.utils, "run_in_threadpool", refuse)

    async def ask() -> list[int]:
        async with client:
            answers = [
                await client.get("/v1/model"),
                await client.get("/v1/galleries"),
                await client.patch("/v1/galleries/default", data={"retention_days": "0"}),
            ]
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask()) == [200, 200, 200]


def test_an_import_writes_the_record_on_a_writer_thread_alone(runtime, monkeypatch):
    writers = set()
    write = Database.write

    def noted(*args, **kwargs):
        writers.add(threading.current_thread().name.split("_")[0])
        return write(*args, **kwargs)

    monkeypatch.setattr(Database, "write", noted)
    gallery = runtime.galleries.get("default")
    asyncio.run(begin_import(runtime, gallery, {}, io.BytesIO(b"an archive")))
    assert writers == {"record writers"}


def test_health_checks_of_two_models_have_names_of_their_own(runtime):
    names = [check.name for check in runtime.watchdog.checks]
    assert len(names) == len(set(names))
    assert "decode threads of other.safetensors" in names


def test_a_stream_of_events_is_kept_alive_while_nothing_happens(runtime, monkeypatch):
    monkeypatch.setattr(jobs, "KEEP_ALIVE_SECONDS", 0.05)

    async def watch() -> bytes:
        gallery = runtime.galleries.get("default")
        job = await create_job(runtime, gallery, "import", {})
        response = await jobs.watch_job(Call(runtime, LOCAL_ADMIN), job.job_id)
        sent = b""
        kept_alive = asyncio.Event()

        async def send(message):
            nonlocal sent
            sent += message.get("body", b"")
            if sent.count(b": ping") > 1:
                kept_alive.set()

        async def receive():
            await asyncio.Event().wait()

        streaming = asyncio.create_task(response({"type": "http", "method": "GET"}, receive, send))
        await asyncio.wait_for(kept_alive.wait(), LONGEST_SECONDS)
        streaming.cancel()
        await asyncio.gather(streaming, return_exceptions=True)
        return sent

    sent = asyncio.run(watch())
    assert sent.startswith(b"event: progress\ndata: {")
