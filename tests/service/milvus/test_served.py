"""The service with an index outside its process, through HTTP."""

import contextlib
from uuid import uuid4

import pytest

from service.milvus.index import SEARCH_SECONDS
from tests.forked import run_forked
from tests.outside import crop_ids, figure, problem
from tests.service.conftest import START, files
from tests.service.milvus.conftest import KINDS
from tests.service.milvus.servers import milvus_server
from tests.waiting import eventually

pytestmark = pytest.mark.promise("milvus-outage")

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
    return _fill(served, served.create(f"beside-outside-{uuid4().hex[:8]}"), drawn_crops)


def _fill(service, gallery, crops):
    service.fill(gallery, crops)
    return gallery, service.read(f"/v1/galleries/{gallery}")["version"]


@contextlib.contextmanager
def told(place, order):
    flag = place / f"rows.{order}"
    flag.touch()
    try:
        yield
    finally:
        flag.unlink()


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


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"metadata": '{"shift": "night"}'}, "filter by cameras, identities or time"),
        ({"group_by": "track"}, "group by identity"),
    ],
)
def test_what_milvus_cannot_do_is_refused_with_what_to_send_in_its_place(
    outside, filled, drawn_crops, options, remedy
):
    refused = outside.query(filled[0], drawn_crops[0].png, **options)
    assert refused.status_code == 422
    assert remedy in refused.json()["detail"]


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

        eventually(fitted, 120)
        answers.append(service.query(gallery, drawn_crops[0].png, top_k=24).json())
    one, other = answers
    assert one["calibration"]["identities"] == other["calibration"]["identities"] == len(named)
    for result, same in zip(one["results"], other["results"], strict=True):
        assert result["probability"] == pytest.approx(same["probability"], abs=1e-3)
        assert result["verdict"] == same["verdict"]


def test_crops_are_found_changed_and_deleted_by_their_ids(outside, drawn_crops):
    gallery, version = _fill(outside, outside.create("ids"), drawn_crops[:6])
    _wait_for(outside, gallery, version)
    image = drawn_crops[0].png
    first, second, *_ = outside.found(gallery, image)
    url = f"/v1/galleries/{gallery}"
    like = crop_ids(outside.http.post(f"{url}/queries", data={"crop_id": first}))
    assert (len(like), first in like) == (5, False)
    assert outside.http.delete(f"{url}/crops/{second}").status_code == 200
    # At once, whether the index knows it already or not.
    left = outside.found(gallery, image)
    assert (len(left), second in left) == (5, False)
    gone = outside.http.post(f"{url}/queries", data={"crop_id": second})
    assert gone.status_code == 404
    changed = outside.http.patch(f"{url}/crops/{first}", data={"identity": "Ann"}).json()
    named = outside.search(gallery, image, min_version=changed["gallery_version"])
    assert named[0]["identity"] == "Ann"
    described = outside.read(url)
    assert (described["crops"], described["index_kind"]) == (5, "milvus")
    assert described["index_bytes"] == 0


ON_FAKE_SERVER = pytest.mark.parametrize("outside", ["fake"], indirect=True)


@ON_FAKE_SERVER
@pytest.mark.parametrize("trouble", ["dead", "hangs"])
def test_without_its_server_searches_are_refused_at_once_and_the_rest_goes_on(
    outside, filled, drawn_crops, place, trouble
):
    gallery, _ = filled
    assert SEARCH_SECONDS <= 1.0
    with told(place, trouble):
        for _ in range(3):
            refused = outside.query(gallery, drawn_crops[0].png)
            assert problem(refused) == (503, "index_unavailable")
            assert int(refused.headers["Retry-After"]) > 0
        assert outside.read("/readyz")["index"] == "unavailable"
        assert figure(outside, "gmn_index_up") == 0
        other = outside.create(f"new-{trouble}")
        _, version = _fill(outside, other, drawn_crops[:3])
        url = f"/v1/galleries/{other}"
        gone = outside.results(f"{url}/crops")[0]["crop_id"]
        assert outside.http.delete(f"{url}/crops/{gone}").status_code == 200
        assert outside.read(url)["crops"] == 2
        pair = files(drawn_crops[0].png, drawn_crops[1].png)
        assert outside.http.post("/v1/pairs", files=pair, data={"gallery": gallery}).is_success
    eventually(lambda: outside.query(gallery, drawn_crops[0].png).status_code == 200)
    assert outside.read("/readyz")["index"] == "ready"
    _wait_for(outside, other, version + 1)
    assert len(outside.search(other, drawn_crops[1].png)) == 2


@ON_FAKE_SERVER
def test_while_its_server_is_behind_an_answer_says_which_version_it_shows(
    outside, drawn_crops, place
):
    gallery, version = _fill(outside, outside.create("behind"), drawn_crops[:4])
    _wait_for(outside, gallery, version)
    image = drawn_crops[0].png
    first, second = outside.found(gallery, image, top_k=2)
    with told(place, "behind"):
        _, later = _fill(outside, gallery, drawn_crops[4:6])
        url = f"/v1/galleries/{gallery}/crops"
        assert outside.http.delete(f"{url}/{first}").status_code == 200
        assert outside.http.patch(f"{url}/{second}", data={"identity": "Ann"}).status_code == 200
        answer = outside.query(gallery, image).json()
        assert answer["gallery_version"] == version < later
        shown = {result["crop_id"]: result["identity"] for result in answer["results"]}
        assert len(shown) == 3
        assert first not in shown
        assert shown[second] == "Ann"
        waited = outside.query(gallery, image, min_version=later)
        assert problem(waited) == (503, "version_not_reached")
    _wait_for(outside, gallery, later + 2)
    answer = outside.query(gallery, image).json()
    assert (answer["gallery_version"], len(answer["results"])) == (later + 2, 5)


@ON_FAKE_SERVER
def test_a_search_too_large_to_be_answered_in_time_keeps_no_other_off_the_server(
    outside, filled, drawn_crops, place
):
    with told(place, "slow"):
        refused = outside.query(filled[0], drawn_crops[0].png, top_k=5000)
        next_one = outside.query(filled[0], drawn_crops[0].png, top_k=3)
    assert problem(refused) == (503, "index_unavailable")
    assert "a smaller top_k" in refused.json()["detail"]
    assert next_one.status_code == 200


def test_the_client_of_milvus_is_not_loaded_without_an_index_url():
    program = "import sys, service.runtime; sys.exit('pymilvus' in sys.modules)"
    assert run_forked(program).returncode == 0
