"""Data survive kill -9, deletion, another model, a shutdown, a second process."""

from __future__ import annotations

import itertools
import json
import signal
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import httpx
import pytest

from tests.outside import crop_ids, problem
from tests.service.conftest import files


def test_after_kill_9_every_acknowledged_crop_is_found_and_no_deleted_one(
    start, tmp_path, drawn_crops, other_artefact
):
    served = start(data_dir=tmp_path)
    acknowledged = {}
    for crop in drawn_crops:
        answer = served.enroll("default", crop.png, identity=crop.identity, camera=crop.camera)
        acknowledged[crop_ids(answer)[0]] = crop.png
    deleted = list(acknowledged)[::6]
    for crop_id in deleted:
        answer = served.http.delete(f"/v1/galleries/default/crops/{crop_id}")
        assert answer.status_code == 200
        removed = answer.json()
        assert removed["removed"] == 1
    version = removed["gallery_version"]
    served.kill()

    restarted = start(data_dir=tmp_path)
    assert restarted.read("/v1/galleries/default")["version"] == version
    for crop_id, image in acknowledged.items():
        found = restarted.found("default", image, top_k=24)
        if crop_id in deleted:
            assert crop_id not in found
        else:
            assert found[0] == crop_id
        assert not set(found) & set(deleted)
    restarted.kill()

    # Serve the same galleries by a model that cannot compare with their vectors.
    foreign = start(data_dir=tmp_path, artefact=other_artefact)
    _a_foreign_gallery_can_be_read_and_deleted_but_not_compared(foreign, drawn_crops)


def _a_foreign_gallery_can_be_read_and_deleted_but_not_compared(served, drawn_crops):
    image = drawn_crops[0].png
    assert served.read("/readyz")["galleries"] == {"ready": 0, "needs_reindex": 1}
    for refused in (served.query("default", image), served.enroll("default", image)):
        assert problem(refused) == (409, "needs_reindex")
        assert "serve with the artefact that filled it" in refused.json()["detail"]
    crops = served.results("/v1/galleries/default/crops")
    assert served.http.get(crops[0]["image_url"]).status_code == 200
    for crop in crops:
        deleted = served.http.delete(f"/v1/galleries/default/crops/{crop['crop_id']}")
        assert deleted.status_code == 200
    # Emptied, it belongs to the model that is there.
    assert served.enroll("default", image).status_code == 201
    assert len(served.found("default", image)) == 1


@pytest.mark.slow
def test_killed_amid_enrolments_every_request_is_there_whole_or_not_at_all(
    start, tmp_path, drawn_crops
):
    numbers = itertools.count()
    acknowledged = set()

    def enroll_until_killed(served) -> None:
        while True:
            number = str(next(numbers))
            # The bytes after a PNG's end make each image another one.
            images = [crop.png + number.encode() for crop in drawn_crops[:4]]
            try:
                answer = served.enroll("default", *images, external_id=number)
            except httpx.TransportError:
                return
            assert answer.status_code == 201
            acknowledged.add(number)

    for seconds in (0.4, 0.7):
        served = start(data_dir=tmp_path)
        with ThreadPoolExecutor(3) as clients:
            ended = clients.map(enroll_until_killed, [served] * 3)
            time.sleep(seconds)
            served.process.kill()
            assert list(ended) == [None] * 3
        served.kill()
    restarted = start(data_dir=tmp_path)
    crops = restarted.results("/v1/galleries/default/crops?limit=1000")
    images_of = Counter(crop["external_id"] for crop in crops)
    assert acknowledged <= images_of.keys()
    assert set(images_of.values()) == {4}
    found = restarted.found("default", drawn_crops[0].png, top_k=1000)
    assert sorted(found) == sorted(crop["crop_id"] for crop in crops)
    restarted.kill()


def test_a_deleted_crop_is_gone_at_once_and_a_second_time_unknown(served, filled, drawn_crops):
    image = drawn_crops[3].png
    crop_id = served.found(filled, image)[0]
    url = f"/v1/galleries/{filled}/crops/{crop_id}"
    assert served.http.delete(url).json() == {"gallery_version": 2, "removed": 1}
    assert crop_id not in served.found(filled, image, top_k=24)
    assert crop_id not in served.found(filled, image, top_k=24, cameras="east,west")
    for gone in (served.http.delete(url), served.http.get(url), served.http.get(f"{url}/image")):
        assert gone.status_code == 404
    like = served.http.post(f"/v1/galleries/{filled}/queries", data={"crop_id": crop_id})
    assert like.status_code == 404


@pytest.mark.slow
def test_a_deleted_picture_leaves_the_disk_at_once(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path)
    image = drawn_crops[0].png
    crop_id = served.enrolled("default", image)[0]
    fragment = image[600:660]

    def on_disk():
        return any(fragment in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())

    assert on_disk()
    served.http.delete(f"/v1/galleries/default/crops/{crop_id}")
    assert not on_disk()
    served.kill()


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.slow
def test_asked_to_stop_it_finishes_what_was_begun_and_ends_without_an_error(
    start, drawn_crops, asked
):
    served = start()
    address = urlsplit(str(served.http.base_url))
    request = served.http.build_request(
        "POST", "/v1/galleries/default/crops", files=files(drawn_crops[0].png)
    )
    body = request.read()
    head = f"POST {request.url.path} HTTP/1.1\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in request.headers.items()
    )
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(head.encode() + b"\r\n" + body[: len(body) // 2])
        assert served.http.get("/livez").status_code == 200
        served.process.send_signal(asked)
        connection.sendall(body[len(body) // 2 :])
        answer = connection.makefile("rb").read()
    assert b"201 Created" in answer.splitlines()[0]
    assert served.stop() == 0
    assert "Traceback" not in served.log.read_text()


def test_the_log_is_json_and_holds_no_image(served, gallery, drawn_crops):
    served.enroll(gallery, drawn_crops[0].png, identity="a")
    for line in served.log.read_text().splitlines():
        assert {"time", "level", "message"} <= json.loads(line).keys()
        assert "IHDR" not in line
