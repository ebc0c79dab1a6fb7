"""Where the queue is full a request is refused at the door: before its body is parsed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from service.engine.admission import Admission
from service.errors import QueueFull
from service.http.bodies import BodyLimit
from service.ops.metrics import Metrics

QUERIES = "/v1/galleries/default/queries"


@pytest.fixture
def admission():
    return Admission(2, Metrics())


@pytest.fixture
def ask(admission):
    """Sends a request through the limits to an application that answers every one with 200."""

    async def answer(scope, receive, send):
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    limits = BodyLimit(answer, 1000, 1000, 5.0, 1, 1000)

    async def app(scope, receive, send):
        runtime = SimpleNamespace(admission=admission)
        scope["app"] = SimpleNamespace(state=SimpleNamespace(runtime=runtime))
        await limits(scope, receive, send)

    def ask_one(method: str, path: str) -> httpx.Response:
        async def send() -> httpx.Response:
            whole: Any = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=whole, base_url="http://door") as http:
                return await http.request(method, path, content=b"x" * 900)

        return asyncio.run(asyncio.wait_for(send(), 10))

    return ask_one


def test_as_many_as_there_are_places_for_are_received(admission, ask):
    with admission.door(), admission.door():
        refused = ask("POST", QUERIES)
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:gmn:problem:queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert "connection" not in refused.headers, "the next request comes the same way"
        assert ask("GET", QUERIES).status_code == 200
        assert ask("POST", "/v1/galleries/default/snapshots").status_code == 200
    # Nothing is held for whoever was refused.
    assert [ask("POST", QUERIES).status_code for _ in range(3)] == [200, 200, 200]


def test_images_that_take_every_place_close_the_door(admission, ask):
    with admission.places(2):
        assert ask("POST", "/v1/pairs").status_code == 429
        with pytest.raises(QueueFull), admission.door():
            pass
    assert ask("POST", "/v1/pairs").status_code == 200
