"""Sending crops: in order, again after a failure, and never more than may wait."""

import logging
import re
import threading
import time
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from gmn_camera.crops import ChosenCrop
from gmn_camera.sender import CropSender
from gmn_camera.settings import read_options
from gmn_client import Client
from gmn_client.client import Retries
from tests.waiting import eventually

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)


def crop(number, still=False, zone=None):
    captured_at = BEGAN + timedelta(seconds=number)
    jpeg = f"picture {number}".encode()
    return ChosenCrop("t", number, captured_at, time.monotonic(), jpeg, still, zone)


class StandInService:
    """Answers requests with what `answers` has next, and remembers them.

    Attributes:
        answers: statuses and JSON bodies; afterwards all images are accepted.
        requests: bodies as text.
        keys: their Idempotency-Keys.
        arrived: number of requests, of which the last may wait for its answer.
    """

    def __init__(self):
        self.answers = []
        self.requests = []
        self.keys = []
        self.arrived = 0
        self.is_open = threading.Event()
        self.is_open.set()

    def __call__(self, request):
        self.arrived += 1
        self.is_open.wait(30)
        body = request.read().decode(errors="replace")
        self.requests.append(body)
        self.keys.append(request.headers.get("Idempotency-Key"))
        if self.answers:
            status, answer = self.answers.pop(0)
            return httpx2.Response(status, json=answer)
        count = body.count('name="images"')
        if "/crops" in request.url.path:
            image = {"crop_id": "a", "identity": None, "camera": "gate", "duplicate": False}
            return httpx2.Response(
                201, json={"gallery_version": 1, "results": [{**image, "warnings": []}] * count}
            )
        results = [{"matches": None}] * count
        return httpx2.Response(200, json={"accepted": count, "results": results})

    def pictures(self):
        """Return the numbers of the crops in each request."""
        return [
            [int(part.split("\r\n")[0]) for part in body.split("picture ")[1:]]
            for body in self.requests
        ]


@pytest.fixture
def service():
    return StandInService()


@pytest.fixture
def make_sender(service, monkeypatch):
    """Return a function that makes senders to the stand-in; they wait a moment after failures."""
    monkeypatch.setattr("gmn_camera.sender.LONGEST_WAIT", 0.01)
    monkeypatch.setattr("gmn_camera.sender.WAIT_WHILE_CLOSING", 0.01)
    senders = []

    def make(drops=True, **options):
        transport = httpx2.MockTransport(service)
        client = Client("http://service", retries=Retries(attempts=1), transport=transport)
        settings = read_options({"camera": "gate", "source": "a.mp4", **options})
        senders.append(CropSender(client, settings, drops=drops, stop=make.stop))
        return senders[-1]

    make.stop = threading.Event()
    yield make
    service.is_open.set()
    for sender in senders:
        sender.close(5)


def test_crops_are_sent_in_their_order_with_their_labels(make_sender, service):
    sender = make_sender()
    sender.put(crop(0))
    eventually(lambda: sender.sent == 1)
    service.is_open.clear()
    for number in range(1, 4):
        sender.put(crop(number, still=number == 3))
    service.is_open.set()
    sender.close()
    assert [number for batch in service.pictures() for number in batch] == [0, 1, 2, 3]
    assert (sender.sent, sender.refused, sender.dropped) == (4, 0, 0)
    for label in ("gate", "2026-03-01T12:00:00+00:00", 'name="track"'):
        assert label in service.requests[0]
    assert "true" in service.requests[-1]
    assert sender.lag > 0


@pytest.mark.promise("camera-stores")
def test_a_batch_is_sent_again_until_the_service_answers(make_sender, service):
    service.answers = [(503, {"title": "starting"}), (429, {"title": "full"})]
    sender = make_sender(enroll="hall")
    sender.put(crop(0))
    sender.close()
    assert service.pictures() == [[0], [0], [0]]
    assert len(set(service.keys)) == 1
    assert sender.sent == 1
    assert 'name="watch"' in service.requests[0]


@pytest.mark.parametrize("options", [{}, {"enroll": "hall"}], ids=["sighting", "enrollment"])
def test_each_crop_is_sent_with_its_zone(options, make_sender, service):
    sender = make_sender(**options)
    for number, zone in enumerate(("door", None)):
        sender.put(crop(number, zone=zone))
        eventually(lambda sent=number + 1: sender.sent == sent)
    assert [re.findall(r'name="zone"\s+(\w*)', body) for body in service.requests] == [
        ["door"],
        [""],
    ]


def test_an_enrollment_says_who_stays(make_sender, service):
    sender = make_sender(enroll="hall")
    for still in (False, True):
        sender.put(crop(0, still=still))
        eventually(lambda number=int(still): sender.sent == number + 1)
    assert [re.findall(r'name="still"\s+(\w+)', body) for body in service.requests] == [
        ["false"],
        ["true"],
    ]


def test_crops_that_are_given_up_at_the_end_are_counted_and_nothing_fails(make_sender, service):
    service.answers = [(503, {"title": "starting"})] * 1000
    sender = make_sender()
    sender.put(crop(0))
    sender.close(0.1)
    sender._client.close()
    eventually(lambda: not sender._thread.is_alive())
    assert (sender.dropped, sender.problem) == (1, None)


def test_two_batches_have_different_keys(make_sender, service):
    sender = make_sender(enroll="hall")
    for number in range(2):
        sender.put(crop(number))
        eventually(lambda number=number: sender.sent == number + 1)
    assert len(set(service.keys)) == 2


@pytest.mark.promise("camera-stores")
def test_the_oldest_crops_of_a_stream_give_way_and_are_counted(make_sender, service):
    service.is_open.clear()
    sender = make_sender(queue=16)
    sender.put(crop(0))
    eventually(lambda: service.arrived == 1)
    for number in range(1, 21):
        sender.put(crop(number))
    service.is_open.set()
    sender.close()
    assert sender.dropped == 4
    assert [number for batch in service.pictures() for number in batch] == [0, *range(5, 21)]


def test_a_file_waits_until_there_is_room(make_sender, service):
    service.is_open.clear()
    sender = make_sender(drops=False, queue=16)
    reader = threading.Thread(target=lambda: [sender.put(crop(number)) for number in range(60)])
    reader.start()
    eventually(lambda: sender.waiting >= 16)
    service.is_open.set()
    reader.join()
    sender.close()
    assert (sender.sent, sender.dropped) == (60, 0)
    assert [number for batch in service.pictures() for number in batch] == list(range(60))


def test_a_file_that_waits_for_room_ends_when_it_is_told_to_stop(make_sender, service):
    service.is_open.clear()
    sender = make_sender(drops=False, queue=16)
    reader = threading.Thread(target=lambda: [sender.put(crop(number)) for number in range(60)])
    reader.start()
    eventually(lambda: sender.waiting >= 16)
    make_sender.stop.set()
    reader.join(30)
    assert not reader.is_alive()


def test_the_reason_of_each_refused_image_is_logged(make_sender, service, caplog):
    refused = {"problem": {"title": "blurred", "detail": "the crop is blurred"}}
    service.answers = [(207, {"accepted": 0, "results": [refused]})]
    sender = make_sender()
    with caplog.at_level(logging.INFO, "gmn_camera"):
        sender.put(crop(0))
        sender.close()
    assert (sender.sent, sender.refused) == (0, 1)
    assert "a crop was refused: the crop is blurred" in caplog.text


def test_a_refused_request_is_logged_and_the_next_one_is_sent(make_sender, service, caplog):
    refused = {"problem": {"title": "blurred", "detail": "the crop is blurred"}}
    service.answers = [(422, {"detail": "none can be used", "results": [refused]})]
    sender = make_sender()
    sender.put(crop(0))
    eventually(lambda: sender.refused == 1)
    sender.put(crop(1))
    sender.close()
    assert (sender.sent, sender.refused) == (1, 1)
    assert "image 1: the crop is blurred" in caplog.text
    assert sender.problem is None


@pytest.mark.parametrize(
    ("status", "answer", "said"),
    [
        (401, {"detail": "the key is unknown"}, "the key is unknown"),
        (403, {"type": "urn:gmn:problem:forbidden", "detail": "no scope"}, "no scope"),
        (404, {"detail": "there is no gallery hall"}, "there is no gallery hall"),
        (422, {"detail": "watch: gallery hall would keep everybody"}, "would keep everybody"),
    ],
)
def test_what_is_always_refused_ends_the_camera(make_sender, service, status, answer, said):
    service.answers = [(status, answer)]
    sender = make_sender(enroll="hall")
    sender.put(crop(0))
    eventually(lambda: sender.problem is not None)
    assert said in sender.problem
    assert make_sender.stop.is_set()


def test_what_is_not_answered_at_the_end_is_given_up_and_counted(make_sender, service, caplog):
    service.is_open.clear()
    sender = make_sender()
    for number in range(3):
        sender.put(crop(number))
    sender.close(0.1)
    assert sender.dropped == 3
    assert "3 crops were given up" in caplog.text
