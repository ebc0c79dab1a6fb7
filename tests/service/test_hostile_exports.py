"""Damaged, truncated, foreign and hostile exports: each is refused, and changes nothing."""

import hashlib
import io
import json
import stat
import zipfile
from uuid import uuid4

import numpy as np
import pytest

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


def described(export, **changed):
    return {**export, "export.json": json.dumps({**json.loads(export["export.json"]), **changed})}


def first_line(files, **changed):
    """Change the first crop and what the description says of the list."""
    first, *others = files["crops.jsonl"].splitlines(keepends=True)
    return relisted(files, json.dumps({**json.loads(first), **changed}).encode() + b"\n", *others)


def relisted(files, *lines):
    body = b"".join(lines)
    sums = json.loads(files["export.json"])["files"]
    sums["crops.jsonl"] = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    return described({**files, "crops.jsonl": body}, files=sums)


def first_picture(files, **changed):
    picture = json.loads(files["crops.jsonl"].splitlines()[0])["picture"]
    return first_line(files, picture={**picture, **changed})


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


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def of_one_picture(files):
    """Let every line name the picture of the first one."""
    lines = [json.loads(line) for line in files["crops.jsonl"].splitlines()]
    pictures = [{**line, "picture": lines[0]["picture"]} for line in lines]
    return relisted(files, *(json.dumps(line).encode() + b"\n" for line in pictures))


HOSTILE = {
    "two lines name one picture": lambda files: zipped(of_one_picture(files)),
    "a file that only other programs pack": lambda files: zipped(files, zipfile.ZIP_LZMA),
    "a vector differs": lambda files: zipped(
        {**files, "vectors.npy": flipped(files["vectors.npy"], -5)}
    ),
    "a label differs": lambda files: zipped(
        {**files, "crops.jsonl": files["crops.jsonl"].replace(b"Rumpel", b"Bumpel")}
    ),
    "a picture differs": lambda files: zipped(
        {**files, name_of_picture(files): flipped(files[name_of_picture(files)], 100)}
    ),
    "a picture is missing": lambda files: zipped(
        {name: body for name, body in files.items() if name != name_of_picture(files)}
    ),
    "the description is missing": lambda files: zipped(
        {name: body for name, body in files.items() if name != "export.json"}
    ),
    "the vectors are missing": lambda files: zipped(
        {name: body for name, body in files.items() if name != "vectors.npy"}
    ),
    "a byte of the zip is flipped": lambda files: flipped(zipped(files), 300),
    "more crops are said": lambda files: zipped(described(files, crops=4)),
    "fewer pictures are said": lambda files: zipped(described(files, pictures=2)),
    "a line is gone": lambda files: zipped(
        relisted(files, *files["crops.jsonl"].splitlines(keepends=True)[1:])
    ),
    "a crop is there twice": lambda files: zipped(
        relisted(files, *[files["crops.jsonl"].splitlines(keepends=True)[0]] * 3)
    ),
    "another format": lambda files: zipped(described(files, format="gmn export 9")),
    "no times": lambda files: zipped(described(files, created_at="yesterday")),
    "a link": with_link,
    "a name that climbs out": lambda files: zipped(
        first_picture(files, file="../../../../etc/hostname")
    ),
    "an absolute name": lambda files: zipped(first_picture(files, file="/etc/hostname")),
    "a picture that is a page": lambda files: zipped(
        first_picture(files, content_type="text/html")
    ),
    "an id that is a path": lambda files: zipped(first_line(files, crop_id="../../record.sqlite3")),
    "an unprintable name": lambda files: zipped(first_line(files, identity="a\u202eb")),
    "a name that is too long": lambda files: zipped(first_line(files, identity="a" * 300)),
    "enrolled in the future": lambda files: zipped(
        first_line(files, created_at="2999-01-01T00:00:00Z")
    ),
    "captured in the future": lambda files: zipped(
        first_line(files, captured_at="2999-01-01T00:00:00Z")
    ),
    "deep metadata": lambda files: zipped(
        first_line(files, metadata={"a": json.loads("[" * 60 + "]" * 60)})
    ),
    "large metadata": lambda files: zipped(first_line(files, metadata={"a": "b" * 20_000})),
    "a line without an end": lambda files: zipped(relisted(files, b'{"crop_id": "' + b"a" * 10**6)),
    "numbers without an end": lambda files: zipped(
        {**files, "vectors.npy": vectors_of(np.full((3, 4), np.nan, np.float32))}
    ),
    "objects in place of numbers": lambda files: zipped(
        {**files, "vectors.npy": vectors_of(np.array([{}, {}, {}], dtype=object))}
    ),
    "a size that unpacking would not reach": lambda files: zipped(
        {**files, "export.json": b" " * 10**8}, zipfile.ZIP_DEFLATED
    ),
}


@pytest.mark.parametrize("spoil", HOSTILE.values(), ids=HOSTILE)
def test_a_damaged_or_hostile_export_changes_nothing(served, gallery, whole, spoil):
    before = served.read(f"/v1/galleries/{gallery}")
    job = served.import_archive(gallery, spoil(whole))
    assert job["state"] == "failed", job
    assert job["detail"].startswith("archive: ")
    # Others can read why a job failed.
    assert SECRET not in job["detail"]
    assert served.read(f"/v1/galleries/{gallery}") == before
    assert served.results(f"/v1/galleries/{gallery}/crops") == []
    assert "Traceback" not in served.log.read_text()


def test_an_export_names_what_two_lines_share(served, gallery, whole):
    job = served.import_archive(gallery, zipped(of_one_picture(whole)))
    assert "line 2 names the picture of an earlier line" in job["detail"]


def test_the_files_of_an_export_unpack_to_no_more_than_an_archive(open_service, tmp_path, whole):
    served = open_service(tmp_path, max_import_bytes=1_000_000)
    bomb = zipped({**whole, "images/b.png": bytes(10**7)}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    job = served.import_archive("default", bomb)
    assert job["state"] == "failed"
    assert "unpacks to " in job["detail"]
    assert "over the limit of 1,000,000; raise GMN_MAX_IMPORT_BYTES" in job["detail"]


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_download_that_broke_off_is_no_archive(served, gallery, whole, share):
    content = zipped(whole)
    job = served.import_archive(gallery, content[: int(len(content) * share)])
    assert job["state"] == "failed", job
    assert served.results(f"/v1/galleries/{gallery}/crops") == []


def test_an_export_that_was_compressed_by_another_program_is_imported(served, gallery, whole):
    beside = {**whole, "__MACOSX/._export.json": b"x", "notes.txt": b"mine"}
    job = served.import_archive(gallery, zipped(beside, zipfile.ZIP_DEFLATED))
    assert (job["state"], job["progress"]["landed"]) == ("done", 3)


def test_a_zip_of_images_with_a_file_of_that_name_is_no_export(served, gallery, drawn_crops):
    files = {"export.json": b"{}", "Ann/1.png": drawn_crops[0].png}
    job = served.import_archive(gallery, zipped(files))
    assert (job["state"], job["progress"]["landed"]) == ("done", 1)


@pytest.mark.parametrize("field", ["identity", "camera", "manifest", "keep_best"])
def test_an_export_names_its_crops_itself(served, gallery, whole, field):
    job = served.import_archive(gallery, zipped(whole), **{field: "1"})
    assert job["state"] == "failed"
    assert job["detail"].startswith(f"{field}: an export names its crops itself")


@pytest.mark.parametrize("path", ["..%2f..%2f1", "%2e%2e", "listed.json", "stray", "a.part"])
def test_the_id_of_an_export_is_no_path(served, gallery, path):
    url = f"/v1/galleries/{gallery}/exports/{path}"
    for method, end in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
        answer = served.http.request(method, url + end)
        assert problem(answer)[0] == 404, answer.text
