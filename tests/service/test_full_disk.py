"""Full disks: writes are refused clearly, stored data is served, and deletions go on."""

import secrets
import shutil

import pytest

from tests.outside import crop_ids, problem
from tests.service.conftest import START, files
from tests.service.small_disk import small_disk
from tests.waiting import eventually

PICTURE_BYTES = 60_000
RESERVED = 4 * 1024 * 1024
# A forked process has the folder for temporary files of its parent.
LOOK_FOR_TMPDIR = "import tempfile; tempfile.tempdir = None; tempfile.gettempdir()\n"


@pytest.fixture(autouse=True)
def keep_what_is_behind_an_image(monkeypatch):
    """Keep the bytes that make an image take room."""
    monkeypatch.setenv("GMN_KEEP_METADATA", "true")


def _heavy(image):
    """Return the image as a file that takes room, another one each time."""
    return image + secrets.token_bytes(PICTURE_BYTES)


def _held(served):
    return set(crop_ids(served.http.get("/v1/galleries/default/crops?limit=1000")))


def _enrolled_until_full(served, images):
    landed = []
    while True:
        answer = served.enroll("default", *(_heavy(image) for image in images[:6]))
        if answer.status_code != 201:
            return landed, answer
        landed += crop_ids(answer)


def _is_well(served):
    return all(served.http.get(path).status_code == 200 for path in ("/livez", "/readyz"))


@pytest.mark.promise("full-disk")
def test_where_the_disk_is_full_writes_and_searches_are_507_reads_go_on_and_room_is_all_it_takes(
    start, tmp_path, images
):
    with small_disk(tmp_path / "disk", 14) as disk:
        served = start(data_dir=disk.path / "data", reserved_disk_bytes=RESERVED)
        landed, refused = _enrolled_until_full(served, images)
        disk.fill()
        url = "/v1/galleries/default"
        for answer in (
            refused,
            served.enroll("default", _heavy(images[0])),
            served.http.post(f"{url}/exports"),
            served.http.post(f"{url}/cases", data={"name": "theft"}),
            served.query("default", images[0]),
        ):
            assert problem(answer) == (507, "storage_failed")
            assert "free space" in answer.json()["detail"]
        assert _held(served) == set(landed)
        assert served.results(f"{url}/exports") == []
        assert not list((disk.path / "data").glob("exports/*/*"))
        assert _is_well(served)
        disk.free()
        gone = landed.pop()
        served.delete_crop("default", gone)
        landed += served.enrolled("default", images[1])
        assert _held(served) == set(landed)
        served.kill()
        again = start(data_dir=disk.path / "data")
        assert _held(again) == set(landed)
        again.kill()


@pytest.mark.promise("full-disk")
def test_on_a_disk_that_others_filled_to_the_last_byte_deletions_and_revocations_are_done(
    start, tmp_path, images
):
    with small_disk(tmp_path / "disk", 24) as disk:
        served = start(
            data_dir=disk.path / "data", reserved_disk_bytes=RESERVED, housekeeping_seconds=0.2
        )
        url = "/v1/galleries/default"
        ids = served.enrolled("default", *images[:4], identity=["ann", "ann", "bob", ""])
        kept = served.query("default", images[0], keep="true").json()["query_id"]
        _, admin = served.make_key("admin")
        key_id, asked = served.make_key("query", headers=admin)
        disk.fill()
        assert shutil.disk_usage(disk.path).free < 4096

        def delete(path):
            return served.http.delete(path, headers=admin).status_code

        search = {"files": files(images[0]), "headers": asked}
        assert served.http.post(f"{url}/queries", **search).status_code == 507
        assert delete(f"{url}/crops/{ids[2]}") == 200
        assert delete(f"{url}/identities/ann") == 200
        assert delete(f"{url}/queries/{kept}") == 204
        assert delete(f"/v1/keys/{key_id}") == 204
        assert served.http.post(f"{url}/queries", **search).status_code == 401
        left = served.http.get(f"{url}/crops", headers=admin)
        assert crop_ids(left) == [ids[3]]
        served.http.headers.update(admin)
        disk.free()
        eventually(lambda: (disk.path / "data" / "reserve").stat().st_size == RESERVED // 2)
        assert served.query("default", images[0]).status_code == 200
        served.kill()


@pytest.mark.promise("full-disk")
def test_a_disk_that_is_filled_and_freed_again_and_again_refuses_no_deletion(
    start, tmp_path, images
):
    with small_disk(tmp_path / "disk", 32) as disk:
        served = start(data_dir=disk.path / "data", reserved_disk_bytes=RESERVED)
        url = "/v1/galleries/default"
        names = [f"person {number}" for number in range(5)]
        ids = served.enrolled("default", *images[:20], identity=4 * names)
        reserve = disk.path / "data" / "reserve"
        refused = 0
        for number, name in enumerate(names):
            eventually(lambda: reserve.stat().st_size == RESERVED // 2)
            disk.fill()
            paths = [f"crops/{ids[number]}", f"crops/{ids[number + 5]}", f"identities/{name}"]
            for path in paths:
                refused += served.http.delete(f"{url}/{path}").status_code != 200
            assert reserve.stat().st_size < RESERVED // 2
            disk.free()
        assert refused == 0
        assert _held(served) == set()
        served.kill()


def test_searches_that_are_not_noted_go_on_where_the_disk_is_full(start, tmp_path, images):
    with small_disk(tmp_path / "disk", 14) as disk:
        settings = {"reserved_disk_bytes": RESERVED, "audit_queries": "false"}
        served = start(disk.path / "data", **settings)
        crop_id = served.enrolled("default", images[0])
        disk.fill()
        assert served.found("default", images[0]) == crop_id
        served.kill()


@pytest.mark.slow
def test_an_upload_leaves_the_room_that_is_kept_for_deletions(
    start, tmp_path, drawn_crops, monkeypatch
):
    with small_disk(tmp_path / "disk", 20) as disk:
        folder = disk.path / "data"
        folder.mkdir()
        # Uploads are received on the disk of the data directory, as in the image of Docker.
        monkeypatch.setenv("TMPDIR", str(folder))
        served = start(folder, program=LOOK_FOR_TMPDIR + START, reserved_disk_bytes=RESERVED)
        ids = served.fill("default", drawn_crops[:4], identity="ann")
        free = []

        def archive():
            yield b'--b\r\nContent-Disposition: form-data; name="archive"; filename="a"\r\n\r\n'
            for _ in range(400):
                yield bytes(65_536)
                free.append(shutil.disk_usage(disk.path).free)

        answer = served.http.post(
            "/v1/galleries/default/imports",
            content=archive(),
            headers={"Content-Type": "multipart/form-data; boundary=b"},
        )
        assert problem(answer) == (507, "storage_failed")
        assert min(free) > RESERVED - 3 * 1024 * 1024
        url = "/v1/galleries/default"
        served.delete_crop("default", ids[0])
        assert served.http.delete(f"{url}/identities/ann").status_code == 200
        served.kill()


@pytest.mark.slow
def test_a_full_disk_for_uploads_is_507_and_images_need_none_of_it(
    start, tmp_path, images, monkeypatch
):
    large = images[0] + secrets.token_bytes(2_000_000)
    with small_disk(tmp_path / "disk", 4) as disk:
        monkeypatch.setenv("TMPDIR", str(disk.path))
        served = start(program=LOOK_FOR_TMPDIR + START)
        disk.fill()
        answer = served.http.post(
            "/v1/galleries/default/imports", files={"archive": ("a.zip", large)}
        )
        assert problem(answer) == (507, "storage_failed")
        assert "TMPDIR" in answer.json()["detail"]
        assert served.enroll("default", large).status_code == 201
        assert served.query("default", large).status_code == 200
        served.kill()


@pytest.mark.slow
def test_an_import_waits_for_room_and_goes_on(start, tmp_path, images):
    entries = {f"{number}.png": _heavy(images[number % 24]) for number in range(40)}
    with small_disk(tmp_path / "disk", 14) as disk:
        served = start(data_dir=disk.path / "data", reserved_disk_bytes=0)
        (disk.path / "taken").write_bytes(bytes(10 * 1024 * 1024))
        begun = served.import_zip("default", entries)
        eventually(lambda: "was cut off" in served.log.read_text())
        assert served.job(begun["job_id"])["state"] == "running"
        assert _is_well(served)
        (disk.path / "taken").unlink()
        job = served.ended_job(begun)
        assert (job["state"], job["progress"]["landed"]) == ("done", 40)
        assert len(_held(served)) == 40
        served.kill()
