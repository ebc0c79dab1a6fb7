"""Long answers, dependencies and large pictures do not hold up other requests."""

import asyncio
import inspect
import threading
from collections import Counter
from types import SimpleNamespace

import httpx2
import PIL.Image
import pytest
from fastapi import Request
from fastapi.routing import APIRoute, iter_route_contexts

from gmn_client.models import Embedding, Embeddings
from service.api_keys import LOCAL_ADMIN
from service.app import create_app
from service.gallery.labels import LABEL_PARSERS
from service.http import thumbnails
from service.http.forms import LabelledBox
from service.http.problems import write_list
from service.record.values import Picture
from service.settings import Settings
from tests.outside import encoded
from tests.service.conftest import running
from tests.waiting import LONGEST_SECONDS


async def test_the_loop_does_other_work_while_a_long_list_is_written():
    embedded = Embedding(embedding=[0.1] * 2048)
    answer = Embeddings(embedding_fingerprint="x", dimension=2048, results=[embedded] * 512)

    turns = 0
    runtime = SimpleNamespace(settings=Settings(), held_bytes=Counter())
    call = SimpleNamespace(runtime=runtime, caller=LOCAL_ADMIN)
    request = Request({"type": "http", "state": {"call": call}})
    writing = asyncio.create_task(write_list(request, answer))
    while not writing.done():
        await asyncio.sleep(0)
        turns += 1
    await writing
    assert turns > 10


def _called(dependant):
    yield dependant.call
    for dependency in dependant.dependencies:
        yield from _called(dependency)


def test_no_dependency_of_a_call_takes_a_thread():
    for route in iter_route_contexts(create_app(Settings()).routes):
        if isinstance(route.original_route, APIRoute):
            for call in _called(route.original_route.dependant):
                run = call if inspect.isfunction(call) else call.__call__
                is_awaited = inspect.iscoroutinefunction(run) or inspect.isasyncgenfunction(run)
                assert is_awaited, (route.path, call)


def _enroll(artefact, data_dir, **sent):
    """Answer an enrollment by a service whose event loop is the main thread's."""

    async def enroll(app):
        transport = httpx2.ASGITransport(app, client=("127.0.0.1", 1))
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.post("/v1/galleries/default/crops", **sent)

    with running(artefact, data_dir) as runtime:
        app = create_app(runtime.settings, runtime)
        app.state.runtime = runtime
        return asyncio.run(enroll(app)).json()


def test_labels_of_crops_are_parsed_beside_the_loop(tiny_artefact, tmp_path, monkeypatch):
    used = []
    monkeypatch.setitem(
        LABEL_PARSERS, "metadata", lambda *_: used.append(threading.current_thread())
    )
    fields = {"vector": ["[1]"] * 17, "embedding_fingerprint": "of another", "metadata": "{}"}
    answer = _enroll(tiny_artefact, tmp_path, data=fields)
    assert "gallery 'default' takes those of" in answer["detail"]
    # One text for all crops is parsed once.
    assert len(used) == 1
    assert used[0] is not threading.main_thread()


def test_boxes_with_metadata_are_parsed_beside_the_loop(tiny_artefact, tmp_path, monkeypatch):
    used = []
    parse = LabelledBox.model_validate_json

    def noted(text):
        used.append(threading.current_thread())
        return parse(text)

    monkeypatch.setattr(LabelledBox, "model_validate_json", noted)
    box = '{"x": 0, "y": 0, "width": 64, "height": 128, "metadata": {"shift": "night"}}'
    frame = encoded(PIL.Image.new("RGB", (64, 128)))
    files = {"images": ("frame.png", frame)}
    answer = _enroll(tiny_artefact, tmp_path, data={"boxes": [box] * 17}, files=files)
    assert answer["results"][0]["crop_id"]
    assert threading.main_thread() not in used


async def test_few_pictures_are_read_before_a_thread_is_free_for_their_thumbnails(
    tiny_artefact, tmp_path, monkeypatch
):
    free = threading.Event()
    monkeypatch.setattr(thumbnails, "thumbnail", lambda *_: free.wait(30) and b"")
    picture = Picture(encoded(PIL.Image.new("RGB", (64, 64))), "image/png")
    read = []

    async def read_picture():
        read.append(1)
        return picture

    cost = 4 * thumbnails.PER_THUMBNAIL
    request = SimpleNamespace(headers={})
    with running(tiny_artefact, tmp_path, max_cost=cost) as runtime:
        asked = [
            asyncio.create_task(
                thumbnails.answer_picture(request, runtime, str(number), 32, read_picture)
            )
            for number in range(9)
        ]
        async with asyncio.timeout(LONGEST_SECONDS):
            while len(read) < 2:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        waiting = len(read)
        free.set()
        answers = await asyncio.gather(*asked)
    assert waiting == 2
    assert [answer.media_type for answer in answers] == ["image/jpeg"] * 9


@pytest.mark.parametrize(("side", "is_large"), [(64, False), (1500, True)])
async def test_a_large_picture_is_made_small_on_no_thread_of_crops(
    tiny_artefact, tmp_path, monkeypatch, side, is_large
):
    used = []
    monkeypatch.setattr(
        thumbnails, "thumbnail", lambda *_: used.append(threading.current_thread().name) or b""
    )
    picture = encoded(PIL.Image.new("RGB", (side, side)))

    async def read():
        return Picture(picture, "image/png")

    request = SimpleNamespace(headers={})
    with running(tiny_artefact, tmp_path) as runtime:
        await thumbnails.answer_picture(request, runtime, "a", 32, read)
    assert ["large" in name for name in used] == [is_large]
