"""The audit log: a chain that shows every change, names nobody, and comes before deletions."""

from __future__ import annotations

import asyncio
import hashlib
import json
import subprocess
import sys

import pytest

import gmn
from model.problems import InputProblem
from service.errors import StorageFailed
from service.ops.audit import AuditLog, audit_files, line_key
from service.ops.hash_chain import check_chain
from tests.outside import audit_lines
from tests.waiting import eventually


@pytest.fixture
def audit(tmp_path):
    with AuditLog(tmp_path) as opened:
        yield opened


@pytest.fixture
def verify(tmp_path, capsys):
    """Run `gmn audit verify`, and check its status and a sentence of its output."""

    def run(status, sentence="", folder=tmp_path):
        capsys.readouterr()
        assert gmn.run(["audit", "verify", "--data-dir", str(folder)]) == status
        assert sentence in capsys.readouterr().out

    return run


def checked_log(folder):
    return check_chain(folder / "audit.jsonl", line_key(folder))


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
        (
            lambda text: text.replace("event-1", "event-9"),
            "line 2 was not written under this audit.key",
        ),
        (lambda text: "".join(text.splitlines(True)[:1] + text.splitlines(True)[2:]), "line 2 has"),
        (lambda text: "".join(reversed(text.splitlines(True))), "line 1 has the number 4"),
        (lambda text: "".join(text.splitlines(True)[1:]), "line 1 has the number 2"),
        (lambda text: text + "anything\n", "line 5 is not a line"),
        (lambda text: text[:-4], "line 4 is not finished"),
    ],
)
def test_verify_names_the_first_line_that_breaks_the_chain(tmp_path, verify, change, broken):
    with AuditLog(tmp_path) as audit:
        for number in range(4):
            audit.record(f"event-{number}")
    file = tmp_path / "audit.jsonl"
    file.write_text(change(file.read_text()))
    verify(1 if broken else 0, broken or "4 lines")


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
    assert [entry["sequence"] for entry in audit_lines(tmp_path)] == [1, 2, 3, 4, 5]
    assert checked_log(tmp_path).problem is None


def test_several_processes_and_threads_append_to_one_chain(audit, tmp_path):
    program = (
        "import sys; from pathlib import Path; from service.ops.audit import AuditLog\n"
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
    assert [process.wait(60) for process in others] == [0, 0]
    checked = checked_log(tmp_path)
    assert (checked.lines, checked.problem) == (120, None)


def test_a_log_that_is_moved_away_while_in_use_goes_on_in_a_new_file(audit, tmp_path):
    audit.record("before")
    (tmp_path / "audit.jsonl").rename(tmp_path / "elsewhere.jsonl")
    audit.record("after")
    assert audit_lines(tmp_path)[0]["sequence"] == 2
    with AuditLog(tmp_path) as another_process:
        another_process.record("after that")
    checked = checked_log(tmp_path)
    assert (checked.first_line, checked.lines, checked.problem) == (2, 2, None)
    # Put before it again, it is the chain's beginning.
    (tmp_path / "elsewhere.jsonl").rename(tmp_path / "audit.000000000001.jsonl")
    checked = checked_log(tmp_path)
    assert (checked.first_line, checked.lines, checked.problem) == (1, 3, None)


def test_a_log_that_is_moved_away_before_a_stop_is_begun_anew(tmp_path, verify):
    with AuditLog(tmp_path) as audit:
        audit.record("before", durable=False)
        (tmp_path / "audit.jsonl").rename(tmp_path / "elsewhere.jsonl")
    with AuditLog(tmp_path) as begun_anew:
        begun_anew.record("after a restart")
    assert [entry["sequence"] for entry in audit_lines(tmp_path)] == [1]
    verify(0, "1 lines, all as written, keyed from number 1 on")


def test_a_full_file_is_renamed_and_the_chain_goes_on_in_the_next(tmp_path, verify):
    for start in range(3):
        # Two processes, such as the service and gmn keys.
        with AuditLog(tmp_path, max_bytes=2000) as one, AuditLog(tmp_path, max_bytes=2000) as other:
            for number in range(10):
                one.record("first", count=number, durable=start == 0)
                other.record("second", count=number)
    files = audit_files(tmp_path)
    assert len(files) > 3
    assert all(file.stat().st_size < 3000 for file in files)
    told = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [entry["sequence"] for entry in told] == list(range(1, 61))
    verify(0, "60 lines, all as written")
    # The oldest may be taken away, none between.
    files[0].unlink()
    verify(0, "lines from number")
    files[2].rename(tmp_path / "elsewhere")
    verify(1, f"{files[3].name}: line 1 has the number")
    (tmp_path / "elsewhere").rename(files[2])
    files[1].write_text("".join(files[1].read_text().splitlines(True)[1:]))
    verify(1, f"{files[1].name}: line 1 has the number")


def test_a_chain_goes_on_where_a_process_was_killed_between_two_files(tmp_path):
    with AuditLog(tmp_path) as audit:
        audit.record("before")
    (tmp_path / "audit.jsonl").rename(tmp_path / "audit.000000000001.jsonl")
    with AuditLog(tmp_path) as audit:
        audit.record("after")
    checked = checked_log(tmp_path)
    assert (checked.first_line, checked.lines, checked.problem) == (1, 2, None)


def test_a_start_reads_the_newest_files_only(tmp_path):
    with AuditLog(tmp_path, max_bytes=2000) as audit:
        for number in range(30):
            audit.record("before", count=number)
    for file in audit_files(tmp_path)[:-2]:
        file.write_bytes(b"nothing that a start could go on with")
    with AuditLog(tmp_path, max_bytes=2000) as audit:
        audit.record("after")
    assert audit_lines(tmp_path)[-1]["sequence"] == 31


def test_a_log_whose_end_is_damaged_keeps_the_service_from_starting(tmp_path):
    (tmp_path / "audit.jsonl").write_text("not a line\n")
    with pytest.raises(InputProblem, match=r"audit\.jsonl"):
        AuditLog(tmp_path)


def _signed_log(folder) -> list[bytes]:
    """Return a log of four deletions and two searches, whose writer has stopped."""

    async def work() -> None:
        with AuditLog(folder) as audit:
            for number in range(4):
                await audit.done("delete_crop", durable=True, count=number)
            audit.note_view("query", count=0)
            await asyncio.to_thread(audit.flush)
            audit.note_view("query", count=1)

    asyncio.run(work())
    return (folder / "audit.jsonl").read_bytes().splitlines(keepends=True)


def _forged(written: list[bytes]) -> bytes:
    """Return a line that continues a log as a reader of the file alone can write one."""
    last = json.loads(written[-1])
    line = {
        **last,
        "sequence": last["sequence"] + 1,
        "previous": hashlib.sha256(written[-1][:-1]).hexdigest(),
    }
    del line["mac"]
    return json.dumps(line).encode() + b"\n"


DAMAGE = {
    "the last search cut off": (lambda written: written[:-1], "line 6 is gone: 6 lines were"),
    "both searches cut off": (lambda written: written[:-2], "line 5 is gone: 6 lines were"),
    "a line forged at the end": (
        lambda written: [*written, _forged(written)],
        "line 7 was not written under this audit.key",
    ),
    "the last line changed": (
        lambda written: [*written[:-1], written[-1].replace(b"query", b"view!")],
        "line 6 was not written under this audit.key",
    ),
}


@pytest.mark.parametrize(("damage", "sentence"), DAMAGE.values(), ids=DAMAGE)
def test_verify_finds_what_was_cut_off_or_forged_at_the_end(tmp_path, verify, damage, sentence):
    written = _signed_log(tmp_path)
    verify(0, "6 lines, all as written, keyed from number 1 on")
    (tmp_path / "audit.jsonl").write_bytes(b"".join(damage(written)))
    verify(1, sentence)


def test_verify_finds_a_count_that_was_removed_or_written_by_another(tmp_path, verify):
    written = _signed_log(tmp_path)
    (tmp_path / "audit.jsonl").write_bytes(b"".join(written[:2]))
    note = tmp_path / "audit.acknowledged"
    whole = note.read_bytes()
    note.write_bytes(whole.replace(b'"sequence": 6', b'"sequence": 2'))
    verify(1, "line 3 may be gone: audit.acknowledged")
    note.unlink()
    verify(1, "line 3 may be gone: audit.acknowledged")
    (tmp_path / "audit.jsonl").unlink()
    note.write_bytes(whole)
    verify(2)
    (tmp_path / "audit.jsonl").write_bytes(b"".join(written))
    (tmp_path / "audit.key").write_bytes(b"x" * 32)
    verify(1, "line 1 was not written under this audit.key")


@pytest.mark.slow
def test_the_count_of_a_service_that_runs_on_is_noted_within_seconds(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path)
    served.query("default", drawn_crops[0].png)
    served.query("default", drawn_crops[0].png)
    eventually(lambda: b'"sequence": 2' in _content(tmp_path / "audit.acknowledged"))
    served.kill()
    assert checked_log(tmp_path).problem is None


def _content(path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_a_log_of_the_former_version_goes_on_and_verify_says_what_is_keyed(tmp_path, verify):
    former = b""
    previous = "0" * 64
    for number in (1, 2, 3):
        line = json.dumps({"sequence": number, "previous": previous, "event": "enroll"}).encode()
        previous = hashlib.sha256(line).hexdigest()
        former += line + b"\n"
    (tmp_path / "audit.jsonl").write_bytes(former)
    verify(0, "3 lines, all as written, none keyed")
    with AuditLog(tmp_path) as audit:
        audit.record("after the update")
    verify(0, "4 lines, all as written, keyed from number 4 on")
    log = tmp_path / "audit.jsonl"
    log.write_bytes(former)
    verify(1, "line 4 is gone: 4 lines were acknowledged")


def test_a_line_has_a_bound_and_long_lists_in_it_their_count_and_hash(audit, tmp_path):
    names = [f"{number:0250}" for number in range(1000)]

    async def search() -> None:
        audit.note_view("query", filters={"cameras": names, "identities": names}, purpose="p" * 256)
        audit.note_view("query", filters={"cameras": ["\U0001f4f7" * 256] * 20}, purpose="case 7")
        await asyncio.to_thread(audit.flush)

    asyncio.run(search())
    first, second = audit_lines(tmp_path)
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    assert first["filters"]["cameras"] == names[:10]
    assert first["filters"]["shortened"]["cameras"] == {"count": 1000, "sha256": digest}
    assert first["filters"]["shortened"]["identities"]["count"] == 1000
    assert second["filters"]["cameras"] == []
    assert second["filters"]["shortened"]["cameras"]["count"] == 20
    assert all(len(line) < 8192 + 300 for line in (tmp_path / "audit.jsonl").read_bytes().split())


@pytest.fixture(scope="module")
def watched(start, tmp_path_factory):
    """Return a service whose log a test may damage."""
    folder = tmp_path_factory.mktemp("watched")
    served = start(folder)
    served.folder = folder
    yield served
    served.kill()


def test_a_served_deletion_stands_in_the_log_with_its_request(watched, verify, drawn_crops):
    watched.create("watched")
    answer = watched.enroll("watched", drawn_crops[0].png, identity="Ada")
    crop_id = answer.json()["results"][0]["crop_id"]
    watched.http.delete(
        f"/v1/galleries/watched/crops/{crop_id}", headers={"X-Request-ID": "night-shift"}
    )
    assert watched.http.delete("/v1/galleries/watched").status_code == 200
    told = [(entry["event"], entry["phase"]) for entry in audit_lines(watched.folder)]
    for event in ("delete_crop", "delete_gallery"):
        assert told.index((event, "asked")) < told.index((event, "done"))
    assert ("create_gallery", "done") in told
    enrolled = audit_lines(watched.folder, "enroll")[0]
    assert (enrolled["actor"], enrolled["gallery"], enrolled["count"]) == ("loopback", "watched", 1)
    deleted = audit_lines(watched.folder, "delete_crop")[0]
    assert (deleted["request_id"], deleted["crop_ids"]) == ("night-shift", [crop_id])
    text = (watched.folder / "audit.jsonl").read_text()
    assert "Ada" not in text
    assert hashlib.sha256(b"Ada").hexdigest() not in text
    verify(0, folder=watched.folder)


def test_every_search_and_every_view_of_a_picture_is_in_the_log(watched, verify, drawn_crops):
    http = watched.http
    url = f"/v1/galleries/{watched.create('searched')}"
    images = [crop.png for crop in drawn_crops[:3]]
    said = {"camera": ["east", "east", "west"], "captured_at": "2026-01-01T00:00:00Z"}
    enrolled = watched.enroll("searched", *images, identity="Ada", **said)
    crop_id = enrolled.json()["results"][0]["crop_id"]
    asked = {"cameras": "east", "captured_before": "2030-01-01T00:00:00Z"}
    watched.query("searched", *images[:2], **asked, purpose="case 7/2026")
    watched.query("searched", *images[:2], mode="separate", purpose="case 8/2026")
    watched.query("searched", crop_id=crop_id)
    http.get(f"{url}/crops?identity=Ada")
    http.get(f"{url}/identities/Ada")
    http.get(f"{url}/identities?query=Ad")
    http.get(f"{url}/identities")
    http.get(f"{url}/crops/{crop_id}/image", headers={"X-Request-ID": "view-1"})
    eventually(lambda: audit_lines(watched.folder, "view"), 5.0)
    first, second, third, fourth, by_name, of_one, by_part = audit_lines(watched.folder, "query")
    assert (first["gallery"], first["count"], first["purpose"]) == ("searched", 2, "case 7/2026")
    assert first["filters"] == {"cameras": ["east"], "captured_before": "2030-01-01T00:00:00Z"}
    assert {"time", "actor", "request_id"} <= first.keys()
    assert (second["purpose"], third["count"]) == ("case 8/2026", 3)
    assert (fourth["crop_ids"], "purpose" in fourth) == ([crop_id], False)
    assert by_name["count"] == 3
    assert len(by_name["filters"]["identity"]) == 64
    assert of_one["filters"] == by_name["filters"] != by_part["filters"]
    assert by_part["count"] == 1
    (view,) = audit_lines(watched.folder, "view")
    assert (view["crop_ids"], view["request_id"]) == ([crop_id], "view-1")
    assert "Ada" not in (watched.folder / "audit.jsonl").read_text()
    verify(0, folder=watched.folder)
    assert http.get("/v1/galleries").json()["audit_queries"] is True
    too_long = watched.query("searched", images[0], purpose="x" * 257)
    assert too_long.status_code == 422
    remaining = http.delete(f"{url}/identities/Ada").json()["remaining"]
    assert any("purposes" in entry["what"] for entry in remaining)


def test_searches_are_left_out_of_the_log_where_that_is_set_and_shown(start, tmp_path, drawn_crops):
    served = start(tmp_path, audit_queries="false")
    image = drawn_crops[0].png
    crop_id = served.enrolled("default", image)[0]
    assert served.search("default", image)
    assert served.http.get(f"/v1/galleries/default/crops/{crop_id}/image").status_code == 200
    assert served.read("/v1/galleries")["audit_queries"] is False
    assert served.stop() == 0
    assert {entry["event"] for entry in audit_lines(tmp_path)} == {"enroll"}


def test_searches_wait_in_memory_while_the_log_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr("service.ops.audit.BUFFER_BYTES", 500)
    monkeypatch.setattr("service.ops.audit.RETRY_SECONDS", 0.0)
    file = tmp_path / "audit.jsonl"
    dropped = []

    async def search():
        with AuditLog(tmp_path, on_drop=lambda: dropped.append(1)) as audit:
            audit.record("before")
            whole = file.read_bytes()
            file.write_bytes(whole + b"somebody else was here\n")
            for number in range(5):
                audit.note_view("query", gallery="lobby", count=number)
            with pytest.raises(StorageFailed):
                audit.flush()
            await audit.flush_waiting()
            file.write_bytes(whole)
            await audit.flush_waiting()

    asyncio.run(asyncio.wait_for(search(), 30))
    told = [(entry["event"], entry.get("count")) for entry in audit_lines(tmp_path)]
    assert told == [("before", None), *(("query", n) for n in range(3)), ("dropped_lines", 2)]
    assert len(dropped) == 2
    assert checked_log(tmp_path).problem is None


def test_every_way_that_names_and_vectors_leave_by_has_a_line(watched, drawn_crops):
    http = watched.http
    url = f"/v1/galleries/{watched.create('gaps')}"
    answer = watched.enroll("gaps", drawn_crops[0].png, identity="Ada")
    crop_id = answer.json()["results"][0]["crop_id"]
    case_id = http.post(f"{url}/cases", data={"name": "bag"}).json()["case_id"]
    job = watched.ended_job(watched.import_zip("gaps", {"a.png": drawn_crops[1].png}))["job_id"]
    lists = ("/crops", "/tracks", "/identities", "/merges", "/cases", "/groups")
    for path in (*lists, f"/cases/{case_id}"):
        assert http.get(f"{url}{path}").status_code == 200
    vector = http.get(f"{url}/crops/{crop_id}?include_vector=true").json()["vector"]
    assert len(vector) > 0
    assert http.get(f"/v1/jobs/{job}/report").status_code == 200
    assert http.delete(f"/v1/jobs/{job}").status_code == 200
    eventually(
        lambda: (
            audit_lines(watched.folder, "cancel_job")
            and audit_lines(watched.folder, "read_job_report")
        )
    )
    told = {
        entry["event"]: entry
        for entry in audit_lines(watched.folder)
        if entry.get("gallery") == "gaps"
    }
    kinds = ("crops", "tracks", "identities", "merges", "cases", "groups")
    assert [told[f"list_{kind}"]["count"] for kind in kinds] == [2, 0, 1, 0, 1, 0]
    assert told["read_case"]["case_id"] == case_id
    assert told["read_crop"]["crop_ids"] == [crop_id]
    assert told["read_crop"]["filters"] == {"include_vector": True}
    assert told["read_job_report"]["job_id"] == told["cancel_job"]["job_id"] == job


def test_a_served_deletion_that_cannot_be_logged_is_refused(watched, drawn_crops):
    crop_id = watched.enrolled("default", drawn_crops[1].png)[0]
    with (watched.folder / "audit.jsonl").open("a") as file:
        file.write("somebody else was here\n")
    refused = watched.http.delete(f"/v1/galleries/default/crops/{crop_id}")
    assert refused.status_code == 507
    assert "gmn audit verify" in refused.json()["detail"]
    assert watched.http.get(f"/v1/galleries/default/crops/{crop_id}").status_code == 200
    # Calls that destroy nothing go on.
    assert watched.enroll("default", drawn_crops[2].png).status_code == 201


def test_retention_deletes_nothing_that_cannot_be_logged(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path, housekeeping_seconds=0.2)
    served.folder = tmp_path
    url = f"/v1/galleries/{served.create('lobby')}"
    served.enroll("lobby", drawn_crops[0].png, captured_at="2020-01-01T00:00:00Z")
    served.http.patch(url, data={"retention_days": "1"})
    eventually(lambda: served.read(url)["crops"] == 0)
    # The second line comes after the deletion, which is seen at once.
    eventually(lambda: len(audit_lines(served.folder, "delete_expired")) == 2)
    told = audit_lines(served.folder, "delete_expired")
    assert [(entry["phase"], entry.get("count")) for entry in told] == [
        ("asked", None),
        ("done", 1),
    ]
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write("somebody else was here\n")
    served.enroll("lobby", drawn_crops[1].png, captured_at="2020-01-01T00:00:00Z")
    eventually(lambda: "retention of gallery lobby: the audit log" in served.log.read_text())
    assert served.read(url)["crops"] == 1


def test_a_job_has_its_lines_under_the_key_that_began_it(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path)
    admin = served.http.post("/v1/keys", data={"scopes": "admin"}).json()
    served.http.headers["Authorization"] = f"Bearer {admin['key']}"
    enroller = served.http.post("/v1/keys", data={"scopes": "enroll"}).json()
    served.http.headers["Authorization"] = f"Bearer {enroller['key']}"
    served.ended_job(served.import_zip("default", {"a.png": drawn_crops[0].png}))
    served.stop()
    told = audit_lines(tmp_path, "enroll", "import")
    assert [entry["event"] for entry in told] == ["enroll", "import"]
    assert {entry["actor"] for entry in told} == {enroller["key_id"]}


def test_refused_callers_have_a_line_and_many_of_them_few(start, tmp_path):
    served = start(data_dir=tmp_path)
    admin = served.http.post("/v1/keys", data={"scopes": "admin"}).json()
    as_admin = {"Authorization": f"Bearer {admin['key']}"}
    reader = served.http.post("/v1/keys", data={"scopes": "query"}, headers=as_admin).json()
    as_reader = {"Authorization": f"Bearer {reader['key']}"}
    for _ in range(50):
        assert served.http.get("/v1/galleries").status_code == 401
    for _ in range(3):
        assert served.http.get("/v1/keys", headers=as_reader).status_code == 403
    served.stop()
    told = audit_lines(tmp_path, "refused")
    assert [
        (entry["actor"], entry["address"], entry["status"], entry["count"]) for entry in told
    ] == [
        ("unknown", "127.0.0.1", 401, 1),
        (reader["key_id"], "127.0.0.1", 403, 1),
        ("unknown", "127.0.0.1", 401, 49),
        (reader["key_id"], "127.0.0.1", 403, 2),
    ]


@pytest.mark.parametrize("left", [0, 1, 2])
def test_a_log_whose_end_was_cut_off_is_refused_and_named(tmp_path, left):
    with AuditLog(tmp_path) as log:
        for number in range(3):
            log.record("delete_crop", count=number)
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    assert checked_log(tmp_path).problem.endswith("is gone: 3 lines were acknowledged")
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
    for hole in range(len(acknowledged), len(whole) - 64, 40):
        (tmp_path / "audit.acknowledged").unlink(missing_ok=True)
        path.write_bytes(whole[:hole] + bytes(64) + whole[hole + 64 :])
        with AuditLog(tmp_path) as log:
            asyncio.run(log.done("enroll", gallery="lobby", count=3))
        assert path.read_bytes().startswith(acknowledged)
        assert checked_log(tmp_path).problem is None
