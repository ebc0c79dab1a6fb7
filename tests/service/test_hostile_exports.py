"""Damaged, truncated, foreign and hostile exports: what can go into no gallery changes none."""

import csv
import io
import json
import stat
import zipfile
from uuid import uuid4

import numpy as np
import pytest

from model.crops.names import EXPORT_FILES
from tests.outside import problem

pytestmark = pytest.mark.promise("hostile-exports")

SECRET = "Rumpelstilzchen"


@pytest.fixture(scope="module")
def whole(served, drawn_crops):
    """Return the files of an export."""
    gallery = served.create(f"whole.{uuid4().hex[:8]}")
    served.fill(gallery, drawn_crops[:3], identity=SECRET)
    with zipfile.ZipFile(io.BytesIO(served.export(gallery))) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def zipped(files, compression=zipfile.ZIP_STORED):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", compression) as packed:
        for name, body in files.items():
            packed.writestr(name, body)
    return content.getvalue()


def without(files, name):
    return {other: body for other, body in files.items() if other != name}


def described(files, **changed):
    description = json.loads(files["gmn-export.json"]) | changed
    return {**files, "gmn-export.json": json.dumps(description)}


def rows_of(files):
    return list(csv.DictReader(io.StringIO(files["manifest.csv"].decode())))


def relisted(files, rows):
    body = io.StringIO()
    writer = csv.DictWriter(body, rows_of(files)[0])
    writer.writeheader()
    writer.writerows(rows)
    return {**files, "manifest.csv": body.getvalue()}


def first_row(files, **changed):
    first, *others = rows_of(files)
    return relisted(files, [{**first, **changed}, *others])


def name_of_picture(files):
    return next(name for name in files if name.startswith("images/"))


def with_link(files):
    """Put a link to a file of the machine in the place of a picture."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for name, body in files.items():
            entry = zipfile.ZipInfo(name)
            if name == name_of_picture(files):
                entry.external_attr = (stat.S_IFLNK | 0o777) << 16
                body = b"/etc/hostname"
            packed.writestr(entry, body)
    return content.getvalue()


def vectors_of(array):
    body = io.BytesIO()
    np.save(body, array)
    return body.getvalue()


def flipped(name):
    """Return a function that flips a bit of a file within the zip."""

    def flip(files):
        content = zipped(files)
        place = content.index(files[name]) + len(files[name]) // 2
        return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]

    return flip


HOSTILE = {
    "two lines name one picture": lambda files: zipped(
        first_row(files, path=rows_of(files)[1]["path"])
    ),
    "files that only other programs pack": lambda files: zipped(files, zipfile.ZIP_LZMA),
    "a bit of the description is flipped": flipped("gmn-export.json"),
    "a bit of the manifest is flipped": flipped("manifest.csv"),
    "a bit of the vectors is flipped": flipped("vectors.npy"),
    "a bit of a picture is flipped": lambda files: flipped(name_of_picture(files))(files),
    "a picture is missing": lambda files: zipped(without(files, name_of_picture(files))),
    "the description is missing": lambda files: zipped(without(files, "gmn-export.json")),
    "the manifest is missing": lambda files: zipped(without(files, "manifest.csv")),
    "the vectors are missing": lambda files: zipped(without(files, "vectors.npy")),
    "a line is gone": lambda files: zipped(relisted(files, rows_of(files)[1:])),
    "a crop is there twice": lambda files: zipped(
        first_row(files, crop_id=rows_of(files)[1]["crop_id"])
    ),
    "another format": lambda files: zipped(described(files, format="gmn export 9")),
    "no times": lambda files: zipped(described(files, created_at="yesterday")),
    "a name that climbs out": lambda files: zipped(
        first_row(files, path="../../../../etc/hostname")
    ),
    "an absolute name": lambda files: zipped(first_row(files, path="/etc/hostname")),
    "an id that is a path": lambda files: zipped(first_row(files, crop_id="../../record.sqlite3")),
    "a hash that is none": lambda files: zipped(first_row(files, sha256=SECRET)),
    "a quality that is no number": lambda files: zipped(first_row(files, quality="nan")),
    "an unprintable name": lambda files: zipped(first_row(files, identity="a\u202eb")),
    "a name that is too long": lambda files: zipped(first_row(files, identity="a" * 300)),
    "enrolled in the future": lambda files: zipped(
        first_row(files, created_at="2999-01-01T00:00:00Z")
    ),
    "deep metadata": lambda files: zipped(
        first_row(files, metadata='{"a": ' + "[" * 60 + "]" * 60 + "}")
    ),
    "large metadata": lambda files: zipped(first_row(files, metadata=f'{{"a": "{"b" * 20_000}"}}')),
    "a line without an end": lambda files: zipped(first_row(files, identity="a" * 10**6)),
    "numbers without an end": lambda files: zipped(
        {**files, "vectors.npy": vectors_of(np.full((3, 4), np.nan, np.float32))}
    ),
    "vectors of another length": lambda files: zipped(
        {**files, "vectors.npy": vectors_of(np.ones((3, 4), np.float32))}
    ),
    "fewer vectors than their header says": lambda files: zipped(
        {**files, "vectors.npy": files["vectors.npy"][:-4]}
    ),
    "a length that is below zero": lambda files: zipped(
        {**files, "vectors.npy": files["vectors.npy"].replace(b"(3, ", b"(3,-")}
    ),
    "objects in place of numbers": lambda files: zipped(
        {**files, "vectors.npy": vectors_of(np.array([{}, {}, {}], dtype=object))}
    ),
    "a description of many bytes": lambda files: zipped(
        {**files, "gmn-export.json": b" " * 10**8}, zipfile.ZIP_DEFLATED
    ),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_export_changes_nothing(served, gallery, whole, spoil):
    before = served.read(f"/v1/galleries/{gallery}")
    job = served.import_archive(gallery, spoil(whole))
    assert job["state"] == "failed", job
    assert "; " in job["detail"]
    # Others can read why a job failed.
    assert SECRET not in job["detail"]
    assert served.read(f"/v1/galleries/{gallery}") == before
    assert served.results(f"/v1/galleries/{gallery}/crops") == []
    assert "Traceback" not in served.log.read_text()


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (with_link, "unreadable"),
        (lambda files: zipped({**files, name_of_picture(files): b"<html>"}), "unreadable"),
        (lambda files: zipped(first_row(files, captured_at="2999-01-01T00:00:00Z")), "in_future"),
    ],
    ids=["a link", "a page", "captured in the future"],
)
def test_a_crop_of_an_export_that_cannot_be_used_is_named_and_the_others_land(
    served, gallery, whole, spoil, code
):
    job = served.import_archive(gallery, spoil(whole))
    progress = job["progress"]
    assert (job["state"], progress["landed"], progress["refused"]) == ("done", 2, 1)
    report = served.http.get(f"/v1/jobs/{job['job_id']}/report").text
    assert code in report
    assert SECRET not in report


def test_the_files_of_an_export_unpack_to_no_more_than_an_archive(open_service, tmp_path, whole):
    served = open_service(tmp_path, max_import_bytes=1_000_000)
    bomb = zipped({**whole, "vectors.npy": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    job = served.import_archive("default", bomb)
    assert job["state"] == "failed"
    assert "unpacks to more bytes than are allowed" in job["detail"]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_download_that_broke_off_is_no_archive(served, gallery, whole, share):
    content = zipped(whole)
    job = served.import_archive(gallery, content[: int(len(content) * share)])
    assert job["state"] == "failed", job
    assert served.results(f"/v1/galleries/{gallery}/crops") == []


def test_an_export_that_was_compressed_by_another_program_is_imported(served, gallery, whole):
    beside = {**whole, "__MACOSX/._gmn-export.json": b"x", "notes.txt": b"mine"}
    job = served.import_archive(gallery, zipped(beside, zipfile.ZIP_DEFLATED))
    assert (job["state"], job["progress"]["landed"]) == ("done", 3)


def test_an_export_whose_files_have_capitals_is_still_one(served, gallery, whole):
    files = {name.upper() if name in EXPORT_FILES else name: body for name, body in whole.items()}
    job = served.import_archive(gallery, zipped(files))
    assert job["progress"]["landed"] == 3
    assert served.import_archive(gallery, zipped(whole))["progress"]["duplicates"] == 3


@pytest.mark.parametrize("field", ["identity", "manifest"])
def test_an_export_names_its_crops_itself(served, gallery, whole, field):
    job = served.import_archive(gallery, zipped(whole), **{field: "1"})
    assert job["state"] == "failed"
    assert job["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize("path", ["..%2f..%2f1", "%2e%2e", "listed.json", "stray", "a.part"])
def test_the_id_of_an_export_is_no_path(served, gallery, path):
    url = f"/v1/galleries/{gallery}/exports/{path}"
    for method, end in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = served.http.request(method, url + end)
        assert problem(answer)[0] == 404, answer.text
