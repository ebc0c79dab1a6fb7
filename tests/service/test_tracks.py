"""Tracks over HTTP and by the client: enrolled, listed, filtered, changed at once, imported."""

import base64

import numpy as np
import pytest

from gmn_client import Image, RequestRefused
from tests.outside import bearer, zip_of
from tests.service.http.conftest import make_key


def enroll(client, crops, *labels):
    images = [Image(crop.png, **label) for crop, label in zip(crops, labels, strict=False)]
    return [image.crop_id for image in client.enroll(images).results]


def listed(client):
    return [(track.track, track.camera, track.crops) for track in client.tracks()]


def test_tracks_are_enrolled_listed_and_their_crops_found(client, drawn_crops):
    east_17 = {"camera": "east", "track": "17"}
    labels = [{**east_17, "identity": "Ann"}, east_17, {"camera": "west", "track": "17"}]
    first, second, third = enroll(client, drawn_crops, *labels)
    assert listed(client) == [("17", "east", 2), ("17", "west", 1)]
    east, west = client.tracks()
    assert east.identities == ["Ann"]
    assert east.crop_id in (first, second)
    assert -1 <= east.cohesion <= 1
    assert west.cohesion is None
    assert [track.camera for track in client.tracks(camera="west")] == ["west"]
    assert [crop.crop_id for crop in client.crops(**east_17)] == [first, second]
    (found,) = client.query(drawn_crops[2].png, top_k=1).results
    assert (found.crop_id, found.track) == (third, "17")
    # A track is the tracker's own, and stays without a person who is forgotten.
    client.forget("Ann")
    assert listed(client) == [("17", "east", 1), ("17", "west", 1)]


def test_a_track_is_named_moved_and_deleted_at_once(client, drawn_crops):
    labels = [{"camera": "east", "track": track} for track in ("1", "1", "2")]
    enroll(client, drawn_crops, *labels)
    assert client.change_crops(track="1", camera="east", new_identity="Ann").changed == 2
    assert client.change_crops(track="1", new_track="2", dry_run=True).matched == 2
    client.change_crops(identity="Ann", new_track="3", new_camera="west")
    assert listed(client) == [("2", "east", 1), ("3", "west", 2)]
    client.delete_crops(track="3")
    assert listed(client) == [("2", "east", 1)]
    (left,) = client.crops()
    client.change_crop(left.crop_id, track=None)
    assert listed(client) == []


def test_the_same_picture_in_another_track_is_a_duplicate_that_keeps_its_track(client, drawn_crops):
    enroll(client, drawn_crops, {"track": "1"})
    again = client.enroll([Image(drawn_crops[0].png, track="2")]).results[0]
    assert again.duplicate
    assert "keeps its track" in again.warnings[0]
    assert listed(client) == [("1", None, 1)]


def test_keep_best_keeps_a_few_crops_of_each_track(client, images):
    crops = [Image(images[n], camera="east", track=str(n % 2)) for n in range(12)]
    answer = client.enroll(crops, keep_best=2)
    assert listed(client) == [("0", "east", 2), ("1", "east", 2)]
    kept = {image.crop_id for image in answer.results if image.kept}
    assert {image.crop_id for image in answer.results if not image.kept} == {None}
    # Only these are found.
    found = client.query(images[0], top_k=50)
    assert {result.crop_id for result in found.results} == kept
    # The same again changes nothing; fewer make others give way.
    again = client.enroll(crops, keep_best=2)
    assert again.gallery_version == answer.gallery_version
    assert [image.crop_id for image in again.results] == [image.crop_id for image in answer.results]
    client.enroll([*crops[:2], Image(images[12], track="9")], keep_best=1)
    assert [track.crops for track in client.tracks()] == [1, 1, 1]
    assert len(client.query(images[0], top_k=50).results) == 3


def test_keep_best_deletes_crops_only_for_a_key_that_may_delete(open_service, tmp_path, images):
    admin, enroller, both = (
        bearer(make_key(tmp_path, "--scope", scopes))
        for scopes in ("admin", "enroll", "enroll,delete")
    )
    served = open_service(tmp_path)
    served.http.headers.update(admin)
    first = images[:4]
    served.enrolled("default", *first, identity="Ann", track="7")

    def send(call, files, headers):
        fields = {"identity": "Bob", "track": "7", "keep_best": "1"}
        if call == "imports":
            fields = {"keep_best": "1"}
        path = f"/v1/galleries/default/{call}"
        status = served.http.post(path, files=files, data=fields, headers=headers).status_code
        return status, served.read("/v1/galleries/default")["crops"]

    image = {"images": images[8]}
    assert send("crops", image, enroller) == (403, 4)
    assert send("imports", {"archive": b"no archive"}, enroller) == (403, 4)
    assert send("crops", image, both) == (201, 1)


def test_keep_best_of_no_track_and_of_a_wrong_number_is_refused(client, images):
    for keep_best, track in ((2, None), (0, "1"), (33, "1")):
        with pytest.raises(RequestRefused, match="keep_best"):
            client.enroll([Image(images[0], track=track)], keep_best=keep_best)


def test_an_import_keeps_the_best_of_each_track(client, drawn_crops, tmp_path):
    packed = tmp_path / "crops.zip"
    images = {f"{number}.png": crop.png for number, crop in enumerate(drawn_crops)}
    lines = [f"{number}.png,east,{number % 3}" for number in range(24)]
    manifest = "\n".join(["path,camera,track", *lines])
    packed.write_bytes(zip_of({**images, "manifest.csv": manifest}))
    job = client.wait_for_job(client.import_archive(packed, keep_best=4).job_id)
    assert (job.state, job.progress.landed, job.progress.not_kept) == ("done", 12, 12)
    assert listed(client) == [(track, "east", 4) for track in "012"]


def test_vectors_are_enrolled_found_and_kept_once_without_a_picture(client, images):
    embedded = client.embeddings(*images[:3])
    vectors = [image.embedding for image in embedded.results]
    known = embedded.embedding_fingerprint
    ann = {"identity": "Ann", "camera": "east"}
    answer = client.enroll_vectors(vectors, known, **ann, track="1")
    ids = [image.crop_id for image in answer.results]
    assert len(set(ids)) == 3
    (best,) = client.query(images[0], top_k=1).results
    assert (best.crop_id, best.identity) == (ids[0], "Ann")
    assert best.cosine == pytest.approx(1, abs=1e-5)
    assert client.crop(ids[0]).image_url is None
    as_bytes = base64.b64encode(np.array(vectors[1], "<f4").tobytes()).decode()
    (again,) = client.enroll_vectors([as_bytes], known, **ann).results
    assert (again.duplicate, again.crop_id) == (True, ids[1])
    kept = client.enroll_vectors(vectors, known, camera="west", track="1", keep_best=1)
    assert sum(image.kept for image in kept.results) == 1


@pytest.mark.parametrize(
    ("vectors", "fingerprint", "told"),
    [
        (["[1, 2, 3]"], None, "vector, embedding_fingerprint"),
        (["nothing"], None, "vector: 'nothing' is not a vector"),
        (["[0, 0]"], None, "vector: "),
        (["[[1], [2]]"], None, "vector: "),
        (['["1", "2"]'], None, "vector: "),
        (["[true, true]"], None, "vector: "),
        (["[3e38, 3e38]"], None, "vector: "),
        (["[1e-30, 0]"], None, "vector: "),
        ([f"[{'9' * 400}]"], None, "vector: "),
        (["[1]"], "f" * 64, "vector, embedding_fingerprint"),
        (["[1]"] * 150, None, "vector"),
    ],
)
def test_a_vector_that_cannot_be_enrolled_is_refused(client, images, vectors, fingerprint, told):
    embedded = client.embeddings(images[0])
    good = embedded.results[0].embedding
    with pytest.raises(RequestRefused, match=told):
        client.enroll_vectors([good, *vectors], fingerprint or embedded.embedding_fingerprint)
    assert list(client.crops()) == []


def test_images_and_vectors_together_or_none_are_refused(served, gallery, images):
    vector = {"vector": "[1]", "embedding_fingerprint": "f"}
    both = served.enroll(gallery, images[0], **vector)
    assert (both.status_code, "vector" in both.json()["detail"]) == (422, True)
    none = served.http.post(f"/v1/galleries/{gallery}/crops", files={"identity": (None, "Ann")})
    assert (none.status_code, "images" in none.json()["detail"]) == (422, True)
