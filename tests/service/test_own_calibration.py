"""A gallery learns from its own searches how alike strangers look under its cameras."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image


def _stranger(number: int) -> bytes:
    random = np.random.default_rng((99, number))
    pixels = np.full((96, 48, 3), 118, np.float64)
    for top, bottom in ((4, 18), (18, 54), (54, 90)):
        pixels[top:bottom, 10:38] = random.integers(20, 236, 3)
    file = io.BytesIO()
    noisy = np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255)
    Image.fromarray(noisy.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def searched(start, tmp_path):
    """A gallery of 90 people that has been asked about 60 others."""
    served = start(data_dir=tmp_path / "data")
    gallery = served.create("lobby")
    for first in range(0, 90, 30):
        people = range(first, first + 30)
        images = [_stranger(number) for number in people]
        served.enroll(gallery, *images, identity=[str(number) for number in people])
    for number in range(200, 260):
        served.query(gallery, _stranger(number))
    _until(served, gallery, "own")
    return served, gallery


def _calibration(served, gallery: str) -> dict:
    return served.http.get(f"/v1/galleries/{gallery}").json()["calibration"]


def _until(served, gallery: str, state: str) -> None:
    until = time.monotonic() + 30
    while _calibration(served, gallery)["state"] != state:
        assert time.monotonic() < until, _calibration(served, gallery)
        served.query(gallery, _stranger(int(time.monotonic() * 1e6) % 10**6))
        time.sleep(0.05)


def test_it_begins_with_the_artefacts_and_then_uses_its_own(served, gallery):
    before = _calibration(served, gallery)
    assert (before["state"], before["searches"]) == ("learning", 0)
    model = served.http.get("/v1/model").json()
    assert before["version"] == model["calibration_version"]


def test_a_service_that_never_rests_learns_too(served, gallery):
    served.enroll(gallery, *(_stranger(number) for number in range(20)))
    stop = time.monotonic() + 60
    numbers = iter(range(1_000, 100_000))

    def ask(_: int) -> None:
        while _calibration(served, gallery)["searches"] < 40 and time.monotonic() < stop:
            for _ in range(8):
                served.query(gallery, _stranger(next(numbers)))

    with ThreadPoolExecutor(8) as clients:
        list(clients.map(ask, range(8)))
    assert _calibration(served, gallery)["searches"] >= 40


def test_what_was_learnt_moves_verdicts_and_never_the_ranking(searched, tmp_path):
    served, gallery = searched
    asked = _stranger(5)
    learnt = served.query(gallery, asked, top_k=20).json()
    assert learnt["calibration_version"] == _calibration(served, gallery)["version"]
    off = served.http.patch(f"/v1/galleries/{gallery}", data={"recalibration": "false"}).json()
    assert (off["calibration"]["state"], off["calibration"]["searches"]) == ("artefact", 0)
    prior = served.query(gallery, asked, top_k=20).json()
    assert prior["calibration_version"] != learnt["calibration_version"]
    ranked = [[one["crop_id"] for one in answer["results"]] for answer in (learnt, prior)]
    assert ranked[0] == ranked[1]
    on = served.http.patch(f"/v1/galleries/{gallery}", data={"recalibration": "true"}).json()
    assert on["calibration"]["state"] == "learning"


def test_what_was_learnt_survives_a_kill(searched, start, tmp_path):
    served, gallery = searched
    assert _calibration(served, gallery)["searches"] >= 40
    served.kill()
    again = start(data_dir=tmp_path / "data")
    after = _calibration(again, gallery)
    assert (after["state"], after["searches"] >= 40) == ("own", True)


def test_the_same_search_sent_often_teaches_once(served, gallery):
    images = [_stranger(number) for number in range(20)]
    served.enroll(gallery, *images)
    for _ in range(50):
        served.query(gallery, images[3])
    assert _calibration(served, gallery)["searches"] <= 1
