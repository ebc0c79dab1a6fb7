"""A gallery's life: requests sent twice, names changed, people forgotten, copies restored."""

import io
import tarfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service.gallery import registry
from service.record import jobs
from tests.outside import problem, refused_fields, zip_of
from tests.service.conftest import files
from tests.service.gallery.new_crops import open_record
from tests.waiting import eventually


def _listed(served, gallery):
    answer = served.read(f"/v1/galleries/{gallery}/crops?limit=1000")
    return {crop["crop_id"]: crop["identity"] for crop in answer["results"]}


@pytest.mark.promise("idempotency")
def test_a_request_sent_again_under_its_key_happens_once(served, gallery, drawn_crops):
    images = files(drawn_crops[0].png, b"no image")
    url = f"/v1/galleries/{gallery}/crops"
    key = {"Idempotency-Key": "shift-1"}
    first = served.http.post(url, files=images, data={"identity": "7"}, headers=key)
    again = served.http.post(url, files=images, data={"identity": "7"}, headers=key)
    assert (first.status_code, again.status_code) == (207, 207)
    assert again.headers.get("Idempotent-Replayed") == "true"
    assert "Idempotent-Replayed" not in first.headers
    landed, refused = first.json()["results"]
    replayed, still_refused = again.json()["results"]
    assert replayed == landed
    assert (replayed["identity"], replayed["duplicate"]) == ("7", False)
    assert still_refused["problem"]["detail"] == refused["problem"]["detail"]
    for others in (images, images[1:]):
        other = served.http.post(url, files=others, data={"identity": "8"}, headers=key)
        assert problem(other) == (422, "request_conflict")
        assert "shift-1" in other.json()["detail"]
    assert len(_listed(served, gallery)) == 1


@pytest.mark.promise("2")
def test_a_forgotten_person_is_in_no_search_no_import_and_no_file_once_exports_are_deleted(
    open_service, tmp_path, drawn_crops, images
):
    served = open_service(data_dir=tmp_path)
    names = [f"person-{crop.identity}" for crop in drawn_crops]
    served.fill("default", drawn_crops, identity=names)
    content = served.export("default")
    (export,) = served.results("/v1/galleries/default/exports")
    gone = f"/v1/galleries/default/identities/{names[0]}"
    answer = served.http.delete(gone).json()
    assert answer["removed"] == 4
    remaining = {entry["where"] for entry in answer["remaining"]}
    assert f"export {export['export_id']}" in remaining
    assert any("backups" in where for where in remaining)
    assert not any("GMN_IMAGES_URL" in where for where in remaining)
    assert served.http.delete(gone).status_code == 404
    progress = served.import_archive("default", content)["progress"]
    assert (progress["duplicates"], progress["deleted"]) == (20, 4)
    found = served.search("default", images[0], top_k=100)
    assert len(found) == 20
    assert names[0] not in {crop["identity"] for crop in found}
    path = f"/v1/galleries/default/exports/{export['export_id']}"
    assert served.http.delete(path).status_code == 204
    assert served.stop() == 0
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        assert names[0].encode() not in file.read_bytes(), file
        assert images[0][60:120] not in file.read_bytes(), file


@pytest.mark.slow
def test_forgetting_waits_for_no_export_and_names_the_one_that_is_being_written(start, images):
    served = start(failpoint="export.written=delay:8")
    gallery = served.create("lobby")
    served.enroll(gallery, images[0], identity="Ann")
    with ThreadPoolExecutor(1) as other:
        copying = other.submit(served.http.post, f"/v1/galleries/{gallery}/exports")
        eventually(lambda: "failpoint export.written" in served.log.read_text())
        answer = served.http.delete(f"/v1/galleries/{gallery}/identities/Ann").json()
        assert answer["removed"] == 1
        assert not copying.done()
        remaining = {entry["where"] for entry in answer["remaining"]}
        assert "the export that is being written" in remaining
        assert copying.result().status_code == 201


@pytest.mark.slow
def test_a_manifest_is_read_below_a_data_directory_behind_a_link(open_service, tmp_path, images):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    served = open_service(data_dir=tmp_path / "data")
    manifest = "path,identity,camera\na.png,0042,gate"
    job = served.import_zip("default", {"a.png": images[0], "manifest.csv": manifest})
    assert served.ended_job(job)["progress"]["landed"] == 1


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_refused_with_its_remedy_and_begins_no_job(served, gallery, images, mode):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(images[0])
        archive.addfile(member, io.BytesIO(images[0]))
    archive = {"archive": ("a.tar", packed.getvalue())}
    answer = served.http.post(f"/v1/galleries/{gallery}/imports", files=archive)
    assert problem(answer) == (415, "unsupported_media_type")
    assert "send its files as a zip" in answer.json()["detail"]
    assert served.results("/v1/jobs", params={"gallery": gallery}) == []


@pytest.mark.promise("hostile-exports")
@pytest.mark.slow
def test_an_import_that_was_killed_goes_on_without_duplicates(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path / "data")
    job = served.import_zip("default", _many(drawn_crops, 400))
    while served.job(job["job_id"])["progress"].get("done", 0) < 64:
        time.sleep(0.01)
    served.kill()
    again = start(data_dir=tmp_path / "data")
    progress = again.ended_job(again.job(job["job_id"]))["progress"]
    assert [progress[count] for count in ("done", "landed", "duplicates")] == [400, 400, 0]
    assert again.read("/v1/galleries/default")["crops"] == 400
    eventually(lambda: not list((tmp_path / "data" / "imports").iterdir()))


def test_a_cancelled_import_keeps_what_it_has_and_stops(served, gallery, drawn_crops):
    # They take longer than any pause between the two requests.
    job = served.import_zip(gallery, _many(drawn_crops, 999))
    while served.job(job["job_id"])["progress"].get("done", 0) < 32:
        time.sleep(0.01)
    assert served.http.delete(f"/v1/jobs/{job['job_id']}").status_code == 200
    ended = served.ended_job(job)
    assert ended["state"] == "cancelled"
    crops = served.read(f"/v1/galleries/{gallery}")["crops"]
    assert crops == ended["progress"]["landed"] < 999


@pytest.mark.slow
def test_a_gallery_that_counts_from_enrolment_keeps_old_footage(open_service, images):
    served = open_service(housekeeping_seconds=0.1)
    old = {"captured_at": "2020-01-01T00:00:00Z"}
    kept = served.create("kept")
    deleted = served.create("deleted")
    for gallery, since, warnings in ((kept, "enrolled", 0), (deleted, "captured", 1)):
        settings = {"retention_days": "1", "retention_from": since}
        changed = served.http.patch(f"/v1/galleries/{gallery}", data=settings).json()
        assert changed["retention_from"] == since
        (landed,) = served.enroll(gallery, images[0], **old).json()["results"]
        assert len(landed["warnings"]) == warnings
    eventually(lambda: not _listed(served, deleted))
    assert len(_listed(served, kept)) == 1


def test_a_retention_is_in_days_or_in_hours(served):
    gallery = served.create("passage", retention_hours="24")
    path = f"/v1/galleries/{gallery}"

    def retention(**sent):
        changed = served.http.patch(path, data=sent)
        assert changed.status_code == 200, changed.text
        assert served.read(path) == changed.json()
        return changed.json()["retention_days"], changed.json()["retention_hours"]

    assert retention(calibration="off") == (None, 24)
    assert retention(retention_days="30") == (30, None)
    assert retention(retention_hours="36") == (None, 36)
    both = served.http.patch(path, data={"retention_days": "1", "retention_hours": "24"})
    assert refused_fields(both) == {"retention_days", "retention_hours"}
    assert retention(retention_days="0") == (None, None)
    assert retention(retention_hours="24") == (None, 24)
    assert retention(retention_hours="0") == (None, None)
    served.http.delete(path)


def test_a_gallery_keeps_its_newest_jobs_with_their_reports(open_service, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "KEPT_JOBS", 2)
    served = open_service(tmp_path, housekeeping_seconds=0.2)
    served.create("other")

    def import_files(gallery, *names):
        url = f"/v1/galleries/{gallery}/imports"
        archive = zip_of(dict.fromkeys(names, b"no image"))
        return served.ended_job(served.http.post(url, files={"archive": archive}).json())["job_id"]

    elsewhere = import_files("other", "x.png")
    old, *kept = [import_files("default", f"{number}.png") for number in range(3)]
    eventually(lambda: served.http.get(f"/v1/jobs/{old}").status_code == 404)
    listed = [job["job_id"] for job in served.results("/v1/jobs")]
    assert listed == [*reversed(kept), elsewhere]
    for job_id, name in ((elsewhere, "x.png"), (kept[0], "1.png")):
        assert name in served.http.get(f"/v1/jobs/{job_id}/report").text
    with open_record(tmp_path) as record:
        assert record.jobs.problems(old, -1, 9) == []


def test_a_query_waits_for_a_version_and_says_when_it_does_not_come(served, filled, images):
    image = images[0]
    assert served.query(filled, image, min_version=1).status_code == 200
    answer = served.query(filled, image, min_version=2)
    assert problem(answer) == (503, "version_not_reached")
    assert answer.headers["Retry-After"] == "1"


def test_a_few_requests_of_one_caller_wait_for_a_version(open_service, images, monkeypatch):
    monkeypatch.setattr(registry, "VERSION_WITHIN_SECONDS", 60.0)
    served = open_service()
    asked = {"crop_id": "unknown", "min_version": "1"}
    path = "/v1/galleries/default/queries"
    with ThreadPoolExecutor(40) as clients:
        waiting = [clients.submit(served.http.post, path, data=asked) for _ in range(40)]
        eventually(lambda: sum(request.done() for request in waiting) == 8)
        served.enrolled("default", images[0])
        answered = Counter(problem(request.result()) for request in waiting)
    assert answered == {(404, "unknown_crop"): 32, (429, "queue_full"): 8}


@pytest.mark.slow
def test_queries_that_wait_for_a_version_take_no_places_from_others(open_service, images):
    served = open_service(max_cost=4)
    image = images[0]
    with ThreadPoolExecutor(8) as clients:
        waiting = [
            clients.submit(served.query, "default", image, min_version=1000) for _ in range(8)
        ]
        time.sleep(0.5)
        assert served.query("default", image).status_code == 200
        assert {future.result().status_code for future in waiting} == {503}


def _many(crops, count):
    """Return that many files of drawn crops; bytes after the end of a PNG make each another one."""
    return {f"{n:03}.png": crops[n % 12].png + n.to_bytes(4, "big") for n in range(count)}
