"""Imports of several keys: each has its turn, its own folder, and files that go when it ends."""

import contextlib
import re
import socket

import pytest

from service.http.limits import MOST_STREAMS
from service.jobs import import_files
from service.jobs.import_files import ImportItem, read_batches
from service.record.jobs import MOST_IMPORTS
from service.record.values import CropLabels
from tests.conftest import draw_crop
from tests.outside import bearer, zip_of
from tests.service.conftest import START
from tests.service.http.conftest import make_key
from tests.waiting import eventually

pytestmark = pytest.mark.slow


# Each entry takes a while and writes its name into a file, and a turn is short.
SLOW_UNPACKING = """
import time
from model.crops import unpack
from service.jobs import runner
runner.TURN_SECONDS = 0.5
unpack_one = unpack._unpack
def unpack_slowly(packed, entry, *given):
    time.sleep(0.03)
    with open({names!r}, "a") as names:
        names.write(entry.filename + "\\n")
    return unpack_one(packed, entry, *given)
unpack._unpack = unpack_slowly
"""


def pictures(numbers):
    return {f"{number}.png": draw_crop(number, 0, 0) for number in numbers}


def begin(served, key, gallery, entries):
    url = f"/v1/galleries/{gallery}/imports"
    return served.http.post(url, files={"archive": zip_of(entries)}, headers=bearer(key))


def begun(served, key, gallery, entries):
    """Begin an import by a key, and return the job."""
    answer = begin(served, key, gallery, entries)
    assert answer.status_code == 202, answer.text
    return answer.json()


@pytest.fixture
def two_galleries(start, tmp_path):
    """Return a function that starts a service with a key to enroll in each of two galleries."""

    def start_one(**settings):
        data_dir = tmp_path / "data"
        admin = make_key(data_dir, "--scope", "admin", "--scope", "query", "--scope", "enroll")
        one, two = (
            make_key(data_dir, "--scope", "enroll", "--gallery", name) for name in ("one", "two")
        )
        served = start(data_dir, **settings)
        served.http.headers.update(bearer(admin))
        for gallery in ("one", "two"):
            served.create(gallery)
        return served, one, two

    return start_one


@pytest.mark.promise("import-turns")
def test_the_import_of_another_key_does_not_wait_for_a_long_one(two_galleries):
    served, one, two = two_galleries(failpoint="import.progress-noted=delay:5.5")
    long = begun(served, one, "one", pictures(range(320)))
    also_long = begun(served, one, "one", pictures(range(320, 340)))
    short = begun(served, two, "two", pictures(range(1)))
    assert served.ended_job(short)["progress"]["landed"] == 1
    assert served.job(long["job_id"])["state"] in ("queued", "running")
    assert served.job(also_long["job_id"])["state"] == "queued"
    assert served.ended_job(long)["progress"]["landed"] == 320
    assert served.ended_job(also_long)["progress"]["landed"] == 20


@pytest.mark.promise("import-turns")
def test_the_import_of_another_key_does_not_wait_until_an_archive_is_unpacked(
    two_galleries, tmp_path
):
    names = tmp_path / "names"
    served, one, two = two_galleries(program=SLOW_UNPACKING.format(names=str(names)) + START)
    entries = {f"Ann/{number}.png": b"no image" for number in range(200)}
    entries |= {"Ann/notes.txt": b"", "Ann/last.png": draw_crop(1, 0, 0)}
    entries["../out.png"] = b"leads out"
    long = begun(served, one, "one", entries)
    eventually(names.exists)
    short = begun(served, two, "two", pictures([2]))
    assert served.ended_job(short)["progress"]["landed"] == 1
    # The archive is not unpacked yet, and goes on where it was.
    assert served.job(long["job_id"])["progress"] == {}
    progress = served.ended_job(long)["progress"]
    assert (progress["landed"], progress["refused"], progress["ignored"]) == (1, 201, 1)
    unpacked = [name for name in names.read_text().splitlines() if name.startswith("Ann/")]
    assert len(unpacked) == len(set(unpacked)) == 201


@pytest.mark.promise("import-turns")
def test_an_archive_of_many_files_is_cancelled_while_it_is_unpacked(two_galleries, tmp_path):
    served, one, _ = two_galleries()
    job = begun(served, one, "one", {f"{number:x}.jpg": b"x" for number in range(60_000)})
    spool = tmp_path / "data" / "imports" / job["job_id"]
    eventually(lambda: list(spool.glob("files")))
    cancelled = served.http.delete(f"/v1/jobs/{job['job_id']}").json()
    assert cancelled["state"] == "running"
    ended = served.ended_job(cancelled)
    assert ended["state"] == "cancelled"
    assert ended["progress"] == {}
    eventually(lambda: not spool.exists())


@pytest.mark.promise("import-turns")
def test_pictures_of_a_waiting_import_go_when_it_is_cancelled_or_its_gallery_deleted(
    two_galleries, tmp_path
):
    served, one, two = two_galleries(failpoint="import.unpacked=delay:20")
    under_way = begun(served, one, "one", pictures(range(1, 2)))
    eventually(lambda: served.job(under_way["job_id"])["state"] == "running")
    to_cancel = begun(served, one, "one", pictures(range(2, 3)))
    to_delete = begun(served, two, "two", pictures(range(3, 4)))
    folders = [tmp_path / "data" / "imports" / job["job_id"] for job in (to_cancel, to_delete)]
    assert [(folder / "archive").is_file() for folder in folders] == [True, True]
    answer = served.http.delete(f"/v1/jobs/{to_cancel['job_id']}")
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert served.http.delete("/v1/galleries/two").status_code == 200
    assert [folder.exists() for folder in folders] == [False, False]


def test_the_images_that_an_import_reads_at_once_have_few_bytes_or_are_few(tmp_path, monkeypatch):
    monkeypatch.setattr(import_files, "BYTES_PER_BATCH", 1000)
    paths = []
    for number, size in enumerate([400, 400, 400, 5000, 10, 10, 10, 10, 2000]):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(bytes(size))
    paths.append(tmp_path / "missing.png")
    items = enumerate(ImportItem(path, CropLabels()) for path in paths)
    batches = read_batches(items, most_images=4, count=4)
    assert [[number for number, _ in batch] for batch in batches] == [
        [0, 1, 2],
        [3],
        [4, 5, 6, 7],
        [8],
    ]
    assert [number for number, _ in items] == [9]


@pytest.mark.promise("shares")
def test_a_key_has_eight_imports_that_wait_or_run_and_others_have_theirs(two_galleries, tmp_path):
    served, one, two = two_galleries(failpoint="import.unpacked=delay:20")
    jobs = [begun(served, one, "one", pictures([number])) for number in range(MOST_IMPORTS)]
    refused = begin(served, one, "one", pictures([99]))
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "5"
    assert "8 imports" in refused.json()["detail"]
    kept = {folder.name for folder in (tmp_path / "data" / "imports").iterdir()}
    assert kept == {job["job_id"] for job in jobs}
    begun(served, two, "two", pictures([1]))
    served.http.delete(f"/v1/jobs/{jobs[-1]['job_id']}")
    begun(served, one, "one", pictures([99]))


@pytest.mark.promise("shares")
def test_a_key_sends_eight_archives_at_once_and_others_send_theirs(two_galleries):
    served, one, two = two_galleries()
    with contextlib.ExitStack() as opened:
        for _ in range(MOST_STREAMS):
            opened.enter_context(upload_that_waits(served, one))
        refused = begin(served, one, "one", pictures([1]))
        assert refused.status_code == 429
        assert "hold 8 event streams and uploads" in refused.json()["detail"]
        begun(served, two, "two", pictures([1]))
    eventually(lambda: begin(served, one, "one", pictures([1])).status_code == 202)


def upload_that_waits(served, key):
    """Open a connection that begins to send an archive, and return it once the service reads."""
    url = served.http.base_url
    lines = [
        "POST /v1/galleries/one/imports HTTP/1.1",
        f"Host: {url.netloc.decode()}",
        f"Authorization: Bearer {key}",
        "Content-Type: multipart/form-data; boundary=b",
        "Content-Length: 1000",
        "Expect: 100-continue",
        "",
        "",
    ]
    connection = socket.create_connection((url.host, url.port), timeout=20)
    connection.sendall("\r\n".join(lines).encode())
    assert b" 100 " in connection.recv(1000)
    return connection


@pytest.mark.promise("import-turns")
def test_a_key_of_one_gallery_imports_from_the_folder_of_that_gallery_alone(
    two_galleries, tmp_path
):
    mounted = tmp_path / "mounted"
    for number, gallery in enumerate(("one", "two"), 1):
        (mounted / gallery / "Ann").mkdir(parents=True)
        (mounted / gallery / "Ann" / "1.png").write_bytes(draw_crop(number, 0, 0))
    (mounted / "two" / "link").symlink_to(mounted / "one")
    served, _, two = two_galleries(import_dir=mounted)

    def begin(folder, **headers):
        url = "/v1/galleries/two/imports"
        return served.http.post(url, data={"folder": folder}, headers=headers)

    for folder in ("one", "one/Ann", ".", "two/..", "two/../one", "two/link", "none"):
        refused = begin(folder, **bearer(two))
        assert refused.status_code == 422, folder
        assert "in two/ as the key is for that gallery" in refused.json()["detail"]
    # The administrator may name any folder.
    for folder, headers in (("two/Ann", bearer(two)), ("two", bearer(two)), ("one", {})):
        job = served.ended_job(begin(folder, **headers).json())
        assert (job["state"], job["progress"]["landed"]) == ("done", 1), job


@pytest.mark.promise("import-turns")
def test_a_forgotten_name_is_in_no_earlier_import(open_service, tmp_path):
    served = open_service(tmp_path / "data")
    gallery = "/v1/galleries/default"
    entries = {
        "Annabel-Quirke/1.png": draw_crop(1, 0, 0),
        "Annabel-Quirke/2.jpg": b"broken",
        "Annabel-Quirke/notes.txt": b"x",
        "Annabel/3.jpg": b"broken",
    }
    jobs = [
        served.ended_job(served.import_zip("default", entries)),
        served.ended_job(
            served.import_zip("default", {"4.png": draw_crop(4, 0, 0)}, identity="Annabel-Quirke")
        ),
    ]
    assert [job["progress"]["landed"] for job in jobs] == [1, 1]
    report = f"/v1/jobs/{jobs[0]['job_id']}/report"
    assert served.http.get(report).text.count("Annabel-Quirke") == 2
    answer = served.http.delete(f"{gallery}/identities/Annabel-Quirke").json()
    assert answer["removed"] == 2
    assert not re.search("job|import", str([place["where"] for place in answer["remaining"]]))
    listed = served.http.get("/v1/jobs").text
    assert jobs[0]["job_id"] in listed
    assert "Annabel-Quirke" not in listed
    lines = [line.split(",")[1] for line in served.http.get(report).text.splitlines()[1:]]
    assert sorted(lines) == ["Annabel/3.jpg", "…/2.jpg", "…/notes.txt"]
    files = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert [path.name for path in files if b"Annabel-Quirke" in path.read_bytes()] == []
