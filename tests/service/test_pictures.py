"""Images kept elsewhere: served from there, gone when their crops are, never left behind."""

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor

import httpx2
import pytest

import gmn
from service.errors import RecordUnavailable
from service.record.files import PictureFolder
from service.store.backup import kept_backups
from tests.outside import audit_lines, problem
from tests.waiting import eventually


def _files(folder):
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def outside(open_service, tmp_path):
    """Return a function that starts a service, and the folder where it keeps images."""

    def start_one(**settings):
        folder = tmp_path / "crops"
        return open_service(tmp_path / "data", images_url=folder.as_uri(), **settings), folder

    return start_one


def _shown(served):
    crops = served.results("/v1/galleries/default/crops")
    return [served.http.get(crop["image_url"]).content for crop in crops]


def _put_in_the_way(folder, crop_id):
    (file,) = folder.glob(f"*/{crop_id}")
    file.unlink()
    # A folder is not removed as a file is.
    (file / "in the way").mkdir(parents=True)


def test_images_lie_where_the_url_says_and_go_with_their_crops(outside, images):
    served, folder = outside()
    images = images[:4]
    ids = served.enrolled("default", *images, identity=["a", "a", "b", "b"])
    assert _files(folder) == sorted(ids)
    assert served.enrolled("default", images[0], identity="a") == ids[:1]
    assert _files(folder) == sorted(ids)
    assert _shown(served) == images
    described = served.read("/v1/galleries/default")
    assert described["image_bytes"] == sum(len(image) for image in images)
    served.delete_crop("default", ids[2])
    forgotten = served.http.delete("/v1/galleries/default/identities/a").json()
    assert any("GMN_IMAGES_URL" in place["where"] for place in forgotten["remaining"])
    assert _files(folder) == [ids[3]]


def test_images_that_a_track_does_not_keep_are_removed_at_once(outside, images):
    served, folder = outside()
    track = {"track": "t1", "keep_best": 1, "identity": "a"}
    assert served.enroll("default", *images[:3], **track).status_code == 201
    kept = served.results("/v1/galleries/default/crops")
    assert _files(folder) == [crop["crop_id"] for crop in kept]
    assert len(kept) == 1


def test_a_deletion_whose_image_elsewhere_stays_is_done_in_the_audit_log(outside, tmp_path, images):
    served, folder = outside()
    (crop_id,) = served.enrolled("default", images[0])
    _put_in_the_way(folder, crop_id)
    answer = served.http.delete(f"/v1/galleries/default/crops/{crop_id}")
    assert problem(answer) == (507, "storage_failed")
    assert "the crops are deleted" in answer.json()["detail"]
    deleted = audit_lines(tmp_path / "data", "delete_crop")
    assert [entry["phase"] for entry in deleted] == ["asked", "done"]


def test_images_outside_are_in_an_export_and_come_back_by_its_import(outside, images):
    served, folder = outside()
    images = images[:3]
    ids = served.enrolled("default", *images)
    content = served.export("default")
    served.delete_crop("default", ids[0])
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    served.create("lobby")
    served.import_archive("lobby", content)
    # A crash in the middle of such a write would tear the image of a crop that is shown.
    served.import_archive("default", content)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert _files(folder) == sorted([*ids[1:], *ids[1:]])
    crops = served.results("/v1/galleries/lobby/crops")
    assert [served.http.get(crop["image_url"]).content for crop in crops] == images[1:]


@pytest.mark.sqlite_alone
@pytest.mark.slow
def test_backups_with_images_of_a_forgotten_person_are_named(outside, tmp_path, images):
    backups = tmp_path / "backups"
    served, folder = outside(backup_dir=backups)
    (other,) = served.enrolled("default", images[0], identity="Bob")
    served.enrolled("default", images[4], identity="Ann")
    assert gmn.run(["backup", str(backups), "--data-dir", str(tmp_path / "data")]) == 0
    forgotten = served.http.delete("/v1/galleries/default/identities/Ann").json()
    assert forgotten["removed"] == 1
    assert _files(folder) == [other]
    named = {place["where"] for place in forgotten["remaining"]}
    assert f"backup {kept_backups(backups)[-1]}" in named


def test_an_image_that_cannot_be_removed_keeps_no_other(outside, images):
    served, folder = outside(housekeeping_seconds=0.2)
    images = images[:3]

    def enroll(**fields):
        ids = served.enrolled("default", *images, identity="Ann", **fields)
        for crop_id in ids[:2]:
            _put_in_the_way(folder, crop_id)
        return ids[2]

    last = enroll()
    answer = served.http.delete("/v1/galleries/default/identities/Ann")
    assert problem(answer) == (507, "storage_failed")
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
def test_an_image_store_that_hangs_hurts_images_alone(start, tmp_path, images):
    folder = tmp_path / "crops"
    # The threads that hang end with their process alone.
    served = start(tmp_path / "data", images_url=folder.as_uri(), stall_seconds=4)
    ids = served.enrolled("default", *images[:8])
    for file in folder.glob("*/*"):
        # To open a FIFO that has no writer takes for ever, as to open a file of a dead mount.
        file.unlink()
        os.mkfifo(file)

    def view(crop_id):
        with contextlib.suppress(httpx2.TimeoutException):
            return served.http.get(f"/v1/galleries/default/crops/{crop_id}/image", timeout=6)

    with ThreadPoolExecutor(8) as clients:
        assert list(clients.map(view, ids)) == [None] * 8
    refused = view(ids[0])
    assert problem(refused) == (503, "record_unavailable")
    assert "Retry-After" in refused.headers
    answers = [
        served.query("default", images[0]),
        served.enroll("default", images[8]),
        served.http.delete(f"/v1/galleries/default/crops/{ids[1]}"),
        served.http.post("/v1/galleries", data={"name": "lobby"}),
        served.http.get("/livez"),
    ]
    # Each was answered while the store hangs.
    assert [answer.status_code for answer in answers] == [200, 201, 200, 201, 200]
    assert served.stop() == 0


@pytest.mark.slow
def test_a_folder_that_cannot_be_keeps_the_service_from_starting(tmp_path, refused_start):
    said = refused_start(tmp_path, images_url="nowhere://crops")
    assert "GMN_IMAGES_URL=nowhere://crops" in said
