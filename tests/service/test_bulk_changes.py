"""Many crops are named, moved and deleted by one filter, tried first with `dry_run`."""

import json
from uuid import uuid4

import numpy as np
import pytest

from gmn_client import Client, RequestRefused
from model.feature_file import COLUMNS, Origin
from tests.outside import audit_lines, problem, refused_fields
from training.evaluation.files import write_features


@pytest.fixture
def ids(served, gallery, drawn_crops):
    """Enroll six crops at two cameras in turn, one an hour: two of Ann, four without a name."""
    return served.fill(
        gallery,
        drawn_crops[:6],
        identity=["Ann", "Ann", "", "", "", ""],
        camera=["east", "west"] * 3,
        captured_at=[f"2026-03-01T0{hour}:00:00Z" for hour in range(6)],
    )


def _names(client):
    return [crop.identity for crop in client.crops()]


def test_crops_without_a_name_get_one_together(ids, images, client):
    tried = client.change_crops(unnamed=True, camera="east", new_identity="Bob", dry_run=True)
    assert (tried.matched, tried.changed) == (2, 0)
    assert _names(client) == ["Ann", "Ann", None, None, None, None]
    named = client.change_crops(unnamed=True, camera="east", new_identity="Bob")
    assert (named.matched, named.changed) == (2, 2)
    # One commit: the version grows by one.
    assert named.gallery_version == tried.gallery_version + 1
    assert _names(client) == ["Ann", "Ann", "Bob", None, "Bob", None]
    best = client.query(images[2], top_k=1).results[0]
    assert (best.crop_id, best.identity) == (ids[2], "Bob")
    # Once more nothing is left to change.
    again = client.change_crops(identity="Bob", new_identity="Bob")
    assert (again.matched, again.changed) == (2, 0)


def test_selected_crops_of_a_person_are_split_off_and_their_labels_cleared(ids, client):
    split = client.change_crops(
        crop_ids=[ids[0], "unknown"], identity="Ann", new_identity="Eve", new_metadata={"case": 7}
    )
    assert (split.matched, split.changed) == (1, 1)
    assert client.crop(ids[0]).metadata == {"case": 7}
    assert client.identity("Ann").crops == 1
    client.change_crops(identity="Eve", new_identity=None, new_camera=None, new_metadata=None)
    crop = client.crop(ids[0])
    assert (crop.identity, crop.camera, crop.metadata) == (None, None, None)


def test_crops_of_a_time_are_deleted_together(served, gallery, ids, images, client):
    since = client.crop(ids[3]).captured_at
    assert client.delete_crops(captured_after=since, dry_run=True).matched == 3
    assert len(_names(client)) == 6
    removed = client.delete_crops(captured_after=since, camera="west")
    assert (removed.matched, removed.removed) == (2, 2)
    left = {*ids} - {ids[3], ids[5]}
    assert {crop.crop_id for crop in client.crops()} == left
    assert {*served.found(gallery, images[3])} == left


def test_a_field_of_one_value_that_is_sent_twice_is_refused_by_its_name(
    served, gallery, ids, client
):
    url = f"/v1/galleries/{gallery}/crops"
    names = {"camera": ["east", "west"]}
    refused = [
        served.http.request("DELETE", url, data=names),
        served.http.patch(url, data={**names, "new_identity": "Ann"}),
        served.http.get(url, params=names),
    ]
    for answer in refused:
        assert problem(answer) == (422, "invalid_field")
        assert "camera: was sent several times; send it once" in answer.json()["detail"]
    assert {crop.crop_id for crop in client.crops()} == {*ids}
    assert client.delete_crops(crop_ids=ids[:2], dry_run=True).matched == 2


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({}, "crop_ids"),
        ({"identity": "", "camera": "east"}, "identity"),
        ({"crop_ids": "", "camera": "east"}, "crop_ids"),
        # As of a script whose variable is empty.
        ({"captured_before": "", "camera": "east"}, "captured_before"),
        ({"unnamed": "true", "identity": "Ann"}, "unnamed"),
        ({"unnamed": "true"}, "new_identity"),
    ],
)
def test_a_filter_that_is_none_changes_nothing_and_names_the_remedy(
    served, gallery, ids, client, asked, field
):
    url = f"/v1/galleries/{gallery}/crops"
    changes = {} if field == "new_identity" else {"new_camera": "x"}
    assert field in refused_fields(served.http.patch(url, data={**asked, **changes}))
    if changes:
        assert field in refused_fields(served.http.request("DELETE", url, data=asked))
    assert client.delete_crops(camera="nowhere").matched == 0
    assert [crop.camera for crop in client.crops()] == ["east", "west"] * 3


def test_two_crops_of_one_image_are_not_made_alike_by_a_filter(served, gallery, images, client):
    image = images[0]
    ids = [served.enrolled(gallery, image, camera=camera)[0] for camera in ("east", "west")]
    with pytest.raises(RequestRefused, match=r"delete\s+one") as refused:
        client.change_crops(unnamed=True, new_camera="north")
    assert refused.value.problem.code == "crop_conflict"
    assert all(crop_id in refused.value.problem.detail for crop_id in ids)
    assert [crop.camera for crop in client.crops()] == ["east", "west"]
    # With different cameras both may show one person.
    assert client.change_crops(unnamed=True, new_identity="Ann").changed == 2


@pytest.mark.slow
def test_a_thousand_crops_change_in_one_commit_in_every_process_and_in_the_audit_log(
    start, tmp_path, images
):
    data = tmp_path / "data"
    one = start(data)
    other = start(data)
    gallery = one.create(f"bulk-{uuid4().hex[:8]}")
    image = images[0]
    with Client(str(one.http.base_url), gallery=gallery) as client:
        embedded = client.embeddings(image)
        shape = 1100, embedded.dimension
        vectors = np.random.default_rng(1).normal(size=shape).astype(np.float32)
        columns = dict.fromkeys(COLUMNS, [""] * len(vectors))
        columns["sha256"] = [f"{number:064x}" for number in range(len(vectors))]
        file = tmp_path / "crops.npz"
        write_features(file, vectors, columns, Origin(embedded.embedding_fingerprint))
        assert client.wait_for_job(client.import_archive(file).job_id, 120).state == "done"
        before = client.gallery().version
        named = client.change_crops(unnamed=True, new_identity="Ann")
        assert (named.matched, named.changed, named.gallery_version) == (1100, 1100, before + 1)
    with Client(str(other.http.base_url), gallery=gallery) as client:
        found = client.query(image, top_k=3, min_version=named.gallery_version)
        assert {result.identity for result in found.results} == {"Ann"}
        removed = client.delete_crops(identity="Ann")
        assert (removed.matched, removed.removed) == (1100, 1100)
    left = one.query(gallery, image, min_version=removed.gallery_version)
    assert left.json()["verdict"] == "nothing_searched"
    assert one.stop() == other.stop() == 0
    lines = audit_lines(data, "change_crops", "delete_crops")
    told = [(line["event"], line["phase"], line.get("count")) for line in lines]
    assert told == [
        ("change_crops", "asked", None),
        ("change_crops", "done", 1100),
        ("delete_crops", "asked", None),
        ("delete_crops", "done", 1100),
    ]
    assert "Ann" not in json.dumps(lines)
