"""Imports of several keys: each has its turn, its own folder, and files that go when it ends."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.outside import zip_of
from tests.service.conftest import Served
from tests.service.http.conftest import make_key
from tests.waiting import eventually

pytestmark = pytest.mark.slow


def picture(number: int) -> bytes:
    """Return a picture that no other number has."""
    file = io.BytesIO()
    color = (number % 256, number // 256, 99)
    Image.new("RGB", (64, 128), color).save(file, "PNG")
    return file.getvalue()


def as_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def begin(
    served: Served, key: str, gallery: str, archive: bytes | None = None, **fields: str
) -> httpx.Response:
    files = None if archive is None else {"archive": ("crops.zip", archive)}
    url = f"/v1/galleries/{gallery}/imports"
    return served.http.post(url, files=files, data=fields, headers=as_key(key))


def begun(served: Served, key: str, gallery: str, entries: Mapping[str, bytes]) -> dict[str, Any]:
    answer = begin(served, key, gallery, zip_of(entries))
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


@pytest.fixture
def two_galleries(start, tmp_path: Path):
    """Return a function that starts a service with a key to enroll in each of two galleries."""

    def start_one(**settings: Any) -> tuple[Served, str, str]:
        data_dir = tmp_path / "data"
        admin = make_key(data_dir, "--scope", "admin", "--scope", "query", "--scope", "enroll")
        one, two = (
            make_key(data_dir, "--scope", "enroll", "--gallery", name) for name in ("one", "two")
        )
        served = start(data_dir, **settings)
        served.http.headers.update(as_key(admin))
        for gallery in ("one", "two"):
            served.create(gallery)
        return served, one, two

    return start_one


def test_the_import_of_another_key_does_not_wait_for_a_long_one(two_galleries) -> None:
    served, one, two = two_galleries(failpoint="import.progress-noted=delay:5.5")
    long = begun(served, one, "one", {f"{n}.png": picture(n) for n in range(640)})
    also_long = begun(served, one, "one", {f"{n}.png": picture(n) for n in range(640, 700)})
    short = begun(served, two, "two", {"1.png": picture(1)})
    assert served.ended_job(short)["progress"]["landed"] == 1
    assert served.job(long["job_id"])["state"] in ("queued", "running")
    assert served.job(also_long["job_id"])["state"] == "queued"
    assert served.ended_job(long)["progress"]["landed"] == 640
    assert served.ended_job(also_long)["progress"]["landed"] == 60


def test_an_archive_of_many_files_is_cancelled_while_it_is_unpacked(
    two_galleries, tmp_path: Path
) -> None:
    served, one, _ = two_galleries()
    job = begun(served, one, "one", {f"{number:x}.jpg": b"x" for number in range(60_000)})
    spool = tmp_path / "data" / "imports" / job["job_id"]
    eventually(lambda: list(spool.glob("files")))
    cancelled = served.http.delete(f"/v1/jobs/{job['job_id']}").json()
    assert cancelled["state"] == "running"
    ended = served.ended_job(cancelled, 10)
    assert ended["state"] == "cancelled"
    assert ended["progress"] == {}
    assert not spool.exists()


def test_pictures_of_a_waiting_import_go_when_it_is_cancelled_or_its_gallery_deleted(
    two_galleries, tmp_path: Path
) -> None:
    served, one, two = two_galleries(failpoint="import.unpacked=delay:20")
    under_way = begun(served, one, "one", {"1.png": picture(1)})
    eventually(lambda: served.job(under_way["job_id"])["state"] == "running")
    to_cancel = begun(served, one, "one", {"2.png": picture(2)})
    to_delete = begun(served, two, "two", {"3.png": picture(3)})
    folders = [tmp_path / "data" / "imports" / job["job_id"] for job in (to_cancel, to_delete)]
    assert [(folder / "archive").is_file() for folder in folders] == [True, True]
    answer = served.http.delete(f"/v1/jobs/{to_cancel['job_id']}")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert served.http.delete("/v1/galleries/two").status_code == 200
    assert [folder.exists() for folder in folders] == [False, False]
    served.kill()


def test_a_key_of_one_gallery_imports_from_the_folder_of_that_gallery_alone(
    two_galleries, tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted"
    for number, gallery in enumerate(("one", "two"), 1):
        (mounted / gallery / "Ann").mkdir(parents=True)
        (mounted / gallery / "Ann" / "1.png").write_bytes(picture(number))
    (mounted / "two" / "link").symlink_to(mounted / "one")
    served, _, two = two_galleries(import_dir=mounted)
    for folder in ("one", "one/Ann", ".", "two/..", "two/../one", "two/link", "none"):
        refused = begin(served, two, "two", folder=folder)
        assert refused.status_code == 422, folder
        assert "in two/ as the key is for that gallery" in refused.json()["detail"]
    for folder in ("two/Ann", "two"):
        job = served.ended_job(begin(served, two, "two", folder=folder).json())
        assert (job["state"], job["progress"]["landed"]) == ("done", 1), job
    everything = served.http.post("/v1/galleries/two/imports", data={"folder": "one"})
    assert everything.status_code == 202, everything.text
    assert served.ended_job(everything.json())["progress"]["landed"] == 1


def test_a_forgotten_name_is_in_no_earlier_import(start, tmp_path: Path) -> None:
    served = start(tmp_path / "data")
    gallery = "/v1/galleries/default"
    entries = {
        "Annabel-Quirke/1.png": picture(1),
        "Annabel-Quirke/2.jpg": b"broken",
        "Annabel-Quirke/notes.txt": b"x",
        "Annabel/3.jpg": b"broken",
    }
    begun_jobs = [
        served.import_zip("default", entries),
        served.import_zip("default", {"4.png": picture(4)}, identity="Annabel-Quirke"),
    ]
    jobs = [served.ended_job(job) for job in begun_jobs]
    assert [job["progress"]["landed"] for job in jobs] == [1, 1]
    report = f"/v1/jobs/{jobs[0]['job_id']}/report"
    assert served.http.get(report).text.count("Annabel-Quirke") == 2
    answer = served.http.delete(f"{gallery}/identities/Annabel-Quirke").json()
    assert answer["removed"] == 2
    assert not [place for place in answer["remaining"] if "job" in place["where"]]
    lines = [line.split(",")[1] for line in served.http.get(report).text.splitlines()[1:]]
    assert sorted(lines) == ["Annabel/3.jpg", "…/2.jpg", "…/notes.txt"]
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert [path.name for path in files if b"Annabel-Quirke" in path.read_bytes()] == []
