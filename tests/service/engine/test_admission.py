"""A budget of cost in flight: shares of callers, turns, waiting, and refusals before a body."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from types import SimpleNamespace

import httpx2
import pytest
from fastapi import FastAPI

from service.api_keys import LOCAL_ADMIN
from service.engine import admission as admission_module
from service.engine.admission import MAX_WAITING, Admission
from service.errors import QueueFull
from service.http.forms import Sent, SomeImagesForm
from service.http.guard import guarded_router
from service.http.problems import handle_errors
from service.http.routes.galleries import GallerySettingsFields
from service.ops.metrics import Metrics
from service.ops.threads import CALLER
from service.settings import Settings
from service.sign_on import SignOn
from tests.outside import problem

pytestmark = pytest.mark.promise("5")


@pytest.fixture
def admission():
    return Admission(20, Metrics())


class Requests:
    """Requests of several callers, each of which holds its cost until it is told to end."""

    def __init__(self, admission):
        self.admission = admission
        self.working: list[str] = []

    def begin(self, caller, name, cost):
        end = asyncio.Event()

        async def work():
            CALLER.set(caller)
            async with self.admission.admit(cost):
                self.working.append(name)
                await end.wait()

        return asyncio.create_task(work()), end


async def _turn_of_the_loop():
    for _ in range(5):
        await asyncio.sleep(0)


async def test_callers_that_wait_are_admitted_in_turn_and_each_ones_requests_in_order(admission):
    requests = Requests(admission)
    first = [requests.begin("eve", "eve 0", 10), requests.begin("ann", "ann 0", 10)]
    await _turn_of_the_loop()
    others = [requests.begin("eve", f"eve {number}", 10) for number in (1, 2)]
    others.append(requests.begin("bob", "bob", 10))
    await _turn_of_the_loop()
    assert requests.working == ["eve 0", "ann 0"]
    for task, end in [*first, *others]:
        end.set()
        await task
    assert requests.working == ["eve 0", "ann 0", "eve 1", "bob", "eve 2"]


async def test_a_request_that_waits_too_long_is_refused_and_leaves_its_place(
    admission, monkeypatch
):
    monkeypatch.setattr(admission_module, "MAX_WAIT_SECONDS", 0.05)

    requests = Requests(admission)
    task, end = requests.begin("eve", "eve 0", 10)
    await _turn_of_the_loop()
    late, _ = requests.begin("eve", "eve 1", 10)
    with pytest.raises(QueueFull, match=r"queue of 0 .* send less or add a machine"):
        await late
    end.set()
    await task
    again, end = requests.begin("eve", "eve 2", 10)
    end.set()
    await again
    assert requests.working == ["eve 0", "eve 2"]


@pytest.mark.parametrize("just_admitted", [True, False])
async def test_a_client_that_leaves_while_it_waits_holds_nothing(admission, just_admitted):
    requests = Requests(admission)
    first, end = requests.begin("eve", "eve 0", 10)
    await _turn_of_the_loop()
    left, _ = requests.begin("eve", "eve 1", 10)
    await _turn_of_the_loop()
    end.set()
    if just_admitted:
        await first
    left.cancel()
    await asyncio.gather(first, left, return_exceptions=True)
    task, end = requests.begin("eve", "eve 2", 10)
    end.set()
    await task
    assert requests.working[-1] == "eve 2"


async def test_one_caller_takes_half_of_the_places_to_wait_in(admission):
    requests = Requests(admission)
    begun = [requests.begin("eve", "", 10)[0] for _ in range(1 + MAX_WAITING)]
    await _turn_of_the_loop()
    refused = [task for task in begun if task.done()]
    for task in refused:
        with pytest.raises(QueueFull):
            task.result()
    for task in begun:
        task.cancel()
    await asyncio.gather(*begun, return_exceptions=True)
    assert len(refused) == MAX_WAITING // 2


@pytest.fixture
def ask(admission):
    """Return a function that sends a form to a call of images, or to one without."""

    def caller(*_):
        return LOCAL_ADMIN

    async def images(form: Sent[SomeImagesForm]):
        return len(form.images)

    async def settings(form: Sent[GallerySettingsFields]):
        return str(form.retention_days)

    router = guarded_router("/v1", "tests")
    router.post("/pairs")(images)
    router.post("/galleries")(settings)
    app = FastAPI()
    app.include_router(router)
    handle_errors(app)
    app.state.runtime = SimpleNamespace(
        admission=admission,
        settings=Settings(),
        held_bytes=Counter(),
        keys=SimpleNamespace(caller=caller),
        sign_on=SignOn(Settings()),
    )

    async def send(path):
        whole = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=whole, base_url="http://door") as http:
            if "g" in path:
                return await http.post(path, data={"retention_days": "7"})
            return await http.post(path, files={"images": b"x"})

    return send


async def test_where_no_place_is_left_a_request_is_refused_before_its_body_is_read(admission, ask):
    requests = Requests(admission)
    waiting = 1 + MAX_WAITING // 2
    begun = [requests.begin(LOCAL_ADMIN.key_id, "", 10)[0] for _ in range(waiting)]
    await _turn_of_the_loop()
    refused = await ask("/v1/pairs")
    assert problem(refused) == (429, "queue_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert "connection" not in refused.headers, "the next request comes the same way"
    assert (await ask("/v1/galleries")).json() == "7"
    for task in begun:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*begun)
    await _turn_of_the_loop()
    # Nothing is held for a request that was refused.
    assert [(await ask("/v1/pairs")).status_code for _ in range(3)] == [200, 200, 200]
