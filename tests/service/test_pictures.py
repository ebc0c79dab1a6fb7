"""Images kept elsewhere: served from there, gone when their crops are, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.errors import RecordUnavailable
from service.record import files
from service.record.files import PictureFolder
from tests.outside import audit_lines, problem
from tests.waiting import eventually


def _files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_images_lie_where_the_url_says_and_go_with_their_crops(start, tmp_path, drawn_crops):
    folder = tmp_path / "crops"
    served = start(data_dir=tmp_path / "data", images_url=folder.as_uri())
    gallery = served.create("lobby")
    answer = served.enroll(
        gallery, *(crop.png for crop in drawn_crops[:4]), identity=["a", "a", "b", "b"]
    )
    ids = [result["crop_id"] for result in answer.json()["results"]]
    assert _files(folder) == sorted(ids)
    url = f"/v1/galleries/{gallery}"
    assert served.http.get(f"{url}/crops/{ids[1]}/image").content == drawn_crops[1].png
    again = served.enroll(gallery, drawn_crops[0].png, identity="a").json()["results"][0]
    assert again["duplicate"]
    assert served.http.get(f"{url}/crops/{again['crop_id']}/image").content == drawn_crops[0].png
    assert served.read(url)["image_bytes"] == sum(len(crop.png) for crop in drawn_crops[:4])
    served.http.delete(f"{url}/crops/{ids[2]}")
    served.http.delete(f"{url}/identities/a")
    assert ids[3] in _files(folder)
    assert not {ids[0], ids[1], ids[2]} & set(_files(folder))


def test_a_deletion_whose_image_elsewhere_stays_is_done_in_the_audit_log(
    start, tmp_path, drawn_crops
):
    folder = tmp_path / "crops"
    served = start(data_dir=tmp_path / "data", images_url=folder.as_uri())
    enrolled = served.enroll("default", drawn_crops[0].png).json()["results"]
    (file,) = folder.glob(f"*/{enrolled[0]['crop_id']}")
    file.unlink()
    # A folder is not removed as a file is.
    (file / "in the way").mkdir(parents=True)
    answer = served.http.delete(f"/v1/galleries/default/crops/{file.name}")
    assert problem(answer) == (507, "storage_failed")
    assert "the crops are deleted" in answer.json()["detail"]
    deleted = audit_lines(tmp_path / "data", "delete_crop")
    assert [entry["phase"] for entry in deleted] == ["asked", "done"]


@pytest.mark.slow
def test_images_that_one_restore_left_out_stay_for_the_snapshot_that_has_them(
    start, tmp_path, drawn_crops
):
    folder = tmp_path / "crops"
    url = "/v1/galleries/default"
    served = start(data_dir=tmp_path / "data", images_url=folder.as_uri(), housekeeping_seconds=0.1)
    snapshots = []
    for crop in drawn_crops[:2]:
        served.enroll("default", crop.png)
        snapshots.append(served.http.post(f"{url}/snapshots").json()["snapshot_id"])
    database = tmp_path / "data" / "record.sqlite3"

    def strays() -> list[int]:
        with contextlib.closing(sqlite3.connect(database)) as file:
            return [until for (until,) in file.execute("SELECT until FROM stray_pictures")]

    assert served.http.post(f"{url}/snapshots/{snapshots[0]}/restore").status_code == 200
    # Maintenance has looked at the image that the restore left out, and will do so again.
    eventually(lambda: strays() and strays()[0] > time.time() * 1e6)
    assert served.http.post(f"{url}/snapshots/{snapshots[1]}/restore").status_code == 200
    crops = served.results(f"{url}/crops")
    shown = [served.http.get(crop["image_url"]).content for crop in crops]
    assert shown == [crop.png for crop in drawn_crops[:2]]


def test_a_restore_leaves_images_outside_as_they_are(start, tmp_path, drawn_crops):
    # A crash in the middle of such a write would tear the image of a crop that is shown.
    folder = tmp_path / "crops"
    served = start(data_dir=tmp_path / "data", images_url=folder.as_uri())
    served.enroll("default", *(crop.png for crop in drawn_crops[:2]))
    url = "/v1/galleries/default"
    snapshot = served.http.post(f"{url}/snapshots").json()["snapshot_id"]
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    written = [path.stat().st_mtime_ns for path in files]
    restored = served.http.post(f"{url}/snapshots/{snapshot}/restore")
    assert (restored.status_code, restored.json()["crops"]) == (200, 2)
    assert [path.stat().st_mtime_ns for path in files] == written
    listed = served.results(f"{url}/crops")
    shown = [served.http.get(crop["image_url"]).content for crop in listed]
    assert sorted(shown) == sorted(crop.png for crop in drawn_crops[:2])


def test_an_image_that_cannot_be_removed_keeps_no_other(start, tmp_path, drawn_crops):
    folder = tmp_path / "crops"
    served = start(data_dir=tmp_path / "data", images_url=folder.as_uri(), housekeeping_seconds=0.2)

    def enroll(**fields: str) -> list[str]:
        images = (crop.png for crop in drawn_crops[:3])
        landed = served.enroll("default", *images, identity="Ann", **fields).json()["results"]
        for file in (file for crop in landed[:2] for file in folder.glob(f"*/{crop['crop_id']}")):
            file.unlink()
            (file / "in the way").mkdir(parents=True)
        return [crop["crop_id"] for crop in landed]

    last = enroll()[2]
    answer = served.http.delete("/v1/galleries/default/identities/Ann")
    assert answer.status_code == 507
    assert "2 images" in answer.json()["detail"]
    assert last not in _files(folder)
    enroll(captured_at="2020-01-01T00:00:00Z")
    served.http.patch("/v1/galleries/default", data={"retention_days": "1"})
    eventually(lambda: not _files(folder))


def test_an_image_store_that_does_not_answer_is_503_and_holds_up_no_reads(tmp_path, monkeypatch):
    folder = PictureFolder((tmp_path / "crops").as_uri())

    def unreachable(_):
        raise EndpointConnectionError("http://objects.example")

    class EndpointConnectionError(Exception):
        """Clients of object stores raise errors that are no OSError."""

    monkeypatch.setattr(folder._files, "cat_file", unreachable)
    with pytest.raises(RecordUnavailable, match=r"where images are kept, does not answer"):
        folder.get(1, "a crop")
    monkeypatch.setattr(folder._files, "rm_file", unreachable)
    left = folder.remove(1, ["a crop"])
    assert "objects.example" in str(left["a crop"])


@pytest.mark.slow
def test_an_image_store_that_hangs_hurts_images_alone(start, tmp_path, drawn_crops):
    folder = tmp_path / "crops"
    served = start(data_dir=tmp_path / "data", images_url=folder.as_uri(), stall_seconds=4)
    enrolled = served.enroll("default", *(crop.png for crop in drawn_crops[:8])).json()["results"]
    crops = [f"/v1/galleries/default/crops/{crop['crop_id']}" for crop in enrolled]
    for file in folder.glob("*/*"):
        # To open a FIFO that has no writer takes for ever, as to open a file of a dead mount.
        file.unlink()
        os.mkfifo(file)

    def view(crop: str, seconds: float) -> httpx.Response | None:
        with contextlib.suppress(httpx.TimeoutException):
            return httpx.get(f"{served.http.base_url}{crop}/image", timeout=seconds)
        return None

    with ThreadPoolExecutor(8) as clients:
        assert not any(clients.map(lambda crop: view(crop, 6), crops))
    began = time.monotonic()
    refused = view(crops[0], 20)
    assert refused is not None
    assert problem(refused) == (503, "record_unavailable")
    assert "Retry-After" in refused.headers
    answers = [
        served.query("default", drawn_crops[0].png),
        served.enroll("default", drawn_crops[8].png),
        served.http.delete(crops[1]),
        served.http.post("/v1/galleries", data={"name": "lobby"}),
        served.http.get("/livez"),
    ]
    assert [answer.status_code for answer in answers] == [200, 201, 200, 201, 200]
    assert time.monotonic() - began < 10
    assert served.stop() == 0


def test_a_call_that_hangs_is_given_up_and_the_next_do_not_wait(monkeypatch):
    monkeypatch.setattr(files, "ANSWERS_WITHIN_SECONDS", 0.3)
    monkeypatch.setattr(files, "STUCK_SECONDS", 0.2)
    threads = files.PictureThreads("images")
    gate = threading.Event()

    async def ask_all() -> None:
        hanging = [threads.run(gate.wait, 20) for _ in range(files.PICTURE_THREADS)]
        given_up = await asyncio.gather(*hanging, return_exceptions=True)
        assert [type(error) for error in given_up] == [RecordUnavailable] * len(given_up)
        with pytest.raises(RecordUnavailable, match="too many"):
            await threads.run(int)
        gate.set()
        eventually(lambda: not threads.stuck(0.0))
        assert await threads.run(int) == 0

    asyncio.run(ask_all())


@pytest.mark.slow
def test_a_folder_that_cannot_be_keeps_the_service_from_starting(tmp_path, refused_start):
    said = refused_start(tmp_path / "data", images_url="nowhere://crops")
    assert "GMN_IMAGES_URL=nowhere://crops" in said
