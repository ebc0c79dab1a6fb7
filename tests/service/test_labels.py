"""Labels of crops change while the service runs: `PATCH` of a crop, and undone merges."""

import json

import pytest

from gmn_client import Client
from tests.outside import audit_lines, problem


def _crops(served, gallery):
    listed = served.results(f"/v1/galleries/{gallery}/crops?limit=1000")
    return {crop["crop_id"]: crop for crop in listed}


def test_an_unnamed_crop_is_named_and_found_by_its_new_labels(served, gallery, images):
    enrolled = served.enroll(gallery, images[0], camera="east").json()
    crop_id = enrolled["results"][0]["crop_id"]
    url = f"/v1/galleries/{gallery}/crops"
    labels = {"identity": "Ann", "camera": "west", "captured_at": "2026-03-01T09:30:00Z"}
    changed = served.http.patch(
        f"{url}/{crop_id}", data={**labels, "external_id": "x1", "metadata": '{"shift": "night"}'}
    )
    assert changed.status_code == 200
    answer = changed.json()
    assert answer["gallery_version"] == enrolled["gallery_version"] + 1
    expected = {**labels, "external_id": "x1", "metadata": {"shift": "night"}}
    assert answer["crop"].items() >= expected.items()
    assert _crops(served, gallery) == {crop_id: answer["crop"]}
    passing = {"cameras": "west", "captured_after": "2026-03-01T09:00:00Z"}
    (found,) = served.search(gallery, images[0], **passing)
    assert (found["crop_id"], found["identity"]) == (crop_id, "Ann")
    # Fields that are not sent stay; an empty one is unknown from now on.
    cleared = served.http.patch(f"{url}/{crop_id}", data={"camera": ""}).json()["crop"]
    assert (cleared["camera"], cleared["identity"]) == (None, "Ann")
    assert served.search(gallery, images[0], **passing) == []


def test_a_crop_that_cannot_be_changed_so_says_why(served, gallery, images):
    first, second = (
        served.enrolled(gallery, images[0], identity=name)[0] for name in ("Ann", "Eve")
    )
    url = f"/v1/galleries/{gallery}/crops"
    alike = served.http.patch(f"{url}/{second}", data={"identity": "Ann"})
    assert problem(alike) == (409, "crop_conflict")
    assert first in alike.json()["detail"]
    for data, field in (
        ({}, "identity"),
        ({"captured_at": "2999-01-01T00:00:00Z"}, "captured_at"),
        ({"captured_at": "yesterday"}, "captured_at"),
        ({"metadata": "[1]"}, "metadata"),
        ({"identity": ["Ann", "Eve"]}, "identity"),
    ):
        refused = served.http.patch(f"{url}/{second}", data=data)
        assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (422, field)
    assert served.http.patch(f"{url}/nothing", data={"identity": "x"}).status_code == 404
    assert {crop["identity"] for crop in _crops(served, gallery).values()} == {"Ann", "Eve"}


@pytest.mark.promise("merged-away")
def test_who_was_merged_away_is_unknown_to_forget_until_the_merge_is_undone(
    client, served, gallery, images
):
    served.enrolled(gallery, *images[:2], identity=["Ann", "Eve"])
    merge = client.rename_identity("Ann", "Eve").merge_id
    refused = served.http.delete(f"/v1/galleries/{gallery}/identities/Ann")
    assert problem(refused) == (404, "unknown_identity")
    assert [listed.merge_id for listed in client.merges()] == [merge]
    assert client.undo_merge(merge).changed == 1
    again = served.http.post(f"/v1/galleries/{gallery}/merges/{merge}/undo")
    assert problem(again) == (404, "unknown_merge")
    assert client.forget("Ann").removed == 1


def test_a_changed_crop_and_an_undone_merge_stand_in_the_audit_log_and_survive(
    start, tmp_path, images
):
    served = start(tmp_path)
    images = images[:2]
    ids = served.enrolled("default", *images, identity=["Ann", "Eve"])
    with Client(str(served.http.base_url)) as client:
        client.change_crop(ids[0], camera="west")
        client.undo_merge(client.rename_identity("Ann", "Eve").merge_id)
    served.kill()
    lines = audit_lines(tmp_path, "change_crop", "undo_merge")
    phases = [(line["event"], line["phase"]) for line in lines]
    assert phases == [
        (event, phase) for event in ("change_crop", "undo_merge") for phase in ("asked", "done")
    ]
    assert "Ann" not in json.dumps(lines)
    crops = _crops(start(tmp_path), "default")
    shown = [(crops[crop_id]["identity"], crops[crop_id]["camera"]) for crop_id in ids]
    assert shown == [("Ann", "west"), ("Eve", None)]
