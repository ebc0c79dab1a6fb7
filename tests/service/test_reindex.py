"""Another model: the kept crops are embedded anew beside the old vectors, and switched at once."""

from __future__ import annotations

import threading
import time

import pytest

from tests.service.http.conftest import make_key


def _fill(served, drawn_crops) -> str:
    gallery = served.create("lobby")
    served.fill(gallery, drawn_crops)
    return gallery


@pytest.fixture
def exchanged(start, tmp_path, drawn_crops, tiny_artefact, other_artefact):
    """Return a filled gallery, served by another model with the one before it at hand."""
    served = start(data_dir=tmp_path / "data")
    gallery = _fill(served, drawn_crops)
    assert served.stop() == 0
    again = start(data_dir=tmp_path / "data", artefact=other_artefact, previous=tiny_artefact)
    return again, gallery


@pytest.mark.slow
def test_no_query_fails_while_a_gallery_goes_over_to_another_model(exchanged, drawn_crops):
    served, gallery = exchanged
    url = f"/v1/galleries/{gallery}"
    before = served.read(url)
    assert (before["state"], served.http.get("/readyz").status_code) == ("previous_model", 200)
    answers = []
    stop = threading.Event()

    def ask() -> None:
        number = 0
        while not stop.is_set():
            crop = drawn_crops[number % len(drawn_crops)]
            answers.append((crop, served.query(gallery, crop.png, top_k=1)))
            number += 1

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    try:
        job = served.ended_job(served.http.post(f"{url}/reindex").json())
        added = served.enroll(gallery, drawn_crops[0].png + b"!", identity="late", camera="east")
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    assert (job["state"], job["detail"]) == ("done", None)
    assert job["progress"]["done"] == len(drawn_crops)
    assert added.status_code == 201
    models = set()
    for crop, answer in answers:
        assert answer.status_code == 200, answer.text
        models.add(answer.json()["model"])
        assert answer.json()["results"][0]["identity"] in (crop.identity, "late")
    after = served.read(url)
    assert after["state"] == "ready"
    assert after["embedding_fingerprint"] != before["embedding_fingerprint"]
    assert after["crops"] == before["crops"] + 1
    assert served.query(gallery, drawn_crops[0].png).json()["model"] not in (None, "")
    assert served.http.post(f"{url}/reindex").status_code == 409
    assert models


@pytest.mark.slow
def test_a_reindex_is_stopped_by_an_admin_alone(exchanged, tmp_path):
    served, gallery = exchanged
    job = served.ended_job(served.http.post(f"/v1/galleries/{gallery}/reindex").json())
    url = f"/v1/jobs/{job['job_id']}"
    asked = {
        scope: {"Authorization": f"Bearer {make_key(tmp_path / 'data', '--scope', scope)}"}
        for scope in ("enroll", "admin")
    }
    # Each key counts within a second; until the first does, no key is asked for.
    while served.http.get(url).status_code != 401:
        time.sleep(0.05)
    while served.http.get(url, headers=asked["admin"]).status_code != 200:
        time.sleep(0.05)
    assert served.http.delete(url, headers=asked["enroll"]).status_code == 403
    assert served.http.delete(url, headers=asked["admin"]).json()["state"] == "done"


def test_without_the_model_before_a_gallery_waits_for_its_reindex(
    start, tmp_path, drawn_crops, other_artefact
):
    served = start(data_dir=tmp_path / "data")
    gallery = _fill(served, drawn_crops)
    served.kill()
    again = start(data_dir=tmp_path / "data", artefact=other_artefact)
    refused = again.query(gallery, drawn_crops[0].png)
    assert (refused.status_code, "reindex" in refused.json()["detail"]) == (409, True)
    job = again.ended_job(again.http.post(f"/v1/galleries/{gallery}/reindex").json())
    assert job["state"] == "done"
    found = again.search(gallery, drawn_crops[0].png, top_k=1)
    assert found[0]["identity"] == drawn_crops[0].identity


@pytest.mark.slow
def test_a_reindex_that_was_killed_goes_on(start, tmp_path, drawn_crops, other_artefact):
    served = start(data_dir=tmp_path / "data")
    gallery = served.create("lobby")
    for start_at in range(0, 240, 24):
        copies = [crop.png + bytes([start_at]) for crop in drawn_crops]
        served.enroll(gallery, *copies, camera="east")
    served.kill()
    again = start(data_dir=tmp_path / "data", artefact=other_artefact)
    job = again.http.post(f"/v1/galleries/{gallery}/reindex").json()
    while again.read(f"/v1/jobs/{job['job_id']}")["progress"].get("done", 0) < 64:
        time.sleep(0.005)
    again.kill()
    third = start(data_dir=tmp_path / "data", artefact=other_artefact)
    ended = third.ended_job(third.read(f"/v1/jobs/{job['job_id']}"))
    assert (ended["state"], ended["progress"]["done"]) == ("done", 240)
    assert third.query(gallery, drawn_crops[0].png).status_code == 200


@pytest.mark.slow
def test_a_reindex_amid_which_a_snapshot_is_restored_embeds_what_came_back(
    start, tmp_path, drawn_crops, other_artefact
):
    served = start(data_dir=tmp_path / "data")
    gallery = served.create("lobby")
    for start_at in range(0, 240, 24):
        copies = [crop.png + bytes([start_at]) for crop in drawn_crops]
        served.enroll(gallery, *copies, camera="east")
    snapshots = f"/v1/galleries/{gallery}/snapshots"
    snapshot = served.http.post(snapshots).json()["snapshot_id"]
    served.stop()
    again = start(data_dir=tmp_path / "data", artefact=other_artefact)
    job = again.http.post(f"/v1/galleries/{gallery}/reindex").json()
    while again.read(f"/v1/jobs/{job['job_id']}")["progress"].get("done", 0) < 64:
        time.sleep(0.005)
    assert again.http.post(f"{snapshots}/{snapshot}/restore").status_code == 200
    assert again.ended_job(job)["state"] == "done"
    assert again.query(gallery, drawn_crops[0].png).status_code == 200


@pytest.mark.slow
def test_crops_without_a_kept_picture_are_named_and_nothing_is_switched(
    start, tmp_path, drawn_crops, tiny_artefact, other_artefact
):
    served = start(data_dir=tmp_path / "data", keep_images="none")
    gallery = _fill(served, drawn_crops[:3])
    crop = served.results(f"/v1/galleries/{gallery}/crops")[0]
    assert crop["image_url"] is None
    picture = served.http.get(f"/v1/galleries/{gallery}/crops/{crop['crop_id']}/image")
    assert picture.json()["type"] == "urn:gmn:problem:unknown_picture"
    served.kill()
    again = start(data_dir=tmp_path / "data", artefact=other_artefact, previous=tiny_artefact)
    job = again.ended_job(again.http.post(f"/v1/galleries/{gallery}/reindex").json())
    assert (job["state"], job["problems"]) == ("failed", 3)
    assert crop["crop_id"] in again.http.get(f"/v1/jobs/{job['job_id']}/report").text
    assert again.query(gallery, drawn_crops[0].png).status_code == 200


@pytest.mark.slow
def test_a_reindex_ends_and_names_a_crop_whose_picture_is_missing(
    start, tmp_path, drawn_crops, other_artefact
):
    folder = tmp_path / "crops"
    served = start(data_dir=tmp_path / "data", images_url=folder.as_uri())
    gallery = _fill(served, drawn_crops[:3])
    crop_id = served.results(f"/v1/galleries/{gallery}/crops")[1]["crop_id"]
    served.kill()
    (lost,) = folder.rglob(crop_id)
    lost.unlink()
    again = start(data_dir=tmp_path / "data", artefact=other_artefact, images_url=folder.as_uri())
    job = again.ended_job(again.http.post(f"/v1/galleries/{gallery}/reindex").json(), 20.0)
    assert (job["state"], job["problems"]) == ("failed", 1)
    report = again.http.get(f"/v1/jobs/{job['job_id']}/report").text
    assert f"{crop_id},unknown_picture,its picture is missing" in report


@pytest.mark.slow
def test_a_reindex_names_a_crop_whose_picture_is_damaged(
    start, tmp_path, drawn_crops, other_artefact
):
    served = start(data_dir=tmp_path)
    gallery = _fill(served, drawn_crops[:3])
    crop_id = served.results(f"/v1/galleries/{gallery}/crops")[0]["crop_id"]
    assert served.stop() == 0
    record = tmp_path / "record.sqlite3"
    content = record.read_bytes()
    picture = drawn_crops[0].png[1000:1064]
    assert content.count(picture) == 1
    record.write_bytes(content.replace(picture, bytes(64)))
    again = start(data_dir=tmp_path, artefact=other_artefact)
    job = again.ended_job(again.http.post(f"/v1/galleries/{gallery}/reindex").json())
    assert (job["state"], job["problems"]) == ("failed", 1)
    report = again.http.get(f"/v1/jobs/{job['job_id']}/report").text
    assert f"{crop_id},damaged_record,its picture is damaged" in report


@pytest.mark.slow
def test_thumbnails_are_kept_small_and_embedded_anew(start, tmp_path, drawn_crops, other_artefact):
    import io

    from PIL import Image

    served = start(data_dir=tmp_path / "data", keep_images="thumbnail")
    large = io.BytesIO()
    with Image.open(io.BytesIO(drawn_crops[0].png)) as crop:
        crop.resize((480, 960)).save(large, "PNG")
    gallery = served.create("lobby")
    served.enroll(gallery, large.getvalue(), identity="0000")
    stored = served.results(f"/v1/galleries/{gallery}/crops")[0]
    picture = served.http.get(stored["image_url"])
    with Image.open(io.BytesIO(picture.content)) as kept:
        assert (kept.format, kept.size) == ("JPEG", (128, 256))
    served.kill()
    again = start(data_dir=tmp_path / "data", artefact=other_artefact)
    job = again.ended_job(again.http.post(f"/v1/galleries/{gallery}/reindex").json())
    assert job["state"] == "done"
