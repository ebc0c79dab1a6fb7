"""The audit log: numbered lines that name nobody and come before deletions."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys

import pytest

import gmn
from model.problems import InputProblem
from service.errors import StorageFailed
from service.ops.audit import AuditLog, audit_files
from tests.outside import audit_lines, figure
from tests.waiting import eventually


@pytest.fixture
def verify(tmp_path, capsys):
    """Run `gmn audit verify`, and check its status and a part of its output."""

    def run(status, said="", folder=tmp_path):
        capsys.readouterr()
        assert gmn.run(["audit", "verify", "--data-dir", str(folder)]) == status
        assert said in capsys.readouterr().out

    return run


@pytest.fixture
def written(tmp_path):
    """Return the lines of a log of four deletions and two searches, whose writer has stopped."""

    async def work():
        with AuditLog(tmp_path) as audit:
            for number in range(4):
                await audit.done("delete_crop", durable=True, count=number)
            audit.note_view("query", count=0)
            await asyncio.to_thread(audit.flush)
            audit.note_view("query", count=1)

    asyncio.run(work())
    return (tmp_path / "audit.jsonl").read_bytes().splitlines(keepends=True)


def test_the_key_of_the_hashes_is_made_once_and_is_its_owners_alone(tmp_path):
    with AuditLog(tmp_path) as first, AuditLog(tmp_path) as second:
        assert second.hashed("Ada") == first.hashed("Ada")
    for name in ("audit.key", "audit.jsonl"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["audit.key", "audit.jsonl"])
def test_a_damaged_file_keeps_the_service_from_starting_and_is_named(tmp_path, name):
    (tmp_path / name).write_text("neither a key nor a line\n")
    with pytest.raises(InputProblem, match=name):
        AuditLog(tmp_path)


@pytest.mark.promise("audit-lines", "audit-verify")
@pytest.mark.parametrize(
    ("damage", "broken"),
    [
        (lambda lines: [lines[0], *lines[3:]], "line 2 has the number 4, where 2 was expected"),
        (lambda lines: lines[::-1], "line 2 has the number 5, where 7 was expected"),
        (lambda lines: [lines[0], *lines], "line 2 has the number 1, where 2 was expected"),
        (lambda lines: [*lines, b"anything\n"], "line 7 is not a line"),
        (lambda lines: [*lines[:-1], lines[-1][:-4]], "line 6 is not finished"),
    ],
    ids=["removed", "moved", "repeated", "added", "unfinished"],
)
def test_verify_names_the_file_and_the_line_at_which_the_numbers_break(
    tmp_path, written, verify, damage, broken
):
    verify(0, "the numbers 1 to 6 are complete")
    (tmp_path / "audit.jsonl").write_bytes(b"".join(damage(written)))
    verify(1, f"audit.jsonl: {broken}")


@pytest.mark.promise("audit-verify")
def test_lines_that_a_power_cut_left_in_pieces_are_set_aside_and_the_numbers_go_on(
    tmp_path, verify, caplog
):
    path = tmp_path / "audit.jsonl"
    torn = tmp_path / "audit.torn"
    with AuditLog(tmp_path) as log:
        log.record("x" * 100_000)
    acknowledged = path.read_bytes()
    with AuditLog(tmp_path) as log:
        for _ in range(3):
            log.record("delete_crop", gallery="lobby", count=2)
    whole = path.read_bytes()
    holes = range(len(acknowledged), len(whole) - 64, 40)
    pieces = [whole[:hole] + bytes(64) + whole[hole + 64 :] for hole in holes]
    for left in (*pieces, acknowledged + b'{"sequence": 2, "half a li'):
        torn.unlink(missing_ok=True)
        caplog.clear()
        path.write_bytes(left)
        with AuditLog(tmp_path) as log:
            log.record("enroll")
        assert path.read_bytes().startswith(acknowledged)
        assert left.endswith(torn.read_bytes())
        assert str(torn) in caplog.text
        verify(0)
    assert torn.stat().st_mode & 0o777 == 0o600


async def test_several_processes_and_threads_append_to_one_log(tmp_path, verify):
    program = (
        "import sys; from pathlib import Path; from service.ops.audit import AuditLog\n"
        "with AuditLog(Path(sys.argv[1])) as audit:\n"
        "    for number in range(40): audit.record('theirs', durable=False)"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    others = [subprocess.Popen(command, cwd=gmn.__file__[:-7]) for _ in range(2)]

    with AuditLog(tmp_path) as audit:
        await asyncio.gather(*(audit.done("ours") for _ in range(40)))
    assert [process.wait(60) for process in others] == [0, 0]
    verify(0, "the numbers 1 to 120 are complete")


def test_a_log_that_is_moved_away_while_in_use_goes_on_in_a_new_file(tmp_path, verify):
    log = tmp_path / "audit.jsonl"
    elsewhere = tmp_path / "elsewhere.jsonl"
    with AuditLog(tmp_path) as audit:
        audit.record("before")
        log.rename(elsewhere)
        audit.record("after")
    with AuditLog(tmp_path) as another_process:
        another_process.record("after that")
    verify(0, "the numbers 2 to 3 are complete")
    # Put before it again, it is the beginning.
    elsewhere.rename(tmp_path / "audit.000000000001.jsonl")
    verify(0, "the numbers 1 to 3 are complete")
    # A kill between two files leaves no current one.
    log.unlink()
    with AuditLog(tmp_path) as audit:
        audit.record("after a kill")
    verify(0, "the numbers 1 to 2 are complete")


def test_a_log_that_is_moved_away_before_a_stop_is_begun_anew(tmp_path, verify):
    with AuditLog(tmp_path) as audit:
        audit.record("before", durable=False)
        (tmp_path / "audit.jsonl").rename(tmp_path / "elsewhere.jsonl")
    with AuditLog(tmp_path) as begun_anew:
        begun_anew.record("after a restart")
    assert [line["sequence"] for line in audit_lines(tmp_path)] == [1]
    verify(0, "the numbers 1 to 1 are complete")


def test_a_full_file_is_renamed_and_the_numbers_go_on_in_the_next(tmp_path, verify):
    # Two processes, such as the service and gmn keys.
    with AuditLog(tmp_path, max_bytes=2000) as one, AuditLog(tmp_path, max_bytes=2000) as other:
        for number in range(30):
            one.record("first", count=number, durable=number < 10)
            other.record("second", count=number)
    files = audit_files(tmp_path)
    assert len(files) > 4
    assert all(file.stat().st_size < 3000 for file in files)
    verify(0, "the numbers 1 to 60 are complete")
    # The oldest may be taken away, none between.
    files[0].unlink()
    verify(0, "to 60 are complete")
    files[2].rename(tmp_path / "elsewhere")
    verify(1, f"{files[3].name}: line 1 has the number")
    (tmp_path / "elsewhere").rename(files[2])
    files[2].write_text("".join(files[2].read_text().splitlines(True)[1:]))
    verify(1, f"{files[2].name}: line 1 has the number")
    # A start reads the newest files only.
    with AuditLog(tmp_path, max_bytes=2000) as audit:
        audit.record("after")
    assert audit_lines(tmp_path)[-1]["sequence"] == 61


@pytest.mark.promise("audit-callers")
async def test_a_line_has_a_bound_and_long_lists_in_it_their_count_and_hash(tmp_path):
    names = [f"{number:0250}" for number in range(1000)]

    with AuditLog(tmp_path) as audit:
        audit.note_view("query", filters={"cameras": names, "identities": names})
        audit.note_view("query", filters={"cameras": ["\U0001f4f7" * 256] * 20})
    first, second = (line["filters"] for line in audit_lines(tmp_path))
    digest = hashlib.sha256(json.dumps(names).encode()).hexdigest()
    assert first["cameras"] == names[:10]
    assert first["shortened"]["cameras"] == {"count": 1000, "sha256": digest}
    assert first["shortened"]["identities"]["count"] == 1000
    assert (second["cameras"], second["shortened"]["cameras"]["count"]) == ([], 20)
    assert all(len(line) < 8192 + 300 for line in (tmp_path / "audit.jsonl").read_bytes().split())


async def test_the_long_lists_of_a_request_of_many_searches_are_hashed_once(tmp_path, monkeypatch):
    hashed = []
    monkeypatch.setattr(AuditLog, "hashed", lambda _, name: hashed.append(name) or "0" * 64)
    filters = {"identities": [str(number) for number in range(1000)], "cameras": ["east"]}

    with AuditLog(tmp_path) as audit:
        views = [{"count": number, "query_id": None} for number in range(2000)]
        audit.note_views("query", views, gallery="lobby", filters=filters)
        audit.note_views("query", [], gallery="lobby")
    lines = audit_lines(tmp_path)
    assert [line["count"] for line in lines] == list(range(2000))
    assert lines[0]["filters"]["shortened"]["identities"]["count"] == 1000
    assert lines[0]["filters"] == lines[-1]["filters"]
    assert len(hashed) <= 3000
    assert (tmp_path / "audit.jsonl").stat().st_size < 2000 * 1500


async def test_searches_wait_in_memory_while_the_log_cannot_be_written(
    tmp_path, monkeypatch, verify
):
    monkeypatch.setattr("service.ops.audit.BUFFER_BYTES", 500)
    monkeypatch.setattr("service.ops.audit.PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("service.ops.audit.RETRY_SECONDS", 0.0)
    file = tmp_path / "audit.jsonl"
    dropped = []

    with AuditLog(tmp_path, on_drop=lambda: dropped.append(1)) as audit:
        audit.record("before")
        whole = file.read_bytes()
        file.write_bytes(whole + b"somebody else was here\n")
        for number in range(5):
            audit.note_view("query", gallery="lobby", count=number)
        with pytest.raises(StorageFailed):
            audit.flush()
        writing = asyncio.create_task(audit.write_lines())
        await asyncio.sleep(0.1)
        # Writing the file again would leave it empty for a moment, in which a line may be written.
        os.truncate(file, len(whole))
        async with asyncio.timeout(10):
            while b"dropped_lines" not in file.read_bytes():
                await asyncio.sleep(0.01)
        writing.cancel()
    told = [(line["event"], line.get("count")) for line in audit_lines(tmp_path)]
    assert told == [("before", None), *(("query", n) for n in range(3)), ("dropped_lines", 2)]
    assert len(dropped) == 2
    verify(0)


@pytest.fixture(scope="module")
def watched(open_service, tmp_path_factory):
    """Return a service whose log is read."""
    folder = tmp_path_factory.mktemp("watched")
    served = open_service(folder)
    served.folder = folder
    return served


def test_a_served_deletion_stands_in_the_log_with_its_request(watched, verify, images):
    watched.create("watched")
    (crop_id,) = watched.enrolled("watched", images[0], identity="Ada")
    url = f"/v1/galleries/watched/crops/{crop_id}"
    watched.http.delete(url, headers={"X-Request-ID": "night-shift"})
    assert watched.http.delete("/v1/galleries/watched").status_code == 200
    told = [(line["event"], line["phase"]) for line in audit_lines(watched.folder)]
    for event in ("delete_crop", "delete_gallery"):
        assert told.index((event, "asked")) < told.index((event, "done"))
    assert ("create_gallery", "done") in told
    of_gallery = [
        line
        for line in audit_lines(watched.folder, "enroll", "delete_crop")
        if line["gallery"] == "watched"
    ]
    enrolled, deleted, _ = of_gallery
    assert (enrolled["actor"], enrolled["event"], enrolled["count"]) == ("loopback", "enroll", 1)
    assert (deleted["request_id"], deleted["crop_ids"]) == ("night-shift", [crop_id])
    text = (watched.folder / "audit.jsonl").read_text()
    assert "Ada" not in text
    assert hashlib.sha256(b"Ada").hexdigest() not in text
    verify(0, folder=watched.folder)


@pytest.mark.promise("audit-lines")
def test_every_search_and_every_view_of_a_picture_is_in_the_log(watched, verify, images):
    http = watched.http
    url = f"/v1/galleries/{watched.create('searched')}"
    labels = {"camera": ["east", "east", "west"], "captured_at": "2026-01-01T00:00:00Z"}
    crop_id = watched.enrolled("searched", *images[:3], identity="Ada", **labels)[0]
    asked = {"cameras": "east", "captured_before": "2030-01-01T00:00:00Z"}
    watched.query("searched", *images[:2], **asked, purpose="case 7/2026")
    watched.query("searched", *images[:2], mode="separate", purpose="case 8/2026")
    watched.query("searched", crop_id=crop_id)
    for path in ("crops?identity=Ada", "identities/Ada", "identities?query=Ad", "identities"):
        http.get(f"{url}/{path}")
    http.get(f"{url}/crops/{crop_id}/image", headers={"X-Request-ID": "view-1"})
    eventually(lambda: audit_lines(watched.folder, "view"))
    first, second, third, fourth, by_name, of_one, by_part = audit_lines(watched.folder, "query")
    assert (first["gallery"], first["count"], first["purpose"]) == ("searched", 2, "case 7/2026")
    assert first["filters"] == {"cameras": ["east"], "captured_before": "2030-01-01T00:00:00Z"}
    assert {"time", "actor", "request_id"} <= first.keys()
    assert (second["purpose"], third["count"]) == ("case 8/2026", 3)
    assert (fourth["crop_ids"], "purpose" in fourth) == ([crop_id], False)
    assert (by_name["count"], len(by_name["filters"]["identity"])) == (3, 64)
    assert of_one["filters"] == by_name["filters"] != by_part["filters"]
    (view,) = audit_lines(watched.folder, "view")
    assert (view["crop_ids"], view["request_id"]) == ([crop_id], "view-1")
    assert "Ada" not in (watched.folder / "audit.jsonl").read_text()
    verify(0, folder=watched.folder)
    assert http.get("/v1/galleries").json()["audit_queries"] is True
    assert watched.query("searched", images[0], purpose="x" * 257).status_code == 422
    remaining = http.delete(f"{url}/identities/Ada").json()["remaining"]
    assert any("purposes" in place["what"] for place in remaining)


@pytest.mark.promise("audit-callers")
def test_every_way_that_names_and_vectors_leave_by_has_a_line(watched, images):
    http = watched.http
    url = f"/v1/galleries/{watched.create('gaps')}"
    (crop_id,) = watched.enrolled("gaps", images[0], identity="Ada")
    case_id = http.post(f"{url}/cases", data={"name": "bag"}).json()["case_id"]
    job = watched.ended_job(watched.import_zip("gaps", {"a.png": images[1]}))["job_id"]
    lists = {"crops": 2, "tracks": 0, "identities": 1, "merges": 0, "cases": 1, "groups": 0}
    for path in (*lists, f"cases/{case_id}"):
        watched.read(f"{url}/{path}")
    assert watched.read(f"{url}/crops/{crop_id}?include_vector=true")["vector"]
    assert http.get(f"/v1/jobs/{job}/report").status_code == 200
    assert http.delete(f"/v1/jobs/{job}").status_code == 200
    for event in ("cancel_job", "read_job_report"):
        eventually(lambda event=event: audit_lines(watched.folder, event))
    lines = audit_lines(watched.folder)
    told = {line["event"]: line for line in lines if line.get("gallery") == "gaps"}
    assert {kind: told[f"list_{kind}"]["count"] for kind in lists} == lists
    assert told["read_case"]["case_id"] == case_id
    assert told["read_crop"]["crop_ids"] == [crop_id]
    assert told["read_crop"]["filters"] == {"include_vector": True}
    assert told["read_job_report"]["job_id"] == told["cancel_job"]["job_id"] == job


@pytest.mark.promise("audit-lines")
def test_a_served_deletion_that_cannot_be_logged_is_refused(open_service, tmp_path, images):
    served = open_service(tmp_path)
    (crop_id,) = served.enrolled("default", images[1])
    url = f"/v1/galleries/default/crops/{crop_id}"
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write("somebody else was here\n")
    refused = served.http.delete(url)
    assert refused.status_code == 507
    assert "gmn audit verify" in refused.json()["detail"]
    assert served.http.get(url).status_code == 200
    # Calls that destroy nothing go on.
    assert served.enroll("default", images[2]).status_code == 201


def test_searches_are_left_out_of_the_log_where_that_is_set_and_shown(
    open_service, tmp_path, images
):
    served = open_service(tmp_path, audit_queries="false")
    (crop_id,) = served.enrolled("default", images[0])
    assert served.found("default", images[0]) == [crop_id]
    assert served.http.get(f"/v1/galleries/default/crops/{crop_id}/image").status_code == 200
    assert served.read("/v1/galleries")["audit_queries"] is False
    assert served.stop() == 0
    assert {line["event"] for line in audit_lines(tmp_path)} == {"enroll"}


@pytest.mark.promise("audit-lines")
def test_retention_deletes_nothing_that_cannot_be_logged(start, tmp_path, images):
    served = start(tmp_path, housekeeping_seconds=0.2)
    url = f"/v1/galleries/{served.create('lobby')}"
    long_ago = "2020-01-01T00:00:00Z"
    served.enroll("lobby", images[0], captured_at=long_ago)
    served.http.patch(url, data={"retention_days": "1"})
    eventually(lambda: served.read(url)["crops"] == 0)
    # The second line comes after the deletion, which is seen at once.
    eventually(lambda: len(audit_lines(tmp_path, "delete_expired")) == 2)
    asked, done = audit_lines(tmp_path, "delete_expired")
    assert (asked["phase"], done["phase"], done["count"]) == ("asked", "done", 1)
    with (tmp_path / "audit.jsonl").open("a") as file:
        file.write("somebody else was here\n")
    served.enroll("lobby", images[1], captured_at=long_ago)
    eventually(lambda: "retention of gallery lobby failed: the audit log" in served.log.read_text())
    assert served.read(url)["crops"] == 1


@pytest.mark.promise("audit-verify")
def test_metrics_show_the_newest_line_of_the_log_which_a_cut_log_does_not_have(watched, verify):
    log = watched.folder / "audit.jsonl"
    watched.create("counted")
    # Refusals and searches of other tests are in the file within a second.
    eventually(lambda: figure(watched, "gmn_audit_newest_line") == len(audit_lines(watched.folder)))
    lines = log.read_bytes().splitlines(keepends=True)
    verify(0, f"1 to {len(lines)} are complete", folder=watched.folder)
    os.truncate(log, sum(map(len, lines[:-1])))
    verify(0, f"1 to {len(lines) - 1} are complete", folder=watched.folder)
    assert figure(watched, "gmn_audit_newest_line") == len(lines) - 1


@pytest.mark.promise("audit-callers")
def test_a_job_has_its_lines_under_the_key_that_began_it(open_service, tmp_path, images):
    served = open_service(tmp_path)
    _, admin = served.make_key("admin")
    key_id, enroller = served.make_key("enroll", headers=admin)
    served.http.headers.update(enroller)
    served.ended_job(served.import_zip("default", {"a.png": images[0]}))
    served.stop()
    told = [(line["event"], line["actor"]) for line in audit_lines(tmp_path, "enroll", "import")]
    assert told == [("enroll", key_id), ("import", key_id)]


@pytest.mark.promise("audit-callers")
def test_refused_callers_have_a_line_and_many_of_them_few(open_service, tmp_path):
    served = open_service(tmp_path)
    _, admin = served.make_key("admin")
    key_id, reader = served.make_key("query", headers=admin)
    for _ in range(50):
        assert served.http.get("/v1/galleries").status_code == 401
    for _ in range(3):
        assert served.http.get("/v1/keys", headers=reader).status_code == 403
    served.stop()
    fields = ("actor", "address", "status", "count")
    told = [tuple(line[name] for name in fields) for line in audit_lines(tmp_path, "refused")]
    assert told == [
        ("unknown", "127.0.0.1", 401, 1),
        (key_id, "127.0.0.1", 403, 1),
        ("unknown", "127.0.0.1", 401, 49),
        (key_id, "127.0.0.1", 403, 2),
    ]
