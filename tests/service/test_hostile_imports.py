"""Imports of hostile archives and folders: bad files are named, and good ones land."""

import csv
import io
import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from service.jobs.imports import LINES_AT_ONCE
from tests.hostile import archives
from tests.hostile.archives import GOOD, zip_of
from tests.outside import problem
from tests.waiting import eventually

pytestmark = pytest.mark.promise("hostile-files")

IMAGE = next(iter(GOOD.values()))
HEAD = b"path,identity,camera,captured_at\n"


@pytest.fixture(scope="module")
def mounted(tmp_path_factory, engine):
    return tmp_path_factory.mktemp("mounted")


@pytest.fixture(scope="module")
def besieged(start, mounted, data_dir):
    running = start(
        data_dir, import_dir=mounted, max_import_bytes=4_000_000, max_image_bytes=200_000
    )
    yield running
    assert running.http.get("/livez").status_code == 200
    assert "Traceback" not in running.log.read_text()
    # The files of the last one go after its job has ended. The first import creates the folder: a
    # worker that ran refused ones alone has none.
    eventually(lambda: not list(data_dir.glob("imports/*")))
    running.kill()


@pytest.fixture
def ended(besieged):
    """Return a function that runs an import, and returns the job and the rows of its report."""
    gallery = besieged.create(f"g{uuid4().hex[:8]}")

    def run(data=None, **fields):
        url = f"/v1/galleries/{gallery}/imports"
        files = None if data is None else {"archive": data}
        answer = besieged.http.post(url, files=files, data=fields)
        assert answer.status_code == 202, answer.text
        job = besieged.ended_job(answer.json())
        report = besieged.http.get(f"/v1/jobs/{job['job_id']}/report").text
        return job, list(csv.DictReader(io.StringIO(report)))

    return run


SPOILT = {
    "names": zip_of([*((name, b"x") for name in archives.BESIDE.values()), *GOOD.items()]),
    "links": archives.links(),
    "encrypted": archives.encrypted(),
    "damaged": archives.with_damaged_entry(),
    "no images": zip_of([("a.jpg", b"x"), ("\n=1+1.jpg", b""), *GOOD.items()]),
}


@pytest.mark.parametrize("data", SPOILT.values(), ids=SPOILT)
@pytest.mark.slow
def test_good_images_of_a_spoilt_archive_land_and_the_report_names_the_others(ended, data):
    job, report = ended(data)
    assert job["state"] == "done"
    assert job["progress"]["landed"] == len(GOOD)
    assert job["progress"]["refused"] == len(report) > 0
    assert all("; " in row["detail"] for row in report)


def test_a_report_has_more_lines_than_a_commit_takes(ended):
    names = [f"../{number}.png" for number in range(2 * LINES_AT_ONCE + 1)]
    job, rows = ended(zip_of([*((name, b"x") for name in names), *GOOD.items()]))
    assert [row["source"] for row in rows] == names
    assert (job["problems"], job["progress"]["landed"]) == (len(names), len(GOOD))


def manifest(row):
    """Return an archive with a manifest of two rows, of which the second is hostile."""
    return zip_of({"manifest.csv": HEAD + b"good-1.png,1,c1,\n" + row, **GOOD})


UNUSABLE = {
    "nothing": b"",
    "no archive": b"PK\3\4 no archive",
    "a list without end": archives.directory_of(2**40),
    "no image": zip_of({"a.txt": b"no image"}),
    "too many bytes": zip_of({f"{number}.jpg": bytes(190_000) for number in range(30)}),
    "a path that climbs": manifest(b"../../../etc/passwd,1,c1,"),
    "an absolute path": manifest(b"/etc/passwd,1,c1,"),
    "a manifest of noise": zip_of({"manifest.csv": b"\xff\xfe" + bytes(1_000), **GOOD}),
}


@pytest.mark.parametrize("data", UNUSABLE.values(), ids=UNUSABLE)
def test_what_cannot_be_imported_fails_with_what_to_do(ended, data):
    job, report = ended(data)
    assert job["state"] == "failed"
    assert "see its log" not in job["detail"]
    assert "; " in job["detail"]
    assert report == []
    assert job["progress"].get("landed", 0) == 0


@pytest.mark.parametrize(
    "row",
    [
        b"good-0.png,Bob\x07,c1,",
        b"good-0.png,Bob" + b"b" * 300 + b",c1,",
        b'good-0.png,1,"Bob,c1",',
        b"good-0.png,1,c1,Bob",
    ],
)
def test_a_manifest_that_fails_is_named_by_its_line_and_not_by_its_text(ended, row):
    job, _ = ended(manifest(row))
    assert job["state"] == "failed"
    assert "line 3: " in job["detail"]
    assert "Bob" not in job["detail"]


@pytest.mark.parametrize("path", ["Bob/1.png", "..\\Bob.png", "C:\\Bob.png", "@eaDir/Bob.png"])
def test_a_path_of_a_manifest_that_fails_is_named_with_its_line(ended, path):
    job, _ = ended(manifest(f"{path},1,c1,".encode()))
    assert job["state"] == "failed"
    assert f"line 3: {path}: " in job["detail"]


def test_an_image_from_the_future_is_a_line_of_the_report(ended):
    later = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    job, report = ended(manifest(f"good-0.png,1,c1,{later}".encode()))
    assert (job["state"], job["progress"]["landed"]) == ("done", 1)
    codes = {row["source"]: row["code"] for row in report}
    assert codes == {"good-0.png": "captured_in_future", "good-2.png": "ignored"}


@pytest.mark.parametrize("named", ["/etc/passwd", "../../../../etc/passwd", "no.csv", "ü" * 250])
def test_a_manifest_outside_of_the_import_is_not_read(ended, named):
    job, _ = ended(zip_of(GOOD), manifest=named)
    assert job["state"] == "failed"
    assert job["detail"].startswith("manifest: ")
    assert "root" not in job["detail"]


def test_a_folder_whose_links_lead_out_of_it_gives_nothing_away(ended, mounted, tmp_path):
    folder = mounted / "links"
    folder.mkdir()
    (tmp_path / "secret.png").write_bytes(IMAGE)
    (folder / "good.png").write_bytes(GOOD["good-1.png"])
    (folder / "secret.png").symlink_to(tmp_path / "secret.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "elsewhere").symlink_to(tmp_path)
    with (folder / "huge.png").open("wb") as file:
        file.truncate(10**12)  # takes no room on the disk
    (folder / "huge.png").with_name("\udcff.png").write_bytes(b"no image")
    job, report = ended(folder="links")
    assert job["state"] == "done"
    assert job["progress"]["landed"] == 1
    said = {row["source"]: row["detail"] for row in report}
    assert "leads out of the folder" in said["secret.png"]
    assert "1,000,000,000,000 bytes" in said["huge.png"]
    assert "is a link to a folder" in said["elsewhere"]
    assert len(said) == 5


def test_a_manifest_of_a_folder_that_leads_out_of_it_is_not_read(ended, mounted, tmp_path):
    folder = mounted / "manifests"
    folder.mkdir()
    (tmp_path / "secret.csv").write_bytes(HEAD + b"a.png,secret,c1,\n")
    (folder / "manifest.csv").symlink_to(tmp_path / "secret.csv")
    job, _ = ended(folder="manifests")
    assert (job["state"], "lies outside" in job["detail"]) == ("failed", True)


@pytest.fixture
def deep(mounted):
    """Return a folder of more folders one in another than Python goes down by itself."""
    here = Path.cwd()
    (mounted / "deep").mkdir()
    try:
        os.chdir(mounted / "deep")
        for _ in range(1_500):
            Path("d").mkdir()
            os.chdir("d")
        Path("good.png").write_bytes(IMAGE)
        os.chdir(here)
        yield "deep"
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-rf", str(mounted / "deep")], timeout=60, check=True)


def test_a_very_deep_folder_is_read(ended, deep):
    job, _ = ended(folder=deep)
    assert job["state"] == "done"
    assert job["progress"]["landed"] == 1


@pytest.mark.parametrize(
    "folder", ["..", "/etc", "../mounted-no", "a\0b", "n" * 300, "n/" * 3_000, "\ud800", "~"]
)
def test_a_folder_outside_of_the_import_directory_is_refused(besieged, folder):
    fields = {"folder": folder.encode("utf-8", "surrogatepass")}
    answer = besieged.http.post("/v1/galleries/default/imports", data=fields)
    assert answer.status_code == 422
    assert "passwd" not in json.dumps(answer.json())


@pytest.mark.parametrize("name", ["Manifest.csv", "MANIFEST.CSV", "people/Manifest.CSV"])
def test_a_manifest_with_capitals_in_its_name_is_read(ended, besieged, name):
    folder = name.rpartition("/")[0]
    entries = {f"{folder}/{image}".lstrip("/"): content for image, content in GOOD.items()}
    job, _ = ended(zip_of({name: HEAD + b"good-1.png,Ann,c1,\n,,,\n", **entries}))
    assert (job["state"], job["progress"]["landed"]) == ("done", 1), job
    (crop,) = besieged.results(f"/v1/galleries/{job['gallery']}/crops")
    assert crop["identity"] == "Ann"


def test_two_manifests_are_named_and_nothing_is_stored(ended, besieged):
    rows = HEAD + b"good-1.png,Ann,c1,\n"
    job, _ = ended(zip_of({"Manifest.csv": rows, "manifest.csv": rows, **GOOD}))
    assert job["state"] == "failed"
    assert "Manifest.csv and manifest.csv are both there; keep the one" in job["detail"]
    assert besieged.results(f"/v1/galleries/{job['gallery']}/crops") == []


def test_labels_in_a_file_of_another_name_are_reported(ended):
    job, report = ended(zip_of({"labels.csv": HEAD, **GOOD}))
    assert job["state"] == "done"
    (line,) = (row for row in report if row["source"] == "labels.csv")
    assert "call it manifest.csv" in line["detail"]


@pytest.mark.parametrize(
    "folders", [("bounding_box_train", "query"), ("train", "test"), ("gt_bbox", "others")]
)
def test_the_parts_of_a_data_set_are_no_people(ended, besieged, folders):
    job, _ = ended(zip_of({f"{folder}/{next(iter(GOOD))}": IMAGE for folder in folders}))
    assert job["state"] == "failed"
    assert f"{folders[0]}" in job["detail"]
    assert "would become people; " in job["detail"]
    assert besieged.results(f"/v1/galleries/{job['gallery']}/crops") == []


def test_a_person_may_be_called_like_one_part_of_a_data_set(ended):
    job, _ = ended(zip_of({f"{name}/{next(iter(GOOD))}": IMAGE for name in ("Query", "Ann")}))
    assert job["state"] == "done"


@pytest.mark.parametrize(
    ("beginning", "kind"),
    [
        (b"Rar!\x1a\x07\x01\0", "RAR"),
        (b"Rar!\x1a\x07\0", "RAR"),
        (b"7z\xbc\xaf\x27\x1c", "7z"),
        (b"\x28\xb5\x2f\xfd", "Zstandard"),
        (b"MSCF\0\0\0\0", "cab"),
        (b"\x1f\x8b\x08", "tar"),
    ],
)
def test_an_archive_of_another_kind_is_named_with_its_remedy(besieged, beginning, kind):
    url = "/v1/galleries/default/imports"
    answer = besieged.http.post(url, files={"archive": ("people.zip", beginning + bytes(600))})
    assert problem(answer) == (415, "unsupported_media_type")
    assert answer.json()["detail"] == (
        f"archive: is a {kind} file, which is not read; unpack it, and send its files as a zip"
    )
