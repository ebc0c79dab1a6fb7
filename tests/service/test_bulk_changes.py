"""Many crops are named, moved and deleted by one filter, tried first with `dry_run`."""

from __future__ import annotations

import json
from uuid import uuid4

import numpy as np
import pytest

from gmn_client import Client, RequestRefused
from model.feature_file import COLUMNS, Origin
from tests.outside import audit_lines
from training.evaluation.files import write_features


def _fill(served, gallery, drawn_crops):
    """Six crops: two of Ann, four without a name, of two cameras in turn."""
    ids = []
    for place, crop in enumerate(drawn_crops[:6]):
        labels = {"identity": "Ann" if place < 2 else "", "camera": ("east", "west")[place % 2]}
        labels["captured_at"] = f"2026-03-01T0{place}:00:00Z"
        ids.append(served.enrolled(gallery, crop.png, **labels)[0])
    return ids


def _names(client):
    return [crop.identity for crop in client.crops()]


def test_crops_without_a_name_get_one_together(served, gallery, drawn_crops, client):
    ids = _fill(served, gallery, drawn_crops)
    tried = client.change_crops(unnamed=True, camera="east", new_identity="Bob", dry_run=True)
    assert (tried.matched, tried.changed) == (2, 0)
    assert _names(client) == ["Ann", "Ann", None, None, None, None]
    named = client.change_crops(unnamed=True, camera="east", new_identity="Bob")
    assert (named.matched, named.changed) == (2, 2)
    # One commit: the version grows by one.
    assert named.gallery_version == tried.gallery_version + 1
    assert _names(client) == ["Ann", "Ann", "Bob", None, "Bob", None]
    best = client.query(drawn_crops[2].png, top_k=1).results[0]
    assert (best.crop_id, best.identity) == (ids[2], "Bob")
    # Once more nothing is left to change.
    again = client.change_crops(identity="Bob", new_identity="Bob")
    assert (again.matched, again.changed) == (2, 0)


def test_selected_crops_of_a_person_are_split_off_and_their_labels_cleared(
    served, gallery, drawn_crops, client
):
    ids = _fill(served, gallery, drawn_crops)
    split = client.change_crops(
        crop_ids=[ids[0], "unknown"], identity="Ann", new_identity="Eve", new_metadata={"case": 7}
    )
    assert (split.matched, split.changed) == (1, 1)
    assert client.crop(ids[0]).metadata == {"case": 7}
    assert client.identity("Ann").crops == 1
    client.change_crops(identity="Eve", new_identity=None, new_camera=None, new_metadata=None)
    crop = client.crop(ids[0])
    assert (crop.identity, crop.camera, crop.metadata) == (None, None, None)


def test_crops_of_a_time_are_deleted_together(served, gallery, drawn_crops, client):
    ids = _fill(served, gallery, drawn_crops)
    since = client.crop(ids[3]).captured_at
    assert client.delete_crops(captured_after=since, dry_run=True).matched == 3
    assert len(_names(client)) == 6
    removed = client.delete_crops(captured_after=since, camera="west")
    assert (removed.matched, removed.removed) == (2, 2)
    assert {crop.crop_id for crop in client.crops()} == {*ids} - {ids[3], ids[5]}
    left = served.search(gallery, drawn_crops[3].png)
    assert not {crop["crop_id"] for crop in left} & {ids[3], ids[5]}


def test_a_filter_that_is_none_changes_nothing_and_names_the_remedy(
    served, gallery, drawn_crops, client
):
    _fill(served, gallery, drawn_crops)
    for which, field in (
        ({}, "crop_ids"),
        ({"dry_run": True}, "crop_ids"),
        ({"identity": None, "camera": "east"}, "identity"),
        ({"crop_ids": [], "camera": "east"}, "crop_ids"),
        ({"unnamed": True, "identity": "Ann"}, "unnamed"),
    ):
        for call in (client.delete_crops, lambda **one: client.change_crops(**one, new_camera="x")):
            with pytest.raises(RequestRefused, match=field) as refused:
                call(**which)
            assert refused.value.problem.status == 422
    with pytest.raises(RequestRefused, match="new_identity: there is nothing to change"):
        client.change_crops(unnamed=True)
    # As of a script whose variable is empty.
    url = f"/v1/galleries/{gallery}/crops"
    empty = served.http.request("DELETE", url, data={"captured_before": "", "camera": "east"})
    assert (empty.status_code, empty.json()["errors"][0]["field"]) == (422, "captured_before")
    nobody = served.http.request("DELETE", url, data={"camera": "nowhere"})
    assert nobody.json()["matched"] == 0
    assert len(_names(client)) == 6


def test_two_crops_of_one_image_are_not_made_alike_by_a_filter(
    served, gallery, drawn_crops, client
):
    first = served.enroll(gallery, drawn_crops[0].png, camera="east").json()["results"][0]
    second = served.enroll(gallery, drawn_crops[0].png, camera="west").json()["results"][0]
    with pytest.raises(RequestRefused, match=r"delete\s+one") as refused:
        client.change_crops(unnamed=True, new_camera="north")
    assert refused.value.problem.code == "crop_conflict"
    for crop in (first, second):
        assert crop["crop_id"] in refused.value.problem.detail
    assert [crop.camera for crop in client.crops()] == ["east", "west"]
    # With different cameras both may show one person.
    assert client.change_crops(unnamed=True, new_identity="Ann").changed == 2


@pytest.mark.slow
def test_changes_by_a_filter_stand_in_the_audit_log_without_names_and_survive(
    start, tmp_path, drawn_crops
):
    served = start(data_dir=tmp_path)
    served.create("lobby")
    ids = _fill(served, "lobby", drawn_crops)
    with Client(str(served.http.base_url), gallery="lobby") as client:
        client.change_crops(unnamed=True, new_identity="Bob")
        client.delete_crops(identity="Ann", dry_run=True)
        client.delete_crops(identity="Ann")
    served.kill()
    lines = audit_lines(tmp_path)
    counts = {(line["event"], line["phase"]): line.get("count") for line in lines}
    assert counts["change_crops", "done"] == 4
    assert counts["delete_crops", "done"] == 2
    assert ("change_crops", "asked") in counts
    assert not any(name in json.dumps(line) for line in lines for name in ("Ann", "Bob"))
    again = start(data_dir=tmp_path)
    with Client(str(again.http.base_url), gallery="lobby") as client:
        assert {crop.crop_id: crop.identity for crop in client.crops()} == dict.fromkeys(
            ids[2:], "Bob"
        )


@pytest.mark.slow
def test_a_thousand_crops_change_in_one_commit_and_in_every_process(start, tmp_path, drawn_crops):
    one = start(data_dir=tmp_path / "data")
    other = start(data_dir=tmp_path / "data")
    gallery = one.create(f"bulk-{uuid4().hex[:8]}")
    with Client(str(one.http.base_url), gallery=gallery) as client:
        embedded = client.embeddings(drawn_crops[0].png)
        size = embedded.dimension
        made_by = embedded.embedding_fingerprint
        vectors = np.random.default_rng(1).normal(size=(1100, size)).astype(np.float32)
        file = tmp_path / "crops.npz"
        unknown = [""] * len(vectors)
        columns = dict.fromkeys(COLUMNS, unknown)
        columns["sha256"] = [f"{number:064x}" for number in range(len(vectors))]
        write_features(file, vectors, columns, Origin(made_by))
        assert client.wait_for_job(client.import_archive(file).job_id, 120).state == "done"
        before = client.gallery().version
        named = client.change_crops(unnamed=True, new_identity="Ann")
        assert (named.matched, named.changed, named.gallery_version) == (1100, 1100, before + 1)
    with Client(str(other.http.base_url), gallery=gallery) as client:
        found = client.query(drawn_crops[0].png, top_k=3, min_version=named.gallery_version)
        assert {result.identity for result in found.results} == {"Ann"}
        removed = client.delete_crops(identity="Ann")
        assert (removed.matched, removed.removed) == (1100, 1100)
    left = one.query(gallery, drawn_crops[0].png, min_version=removed.gallery_version)
    assert left.json()["verdict"] == "nothing_searched"
    assert one.stop() == other.stop() == 0
