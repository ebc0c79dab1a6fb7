"""Sightings: crops of a camera that raise an alert where they show a person of an armed list."""

import contextlib
import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import httpx2
import numpy as np
import psycopg
import pytest
from PIL import Image

from gmn_client import Image as Labelled
from gmn_client import RequestRefused
from service.engine.admission import Admission
from service.postgres.locks import WRITERS
from service.record.transaction import FILE
from service.watch import camera_health
from service.watch.tracks import MOST_LOOKS
from tests.conftest import draw_crop
from tests.engines import database_url
from tests.outside import bearer, encoded, figure, free_port, problem, refused_fields
from tests.service.conftest import START, files
from tests.service.gallery.new_crops import open_record
from tests.service.http.conftest import make_key
from tests.service.watch_places import (
    alerts,
    arm,
    arm_new,
    create_webhook,
    deliveries,
)
from tests.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
STRANGER = draw_crop(53, 1, 7)


@pytest.fixture(scope="module")
def watching(open_service, drawn_crops):
    with pytest.MonkeyPatch.context() as patch:
        # It stores what it knows of cameras every ten seconds otherwise.
        patch.setattr(camera_health, "LOOK_EVERY_SECONDS", 0.2)
        served = open_service(webhook_private="true")
        arm_new(served, "wanted", drawn_crops)
        yield served


def sight(served, *images, headers=None, **fields):
    return served.http.post("/v1/sightings", files=files(*images), data=fields, headers=headers)


def matches(served, *images, shown="identity", **fields):
    """Return what each image matches: identities, or the given field of a match."""
    answer = sight(served, *images, wait="true", **fields)
    assert answer.status_code == 200, answer.text
    return [[match[shown] for match in image["matches"]] for image in answer.json()["results"]]


def embedded(served):
    return figure(served, "gmn_images_embedded_total")


def test_fifty_crops_of_one_visit_raise_one_alert_and_one_delivery(watching, drawn_crops, receiver):
    webhook = create_webhook(watching.http, receiver.url)
    images = [drawn_crops[0].png] * 10
    sent = {"camera": "fifty", "track": "17"}
    for _ in range(4):
        answer = sight(watching, *images, **sent)
        assert answer.status_code == 202
        result = {"matches": None, "warnings": []}
        assert answer.json() == {"accepted": 10, "results": [result] * 10}
    assert matches(watching, *images, **sent) == [["0000"]] * 10
    (alert,) = alerts(watching, camera="fifty")
    shown = {"kind": "visit", "gallery": "wanted", "identity": "0000", "crops": 50, "track": "17"}
    assert alert.items() >= shown.items()
    assert alert["probability"] >= 0.5
    assert alert["score"] > alert["threshold"]
    assert alert["probability"] > alert["needed"] >= 0.5
    picture = watching.http.get(alert["image_url"])
    assert picture.headers["content-type"] == "image/jpeg"
    # Another track, as where the tracker lost the person, is the same visit.
    assert matches(watching, images[0], camera="fifty", track="18") == [["0000"]]
    assert [alert["crops"] for alert in alerts(watching, camera="fifty")] == [51]
    eventually(lambda: receiver.received)
    (delivery,) = deliveries(watching, webhook)
    assert delivery["alert_id"] == alert["alert_id"]
    assert len(receiver.received) == 1


def test_a_strangers_crops_raise_none_and_a_crop_without_a_track_is_one_alone(watching, images):
    for track in ({}, {"track": "1"}):
        assert matches(watching, STRANGER, camera="nobody", **track) == [[]]
    assert alerts(watching, camera="nobody") == []
    # In a track with a stranger's crops its best one decides.
    assert matches(watching, images[4], camera="nobody", track="1") == [["0001"]]


def test_of_a_track_eight_crops_are_compared_and_the_others_go_on_with_the_visit(watching, images):
    before = embedded(watching)
    crops = [images[0]] * (MOST_LOOKS + 4)
    assert matches(watching, *crops, camera="looks", track="1") == [["0000"]] * len(crops)
    # Each is embedded once, as it may show another person.
    assert embedded(watching) - before == len(crops)
    # A refused image uses up no look.
    sight(watching, *[b"no image"] * MOST_LOOKS, camera="looks", track="2", wait="true")
    assert matches(watching, images[0], camera="looks", track="2") == [["0000"]]


def test_an_image_that_cannot_be_used_is_a_problem_of_its_own(watching, images):
    now = datetime.now(UTC)
    near, ahead, past = (
        (now + difference).isoformat()
        for difference in (timedelta(seconds=30), timedelta(minutes=62), timedelta(days=-8))
    )
    crop = images[0]
    moments = [near, "", ahead, past]
    sent = {"camera": "problems", "captured_at": moments, "wait": "true"}
    answer = sight(watching, crop, b"no image", crop, crop, **sent)
    assert (answer.status_code, answer.json()["accepted"]) == (207, 1)
    right, *refused = answer.json()["results"]
    assert right["matches"][0]["identity"] == "0000"
    codes = ["not_an_image", "captured_in_future", "captured_long_ago"]
    assert [result["problem"]["type"].rpartition(":")[2] for result in refused] == codes
    (alert,) = alerts(watching, camera="problems")
    assert datetime.fromisoformat(alert["last_seen"]) <= now + timedelta(seconds=60)
    none = sight(watching, b"no image", camera="problems")
    assert problem(none) == (422, "unusable_images")


def test_where_no_image_can_be_used_the_message_has_the_reason_of_the_first(watching):
    for path, fields in (
        ("sightings", {}),
        ("galleries/wanted/crops", {}),
        ("embeddings", {}),
        ("galleries/wanted/queries", {"mode": "separate"}),
    ):
        refused = watching.http.post(
            f"/v1/{path}", files=files(b"no image", b""), data=fields
        ).json()
        first, _ = refused["results"]
        assert refused["detail"] == (
            f"none of the 2 images could be used; image 1: {first['problem']['detail']}; "
            "results has the reason of each"
        )
    alone = sight(watching, b"no image").json()
    assert alone["detail"] == (
        f"the only image could not be used; image 1: {first['problem']['detail']}"
    )


def test_cameras_and_hours_of_a_list_are_those_of_the_capture_and_an_old_one_is_late(
    watching, drawn_crops, receiver
):
    zone = {"hours": "22:00-06:00", "time_zone": "Asia/Tokyo"}
    arm_new(watching, "night", drawn_crops, cameras="yard", **zone)
    webhook = create_webhook(watching.http, receiver.url, gallery="night")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    # 23:30 and 12:00 in Tokyo.
    at_night = yesterday.replace(hour=14, minute=30).isoformat()
    at_noon = yesterday.replace(hour=3, minute=0).isoformat()

    def lists(camera, captured_at):
        sent = {"camera": camera, "captured_at": captured_at, "shown": "gallery"}
        return set(matches(watching, drawn_crops[8].png, **sent)[0])

    assert lists("yard", at_night) == {"wanted", "night"}
    assert lists("yard", at_noon) == {"wanted"}
    assert lists("hall", at_night) == {"wanted"}
    (alert,) = alerts(watching, gallery="night")
    assert (alert["kind"], alert["camera"]) == ("late", "yard")
    assert datetime.fromisoformat(alert["first_seen"]) == datetime.fromisoformat(at_night)
    assert deliveries(watching, webhook) == []
    assert watching.http.delete("/v1/galleries/night").status_code == 200
    assert lists("yard", at_night) == {"wanted"}


def test_a_forgotten_person_raises_no_alert_and_leaves_none(watching, drawn_crops):
    crop = drawn_crops[12]
    arm_new(watching, "forgetful", drawn_crops)
    sent = {"camera": "exit", "track": "5", "shown": "gallery"}
    assert sorted(matches(watching, crop.png, **sent)[0]) == ["forgetful", "wanted"]
    assert alerts(watching, gallery="forgetful")[0]["identity"] == crop.identity
    forgotten = watching.http.delete(f"/v1/galleries/forgetful/identities/{crop.identity}")
    assert forgotten.status_code == 200, forgotten.text
    assert alerts(watching, gallery="forgetful") == []
    # At once, and in the track that is still open.
    assert matches(watching, crop.png, **sent) == [["wanted"]]
    assert watching.http.delete("/v1/galleries/forgetful").status_code == 200


def test_an_enrollment_with_watch_is_compared_with_the_lists_of_other_galleries(
    watching, drawn_crops
):
    crop = drawn_crops[16]
    watching.create("passage", retention_days=30)
    before = embedded(watching)
    sent = {"camera": "door", "track": "3", "watch": "true"}
    assert watching.enroll("passage", crop.png, b"no image", **sent).status_code == 207
    eventually(lambda: alerts(watching, camera="door"))
    (alert,) = alerts(watching, camera="door")
    assert (alert["gallery"], alert["identity"]) == ("wanted", crop.identity)
    assert embedded(watching) - before == 1
    # The list itself is left out: the crop would match itself.
    keep_for(watching, "wanted", 30)
    watching.enrolled("wanted", STRANGER, identity="new", camera="itself", watch="true")
    assert alerts(watching, camera="itself") == []
    # Other tests show the stranger as nobody.
    assert watching.http.delete("/v1/galleries/wanted/identities/new").status_code == 200
    keep_for(watching, "wanted", 0)


def keep_for(served, gallery, days):
    """Set the retention of a gallery; 0 keeps its crops."""
    changed = served.http.patch(f"/v1/galleries/{gallery}", data={"retention_days": days})
    assert changed.status_code == 200, changed.text


def test_an_enrollment_with_watch_needs_a_gallery_that_deletes_its_crops(watching, images):
    gallery = watching.create("for-ever")
    refused = watching.enroll(gallery, images[0], camera="for ever", watch="true")
    assert refused_fields(refused) == {"watch"}
    remedy = "30 days (PATCH /v1/galleries/for-ever retention_days=30), or enroll without watch"
    assert remedy in refused.json()["detail"]
    # Nothing was stored or compared.
    assert watching.http.get(f"/v1/galleries/{gallery}").json()["crops"] == 0
    assert alerts(watching, camera="for ever") == []
    keep_for(watching, gallery, 30)
    watching.enrolled(gallery, images[0], camera="for ever", watch="true")
    eventually(lambda: alerts(watching, camera="for ever"))
    for_a_day = watching.create("for-a-day", retention_hours="24")
    watching.enrolled(for_a_day, images[0], camera="for a day", watch="true")


def test_an_enrollment_says_which_crop_was_not_compared_with_the_lists(watching, images):
    watching.create("archive", retention_days=30)
    sent = {"camera": "archive", "watch": "true"}
    for days in (0, 8):
        moment = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        answer = watching.enroll("archive", images[0], captured_at=moment, track=days, **sent)
        assert answer.status_code == 201, answer.text
        (result,) = answer.json()["results"]
        warned = [text for text in result["warnings"] if text.startswith("not compared with the")]
        assert bool(warned) == bool(days)
    assert [alert["crops"] for alert in alerts(watching, camera="archive")] == [1]


def warnings_of(answer):
    return [result["warnings"] for result in answer.json()["results"]]


def clock_of(watching, camera):
    """Return how far the clock of a camera is ahead; None before the service has noted it."""
    listed = watching.results("/v1/cameras")
    return next((one["clock_ahead"] for one in listed if one["camera"] == camera), None)


def test_a_camera_whose_clock_is_half_an_hour_fast_rings_and_everybody_is_told(watching, images):
    watching.create("fast", retention_days=30)
    now = datetime.now(UTC)
    sent = {"camera": "fast", "captured_at": (now + timedelta(minutes=30)).isoformat()}
    enrolled = watching.enroll("fast", images[0], watch="true", track="1", **sent)
    assert enrolled.status_code == 201, enrolled.text
    sighted = sight(watching, images[0], wait="true", track="2", **sent)
    assert sighted.status_code == 200, sighted.text
    for answer in (enrolled, sighted):
        ((warning,),) = warnings_of(answer)
        assert "is 30 min in the future; set the camera's clock" in warning
    # Both are compared, and of now: nobody is seen in the future.
    (alert,) = alerts(watching, camera="fast")
    assert (alert["kind"], alert["crops"]) == ("visit", 2)
    for name in ("first_seen", "last_seen", "captured_at"):
        assert now - timedelta(seconds=1) < datetime.fromisoformat(alert[name]) < datetime.now(UTC)
    eventually(lambda: clock_of(watching, "fast"))
    assert 29 * 60 < clock_of(watching, "fast") <= 30 * 60
    metrics = watching.http.get("/metrics").text
    (line,) = re.findall(r'gmn_cameras_clock_ahead_seconds{.*camera="fast".*} (\S+)', metrics)
    assert 29 * 60 < float(line) <= 30 * 60


def test_enrollments_and_sightings_refuse_a_clock_that_is_over_an_hour_fast(watching, images):
    watching.create("wrong", retention_days=30)
    moment = (datetime.now(UTC) + timedelta(minutes=62)).isoformat()
    sent = {"camera": "wrong", "captured_at": moment}
    enrolled = watching.enroll("wrong", images[0], watch="true", **sent)
    sighted = sight(watching, images[0], **sent)
    (crop_id,) = watching.enrolled("wrong", images[1])
    url = f"/v1/galleries/wrong/crops/{crop_id}"
    changed = watching.http.patch(url, data={"captured_at": moment})
    for answer in (enrolled, sighted, changed):
        assert answer.status_code == 422, answer.text
        assert (
            "is more than an hour in the future; set the camera's clock" in answer.json()["detail"]
        )
    eventually(lambda: clock_of(watching, "wrong"))
    assert clock_of(watching, "wrong") > 3600


def test_a_sighting_that_comes_late_says_that_nobody_is_told(watching, images):
    moment = datetime.now(UTC) - timedelta(minutes=30)
    sent = {"camera": "slow", "captured_at": moment.isoformat()}
    ((warning,),) = warnings_of(sight(watching, images[0], **sent))
    assert "is 30 min old, so that alerts are late and nobody is told" in warning
    assert warnings_of(sight(watching, images[1], camera="right")) == [[]]
    eventually(lambda: clock_of(watching, "slow"))
    assert clock_of(watching, "slow") <= -30 * 60
    # The camera has sent no time.
    eventually(lambda: any(c["camera"] == "right" for c in watching.results("/v1/cameras")))
    assert clock_of(watching, "right") is None


def test_the_track_of_a_rejected_alert_rings_no_more_and_the_next_one_does(watching, images):
    sent = {"camera": "rejected", "track": "stranger", "shown": "alert_id"}
    ((rejected,),) = matches(watching, images[0], **sent)
    review = f"/v1/alerts/{rejected}/review"
    assert watching.http.post(review, data={"decision": "rejected"}).status_code == 200
    # A better crop of the track is of the same stranger.
    assert matches(watching, images[1], **sent) == [[rejected]]
    ((new,),) = matches(watching, images[1], **{**sent, "track": "real"})
    assert new != rejected
    # A crop without a track is a visit by itself.
    ((other,),) = matches(watching, images[2], camera="rejected", shown="alert_id")
    assert other == new
    assert [alert["state"] for alert in alerts(watching, camera="rejected")] == ["open", "rejected"]


def test_a_track_that_the_rejected_alert_did_not_show_rings_with_its_picture(watching, images):
    sent = {"camera": "absorbed", "shown": "alert_id"}
    ((first,),) = matches(watching, images[0], track="stranger", **sent)
    # Seen while the alert was open, by a crop that is no better.
    assert matches(watching, images[0], track="real", **sent) == [[first]]
    review = f"/v1/alerts/{first}/review"
    assert watching.http.post(review, data={"decision": "rejected"}).status_code == 200
    assert matches(watching, images[0], track="stranger", **sent) == [[first]]
    ((new,),) = matches(watching, images[0], track="real", **sent)
    assert new != first
    assert watching.http.get(f"/v1/alerts/{new}/image").status_code == 200


def enroll_watched(served, gallery, *images, **fields):
    """Enroll crops of a camera, which are compared with the lists of other galleries."""
    return served.http.post(
        f"/v1/galleries/{gallery}/crops", files=files(*images), data={**fields, "watch": "true"}
    )


@pytest.mark.parametrize("enrolls", [False, True])
@pytest.mark.parametrize("interval_seconds", [0.1, 1.0, 9.0])
@pytest.mark.parametrize("before", [1, MOST_LOOKS, 3 * MOST_LOOKS])
def test_whoever_takes_over_a_label_is_looked_at_as_a_new_person(
    watching, images, before, interval_seconds, enrolls
):
    begin = datetime.now(UTC) - timedelta(minutes=9)
    gallery = watching.create(f"seen-{uuid4().hex[:8]}", retention_days="1")
    sent = {"camera": gallery, "track": "1"}
    people = [STRANGER] * before + [images[0]] * 2 + [STRANGER]
    moments = [begin + timedelta(seconds=interval_seconds * at) for at in range(len(people))]
    for crop, moment in zip(people, moments, strict=True):
        fields = {**sent, "captured_at": moment.isoformat()}
        if enrolls:
            answer = enroll_watched(watching, gallery, crop, **fields)
            assert answer.status_code == 201, answer.text
        else:
            found = matches(watching, crop, **fields)
            assert found == [["0000"] if crop == images[0] else []]
    eventually(lambda: [alert["crops"] for alert in alerts(watching, camera=gallery)] == [2])
    (alert,) = alerts(watching, camera=gallery)
    assert alert["identity"] == "0000"
    # The stranger's crops are no part of the visit, whether they came before or after.
    times = [datetime.fromisoformat(alert[name]) for name in ("first_seen", "last_seen")]
    assert times == moments[before : before + 2]


def test_a_refused_crop_is_no_part_of_its_track(watching, images):
    begin = datetime.now(UTC) - timedelta(minutes=5)
    sent = {"camera": "refused", "track": "1", "wait": "true"}
    moments = [(begin + timedelta(seconds=at)).isoformat() for at in range(3)]
    crops = [b"no image", images[0], b"no image"]
    assert sight(watching, *crops, captured_at=moments, **sent).status_code == 207
    (alert,) = alerts(watching, camera="refused")
    assert alert["crops"] == 1
    assert alert["first_seen"] == alert["last_seen"] == alert["captured_at"]


def test_whether_a_person_stays_is_sent_for_all_images_for_each_or_for_a_box(watching, images):
    begin = datetime.now(UTC) - timedelta(minutes=3)
    crop = images[0]
    frame = Image.open(io.BytesIO(crop))

    def sent(seconds, track):
        moment = begin + timedelta(seconds=seconds)
        return {"camera": f"stays {track}", "track": track, "captured_at": moment}

    def box(track, **more):
        label = {"camera": f"stays {track}", "track": track}
        return {"x": 0, "y": 0, "width": 48, "height": 96, **label, **more}

    def counted_tracks():
        cameras = watching.results("/v1/cameras")
        return {c["camera"]: c["tracks"] for c in cameras if str(c["camera"]).startswith("stays ")}

    with watching.connect() as client:
        both = [Labelled(crop, **sent(0, track)) for track in "12"]
        client.sight(*both, still=[True, False])
        client.sight(crop, **sent(0, "3"), still=True)
        client.sight_frame(
            encoded(frame), [box("4", still=True), box("5", still=False)], captured_at=begin
        )
        # The box itself has the last word.
        client.sight_frame(
            encoded(frame), [box("6"), box("7", still=False)], captured_at=begin, still=True
        )
        # Enrolled crops are sightings, too.
        client.create_gallery("hall", retention_days=1)
        enrolled = [Labelled(crop, **sent(0, track)) for track in "89"]
        client.enroll(enrolled, gallery="hall", watch=True, still=[True, False])
        for track in "123456789":
            client.sight(crop, **sent(25, track))
    # A track that has ended is followed by another one.
    tracks = {f"stays {track}": 2 if track in "2579" else 1 for track in "123456789"}
    eventually(lambda: counted_tracks() == tracks)
    refused = sight(watching, crop, crop, crop, still=["true", "false"])
    assert refused_fields(refused) == {"still"}
    assert refused_fields(sight(watching, crop, still="perhaps")) == {"still"}
    # Empty is unknown, as /docs sends it.
    assert sight(watching, crop, crop, camera="unknown", still=["", "true"]).status_code == 202
    assert refused_fields(watching.enroll("wanted", crop, still="true")) == {"still"}


def test_an_alert_names_the_zone_of_the_crop_that_it_shows(watching, images):
    crop = images[0]
    box = {"x": 0, "y": 0, "width": 48, "height": 96}

    def zone_at(camera):
        (alert,) = alerts(watching, camera=camera)
        return alert["zone"]

    with watching.connect() as client:
        client.sight(STRANGER, crop, camera="zoned", track="1", zone=["yard", "door"])
        client.sight_frame(crop, [{**box, "zone": "door"}], camera="framed", zone="yard")
        client.sight_frame(crop, [box], camera="whole", zone="yard")
        client.sight(crop, camera="bare", zone=[None])
        client.create_gallery("porch", retention_days=1)
        enrolled = [Labelled(crop, camera="stored")]
        client.enroll(enrolled, gallery="porch", watch=True, zone=["door"])
        (stored,) = client.crops(gallery="porch")
    assert [zone_at(camera) for camera in ("zoned", "framed", "whole", "bare", "stored")] == [
        "door",
        "door",
        "yard",
        None,
        "door",
    ]
    # It is no label of a crop.
    assert not hasattr(stored, "zone")
    for zone in (65 * "a", "a\u200bb", ".."):
        assert refused_fields(sight(watching, crop, zone=zone)) == {"zone"}
    assert refused_fields(sight(watching, crop, crop, crop, zone=["a", "b"])) == {"zone"}
    assert refused_fields(watching.enroll("wanted", crop, zone="door")) == {"zone"}


def test_boxes_of_a_frame_are_sightings_with_their_own_tracks(watching, images):
    crop = images[20]
    frame = Image.new("RGB", (200, 120), (90, 120, 90))
    boxes = []
    for position, shown in enumerate((crop, STRANGER)):
        frame.paste(Image.open(io.BytesIO(shown)), (10 + 60 * position, 10))
        box = {
            "x": 10 + 60 * position,
            "y": 10,
            "width": 48,
            "height": 96,
            "track": f"box {position}",
        }
        boxes.append(box)
    with watching.connect() as client:
        seen = client.sight_frame(encoded(frame), boxes, camera="frames", wait=True)
        found = [[match.identity for match in result.matches] for result in seen.results]
        assert found == [["0005"], []]
        # The client sends a request again by itself where its answer was lost.
        accepted = client.sight(crop, STRANGER, camera="frames", track="box 0")
        assert [result.matches for result in accepted.results] == [None, None]
    (alert,) = alerts(watching, camera="frames")
    assert alert["track"] == "box 0"


def test_the_labels_of_images_are_those_of_their_sightings(watching, images):
    earlier = datetime.now(UTC) - timedelta(seconds=90)
    before = embedded(watching)
    with watching.connect() as client:
        crops = [Labelled(images[0], camera="labels doors", track="17")] * (MOST_LOOKS + 4)
        assert client.sight(*crops, images[0], camera="labels hall").accepted == len(crops) + 1
        assert embedded(watching) - before == len(crops) + 1
        timed = Labelled(images[12], camera="labels doors", captured_at=earlier, track="18")
        client.sight(timed, images[12], camera="labels hall", wait=True)
        frame = Labelled(images[16], camera="labels doors", captured_at=earlier, track="19")
        box = {"x": 0, "y": 0, "width": 48, "height": 96}
        client.sight_frame(
            frame, [box, {**box, "camera": "labels hall"}], camera="labels gate", wait=True
        )
    noted = {
        (alert["identity"], alert["camera"], alert["track"]): alert["first_seen"]
        for camera in ("labels doors", "labels hall", "labels gate")
        for alert in alerts(watching, camera=camera)
    }
    assert set(noted) == {
        ("0000", "labels doors", "17"),
        ("0000", "labels hall", None),
        ("0003", "labels doors", "18"),
        ("0003", "labels hall", None),
        ("0004", "labels doors", "19"),
        ("0004", "labels hall", "19"),
    }
    for track in (("0003", "labels doors", "18"), ("0004", "labels doors", "19")):
        assert datetime.fromisoformat(noted[track]) == earlier


def test_a_refused_sighting_says_why_the_first_image_was_refused(watching, images):
    with watching.connect() as client:
        with pytest.raises(RequestRefused, match=r"image 1: the bytes are not a JPEG") as refused:
            client.sight(b"no image", b"", camera="frames")
        assert len(refused.value.problem.results) == 2
        long_ago = datetime.now(UTC) - timedelta(days=30)
        with pytest.raises(RequestRefused, match=r"image 1: .* 7 days"):
            client.sight(Labelled(images[0], camera="frames", captured_at=long_ago))


@pytest.fixture(scope="module")
def keyed(open_service, tmp_path_factory, drawn_crops):
    folder = tmp_path_factory.mktemp("keyed")

    def key(scopes, *options):
        return bearer(make_key(folder, "--scope", scopes, *options))

    admin = key("admin")
    keys = {
        "camera": key("sight"),
        "desk": key("sight,query"),
        "one": key("sight,query", "--gallery", "second"),
        "enroller": key("enroll"),
    }
    served = open_service(folder)
    served.http.headers.update(admin)
    for gallery in ("first", "second"):
        arm_new(served, gallery, drawn_crops)
    return served, keys


@pytest.mark.parametrize(
    ("key", "seen", "noted"),
    [
        ("desk", ["first", "second"], ["first", "second"]),
        ("one", ["second"], ["second"]),
        # A camera's key sends, and reads nothing.
        ("camera", [], ["first", "second"]),
    ],
)
def test_what_a_key_sees_of_its_sightings(keyed, images, key, seen, noted):
    served, keys = keyed
    sent = {"camera": f"of {key}", "headers": keys[key], "shown": "gallery"}
    assert sorted(matches(served, images[0], **sent)[0]) == seen
    assert sorted(alert["gallery"] for alert in alerts(served, camera=f"of {key}")) == noted


def test_a_key_that_enrolls_may_not_watch(keyed, images):
    served, keys = keyed
    image = files(images[0])
    for path, fields in (("sightings", {}), ("galleries/first/crops", {"watch": "true"})):
        sent = {"files": image, "data": fields, "headers": keys["enroller"]}
        assert served.http.post(f"/v1/{path}", **sent).status_code == 403


def test_a_cameras_key_does_not_learn_which_lists_watch_it(keyed, open_service, tmp_path):
    served, keys = keyed
    for gallery in ("first", "second"):
        arm(served, gallery, cameras="watched")

    def answers(service, camera, headers):
        sent = {"camera": camera, "headers": headers}
        broken = [b"no image"] * 2
        received = [
            sight(service, *broken, **sent),
            sight(service, *broken, STRANGER, track="1", **sent),
            sight(service, *[STRANGER] * MOST_LOOKS, track="1", **sent),
            # Beyond the crops that are compared they are read, too.
            sight(service, *broken, track="1", **sent),
        ]
        documents = [answer.json() for answer in received]
        for document in documents:
            document.pop("request_id", None)
        return [answer.status_code for answer in received], documents

    watched = answers(served, "watched", keys["camera"])
    assert watched[0] == [422, 207, 202, 422]
    assert answers(served, "unwatched", keys["camera"]) == watched
    assert answers(open_service(tmp_path), "unwatched", None) == watched
    for gallery in ("first", "second"):
        arm(served, gallery)


@pytest.mark.promise("shares")
@pytest.mark.slow
def test_many_tracks_of_one_key_end_none_of_another(start, tmp_path, drawn_crops):
    admin, gate, noisy = (
        bearer(make_key(tmp_path, "--scope", scope)) for scope in ("admin", "sight", "sight")
    )
    few = "from service.watch import tracks; tracks.MOST_OPEN = 6\n"
    served = start(tmp_path, program=few + START)
    served.http.headers.update(admin)
    arm_new(served, "wanted", drawn_crops)
    sent = {"camera": "gate", "track": "17", "headers": gate}
    assert sight(served, *[STRANGER] * MOST_LOOKS, **sent).status_code == 202
    others = [str(number) for number in range(12)]
    flood = sight(served, *[STRANGER] * 12, camera="yard", track=others, headers=noisy)
    assert flood.status_code == 202
    eventually(lambda: figure(served, "gmn_tracks_forgotten_total") == 7)
    assert sight(served, STRANGER, **sent).status_code == 202

    def seen_at_the_gate():
        cameras = served.results("/v1/cameras")
        return [(c["crops"], c["tracks"]) for c in cameras if c["camera"] == "gate"]

    # The track of before the flood goes on.
    eventually(lambda: seen_at_the_gate() == [(MOST_LOOKS + 1, 1)])


def test_every_track_counts_in_the_traffic_which_is_there_after_the_end(
    open_service, tmp_path, drawn_crops
):
    served = open_service(tmp_path)
    arm_new(served, "wanted", drawn_crops)
    for track in ("1", "1", "2", ""):
        assert sight(served, STRANGER, camera="gate", track=track).status_code == 202
    assert matches(served, drawn_crops[0].png, camera="gate", track="3") == [["0000"]]
    eventually(lambda: figure(served, "gmn_open_tracks") == 4)
    assert served.stop() == 0
    with open_record(tmp_path) as record, record.database.read() as reader:
        (histogram,) = reader.column("SELECT histogram FROM watch_traffic")
        of_camera = "SELECT key_id, camera, histogram FROM camera_traffic"
        assert reader.tuples(of_camera) == [("loopback", "gate", histogram)]
    counts = np.frombuffer(histogram, "<i8")
    # The score of the listed person, whose own crop was sent, is in the last bin.
    assert (sum(counts), counts[-1]) == (4, 1)


def counted(data_dir):
    """Return the number of tracks in the stored traffic."""
    with open_record(data_dir) as record, record.database.read() as reader:
        return reader.column("SELECT tracks FROM watch_traffic")


def test_a_person_who_stays_is_one_track_and_one_who_is_swapped_two(
    open_service, tmp_path, drawn_crops
):
    served = open_service(tmp_path)
    arm_new(served, "wanted", drawn_crops)
    begin = datetime.now(UTC) - timedelta(minutes=40)

    def seen(camera, crop, seconds, **fields):
        captured_at = (begin + timedelta(seconds=seconds)).isoformat()
        sent = {"camera": camera, "track": "1", "captured_at": captured_at, **fields}
        assert sight(served, crop, **sent).status_code == 202

    for minute in range(30):
        seen("stays", STRANGER, 60 * minute, still="true")
        # Sent again, because the answer was lost.
        seen("stays", STRANGER, 60 * minute, still="true")
    for minute in range(3):
        seen("passes", STRANGER, 60 * minute)
    for seconds, crop in ((0, 0), (1, 0), (2, 8), (3, 0), (4, 8)):
        seen("swapped", drawn_crops[crop].png, seconds)
    assert served.stop() == 0
    assert counted(tmp_path) == [1 + 3 + 2]


def test_sightings_of_one_track_that_reach_two_processes_count_once(start, tmp_path, drawn_crops):
    first = start(tmp_path)
    arm_new(first, "wanted", drawn_crops)
    second = start(tmp_path)
    begin = datetime.now(UTC) - timedelta(minutes=1)

    def seen(served, crop, seconds, track):
        captured_at = (begin + timedelta(seconds=seconds)).isoformat()
        sent = {"camera": "gate", "track": track, "captured_at": captured_at}
        return matches(served, crop, **sent)

    listed = drawn_crops[0].png
    for seconds, served in enumerate((first, second, first, second)):
        assert seen(served, listed, seconds, "1") == [["0000"]]
        assert seen(served, STRANGER, seconds, "2") == [[]]
    # Neither process sees the whole track, and the first takes it for two.
    for seconds, served in ((0, first), (8, second), (15, first)):
        seen(served, STRANGER, seconds, "3")
    # A label that is given out again is another track.
    seen(second, STRANGER, 40, "3")
    # A crop without a label is a track by itself.
    for served in (first, second):
        assert seen(served, STRANGER, 0, "") == [[]]
    (alert,) = alerts(first)
    assert alert["crops"] == 4
    assert first.stop() == second.stop() == 0
    assert counted(tmp_path) == [1 + 1 + 1 + 1 + 2]


def test_two_processes_that_see_one_visit_raise_one_alert(start, tmp_path, drawn_crops, images):
    first = start(tmp_path)
    arm_new(first, "wanted", drawn_crops)
    second = start(tmp_path)
    sent = {"camera": "gate", "track": "1"}
    # The first sighting after a start is compared with the lists that were armed before.
    for served in (second, first, second, first):
        assert matches(served, images[0], **sent) == [["0000"]]
    (alert,) = alerts(first)
    assert alert["crops"] == 4
    # A list that one process disarms is compared with in none.
    assert first.http.delete("/v1/galleries/wanted/watch").status_code == 200
    for served in (first, second):
        assert matches(served, images[0], **sent) == [[]]


def test_lists_of_two_embedders_are_each_compared_by_their_own(
    open_service, tmp_path, tiny_artefact, other_artefact, drawn_crops
):
    before = open_service(tmp_path)
    before.fill(before.create("old"), drawn_crops)
    assert before.stop() == 0
    served = open_service(tmp_path, artefact=other_artefact, previous=tiny_artefact)
    arm(served, "old")
    arm_new(served, "new", drawn_crops)
    already = embedded(served)
    assert matches(served, drawn_crops[0].png, camera="gate") == [["0000", "0000"]]
    assert {alert["gallery"] for alert in alerts(served)} == {"old", "new"}
    assert embedded(served) - already == 2
    # An image that neither can use is one problem.
    assert sight(served, b"no image", camera="gate").status_code == 422


# The longest time in seconds that a writer waits for another one; of PostgreSQL a whole number.
IMPATIENT = {
    "sqlite": "import service.record.sqlite as part; part.BUSY_SECONDS = 0.1\n",
    "postgres": "import service.postgres.connection as part; part.TURN_SECONDS = 1\n",
}


REFUSED = {"sqlite": (507, "storage_failed"), "postgres": (503, "record_unavailable")}


@contextlib.contextmanager
def writing(data_dir, engine):
    """Write into the record of a data directory as long as the block lasts."""
    if engine == "sqlite":
        with contextlib.closing(sqlite3.connect(data_dir / FILE, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield
            other.execute("ROLLBACK")
    else:
        with psycopg.connect(database_url(data_dir)) as other:
            other.execute(f"SELECT pg_advisory_xact_lock({WRITERS})")
            yield


def test_a_sighting_whose_alert_the_record_does_not_take_is_refused_and_sent_again(
    start, tmp_path, engine, drawn_crops, images
):
    served = start(tmp_path, program=IMPATIENT[engine] + START)
    arm_new(served, "wanted", drawn_crops)
    with writing(tmp_path, engine):
        refused = sight(served, images[4], camera="gate", track="2")
    assert problem(refused) == REFUSED[engine]
    assert alerts(served) == []
    assert sight(served, images[4], camera="gate", track="2").status_code == 202
    assert [alert["identity"] for alert in alerts(served)] == ["0001"]


def test_an_alert_whose_camera_has_left_is_written_when_the_track_ends(
    start, tmp_path, drawn_crops
):
    drawing = tmp_path / "drawing"
    slow_pictures = (
        "import asyncio; from service.watch import sightings; sightings.QUIET_SECONDS = 1.0\n"
        "from pathlib import Path; from service.engine.images import Pipeline\n"
        "thumbnail = Pipeline.thumbnail\n"
        "async def draw_slowly(*args):\n"
        f"    Path({str(drawing)!r}).touch()\n"
        "    await asyncio.sleep(3.0)\n"
        "    return await thumbnail(*args)\n"
        "Pipeline.thumbnail = draw_slowly\n"
    )
    served = start(tmp_path / "data", program=slow_pictures + START)
    arm_new(served, "wanted", drawn_crops)
    sighting = {"files": files(drawn_crops[0].png), "data": {"camera": "gate", "track": "17"}}
    with served.sent(served.http.build_request("POST", "/v1/sightings", **sighting)):
        eventually(drawing.exists)
    eventually(lambda: alerts(served))
    (alert,) = alerts(served)
    assert (alert["identity"], alert["crops"], alert["track"]) == ("0000", 1, "17")


def test_an_enrollment_with_watch_pays_for_its_embedding_once(open_service, monkeypatch, images):
    costs = []
    admit = Admission.admit

    def note_and_admit(admission, cost):
        costs.append(cost)
        return admit(admission, cost)

    served = open_service()
    keep_for(served, "default", 30)
    monkeypatch.setattr(Admission, "admit", note_and_admit)
    served.enrolled("default", images[0], watch="true")
    embedding, comparing = costs
    assert embedding > 0.0 == comparing


RECEIVERS = {"receive_alerts.py": sys.executable, "receive_alerts.mjs": "node"}


@pytest.mark.parametrize("example", RECEIVERS)
def test_the_receivers_of_the_examples_print_what_is_signed_and_nothing_else(
    watching, images, example
):
    if shutil.which(RECEIVERS[example]) is None:
        pytest.skip("node is not installed")
    # The receiver needs the secret of its address before it listens there.
    port = free_port()
    address = f"http://127.0.0.1:{port}/"
    webhook = create_webhook(watching.http, address)
    program = subprocess.Popen(
        [RECEIVERS[example], str(EXAMPLES / example), str(port)],
        env=os.environ | {"WEBHOOK_SECRET": webhook["secret"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert program.stdout.readline().startswith("Listening on")
        signed = {"webhook-id": "1", "webhook-timestamp": str(int(time.time()))}
        forged = {**signed, "webhook-signature": "v1,AAAA"}
        assert httpx2.post(address, content=b'{"type": "x"}', headers=forged).status_code == 401
        assert httpx2.post(address, content=b"{}").status_code == 401
        sent = {"camera": example, "shown": "probability"}
        ((probability,),) = matches(watching, images[0], **sent)
        printed = program.stdout.readline().split()
        assert printed == ["wanted", "0000", example, f"{probability:.0%}"]
    finally:
        program.kill()
        program.communicate()
        watching.http.delete(f"/v1/webhooks/{webhook['webhook_id']}")
