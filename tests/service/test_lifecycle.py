"""A gallery's life: requests sent twice, names changed, people forgotten, copies restored."""

from __future__ import annotations

import io
import json
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.outside import audit_lines, problem
from tests.service.conftest import files
from tests.waiting import eventually


def _listed(served, gallery: str) -> dict[str, str]:
    answer = served.read(f"/v1/galleries/{gallery}/crops?limit=1000")
    return {crop["crop_id"]: crop["identity"] for crop in answer["results"]}


def test_a_request_sent_again_under_its_key_happens_once(served, gallery, drawn_crops):
    images = files(drawn_crops[0].png, b"no image")
    url = f"/v1/galleries/{gallery}/crops"
    key = {"Idempotency-Key": "shift-1"}
    first = served.http.post(url, files=images, data={"identity": "7"}, headers=key)
    again = served.http.post(url, files=images, data={"identity": "7"}, headers=key)
    assert (first.status_code, again.status_code) == (207, 207)
    assert again.headers.get("Idempotent-Replayed") == "true"
    assert "Idempotent-Replayed" not in first.headers
    (landed, refused) = first.json()["results"]
    (replayed, still_refused) = again.json()["results"]
    assert replayed["crop_id"] == landed["crop_id"]
    assert (replayed["identity"], replayed["duplicate"]) == ("7", False)
    assert still_refused["problem"]["detail"] == refused["problem"]["detail"]
    assert replayed == landed
    for others in (images, images[1:]):
        other = served.http.post(url, files=others, data={"identity": "8"}, headers=key)
        assert problem(other) == (422, "request_conflict")
        assert other.json()["detail"].startswith("Idempotency-Key 'shift-1' came")
    assert len(_listed(served, gallery)) == 1


def test_an_identity_is_renamed_merged_and_found_under_its_new_name(served, filled, drawn_crops):
    one, other = sorted({crop.identity for crop in drawn_crops})[:2]
    url = f"/v1/galleries/{filled}/identities"
    renamed = served.http.patch(f"{url}/{one}", data={"new_identity": "Ann / guest"}).json()
    assert (renamed["identity"], renamed["merged"]) == ("Ann / guest", False)
    image = next(crop.png for crop in drawn_crops if crop.identity == one)
    best = served.search(filled, image, top_k=1)[0]
    assert best["identity"] == "Ann / guest"
    merged = served.http.patch(f"{url}/{other}", data={"new_identity": "Ann / guest"}).json()
    assert merged["merged"]
    assert merged["gallery_version"] == renamed["gallery_version"] + 1
    names = {row["identity"]: row["crops"] for row in served.results(url)}
    assert one not in names
    assert other not in names
    assert names["Ann / guest"] == renamed["changed"] + merged["changed"]
    assert served.http.patch(f"{url}/{one}", data={"new_identity": "x"}).status_code == 404
    assert served.http.patch(f"{url}/Ann %2F guest", data={}).status_code == 422


def test_a_forgotten_person_is_in_no_search_no_snapshot_and_no_restore(
    start, tmp_path, drawn_crops
):
    served = start(data_dir=tmp_path / "data")
    gallery = served.create("lobby")
    served.fill(gallery, drawn_crops, identity=[f"person-{crop.identity}" for crop in drawn_crops])
    url = f"/v1/galleries/{gallery}"
    snapshot = served.http.post(f"{url}/snapshots").json()
    gone = f"person-{drawn_crops[0].identity}"
    theirs = [id_ for id_, who in _listed(served, gallery).items() if who == gone]
    answer = served.http.delete(f"{url}/identities/{gone}").json()
    assert answer["removed"] == len(theirs)
    assert answer["snapshots"] == {snapshot["snapshot_id"]: len(theirs)}
    named = " ".join(entry["where"] for entry in answer["remaining"])
    for place in ("audit log", "other galleries", "backups", "logs of proxies", "Idempotency-Key"):
        assert place in named
    assert "GMN_IMAGES_URL" not in named
    assert served.http.delete(f"{url}/identities/{gone}").status_code == 404
    kept = served.read(f"{url}/snapshots/{snapshot['snapshot_id']}")
    assert kept["crops"] == snapshot["crops"] - len(theirs)
    restored = served.http.post(f"{url}/snapshots/{snapshot['snapshot_id']}/restore").json()
    assert restored["crops"] == len(drawn_crops) - len(theirs)
    found = served.search(gallery, drawn_crops[0].png, top_k=100)
    assert len(found) == len(drawn_crops) - len(theirs)
    assert gone not in {crop["identity"] for crop in found}
    assert served.stop() == 0
    for file in (tmp_path / "data").rglob("*"):
        if file.is_file():
            assert gone.encode() not in file.read_bytes(), file
            assert drawn_crops[0].png[60:120] not in file.read_bytes(), file


def test_a_person_whom_only_a_snapshot_remembers_is_forgotten_there(served, gallery, drawn_crops):
    url = f"/v1/galleries/{gallery}"
    before = served.http.post(f"{url}/snapshots").json()["snapshot_id"]
    served.enroll(gallery, drawn_crops[0].png, identity="Ann")
    with_her = served.http.post(f"{url}/snapshots").json()["snapshot_id"]
    assert served.http.post(f"{url}/snapshots/{before}/restore").json()["crops"] == 0
    answer = served.http.delete(f"{url}/identities/Ann")
    assert answer.status_code == 200
    assert (answer.json()["removed"], answer.json()["snapshots"]) == (0, {with_her: 1})
    assert served.http.delete(f"{url}/identities/Ann").status_code == 404
    assert served.http.post(f"{url}/snapshots/{with_her}/restore").json()["crops"] == 0


def test_a_restore_brings_back_what_was_and_is_served_after_a_restart(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path / "data")
    gallery = served.create("lobby")
    served.enroll(gallery, *(crop.png for crop in drawn_crops[:4]), camera="east")
    before = _listed(served, gallery)
    first = served.search(gallery, drawn_crops[0].png, top_k=9)
    snapshot = served.http.post(f"/v1/galleries/{gallery}/snapshots").json()
    served.enroll(gallery, *(crop.png for crop in drawn_crops[4:8]), camera="east")
    restore = f"/v1/galleries/{gallery}/snapshots/{snapshot['snapshot_id']}/restore"
    version = served.http.post(restore).json()["gallery_version"]
    assert version > snapshot["version"]
    assert served.search(gallery, drawn_crops[0].png, top_k=9) == first
    served.kill()
    again = start(data_dir=tmp_path / "data")
    assert _listed(again, gallery) == before
    assert again.search(gallery, drawn_crops[0].png, top_k=9) == first
    assert again.http.delete(restore.removesuffix("/restore")).status_code == 204
    assert again.http.post(restore).status_code == 404


@pytest.mark.slow
def test_a_damaged_snapshot_is_named_and_changes_nothing(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path / "data")
    url = f"/v1/galleries/{served.create('lobby')}"
    served.enroll("lobby", *(crop.png for crop in drawn_crops[:4]))
    snapshot_id = served.http.post(f"{url}/snapshots").json()["snapshot_id"]
    (file,) = (tmp_path / "data" / "snapshots").rglob("*.gmn/vectors-*.f32")
    file.write_bytes(file.read_bytes()[:-4] + bytes(4))
    before = served.read(url)
    answer = served.http.post(f"{url}/snapshots/{snapshot_id}/restore")
    assert problem(answer) == (409, "damaged_snapshot")
    assert snapshot_id in answer.json()["detail"]
    assert served.read(url) == before


def test_a_damaged_snapshot_keeps_a_forgotten_person_in_no_other(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path / "data")
    gallery = served.create("lobby")
    url = f"/v1/galleries/{gallery}"

    def take() -> str:
        return served.http.post(f"{url}/snapshots").json()["snapshot_id"]

    before = take()
    served.enroll(gallery, *(crop.png for crop in drawn_crops[:2]), identity="Ann")
    damaged = take()
    whole = take()
    (file,) = (tmp_path / "data" / "snapshots").glob(f"*/{damaged}.gmn/record.sqlite3")
    file.write_bytes(bytes(64) + file.read_bytes()[64:])
    answer = served.http.delete(f"{url}/identities/Ann")
    assert problem(answer) == (409, "snapshots_not_rewritten")
    detail = answer.json()["detail"]
    assert "2 crops were deleted from gallery 'lobby' and 1 of its snapshots" in detail
    assert damaged in detail
    assert whole not in detail
    assert f"DELETE {url}/snapshots/" in detail
    assert not _listed(served, gallery)
    forgotten = audit_lines(tmp_path / "data", "forget_identity")
    assert [entry["phase"] for entry in forgotten] == ["asked", "done"]
    assert (forgotten[1]["count"], forgotten[1]["snapshots_not_rewritten"]) == (2, [damaged])
    assert served.http.post(f"{url}/snapshots/{whole}/restore").json()["crops"] == 0
    # A person who is only in snapshots is forgotten in every snapshot that can be rewritten.
    served.enroll(gallery, drawn_crops[2].png, identity="Bob")
    later = take()
    served.http.post(f"{url}/snapshots/{before}/restore").raise_for_status()
    assert served.http.delete(f"{url}/identities/Bob").status_code == 409
    assert served.http.post(f"{url}/snapshots/{later}/restore").json()["crops"] == 0
    assert served.http.delete(f"{url}/snapshots/{damaged}").status_code == 204
    assert served.http.delete(f"{url}/identities/Bob").status_code == 404


@pytest.mark.slow
def test_forgetting_in_one_gallery_does_not_wait_for_the_copy_of_another(start, drawn_crops):
    served = start(failpoint="snapshot.written=delay:8")
    gallery = served.create("lobby")
    served.enroll(gallery, drawn_crops[0].png, identity="Ann")
    with ThreadPoolExecutor(1) as other:
        copying = other.submit(served.http.post, "/v1/galleries/default/snapshots")
        eventually(lambda: "failpoint snapshot.written" in served.log.read_text())
        answer = served.http.delete(f"/v1/galleries/{gallery}/identities/Ann")
        assert answer.json()["removed"] == 1
        assert not copying.done()
        assert copying.result().status_code == 201


def test_an_archive_is_imported_as_a_job_and_its_problems_reported(served, gallery, drawn_crops):
    entries = {f"people/{number}.png": crop.png for number, crop in enumerate(drawn_crops[:6])}
    entries |= {"people/6.png": b"no image", "../7.png": drawn_crops[7].png}
    entries |= {"people/copy.png": drawn_crops[0].png, "read me.txt": b"-"}
    job = served.ended_job(served.import_zip(gallery, entries, camera="east"))
    assert (job["state"], job["problems"]) == ("done", 3)
    expected = {"total": 9, "done": 9, "landed": 6, "duplicates": 1, "refused": 2, "ignored": 1}
    assert job["progress"] == expected
    report = served.http.get(f"/v1/jobs/{job['job_id']}/report")
    assert report.headers["content-type"].startswith("text/csv")
    assert "../7.png,not_unpacked" in report.text
    assert "people/6.png,not_an_image" in report.text
    assert "read me.txt,ignored" in report.text
    crops = served.results(f"/v1/galleries/{gallery}/crops")
    assert {crop["camera"] for crop in crops} == {"east"}


def test_a_manifest_in_a_zip_says_who_and_where(served, gallery, drawn_crops):
    entries = {f"{number}.png": crop.png for number, crop in enumerate(drawn_crops[:3])}
    rows = [f"{n}.png,00{n},gate,2026-03-01T09:30:00Z" for n in range(3)]
    entries["manifest.csv"] = "\n".join(["path,identity,camera,captured_at", *rows])
    job = served.ended_job(served.import_zip(gallery, entries))
    assert job["progress"]["landed"] == 3, job
    crops = served.results(f"/v1/galleries/{gallery}/crops")
    assert [crop["identity"] for crop in crops] == ["000", "001", "002"]
    assert {(crop["camera"], crop["captured_at"]) for crop in crops} == {
        ("gate", "2026-03-01T09:30:00Z")
    }


@pytest.mark.slow
def test_a_manifest_is_read_below_a_data_directory_behind_a_link(start, tmp_path, drawn_crops):
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to("disk")
    served = start(data_dir=tmp_path / "data")
    manifest = "path,identity,camera\na.png,0042,gate"
    job = served.import_zip("default", {"a.png": drawn_crops[0].png, "manifest.csv": manifest})
    assert served.ended_job(job)["progress"]["landed"] == 1


def test_progress_is_told_as_it_goes_until_the_end(served, gallery, drawn_crops):
    entries = {f"{number}.png": crop.png for number, crop in enumerate(drawn_crops)}
    job = served.import_zip(gallery, entries)
    seen = []
    with served.http.stream("GET", f"/v1/jobs/{job['job_id']}/events") as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        for line in events.iter_lines():
            if line.startswith("data: "):
                seen.append(json.loads(line.removeprefix("data: ")))
    assert seen[-1]["state"] == "done"
    assert seen[-1]["progress"]["landed"] == len(drawn_crops)


@pytest.mark.parametrize("content", [b"nothing like it", b""])
def test_what_is_no_archive_fails_as_a_job_that_says_why(served, gallery, content):
    url = f"/v1/galleries/{gallery}/imports"
    job = served.ended_job(served.http.post(url, files={"archive": ("a", content)}).json())
    assert job["state"] == "failed"
    assert "not a zip" in job["detail"]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_refused_with_its_remedy_and_begins_no_job(served, gallery, drawn_crops, mode):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(drawn_crops[0].png)
        archive.addfile(member, io.BytesIO(drawn_crops[0].png))
    answer = served.http.post(
        f"/v1/galleries/{gallery}/imports", files={"archive": ("a.tar", packed.getvalue())}
    )
    assert answer.status_code == 415
    assert answer.json()["type"].endswith(":unsupported_media_type")
    assert "send a zip" in answer.json()["detail"]
    assert served.results("/v1/jobs", params={"gallery": gallery}) == []


@pytest.mark.slow
def test_a_folder_is_imported_only_from_below_the_import_directory(start, tmp_path, drawn_crops):
    inside = tmp_path / "mounted" / "monday"
    inside.mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    for number, crop in enumerate(drawn_crops[:3]):
        (inside / f"{number}.png").write_bytes(crop.png)
        (tmp_path / "secret" / f"{number}.png").write_bytes(crop.png)
    served = start(import_dir=tmp_path / "mounted")
    url = "/v1/galleries/default/imports"
    for folder in ("../secret", str(tmp_path / "secret"), "tuesday"):
        assert served.http.post(url, data={"folder": folder}).status_code == 422
    job = served.ended_job(served.http.post(url, data={"folder": "monday"}).json())
    assert job["progress"]["landed"] == 3


@pytest.mark.slow
def test_an_import_that_was_killed_goes_on_without_duplicates(start, tmp_path, drawn_crops):
    served = start(data_dir=tmp_path / "data")
    job = served.import_zip("default", _many(drawn_crops, 400))
    while served.job(job["job_id"])["progress"].get("done", 0) < 64:
        time.sleep(0.01)
    served.kill()
    again = start(data_dir=tmp_path / "data")
    ended = again.ended_job(again.job(job["job_id"]))
    assert ended["progress"] == {
        "total": 400,
        "done": 400,
        "landed": 400,
        "duplicates": 0,
        "refused": 0,
        "ignored": 0,
    }
    assert again.read("/v1/galleries/default")["crops"] == 400
    eventually(lambda: not list((tmp_path / "data" / "imports").iterdir()))


def test_a_cancelled_import_keeps_what_it_has_and_stops(served, gallery, drawn_crops):
    job = served.import_zip(gallery, _many(drawn_crops, 300))
    while served.job(job["job_id"])["progress"].get("done", 0) < 32:
        time.sleep(0.01)
    assert served.http.delete(f"/v1/jobs/{job['job_id']}").status_code == 200
    ended = served.ended_job(job)
    assert ended["state"] == "cancelled"
    crops = served.read(f"/v1/galleries/{gallery}")["crops"]
    assert crops == ended["progress"]["landed"] < 300


@pytest.mark.slow
def test_a_gallery_that_counts_from_enrolment_keeps_old_footage(start, drawn_crops):
    served = start(housekeeping_seconds=0.1)
    old = {"captured_at": "2020-01-01T00:00:00Z"}
    kept = served.create("kept")
    deleted = served.create("deleted")
    for gallery, since in ((kept, "enrolled"), (deleted, "captured")):
        settings = {"retention_days": "1", "retention_from": since}
        changed = served.http.patch(f"/v1/galleries/{gallery}", data=settings).json()
        assert changed["retention_from"] == since
    (landed,) = served.enroll(kept, drawn_crops[0].png, **old).json()["results"]
    assert landed["warnings"] == []
    (landed,) = served.enroll(deleted, drawn_crops[0].png, **old).json()["results"]
    assert "past the 1 days that this gallery keeps crops" in landed["warnings"][0]
    eventually(lambda: not _listed(served, deleted))
    assert len(_listed(served, kept)) == 1


def test_a_query_waits_for_a_version_and_says_when_it_does_not_come(served, filled, drawn_crops):
    version = served.read(f"/v1/galleries/{filled}")["version"]
    image = drawn_crops[0].png
    assert served.query(filled, image, min_version=version).status_code == 200
    answer = served.query(filled, image, min_version=version + 1)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert answer.json()["type"] == "urn:gmn:problem:version_not_reached"


@pytest.mark.slow
def test_queries_that_wait_for_a_version_take_no_places_from_others(start, drawn_crops):
    served = start(max_cost=4)
    image = drawn_crops[0].png
    with ThreadPoolExecutor(8) as clients:
        waiting = [
            clients.submit(served.query, "default", image, min_version=1000) for _ in range(8)
        ]
        time.sleep(0.5)
        assert served.query("default", image).status_code == 200
        assert {future.result().status_code for future in waiting} == {503}


def _many(crops, count: int) -> dict[str, bytes]:
    """Return that many files of drawn crops; bytes after the end of a PNG make each another one."""
    numbers = range(count)
    return {f"{n:03}.png": crops[n % 12].png + n.to_bytes(4, "big") for n in numbers}
