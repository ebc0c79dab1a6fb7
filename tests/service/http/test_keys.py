"""Keys: made, kept, found again, read from a file, revoked."""

import errno
import hashlib
import json
import os
import re
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import gmn
from model.problems import InputProblem
from service.api_keys import (
    KeyRing,
    create_key,
    find_key,
    read_key_file,
    with_new_secret,
)
from service.errors import TooManyRequests, Unauthorised
from service.ops.shared import KeyRates
from tests.outside import audit_lines
from tests.service.conftest import running
from tests.service.gallery.new_crops import new_gallery
from tests.service.http.conftest import run_keys
from tests.waiting import eventually


def line(key_id, secret, **more):
    hashed = hashlib.sha256(secret.encode()).hexdigest()
    return json.dumps({"key_id": key_id, "secret_sha256": hashed, "scopes": ["query"], **more})


def caller(ring, key=None):
    ring.read()
    return ring.caller(key)


def test_a_key_is_found_by_its_text_alone():
    key, text = create_key(scopes=["query"])
    assert find_key(text, {key.key_id: key}) == key
    assert key.secret_sha256 not in text
    for wrong in ("", "gmn_", text[:-1], text + "a", text.upper(), f"gmn_other_{text[-43:]}"):
        assert find_key(wrong, {key.key_id: key}) is None


def test_a_file_that_goes_wrong_while_serving_lets_nobody_new_in(ring_of, tmp_path, caplog):
    secret = "s" * 32
    file = tmp_path / "keys.jsonl"
    file.write_text(line("door", secret, gallery="lobby", note="the door") + "\n\n")
    ring = ring_of(file)
    assert caller(ring, f"gmn_door_{secret}").gallery == "lobby"
    file.write_text("not JSON\n" + line("gate", secret))
    assert caller(ring, f"gmn_gate_{secret}").key_id == "gate"
    assert "line 1" in caplog.text
    file.unlink()
    for sent in (None, f"gmn_door_{secret}", f"gmn_gate_{secret}"):
        with pytest.raises(Unauthorised):
            caller(ring, sent)


def test_a_key_that_a_service_without_keys_accepts_is_told_once(ring_of, caplog):
    ring = ring_of()
    assert caller(ring).key_id == "loopback"
    assert "brings an API key" not in caplog.text
    for _ in range(3):
        assert caller(ring, "gmn_door_of_another_service").key_id == "loopback"
    assert caplog.text.count("brings an API key, but this service has none") == 1
    assert "--data-dir or GMN_DATA_DIR" in caplog.text
    assert "gmn_door" not in caplog.text


def test_where_file_or_record_cannot_be_read_the_keys_that_were_read_last_stay(
    store, tmp_path, monkeypatch, caplog
):
    secret = "s" * 32
    file = tmp_path / "keys.jsonl"
    file.write_text(line("door", secret))
    key, text = create_key(scopes=["query"])
    store.keys.add(key)
    ring = KeyRing(store.keys, file, loopback=True)

    def too_many_files(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    def unable_to_open(*_):
        raise sqlite3.OperationalError("unable to open database file")

    with monkeypatch.context() as without_files:
        without_files.setattr(Path, "read_text", too_many_files)
        without_files.setattr(store.keys, "all", unable_to_open)
        for _ in range(2):
            assert caller(ring, f"gmn_door_{secret}").key_id == "door"
            assert caller(ring, text).key_id == key.key_id
    assert "Too many open files" in caplog.text
    assert caplog.text.count("keys could not be read again") == 1
    store.keys.revoke(key.key_id)
    file.unlink()
    for sent in (text, f"gmn_door_{secret}"):
        with pytest.raises(Unauthorised):
            caller(ring, sent)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("[]", "line 1"),
        ("{", "line 1"),
        (line("door", "x") + "\n" + line("door", "y"), "line 2: key_id door is there twice"),
        ('{"key_id": "door", "scopes": ["query"]}', "line 1: secret_sha256"),
        (line("a_b", "x"), "line 1: key_id"),
        (line("door", "x", scopes=["all"]), "line 1: scopes"),
        (line("door", "x", scopes=[]), "line 1: scopes"),
        (line("door", "x", galery="lobby"), "line 1: galery"),
        (
            '{"key_id": "door", "secret_sha256": "the-secret-itself", "scopes": ["query"]}',
            "line 1: secret_sha256",
        ),
    ],
)
def test_a_wrong_line_of_the_file_is_named_with_the_remedy(ring_of, tmp_path, written, said):
    file = tmp_path / "keys.jsonl"
    file.write_text(written)
    with pytest.raises(InputProblem, match=said) as refused:
        ring_of(file)
    assert "write it like" in str(refused.value) or "rename" in str(refused.value)
    assert "the-secret-itself" not in str(refused.value)


def test_an_expired_key_is_refused_and_says_when_it_expired(store, ring_of, tmp_path):
    now = datetime.now(UTC)
    day = timedelta(days=1)
    old, old_text = create_key(scopes=["query"], expires_days=-1)
    new, new_text = create_key(scopes=["query"], expires_days=1)
    store.keys.add(old)
    file = tmp_path / "keys.jsonl"
    secret = "s" * 32
    file.write_text(line("door", secret, expires_at=(now - day).isoformat()))
    ring = ring_of(file)
    for text, key_id in ((old_text, old.key_id), (f"gmn_door_{secret}", "door")):
        with pytest.raises(Unauthorised, match=rf"key {key_id} expired at .*gmn keys create"):
            caller(ring, text)
    # It keeps nobody out who knows no key, and lets nobody in.
    with pytest.raises(Unauthorised):
        caller(ring)
    store.keys.add(new)
    assert caller(ring, new_text).key_id == new.key_id


def test_a_first_key_without_admin_is_made_with_a_warning_that_names_the_remedy(
    tmp_path, capsys, monkeypatch
):
    where = ["--data-dir", str(tmp_path / "data")]
    assert gmn.run(["keys", "create", "--scope", "query", "--gallery", "entrace", *where]) == 0
    warned = capsys.readouterr().err
    assert "gmn keys create --scope admin" in warned
    assert "There is no gallery entrace yet" in warned
    file = tmp_path / "keys.jsonl"
    file.write_text(line("root", "s" * 32, scopes=["admin"]))
    monkeypatch.setenv("GMN_API_KEYS_FILE", str(file))
    assert gmn.run(["keys", "create", "--scope", "query", *where]) == 0
    assert not capsys.readouterr().err
    monkeypatch.delenv("GMN_API_KEYS_FILE")
    assert gmn.run(["keys", "create", "--scope", "admin", *where]) == 0
    assert not capsys.readouterr().err


def test_a_keys_expiry_is_shown_when_it_is_made_and_listed(tmp_path, capsys):
    where = ["--data-dir", str(tmp_path / "data")]
    options = ["--scope", "admin", "--expires-days", "30", "--no-learn"]
    assert gmn.run(["keys", "create", *options, *where]) == 0
    day = (datetime.now(UTC) + timedelta(days=30)).date().isoformat()
    assert f"until {day}" in capsys.readouterr().out
    assert gmn.run(["keys", "list", "--json", *where]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["results"]
    assert listed["expires_at"].startswith(day)
    assert listed["learn"] is False
    assert gmn.run(["keys", "create", "--scope", "admin", "--expires-days", "0", *where]) == 2


def test_a_file_that_is_not_there_is_named(tmp_path):
    keys, (problem,) = read_key_file(tmp_path / "none.jsonl")
    assert keys == []
    assert re.search(r"none\.jsonl.*GMN_API_KEYS_FILE", problem)


def test_keys_are_listed_without_their_secrets_and_revoked(
    tmp_path, capsys, create_with_the_command
):
    data_dir = tmp_path / "data"
    text = create_with_the_command(
        data_dir, "--scope", "query,enroll", "--gallery", "lobby", "--note", "desk"
    )
    _, key_id, secret = text.split("_", 2)
    where = ["--data-dir", str(data_dir)]
    assert gmn.run(["keys", "list", "--json", *where]) == 0
    (listed,) = json.loads(capsys.readouterr().out)["results"]
    assert listed["key_id"] == key_id
    assert (listed["scopes"], listed["gallery"], listed["note"]) == (
        ["query", "enroll"],
        "lobby",
        "desk",
    )
    assert gmn.run(["keys", "list", *where]) == 0
    table = capsys.readouterr().out
    assert key_id in table
    assert secret not in table
    assert gmn.run(["keys", "revoke", text, *where]) == 0
    assert "one on another address refuses every call" in capsys.readouterr().err
    assert gmn.run(["keys", "revoke", key_id, *where]) == 2
    assert gmn.run(["keys", "revoke", "no id at all", *where]) == 2
    shown = capsys.readouterr()
    assert secret not in shown.out + shown.err
    log = audit_lines(data_dir)
    assert [(line["event"], line["phase"]) for line in log] == [
        ("create_key", "asked"),
        ("create_key", "done"),
        ("revoke_key", "asked"),
        ("revoke_key", "done"),
        ("revoke_key", "asked"),
        ("revoke_key", "failed"),
    ]
    assert {line["actor"] for line in log} == {f"uid:{os.getuid()}"}
    assert (data_dir.stat().st_mode & 0o777) == 0o700


def test_a_service_that_stops_reads_its_keys_to_the_end_before_the_record_is_closed(
    tiny_artefact, tmp_path
):
    begun = threading.Event()
    with running(tiny_artefact, tmp_path) as runtime:

        def read_slowly():
            begun.set()
            time.sleep(0.5)
            return runtime.record.keys.all()

        reading = runtime.keys.threads.submit(read_slowly)
        assert begun.wait(10)
    assert reading.done()
    assert reading.result() == []


def test_a_rotated_key_has_one_id_and_its_former_secret_for_the_time_given(
    guarded, new_key, capsys
):
    old = new_key("--scope", "query", "--note", "desk")
    key_id = old.split("_")[1]
    assert run_keys(guarded.data_dir, "rotate", old, "--grace", "1") == 0
    first = capsys.readouterr().out
    new = first.split()[-1]
    assert new.split("_")[1] == key_id
    assert "former secret is valid until" in first
    eventually(lambda: guarded.ask("GET", "/v1/model", new).is_success)
    assert guarded.ask("GET", "/v1/model", old).is_success
    assert run_keys(guarded.data_dir, "rotate", key_id, "--grace", "0") == 0
    latest = capsys.readouterr().out.split()[-1]
    eventually(lambda: guarded.ask("GET", "/v1/model", latest).is_success)
    assert guarded.ask("GET", "/v1/model", new).status_code == 401
    assert run_keys(guarded.data_dir, "rotate", "nobody") == 2
    assert "there is no such key" in capsys.readouterr().err
    told = audit_lines(guarded.data_dir, "rotate_key")
    assert [entry["phase"] for entry in told] == ["asked", "done"] * 2


def test_a_key_that_is_revoked_while_it_is_rotated_stays_revoked(
    tmp_path, capsys, monkeypatch, create_with_the_command
):
    text = create_with_the_command(tmp_path, "--scope", "admin")
    where = ["--data-dir", str(tmp_path)]

    def revoke_meanwhile(*given):
        assert gmn.run(["keys", "revoke", text, *where]) == 0
        return with_new_secret(*given)

    monkeypatch.setattr("service.api_keys.with_new_secret", revoke_meanwhile)
    assert gmn.run(["keys", "rotate", text, *where]) == 2
    assert "there is no such key" in capsys.readouterr().err
    assert gmn.run(["keys", "list", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out)["results"] == []


@pytest.mark.parametrize("gallery", ["", "no name"])
def test_a_gallery_that_no_gallery_can_be_called_is_refused(tmp_path, capsys, gallery):
    # A variable of a script may be empty.
    options = ["--scope", "query", "--gallery", gallery, "--data-dir", str(tmp_path)]
    assert gmn.run(["keys", "create", *options]) == 2
    assert "--gallery" in capsys.readouterr().err


def test_a_file_in_place_of_the_data_directory_is_named(tmp_path, capsys):
    file = tmp_path / "data"
    file.touch()
    assert gmn.run(["keys", "create", "--scope", "query", "--data-dir", str(file)]) == 2
    assert "--data-dir or GMN_DATA_DIR" in capsys.readouterr().err


def test_a_time_for_the_former_secret_that_no_date_has_is_refused(capsys):
    assert gmn.run(["keys", "rotate", "desk", "--grace", "1e12"]) == 2
    assert "--grace" in capsys.readouterr().err


def test_a_list_without_keys_says_whether_the_service_asks_for_one(store, capsys):
    data_dir = store.database.folder
    assert run_keys(data_dir, "list") == 0
    assert "asks for none" in capsys.readouterr().out
    key, _ = create_key(scopes=["admin"], gallery="lobby")
    store.keys.add(key)
    # Deleting the gallery deletes the key.
    lobby = new_gallery(store, "lobby")
    store.galleries.delete(lobby)
    assert run_keys(data_dir, "list") == 0
    assert "every call needs one" in capsys.readouterr().out


def test_a_former_secret_ends_with_its_time():
    key, text = create_key(scopes=["query"])
    now = datetime.now(UTC)
    for until, is_valid in ((now + timedelta(hours=1), True), (now, False)):
        rotated, new = with_new_secret(key, until)
        keys = {key.key_id: rotated}
        assert find_key(text, keys) == (rotated if is_valid else None)
        assert find_key(new, keys) == rotated


def test_a_key_beyond_its_rate_is_told_when_to_return(guarded, new_key):
    limited = new_key("--scope", "query", "--rate", "1")
    free = new_key("--scope", "query")
    eventually(lambda: guarded.ask("GET", "/v1/galleries", free).is_success)
    began = time.monotonic()
    answers = [guarded.ask("GET", "/v1/model", limited) for _ in range(2)]
    took = time.monotonic() - began
    assert [answer.status_code for answer in answers] == [200, 429]
    assert answers[-1].json()["type"] == "urn:gmn:problem:too_many_requests"
    assert 60 - took <= int(answers[-1].headers["Retry-After"]) <= 60
    assert guarded.ask("GET", "/v1/model", free).is_success


def test_a_rate_may_count_images_and_the_boxes_of_a_frame(guarded, new_key, drawn_crops):
    limited = new_key("--scope", "query", "--rate", "5", "--rate-images")
    image = ("crop", drawn_crops[0].png)
    box = '{"x": 0, "y": 0, "width": 16, "height": 32}'

    def ask(images, boxes=0):
        return guarded.ask(
            "POST",
            "/v1/galleries/default/queries",
            limited,
            files=[("images", image)] * images,
            data={"boxes": [box] * boxes},
        )

    eventually(lambda: guarded.ask("GET", "/v1/model", limited).is_success)
    above = ask(6)
    assert above.status_code == 422
    assert "5 images a minute" in above.json()["detail"]
    assert [ask(2).status_code, ask(1, boxes=3).status_code] == [200, 200]
    beyond = ask(2)
    assert beyond.status_code == 429
    assert 1 <= int(beyond.headers["Retry-After"]) <= 24


async def test_a_rate_is_refilled_and_one_key_takes_nothing_from_another(
    ring_of, store, monkeypatch
):
    key, text = create_key(scopes=["query"], rate=60)
    store.keys.add(key)
    other, _ = create_key(scopes=["query"], rate=60)
    ring = ring_of()
    now = [1000.0]
    monkeypatch.setattr("service.ops.shared.time.monotonic", lambda: now[0])

    for _ in range(60):
        await ring.require_rate(ring.caller(text))
    with pytest.raises(TooManyRequests) as refused:
        await ring.require_rate(key)
    assert refused.value.retry_after_s == 1
    await ring.require_rate(other)
    now[0] += 2.0
    await ring.require_rate(key)
    await ring.require_rate(key)
    with pytest.raises(TooManyRequests):
        await ring.require_rate(key)


async def test_one_of_several_processes_gives_a_key_its_share_of_a_rate(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("service.ops.shared.time.monotonic", lambda: now[0])
    rates = KeyRates(processes=4)

    waits = [await rates.take("key", 20, 1) for _ in range(6)]
    now[0] += 60.0
    # More than the share comes from a full bucket, and has to be made up for.
    waits += [await rates.take("key", 20, images) for images in (15, 1)]
    assert waits == pytest.approx([0, 0, 0, 0, 0, 12, 0, 132])


def test_a_listing_shows_when_each_key_was_last_used(ring_of, store, tmp_path, monkeypatch, capsys):
    used, text = create_key(scopes=["query"], note="used")
    unused, _ = create_key(scopes=["query"], note="unused")
    for key in (used, unused):
        store.keys.add(key)
    ring = ring_of()
    ring.caller(text)
    ring.read()
    # No request waits for it, and at most one write is made a minute.
    assert store.keys.last_used() == {}
    monkeypatch.setattr("service.api_keys.NOTED_EVERY_SECONDS", 0.0)
    ring.read()
    store.keys.revoke("other")
    assert run_keys(tmp_path, "list", "--json") == 0
    listed = {result["note"]: result for result in json.loads(capsys.readouterr().out)["results"]}
    at = datetime.fromisoformat(listed["used"]["last_used_at"])
    assert timedelta() <= datetime.now(UTC) - at < timedelta(minutes=1)
    assert listed["unused"]["last_used_at"] is None
    assert not any("sha256" in name for name in listed["used"])
    assert store.keys.revoke(used.key_id)
    assert store.keys.last_used() == {}
