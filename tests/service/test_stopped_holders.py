"""A process that stands still while it holds a lock delays others by seconds, and loses nothing."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.ops.locks import BEAT_SECONDS, BEATS_MISSED
from tests.outside import crop_ids, problem
from tests.service.conftest import log_entries
from tests.service.locks import holder_of, standing_still
from tests.waiting import eventually

pytestmark = pytest.mark.promise("stopped-holder")

URL = "/v1/galleries/default"
REFUSED = (503, "record_unavailable")


def _state(served):
    return served.read("/readyz")["record"]["state"]


def _messages(served, text):
    """Return the messages of the log that contain a text."""
    messages = [entry["message"] for entry in log_entries(served.log.read_text())]
    return [message for message in messages if text in message]


def _require_refusal(what, answer):
    assert problem(answer) == REFUSED, what
    assert int(answer.headers["Retry-After"]) > 0
    assert "nothing was stored" in answer.json()["detail"]


def test_writes_are_refused_while_who_holds_the_record_stands_still_and_reads_go_on(
    start, tmp_path, drawn_crops
):
    served = start(tmp_path)
    http = served.http
    image = drawn_crops[2].png
    crop_id, *_ = served.fill("default", drawn_crops[:2], identity=["ann", "bob"])
    _, admin = served.make_key("admin")
    http.headers.update(admin)
    key_id, _ = served.make_key("query")
    writes = {
        "an enrollment": lambda: served.enroll("default", image),
        "a deletion": lambda: http.delete(f"{URL}/crops/{crop_id}"),
        "forgetting": lambda: http.delete(f"{URL}/identities/ann"),
        "the revocation of a key": lambda: http.delete(f"/v1/keys/{key_id}"),
        "a new key": lambda: http.post("/v1/keys", data={"scopes": "query"}),
        "settings": lambda: http.patch(URL, data={"retention_days": "900"}),
        "a new gallery": lambda: http.post("/v1/galleries", data={"name": "new"}),
        "a kept search": lambda: served.query("default", image, keep="true"),
        "a case": lambda: http.post(f"{URL}/cases", data={"name": "theft"}),
        "a new name": lambda: http.patch(f"{URL}/identities/ann", data={"new_identity": "eve"}),
        "a grouping": lambda: http.post(f"{URL}/groups"),
    }
    with standing_still(tmp_path / "record.lock") as holder:
        with ThreadPoolExecutor(len(writes)) as clients:
            sent = {what: clients.submit(write) for what, write in writes.items()}
            assert crop_id in served.found("default", drawn_crops[0].png)
            assert len(crop_ids(http.get(f"{URL}/crops"))) == 2
            for what, answered in sent.items():
                _require_refusal(what, answered.result())
        # While the process is known to stand still, nobody waits for it.
        for what, write in writes.items():
            _require_refusal(what, write())
        assert _state(served) == "writes_wait"
        (message,) = _messages(served, "stands still")
        assert f"process {holder.pid}," in message
        holder.release()
        eventually(lambda: _state(served) == "in_step")
    landed = served.enrolled("default", image)
    assert set(crop_ids(http.get(f"{URL}/crops"))) > {crop_id, *landed}
    assert [gallery["name"] for gallery in served.results("/v1/galleries")] == ["default"]
    assert served.stop() == 0


def test_writes_wait_for_a_holder_of_the_record_that_goes_on(start, tmp_path, images):
    served = start(tmp_path)
    with holder_of(tmp_path / "record.lock") as holder, ThreadPoolExecutor(1) as client:
        written = client.submit(served.enroll, "default", images[0])
        time.sleep((BEATS_MISSED + 2) * BEAT_SECONDS)
        assert not written.done()
        assert _state(served) == "in_step"
        holder.release()
        assert written.result().status_code == 201


def test_a_service_that_stood_still_amid_a_write_finishes_it(start, tmp_path, images):
    served = start(tmp_path)
    # It waits there with the lock of the record.
    paused = start(tmp_path, failpoint="enroll.crop-written=delay:1")
    with ThreadPoolExecutor(1) as client:
        written = client.submit(paused.enroll, "default", images[0])
        eventually(lambda: "failpoint enroll.crop-written" in paused.log.read_text())
        paused.process.send_signal(signal.SIGSTOP)
        _require_refusal("an enrollment", served.enroll("default", images[1]))
        paused.process.send_signal(signal.SIGCONT)
        landed = crop_ids(written.result())
    eventually(lambda: _state(served) == "in_step")
    landed += served.enrolled("default", images[1])
    for service in (served, paused):
        eventually(lambda http=service.http: set(crop_ids(http.get(f"{URL}/crops"))) == {*landed})


def test_who_stands_still_while_it_waits_for_its_turn_keeps_nobody_from_writing(
    start, tmp_path, images
):
    served = start(tmp_path)
    with standing_still(tmp_path / "record.turn"):
        assert served.enroll("default", images[0]).status_code == 201


def test_changes_of_exports_are_refused_while_who_holds_their_lock_stands_still(
    start, tmp_path, drawn_crops
):
    served = start(tmp_path)
    served.fill("default", drawn_crops[:1], identity="ann")
    served.export("default")
    http = served.http
    (export,) = served.results(f"{URL}/exports")
    path = f"{URL}/exports/{export['export_id']}"
    writes = {
        "an export": lambda: http.post(f"{URL}/exports"),
        "the deletion of an export": lambda: http.delete(path),
    }
    with standing_still(tmp_path / "locks" / "exports-1") as holder:
        with ThreadPoolExecutor(len(writes)) as clients:
            sent = {what: clients.submit(write) for what, write in writes.items()}
            for what, answered in sent.items():
                _require_refusal(what, answered.result())
        assert served.enroll("default", drawn_crops[1].png).status_code == 201
        assert http.delete(f"{URL}/identities/ann").json()["removed"] == 1
        assert http.get(f"{path}/content").status_code == 200
        (message,) = _messages(served, "stands still")
        assert f"process {holder.pid}," in message
    assert http.delete(path).status_code == 204


def test_while_who_holds_the_audit_log_stands_still_nothing_is_deleted_or_shown_without_a_line(
    start, tmp_path, drawn_crops
):
    # A thread that waits for the lock has not stalled.
    served = start(tmp_path, stall_seconds=4)
    crop_id, *_ = served.fill("default", drawn_crops[:2])
    with standing_still(tmp_path / "audit.lock") as holder:
        _require_refusal("a deletion", served.http.delete(f"{URL}/crops/{crop_id}"))
        eventually(lambda: served.query("default", drawn_crops[0].png).status_code == 503)
        _require_refusal("a list", served.http.get(f"{URL}/crops"))
        ready = served.read("/readyz")
        assert ready["audit_log"] == "unavailable"
        holder.release()
        eventually(lambda: served.query("default", drawn_crops[0].png).status_code == 200)
    served.delete_crop("default", crop_id)
    assert served.read("/readyz")["audit_log"] == "ready"


def test_a_start_names_who_stands_still_with_the_record(start, tmp_path, refused_start):
    start(tmp_path).stop()
    with standing_still(tmp_path / "record.lock") as holder:
        error = refused_start(tmp_path)
    assert f"process {holder.pid}, which holds record.lock and stands still" in error
