"""Crops without a name are grouped by person: suggestions that follow names and deletions."""

import pytest

from tests.outside import problem
from tests.service.conftest import START


@pytest.fixture
def unnamed(served, gallery, drawn_crops):
    """Enroll crops without names, two or three a person, and return each crop's person."""
    shown = [crop for place, crop in enumerate(drawn_crops[::4]) for _ in range(2 + place % 2)]
    # The bytes after a PNG's end make each image another one.
    images = [crop.png + bytes([number]) for number, crop in enumerate(shown)]
    ids = served.enrolled(gallery, *images, camera="east")
    return dict(zip(ids, (crop.identity for crop in shown), strict=True))


def _grouped(served, gallery, **fields):
    job = served.http.post(f"/v1/galleries/{gallery}/groups", data=fields)
    assert job.status_code == 202, job.text
    ended = served.ended_job(job.json())
    assert ended["state"] == "done", (ended, served.log.read_text()[-3000:])
    assert ended["kind"] == "grouping"
    return served.read(f"/v1/galleries/{gallery}/groups")


def test_crops_of_one_person_come_together_and_are_named_in_one_step(served, gallery, unnamed):
    url = f"/v1/galleries/{gallery}"
    before = served.read(f"{url}/groups")
    assert (before["job_id"], before["results"], before["single"]) == (None, [], 0)
    found = _grouped(served, gallery)
    groups = found["results"]
    assert sum(len(group["crop_ids"]) for group in groups) == len(unnamed)
    assert found["single"] == 0
    assert all(0.0 <= group["probability"] <= 1.0 for group in groups)
    sizes = [len(group["crop_ids"]) for group in groups]
    assert sizes == sorted(sizes, reverse=True)
    assert all(len({unnamed[crop_id] for crop_id in group["crop_ids"]}) == 1 for group in groups)
    first = groups[0]["crop_ids"]
    renamed = served.http.patch(f"{url}/crops", data={"crop_ids": first, "new_identity": "Ann"})
    assert renamed.json()["changed"] == len(first)
    left = served.read(f"{url}/groups")
    assert (left["job_id"], left["results"]) == (found["job_id"], groups[1:])
    # A group of one is none.
    for crop_id in groups[-1]["crop_ids"][1:]:
        served.delete_crop(gallery, crop_id)
    left = served.read(f"{url}/groups")
    assert (left["results"], left["single"]) == (groups[1:-1], 1)


def test_only_crops_of_a_camera_and_without_a_name_are_grouped(served, gallery, images):
    served.enroll(gallery, *images[:6], camera=["east"] * 2 + ["west"] * 4)
    served.enroll(gallery, images[6], camera="west", identity="Ann")
    assert _grouped(served, gallery, camera="west")["gallery_version"] == 2
    (job, *_) = served.results("/v1/jobs", params={"gallery": gallery})
    found = _grouped(served, gallery, camera="west")["results"]
    grouped = sum(len(group["crop_ids"]) for group in found)
    assert job["progress"] == {"total": 4, "done": 4, "groups": len(found), "grouped": grouped}
    # No crop passes: an empty result, and no error.
    assert _grouped(served, gallery, camera="north")["results"] == []


@pytest.mark.slow
def test_too_many_crops_are_refused_with_the_remedy(start, images):
    served = start(program=f"from service.visits import grouping; grouping.MOST_CROPS = 3\n{START}")
    served.enroll("default", *images[:4], camera="east")
    url = "/v1/galleries/default/groups"
    refused = served.http.post(url)
    assert problem(refused) == (422, "invalid_field")
    assert "send a camera or a shorter time" in refused.json()["detail"]
    ended = served.ended_job(served.http.post(url, data={"camera": "east"}).json())
    assert (ended["state"], "more than 3 unnamed crops" in ended["detail"]) == ("failed", True)
