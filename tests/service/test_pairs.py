"""Two images compared, and the comparison explained."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from model.crops.decode import decode_crop
from model.explanation import variants
from model.preprocessing import Preprocessing
from service.errors import UnusableImages
from service.ops.metrics import Metrics
from service.ops.threads import MonitoredThreadPool
from service.search.pairs import PairComparison, PairScoring
from tests.outside import encoded, problem
from tests.service.conftest import files

pytestmark = pytest.mark.promise("explanations")

SIZE = Preprocessing(height=64, width=32)


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


def _pair(served, first, second, **fields):
    sent = files(first, second)
    return served.http.post("/v1/pairs", files=sent, data=fields)


def test_a_comparison_is_explained_only_where_that_is_asked_for(served, images):
    plain = _pair(served, *images[:2]).json()
    explained = _pair(served, *images[:2], explain="true").json()
    assert _pair(served, *images[:2], explain="false").json() == plain
    assert explained.keys() - plain.keys() == {"explanation"}
    assert explained["verdict"] == plain["verdict"]


@pytest.mark.parametrize(("scoring", "field"), [("mnet", "logit"), ("cosine", "cosine")])
def test_a_contribution_is_what_the_service_itself_answers_without_the_region(
    served, images, scoring, field
):
    second = images[12]
    crop = SIZE.resize(decode_crop(images[0]))
    shown = encoded(Image.fromarray(crop))
    whole = _pair(served, shown, second, explain="true", scoring=scoring).json()
    explanation = whole["explanation"]
    assert explanation["grid"] == [8, 4]
    assert explanation["score"] == pytest.approx(whole[field], abs=1e-4)
    for row, column in ((0, 1), (3, 2), (7, 3)):
        hidden = variants(crop, range(row * 4 + column + 1, row * 4 + column + 2))[0]
        without = _pair(served, encoded(Image.fromarray(hidden)), second, scoring=scoring).json()
        lost = pytest.approx(whole[field] - without[field], abs=1e-4)
        assert explanation["first"][row][column] == lost


def test_exchanged_images_have_exchanged_explanations(served, images):
    there = _pair(served, images[0], images[2], explain="true").json()["explanation"]
    back = _pair(served, images[2], images[0], explain="true").json()["explanation"]
    assert (there["first"], there["second"]) == (back["second"], back["first"])


def test_an_explanation_does_not_depend_on_who_else_is_asking(served, filled, images):
    alone = _pair(served, *images[:2], explain="true").json()["explanation"]
    with ThreadPoolExecutor(8) as clients:
        asking = [clients.submit(served.query, filled, image) for image in images]
        crowded = _pair(served, *images[:2], explain="true").json()["explanation"]
        assert {query.result().status_code for query in asking} == {200}
    assert crowded == alone


def test_an_explanation_costs_as_much_as_the_images_that_it_embeds(open_service, images):
    served = open_service(max_cost=60)
    assert _pair(served, *images[:2]).status_code == 200
    refused = _pair(served, *images[:2], explain="true")
    assert problem(refused) == (422, "too_costly")
    assert "cost 34.0 together" in refused.json()["detail"]


class StandIn:
    """A model, beside a real device thread, that can be watched and held up."""

    def __init__(self, value=1.0):
        self.done = []
        self.entered = threading.Event()
        self.go_on = threading.Event()
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


def _pairs(device):
    return PairComparison({}, None, None, device, None, Metrics())


@pytest.mark.parametrize(("leaves", "passes"), [(False, 21), (True, 0)])
async def test_others_are_served_between_passes_and_no_more_is_computed_for_a_client_that_left(
    device, leaves, passes
):
    model = StandIn()

    explaining = asyncio.ensure_future(
        _pairs(device).explain(PairScoring(model, None), [b"", b""], "cosine")
    )
    await asyncio.to_thread(model.entered.wait, 10)
    other = device.submit(lambda: model.done.append("another request"))
    if leaves:
        explaining.cancel()
    model.go_on.set()
    await asyncio.gather(explaining, asyncio.wrap_future(other), return_exceptions=True)
    device.submit(lambda: None).result(10)
    assert model.done == ["3 variants", "another request", *["3 variants"] * passes]


async def test_a_model_without_a_finite_vector_explains_nothing(device):
    model = StandIn(value=float("nan"))
    model.go_on.set()
    with pytest.raises(UnusableImages, match="without explain"):
        await _pairs(device).explain(PairScoring(model, None), [b"", b""], "cosine")
