"""The galleries of two processes on one record: each shows the commits of the other."""

import threading

from tests.service.gallery.new_crops import new_crop
from tests.waiting import eventually

WAITED_SECONDS = 20


def test_what_another_process_does_is_shown(serve):
    one = serve()
    other = serve()
    first, second = one.enroll(new_crop(1), new_crop(2))
    eventually(lambda: other.found().keys() == {first, second})
    one.change(one.record.people.rename, "a", "b")
    eventually(lambda: {label.identity for label in other.found().values()} == {"b"})
    other.remove(first)
    eventually(lambda: one.found().keys() == {second})
    assert one.gallery.version == other.gallery.version == 3


def test_a_search_behind_the_record_finds_no_crop_that_was_deleted(serve):
    one = serve()
    other = serve()
    first, second = one.enroll(new_crop(1), new_crop(2))
    eventually(lambda: other.found().keys() == {first, second})
    rows = [crop.row_id for crop in other.found().values()]
    shown = threading.Event()
    other.device.submit(lambda: shown.wait(WAITED_SECONDS))
    try:
        one.remove(first)
        assert [crop.crop_id for crop in other.confirmed(rows).values()] == [second]
    finally:
        shown.set()
