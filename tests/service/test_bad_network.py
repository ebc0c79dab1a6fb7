"""A service whose way to Redis is slow, stands still, breaks, or loses answers after the commit."""

from __future__ import annotations

import contextlib
import itertools
import random
import threading
import time

import httpx
import pytest

from tests.service.lagging_proxy import LaggingProxy
from tests.service.redis_server import LosingProxy
from tests.waiting import eventually

pytestmark = pytest.mark.slow

# Each is told its retries by the service: what is not answered by then never is.
PATIENCE_SECONDS = 30.0
WRITES = 10


@pytest.fixture
def lagging(redis_record):
    proxy = LaggingProxy(redis_record.port)
    with contextlib.closing(proxy):
        yield proxy


def _headers(name: str) -> dict[str, str]:
    return {"Idempotency-Key": name}


def _enroll(served, gallery: str, image: bytes, name: str) -> httpx.Response:
    url = f"/v1/galleries/{gallery}/crops"
    return served.http.post(url, files={"images": ("a", image)}, headers=_headers(name))


def _enroll_until_it_lands(served, gallery: str, image: bytes, name: str) -> tuple[str, set[int]]:
    """As a client has to: asks again under the same key for as long as it is told to."""
    statuses: set[int] = set()
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        answer = _enroll(served, gallery, image, name)
        statuses.add(answer.status_code)
        if answer.status_code == 201:
            return answer.json()["results"][0]["crop_id"], statuses
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) > 0
        time.sleep(0.1)
    pytest.fail(f"{name} never landed: {statuses}")


def _held(served, gallery: str) -> list[str]:
    listed = served.http.get(f"/v1/galleries/{gallery}/crops?limit=1000").json()["results"]
    return [crop["crop_id"] for crop in listed]


def test_whatever_the_network_does_a_write_that_is_asked_for_again_happens_once(
    start, lagging, drawn_crops
):
    served = start(redis_url=lagging.url)
    gallery = served.create("lobby")
    stop = threading.Event()

    def harm() -> None:
        luck = random.Random(11)
        for harmed in itertools.cycle((lagging.reset, lagging.cut, lagging.stall)):
            if stop.wait(luck.uniform(0.2, 0.6)):
                return
            lagging.delay = luck.choice((0.0, 0.02))
            harmed()
            if harmed == lagging.stall:
                stop.wait(luck.uniform(0.2, 2.5))
                lagging.flow()

    harming = threading.Thread(target=harm, daemon=True)
    harming.start()
    landed = []
    statuses = set()
    searched = set()
    try:
        for number in range(WRITES):
            image = drawn_crops[number].png
            crop_id, seen = _enroll_until_it_lands(served, gallery, image, f"write-{number}")
            landed.append(crop_id)
            statuses |= seen
            searched.add(served.query(gallery, image).status_code)
            assert served.http.get("/livez").status_code == 200
    finally:
        stop.set()
        harming.join(10)
    lagging.delay = 0.0
    lagging.flow()
    eventually(served.is_in_step)
    assert sorted(_held(served, gallery)) == sorted(landed)
    assert len(set(landed)) == WRITES
    assert searched == {200}
    served.kill()


def test_a_write_whose_answer_was_lost_after_the_commit_is_there_once(
    start, redis_record, drawn_crops
):
    proxy = LosingProxy(redis_record.port)
    with contextlib.closing(proxy):
        served = start(redis_url=f"redis://127.0.0.1:{proxy.port}/0")
        gallery = served.create("lost")
        for number, losing in enumerate((1, 9)):
            proxy.lose_answers(losing)
            image = drawn_crops[number].png
            crop_id, _ = _enroll_until_it_lands(served, gallery, image, f"lost-{number}")
            proxy.lose_answers(0)
            again = _enroll(served, gallery, image, f"lost-{number}").json()["results"][0]
            assert again["crop_id"] == crop_id
        assert len(_held(served, gallery)) == 2
        served.kill()
