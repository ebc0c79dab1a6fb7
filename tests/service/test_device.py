"""The device thread: one piece of work may fail, the thread may not."""

from __future__ import annotations

import threading

import pytest

from model.problems import InputProblem
from service.device import DeviceThread
from service.problems import ServiceStopping


@pytest.fixture
def device():
    thread = DeviceThread()
    yield thread
    thread.close()


def test_what_work_raises_goes_to_its_caller_and_the_thread_lives_on(device):
    def fail():
        raise SystemExit("even this")

    with pytest.raises(SystemExit):
        device.submit(fail).result(5)
    assert device.submit(lambda: "alive").result(5) == "alive"
    assert device.seconds_since_heartbeat() < 5


def test_a_callers_mistake_is_no_failure_in_the_log(device, caplog):
    def refuse():
        raise InputProblem("no such crop")

    with pytest.raises(InputProblem):
        device.submit(refuse).result(5)
    assert not caplog.records


def test_cancelled_work_is_not_begun(device):
    gate, begun = threading.Event(), []
    device.submit(gate.wait)
    cancelled = device.submit(lambda: begun.append("cancelled"))
    last = device.submit(lambda: begun.append("last"))
    assert cancelled.cancel()
    gate.set()
    last.result(5)
    assert begun == ["last"]


def test_what_was_submitted_before_the_end_is_finished_and_later_work_refused():
    device = DeviceThread()
    done = [device.submit(lambda number=number: number) for number in range(20)]
    device.close()
    assert [future.result(0) for future in done] == list(range(20))
    with pytest.raises(ServiceStopping):
        device.submit(lambda: None)
    assert device.seconds_since_heartbeat() == float("inf")
