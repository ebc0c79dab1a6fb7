"""The device thread: one piece of work may fail, the thread may not."""

import threading
import time

import pytest

from model.problems import InputProblem
from service.engine.device import DeviceThread
from service.errors import ServiceStopping
from service.ops.threads import STOPPED


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


def test_an_index_does_not_change_while_it_is_searched(device):
    goes_on = threading.Event()
    done = []

    def search():
        goes_on.wait(10)
        done.append("searched")

    def change():
        with device.held():
            done.append("changed")

    searching = device.submit(search)
    changing = threading.Thread(target=change)
    changing.start()
    changing.join(0.1)
    assert done == []
    goes_on.set()
    searching.result(5)
    changing.join(5)
    assert done == ["searched", "changed"]


def test_work_waits_for_a_thread_that_holds_the_device_and_is_not_taken_for_stalled(device):
    with device.held():
        working = device.submit(lambda: "done")
        time.sleep(0.2)
        assert not working.done()
        assert device.silent_seconds() == 0.0
    assert working.result(5) == "done"
