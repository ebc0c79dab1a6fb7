"""Data survive kill -9, deletion, another model, a shutdown, a second process."""

import itertools
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

from tests.outside import problem
from tests.service.conftest import files
from tests.service.gallery.new_crops import is_on_disk, open_record
from tests.waiting import eventually

pytestmark = pytest.mark.promise("7")


@pytest.mark.promise("1")
def test_after_kill_9_every_acknowledged_crop_is_found_and_no_deleted_one(
    start, tmp_path, drawn_crops, other_artefact
):
    served = start(tmp_path)
    acknowledged = {}
    for crop in drawn_crops:
        labels = {"identity": crop.identity, "camera": crop.camera}
        acknowledged[served.enrolled("default", crop.png, **labels)[0]] = crop.png
    deleted = set(list(acknowledged)[::6])
    for crop_id in deleted:
        served.delete_crop("default", crop_id)
    version = served.read("/v1/galleries/default")["version"]
    served.kill()

    restarted = start(tmp_path)
    assert restarted.read("/v1/galleries/default")["version"] == version
    for crop_id, image in acknowledged.items():
        found = restarted.found("default", image, top_k=24)
        assert (found[0] == crop_id) == (crop_id not in deleted)
        assert set(found) == acknowledged.keys() - deleted
    restarted.kill()

    # Serve the same galleries by a model that cannot compare with their vectors.
    foreign = start(tmp_path, artefact=other_artefact, accept_unserved=True)
    _a_foreign_gallery_can_be_read_and_deleted_but_not_compared(foreign, drawn_crops[0].png)


def _a_foreign_gallery_can_be_read_and_deleted_but_not_compared(served, image):
    assert served.read("/readyz")["galleries"] == {"ready": 0, "needs_reindex": 1}
    for refused in (served.query("default", image), served.enroll("default", image)):
        assert problem(refused) == (409, "needs_reindex")
    crops = served.results("/v1/galleries/default/crops")
    assert served.http.get(crops[0]["image_url"]).status_code == 200
    for crop in crops:
        served.delete_crop("default", crop["crop_id"])
    # Emptied, it belongs to the model that is there.
    stored = served.enrolled("default", image)
    assert served.found("default", image) == stored


@pytest.mark.promise("1")
@pytest.mark.slow
def test_killed_amid_enrolments_every_request_is_there_whole_or_not_at_all(
    start, tmp_path, drawn_crops
):
    numbers = itertools.count()
    acknowledged = set()

    def enroll_until_killed(served):
        while True:
            number = str(next(numbers))
            # The bytes after a PNG's end make each image another one.
            images = [crop.png + number.encode() for crop in drawn_crops[:4]]
            try:
                answer = served.enroll("default", *images, external_id=number)
            except httpx2.TransportError:
                return
            assert answer.status_code == 201
            acknowledged.add(number)

    for seconds in (0.4, 0.7):
        served = start(tmp_path)
        with ThreadPoolExecutor(3) as clients:
            ended = clients.map(enroll_until_killed, [served] * 3)
            eventually(lambda: acknowledged)
            time.sleep(seconds)
            served.process.kill()
            assert list(ended) == [None] * 3
        served.kill()
    restarted = start(tmp_path)
    crops = restarted.results("/v1/galleries/default/crops?limit=1000")
    images_of = Counter(crop["external_id"] for crop in crops)
    assert acknowledged <= images_of.keys()
    assert set(images_of.values()) == {4}
    found = restarted.found("default", drawn_crops[0].png, top_k=1000)
    assert sorted(found) == sorted(crop["crop_id"] for crop in crops)
    restarted.kill()


@pytest.mark.promise("2")
@pytest.mark.sqlite_alone
@pytest.mark.slow
def test_a_deleted_picture_leaves_the_disk_at_once(start, tmp_path, images):
    served = start(tmp_path)
    (crop_id,) = served.enrolled("default", images[0])
    fragment = images[0][600:660]

    def on_disk():
        return any(fragment in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert on_disk()
    served.delete_crop("default", crop_id)
    assert not on_disk()


@pytest.mark.sqlite_alone
@pytest.mark.slow
def test_a_picture_deleted_while_another_process_reads_leaves_the_disk_after_that(
    start, tmp_path, images
):
    served = start(tmp_path)
    (crop_id,) = served.enrolled("default", images[0])
    fragment = images[0][600:660]
    with open_record(tmp_path) as other:
        # A backup reads so for minutes.
        with other.database.read() as reader:
            assert reader.value("SELECT count(*) FROM crops") == 1
            served.delete_crop("default", crop_id)
        eventually(lambda: not is_on_disk(tmp_path, fragment))


@pytest.mark.promise("stops")
@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_asked_to_stop_it_finishes_what_was_begun_and_ends_without_an_error(start, images, asked):
    served = start()
    url = "/v1/galleries/default/crops"
    request = served.http.build_request("POST", url, files=files(images[0]))
    body = request.read()

    def halves():
        yield body[: len(body) // 2]
        assert served.http.get("/livez").status_code == 200
        served.process.send_signal(asked)
        yield body[len(body) // 2 :]

    answer = served.http.post(url, content=halves(), headers=request.headers)
    assert answer.status_code == 201
    assert served.stop() == 0
    assert "Traceback" not in served.log.read_text()
