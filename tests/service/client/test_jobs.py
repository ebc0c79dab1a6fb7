"""The client's jobs: imports sent, followed, reported and stopped, against a real service."""

import os
import tracemalloc
import zipfile
from pathlib import PurePosixPath

import pytest

from tests.outside import zip_of

MEGABYTE = 1024 * 1024


@pytest.fixture
def archive(tmp_path, drawn_crops):
    path = tmp_path / "people.zip"
    entries = {f"people/{number}.png": crop.png for number, crop in enumerate(drawn_crops[:6])}
    entries |= {"people/6.png": b"no image", '../7, "climbing".png': drawn_crops[7].png}
    path.write_bytes(zip_of(entries))
    return path


def test_an_archive_is_imported_followed_and_reported(client, archive):
    job = client.import_archive(archive, camera="east", identity="guest")
    told = list(client.watch_job(job.job_id))
    assert told[-1].finished
    assert len({state.model_dump_json() for state in told}) == len(told)
    ended = client.wait_for_job(job.job_id)
    assert (ended.state, ended.problems, ended.kind) == ("done", 2, "import")
    progress = ended.progress
    assert (progress.total, progress.done, progress.landed, progress.refused) == (8, 8, 6, 2)
    assert {(crop.identity, crop.camera) for crop in client.crops()} == {("guest", "east")}
    problems = {problem.source: problem.code for problem in client.job_problems(job.job_id)}
    assert problems == {'../7, "climbing".png': "not_unpacked", "people/6.png": "not_an_image"}
    assert ended in client.jobs(client.gallery_name)
    assert client.job(job.job_id) == client.cancel_job(job.job_id) == ended


def test_the_report_of_a_mounted_folder_names_what_was_ignored(client, import_dir, drawn_crops):
    for name, content in (("Ann/1.png", drawn_crops[0].png), ("Bob/far/2.png", drawn_crops[1].png)):
        file = import_dir / "people" / name
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    (import_dir / "people" / "notes.txt").write_text("not an image")
    (import_dir / "people" / "link").symlink_to(import_dir / "people" / "Ann")
    os.mkfifo(import_dir / "people" / "pipe.png")
    job = client.wait_for_job(client.import_folder("people", camera="east").job_id)
    assert (job.state, job.progress.landed, job.progress.ignored) == ("done", 2, 3)
    assert job.detail == "3 files or columns were ignored; the report names what"
    report = client.job_problems(job.job_id)
    assert {problem.source: problem.code for problem in report} == dict.fromkeys(
        ["notes.txt", "link", "pipe.png"], "ignored"
    )
    assert {(crop.identity, crop.camera) for crop in client.crops()} == {
        ("Ann", "east"),
        ("Bob", "east"),
    }


def test_of_many_ignored_files_the_first_are_named_and_the_others_counted(
    client, tmp_path, drawn_crops
):
    path = tmp_path / "many.zip"
    ignored = {f"{number}.txt": b"" for number in range(1_500)}
    path.write_bytes(zip_of({"1.png": drawn_crops[0].png, **ignored}))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert (job.progress.landed, job.progress.ignored) == (1, 1_500)
    report = client.job_problems(job.job_id)
    assert (len(report), report[-1].detail) == (1_001, "500 more are not named here")


def test_folders_and_by_products_that_windows_packed_are_no_pictures(client, tmp_path, drawn_crops):
    path = tmp_path / "people.zip"
    entries = {"people\\Ann\\1.png": drawn_crops[0].png, "people\\Ann\\": b""}
    path.write_bytes(zip_of(entries | {"people\\Thumbs.db": b"by Windows"}))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert (job.progress.landed, job.progress.ignored, job.problems) == (1, 1, 1)
    assert [crop.identity for crop in client.crops()] == ["Ann"]
    (line,) = client.job_problems(job.job_id)
    assert (line.source, line.code) == ("people/Thumbs.db", "ignored")
    assert "for its own use" in line.detail


# Thumbnails, wastebaskets and snapshots, whose pictures show people of the same folder again.
BESIDE = (
    *("Ann/@eaDir/1.png/SYNOPHOTO_THUMB_M.jpg", "@eaDir/Ann/1.jpg", "Bob/@EADIR/2.png/S.jpg"),
    *("$RECYCLE.BIN/S-1-5/$R12.png", "$Recycle.Bin/S-1-5/$R13.png", "RECYCLER/1.png"),
    *("#recycle/old.png", "#snapshot/GMT-2026/Ann/1.png", "@Recycle/1.png"),
    *("@Recently-Snapshot/daily/Ann/1.png", "System Volume Information/1.png"),
    *("lost+found/#12.png", "FOUND.000/FILE0000.JPG", "LOST.DIR/1.jpg"),
    *(".stversions/Ann/1.png", ".Trash-1000/files/1.png", "Ann/._1.png", "__MACOSX/Ann/._1.png"),
)
RESEMBLING = ("Recycle", "eaDir", "Snapshot", "found", "Thumbs", "@Ann", "#1", "lost", "Git", "$A")


@pytest.mark.parametrize("way", ["archive", "folder"])
def test_by_products_of_storage_systems_are_no_people_and_are_reported(
    client, import_dir, tmp_path, drawn_crops, way
):
    pictures = iter(drawn_crops)
    entries = {f"{name}/1.png": next(pictures).png for name in ("Ann", "Bob", *RESEMBLING)}
    entries |= dict.fromkeys(BESIDE, drawn_crops[-1].png)
    if way == "archive":
        path = tmp_path / "people.zip"
        path.write_bytes(zip_of(entries))
        job = client.import_archive(path)
    else:
        for name, content in entries.items():
            file = import_dir / "by-products" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        job = client.import_folder("by-products")
    job = client.wait_for_job(job.job_id)
    assert job.state == "done"
    assert sorted(crop.identity for crop in client.crops()) == sorted(["Ann", "Bob", *RESEMBLING])
    assert (job.progress.landed, job.progress.ignored) == (12, len(BESIDE))
    report = {line.source: line.detail for line in client.job_problems(job.job_id)}
    assert all("for its own use" in reason for reason in report.values())
    kinds = {PurePosixPath(name).name.casefold() for name in report}
    assert {"@eadir", "#recycle", "$recycle.bin", "lost+found", "found.000", "._1.png"} <= kinds
    (thumbnails,) = [reason for name, reason in report.items() if "@eadir" in name.casefold()]
    assert thumbnails.endswith("(2 more of this kind are left out)")


def test_each_file_that_is_left_out_has_its_reason(client, tmp_path, drawn_crops):
    picture = drawn_crops[0].png
    taken = {
        f"{number}{end}": crop.png
        for number, (end, crop) in enumerate(
            zip((".jpeg", ".JPG", ".jfif", ".jpe", ".PNG"), drawn_crops, strict=False)
        )
    }
    left = {
        "a.heic": "pictures of this format are not read; save it as JPEG",
        "b.GIF": "pictures of this format are not read",
        "notes.txt": "its name is no image's",
        "no-ending": "its name is no image's",
        ".hidden.png": "it is hidden, as its name begins with a dot; rename it",
        ".old/1.png": "",
    }
    path = tmp_path / "kinds.zip"
    path.write_bytes(zip_of(taken | dict.fromkeys(left, picture)))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert (job.progress.landed, job.progress.ignored) == (len(taken), len(left))
    report = {line.source: line.detail for line in client.job_problems(job.job_id)}
    assert report.keys() == left.keys() - {".old/1.png"}
    assert all(reason in report[name] for name, reason in left.items() if name in report)
    assert report[".hidden.png"].endswith("(1 more of this kind are left out)")


def test_an_archive_of_by_products_alone_names_one(client, tmp_path, drawn_crops):
    path = tmp_path / "wastebasket.zip"
    path.write_bytes(zip_of({"#recycle/Ann/1.png": drawn_crops[0].png}))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert (job.state, "#recycle" in job.detail) == ("failed", True)


@pytest.mark.parametrize("packed", ["sub/1.png", "sub\\1.png"])
@pytest.mark.parametrize("named", ["sub\\1.png", ".\\sub\\1.png", "sub/1.png"])
def test_a_manifest_with_backslashes_finds_the_files_of_its_archive(
    client, tmp_path, drawn_crops, packed, named
):
    path = tmp_path / "windows.zip"
    manifest = f"path,identity\n{named},Ann\n"
    path.write_bytes(zip_of({"manifest.csv": manifest, packed: drawn_crops[0].png}))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert (job.state, job.progress.landed, job.detail) == ("done", 1, None)
    assert [crop.identity for crop in client.crops()] == ["Ann"]


@pytest.mark.parametrize("named", ["lists/people.csv", "lists\\people.csv", ".\\lists\\people.csv"])
def test_a_manifest_is_named_by_slashes_or_backslashes(client, tmp_path, drawn_crops, named):
    path = tmp_path / "windows.zip"
    manifest = "path,identity\n..\\sub\\1.png,Ann\n"
    path.write_bytes(zip_of({"lists\\people.csv": manifest, "sub\\1.png": drawn_crops[0].png}))
    job = client.wait_for_job(client.import_archive(path, manifest=named).job_id)
    assert (job.state, [crop.identity for crop in client.crops()]) == ("done", ["Ann"])


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        ("path,Identity\n1.png,Ann\n", "manifest.csv, line 1: there is no column 'Identity'; did"),
        ("path,identity,identity\n1.png,Ann,Bob\n", "the column identity occurs twice"),
        ("path;identity\n1.png;Ann\n", "separated by semicolons"),
        ("path\n.old/1.png\n", "hidden files of an archive are not unpacked"),
        ("path\n@eaDir/1.png\n", "line 2: @eaDir/1.png: a storage system or program made @eaDir"),
        ("path,captured_at\n1.png,2026-03-01T24:00:00Z\n", "has the hour 24"),
    ],
)
def test_a_manifest_that_would_lose_labels_fails(client, tmp_path, drawn_crops, manifest, reason):
    path = tmp_path / "a.zip"
    names = ("1.png", ".old/1.png", "@eaDir/1.png")
    path.write_bytes(zip_of(dict.fromkeys(names, drawn_crops[0].png) | {"manifest.csv": manifest}))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert (job.state, list(client.crops())) == ("failed", [])
    assert reason in job.detail


def test_a_folder_that_macos_packed_with_its_manifest_has_the_labels_of_the_manifest(
    client, tmp_path, drawn_crops
):
    path = tmp_path / "people.zip"
    entries = {
        "people/manifest.csv": b"path,identity\n1.png,Ann",
        "people/1.png": drawn_crops[0].png,
    }
    beside = {f"__MACOSX/{name.replace('/', '/._')}": b"\0\5\26\7" for name in entries}
    path.write_bytes(zip_of(entries | beside))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert (job.state, job.progress.landed, job.problems) == ("done", 1, 1)
    assert [line.source for line in client.job_problems(job.job_id)] == ["__MACOSX"]
    assert [crop.identity for crop in client.crops()] == ["Ann"]


@pytest.mark.parametrize(
    ("columns", "field", "kept"),
    [
        ("path,camera\n1.png,gate\n", {"identity": "Ann"}, ("Ann", "gate")),
        ("path,identity\n1.png,Ann\n", {"camera": "gate"}, ("Ann", "gate")),
        ("path,identity\n1.png,Ann\n", {"identity": "Bob"}, None),
        ("path,camera\n1.png,gate\n", {"camera": "door"}, None),
    ],
)
def test_a_label_of_an_import_is_for_images_of_which_the_manifest_does_not_name_it(
    client, tmp_path, drawn_crops, columns, field, kept
):
    path = tmp_path / "a.zip"
    path.write_bytes(zip_of({"1.png": drawn_crops[0].png, "manifest.csv": columns}))
    job = client.wait_for_job(client.import_archive(path, **field).job_id)
    found = [(crop.identity, crop.camera) for crop in client.crops()]
    assert found == ([kept] if kept else [])
    assert job.state == ("done" if kept else "failed")
    assert kept or "leave it out" in (job.detail or "")


def test_names_that_a_spreadsheet_would_run_come_back_as_they_were(client, tmp_path):
    names = ["=1+1.png", "'=1+1.png", "'quoted'.png", "-.png", "plain.png"]
    path = tmp_path / "odd.zip"
    path.write_bytes(zip_of(dict.fromkeys(names, b"no image")))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert sorted(problem.source for problem in client.job_problems(job.job_id)) == sorted(names)


def test_a_large_archive_takes_no_memory_of_the_clients(client, tmp_path):
    large = tmp_path / "large.zip"
    # An archive may follow other bytes.
    with large.open("wb") as file:
        file.seek(48 * MEGABYTE)
        with zipfile.ZipFile(file, "a") as packed:
            packed.writestr("a.txt", "no image")
    tracemalloc.start()
    try:
        job = client.import_archive(large)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MEGABYTE
    ended = client.wait_for_job(job.job_id)
    assert ended.state == "failed"
    assert ended.detail
