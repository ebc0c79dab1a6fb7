"""The service with an index outside its process, through HTTP."""

from __future__ import annotations

import contextlib
import json
import time
from uuid import uuid4

import numpy as np
import pytest

from tests.forked import run_forked
from tests.outside import problem
from tests.service.conftest import START, files
from tests.service.milvus.conftest import KINDS
from tests.service.milvus.servers import milvus_server
from tests.waiting import eventually

PROGRAM = (
    "import sys; from tests.service.milvus import fake_server; "
    "sys.modules['service.milvus.server'] = fake_server; "
) + START


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("index")


@pytest.fixture(scope="module", params=["fake", *KINDS])
def outside(start, place, request):
    """Return a service whose server of rows is a dictionary, milvus-lite or a real Milvus."""
    with contextlib.ExitStack() as held:
        program = PROGRAM
        url = place / "rows"
        if request.param != "fake":
            program = START
            url = held.enter_context(milvus_server(request.param)).url
        pictures = f"file://{place}/pictures-{request.param}"
        yield start(program=program, images_url=pictures, index_url=url)


@pytest.fixture(scope="module")
def inside(served, drawn_crops):
    """Return the same crops in a gallery of a service with an index of its own."""
    return _fill(served, served.create("beside-outside"), drawn_crops)


def _fill(service, gallery, crops):
    service.fill(gallery, crops)
    return gallery, service.read(f"/v1/galleries/{gallery}")["version"]


@pytest.fixture(scope="module")
def filled(outside, drawn_crops):
    gallery, version = _fill(outside, outside.create("here"), drawn_crops)
    _wait_for(outside, gallery, version)
    return gallery, version


def _wait_for(service, gallery, version):
    """Return once searches show a version; a new gallery's collection may take some seconds."""
    found = {"data": {"crop_id": "unknown", "min_version": version}}
    url = f"/v1/galleries/{gallery}/queries"
    eventually(lambda: service.http.post(url, **found).status_code == 404, 30)


def _shown(answer):
    assert answer.status_code == 200, answer.text
    return [
        (
            result["identity"],
            result["camera"],
            pytest.approx(result["cosine"], abs=1e-4),
            result["verdict"],
        )
        for result in answer.json()["results"]
    ]


OPTIONS = (
    {},
    {"group_by": "identity", "top_k": 1000},
    {"scoring": "cosine", "top_k": 3},
    {"rerank_depth": 5, "top_k": 20},
    {"cameras": "east"},
    {"identities": ["0000", "0003"], "top_k": 20},
    {"unnamed": "true"},
)
FILTERS = {"cameras", "identities", "unnamed"}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_an_answer_is_that_of_an_index_of_the_process(
    outside, filled, served, inside, drawn_crops, options
):
    gallery, version = filled
    images = [drawn_crops[0].png, drawn_crops[1].png]
    found = outside.query(gallery, *images, min_version=version, **options)
    assert _shown(found) == _shown(served.query(inside[0], *images, **options))
    assert found.json()["gallery_version"] == version
    counted = "the whole gallery" in found.json()["calibration"]["basis"]
    assert counted == bool(FILTERS & options.keys())


def test_a_result_s_vector_is_of_unit_length_and_finds_its_crop(outside, filled):
    gallery, version = filled
    listed = outside.results(f"/v1/galleries/{gallery}/crops")
    url = f"/v1/galleries/{gallery}/queries"
    asked = {"include_vector": "true", "top_k": 5}
    like = {"crop_id": listed[0]["crop_id"], "min_version": version, **asked}
    first = outside.http.post(url, data=like).json()["results"][0]
    model = first["embedding_fingerprint"]
    assert np.linalg.norm(first["vector"]) == pytest.approx(1, abs=1e-5)
    sent = {"vector": json.dumps(first["vector"]), "embedding_fingerprint": model}
    found = outside.http.post(url, data=sent | asked)
    itself = found.json()["results"][0]
    assert (itself["crop_id"], itself["vector"]) == (first["crop_id"], first["vector"])
    assert itself["cosine"] == pytest.approx(1, abs=1e-6)


def test_a_filter_by_metadata_is_refused_with_what_to_send_in_its_place(outside, filled):
    url = f"/v1/galleries/{filled[0]}"
    crop_id = outside.results(f"{url}/crops")[0]["crop_id"]
    asked = {"crop_id": crop_id, "metadata": '{"shift": "night"}'}
    refused = outside.http.post(f"{url}/queries", data=asked)
    assert refused.status_code == 422
    assert "cameras, identities or time" in refused.json()["detail"]


def test_thresholds_are_fitted_as_with_an_index_of_the_process(outside, served, drawn_crops):
    named = [crop._replace(identity=f"p{number}") for number, crop in enumerate(drawn_crops)]
    answers = []
    for service in (outside, served):
        gallery = service.create(f"named-{uuid4().hex[:8]}")
        # A fit that finds a collection being built is tried again a minute later.
        _, version = _fill(service, gallery, named[:6])
        _wait_for(service, gallery, version)
        _fill(service, gallery, named[6:])
        url = f"/v1/galleries/{gallery}"

        def fitted(service=service, url=url):
            return service.read(url)["calibration"]["state"] == "own"

        eventually(fitted, 60)
        answers.append(service.query(gallery, drawn_crops[0].png, top_k=24).json())
    one, other = answers
    assert one["calibration"]["identities"] == other["calibration"]["identities"] == len(named)
    for result, same in zip(one["results"], other["results"], strict=True):
        assert result["probability"] == pytest.approx(same["probability"], abs=1e-3)
        assert result["verdict"] == same["verdict"]


def test_crops_are_found_changed_and_deleted_by_their_ids(outside, drawn_crops):
    gallery = outside.create("ids")
    _, version = _fill(outside, gallery, drawn_crops[:6])
    _wait_for(outside, gallery, version)
    found = outside.search(gallery, drawn_crops[0].png)
    first = found[0]["crop_id"]
    second = found[1]["crop_id"]
    url = f"/v1/galleries/{gallery}"
    like = outside.http.post(f"{url}/queries", data={"crop_id": first}).json()["results"]
    assert first not in [crop["crop_id"] for crop in like]
    assert len(like) == 5
    assert outside.http.delete(f"{url}/crops/{second}").status_code == 200
    # At once, whether the index knows it already or not.
    left = outside.search(gallery, drawn_crops[0].png)
    assert second not in [crop["crop_id"] for crop in left]
    assert len(left) == 5
    gone = outside.http.post(f"{url}/queries", data={"crop_id": second})
    assert gone.status_code == 404
    changed = outside.http.patch(f"{url}/crops/{first}", data={"identity": "Ann"}).json()
    named = outside.query(
        gallery, drawn_crops[0].png, min_version=changed["gallery_version"]
    ).json()
    assert named["results"][0]["identity"] == "Ann"
    described = outside.read(url)
    assert (described["crops"], described["index_kind"]) == (5, "milvus")
    assert described["index_bytes"] == 0


@pytest.mark.parametrize("outside", ["fake"], indirect=True)
@pytest.mark.parametrize("trouble", ["dead", "hangs"])
def test_without_its_server_searches_are_refused_at_once_and_the_rest_goes_on(
    outside, filled, drawn_crops, place, trouble
):
    gallery, _ = filled
    flag = place / f"rows.{trouble}"
    flag.touch()
    try:
        for _ in range(3):
            began = time.monotonic()
            refused = outside.query(gallery, drawn_crops[0].png)
            assert time.monotonic() - began < 1.5
            assert problem(refused) == (503, "index_unavailable")
            assert int(refused.headers["Retry-After"]) > 0
        assert outside.read("/readyz")["index"] == "unavailable"
        assert "\ngmn_index_up 0.0\n" in outside.http.get("/metrics").text
        other = outside.create(f"new-{trouble}")
        _, version = _fill(outside, other, drawn_crops[:3])
        listed = outside.results(f"/v1/galleries/{other}/crops")
        gone = listed[0]["crop_id"]
        assert outside.http.delete(f"/v1/galleries/{other}/crops/{gone}").status_code == 200
        assert outside.read(f"/v1/galleries/{other}")["crops"] == 2
        pair = files(drawn_crops[0].png, drawn_crops[1].png)
        assert outside.http.post("/v1/pairs", files=pair, data={"gallery": gallery}).is_success
    finally:
        flag.unlink()
    eventually(lambda: outside.query(gallery, drawn_crops[0].png).status_code == 200)
    assert outside.read("/readyz")["index"] == "ready"
    _wait_for(outside, other, version + 1)
    assert len(outside.search(other, drawn_crops[1].png)) == 2


@pytest.mark.parametrize("outside", ["fake"], indirect=True)
def test_while_its_server_is_behind_an_answer_says_which_version_it_shows(
    outside, drawn_crops, place
):
    gallery = outside.create("behind")
    _, version = _fill(outside, gallery, drawn_crops[:4])
    _wait_for(outside, gallery, version)
    first, second = (
        result["crop_id"] for result in outside.search(gallery, drawn_crops[0].png, top_k=2)
    )
    flag = place / "rows.behind"
    flag.touch()
    try:
        _, later = _fill(outside, gallery, drawn_crops[4:6])
        url = f"/v1/galleries/{gallery}/crops"
        assert outside.http.delete(f"{url}/{first}").status_code == 200
        assert outside.http.patch(f"{url}/{second}", data={"identity": "Ann"}).status_code == 200
        found = outside.query(gallery, drawn_crops[0].png).json()
        assert found["gallery_version"] == version < later
        shown = {result["crop_id"]: result["identity"] for result in found["results"]}
        assert len(shown) == 3
        assert first not in shown
        assert shown[second] == "Ann"
        waited = outside.query(gallery, drawn_crops[0].png, min_version=later)
        assert problem(waited) == (503, "version_not_reached")
    finally:
        flag.unlink()
    _wait_for(outside, gallery, later + 2)
    found = outside.query(gallery, drawn_crops[0].png).json()
    assert (found["gallery_version"], len(found["results"])) == (later + 2, 5)


@pytest.mark.parametrize("outside", ["fake"], indirect=True)
def test_a_search_too_large_to_be_answered_in_time_keeps_no_other_off_the_server(
    outside, filled, drawn_crops, place
):
    gallery, _ = filled
    flag = place / "rows.slow"
    flag.touch()
    try:
        refused = outside.query(gallery, drawn_crops[0].png, top_k=5000)
        next_one = outside.query(gallery, drawn_crops[0].png, top_k=3)
    finally:
        flag.unlink()
    if refused.status_code != 503:
        pytest.fail(f"the large search was answered: {refused.text}")
    assert refused.json()["type"] == "urn:gmn:problem:index_unavailable"
    assert "takes too long; a smaller top_k" in refused.json()["detail"]
    assert next_one.status_code == 200


@pytest.mark.parametrize("outside", ["fake"], indirect=True)
def test_a_collection_with_fewer_rows_than_the_record_is_refused(
    outside, filled, drawn_crops, place
):
    gallery, _ = filled
    flag = place / "rows.lost"
    flag.touch()
    try:
        refused = outside.query(gallery, drawn_crops[0].png, top_k=100)
    finally:
        flag.unlink()
    assert problem(refused) == (503, "index_unavailable")
    assert "has lost crops" in refused.json()["detail"]
    eventually(lambda: outside.query(gallery, drawn_crops[0].png).status_code == 200)


def test_the_client_of_milvus_is_not_loaded_without_an_index_url():
    program = "import sys, service.runtime; sys.exit('pymilvus' in sys.modules)"
    assert run_forked(program).returncode == 0
