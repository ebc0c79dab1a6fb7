"""The audit log: a chain that shows every change, names nobody, and goes before what it tells."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys

import pytest

import gmn
from model.problems import InputProblem
from service.audit import Actor, AuditLog, acting
from service.chained_file import check_chain
from service.problems import StorageFailed, UnknownCrop


@pytest.fixture
def audit(tmp_path):
    with AuditLog(tmp_path) as opened:
        yield opened


def lines(folder):
    return [json.loads(one) for one in (folder / "audit.jsonl").read_text().splitlines()]


def test_a_line_tells_who_did_what_to_which_hashes(audit, tmp_path):
    with acting(Actor("1f0c9a72be44", "door-7")):
        audit.record("forget_identity", "asked", gallery="lobby", identity="Ada", count=3)
    audit.record("rename_identity", identity="Ada", new_identity="Grace", external_id="e-1")
    first, second = lines(tmp_path)
    assert (first["event"], first["phase"], first["gallery"]) == (
        "forget_identity",
        "asked",
        "lobby",
    )
    assert (first["actor"], first["request_id"], first["count"]) == ("1f0c9a72be44", "door-7", 3)
    assert second["actor"] == "service"
    assert first["identity"] == second["identity"] == audit.hashed("Ada")
    assert second["new_identity"] == audit.hashed("Grace")
    text = (tmp_path / "audit.jsonl").read_text()
    assert not any(name in text for name in ("Ada", "Grace", "e-1"))
    assert hashlib.sha256(b"Ada").hexdigest() not in text


def test_the_key_of_the_hashes_is_made_once_and_is_its_owners_alone(tmp_path):
    with AuditLog(tmp_path) as first:
        hashed = first.hashed("Ada")
    with AuditLog(tmp_path) as second:
        assert second.hashed("Ada") == hashed
    for name in ("audit.key", "audit.jsonl"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    (tmp_path / "audit.key").write_bytes(b"short")
    with pytest.raises(InputProblem, match=r"audit\.key"):
        AuditLog(tmp_path)


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        (lambda text: text, None),
        (lambda text: text.replace("event-1", "event-9"), "line 3 does not hold the hash"),
        (lambda text: "".join(text.splitlines(True)[:1] + text.splitlines(True)[2:]), "line 2 has"),
        (lambda text: "".join(reversed(text.splitlines(True))), "line 1 has the number 4"),
        (lambda text: "".join(text.splitlines(True)[1:]), "line 1 has the number 2"),
        (lambda text: text + "anything\n", "line 5 is not a line"),
        (lambda text: text[:-4], "line 4 is not finished"),
    ],
)
def test_verify_names_the_first_line_that_breaks_the_chain(tmp_path, capsys, change, broken):
    with AuditLog(tmp_path) as audit:
        for number in range(4):
            audit.record(f"event-{number}")
    file = tmp_path / "audit.jsonl"
    file.write_text(change(file.read_text()))
    status = gmn.run(["audit", "verify", "--data-dir", str(tmp_path)])
    said = capsys.readouterr().out
    assert status == (1 if broken else 0)
    assert (broken or "4 lines") in said


def test_a_line_cut_off_by_a_crash_is_dropped_and_the_chain_goes_on(tmp_path):
    for number in range(3):
        with AuditLog(tmp_path) as audit:
            audit.record(f"event-{number}")
        with (tmp_path / "audit.jsonl").open("a") as file:
            file.write('{"sequence": 7, "half a li')
    with AuditLog(tmp_path) as audit:
        audit.record("x" * 100_000)
    with AuditLog(tmp_path) as audit:
        audit.record("after a long line")
    assert [one["sequence"] for one in lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert check_chain(tmp_path / "audit.jsonl").problem is None


def test_several_processes_and_threads_append_to_one_chain(audit, tmp_path):
    program = (
        "import sys; from pathlib import Path; from service.audit import AuditLog\n"
        "with AuditLog(Path(sys.argv[1])) as audit:\n"
        "    for number in range(40): audit.record('theirs', durable=False)"
    )
    others = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=gmn.__file__[:-7])
        for _ in range(2)
    ]

    async def ours():
        await asyncio.gather(*(audit.done("ours") for _ in range(40)))

    asyncio.run(ours())
    assert [one.wait(60) for one in others] == [0, 0]
    checked = check_chain(tmp_path / "audit.jsonl")
    assert (checked.lines, checked.problem) == (120, None)


def test_what_destroys_is_asked_before_and_told_after(audit, tmp_path):
    async def destroy():
        async with audit.trail("delete_crop", gallery="lobby", crop_ids=["c1"]) as result:
            assert [one["phase"] for one in lines(tmp_path)] == ["asked"]
            result["count"] = 1
        with pytest.raises(UnknownCrop):
            async with audit.trail("delete_crop", gallery="lobby", crop_ids=["c1"]):
                raise UnknownCrop("lobby", "c1")
        with pytest.raises(asyncio.CancelledError):
            async with audit.trail("delete_gallery", gallery="lobby"):
                raise asyncio.CancelledError

    asyncio.run(destroy())
    told = lines(tmp_path)
    assert [one["phase"] for one in told] == ["asked", "done", "asked", "failed", "asked", "left"]
    assert told[1]["crop_ids"] == ["c1"]
    assert told[1]["count"] == 1
    assert told[3]["problem"] == "unknown_crop"


def test_nothing_is_destroyed_without_a_trace(audit, tmp_path):
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write("somebody else was here\n")
    destroyed = []

    async def destroy():
        async with audit.trail("delete_gallery", gallery="lobby"):
            destroyed.append("lobby")

    with pytest.raises(StorageFailed, match="audit log"):
        asyncio.run(destroy())
    assert not destroyed


def test_a_log_that_was_taken_away_counts_as_none(audit, tmp_path):
    audit.record("before")
    (tmp_path / "audit.jsonl").rename(tmp_path / "elsewhere.jsonl")
    with pytest.raises(StorageFailed, match="taken away"):
        audit.record("after")
    with AuditLog(tmp_path) as begun_anew:
        begun_anew.record("after a restart")
    assert [one["sequence"] for one in lines(tmp_path)] == [1]


def test_a_log_whose_end_is_damaged_keeps_the_service_from_starting(tmp_path):
    (tmp_path / "audit.jsonl").write_text("not a line\n")
    with pytest.raises(InputProblem, match=r"audit\.jsonl"):
        AuditLog(tmp_path)


@pytest.fixture(scope="module")
def watched(start, tmp_path_factory):
    """A service whose log a test may damage."""
    folder = tmp_path_factory.mktemp("watched")
    served = start(folder)
    served.folder = folder
    yield served
    served.kill()


def test_a_served_deletion_stands_in_the_log_with_its_request(watched, drawn_crops):
    watched.create("watched")
    answer = watched.enroll("watched", drawn_crops[0].png, identity="Ada")
    crop_id = answer.json()["results"][0]["crop_id"]
    watched.http.delete(
        f"/v1/galleries/watched/crops/{crop_id}", headers={"X-Request-ID": "night-shift"}
    )
    assert watched.http.delete("/v1/galleries/watched").status_code == 200
    told = [(one["event"], one["phase"]) for one in lines(watched.folder)]
    for event in ("delete_crop", "delete_gallery"):
        assert told.index((event, "asked")) < told.index((event, "done"))
    assert ("create_gallery", "done") in told
    enrolled = next(one for one in lines(watched.folder) if one["event"] == "enroll")
    assert (enrolled["actor"], enrolled["gallery"], enrolled["count"]) == ("loopback", "watched", 1)
    deleted = next(one for one in lines(watched.folder) if one["event"] == "delete_crop")
    assert (deleted["request_id"], deleted["crop_ids"]) == ("night-shift", [crop_id])
    assert "Ada" not in (watched.folder / "audit.jsonl").read_text()
    assert gmn.run(["audit", "verify", "--data-dir", str(watched.folder)]) == 0


def test_a_served_deletion_that_cannot_be_logged_is_refused(watched, drawn_crops):
    crop_id = watched.enroll("default", drawn_crops[1].png).json()["results"][0]["crop_id"]
    with (watched.folder / "audit.jsonl").open("a") as file:
        file.write("somebody else was here\n")
    refused = watched.http.delete(f"/v1/galleries/default/crops/{crop_id}")
    assert refused.status_code == 507
    assert "gmn audit verify" in refused.json()["detail"]
    assert watched.http.get(f"/v1/galleries/default/crops/{crop_id}").status_code == 200
    # What destroys nothing goes on.
    assert watched.enroll("default", drawn_crops[2].png).status_code == 201


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_log_whose_end_was_cut_off_is_refused_and_named(tmp_path, left):
    with AuditLog(tmp_path) as log:
        for number in range(3):
            log.record("delete_crop", count=number)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    assert check_chain(path).problem == "is gone: 3 lines were acknowledged"
    with pytest.raises(InputProblem, match=f"has {left} lines, and 3 were acknowledged"):
        AuditLog(tmp_path)


def test_lines_of_which_a_power_cut_left_pieces_are_cut_off_and_the_chain_goes_on(tmp_path):
    with AuditLog(tmp_path) as log:
        asyncio.run(log.done("delete_crop", gallery="lobby", count=1))
    path = tmp_path / "audit.jsonl"
    acknowledged = path.read_bytes()
    with AuditLog(tmp_path) as log:
        for _ in range(3):
            asyncio.run(log.done("delete_crop", gallery="lobby", count=2))
    whole = path.read_bytes()
    (tmp_path / "audit.acknowledged").unlink(missing_ok=True)
    for hole in range(len(acknowledged), len(whole) - 64, 40):
        path.write_bytes(whole[:hole] + bytes(64) + whole[hole + 64 :])
        with AuditLog(tmp_path) as log:
            asyncio.run(log.done("enroll", gallery="lobby", count=3))
        assert path.read_bytes().startswith(acknowledged)
        assert check_chain(path).problem is None
