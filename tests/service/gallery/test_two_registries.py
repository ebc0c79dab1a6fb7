"""The galleries of two processes on one record: each shows the commits of the other."""

import contextlib
import gc
from pathlib import Path

import pytest

from service.index.filters import SearchFilter
from tests.service.gallery.new_crops import enroll, new_crop, new_gallery
from tests.waiting import eventually

pytestmark = pytest.mark.promise("several-processes")


def test_what_another_process_does_is_shown(serve):
    one = serve()
    other = serve()
    first, second = one.enroll(new_crop(1), new_crop(2))
    eventually(lambda: other.found().keys() == {first, second})
    one.change(one.record.people.rename, "a", "b")
    eventually(lambda: {label.identity for label in other.found().values()} == {"b"})
    eventually(lambda: len(other.search(SearchFilter(identities=("b",))).slots) == 2)
    other.remove(first)
    eventually(lambda: one.found().keys() == {second})
    assert one.gallery.version == other.gallery.version == 3


def test_the_vectors_of_a_gallery_that_another_process_deletes_are_kept_open_by_none(serve):
    one = serve()
    other = serve()
    lobby = new_gallery(other.record)
    enroll(other.record, lobby, new_crop(1))
    file = other.record.database.vectors.path(lobby, 0)
    eventually(lambda: one.galleries.by_id(lobby) and one.galleries.by_id(lobby).crops == 1)
    assert _open_files(file)
    other.record.galleries.delete(lobby)
    eventually(lambda: not _open_files(file))


def _open_files(path):
    gc.collect()
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        # Another thread may close the file in the meantime.
        with contextlib.suppress(FileNotFoundError):
            targets.append(str(link.readlink()))
    return [target for target in targets if target.startswith(str(path))]
