"""Over a thousand hostile images, sent among good ones: only the hostile ones are refused."""

from __future__ import annotations

import os
import secrets

import pytest

from tests.hostile.corpus import hostile_images
from tests.hostile.pictures import drawn, encoded
from tests.service.conftest import files

pytestmark = pytest.mark.slow

HOSTILE_PER_REQUEST = 60
BEFORE = 2
AFTER = 2


@pytest.fixture(scope="module")
def besieged(start):
    running = start(
        max_images_per_request=HOSTILE_PER_REQUEST + BEFORE + AFTER, max_cost=2000, quality="off"
    )
    yield running
    assert "Traceback" not in running.log.read_text()
    running.kill()


def test_good_images_land_among_a_thousand_hostile_ones(besieged):
    seed = int(os.environ.get("REID_TEST_SEED") or secrets.randbits(32))
    files = hostile_images(seed)
    print(f"REID_TEST_SEED={seed}, {len(files)} images")  # noqa: T201
    good = [encoded(drawn(person), "PNG") for person in range(100)]
    landed = set()
    sent = 0
    start_at = 0
    while start_at < len(files):
        hostile = files[start_at : start_at + HOSTILE_PER_REQUEST]
        before = good[sent : sent + BEFORE]
        after = good[sent + BEFORE : sent + BEFORE + AFTER]
        images = [*before, *(file.data for file in hostile), *after]
        # Each under a name of its own: the same picture again would count as landed without it.
        names = [f"{start_at}-{number}" for number in range(len(images))]
        answer = besieged.enroll("default", *images, identity=names)
        assert answer.status_code == 207, answer.text
        results = answer.json()["results"]
        assert len(results) == len(images)
        for file, result in zip(hostile, results[BEFORE:-AFTER], strict=True):
            if "problem" in result:
                assert file.lands is not True, (file.name, result)
                too_large = result["problem"]["type"] == "urn:gmn:problem:file_too_large"
                assert result["problem"]["status"] == (413 if too_large else 422), file.name
                assert "; " in result["problem"]["detail"], file.name
            else:
                assert file.lands is not False, file.name
        for result in (*results[:BEFORE], *results[-AFTER:]):
            assert not result["duplicate"]
            landed.add(result["crop_id"])
        start_at = start_at + len(hostile)
        sent = sent + BEFORE + AFTER
    assert len(landed) == sent
    assert besieged.http.get("/livez").status_code == 200
    assert besieged.http.get("/readyz").status_code == 200
    for person in range(sent):
        found = besieged.search("default", good[person], top_k=1)[0]
        assert found["crop_id"] in landed
        assert found["cosine"] == pytest.approx(1.0, abs=1e-4)


def test_a_query_leaves_a_hostile_image_out_and_names_it(besieged):
    good = encoded(drawn(), "PNG")
    broken = encoded(drawn(), "GIF")
    images = files(good, broken)
    answer = besieged.http.post("/v1/galleries/default/queries", files=images)
    assert answer.status_code == 200
    left_out = "image 2: left out of the search: the bytes are not a JPEG"
    assert any(warning.startswith(left_out) for warning in answer.json()["warnings"])


def test_a_pair_with_a_hostile_image_names_it_and_the_remedy(besieged):
    good = encoded(drawn(), "PNG")
    broken = encoded(drawn(), "GIF")
    images = files(good, broken)
    answer = besieged.http.post("/v1/pairs", files=images)
    problem = answer.json()
    assert answer.status_code == 422
    assert "image 2: the bytes are not a JPEG" in problem["detail"]
    assert "convert the file" in problem["detail"]
    assert problem["results"][0] == {}
    assert problem["results"][1]["problem"]["type"] == "urn:gmn:problem:not_an_image"
