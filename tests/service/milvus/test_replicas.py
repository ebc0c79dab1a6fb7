"""Two processes of the service on one record and one Milvus, through HTTP."""

import tempfile
from pathlib import Path

import pytest

from tests.service.milvus.cycles import Cycles
from tests.service.milvus.servers import milvus_server
from tests.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.promise("milvus")]
KINDS = ("lite", "real")


@pytest.fixture(scope="module", params=KINDS)
def replicas(request, start, tmp_path_factory):
    place = tmp_path_factory.mktemp("replicas")
    with milvus_server(request.param) as milvus:
        yield [
            start(
                data_dir=place / "data",
                images_url=f"file://{place}/pictures",
                index_url=milvus.url,
            )
            for _ in range(2)
        ]


def _search(service, gallery, image, **more):
    eventually(lambda: service.query(gallery, image, **more).status_code != 503)
    return service.search(gallery, image, **more)


def test_a_deleted_crop_shows_nowhere_and_a_forgotten_person_is_named_in_milvus(
    replicas, drawn_crops
):
    one, other = replicas
    gallery = one.create("deletions")
    first = one.fill(gallery, drawn_crops)[0]
    _search(other, gallery, drawn_crops[0].png, min_version=1)
    assert one.http.delete(f"/v1/galleries/{gallery}/crops/{first}").status_code == 200
    shown = _search(other, gallery, drawn_crops[0].png, top_k=1000)
    assert first not in {hit["crop_id"] for hit in shown}
    identity = drawn_crops[0].identity
    forgotten = one.http.delete(f"/v1/galleries/{gallery}/identities/{identity}")
    assert forgotten.status_code == 200, forgotten.text
    assert any("Milvus" in place["where"] for place in forgotten.json()["remaining"])
    shown = _search(other, gallery, drawn_crops[0].png, top_k=1000)
    assert identity not in {hit["identity"] for hit in shown}


@pytest.mark.parametrize("kind", KINDS)
def test_kills_of_processes_lose_nothing_and_bring_nothing_back(kind):
    with (
        tempfile.TemporaryDirectory(prefix="cycles-") as folder,
        milvus_server(kind) as server,
    ):
        done = Cycles(Path(folder), server, "test").run(3)
    assert done["enrolled"] > 10
