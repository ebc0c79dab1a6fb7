"""Tracks over HTTP and by the client: enrolled, listed, filtered, changed at once, imported."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from gmn_client import Image, RequestRefused
from tests.outside import zip_of
from tests.service.http.conftest import make_key


def enroll(client, crops, *labels):
    images = [
        Image(crop.png, **label)
        for crop, label in zip(
            crops,
            labels,
            strict=False,
        )
    ]
    return [image.crop_id for image in client.enroll(images).results]


def test_tracks_are_enrolled_listed_and_their_crops_found(client, drawn_crops):
    first, second, third = enroll(
        client,
        drawn_crops,
        {"camera": "east", "track": "17", "identity": "Ann"},
        {"camera": "east", "track": "17"},
        {"camera": "west", "track": "17"},
    )
    east, west = client.tracks()
    assert (east.track, east.camera, east.crops, east.identities) == ("17", "east", 2, ["Ann"])
    assert east.crop_id in (first, second)
    assert -1 <= east.cohesion <= 1
    assert (west.camera, west.crops, west.cohesion) == ("west", 1, None)
    assert [track.camera for track in client.tracks(camera="west")] == ["west"]
    assert [crop.crop_id for crop in client.crops(track="17", camera="east")] == [first, second]
    found = client.query(drawn_crops[2].png, top_k=1)
    assert (found.results[0].crop_id, found.results[0].track) == (third, "17")
    assert client.crop(third).track == "17"


def test_a_track_is_named_moved_and_deleted_at_once(client, drawn_crops):
    labels = [{"camera": "east", "track": track} for track in ("1", "1", "2")]
    enroll(client, drawn_crops, *labels)
    assert client.change_crops(track="1", camera="east", new_identity="Ann").changed == 2
    assert client.change_crops(track="1", new_track="2", dry_run=True).matched == 2
    client.change_crops(identity="Ann", new_track="3", new_camera="west")
    assert [(track.track, track.camera, track.crops) for track in client.tracks()] == [
        ("2", "east", 1),
        ("3", "west", 2),
    ]
    client.delete_crops(track="3")
    assert [track.track for track in client.tracks()] == ["2"]
    (left,) = client.crops()
    client.change_crop(left.crop_id, track=None)
    assert list(client.tracks()) == []


def test_a_manifest_names_the_tracks_of_an_import(client, drawn_crops, tmp_path):
    packed = tmp_path / "crops.zip"
    manifest = "path,camera,track\n0.png,east,17\n1.png,east,\n"
    images = {f"{number}.png": crop.png for number, crop in enumerate(drawn_crops[:2])}
    packed.write_bytes(zip_of({**images, "manifest.csv": manifest}))
    client.wait_for_job(client.import_archive(packed).job_id)
    assert [(track.track, track.crops) for track in client.tracks()] == [("17", 1)]


def test_a_track_that_is_too_long_is_refused_by_its_name(client, drawn_crops):
    with pytest.raises(RequestRefused, match="track"):
        client.enroll([Image(drawn_crops[0].png, track="x" * 65)])


def test_the_same_picture_in_another_track_is_a_duplicate_that_keeps_its_track(client, drawn_crops):
    enroll(client, drawn_crops, {"track": "1"})
    again = client.enroll([Image(drawn_crops[0].png, track="2")]).results[0]
    assert again.duplicate
    assert "keeps its track" in again.warnings[0]
    assert [track.track for track in client.tracks()] == ["1"]


def test_a_track_is_a_tracker_s_own_and_forgotten_with_its_person(client, drawn_crops):
    enroll(
        client,
        drawn_crops,
        {"track": "1", "identity": "Ann"},
        {"track": "1"},
    )
    client.forget("Ann")
    (track,) = client.tracks()
    assert (track.crops, track.identities) == (1, [])


def test_keep_best_keeps_a_few_crops_of_each_track(client, drawn_crops):
    images = [
        Image(crop.png, camera="east", track=str(number % 2))
        for number, crop in enumerate(drawn_crops[:12])
    ]
    answer = client.enroll(images, keep_best=2)
    assert [track.crops for track in client.tracks()] == [2, 2]
    kept = {image.crop_id for image in answer.results if image.kept}
    assert {crop.crop_id for crop in client.crops()} == kept
    assert all(image.crop_id is None for image in answer.results if not image.kept)
    # Only these are found.
    found = client.query(drawn_crops[0].png, top_k=50)
    assert {result.crop_id for result in found.results} == kept
    # The same again changes nothing; fewer make others give way.
    again = client.enroll(images, keep_best=2)
    assert again.gallery_version == answer.gallery_version
    assert [image.crop_id for image in again.results] == [image.crop_id for image in answer.results]
    fewer = client.enroll([*images[:2], Image(drawn_crops[12].png, track="9")], keep_best=1)
    assert [track.crops for track in client.tracks()] == [1, 1, 1]
    assert len(client.query(drawn_crops[0].png, top_k=50).results) == 3
    assert fewer.results[2].kept


def test_keep_best_deletes_crops_only_for_a_key_that_may_delete(start, tmp_path, drawn_crops):
    keys = {
        name: {"Authorization": f"Bearer {make_key(tmp_path, *scopes)}"}
        for name, scopes in {
            "admin": ("--scope", "admin"),
            "enroll": ("--scope", "enroll"),
            "both": ("--scope", "enroll,delete"),
        }.items()
    }
    served = start(tmp_path)
    served.http.headers.update(keys["admin"])
    first = [crop.png for crop in drawn_crops[:4]]
    served.enroll("default", *first, identity="Ann", track="7")

    def send(key: str) -> int:
        path = "/v1/galleries/default/crops"
        sent = {"identity": "Bob", "track": "7", "keep_best": "1"}
        image = {"images": drawn_crops[8].png}
        return served.http.post(path, files=image, data=sent, headers=keys[key]).status_code

    def count() -> int:
        return served.read("/v1/galleries/default")["crops"]

    assert (send("enroll"), count()) == (403, 4)
    archive = {"archive": b"no archive"}
    path = "/v1/galleries/default/imports"
    asked = {"files": archive, "data": {"keep_best": "1"}, "headers": keys["enroll"]}
    assert served.http.post(path, **asked).status_code == 403
    assert (send("both"), count()) == (201, 1)


def test_keep_best_of_no_track_and_of_a_wrong_number_is_refused(client, drawn_crops):
    for keep_best, track in ((2, None), (0, "1"), (33, "1")):
        with pytest.raises(RequestRefused, match="keep_best"):
            client.enroll([Image(drawn_crops[0].png, track=track)], keep_best=keep_best)


def test_an_import_keeps_the_best_of_each_track(client, drawn_crops, tmp_path):
    packed = tmp_path / "crops.zip"
    images = {f"{number}.png": crop.png for number, crop in enumerate(drawn_crops)}
    lines = [f"{number}.png,east,{number % 3}" for number in range(len(drawn_crops))]
    manifest = "\n".join(["path,camera,track", *lines])
    packed.write_bytes(zip_of({**images, "manifest.csv": manifest}))
    job = client.wait_for_job(client.import_archive(packed, keep_best=4).job_id)
    count = len(drawn_crops)
    assert (job.state, job.progress.landed, job.progress.not_kept) == ("done", 12, count - 12)
    assert [track.crops for track in client.tracks()] == [4, 4, 4]


def test_vectors_are_enrolled_found_and_kept_once_without_a_picture(client, drawn_crops):
    embedded = client.embeddings(*(crop.png for crop in drawn_crops[:3]))
    vectors = [image.embedding for image in embedded.results]
    known = embedded.embedding_fingerprint
    answer = client.enroll_vectors(
        vectors,
        known,
        identity="Ann",
        camera="east",
        track="1",
    )
    ids = [image.crop_id for image in answer.results]
    assert len(set(ids)) == 3
    best = client.query(drawn_crops[0].png, top_k=1).results[0]
    assert (best.crop_id, best.identity) == (ids[0], "Ann")
    assert best.cosine == pytest.approx(1, abs=1e-5)
    assert client.crop(ids[0]).image_url is None
    as_bytes = base64.b64encode(np.array(vectors[1], "<f4").tobytes()).decode()
    (again,) = client.enroll_vectors(
        [as_bytes],
        known,
        identity="Ann",
        camera="east",
    ).results
    assert (again.duplicate, again.crop_id) == (True, ids[1])
    kept = client.enroll_vectors(
        vectors,
        known,
        camera="west",
        track="1",
        keep_best=1,
    )
    assert sum(image.kept for image in kept.results) == 1


@pytest.mark.parametrize(
    ("vectors", "fingerprint", "told"),
    [
        (["[1, 2, 3]"], None, "vector, embedding_fingerprint"),
        (["nothing"], None, "vector: 'nothing' is not a vector"),
        (["[0, 0]"], None, "vector: "),
        (['["1", "2"]'], None, "vector: "),
        (["[true, true]"], None, "vector: "),
        (["[3e38, 3e38]"], None, "vector: "),
        (["[1e-30, 0]"], None, "vector: "),
        ([f"[{'9' * 400}]"], None, "vector: "),
        (["[1]"], "f" * 64, "vector, embedding_fingerprint"),
        (["[1]"] * 150, None, "vector"),
    ],
)
def test_a_vector_that_cannot_be_enrolled_is_refused(
    client, drawn_crops, vectors, fingerprint, told
):
    embedded = client.embeddings(drawn_crops[0].png)
    good = embedded.results[0].embedding
    with pytest.raises(RequestRefused, match=told):
        client.enroll_vectors([good, *vectors], fingerprint or embedded.embedding_fingerprint)
    assert list(client.crops()) == []


def test_images_and_vectors_together_or_none_are_refused(served, gallery, drawn_crops):
    both = served.enroll(
        gallery,
        drawn_crops[0].png,
        vector="[1]",
        embedding_fingerprint="f",
    )
    assert (both.status_code, "vector" in both.json()["detail"]) == (422, True)
    none = served.http.post(f"/v1/galleries/{gallery}/crops", files={"identity": (None, "Ann")})
    assert (none.status_code, "images" in none.json()["detail"]) == (422, True)
