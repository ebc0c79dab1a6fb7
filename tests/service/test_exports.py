"""Exports: what they hold, who gets them, and what an import of one stores."""

import csv
import io
import json
import stat
import zipfile
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from service.store.exports import MOST_EXPORTS
from tests.outside import audit_lines, crop_ids, problem, zip_of
from tests.waiting import eventually

LABELS = {
    "camera": "east",
    "captured_at": "2026-03-01T09:30:00Z",
    "external_id": "7/a",
    "metadata": '{"shift":"night"}',
    "track": "17",
}
COUNTS = ("landed", "duplicates", "refused", "deleted")


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


def counts_of(job):
    assert (job["state"], job["problems"]) == ("done", 0), job
    return tuple(job["progress"][name] for name in COUNTS)


def crops_of(served, gallery):
    """Return the crops of a gallery without what its name decides."""
    crops = served.results(f"/v1/galleries/{gallery}/crops", params={"limit": 1000})
    return [{**crop, "image_url": crop["image_url"] is not None} for crop in crops]


def unpacked(content):
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


@pytest.fixture
def other(served, gallery):
    """Return a second, empty gallery."""
    return served.create(f"other.{gallery[-50:]}")


def test_an_export_is_a_zip_that_ordinary_tools_read(served, filled, drawn_crops):
    files = unpacked(served.export(filled))
    description = json.loads(files["gmn-export.json"])
    crops = list(csv.DictReader(io.StringIO(files["manifest.csv"].decode())))
    vectors = np.load(io.BytesIO(files["vectors.npy"]), allow_pickle=False)
    assert description["gallery"] == filled
    assert len(crops) == description["crops"] == description["pictures"] == len(drawn_crops)
    assert len(vectors) == len(crops)
    listed = served.results(
        f"/v1/galleries/{filled}/crops", params={"limit": 1000, "include_vector": True}
    )
    for crop, row, shown in zip(crops, vectors, listed, strict=True):
        for name in ("crop_id", "identity", "camera"):
            assert crop[name] == shown[name]
        assert row.tolist() == pytest.approx(shown["vector"])
        assert files[crop["path"]] == served.http.get(shown["image_url"]).content


def test_an_export_gives_another_gallery_the_same_crops_ids_and_scores(
    served, gallery, other, drawn_crops
):
    served.fill(gallery, drawn_crops[1:])
    # Spreadsheets drop such spaces.
    served.enrolled(gallery, drawn_crops[0].png, identity=' "Ann", the first ', **LABELS)
    job = served.import_archive(other, served.export(gallery))
    assert counts_of(job) == (24, 0, 0, 0)
    assert job["progress"]["total"] == job["progress"]["done"] == 24
    assert crops_of(served, other) == crops_of(served, gallery)
    for crop in drawn_crops[:3]:
        asked = {"top_k": "24", "scoring": "mnet", "rerank_depth": "24"}
        first, second = (served.search(name, crop.png, **asked) for name in (gallery, other))
        assert [(hit["crop_id"], hit["cosine"], hit["verdict"]) for hit in second] == [
            (hit["crop_id"], hit["cosine"], hit["verdict"]) for hit in first
        ]
    for hit in first[:3]:
        pictures = [
            served.http.get(f"/v1/galleries/{name}/crops/{hit['crop_id']}/image").content
            for name in (gallery, other)
        ]
        assert pictures[0] == pictures[1]


def test_crops_that_a_gallery_has_stay_as_they_are(served, gallery, drawn_crops):
    first, _ = served.fill(gallery, drawn_crops[:2])
    content = served.export(gallery)
    url = f"/v1/galleries/{gallery}/crops/{first}"
    assert served.http.patch(url, data={"identity": "Zoe"}).status_code == 200
    assert counts_of(served.import_archive(gallery, content)) == (0, 2, 0, 0)
    assert served.read(url)["identity"] == "Zoe"
    assert len(crops_of(served, gallery)) == 2


@pytest.mark.promise("2")
def test_who_was_forgotten_comes_back_by_no_import_into_any_gallery(
    served, gallery, other, drawn_crops
):
    served.fill(gallery, drawn_crops)
    person = drawn_crops[0].identity
    theirs = sum(crop.identity == person for crop in drawn_crops)
    content = served.export(gallery)
    answer = served.http.delete(f"/v1/galleries/{gallery}/identities/{person}").json()
    assert answer["removed"] == theirs
    for name, landed in ((gallery, 0), (other, 24 - theirs)):
        job = served.import_archive(name, content)
        assert counts_of(job) == (landed, 24 - theirs - landed, 0, theirs)
        assert job["detail"] == f"{theirs} crops were deleted from this service and left out"
        assert person not in {crop["identity"] for crop in crops_of(served, name)}
    # Nor once the gallery is gone, or the crops were deleted one by one.
    (first, *_) = crop_ids(served.http.get(f"/v1/galleries/{other}/crops"))
    served.delete_crop(other, first)
    assert served.http.delete(f"/v1/galleries/{gallery}").status_code == 200
    assert served.http.delete(f"/v1/galleries/{other}").status_code == 200
    again = served.create(gallery)
    assert counts_of(served.import_archive(again, content)) == (23 - theirs, 0, 0, theirs + 1)


def test_forgetting_in_a_copy_leaves_the_searches_of_the_first_gallery(
    served, gallery, other, drawn_crops
):
    served.enrolled(gallery, drawn_crops[0].png, identity="Ann")
    served.import_archive(other, served.export(gallery))
    url = f"/v1/galleries/{gallery}"
    kept = served.query(gallery, drawn_crops[0].png, keep="true").json()["query_id"]
    forgotten = served.http.delete(f"/v1/galleries/{other}/identities/Ann").json()
    assert (forgotten["removed"], forgotten["kept_searches"]) == (1, 0)
    assert served.http.get(f"{url}/queries/{kept}").status_code == 200
    assert served.http.delete(f"{url}/identities/Ann").json()["kept_searches"] == 1
    assert served.http.get(f"{url}/queries/{kept}").status_code == 404


@pytest.mark.promise("2")
def test_forgetting_names_the_exports_that_hold_the_person(served, gallery, drawn_crops):
    url = f"/v1/galleries/{gallery}"
    served.export(gallery)
    first, *_ = served.fill(gallery, drawn_crops[:1])
    served.export(gallery)
    served.http.patch(f"{url}/crops/{first}", data={"identity": "Ann"})
    served.enrolled(gallery, drawn_crops[5].png, identity="Ann")
    export = served.http.post(f"{url}/exports").json()
    before = served.results(f"{url}/exports")[1]
    remaining = served.http.delete(f"{url}/identities/Ann").json()["remaining"]
    named = {place["where"]: place["what"] for place in remaining if "export" in place["where"]}
    assert named.get(f"export {before['export_id']}", "").startswith("1 crop of this person")
    assert named.get(f"export {export['export_id']}", "").startswith("2 crops of this person")
    assert len([where for where in named if where.startswith("export ")]) == 2


def test_a_damaged_export_is_named_too_and_keeps_nobody_from_being_forgotten(
    open_service, tmp_path, drawn_crops
):
    served = open_service(tmp_path)
    served.fill("default", drawn_crops[:2], identity="Ann")
    served.export("default")
    (file,) = tmp_path.glob("exports/*/*/export.zip")
    file.write_bytes(file.read_bytes()[:1000])
    answer = served.http.delete("/v1/galleries/default/identities/Ann")
    assert answer.json()["removed"] == 2
    remaining = {place["where"]: place["what"] for place in answer.json()["remaining"]}
    assert "the file is damaged" in remaining[f"export {file.parent.name}"]


def test_an_export_of_another_model_is_embedded_again(
    open_service, other_artefact, served, filled, drawn_crops
):
    content = served.export(filled)
    newer = open_service(artefact=other_artefact)
    assert counts_of(newer.import_archive("default", content)) == (24, 0, 0, 0)
    assert crop_ids(newer.http.get("/v1/galleries/default/crops")) == crop_ids(
        served.http.get(f"/v1/galleries/{filled}/crops")
    )
    images = [crop.png for crop in drawn_crops[:2]]
    newer.create("fresh")
    newer.enrolled("fresh", *images)
    for image in images:
        cosines = [
            newer.search(name, image, top_k="1")[0]["cosine"] for name in ("default", "fresh")
        ]
        assert cosines[0] == pytest.approx(cosines[1], abs=1e-5)


def test_crops_without_pictures_of_an_export_of_another_model_are_named_with_the_remedy(
    open_service, other_artefact, drawn_crops
):
    served = open_service(keep_images="none")
    first, *_ = served.fill("default", drawn_crops[:3])
    newer = open_service(artefact=other_artefact)
    job = newer.import_archive("default", served.export("default"))
    assert (job["state"], job["progress"]["refused"], job["problems"]) == ("done", 3, 3)
    _, line, *_ = newer.http.get(f"/v1/jobs/{job['job_id']}/report").text.splitlines()
    assert line.startswith(f"0,{first},unreadable,")
    assert "serves the model of the export" in line
    assert crops_of(newer, "default") == []


@pytest.mark.promise("exports")
def test_exports_are_listed_read_and_deleted_and_end_with_their_gallery(
    open_service, tmp_path, drawn_crops
):
    served = open_service(tmp_path)
    served.create("lobby")
    served.fill("lobby", drawn_crops[:2])
    url = "/v1/galleries/lobby/exports"
    made = served.http.post(url, data={"expires_days": "3"})
    export = made.json()
    path = f"{url}/{export['export_id']}"
    assert made.headers["Location"] == path
    assert (export["crops"], export["pictures"]) == (2, 2)
    created, expires = (datetime.fromisoformat(export[n]) for n in ("created_at", "expires_at"))
    assert timedelta(days=3) - timedelta(minutes=1) < expires - created <= timedelta(days=3)
    assert served.read(path) == export
    content = served.http.get(f"{path}/content")
    assert content.headers["Content-Type"] == "application/zip"
    assert len(content.content) == export["bytes"]
    rest = served.http.get(f"{path}/content", headers={"Range": "bytes=100-"})
    assert (rest.status_code, rest.content) == (206, content.content[100:])
    folder = tmp_path / "exports"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert served.http.delete(path).status_code == 204
    assert problem(served.http.get(path)) == (404, "unknown_export")
    assert problem(served.http.get(f"{path}/content")) == (404, "unknown_export")
    assert served.results(url) == []
    assert list(folder.glob("*/*")) == []
    served.export("lobby")
    assert served.http.delete("/v1/galleries/lobby").status_code == 200
    assert list(folder.glob("*")) == []
    for event in ("make_export", "read_export", "download_export", "delete_export"):
        # The line about a view is written after its answer.
        eventually(lambda event=event: audit_lines(tmp_path, event))
        *_, last = audit_lines(tmp_path, event)
        assert (last["phase"], last["count"], last["gallery"]) == ("done", 2, "lobby")


def test_a_gallery_has_eight_exports_at_most(served, gallery):
    url = f"/v1/galleries/{gallery}/exports"
    made = [served.http.post(url) for _ in range(MOST_EXPORTS + 1)]
    assert [answer.status_code for answer in made] == [201] * MOST_EXPORTS + [409]
    assert problem(made[-1]) == (409, "export_conflict")
    assert len(served.results(url)) == MOST_EXPORTS


@pytest.mark.promise("exports")
def test_an_expired_export_is_served_no_more_and_leaves_the_disk(start, tmp_path, drawn_crops):
    served = start(tmp_path)
    served.fill("default", drawn_crops[:1])
    served.export("default")
    served.kill()
    (listed,) = tmp_path.glob("exports/*/*/listed.json")
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    listed.write_text(json.dumps({**json.loads(listed.read_text()), "expires_at": past}))
    again = start(tmp_path, housekeeping_seconds=3600)
    assert again.results("/v1/galleries/default/exports") == []
    again.kill()
    start(tmp_path, housekeeping_seconds=0.2)
    eventually(lambda: not list(tmp_path.glob("exports/*/*")))


def test_an_export_from_before_the_known_deletions_needs_an_explicit_yes(
    served, gallery, other, drawn_crops
):
    served.fill(gallery, drawn_crops[:2])
    files = unpacked(served.export(gallery))
    old = (datetime.now(UTC) - timedelta(days=401)).isoformat()
    description = json.loads(files["gmn-export.json"]) | {"created_at": old}
    files["gmn-export.json"] = json.dumps(description)
    refused = served.import_archive(other, zip_of(files))
    assert refused["state"] == "failed"
    assert refused["detail"].startswith("accept_undeleted: the export is from")
    assert crops_of(served, other) == []
    job = served.import_archive(other, zip_of(files), accept_undeleted="true")
    assert counts_of(job) == (2, 0, 0, 0)
    assert "who was forgotten in between may come back" in job["detail"]
    assert job["progress"]["unchecked"] == 2


def test_an_export_that_was_packed_again_in_a_folder_is_imported(
    served, gallery, other, drawn_crops
):
    served.fill(gallery, drawn_crops[:2])
    files = unpacked(served.export(gallery))
    again = zip_of({f"lobby/{name}": body for name, body in reversed(files.items())})
    assert counts_of(served.import_archive(other, again)) == (2, 0, 0, 0)


@pytest.mark.promise("2")
def test_an_unpacked_export_in_a_folder_is_still_one(open_service, tmp_path, drawn_crops):
    served = open_service(import_dir=tmp_path)
    first, second = served.fill("default", drawn_crops[:2])
    with zipfile.ZipFile(io.BytesIO(served.export("default"))) as archive:
        archive.extractall(tmp_path / "lobby")
    served.delete_crop("default", first)
    served.create("copy")
    answer = served.http.post("/v1/galleries/copy/imports", data={"folder": "lobby"})
    assert counts_of(served.ended_job(answer.json())) == (1, 0, 0, 1)
    assert crop_ids(served.http.get("/v1/galleries/copy/crops")) == [second]


def test_an_export_needs_an_administrator_of_the_gallery(open_service, drawn_crops):
    served = open_service()
    served.create("lobby")
    served.fill("lobby", drawn_crops[:1])
    _, admin = served.make_key("admin")
    made = served.http.post("/v1/galleries/lobby/exports", headers=admin)
    path = made.headers["Location"]
    keys = [
        served.http.post("/v1/keys", data=fields, headers=admin).json()["key"]
        for fields in (
            {"scopes": ["query", "enroll", "delete"], "gallery": "lobby"},
            {"scopes": ["admin"], "gallery": "default"},
        )
    ]
    for key in keys:
        sent = {"headers": {"Authorization": f"Bearer {key}"}}
        for method, url in (
            ("POST", "/v1/galleries/lobby/exports"),
            ("GET", "/v1/galleries/lobby/exports"),
            ("GET", path),
            ("GET", f"{path}/content"),
            ("DELETE", path),
        ):
            assert served.http.request(method, url, **sent).status_code == 403
