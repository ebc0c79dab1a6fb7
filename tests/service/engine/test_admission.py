"""Where the queue is full a request is refused at the door: before its body is parsed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Annotated, Any

import httpx
import pytest
from fastapi import FastAPI

from service.engine.device import Admission
from service.http.forms import MULTIPART, SomeImagesForm
from service.http.guard import guarded_router
from service.http.keys import LOCAL_ADMIN
from service.http.limits import BodyLimits
from service.http.problems import handle_errors
from service.http.routes.galleries import GallerySettingsFields
from service.ops.metrics import Metrics
from service.settings import Settings


@pytest.fixture
def admission():
    return Admission(2, Metrics())


@pytest.fixture
def ask(admission):
    """Sends a form to a call of images, or to one without."""

    def caller(*_):
        return LOCAL_ADMIN

    async def images(form: Annotated[SomeImagesForm, MULTIPART]) -> int:
        return len(form.images)

    async def settings(form: Annotated[GallerySettingsFields, MULTIPART]) -> str:
        return str(form.retention_days)

    router = guarded_router("/v1", "tests")
    router.post("/pairs")(images)
    router.post("/galleries")(settings)
    app = FastAPI()
    app.include_router(router)
    handle_errors(app)
    app.state.runtime = SimpleNamespace(
        admission=admission,
        body_limits=BodyLimits(Settings()),
        keys=SimpleNamespace(caller=caller),
    )

    def ask_one(path: str) -> httpx.Response:
        async def send() -> httpx.Response:
            whole: Any = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=whole, base_url="http://door") as http:
                if "g" in path:
                    return await http.post(path, data={"retention_days": "7"})
                return await http.post(path, files={"images": b"x"})

        return asyncio.run(asyncio.wait_for(send(), 10))

    return ask_one


def test_where_no_place_is_left_a_request_is_refused_before_its_body_is_read(admission, ask):
    with admission.image_slots(2):
        refused = ask("/v1/pairs")
        assert refused.status_code == 429
        assert refused.json()["type"] == "urn:gmn:problem:queue_full"
        assert int(refused.headers["retry-after"]) >= 1
        assert "connection" not in refused.headers, "the next request comes the same way"
        assert ask("/v1/galleries").json() == "7"
    # Nothing is held for a request that was refused.
    assert [ask("/v1/pairs").status_code for _ in range(3)] == [200, 200, 200]
