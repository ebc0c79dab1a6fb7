"""A process of which any part hangs or is lost reports it and ends."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from service.ops.threads import EXIT_STATUS
from tests.outside import problem
from tests.service.conftest import START, Served

pytestmark = pytest.mark.slow

BREAK = "from tests.service.broken_service import break_service"
STALL = 1.5
STAGES = {
    "watch lists",
    "watch threads",
    "tracks",
    "comparing threads",
    "webhooks",
    "audit log",
    "audit lines",
    "calibration",
    "calibration threads",
    "gallery fits",
    "device thread",
    "event loop",
    "heartbeat",
    "decode threads",
    "decode threads for large images",
    "files threads",
    "imports threads",
    "record writers",
    "follower",
    "record readers",
    "keys",
    "key reader",
    "job runner",
    "maintenance",
    "compaction",
    "compaction threads",
}
# A part that hangs may be seen one stall late, and then comes the farewell.
ENDS_WITHIN = 20.0


@pytest.fixture
def broken(start, tmp_path):
    """Return a function that starts a service, whose defect begins when its file is touched."""

    def start_one(defect: str) -> Served:
        begins = tmp_path / defect.replace(" ", "-")
        program = f"{BREAK}; break_service({defect!r}, {str(begins)!r}); {START}"
        served = start(program=program, stall_seconds=STALL)
        served.begins = begins
        return served

    return start_one


def _probes(served: Served) -> tuple[list[httpx.Response], list[httpx.Response]]:
    """Return what `/livez` and `/readyz` answer until the process ends, from a connection each."""
    seen: tuple[list[httpx.Response], list[httpx.Response]] = ([], [])
    with httpx.Client(base_url=served.http.base_url, timeout=1.0) as probe:
        deadline = time.monotonic() + ENDS_WITHIN
        while served.process.poll() is None:
            assert time.monotonic() < deadline, "the process does not end"
            for path, answers in zip(("/livez", "/readyz"), seen, strict=True):
                with contextlib.suppress(httpx.TransportError):
                    answers.append(probe.get(path))
            time.sleep(0.1)
    return seen


def _beside(call: Callable[[], httpx.Response]) -> list[httpx.Response]:
    """Call in a thread, and return a list that gets the answer if there is one."""
    answers: list[httpx.Response] = []

    def run() -> None:
        with contextlib.suppress(httpx.TransportError):
            answers.append(call())

    threading.Thread(target=run, daemon=True).start()
    return answers


def test_what_hangs_turns_livez_red_and_ends_the_process(broken, drawn_crops):
    served = broken("device hangs")
    assert served.enroll("default", drawn_crops[0].png).status_code == 201
    served.begins.touch()
    _beside(lambda: served.enroll("default", drawn_crops[1].png))
    for answers in _probes(served):
        assert answers[0].status_code == 200, "an idle or busy service is well"
        red = [answer for answer in answers if answer.status_code == 503]
        assert red
        assert red[0].headers["content-type"] == "application/problem+json"
        assert red[0].json()["detail"].startswith("device thread: sent no heartbeat")
    assert served.ended_with(5) == EXIT_STATUS
    log = served.log.read_text()
    assert log.count('"level": "critical"') == 1
    assert "Current thread" in log or "Thread 0x" in log, "no stacks of the threads"


def test_an_event_loop_that_hangs_ends_the_process_though_nobody_can_be_told(broken, drawn_crops):
    served = broken("event loop hangs")
    served.begins.touch()
    _beside(lambda: served.query("default", drawn_crops[0].png))
    assert served.ended_with(ENDS_WITHIN) == EXIT_STATUS
    assert "event loop: sent no heartbeat" in served.log.read_text()


def test_a_library_that_lets_nothing_run_any_more_does_not_keep_the_process(broken, drawn_crops):
    served = broken("interpreter held")
    served.begins.touch()
    _beside(lambda: served.query("default", drawn_crops[0].png))
    assert served.ended_with(ENDS_WITHIN) == 1
    assert "Timeout" in served.log.read_text()


def test_a_lost_device_is_answered_503_and_ends_the_process_at_once(broken, drawn_crops):
    served = broken("device lost")
    assert served.enroll("default", drawn_crops[0].png).status_code == 201
    served.begins.touch()
    asked = [_beside(lambda: served.query("default", drawn_crops[1].png)) for _ in range(4)]
    begun = time.monotonic()
    livez, _ = _probes(served)
    assert served.ended_with(5) == EXIT_STATUS
    assert time.monotonic() - begun < STALL + 10
    assert livez[-1].status_code == 503
    assert "illegal memory access" in livez[-1].json()["detail"]
    for answers in asked:
        (answer,) = answers
        assert problem(answer) == (503, "device_lost")
        assert int(answer.headers["retry-after"]) > 0


def test_a_device_without_memory_and_a_process_that_stood_still_go_on(broken, drawn_crops):
    served = broken("device full")
    served.begins.touch()
    answer = served.enroll("default", drawn_crops[0].png)
    assert problem(answer) == (503, "device_full")
    assert int(answer.headers["retry-after"]) > 0
    served.begins.unlink()
    served.process.send_signal(signal.SIGSTOP)
    time.sleep(STALL + 2.5)
    served.process.send_signal(signal.SIGCONT)
    time.sleep(STALL)
    assert served.enroll("default", drawn_crops[0].png).status_code == 201
    assert served.http.get("/livez").status_code == 200
    metrics = served.http.get("/metrics").text
    assert "gmn_device_out_of_memory_total 1.0" in metrics
    silent = dict(
        re.findall(r'^gmn_stage_silent_seconds{stage="(.+)"} (.+)$', metrics, re.MULTILINE)
    )
    assert set(silent) == STAGES
    assert max(map(float, silent.values())) < STALL
    assert served.stop() == 0
