"""A service whose images lie in a folder outside the record is killed, and nothing is lost."""

import contextlib
import itertools
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from service.opening import open_folder
from service.store.verify import verify
from tests.outside import crop_ids
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.fixture
def place(tmp_path):
    folder = tmp_path / "crops"
    return {"data_dir": tmp_path / "data", "images_url": folder.as_uri()}, folder


def _check(place, held, deleted):
    """Check that acknowledged crops are whole, and that all other files are strays."""
    settings, folder = place
    assert verify(settings["data_dir"]).damage == []
    with contextlib.closing(open_folder(settings["data_dir"])) as record:
        (gallery,) = record.galleries.all()
        there = {vector.record.crop_id for vector in record.crops.vectors(gallery.gallery_id)}
        assert held <= there
        assert not deleted & there
        later = datetime.now(UTC) + timedelta(days=1)
        strays = {name for _, name in record.stray_files.all(later, 10_000)}
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    assert there <= files
    assert files - there <= strays


def _enroll(served, image, held, deleted):
    """Enroll images until the service is gone, and delete every fourth."""
    with contextlib.suppress(httpx2.TransportError):
        for number in itertools.count():
            answer = served.enroll("default", image + b"%d %d" % (id(held), number))
            (crop_id,) = crop_ids(answer)
            if number % 4:
                held.add(crop_id)
            elif served.http.delete(f"/v1/galleries/default/crops/{crop_id}").is_success:
                deleted.add(crop_id)


@pytest.mark.promise("images-after-kills")
def test_what_was_acknowledged_is_whole_after_every_kill(start, place, images):
    held = set()
    deleted = set()
    for cycle in range(2):
        served = start(**place[0])
        mine = [(set(), set()) for _ in range(4)]
        threads = [
            threading.Thread(target=_enroll, args=(served, images[n] + bytes([cycle]), *crop_ids))
            for n, crop_ids in enumerate(mine)
        ]
        for thread in threads:
            thread.start()
        eventually(lambda mine=mine: all(enrolled for enrolled, _ in mine))
        time.sleep(0.5)
        served.kill()
        for thread, (enrolled, gone) in zip(threads, mine, strict=True):
            thread.join()
            held |= enrolled
            deleted |= gone
        _check(place, held, deleted)
    again = start(**place[0])
    listed = again.results("/v1/galleries/default/crops?limit=1000")
    assert held <= {crop["crop_id"] for crop in listed}


@pytest.mark.promise("images-after-kills")
@pytest.mark.parametrize("point", ["enroll.pictures-kept", "enroll.crop-written"])
def test_files_of_an_enrolment_that_was_killed_are_strays(start, place, images, point):
    served = start(**place[0], failpoint=f"{point}:2")
    held = set(served.enrolled("default", images[0]))
    with pytest.raises(httpx2.TransportError):
        served.enroll("default", images[1])
    served.ended_with()
    assert sum(path.is_file() for path in place[1].rglob("*")) == 2
    _check(place, held, set())
