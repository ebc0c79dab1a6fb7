"""API keys by the API and the client: made, listed, in force at once, revoked."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from gmn_client import Client, KeyRefused, RequestRefused
from service.api_keys import create_key
from service.errors import KeyConflict, UnknownKey
from tests.outside import audit_lines, bearer
from tests.service.http.conftest import make_key, run_keys
from tests.waiting import eventually

LATER = "from now on every call needs one"


@pytest.fixture
def settings(tmp_path):
    return {"data_dir": tmp_path / "data"}


@pytest.mark.promise("6")
def test_a_key_is_made_used_listed_and_revoked_at_once_without_a_trace_of_its_secret(
    start, settings
):
    served = start(**settings)
    url = str(served.http.base_url)
    with Client(url) as keyless:
        assert not list(keyless.keys())
        with pytest.raises(RequestRefused, match="scope admin for every gallery") as refused:
            keyless.create_key("query")
        assert refused.value.problem.status == 409
        with pytest.raises(RequestRefused):
            keyless.create_key("admin", gallery="default")
        first = keyless.create_key("admin", note="root")
        assert [LATER in warning for warning in first.warnings] == [True]
        with pytest.raises(KeyRefused):
            keyless.galleries().__next__()
    with Client(url, first.key) as admin:
        options = {"gallery": "lobby", "expires_days": 30, "rate": 60, "learn": False}
        second = admin.create_key("enroll", "query", note="desk", **options)
        (warning,) = second.warnings
        assert warning == "There is no gallery lobby yet; the key is for one of that name."
        assert second.expires_at - second.created_at == timedelta(days=30)
        with Client(url, second.key) as desk:
            assert list(desk.galleries()) == []
            listed = list(admin.keys())
            assert [key.note for key in listed] == ["root", "desk"]
            assert listed[1].model_dump() == second.model_dump(exclude={"key", "warnings"})
            assert (second.scopes, second.gallery) == (["query", "enroll"], "lobby")
            assert (second.rate, second.learn, second.in_file) == (60, False, False)
            asked = served.http.get("/v1/keys", headers=bearer(first.key))
            assert "sha256" not in asked.text
            assert asked.headers["cache-control"] == "no-store"
            admin.delete_key(second.key_id)
            with pytest.raises(KeyRefused, match="unknown here or was revoked"):
                list(desk.galleries())
        with pytest.raises(RequestRefused, match="there is no such key") as refused:
            admin.delete_key(second.key_id)
        assert refused.value.problem.status == 404
        with pytest.raises(RequestRefused, match="no valid key would have") as refused:
            admin.delete_key(first.key_id)
        assert refused.value.problem.status == 409
        # A key that was given in the place of its id is neither named nor noted.
        with pytest.raises(RequestRefused, match="key_id: "):
            admin.delete_key(second.key)
    secrets = [key.key.split("_", 2)[2] for key in (first, second)]
    # Refusals are written within a second, which may be after this.
    lines = audit_lines(settings["data_dir"], "create_key", "revoke_key")
    actors = [(line["event"], line["actor"]) for line in lines if line["phase"] == "done"]
    assert actors == [
        ("create_key", "loopback"),
        ("create_key", first.key_id),
        ("revoke_key", first.key_id),
    ]
    kept = _kept(settings["data_dir"]) + served.log.read_text() + repr((first, second))
    assert not any(secret in kept for secret in secrets)


def _kept(data_dir):
    return b"".join(file.read_bytes() for file in data_dir.glob("*.*")).decode(errors="replace")


def test_an_administrator_revokes_the_own_key_where_another_is_left(guarded):
    made = guarded.ask("POST", "/v1/keys", "admin", data={"scopes": "admin,query"}).json()
    own = f"/v1/keys/{made['key_id']}"
    assert guarded.ask("DELETE", own, made["key"]).status_code == 204
    assert guarded.ask("DELETE", own, made["key"]).status_code == 401


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "scopes"),
        ({"scopes": "all"}, "scopes"),
        ({"scopes": ","}, "scopes"),
        ({"scopes": "query", "gallery": "../x"}, "gallery"),
        ({"scopes": "query", "gallery": ""}, "gallery"),
        ({"scopes": "query", "expires_days": 0}, "expires_days"),
        ({"scopes": "query", "rate": 0}, "rate"),
        ({"scopes": "query", "note": "\x1b[2J"}, "note"),
    ],
)
def test_a_field_that_would_make_another_key_than_was_meant_is_refused(guarded, fields, named):
    problem = guarded.ask("POST", "/v1/keys", "admin", data=fields).json()
    assert problem["type"] == "urn:gmn:problem:invalid_field"
    assert [error["field"] for error in problem["errors"]] == [named]


def test_keys_of_the_file_are_listed_and_count_as_administrators(ring_of, store, tmp_path):
    file = tmp_path / "keys.jsonl"
    line = {"key_id": "root", "secret_sha256": "0" * 64, "scopes": ["admin"]}
    file.write_text(json.dumps(line))
    ring = ring_of(file)
    key, _ = create_key(scopes=["query"])
    ring.add(key)
    assert {listed.key_id: listed.in_file for listed in ring.listed()} == {
        "root": True,
        key.key_id: False,
    }
    with pytest.raises(UnknownKey, match="GMN_API_KEYS_FILE"):
        ring.revoke("root")
    other, _ = create_key(scopes=["admin"], expires_days=1)
    ring.add(other)
    with pytest.raises(UnknownKey, match="GMN_API_KEYS_FILE"):
        ring.revoke("root")
    ring.revoke(other.key_id)
    file.write_text(json.dumps(line | {"expires_at": datetime.now(UTC).isoformat()}))
    with pytest.raises(KeyConflict):
        ring.revoke(key.key_id)
    assert [stored.key_id for stored in store.keys.all()] == [key.key_id]


@pytest.mark.promise("last-administrator")
def test_without_its_last_key_a_service_asks_for_one_until_a_command_has_removed_it(
    open_service, tmp_path
):
    key = bearer(make_key(tmp_path, "--scope", "admin", "--gallery", "lobby"))
    served = open_service(tmp_path)
    made = served.http.post("/v1/galleries", data={"name": "lobby"}, headers=key)
    assert made.status_code == 201
    assert served.http.delete("/v1/galleries/lobby", headers=key).status_code == 200
    eventually(lambda: served.http.get("/v1/galleries", headers=key).status_code == 401)
    for path in ("/v1/keys", "/metrics"):
        assert served.http.get(path).status_code == 401
    key_id = make_key(tmp_path, "--scope", "admin").split("_")[1]
    assert run_keys(tmp_path, "revoke", key_id) == 0
    eventually(lambda: served.http.get("/v1/keys").status_code == 200)


@pytest.mark.promise("last-administrator")
@pytest.mark.slow
def test_two_administrators_who_revoke_each_other_at_once_leave_one(start, settings):
    services = [start(**settings), start(**settings)]
    urls = [str(served.http.base_url) for served in services]
    with Client(urls[0]) as keyless:
        left = keyless.create_key("admin")
    for _ in range(5):
        with Client(urls[0], left.key) as first:
            other = first.create_key("admin")
            with Client(urls[1], other.key) as second:
                eventually(lambda second=second: _is_known(second))
                both = threading.Barrier(2)

                def revoke(client, key_id, both=both):
                    both.wait()
                    try:
                        client.delete_key(key_id)
                    except (KeyRefused, RequestRefused) as refused:
                        return refused.problem.status
                    return 204

                with ThreadPoolExecutor() as pool:
                    asked = [
                        pool.submit(revoke, first, other.key_id),
                        pool.submit(revoke, second, left.key_id),
                    ]
                    answers = [future.result() for future in asked]
        assert answers.count(204) == 1, answers
        left = left if answers[0] == 204 else other
    assert services[1].http.get("/v1/keys").status_code == 401


def _is_known(client):
    try:
        return bool(list(client.keys()))
    except KeyRefused:
        return False
