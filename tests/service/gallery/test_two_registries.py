"""The galleries of two processes on one record: each shows the commits of the other."""

from tests.service.gallery.new_crops import new_crop
from tests.waiting import eventually


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
