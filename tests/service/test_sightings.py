"""Sightings: crops of a camera that raise an alert where they show a person of an armed list."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from gmn_client import Client, RequestRefused
from service.record.transaction import FILE
from service.watch.tracks import MOST_LOOKS
from tests.conftest import draw_crop
from tests.service.conftest import START, Served, files
from tests.service.http.conftest import make_key
from tests.service.watch_places import Receiver, arm, create_webhook, fill, receiving
from tests.waiting import eventually

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
STRANGER = draw_crop(53, 1, 7)


@pytest.fixture(scope="module")
def watching(start: Any, drawn_crops: list[Any]) -> Served:
    """Serve an armed list of six people, and let webhooks reach this machine."""
    served: Served = start(webhook_private="true")
    fill(served, "wanted", drawn_crops)
    arm(served, "wanted")
    return served


@pytest.fixture
def receiver(watching: Served) -> Iterator[Receiver]:
    with receiving(watching) as opened:
        yield opened


def sight(
    served: Served,
    *images: bytes,
    **fields: Any,
) -> httpx.Response:
    headers = fields.pop("headers", None)
    return served.http.post(
        "/v1/sightings",
        files=files(*images),
        data=fields,
        headers=headers,
    )


def matches(answer: httpx.Response) -> list[list[str]]:
    """Return the identities that each image of an answer matches."""
    assert answer.status_code == 200, answer.text
    return [[match["identity"] for match in image["matches"]] for image in answer.json()["results"]]


def alerts(served: Served, **wanted: str) -> list[dict[str, Any]]:
    answer = served.http.get("/v1/alerts", params=wanted)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def deliveries(served: Served, webhook: dict[str, Any]) -> list[dict[str, Any]]:
    asked = {"webhook_id": webhook["webhook_id"]}
    answer = served.http.get("/v1/webhooks/deliveries", params=asked)
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def metric(served: Served, name: str) -> float:
    found = re.search(rf"^{name} (\S+)$", served.http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_fifty_crops_of_one_visit_raise_one_alert_and_one_delivery(
    watching: Served, drawn_crops: list[Any], receiver: Receiver
) -> None:
    webhook = create_webhook(watching.http, receiver.url)
    crop = drawn_crops[0]
    sent = {"camera": "fifty", "track": "17"}
    for _ in range(4):
        answer = sight(watching, *[crop.png] * 10, **sent)
        assert answer.status_code == 202
        assert answer.json() == {"accepted": 10, "results": [{"matches": None}] * 10}
    answer = sight(
        watching,
        *[crop.png] * 10,
        **sent,
        wait="true",
    )
    assert matches(answer) == [[crop.identity]] * 10
    (alert,) = alerts(watching, camera="fifty")
    assert (alert["kind"], alert["gallery"], alert["identity"]) == ("visit", "wanted", "0000")
    assert (alert["crops"], alert["track"]) == (50, "17")
    assert alert["probability"] >= 0.5
    assert alert["score"] > alert["threshold"]
    picture = watching.http.get(alert["image_url"])
    assert picture.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(picture.content)).size == (48, 96)
    # Another track, as where the tracker lost the person, is the same visit.
    assert matches(
        sight(
            watching,
            crop.png,
            camera="fifty",
            track="18",
            wait="true",
        )
    ) == [["0000"]]
    assert [seen_alert["crops"] for seen_alert in alerts(watching, camera="fifty")] == [51]
    eventually(lambda: receiver.received)
    assert [delivery["alert_id"] for delivery in deliveries(watching, webhook)] == [
        alert["alert_id"]
    ]
    assert len(receiver.received) == 1


def test_a_strangers_crops_raise_none_and_a_crop_without_a_track_is_one_alone(
    watching: Served, drawn_crops: list[Any]
) -> None:
    for track in ({}, {"track": "1"}):
        answer = sight(watching, STRANGER, camera="nobody", wait="true", **track)
        assert matches(answer) == [[]]
    assert alerts(watching, camera="nobody") == []
    # In a track with a stranger's crops its best one decides.
    mixed = sight(
        watching,
        drawn_crops[4].png,
        camera="nobody",
        track="1",
        wait="true",
    )
    assert matches(mixed) == [["0001"]]


def test_of_a_track_eight_crops_are_compared_and_the_others_go_on_with_the_visit(
    watching: Served, drawn_crops: list[Any]
) -> None:
    before = metric(watching, "gmn_images_embedded_total")
    crops = [drawn_crops[0].png] * (MOST_LOOKS + 4)
    assert matches(
        sight(
            watching,
            *crops,
            camera="looks",
            track="1",
            wait="true",
        )
    ) == [["0000"]] * len(crops)
    assert metric(watching, "gmn_images_embedded_total") - before == MOST_LOOKS
    # A refused image uses up no look.
    sight(
        watching,
        *[b"no image"] * MOST_LOOKS,
        camera="looks",
        track="2",
        wait="true",
    )
    again = sight(
        watching,
        drawn_crops[0].png,
        camera="looks",
        track="2",
        wait="true",
    )
    assert matches(again) == [["0000"]]


def test_an_image_that_cannot_be_used_is_a_problem_of_its_own(
    watching: Served, drawn_crops: list[Any]
) -> None:
    now = datetime.now(UTC)
    ahead, near, past = (
        (now + difference).isoformat()
        for difference in (timedelta(minutes=2), timedelta(seconds=30), -timedelta(days=8))
    )
    crop = drawn_crops[0].png
    answer = sight(
        watching,
        *(crop, b"no image", crop, crop),
        camera="problems",
        captured_at=[near, "", ahead, past],
        wait="true",
    )
    assert answer.status_code == 207
    right, damaged, future, old = answer.json()["results"]
    assert answer.json()["accepted"] == 1
    assert right["matches"][0]["identity"] == "0000"
    assert damaged["problem"]["type"].startswith("urn:gmn:problem:")
    assert future["problem"]["type"] == "urn:gmn:problem:captured_in_future"
    assert old["problem"]["type"] == "urn:gmn:problem:captured_long_ago"
    for problem in (future["problem"], old["problem"]):
        assert problem["detail"].startswith("captured_at: ")
    for alert in alerts(watching, camera="problems"):
        assert datetime.fromisoformat(alert["last_seen"]) <= now + timedelta(seconds=60)
    refused = sight(watching, b"no image", camera="problems")
    assert refused.status_code == 422
    assert refused.json()["type"] == "urn:gmn:problem:unusable_images"


def test_cameras_and_hours_of_a_list_are_those_of_the_capture_and_an_old_one_is_late(
    watching: Served, drawn_crops: list[Any], receiver: Receiver
) -> None:
    crop = drawn_crops[8]
    fill(watching, "night", drawn_crops)
    arm(watching, "night", cameras="yard", hours="22:00-06:00", time_zone="Asia/Tokyo")
    webhook = create_webhook(watching.http, receiver.url, gallery="night")
    yesterday = datetime.now(UTC) - timedelta(days=1)
    # 23:30 and 12:00 in Tokyo.
    at_night = yesterday.replace(hour=14, minute=30).isoformat()
    at_noon = yesterday.replace(hour=3, minute=0).isoformat()

    def lists(camera: str, captured_at: str) -> set[str]:
        sent = {"camera": camera, "captured_at": captured_at, "wait": "true"}
        answer = sight(watching, crop.png, **sent).json()
        return {match["gallery"] for match in answer["results"][0]["matches"]}

    assert lists("yard", at_night) == {"wanted", "night"}
    assert lists("yard", at_noon) == {"wanted"}
    assert lists("hall", at_night) == {"wanted"}
    (alert,) = alerts(watching, gallery="night")
    assert (alert["kind"], alert["camera"]) == ("late", "yard")
    assert datetime.fromisoformat(alert["first_seen"]) == datetime.fromisoformat(at_night)
    assert deliveries(watching, webhook) == []
    assert watching.http.delete("/v1/galleries/night").status_code == 200
    assert lists("yard", at_night) == {"wanted"}


def test_a_forgotten_person_raises_no_alert_and_leaves_none(
    watching: Served, drawn_crops: list[Any]
) -> None:
    crop = drawn_crops[12]
    fill(watching, "forgetful", drawn_crops)
    arm(watching, "forgetful")
    sent = {"camera": "exit", "track": "5", "wait": "true"}
    answer = sight(watching, crop.png, **sent).json()
    found = {match["gallery"]: match["alert_id"] for match in answer["results"][0]["matches"]}
    alert = f"/v1/alerts/{found['forgetful']}"
    assert watching.http.get(alert).json()["identity"] == crop.identity
    forgotten = watching.http.delete(f"/v1/galleries/forgetful/identities/{crop.identity}")
    assert forgotten.status_code == 200, forgotten.text
    assert watching.http.get(alert).status_code == 404
    # At once, and in the track that is still open.
    answer = sight(watching, crop.png, **sent).json()
    assert [match["gallery"] for match in answer["results"][0]["matches"]] == ["wanted"]
    assert watching.http.delete("/v1/galleries/forgetful").status_code == 200


def test_an_enrollment_with_watch_is_compared_with_the_lists_of_other_galleries(
    watching: Served, drawn_crops: list[Any]
) -> None:
    crop = drawn_crops[16]
    watching.create("passage")
    before = metric(watching, "gmn_images_embedded_total")
    sent = {"camera": "door", "track": "3", "watch": "true"}
    answer = watching.enroll("passage", crop.png, b"no image", **sent)
    assert answer.status_code == 207
    eventually(lambda: alerts(watching, camera="door"))
    (alert,) = alerts(watching, camera="door")
    assert (alert["gallery"], alert["identity"]) == ("wanted", crop.identity)
    assert metric(watching, "gmn_images_embedded_total") - before == 1
    # The list itself is left out: the crop would match itself.
    answer = watching.enroll(
        "wanted",
        STRANGER,
        identity="new",
        camera="itself",
        watch="true",
    )
    assert answer.status_code == 201
    assert alerts(watching, camera="itself") == []
    # Other tests show the stranger as nobody.
    forgotten = watching.http.delete("/v1/galleries/wanted/identities/new")
    assert forgotten.status_code == 200


def test_boxes_of_a_frame_are_sightings_with_their_own_tracks(
    watching: Served, drawn_crops: list[Any]
) -> None:
    frame = Image.new("RGB", (200, 120), (90, 120, 90))
    for place, crop in enumerate((drawn_crops[20].png, STRANGER)):
        frame.paste(Image.open(io.BytesIO(crop)), (10 + 60 * place, 10))
    frame.save(file := io.BytesIO(), "PNG")
    boxes = [
        {"x": 10 + 60 * place, "y": 10, "width": 48, "height": 96, "track": f"box {place}"}
        for place in range(2)
    ]
    with Client(str(watching.http.base_url)) as client:
        seen = client.sight_frame(
            file.getvalue(),
            boxes,
            camera="frames",
            wait=True,
        )
        assert [[match.identity for match in result.matches] for result in seen.results] == [
            ["0005"],
            [],
        ]
        (alert,) = alerts(watching, camera="frames")
        assert alert["track"] == "box 0"
        # The client sends a request again by itself where its answer was lost.
        accepted = client.sight(
            drawn_crops[20].png,
            STRANGER,
            camera="frames",
            track="box 0",
        )
        assert [result.matches for result in accepted.results] == [None, None]
        with pytest.raises(RequestRefused, match="none of the 1 images"):
            client.sight(b"no image", camera="frames")
    assert len(alerts(watching, camera="frames")) == 1


@pytest.fixture(scope="module")
def keyed(
    start: Any,
    tmp_path_factory: Any,
    drawn_crops: list[Any],
) -> tuple[Served, Any]:
    """Serve two armed lists, with a function that makes a key and returns its headers."""
    folder = tmp_path_factory.mktemp("keyed")

    def key(scopes: str, *options: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {make_key(folder, '--scope', scopes, *options)}"}

    admin = key("admin")
    keys = {
        "camera": key("sight"),
        "desk": key("sight,query"),
        "one": key("sight,query", "--gallery", "second"),
        "enroller": key("enroll"),
    }
    served: Served = start(folder)
    served.http.headers.update(admin)
    for gallery in ("first", "second"):
        fill(served, gallery, drawn_crops)
        arm(served, gallery)
    return served, keys


def test_what_a_key_sees_of_its_sightings(
    keyed: tuple[Served, Any], drawn_crops: list[Any]
) -> None:
    served, keys = keyed
    crop = drawn_crops[0]

    def lists(key: str) -> list[str]:
        sent = {"camera": f"of {key}", "wait": "true", "headers": keys[key]}
        (image,) = sight(
            served,
            crop.png,
            **sent,
        ).json()["results"]
        return sorted(match["gallery"] for match in image["matches"])

    assert lists("desk") == ["first", "second"]
    assert lists("one") == ["second"]
    assert [alert["gallery"] for alert in alerts(served, camera="of one")] == ["second"]
    # A camera's key sends, and reads nothing.
    assert lists("camera") == []
    assert len(alerts(served, camera="of camera")) == 2
    for path in ("/v1/alerts", "/v1/galleries/first", "/v1/galleries/first/crops"):
        assert served.http.get(path, headers=keys["camera"]).status_code == 403
    assert sight(served, crop.png, headers=keys["enroller"]).status_code == 403
    url = "/v1/galleries/first/crops"
    watched = {"files": files(crop.png), "data": {"watch": "true"}}
    assert (
        served.http.post(
            url,
            **watched,
            headers=keys["enroller"],
        ).status_code
        == 403
    )


def test_a_cameras_key_does_not_learn_which_lists_watch_it(
    keyed: tuple[Served, Any], start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    served, keys = keyed
    for gallery in ("first", "second"):
        arm(served, gallery, cameras="watched")
    nothing_armed = start(tmp_path)

    def answers(service: Served, camera: str) -> list[tuple[int, Any]]:
        headers = keys["camera"] if service is served else None
        track = {"camera": camera, "track": "1", "headers": headers}
        broken = [b"no image"] * 2
        sent = [
            sight(service, *broken, camera=camera, headers=headers),
            sight(service, *broken, STRANGER, **track),
            sight(service, *[STRANGER] * MOST_LOOKS, **track),
            # Beyond the crops that are compared none is read.
            sight(service, *broken, **track),
        ]
        documents = [answer.json() for answer in sent]
        for document in documents:
            document.pop("request_id", None)
        return [(answer.status_code, text) for answer, text in zip(sent, documents, strict=True)]

    watched = answers(served, "watched")
    assert [status for status, _ in watched] == [422, 207, 202, 202]
    assert answers(served, "unwatched") == watched
    assert answers(nothing_armed, "unwatched") == watched
    for gallery in ("first", "second"):
        arm(served, gallery)


def test_the_same_ids_of_two_keys_are_two_tracks(
    keyed: tuple[Served, Any], drawn_crops: list[Any]
) -> None:
    served, keys = keyed
    sent = {"camera": "shared", "track": "1", "wait": "true"}
    sight(served, *[STRANGER] * MOST_LOOKS, **sent, headers=keys["camera"])
    # Another key has its own eight looks.
    answer = sight(
        served,
        drawn_crops[0].png,
        **sent,
        headers=keys["desk"],
    )
    assert matches(answer) == [["0000", "0000"]]


def test_every_track_counts_in_the_traffic_which_is_there_after_the_end(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    served = start(tmp_path)
    fill(served, "wanted", drawn_crops)
    arm(served, "wanted")
    for track in ("1", "1", "2", ""):
        assert sight(served, STRANGER, camera="gate", track=track).status_code == 202
    known = sight(
        served,
        drawn_crops[0].png,
        camera="gate",
        track="3",
        wait="true",
    )
    assert matches(known) == [["0000"]]
    assert metric(served, "gmn_open_tracks") == 4
    assert served.stop() == 0
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as record:
        ((histogram,),) = record.execute("SELECT histogram FROM watch_traffic").fetchall()
    counts = np.frombuffer(histogram, "<i8")
    assert sum(counts) == 4
    # The score of the listed person, whose own crop was sent, is in the last bin.
    assert counts[-1] == 1


def test_two_processes_that_see_one_visit_raise_one_alert(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    first = start(tmp_path)
    fill(first, "wanted", drawn_crops)
    arm(first, "wanted")
    second = start(tmp_path)
    crop = drawn_crops[0]
    sent = {"camera": "gate", "track": "1", "wait": "true"}
    eventually(
        lambda: (
            matches(
                sight(
                    second,
                    crop.png,
                    **sent,
                )
            )
            == [["0000"]]
        )
    )
    for served in (first, second, first):
        assert matches(sight(served, crop.png, **sent)) == [["0000"]]
    (alert,) = alerts(first)
    assert alert["crops"] >= 4
    # A list that one process disarms is compared with in none.
    assert first.http.delete("/v1/galleries/wanted/watch").status_code == 200
    assert matches(sight(first, crop.png, **sent)) == [[]]
    assert matches(sight(second, crop.png, **sent)) == [[]]


def test_lists_of_two_embedders_are_each_compared_by_their_own(
    start: Any,
    tmp_path: Path,
    tiny_artefact: Path,
    other_artefact: Path,
    drawn_crops: list[Any],
) -> None:
    before = start(tmp_path)
    fill(before, "old", drawn_crops)
    assert before.stop() == 0
    served = start(tmp_path, artefact=other_artefact, previous=tiny_artefact)
    fill(served, "new", drawn_crops)
    arm(served, "old")
    arm(served, "new")
    embedded = metric(served, "gmn_images_embedded_total")
    answer = sight(served, drawn_crops[0].png, camera="gate", wait="true")
    assert matches(answer) == [["0000", "0000"]]
    assert {alert["gallery"] for alert in alerts(served)} == {"old", "new"}
    assert metric(served, "gmn_images_embedded_total") - embedded == 2
    # An image that neither can use is one problem.
    assert sight(served, b"no image", camera="gate").status_code == 422


@pytest.mark.slow
def test_a_sighting_whose_alert_the_record_does_not_take_is_refused_and_sent_again(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    served = start(tmp_path)
    fill(served, "wanted", drawn_crops)
    arm(served, "wanted")
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        # Longer than a write waits for another program.
        served.http.timeout = httpx.Timeout(150.0)
        other.execute("BEGIN IMMEDIATE")
        refused = sight(served, drawn_crops[4].png, camera="gate", track="2")
        other.execute("ROLLBACK")
    assert refused.status_code == 507
    assert refused.json()["type"] == "urn:gmn:problem:storage_failed"
    assert alerts(served) == []
    again = sight(served, drawn_crops[4].png, camera="gate", track="2", wait="true")
    assert matches(again) == [["0001"]]


def test_a_refused_sighting_that_is_sent_again_at_once_raises_its_alert(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    impatient = "import service.record.transaction as part; part.BUSY_SECONDS = 0.1\n"
    served = start(tmp_path, program=impatient + START)
    fill(served, "wanted", drawn_crops)
    arm(served, "wanted")
    with contextlib.closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = sight(served, drawn_crops[4].png, camera="gate", track="2")
        other.execute("ROLLBACK")
    again = sight(served, drawn_crops[4].png, camera="gate", track="2")
    assert (refused.status_code, again.status_code) == (507, 202)
    assert [alert["identity"] for alert in alerts(served)] == ["0001"]


RECEIVERS = {"receive_alerts.py": [sys.executable], "receive_alerts.mjs": ["node"]}


@pytest.mark.parametrize("example", RECEIVERS)
def test_the_receivers_of_the_examples_print_what_is_signed_and_nothing_else(
    watching: Served, drawn_crops: list[Any], example: str
) -> None:
    program = RECEIVERS[example]
    if shutil.which(program[0]) is None:
        pytest.skip("node is not installed")
    # The port is taken again by the receiver, which needs the secret of its address first.
    probe = Receiver()
    probe.close()
    port = probe.server.server_port
    webhook = create_webhook(watching.http, f"http://127.0.0.1:{port}/")
    receiving = subprocess.Popen(
        [*program, str(EXAMPLES / example), str(port)],
        env=os.environ | {"WEBHOOK_SECRET": webhook["secret"]},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert receiving.stdout is not None
    try:
        assert receiving.stdout.readline().startswith("Listening on")
        address = f"http://127.0.0.1:{port}/"
        now = str(int(time.time()))
        forged = {"webhook-id": "1", "webhook-timestamp": now, "webhook-signature": "v1,AAAA"}
        assert httpx.post(address, content=b'{"type": "x"}', headers=forged).status_code == 401
        assert httpx.post(address, content=b"{}").status_code == 401
        answer = sight(watching, drawn_crops[0].png, camera=example, wait="true")
        probability = answer.json()["results"][0]["matches"][0]["probability"]
        printed = receiving.stdout.readline().split()
        assert printed == ["wanted", "0000", example, f"{probability:.0%}"]
    finally:
        receiving.kill()
        receiving.communicate()
        watching.http.delete(f"/v1/webhooks/{webhook['webhook_id']}")


def test_the_first_sighting_after_a_start_is_compared_with_the_lists_that_were_armed(
    start: Any, tmp_path: Path, drawn_crops: list[Any]
) -> None:
    served = start(tmp_path)
    fill(served, "wanted", drawn_crops)
    arm(served, "wanted")
    served.kill()
    again = start(tmp_path)
    assert matches(
        sight(
            again,
            drawn_crops[0].png,
            camera="gate",
            wait="true",
        )
    ) == [["0000"]]
