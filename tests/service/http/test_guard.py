"""Keys permit calls, asked of a service that other machines reach."""

import base64
import json
import os
import re

import pytest

from gmn_client import Client, InvalidInput, KeyRefused
from model.problems import InputProblem
from service import maintenance
from service.commands.serve import serve
from tests.forked import run_gmn
from tests.service.conftest import files
from tests.service.http.conftest import run_keys
from tests.waiting import eventually

CROPS = "/v1/galleries/lobby/crops"


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "::"])
def test_an_address_that_others_reach_is_refused_without_keys(host, tmp_path, monkeypatch):
    monkeypatch.setenv("GMN_DEVICE", "cpu")
    # The port is opened before keys are looked for; 192.168.0.7 is no address of this machine.
    monkeypatch.setattr("service.commands.processes.listen", lambda _: open_socket())
    # A service that starts all the same would serve until the test is ended.
    monkeypatch.setattr("uvicorn.Server.run", lambda *_, **__: None)
    with pytest.raises(InputProblem, match=r"gmn keys create.*GMN_API_KEYS_FILE"):
        serve(host=host, port=0, data_dir=tmp_path)


def open_socket():
    import socket

    return socket.create_server(("127.0.0.1", 0))


@pytest.mark.parametrize(
    "sent",
    [
        None,
        "Bearer",
        "Bearer gmn_0123456789ab_" + "x" * 43,
        "Bearer " + "x" * 5000,
        "Basic " + base64.b64encode(b"user:password").decode(),
    ],
)
def test_without_a_known_key_every_call_is_401(guarded, sent):
    headers = {} if sent is None else {"Authorization": sent}
    answer = guarded.served.http.get("/v1/model", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:gmn:problem:unauthorised"
    assert "gmn keys create" in answer.json()["detail"]


def test_a_known_id_with_another_secret_is_401(guarded):
    right = guarded.keys["query"]
    wrong = right[:-1] + ("a" if right[-1] != "a" else "b")
    assert guarded.ask("GET", "/v1/model", right).status_code == 200
    assert guarded.ask("GET", "/v1/model", wrong).status_code == 401


def test_a_key_for_one_gallery_touches_no_other(guarded):
    assert guarded.ask("GET", "/v1/galleries/lobby", "lobby").status_code == 200
    # Both are refused alike, so that the key does not learn which galleries there are.
    for name in ("default", "none"):
        answer = guarded.ask("GET", f"/v1/galleries/{name}", "lobby")
        assert answer.status_code == 403
        assert "'lobby'" in answer.json()["detail"]
    named = {"name": "another"}
    assert guarded.ask("POST", "/v1/galleries", "lobby", data=named).status_code == 403
    seen = guarded.ask("GET", "/v1/galleries", "lobby").json()["results"]
    assert [gallery["name"] for gallery in seen] == ["lobby"]
    listed = guarded.ask("GET", "/v1/galleries", "query").json()["results"]
    names = [result["name"] for result in listed]
    assert len(names) >= 2
    ready = guarded.ask("GET", "/readyz")
    assert ready.json()["galleries"] == {"ready": len(names), "needs_reindex": 0}
    assert not [name for name in names if name in ready.text]


def test_a_key_for_one_gallery_sees_its_jobs_among_newer_ones_of_others(guarded):
    jobs = [
        guarded.ask("POST", f"/v1/galleries/{gallery}/imports", "enroll", files={"archive": b"x"})
        for gallery in ("lobby", "default")
    ]
    seen = guarded.ask("GET", "/v1/jobs?limit=1", "lobby").json()["results"]
    assert [job["job_id"] for job in seen] == [jobs[0].json()["job_id"]]


def test_a_key_that_enrolls_sees_and_cancels_the_jobs_that_it_began(guarded):
    def begin(key):
        url = "/v1/galleries/lobby/imports"
        archive = {"archive": b"x"}
        return guarded.ask("POST", url, key, files=archive).json()["job_id"]

    others = begin("admin")
    own = begin("enroll")
    newest = begin("admin")
    jobs = guarded.ask("GET", "/v1/jobs?limit=1", "enroll").json()["results"]
    assert [job["job_id"] for job in jobs] == [own]
    for path in ("", "/report", "/events"):
        assert guarded.ask("GET", f"/v1/jobs/{own}{path}", "enroll").status_code == 200
        for other in (others, newest):
            assert guarded.ask("GET", f"/v1/jobs/{other}{path}", "enroll").status_code == 403
            assert guarded.ask("GET", f"/v1/jobs/{other}{path}", "query").status_code == 200
    assert guarded.ask("DELETE", f"/v1/jobs/{others}", "enroll").status_code == 403
    assert guarded.ask("DELETE", f"/v1/jobs/{own}", "enroll").status_code == 200
    assert guarded.ask("DELETE", f"/v1/jobs/{own}", "admin").status_code == 200
    seen = guarded.ask("GET", "/v1/jobs?limit=3", "query").json()["results"]
    assert [job["job_id"] for job in seen] == [newest, own, others]


def test_two_keys_may_use_one_idempotency_key_for_requests_of_their_own(guarded, drawn_crops):
    again = {"Idempotency-Key": "night-1"}

    def enroll(key, crop):
        return guarded.ask("POST", CROPS, key, files={"images": crop.png}, headers=again)

    first = enroll("enroll", drawn_crops[0])
    assert first.status_code == 201
    other = enroll("admin", drawn_crops[1])
    assert other.status_code == 201, other.text
    assert "Idempotent-Replayed" not in other.headers
    assert enroll("enroll", drawn_crops[0]).headers["Idempotent-Replayed"] == "true"
    refused = enroll("enroll", drawn_crops[1])
    assert refused.status_code == 422
    assert "Idempotency-Key 'night-1'" in refused.json()["detail"]


def test_a_key_made_or_revoked_while_serving_counts_within_a_second(guarded, new_key):
    def wait_for(key, status):
        eventually(lambda: guarded.ask("GET", "/v1/model", key).status_code == status)

    # The service reads its keys each time after this pause.
    assert maintenance.KEYS_PAUSE_SECONDS < 1.0
    key = new_key("--scope", "query")
    wait_for(key, 200)
    assert run_keys(guarded.data_dir, "revoke", key.split("_")[1]) == 0
    wait_for(key, 401)


@pytest.mark.promise("scopes")
def test_an_enroll_key_learns_no_id_of_a_crop_that_was_there_before(guarded, drawn_crops):
    def enroll(key, **labels):
        image = {"images": drawn_crops[5].png}
        answer = guarded.ask("POST", CROPS, key, files=image, data=labels)
        assert answer.status_code == 201
        return answer

    first = enroll("admin", identity="Ann").json()["results"][0]["crop_id"]
    again = enroll("enroll", identity="Ann")
    (hidden,) = again.json()["results"]
    assert (hidden["crop_id"], hidden["duplicate"], hidden["warnings"]) == (None, True, [])
    assert again.headers["Location"] == CROPS
    (guessed,) = enroll("enroll", identity="Bob").json()["results"]
    assert guessed["duplicate"] is False
    assert len(guessed["warnings"]) == 1
    assert first not in guessed["warnings"][0]
    assert "Ann" not in guessed["warnings"][0]
    assert guarded.ask("DELETE", f"{CROPS}/{first}", "enroll").status_code == 403
    (known,) = enroll("admin", identity="Ann").json()["results"]
    assert (known["crop_id"], known["duplicate"]) == (first, True)
    assert guarded.ask("DELETE", f"{CROPS}/{first}", "delete").status_code == 200
    assert guarded.ask("GET", f"{CROPS}/{first}", "admin").status_code == 404


@pytest.mark.promise("last-administrator")
def test_a_key_for_a_deleted_gallery_opens_no_later_one_of_its_name(guarded):
    def create():
        made = guarded.ask("POST", "/v1/galleries", "admin", data={"name": "case-7"})
        assert made.status_code == 201

    create()
    fields = {"scopes": "query", "gallery": "case-7"}
    old = guarded.ask("POST", "/v1/keys", "admin", data=fields).json()["key"]
    assert guarded.ask("GET", "/v1/galleries/case-7/crops", old).status_code == 200
    assert guarded.ask("DELETE", "/v1/galleries/case-7", "admin").status_code == 200
    create()
    assert guarded.ask("GET", "/v1/galleries/case-7/crops", old).status_code == 401
    assert guarded.ask("GET", "/v1/model", old).status_code == 401


@pytest.mark.promise("6")
def test_who_may_not_send_a_body_is_told_before_sending_it(guarded):
    for key, status in ((None, b"401"), ("query", b"403")):
        with guarded.upload(CROPS, 1_500_000, key) as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 " + status)


def test_a_refused_body_that_is_sent_all_the_same_keeps_its_answer(guarded):
    sent = files(b"x" * 1_500_000)
    assert guarded.ask("POST", CROPS, files=sent).status_code == 401


@pytest.mark.promise("6")
def test_a_key_never_stands_in_the_log_or_in_an_answer(guarded, new_key):
    key = new_key("--scope", "query", "--note", "sent in wrong places")
    secret = key.split("_", 2)[2]
    eventually(lambda: guarded.ask("GET", "/v1/model", key).status_code == 200)
    answers = [
        guarded.ask("GET", f"/v1/model?api_key={key}", key),
        guarded.ask("GET", f"/v1/galleries/{key}", key),
        guarded.ask("GET", f"/v1/{key}", key),
        guarded.ask("GET", f"/v1/model?gallery_size={key}", key),
        guarded.ask("GET", "/v1/model", key, headers={"X-Request-ID": key}),
        guarded.ask("POST", "/v1/galleries/lobby/queries", key, data={"scoring": key}),
        guarded.ask("POST", "/v1/galleries/lobby/queries", key, data={key: "1"}),
        guarded.ask("GET", "/v1/model", headers={"X-Api-Key": key, "X-Request-ID": "wrong-places"}),
    ]
    assert all(secret not in answer.text for answer in answers)
    # The line of a request is written after its answer.
    eventually(lambda: "wrong-places" in guarded.served.log.read_text())
    log = guarded.served.log.read_text()
    assert secret not in log
    assert "api_key=" not in log
    assert secret not in (guarded.data_dir / "audit.jsonl").read_text()
    database = b"".join(file.read_bytes() for file in guarded.data_dir.glob("*.sqlite3*"))
    assert secret.encode() not in database


def test_the_clients_commands_take_a_key_and_say_where_it_belongs(guarded, tmp_path, drawn_crops):
    image = tmp_path / "a.png"
    image.write_bytes(drawn_crops[0].png)
    url = ["--url", str(guarded.served.http.base_url), "--gallery", "lobby"]
    refused = run_gmn("enroll", str(tmp_path), *url)
    assert refused.returncode == 2
    assert "GMN_API_KEY" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    enrolled = run_gmn("enroll", str(tmp_path), *url, "--api-key", guarded.keys["enroll"])
    assert enrolled.returncode == 0, enrolled.stderr
    asked = run_gmn(
        "query", str(image), *url, "--json", env=os.environ | {"GMN_API_KEY": guarded.keys["query"]}
    )
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["results"]


def test_a_client_with_the_wrong_scope_is_told_which_one(guarded):
    with (
        Client(str(guarded.served.http.base_url), guarded.keys["query"]) as client,
        pytest.raises(KeyRefused, match=r"needs admin.*GMN_API_KEY"),
    ):
        client.create_gallery("another")


@pytest.mark.parametrize("key", ["gmn_a_secret\nand more", "schlüssel", "two words"])
def test_a_key_that_no_header_can_carry_is_refused_without_repeating_it(key):
    with pytest.raises(InvalidInput, match="GMN_API_KEY") as refused:
        Client("http://127.0.0.1:9", key)
    assert not re.search(r"secret|schl|words", str(refused.value))
