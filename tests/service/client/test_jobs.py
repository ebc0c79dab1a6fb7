"""The client's jobs: imports sent, followed, reported and stopped, against a real service."""

import os
import tracemalloc
import zipfile

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
    assert job.detail == "3 files or columns were ignored; the report names them"
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


def test_folders_and_by_products_that_windows_packed_are_not_reported(
    client, tmp_path, drawn_crops
):
    path = tmp_path / "people.zip"
    entries = {"people\\Ann\\1.png": drawn_crops[0].png, "people\\Ann\\": b""}
    path.write_bytes(zip_of(entries | {"people\\Thumbs.db": b"by Windows"}))
    job = client.wait_for_job(client.import_archive(path).job_id)
    assert (job.progress.landed, job.progress.ignored, job.problems) == (1, 0, 0)
    assert [crop.identity for crop in client.crops()] == ["Ann"]


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
    assert (job.state, job.progress.landed, job.problems) == ("done", 1, 0)
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
