"""Another model: the kept crops are embedded again beside the old vectors, and switched at once."""

import contextlib
import io
import sqlite3
import threading
import time

import pytest
from PIL import Image

from service.record.transaction import FILE
from tests.outside import bearer, encoded, problem
from tests.service.http.conftest import make_key
from tests.waiting import eventually

pytestmark = pytest.mark.promise("7")

URL = "/v1/galleries/default"


def begin(served):
    answer = served.http.post(f"{URL}/reindex")
    assert answer.status_code == 202, answer.text
    return answer.json()


@pytest.fixture
def exchange(start, tmp_path, drawn_crops, tiny_artefact, other_artefact):
    """Return a function that fills a gallery, spoils it, and serves it by another model."""

    def serve_another(crops=drawn_crops, spoil=None, previous=False, **settings):
        served = start(data_dir=tmp_path / "data", **settings)
        for first in range(0, len(crops), 24):
            part = crops[first : first + 24]
            images = [crop.png + bytes([first]) for crop in part]
            served.enrolled("default", *images, identity=[crop.identity for crop in part])
        if spoil:
            spoil(served)
        if served.process.poll() is None:
            served.kill()
        settings |= {"previous": tiny_artefact} if previous else {"accept_unserved": True}
        return start(data_dir=tmp_path / "data", artefact=other_artefact, **settings)

    return serve_another


def wait_amid(job, served, done=64):
    while served.job(job["job_id"])["progress"].get("done", 0) < done:
        time.sleep(0.005)


@pytest.mark.slow
def test_no_query_fails_while_a_gallery_goes_over_to_another_model(exchange, drawn_crops):
    served = exchange(previous=True)
    before = served.read(URL)
    assert (before["state"], served.http.get("/readyz").status_code) == ("previous_model", 200)
    answers = []
    stop = threading.Event()

    def ask():
        while not stop.is_set():
            for crop in drawn_crops:
                answers.append((crop, served.query("default", crop.png, top_k=1)))

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        job = served.ended_job(begin(served))
        served.enrolled("default", drawn_crops[0].png + b"!", identity="late")
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert (job["state"], job["detail"]) == ("done", None)
    assert job["progress"]["done"] == len(drawn_crops)
    assert answers
    for crop, answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.json()["results"][0]["identity"] in (crop.identity, "late")
    after = served.read(URL)
    assert after["state"] == "ready"
    assert after["embedding_fingerprint"] != before["embedding_fingerprint"]
    assert after["crops"] == before["crops"] + 1
    assert served.http.post(f"{URL}/reindex").status_code == 409


@pytest.mark.slow
def test_a_reindex_is_stopped_by_an_admin_alone(exchange, tmp_path, drawn_crops):
    served = exchange(drawn_crops[:2])
    job = served.ended_job(begin(served))
    url = f"/v1/jobs/{job['job_id']}"
    enroll, admin = (
        bearer(make_key(tmp_path / "data", "--scope", scope)) for scope in ("enroll", "admin")
    )
    # Each key counts within a second; until the first does, no key is asked for.
    eventually(lambda: served.http.get(url).status_code == 401)
    eventually(lambda: served.http.get(url, headers=admin).status_code == 200)
    assert served.http.delete(url, headers=enroll).status_code == 403
    assert served.http.delete(url, headers=admin).json()["state"] == "done"


@pytest.mark.slow
def test_a_reindex_that_was_killed_goes_on(exchange, start, tmp_path, drawn_crops, other_artefact):
    served = exchange(drawn_crops * 10)
    job = begin(served)
    wait_amid(job, served)
    served.kill()
    again = start(data_dir=tmp_path / "data", artefact=other_artefact, accept_unserved=True)
    ended = again.ended_job(again.job(job["job_id"]))
    assert (ended["state"], ended["progress"]["done"]) == ("done", 240)
    assert again.query("default", drawn_crops[0].png).status_code == 200


@pytest.mark.slow
def test_crops_without_a_kept_picture_are_named_and_nothing_is_switched(exchange, drawn_crops):
    served = exchange(drawn_crops[:3], previous=True, keep_images="none")
    crop = served.results(f"{URL}/crops")[0]
    assert crop["image_url"] is None
    picture = served.http.get(f"{URL}/crops/{crop['crop_id']}/image")
    assert problem(picture) == (404, "unknown_picture")
    job = served.ended_job(begin(served))
    assert (job["state"], job["problems"]) == ("failed", 3)
    assert crop["crop_id"] in served.http.get(f"/v1/jobs/{job['job_id']}/report").text
    assert served.query("default", drawn_crops[0].png).status_code == 200


def reindex_without_a_picture(exchange, crops, lose, **settings):
    """Let `lose` spoil the picture of a crop, and return the report of the reindex that fails."""
    lost = []

    def lose_a_picture(served):
        lost.append(served.results(f"{URL}/crops")[0]["crop_id"])
        assert served.stop() == 0
        lose(lost[0])

    served = exchange(crops, lose_a_picture, **settings)
    job = served.ended_job(begin(served), 20.0)
    assert (job["state"], job["problems"]) == ("failed", 1)
    return lost[0], served.http.get(f"/v1/jobs/{job['job_id']}/report").text


@pytest.mark.slow
def test_a_reindex_names_a_crop_whose_picture_is_missing(exchange, tmp_path, drawn_crops):
    folder = tmp_path / "crops"

    def remove(crop_id):
        (file,) = folder.rglob(crop_id)
        file.unlink()

    pictures = {"images_url": folder.as_uri()}
    crop_id, report = reindex_without_a_picture(exchange, drawn_crops[:3], remove, **pictures)
    assert f"{crop_id},unknown_picture,its picture is missing" in report


@pytest.mark.sqlite_alone
@pytest.mark.slow
def test_a_reindex_names_a_crop_whose_picture_is_damaged(exchange, tmp_path, drawn_crops):
    def damage(crop_id):
        record = tmp_path / "data" / FILE
        content = record.read_bytes()
        picture = drawn_crops[0].png[1000:1064]
        assert content.count(picture) == 1
        record.write_bytes(content.replace(picture, bytes(64)))

    crop_id, report = reindex_without_a_picture(exchange, drawn_crops[:3], damage)
    assert f"{crop_id},damaged_record,its picture is" in report


@pytest.mark.sqlite_alone
@pytest.mark.slow
def test_a_reindex_names_a_damaged_crop_and_ends(exchange, tmp_path, drawn_crops):
    damaged = []

    def change_a_row(served):
        damaged.append(served.results(f"{URL}/crops")[0]["crop_id"])
        assert served.stop() == 0
        with contextlib.closing(sqlite3.connect(tmp_path / "data" / FILE)) as record:
            record.execute("UPDATE crops SET metadata = 'no JSON' WHERE crop_id = ?", damaged)
            record.commit()

    served = exchange(drawn_crops[:3], change_a_row)
    job = served.ended_job(begin(served), 20.0)
    assert job["state"] == "failed"
    assert damaged[0] in job["detail"]
    served.delete_crop("default", damaged[0])
    assert served.ended_job(begin(served), 20.0)["state"] == "done"


@pytest.mark.slow
def test_thumbnails_are_kept_small_and_embedded_anew(exchange, drawn_crops):
    large = Image.open(io.BytesIO(drawn_crops[0].png)).resize((480, 960))
    crop = drawn_crops[0]._replace(png=encoded(large))
    served = exchange([crop], keep_images="thumbnail")
    (stored,) = served.results(f"{URL}/crops")
    kept = Image.open(io.BytesIO(served.http.get(stored["image_url"]).content))
    assert (kept.format, kept.size) == ("JPEG", (128, 256))
    assert served.ended_job(begin(served))["state"] == "done"
