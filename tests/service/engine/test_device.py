"""The device thread: one piece of work may fail, the thread may not."""

import threading

import pytest

from model.problems import InputProblem
from service.engine.device import DeviceThread
from service.errors import ServiceStopping
from service.ops.threads import STOPPED, heartbeat
from tests.waiting import eventually


def test_what_work_raises_goes_to_its_caller_and_the_thread_lives_on(device):
    def fail():
        raise SystemExit("even this")

    with pytest.raises(SystemExit):
        device.submit(fail).result(5)
    assert device.submit(lambda: "alive").result(5) == "alive"
    assert device.silent_seconds() == 0.0


def test_a_callers_mistake_is_no_failure_in_the_log(device, caplog):
    def refuse():
        raise InputProblem("no such crop")

    with pytest.raises(InputProblem):
        device.submit(refuse).result(5)
    assert not caplog.records


def test_what_was_submitted_before_the_end_is_finished_and_later_work_refused():
    device = DeviceThread()
    done = [device.submit(lambda number=number: number) for number in range(20)]
    device.shutdown()
    assert [future.result(0) for future in done] == list(range(20))
    with pytest.raises(ServiceStopping):
        device.submit(lambda: None)
    assert device.silent_seconds() == STOPPED


def test_work_is_silent_until_it_beats_and_an_idle_thread_is_not(device):
    gates = [threading.Event(), threading.Event()]

    def work():
        gates[0].wait(5)
        heartbeat()
        gates[1].wait(5)

    assert device.silent_seconds() == 0.0
    done = device.submit(work)
    eventually(lambda: device.silent_seconds() >= 0.2)
    gates[0].set()
    eventually(lambda: device.silent_seconds() < 0.2)
    gates[1].set()
    done.result(5)
    eventually(lambda: device.silent_seconds() == 0.0)
