"""Hostile images one by one: pixels or a problem that says what to do, at a bounded cost."""

import json
import sys

import numpy as np
import pytest

from model.crops.decode import CropProblem, decode_crop
from tests.hostile.corpus import hostile_images, turned
from tests.hostile.pictures import HEIGHT, WIDTH, drawn
from tests.outside import chosen_seed, run_command

# Outside a test run the decoder silences these; pytest sets the filters again for every test.
pytestmark = [pytest.mark.filterwarnings(r"ignore:::PIL\."), pytest.mark.promise("hostile-files")]


def test_every_hostile_image_ends_in_pixels_or_in_a_problem_with_its_remedy():
    seed = chosen_seed()
    files = hostile_images(seed)
    print(f"REID_TEST_SEED={seed}, {len(files)} images")  # noqa: T201
    assert len(files) >= 1_000
    for file in files:
        outcome = _outcome(file.data)
        if isinstance(outcome, CropProblem):
            assert file.lands is not True, f"{file.name}: {outcome}"
            assert "; " in outcome.detail, file.name
        else:
            assert file.lands is not False, f"{file.name}: {outcome.size}"
            assert outcome.mode == "RGB", file.name


def test_a_turned_camera_s_picture_is_the_person_upright():
    upright = np.asarray(drawn(), dtype=float)
    for file in turned():
        pixels = np.asarray(decode_crop(file.data))
        assert pixels.shape == (HEIGHT, WIDTH, 3), file.name
        assert np.abs(pixels - upright).mean() < 8, file.name


def test_the_costliest_images_take_bounded_time_and_memory():
    ran = run_command(sys.executable, "-m", "tests.hostile.costly_images", check=True)
    print(ran.stdout)  # noqa: T201
    measured = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(measured) == 8
    for row in measured:
        assert row["cpu_s"] < 6.0, row
        assert row["peak_mb"] < 450, row


def _outcome(data):
    try:
        return decode_crop(data)
    except CropProblem as problem:
        return problem
