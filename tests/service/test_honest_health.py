"""A process of which any part hangs or is lost reports it and ends."""

import contextlib
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from service.ops.threads import EXIT_STATUS
from tests.outside import problem
from tests.service.conftest import START

pytestmark = pytest.mark.slow

BREAK = "from tests.service.broken_service import break_service"
STALL = 1.5
STAGES = {
    "watch lists",
    "watch threads",
    "tracks",
    "cameras",
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
    "data directory",
    "files threads",
    "locks threads",
    "imports threads",
    "record writers",
    "follower",
    "record readers",
    "read-ahead thread",
    "keys",
    "key reader",
    "log of the record",
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

    def start_one(defect, **settings):
        begins = tmp_path / defect.replace(" ", "-")
        program = f"{BREAK}; break_service({defect!r}, {str(begins)!r}); {START}"
        served = start(program=program, stall_seconds=STALL, **settings)
        served.begins = begins
        return served

    return start_one


def _probes(served):
    """Return what `/livez` and `/readyz` answer until the process ends, from a connection each."""
    seen = ([], [])
    with httpx2.Client(base_url=served.http.base_url, timeout=1.0) as probe:
        deadline = time.monotonic() + ENDS_WITHIN
        while served.process.poll() is None:
            assert time.monotonic() < deadline, "the process does not end"
            for path, answers in zip(("/livez", "/readyz"), seen, strict=True):
                with contextlib.suppress(httpx2.TransportError):
                    answers.append(probe.get(path))
            time.sleep(0.1)
    return seen


@pytest.fixture
def beside():
    """Yield a function that calls another one in a thread."""
    with ThreadPoolExecutor() as threads:
        yield threads.submit


@pytest.mark.promise("health")
def test_what_hangs_turns_livez_red_and_ends_the_process(broken, beside, images):
    served = broken("device hangs")
    assert served.enroll("default", images[0]).status_code == 201
    served.begins.touch()
    beside(served.enroll, "default", images[1])
    for answers in _probes(served):
        assert answers[0].status_code == 200, "an idle or busy service is well"
        red = [answer for answer in answers if answer.status_code == 503]
        assert red
        assert red[0].headers["content-type"] == "application/problem+json"
        assert red[0].json()["detail"].startswith("decode threads: sent no heartbeat")
    assert served.ended_with(5) == EXIT_STATUS
    log = served.log.read_text()
    assert log.count('"level": "critical"') == 1
    assert "Current thread" in log or "Thread 0x" in log, "no stacks of the threads"


def test_a_long_read_of_the_record_is_answered_and_ends_no_process(broken, images):
    served = broken("record slow")
    served.enroll("default", images[0], identity="ann")
    served.begins.touch()
    people = served.http.get("/v1/galleries/default/identities", timeout=60)
    assert [person["identity"] for person in people.json()["results"]] == ["ann"]
    assert served.http.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("defect", "status", "said"),
    [
        ("event loop hangs", EXIT_STATUS, "event loop: sent no heartbeat"),
        # A library lets no other code run any more.
        ("interpreter held", 1, "Timeout"),
    ],
)
def test_a_process_that_can_answer_nobody_ends_all_the_same(
    broken, beside, images, defect, status, said
):
    served = broken(defect)
    served.begins.touch()
    beside(served.query, "default", images[0])
    assert served.ended_with(ENDS_WITHIN) == status
    assert said in served.log.read_text()


@pytest.mark.promise("health")
def test_a_lost_device_is_answered_503_and_ends_the_process_at_once(broken, beside, images):
    served = broken("device lost")
    assert served.enroll("default", images[0]).status_code == 201
    served.begins.touch()
    asked = [beside(served.query, "default", images[1]) for _ in range(4)]
    begun = time.monotonic()
    livez, _ = _probes(served)
    assert served.ended_with(5) == EXIT_STATUS
    assert time.monotonic() - begun < STALL + 10
    assert livez[-1].status_code == 503
    assert "illegal memory access" in livez[-1].json()["detail"]
    for answer in asked:
        assert problem(answer.result()) == (503, "device_lost")
        assert int(answer.result().headers["retry-after"]) > 0


def test_a_device_without_memory_and_a_process_that_stood_still_go_on(
    broken, images, other_artefact
):
    served = broken("device full", previous=other_artefact)
    served.begins.touch()
    answer = served.enroll("default", images[0])
    assert problem(answer) == (503, "device_full")
    assert int(answer.headers["retry-after"]) > 0
    served.begins.unlink()
    served.process.send_signal(signal.SIGSTOP)
    time.sleep(STALL + 2.5)
    served.process.send_signal(signal.SIGCONT)
    time.sleep(STALL)
    assert served.enroll("default", images[0]).status_code == 201
    assert served.http.get("/livez").status_code == 200
    metrics = served.http.get("/metrics").text
    assert "gmn_device_out_of_memory_total 1.0" in metrics
    pattern = r'^gmn_stage_silent_seconds{stage="(.+)"} (.+)$'
    silent = {name: float(text) for name, text in re.findall(pattern, metrics, re.MULTILINE)}
    of_the_other_model = {f"{name} of {other_artefact.name}" for name in STAGES if "decode" in name}
    assert set(silent) == STAGES | of_the_other_model
    assert max(silent.values()) < STALL
    assert served.stop() == 0
