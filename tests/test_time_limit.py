"""The time limit of a test leaves out what is done once for many tests."""

import signal

from tests.time_limit import time_limit


def seconds_left():
    return signal.getitimer(signal.ITIMER_REAL)[0]


def test_the_limit_stands_still_in_a_block_and_begins_anew_after_it():
    before = seconds_left()
    assert before > 0
    with time_limit.set_aside():
        assert seconds_left() == 0
    assert seconds_left() > before
