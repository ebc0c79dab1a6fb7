"""Streams of a job's events: for as long as the key is valid, and a few for each key."""

import contextlib

import pytest

from service.http.limits import MOST_STREAMS
from tests.outside import bearer, problem, zip_of_crops
from tests.service.conftest import START
from tests.service.http.conftest import make_key

PING = "from service.http.routes import jobs; jobs.KEEP_ALIVE_SECONDS = 0.1"


@pytest.fixture
def watched(start, tmp_path, drawn_crops):
    """Return a service, its administrator's headers, and the path of a running job's events."""
    admin = bearer(make_key(tmp_path, "--scope", "admin"))
    served = start(tmp_path, program=f"{PING}; {START}", failpoint="import.unpacked=delay:60")
    files = {"archive": zip_of_crops(drawn_crops[:1])}
    job = served.http.post("/v1/galleries/default/imports", files=files, headers=admin).json()
    return served, admin, f"/v1/jobs/{job['job_id']}/events"


@pytest.mark.promise("shares")
def test_a_stream_ends_when_its_key_is_revoked(watched):
    served, admin, path = watched
    key_id, headers = served.make_key("query", headers=admin)
    with served.http.stream("GET", path, headers=headers) as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: progress"
        # It is kept alive while nothing happens.
        assert any(line.startswith(": ping") for line in lines)
        assert served.http.delete(f"/v1/keys/{key_id}", headers=admin).status_code == 204
        assert [line for line in lines if line.startswith("event: ")][-1] == "event: gone"


@pytest.mark.promise("shares")
def test_a_key_holds_a_few_streams_and_others_their_own(watched):
    served, admin, path = watched
    _, headers = served.make_key("query", headers=admin)
    with contextlib.ExitStack() as held:
        for _ in range(MOST_STREAMS):
            stream = held.enter_context(served.http.stream("GET", path, headers=headers))
            assert stream.status_code == 200
        refused = served.http.get(path, headers=headers)
        assert problem(refused) == (429, "too_many_requests")
        assert f"hold {MOST_STREAMS} event streams" in refused.json()["detail"]
        with served.http.stream("GET", path, headers=admin) as other:
            assert other.status_code == 200
