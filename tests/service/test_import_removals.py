"""Removal of what an import brought: the crops that it stored, and no others."""

import threading
from uuid import uuid4

import pytest

from model.crops import unpack
from tests.outside import audit_lines, crop_ids, problem, zip_of_crops
from tests.waiting import LONGEST_SECONDS

pytestmark = pytest.mark.promise("import-removal")


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


@pytest.fixture
def imported(served, gallery, drawn_crops):
    """Return an import of four images, of which the gallery had one before."""
    served.enrolled(gallery, drawn_crops[0].png)
    job = served.import_archive(gallery, zip_of_crops(drawn_crops[:4]))
    assert (job["progress"]["landed"], job["progress"]["duplicates"]) == (3, 1)
    return job


def remove(served, gallery, job, **fields):
    path = f"/v1/galleries/{gallery}/imports/{job['job_id']}/crops"
    return served.http.request("DELETE", path, data=fields)


def removed(served, gallery, job):
    """Remove what an import brought, and return the job that did so."""
    answer = remove(served, gallery, job)
    assert answer.status_code == 202, answer.text
    begun = answer.json()["job"]
    assert answer.headers["Location"] == f"/v1/jobs/{begun['job_id']}"
    return served.ended_job(begun)


def test_what_an_import_brought_goes_and_what_was_there_before_or_came_later_stays(
    served, gallery, imported, drawn_crops
):
    first, *brought = crop_ids(served.http.get(f"/v1/galleries/{gallery}/crops"))
    (later,) = served.enrolled(gallery, drawn_crops[8].png)
    job = removed(served, gallery, imported)
    assert (job["kind"], job["state"]) == ("removal", "done")
    assert job["progress"] == {"total": 3, "done": 3}
    assert crop_ids(served.http.get(f"/v1/galleries/{gallery}/crops")) == [first, later]
    assert not {*brought} & {*served.found(gallery, drawn_crops[1].png)}
    # Again there is nothing to do.
    assert removed(served, gallery, imported)["progress"] == {"total": 0, "done": 0}
    # A crop that is enrolled anew is another one.
    again = served.enrolled(gallery, drawn_crops[1].png)
    assert removed(served, gallery, imported)["progress"]["done"] == 0
    assert {*again} <= {*crop_ids(served.http.get(f"/v1/galleries/{gallery}/crops"))}


def test_a_dry_run_tells_what_became_of_the_crops_and_removes_none(
    served, gallery, imported, drawn_crops
):
    url = f"/v1/galleries/{gallery}"
    _, renamed, reviewed, _ = crop_ids(served.http.get(f"{url}/crops"))
    named = served.http.patch(f"{url}/crops/{renamed}", data={"identity": "Ann"})
    assert named.status_code == 200
    assert (
        served.http.patch(f"{url}/identities/Ann", data={"new_identity": "Anna"}).status_code == 200
    )
    search = served.query(gallery, drawn_crops[2].png, keep="true", top_k="1").json()
    assert search["results"][0]["crop_id"] == reviewed
    review = {"decision": "confirmed", "crop_ids": reviewed}
    path = f"{url}/queries/{search['query_id']}"
    assert served.http.post(f"{path}/reviews", data=review).is_success
    case = served.http.post(f"{url}/cases", data={"name": "theft"}).json()["case_id"]
    held = f"{url}/cases/{case}/queries/{search['query_id']}"
    assert served.http.put(held).is_success
    answer = remove(served, gallery, imported, dry_run="true")
    assert answer.json() == {
        "crops": 3,
        "renamed": 1,
        "reviewed": 1,
        "in_cases": 1,
        "duplicates": 1,
        "job": None,
    }
    assert len(crop_ids(served.http.get(f"{url}/crops"))) == 4


def test_crops_of_an_export_that_an_import_brought_are_removed_and_stay_so(
    served, gallery, drawn_crops
):
    served.fill(gallery, drawn_crops[:3])
    content = served.export(gallery)
    other = served.create(f"other.{uuid4().hex[:8]}")
    job = served.import_archive(other, content)
    assert removed(served, other, job)["progress"]["done"] == 3
    assert served.read(f"/v1/galleries/{other}")["crops"] == 0
    assert served.read(f"/v1/galleries/{gallery}")["crops"] == 3
    assert served.import_archive(other, content)["progress"]["deleted"] == 3


def test_the_crops_of_other_imports_galleries_and_kinds_of_jobs_are_unknown(
    served, gallery, imported
):
    other = served.create(f"other.{uuid4().hex[:8]}")
    grouping = served.http.post(f"/v1/galleries/{gallery}/groups").json()
    served.ended_job(grouping)
    for name, job_id in (
        (other, imported["job_id"]),
        (gallery, grouping["job_id"]),
        (gallery, "unknown"),
    ):
        answer = remove(served, name, {"job_id": job_id})
        assert problem(answer) == (404, "unknown_job")


def test_an_import_that_waits_or_runs_is_not_removed(served, gallery, drawn_crops, monkeypatch):
    may_go_on = threading.Event()
    unpack_entry = unpack._unpack

    def wait_and_unpack(*given):
        may_go_on.wait(LONGEST_SECONDS)
        return unpack_entry(*given)

    monkeypatch.setattr(unpack, "_unpack", wait_and_unpack)
    job = served.import_zip(gallery, {"a.png": drawn_crops[0].png})
    answer = remove(served, gallery, job)
    may_go_on.set()
    assert problem(answer) == (409, "job_unfinished")
    assert served.ended_job(job)["progress"]["landed"] == 1
    assert removed(served, gallery, job)["progress"]["done"] == 1


def test_a_removal_needs_an_administrator_and_is_in_the_audit_log(
    open_service, tmp_path, drawn_crops
):
    served = open_service(tmp_path)
    job = served.import_archive("default", zip_of_crops(drawn_crops[:2]))
    _, admin = served.make_key("admin")
    fields = {"scopes": ["query", "enroll", "delete"]}
    key = served.http.post("/v1/keys", data=fields, headers=admin).json()["key"]
    path = f"/v1/galleries/default/imports/{job['job_id']}/crops"
    refused = served.http.delete(path, headers={"Authorization": f"Bearer {key}"})
    assert problem(refused) == (403, "forbidden")
    served.http.headers.update(admin)
    removed(served, "default", job)
    *_, asked, done = audit_lines(tmp_path, "delete_imported")[:2]
    assert (asked["phase"], done["phase"], done["count"]) == ("asked", "done", 2)
    assert done["import_job"] == job["job_id"]


@pytest.mark.slow
def test_a_removal_that_was_killed_goes_on(start, tmp_path, drawn_crops):
    served = start(tmp_path, failpoint="delete-crop.committed")
    job = served.import_archive("default", zip_of_crops(drawn_crops))
    (kept,) = served.enrolled("default", drawn_crops[0].png, identity="Ann")
    begun = remove(served, "default", job).json()["job"]
    served.ended_with(30)
    again = start(tmp_path)
    ended = again.ended_job(again.job(begun["job_id"]))
    assert ended["state"] == "done"
    assert crop_ids(again.http.get("/v1/galleries/default/crops")) == [kept]


def test_images_outside_the_record_go_with_what_an_import_brought(
    open_service, tmp_path, drawn_crops
):
    folder = tmp_path / "crops"
    served = open_service(tmp_path / "data", images_url=folder.as_uri())
    (kept,) = served.enrolled("default", drawn_crops[0].png)
    job = served.import_archive("default", zip_of_crops(drawn_crops[:3]))
    assert len(list(folder.glob("*/*"))) == 3
    removed(served, "default", job)
    assert [path.name for path in folder.glob("*/*")] == [kept]
