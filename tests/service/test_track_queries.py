"""Searches by several crops of the gallery or by a track, over HTTP and by the client."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from gmn_client import Image, RequestRefused

BY_TRACK = {"track": "17", "camera": "east"}


@pytest.fixture
def ids(client, drawn_crops):
    """Enroll crops 0 to 2 as a track of camera east, 3 and 4 as one of camera west with its id."""
    labels = [BY_TRACK] * 3 + [{"camera": "west", "track": "17"}] * 2
    labels += [{"camera": "east"}, {"camera": "north"}, {"camera": "west", "track": "18"}]
    images = [Image(crop.png, **label) for crop, label in zip(drawn_crops, labels, strict=False)]
    return [image.crop_id for image in client.enroll(images).results]


def cosines(answer):
    return {result.crop_id: result.cosine for result in answer.results}


def test_several_crops_rank_by_the_mean_of_their_cosines_and_are_no_results(client, ids):
    asking = [ids[0], ids[3]]
    mean = cosines(client.query(crop_id=asking, top_k=50))
    assert mean.keys() == set(ids) - set(asking)
    alone = [cosines(client.query_like(crop_id, top_k=50)) for crop_id in asking]
    for crop_id, cosine in mean.items():
        expected = np.mean([scores[crop_id] for scores in alone])
        assert cosine == pytest.approx(expected, abs=1e-5)
    # Neither the order nor a repetition counts.
    assert cosines(client.query(crop_id=[ids[3], ids[0], ids[3]], top_k=50)) == mean


def test_a_track_searches_as_its_crops_do(client, ids):
    by_track = cosines(client.query(**BY_TRACK, top_k=50))
    assert by_track == cosines(client.query(crop_id=ids[:3], top_k=50))
    assert set(by_track) == set(ids[3:])


def test_the_cameras_of_all_asking_crops_can_be_left_out(client, ids):
    for asked, left in (({"crop_id": [ids[0], ids[3]]}, {"north"}), (BY_TRACK, {"west", "north"})):
        found = client.query(**asked, camera_disjoint=True, top_k=50)
        assert {result.camera for result in found.results} == left


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"track": "17"}, 422, "east, west"),
        ({"track": "17", "camera": "north"}, 404, "unknown_track"),
        ({"track": "none"}, 404, "unknown_track"),
        ({"crop_id": ["none"] * 33}, 422, "crop_id"),
        ({"crop_id": ["none"], "track": "17"}, 422, "crop_id, track"),
        ({"track": "x" * 65}, 422, "track"),
    ],
)
def test_what_cannot_be_asked_by_is_refused_by_name(client, ids, asked, status, told):
    with pytest.raises(RequestRefused) as refused:
        client.query(**asked)
    assert refused.value.problem.status == status
    assert told in refused.value.problem.type + refused.value.problem.detail


def test_one_unknown_crop_among_several_is_named(client, ids):
    client.delete_crop(ids[0])
    for gone in ("f" * 32, ids[0]):
        with pytest.raises(RequestRefused, match=gone):
            client.query(crop_id=[ids[1], gone])


def test_a_kept_search_by_a_track_goes_with_the_person_whose_track_it_is(client, ids):
    kept = client.query(**BY_TRACK, keep=True, top_k=1).query_id
    opened = client.kept_search(kept)
    assert opened.request["track"] == "17"
    assert sorted(opened.request["crop_ids"]) == sorted(ids[:3])
    # Not the first of them is Ann's.
    client.change_crop(ids[2], identity="Ann")
    assert client.forget("Ann").kept_searches == 1
    with pytest.raises(RequestRefused, match=kept):
        client.kept_search(kept)


def test_grouped_by_track_each_track_of_a_camera_is_one_result_with_its_span(client, drawn_crops):
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    labels = [("east", "1"), ("east", "1"), ("west", "1"), ("east", "2"), ("east", None)] * 4
    images = [
        Image(
            drawn_crops[number].png,
            camera=camera,
            track=track,
            captured_at=noon + timedelta(minutes=number),
        )
        for number, (camera, track) in enumerate(labels)
    ]
    client.enroll(images)

    def grouped(top_k):
        return client.query(drawn_crops[0].png, scoring="cosine", group_by="track", top_k=top_k)

    expected = {}
    for result in client.query(
        drawn_crops[0].png, scoring="cosine", order="score", top_k=50
    ).results:
        assert result.first_seen is None
        key = (result.camera, result.track) if result.track else result.crop_id
        expected.setdefault(key, result.crop_id)
    # So few places that the nearest crops are of fewer tracks than are asked for.
    for top_k in (2, 5, 50):
        found = grouped(top_k).results
        assert [result.crop_id for result in found] == list(expected.values())[:top_k]
    spans = {
        (track.camera, track.track): (track.crops, track.first_seen, track.last_seen)
        for track in found
    }
    assert spans["east", "1"] == (8, noon, noon + timedelta(minutes=16))
    assert spans["west", "1"] == (4, noon + timedelta(minutes=2), noon + timedelta(minutes=17))
    assert spans["east", None] == (None, None, None)
    # A change of a track is followed at once.
    client.change_crops(track="2", new_track="1")
    assert sorted(track.crops for track in grouped(50).results if track.track) == [4, 12]
