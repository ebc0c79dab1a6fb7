"""Two images compared, and the comparison explained."""

from __future__ import annotations

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from model.crops.decode import decode_crop
from model.explanation import variants
from model.preprocessing import Preprocessing
from service.engine.device import DeviceThread
from service.errors import UnusableImages
from service.ops.metrics import Metrics
from service.ops.threads import MonitoredThreadPool
from service.search.pairs import explain_pair
from tests.outside import problem
from tests.service.conftest import files

SIZE = Preprocessing(height=64, width=32)


def _pair(served, first: bytes, second: bytes, **fields):
    sent = files(first, second)
    return served.http.post("/v1/pairs", files=sent, data=fields)


def _png(pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def test_a_comparison_says_no_more_than_it_was_asked(served, drawn_crops):
    images = drawn_crops[0].png, drawn_crops[2].png
    plain = _pair(served, *images).json()
    explained = _pair(served, *images, explain="true").json()
    assert "explanation" not in plain
    assert _pair(served, *images, explain="false").json() == plain
    assert explained.keys() == plain.keys() | {"explanation"}
    assert explained["logit"] == pytest.approx(plain["logit"], abs=1e-4)
    assert explained["verdict"] == plain["verdict"]


@pytest.mark.parametrize(("scoring", "field"), [("mnet", "logit"), ("cosine", "cosine")])
def test_the_asked_score_is_what_is_explained(served, drawn_crops, scoring, field):
    answer = _pair(
        served, drawn_crops[0].png, drawn_crops[12].png, explain="true", scoring=scoring
    ).json()
    explanation = answer["explanation"]
    assert explanation["scoring"] == scoring
    assert explanation["score"] == pytest.approx(answer[field], abs=1e-4)
    assert explanation["grid"] == [8, 4]
    for image in ("first", "second"):
        contributions = np.array(explanation[image])
        assert contributions.shape == (8, 4)
        assert np.ptp(contributions) > 0


@pytest.mark.parametrize("scoring", ["mnet", "cosine"])
def test_a_contribution_is_what_the_service_itself_answers_without_the_region(
    served, drawn_crops, scoring
):
    second = drawn_crops[12].png
    crop = SIZE.resize(decode_crop(drawn_crops[0].png))
    whole = _pair(served, _png(crop), second, explain="true", scoring=scoring).json()
    contributions = whole["explanation"]["first"]
    for row, column in ((0, 1), (3, 2), (7, 3)):
        hidden = variants(crop, range(row * 4 + column + 1, row * 4 + column + 2))[0]
        without = _pair(served, _png(hidden), second, explain="true", scoring=scoring).json()
        lost = whole["explanation"]["score"] - without["explanation"]["score"]
        assert contributions[row][column] == pytest.approx(lost, abs=1e-4)


def test_exchanged_images_have_exchanged_explanations(served, drawn_crops):
    images = drawn_crops[0].png, drawn_crops[2].png
    there = _pair(served, *images, explain="true").json()["explanation"]
    back = _pair(served, *reversed(images), explain="true").json()["explanation"]
    assert there["first"] == back["second"]
    assert there["second"] == back["first"]


def test_an_explanation_does_not_depend_on_who_else_is_asking(served, filled, drawn_crops):
    images = drawn_crops[0].png, drawn_crops[2].png
    alone = _pair(served, *images, explain="true").json()["explanation"]
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(served.query, filled, crop.png) for crop in drawn_crops]
        crowded = _pair(served, *images, explain="true").json()["explanation"]
        assert all(query.result().status_code == 200 for query in asking)
    assert crowded == alone


def test_an_explanation_costs_as_much_as_the_images_that_it_embeds(start, drawn_crops):
    served = start(max_cost=60)
    images = drawn_crops[0].png, drawn_crops[2].png
    assert _pair(served, *images).status_code == 200
    refused = _pair(served, *images, explain="true")
    assert problem(refused) == (422, "too_costly")
    assert refused.json()["detail"].startswith("images, explain: cost 34.0 together")


def test_a_client_that_left_an_explanation_is_dropped(served, drawn_crops):
    sent = files(*(crop.png for crop in drawn_crops[:2]))
    request = served.http.build_request("POST", "/v1/pairs", files=sent, data={"explain": "true"})
    served.drops_who_left(request, '"/v1/pairs",')


class StandIn:
    """A runtime of a real device thread and a model that can be watched and held up."""

    def __init__(self, device: DeviceThread, value: float = 1.0) -> None:
        self.device = device
        self.metrics = Metrics()
        self.done: list[str] = []
        self.entered, self.go_on = threading.Event(), threading.Event()
        self.settings = SimpleNamespace(max_batch=32)
        self.description = SimpleNamespace(scorings=("cosine",))
        self.networks = SimpleNamespace(runtime=SimpleNamespace(embed=self._embed))
        self.pipeline = SimpleNamespace(
            resize=self._resize, threads=MonitoredThreadPool(2, "decode")
        )
        self._value = value

    async def _resize(self, _):
        return np.zeros((32, 16, 3), np.uint8)

    def _embed(self, crops):
        self.entered.set()
        assert self.go_on.wait(10)
        self.done.append(f"{len(crops)} variants")
        return np.full((len(crops), 2), self._value, np.float32)


@pytest.fixture
def device():
    thread = DeviceThread()
    yield thread
    thread.shutdown()


def test_others_are_served_between_the_passes_of_an_explanation(device):
    runtime = StandIn(device)

    async def explain_among_others():
        explaining = asyncio.ensure_future(explain_pair(runtime, runtime, [b"", b""], "cosine"))
        await asyncio.to_thread(runtime.entered.wait, 10)
        other = device.submit(lambda: runtime.done.append("another request"))
        runtime.go_on.set()
        await asyncio.wrap_future(other)
        return await explaining

    asyncio.run(explain_among_others())
    assert runtime.done == ["3 variants", "another request", *["3 variants"] * 21]


def test_nothing_more_is_computed_for_a_client_that_left(device):
    runtime = StandIn(device)

    async def leave():
        explaining = asyncio.ensure_future(explain_pair(runtime, runtime, [b"", b""], "cosine"))
        await asyncio.to_thread(runtime.entered.wait, 10)
        explaining.cancel()
        runtime.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await explaining

    asyncio.run(leave())
    device.submit(lambda: None).result(10)
    assert runtime.done == ["3 variants"]


def test_a_model_without_a_finite_vector_explains_nothing(device):
    runtime = StandIn(device, value=float("nan"))
    runtime.go_on.set()
    with pytest.raises(UnusableImages, match="without explain"):
        asyncio.run(explain_pair(runtime, runtime, [b"", b""], "cosine"))
