"""Streams of a job's events: for as long as the key is valid, and a few for each key."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http.limits import MOST_STREAMS
from tests.outside import problem, zip_of_crops
from tests.service.conftest import Served
from tests.service.http.conftest import make_key

Watched = tuple[Served, dict[str, Any], str]


@pytest.fixture
def watched(start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn_crops) -> Watched:
    """Return a service, its administrator's headers, and the path of a running job's events."""
    monkeypatch.setenv("FAILPOINT", "import.unpacked=delay:5")
    admin = {"Authorization": f"Bearer {make_key(tmp_path, '--scope', 'admin')}"}
    served = start(tmp_path)
    files = {"archive": zip_of_crops(drawn_crops[:1])}
    job = served.http.post("/v1/galleries/default/imports", files=files, headers=admin).json()
    return served, admin, f"/v1/jobs/{job['job_id']}/events"


def new_key(served: Served, admin: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    made = served.http.post("/v1/keys", data={"scopes": "query"}, headers=admin).json()
    return made["key_id"], {"Authorization": f"Bearer {made['key']}"}


def events(stream: httpx.Response) -> Iterator[str]:
    return (line for line in stream.iter_lines() if line.startswith("event: "))


def test_a_stream_ends_when_its_key_is_revoked(watched: Watched) -> None:
    served, admin, path = watched
    key_id, headers = new_key(served, admin)
    with served.http.stream("GET", path, headers=headers) as stream:
        seen = events(stream)
        assert next(seen) == "event: progress"
        assert served.http.delete(f"/v1/keys/{key_id}", headers=admin).status_code == 204
        assert list(seen)[-1] == "event: gone"


def test_a_key_holds_a_few_streams_and_others_their_own(watched: Watched) -> None:
    served, admin, path = watched
    _, headers = new_key(served, admin)
    with contextlib.ExitStack() as held:
        for _ in range(MOST_STREAMS):
            stream = held.enter_context(served.http.stream("GET", path, headers=headers))
            assert stream.status_code == 200
        refused = served.http.get(path, headers=headers)
        assert problem(refused) == (429, "too_many_requests")
        assert f"hold {MOST_STREAMS} event streams" in refused.json()["detail"]
        with served.http.stream("GET", path, headers=admin) as other:
            assert other.status_code == 200
