"""Labels of crops change while the service runs: `PATCH` of a crop, and undone merges."""

from __future__ import annotations

import json

from gmn_client import Client
from tests.outside import audit_lines, problem


def _crops(served, gallery):
    listed = served.results(f"/v1/galleries/{gallery}/crops?limit=1000")
    return {crop["crop_id"]: crop for crop in listed}


def test_an_unnamed_crop_is_named_and_found_by_its_new_labels(served, gallery, drawn_crops):
    enrolled = served.enroll(gallery, drawn_crops[0].png, camera="east").json()
    crop_id = enrolled["results"][0]["crop_id"]
    url = f"/v1/galleries/{gallery}/crops"
    labels = {"identity": "Ann", "camera": "west", "captured_at": "2026-03-01T09:30:00Z"}
    changed = served.http.patch(
        f"{url}/{crop_id}", data={**labels, "external_id": "x1", "metadata": '{"shift": "night"}'}
    )
    assert changed.status_code == 200
    answer = changed.json()
    assert answer["gallery_version"] == enrolled["gallery_version"] + 1
    assert {name: answer["crop"][name] for name in labels} == labels
    assert (answer["crop"]["external_id"], answer["crop"]["metadata"]) == (
        "x1",
        {"shift": "night"},
    )
    assert _crops(served, gallery) == {crop_id: answer["crop"]}
    west = served.search(gallery, drawn_crops[0].png, cameras="west")
    assert [(crop["crop_id"], crop["identity"]) for crop in west] == [(crop_id, "Ann")]
    assert served.search(gallery, drawn_crops[0].png, cameras="east") == []
    since = served.query(gallery, drawn_crops[0].png, captured_after="2026-03-01T09:00:00Z").json()
    assert len(since["results"]) == 1
    # Fields that are not sent stay; an empty one is unknown from now on.
    cleared = served.http.patch(f"{url}/{crop_id}", data={"camera": ""}).json()["crop"]
    assert (cleared["camera"], cleared["identity"]) == (None, "Ann")
    assert served.search(gallery, drawn_crops[0].png, cameras="west") == []


def test_a_crop_that_cannot_be_changed_so_says_why(served, gallery, drawn_crops):
    first = served.enroll(gallery, drawn_crops[0].png, identity="Ann").json()["results"][0]
    second = served.enroll(gallery, drawn_crops[0].png, identity="Eve").json()["results"][0]
    url = f"/v1/galleries/{gallery}/crops"
    alike = served.http.patch(f"{url}/{second['crop_id']}", data={"identity": "Ann"})
    assert problem(alike) == (409, "crop_conflict")
    assert first["crop_id"] in alike.json()["detail"]
    for data, field in (
        ({}, "identity"),
        ({"captured_at": "2999-01-01T00:00:00Z"}, "captured_at"),
        ({"captured_at": "yesterday"}, "captured_at"),
        ({"metadata": "[1]"}, "metadata"),
        ({"identity": ["Ann", "Eve"]}, "identity"),
    ):
        refused = served.http.patch(f"{url}/{second['crop_id']}", data=data)
        assert (refused.status_code, refused.json()["detail"].split(":")[0]) == (422, field)
    assert served.http.patch(f"{url}/nothing", data={"identity": "x"}).status_code == 404
    assert {crop["identity"] for crop in _crops(served, gallery).values()} == {"Ann", "Eve"}


def test_a_merge_is_undone_and_its_history_erased_with_the_person(
    client, served, gallery, drawn_crops
):
    for place, name in enumerate(("Ann", "Ann", "Eve")):
        served.enroll(gallery, drawn_crops[place].png, identity=name)
    merged = client.rename_identity("Ann", "Eve")
    (merge,) = client.merges()
    assert (merge.merge_id, merge.identity, merge.into) == (merged.merge_id, "Ann", "Eve")
    assert merge.crops == 2
    undone = client.undo_merge(merge.merge_id)
    assert (undone.identity, undone.changed) == ("Ann", 2)
    assert undone.gallery_version == merged.gallery_version + 1
    found = client.query(drawn_crops[0].png).results[0]
    assert found.identity == "Ann"
    assert client.merges() == []
    again = served.http.post(f"/v1/galleries/{gallery}/merges/{merge.merge_id}/undo")
    assert problem(again) == (404, "unknown_merge")
    client.rename_identity("Ann", "Eve")
    client.forget("Eve")
    assert client.merges() == []


def test_who_was_merged_away_is_unknown_to_forget_until_the_merge_is_undone(
    client, served, gallery, drawn_crops
):
    for place, name in enumerate(("Ann", "Eve")):
        served.enroll(gallery, drawn_crops[place].png, identity=name)
    ann = f"/v1/galleries/{gallery}/identities/Ann"
    merge = client.rename_identity("Ann", "Eve").merge_id
    refused = served.http.delete(ann)
    assert problem(refused) == (404, "unknown_identity")
    assert [listed.merge_id for listed in client.merges()] == [merge]
    assert client.undo_merge(merge).changed == 1
    assert client.forget("Ann").removed == 1


def test_forgetting_who_is_in_a_snapshot_alone_erases_the_merge_too(
    client, served, gallery, drawn_crops
):
    for place, name in enumerate(("Ann", "Eve")):
        served.enroll(gallery, drawn_crops[place].png, identity=name)
    assert served.http.post(f"/v1/galleries/{gallery}/snapshots").status_code == 201
    merge = client.rename_identity("Ann", "Eve").merge_id
    assert client.forget("Ann").removed == 0
    assert client.merges() == []
    undone = served.http.post(f"/v1/galleries/{gallery}/merges/{merge}/undo")
    assert undone.status_code == 404


def test_a_changed_crop_and_an_undone_merge_stand_in_the_audit_log_and_survive(
    start, tmp_path, drawn_crops
):
    served = start(data_dir=tmp_path)
    served.create("lobby")
    ids = [
        served.enrolled("lobby", crop.png, identity=name)[0]
        for crop, name in zip(drawn_crops[:2], ("Ann", "Eve"), strict=True)
    ]
    with Client(str(served.http.base_url), gallery="lobby") as client:
        client.change_crop(ids[0], camera="west", metadata={"shift": "night"})
        merge = client.rename_identity("Ann", "Eve").merge_id
        assert merge is not None
        client.undo_merge(merge)
    served.kill()
    lines = audit_lines(tmp_path)
    phases = {(line["event"], line["phase"]) for line in lines}
    for event in ("change_crop", "undo_merge"):
        assert {(event, "asked"), (event, "done")} <= phases
    assert all("Ann" not in json.dumps(line) for line in lines)
    again = start(data_dir=tmp_path)
    crops = _crops(again, "lobby")
    assert [(crops[crop_id]["identity"], crops[crop_id]["camera"]) for crop_id in ids] == [
        ("Ann", "west"),
        ("Eve", None),
    ]
