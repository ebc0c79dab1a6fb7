"""Exports of cases take no disk, are few at once, and end with their clients."""

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmn_client import Client
from tests.outside import bearer, encoded, problem
from tests.service.http.conftest import make_key
from tests.waiting import eventually

pytestmark = pytest.mark.slow
PICTURES = 8


def noise(seed):
    """Return a picture of 1.5 MB, which sockets alone do not hold."""
    pixels = np.random.default_rng(seed).integers(0, 256, (1000, 500, 3), np.uint8)
    return encoded(Image.fromarray(pixels), compress_level=0)


@pytest.fixture(scope="module")
def place(tmp_path_factory, engine):
    return tmp_path_factory.mktemp("exports") / "data"


@pytest.fixture(scope="module")
def keys(place):
    return [make_key(place, "--scope", "query") for _ in range(2)]


@pytest.fixture(scope="module")
def export(start, place, keys):
    """Return a service, and the address of the export of a case with large pictures."""
    admin = make_key(place, "--scope", "admin", "--scope", "enroll", "--scope", "query")
    served = start(place)
    with Client(str(served.http.base_url), admin) as client:
        for number in range(PICTURES):
            client.enroll([noise(number)])
        case = client.create_case("case")
        found = client.query(noise(0), keep=True, top_k=PICTURES)
        client.hold_search(case.case_id, found.query_id)
    return served, f"/v1/galleries/default/cases/{case.case_id}/export"


def get(served, url, key):
    return served.http.get(url, headers=bearer(key))


@pytest.mark.promise("case-exports")
def test_a_few_exports_run_at_once_and_one_that_is_broken_off_gives_its_place_back(export, keys):
    served, url = export
    first, second = keys
    with contextlib.ExitStack() as held:
        unread = [
            held.enter_context(served.http.stream("GET", url, headers=bearer(first)))
            for _ in range(2)
        ]
        assert [answer.status_code for answer in unread] == [200, 200]
        refused = get(served, url, first)
        assert problem(refused) == (429, "too_many_exports")
        assert refused.headers["Retry-After"] == "5"
        assert "at most 4 run at once, of which one key has 2" in refused.json()["detail"]
        opened = Path(f"/proc/{served.process.pid}/fd").iterdir()
        links = [str(link.readlink()) for link in opened if link.is_symlink()]
        assert [link for link in links if link.endswith("(deleted)")] == []
        assert get(served, url, second).status_code == 200
    eventually(lambda: get(served, url, first).status_code == 200)


@pytest.mark.promise("case-exports")
def test_an_export_needs_no_room_on_the_disk(export, keys, place, start):
    _, url = export
    again = start(place, reserved_disk_bytes=2**60)
    answer = get(again, url, keys[0])
    assert answer.status_code == 200, answer.text[:500]
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert archive.testzip() is None
    pictures = [name for name in archive.namelist() if name.startswith("pictures/")]
    assert len(pictures) == PICTURES
