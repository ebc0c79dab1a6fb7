"""A request of one key neither keeps the searches of another waiting nor fills the memory."""

from __future__ import annotations

import asyncio
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from model.artefact import load_artefact
from model.torch_runtime import TorchRuntime
from service.engine.device import DeviceThread
from service.engine.networks import PAIRS_PER_PASS, Networks, slices_of
from service.ops.threads import CALLER, MonitoredThreadPool
from tests.service.conftest import files

MEGAPIXEL = 1_000_000
QUERIES = "/v1/galleries/default/queries"
CROPS = "/v1/galleries/default/crops"


@pytest.fixture(scope="module")
def service(start):
    return start()


@pytest.fixture(scope="module")
def large_picture() -> bytes:
    """Return a transparent PNG of 70 kB and 16 megapixels, which decodes into the most memory."""
    file = io.BytesIO()
    pixels = np.full((4000, 4000, 4), 120, np.uint8)
    Image.fromarray(pixels, "RGBA").save(file, "PNG", compress_level=9)
    return file.getvalue()


def _picture(pixels: int) -> bytes:
    file = io.BytesIO()
    width = 400
    Image.new("RGB", (width, pixels // width), (90, 60, 30)).save(file, "JPEG")
    return file.getvalue()


def _post(service, path: str, images: list[bytes], **fields: Any) -> httpx.Response:
    sent = files(*images)
    return service.http.post(path, files=sent, data=fields, timeout=120)


def _refused(answer: httpx.Response) -> str:
    assert answer.status_code == 422, answer.text[:300]
    assert answer.json()["type"] == "urn:gmn:problem:too_costly"
    detail: str = answer.json()["detail"]
    assert "GMN_MAX_COST" in detail
    assert "may cost 176.0" in detail
    return detail


@pytest.mark.parametrize("path", [QUERIES, CROPS, "/v1/embeddings"])
def test_many_large_pictures_are_refused_before_they_are_decoded(service, large_picture, path):
    detail = _refused(_post(service, path, [large_picture] * 128))
    assert detail.startswith("images")


@pytest.mark.parametrize("path", [QUERIES, CROPS])
def test_boxes_that_together_are_many_times_their_frame_are_refused(service, large_picture, path):
    box = json.dumps({"x": 0, "y": 0, "width": 4000, "height": 4000})
    assert "boxes" in _refused(_post(service, path, [large_picture], boxes=[box] * 128))


def test_the_cost_of_a_search_is_of_the_crops_that_there_are(service, drawn_crops):
    _post(service, CROPS, [crop.png for crop in drawn_crops])
    images = [drawn_crops[0].png] * 128
    answer = _post(service, QUERIES, images, rerank_depth="10000", scoring="mnet")
    assert answer.status_code == 200
    assert answer.json()["candidates_scored"] == len(drawn_crops)


def test_files_that_are_no_images_cost_nothing_to_decode(service, drawn_crops):
    images = [drawn_crops[0].png, *(b"no image %d" % number for number in range(100))]
    answer = _post(service, CROPS, images, identity="beside what is no image")
    assert answer.status_code == 207
    assert ["problem" in result for result in answer.json()["results"]] == [False] + [True] * 100


def test_what_one_request_may_be_is_taken(service, large_picture, drawn_crops):
    half = [_picture(MEGAPIXEL // 2)] * 128
    assert _post(service, "/v1/embeddings", half).status_code == 200
    boxes = [json.dumps({"x": 0, "y": 0, "width": 4000, "height": 4000})] * 2
    assert _post(service, QUERIES, [large_picture], boxes=boxes).status_code == 200
    answer = _post(service, QUERIES, [drawn_crops[0].png], rerank_depth="10000", scoring="mnet")
    assert answer.status_code == 200


@pytest.mark.slow
def test_searches_of_another_key_go_on_beside_large_requests(start, large_picture, drawn_crops):
    """Eight costly requests come at once; memory is measured of the whole process."""
    served = start()
    admin = _key(served, "admin", None)
    eve, bob = (_key(served, "query,enroll", admin) for _ in range(2))
    idle = _resident_bytes(served.process.pid)
    boxes = [json.dumps({"x": 0, "y": 0, "width": 4000, "height": 4000})] * 2
    seconds: list[float] = []
    codes: list[int] = []
    most = idle
    with ThreadPoolExecutor(8) as clients:
        attack = [
            clients.submit(_ask, served, eve, CROPS, [large_picture], boxes=boxes) for _ in range(8)
        ]
        while not all(request.done() for request in attack):
            began = time.monotonic()
            codes.append(_ask(served, bob, QUERIES, [drawn_crops[0].png]).status_code)
            seconds.append(time.monotonic() - began)
            most = max(most, _resident_bytes(served.process.pid))
    assert {request.result().status_code for request in attack} <= {201, 429}
    assert set(codes) == {200}
    assert max(seconds) <= 5, seconds
    assert most - idle <= 1.3e9


def _key(served, scopes: str, admin: str | None) -> str:
    headers = {"Authorization": f"Bearer {admin}"} if admin else {}
    made = served.http.post("/v1/keys", data={"scopes": scopes}, headers=headers)
    assert made.status_code == 201, made.text
    return str(made.json()["key"])


def _ask(served, key: str, path: str, images: list[bytes], **fields: Any) -> httpx.Response:
    sent = files(*images)
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.post(
        f"{served.http.base_url}".rstrip("/") + path,
        files=sent,
        data=fields,
        headers=headers,
        timeout=300,
    )


def _resident_bytes(process: int) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096


def test_a_pool_takes_the_calls_of_callers_in_turn():
    pool = MonitoredThreadPool(1, "turns")
    done: list[str] = []
    began = asyncio.Event()

    def submit(caller: str, name: str) -> Any:
        CALLER.set(caller)
        return pool.submit(done.append, name)

    async def ask() -> None:
        loop = asyncio.get_running_loop()
        held = pool.submit(lambda: (loop.call_soon_threadsafe(began.set), time.sleep(0.2)))
        await began.wait()
        for number in range(3):
            submit("eve", f"eve {number}")
        last = submit("bob", "bob")
        await asyncio.gather(asyncio.wrap_future(held), asyncio.wrap_future(last))

    asyncio.run(ask())
    pool.shutdown()
    assert done == ["eve 0", "bob", "eve 1", "eve 2"]


def test_changes_of_an_index_keep_their_order_whoever_makes_them():
    device = DeviceThread()
    done: list[int] = []
    for number in range(20):
        CALLER.set(f"caller {number % 3}")
        last = device.change(lambda number=number: done.append(number))
    last.result(10)
    device.shutdown()
    assert done == list(range(20))


@pytest.mark.parametrize(("queries", "candidates"), [(1, 5000), (40, 300), (3, 2500)])
def test_scores_in_slices_are_equal_to_the_last_digit_and_others_come_between(
    tiny_artefact, queries, candidates
):
    artefact = load_artefact(tiny_artefact)
    networks = Networks(artefact, TorchRuntime(artefact, "float32"))
    random = np.random.default_rng(5)
    asked = random.normal(size=(queries, networks.dimension)).astype(np.float32)
    shown = random.normal(size=(candidates, networks.dimension)).astype(np.float32)
    whole = networks.pair_scores(asked, shown)
    device = DeviceThread()
    others: list[str] = []

    async def score() -> list[Any]:
        parts = slices_of(queries, candidates)
        return [await device.run(networks.pair_scores, asked, shown[part]) for part in parts]

    async def ask() -> list[Any]:
        CALLER.set("eve")
        scoring = asyncio.create_task(score())
        await asyncio.sleep(0)
        CALLER.set("bob")
        other = asyncio.wrap_future(device.submit(others.append, "bob"))
        await other
        assert not scoring.done(), "the other waited for all of it"
        return await scoring

    sliced = asyncio.run(ask())
    device.shutdown()
    assert np.array_equal(whole, np.concatenate(sliced))
    assert candidates > PAIRS_PER_PASS
