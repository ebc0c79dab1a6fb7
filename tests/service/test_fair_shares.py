"""A request of one key neither keeps the searches of another waiting nor fills the memory."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from service.ops.threads import CALLER, MonitoredThreadPool
from service.search.options import QueryOptions
from service.search.query import GalleriesQuery
from service.settings import Settings
from tests.outside import encoded, problem
from tests.service.conftest import files

# A box that is the whole of the large picture.
WHOLE = json.dumps({"x": 0, "y": 0, "width": 4000, "height": 4000})
QUERIES = "/v1/galleries/default/queries"
CROPS = "/v1/galleries/default/crops"


@pytest.fixture(scope="module")
def service(start):
    return start()


@pytest.fixture(scope="module")
def large_picture():
    """Return a transparent PNG of 70 kB and 16 megapixels, which decodes into the most memory."""
    pixels = np.full((4000, 4000, 4), 120, np.uint8)
    return encoded(Image.fromarray(pixels, "RGBA"), compress_level=9)


def _post(service, path, images, headers=None, **fields):
    sent = files(*images)
    return service.http.post(path, files=sent, data=fields, headers=headers, timeout=300)


def _refused(answer):
    assert problem(answer) == (422, "too_costly")
    detail = answer.json()["detail"]
    assert "GMN_MAX_COST" in detail
    assert "may cost 176.0" in detail
    return detail


@pytest.mark.promise("5")
@pytest.mark.parametrize("path", [QUERIES, CROPS, "/v1/embeddings"])
def test_many_large_pictures_are_refused_before_they_are_decoded(service, large_picture, path):
    detail = _refused(_post(service, path, [large_picture] * 128))
    assert detail.startswith("images")


@pytest.mark.promise("5")
@pytest.mark.parametrize("path", [QUERIES, CROPS])
def test_boxes_that_together_are_many_times_their_frame_are_refused(service, large_picture, path):
    assert "boxes" in _refused(_post(service, path, [large_picture], boxes=[WHOLE] * 128))


def test_the_cost_of_a_search_is_of_the_crops_that_there_are(service, images):
    _post(service, CROPS, images)
    answer = _post(service, QUERIES, images[:1] * 128, rerank_depth="10000", scoring="mnet")
    assert answer.status_code == 200
    assert answer.json()["candidates_scored"] == len(images)


def test_files_that_are_no_images_cost_nothing_to_decode(service, images):
    sent = [images[0], *(b"no image %d" % number for number in range(100))]
    gallery = service.create("beside-what-is-no-image")
    answer = _post(service, f"/v1/galleries/{gallery}/crops", sent)
    assert answer.status_code == 207
    assert ["problem" in result for result in answer.json()["results"]] == [False] + [True] * 100


def test_what_one_request_may_be_is_taken(service, large_picture):
    half = [encoded(Image.new("RGB", (400, 1250), (90, 60, 30)), "JPEG")] * 128
    assert _post(service, "/v1/embeddings", half).status_code == 200
    assert _post(service, QUERIES, [large_picture], boxes=[WHOLE] * 2).status_code == 200


@pytest.mark.promise("5")
@pytest.mark.slow
def test_searches_of_another_key_go_on_beside_large_requests(start, large_picture, images):
    """Eight costly requests come at once; memory is measured of the whole process."""
    served = start()
    _, admin = served.make_key("admin")
    eve, bob = (served.make_key("query,enroll", headers=admin)[1] for _ in range(2))
    idle = _resident_bytes(served.process.pid)
    codes = []
    most = idle
    with ThreadPoolExecutor(8) as clients:
        attack = [
            clients.submit(_post, served, CROPS, [large_picture], eve, boxes=[WHOLE] * 2)
            for _ in range(8)
        ]
        while not all(request.done() for request in attack):
            codes.append(_post(served, QUERIES, [images[0]], bob).status_code)
            most = max(most, _resident_bytes(served.process.pid))
    assert {request.result().status_code for request in attack} <= {201, 429}
    assert set(codes) == {200}
    # A search that waits for longer than five seconds is refused, and none waits for the attack.
    assert len(codes) > 2
    assert most - idle <= 1.3e9


def _resident_bytes(process):
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096


def test_a_pool_takes_the_calls_of_callers_in_turn():
    pool = MonitoredThreadPool(1, "turns")
    done = []
    begin = threading.Event()
    pool.submit(begin.wait, 20)
    for number, caller in enumerate(["eve", "eve", "eve", "bob"]):
        CALLER.set(caller)
        pool.submit(done.append, number)
    begin.set()
    pool.shutdown()
    assert done == [0, 3, 1, 2]


@pytest.mark.parametrize(
    ("images", "depth", "least", "most"),
    [(128, 10_000, 1.0, np.inf), (128, 1, 0.0, 0.1), (1, 10_000, 0.0, 0.1)],
)
def test_a_query_is_priced_by_its_pairs(images, depth, least, most):
    """Compare with the dearest query that is admitted; embedding costs nothing here."""
    pipeline = Mock()
    pipeline.cost.return_value = 0.0
    current = SimpleNamespace(scoring="mnet", model=SimpleNamespace(pipeline=pipeline))
    gallery = SimpleNamespace(crops=10_000)
    search = SimpleNamespace(current=current, gallery=gallery, queries=())
    options = QueryOptions(rerank_depth=depth)
    query = GalleriesQuery(["default"], [b""] * images, options)
    share = Settings().max_cost / 2
    cost = query.estimate_cost([search])
    assert least < cost / share < most
    assert query.estimate_cost([search] * 4) == pytest.approx(4 * cost)
