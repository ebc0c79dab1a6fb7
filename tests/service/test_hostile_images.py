"""Over a thousand hostile images, sent among good ones: only the hostile ones are refused."""

import pytest

from tests.hostile.corpus import hostile_images
from tests.hostile.pictures import drawn
from tests.outside import chosen_seed, encoded, problem
from tests.service.conftest import files

pytestmark = [pytest.mark.slow, pytest.mark.promise("hostile-files")]

HOSTILE_PER_REQUEST = 60


@pytest.fixture(scope="module")
def besieged(start):
    running = start(max_images_per_request=HOSTILE_PER_REQUEST + 2, max_cost=2000, quality="off")
    yield running
    assert "Traceback" not in running.log.read_text()
    running.kill()


def test_good_images_land_among_a_thousand_hostile_ones(besieged):
    seed = chosen_seed()
    every = hostile_images(seed)
    print(f"REID_TEST_SEED={seed}, {len(every)} images")  # noqa: T201
    good = iter([encoded(drawn(person), "PNG") for person in range(100)])
    landed = {}
    for start_at in range(0, len(every), HOSTILE_PER_REQUEST):
        hostile = every[start_at : start_at + HOSTILE_PER_REQUEST]
        before = next(good)
        after = next(good)
        images = [before, *(file.data for file in hostile), after]
        # Each under a name of its own: the same picture again would count as landed without it.
        names = [f"{start_at}-{number}" for number in range(len(images))]
        answer = besieged.enroll("default", *images, identity=names)
        assert answer.status_code == 207, answer.text
        first, *results, last = answer.json()["results"]
        for file, result in zip(hostile, results, strict=True):
            if "problem" in result:
                assert file.lands is not True, (file.name, result)
                too_large = result["problem"]["type"] == "urn:gmn:problem:file_too_large"
                assert result["problem"]["status"] == (413 if too_large else 422), file.name
                assert "; " in result["problem"]["detail"], file.name
            else:
                assert file.lands is not False, file.name
        for image, result in ((before, first), (after, last)):
            assert not result["duplicate"]
            landed[result["crop_id"]] = image
    assert besieged.http.get("/livez").status_code == 200
    assert besieged.http.get("/readyz").status_code == 200
    for image in landed.values():
        found = besieged.search("default", image, top_k=1)[0]
        assert found["crop_id"] in landed
        assert found["cosine"] == pytest.approx(1.0, abs=1e-4)


def test_a_pair_with_a_hostile_image_names_it_and_the_remedy(besieged):
    images = files(encoded(drawn(), "PNG"), encoded(drawn(), "GIF"))
    answer = besieged.http.post("/v1/pairs", files=images)
    assert problem(answer) == (422, "unusable_images")
    assert "image 2: the bytes are not a JPEG" in answer.json()["detail"]
    assert "convert the file" in answer.json()["detail"]
    good, broken = answer.json()["results"]
    assert (good, broken["problem"]["type"]) == ({}, "urn:gmn:problem:not_an_image")
