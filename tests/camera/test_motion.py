"""What counts as motion before a camera: people, light, and no noise."""

from datetime import UTC, datetime

import av
import numpy as np
import pytest

from demo.drawn_videos import BACKGROUND
from gmn_camera.frame import Frame
from gmn_camera.motion import has_changed, view_of
from tests.drawn_photos import drawn_people

WIDTH = 1280
HEIGHT = 720
FAR_PERSON = (29, 72)
"""Width and height of a person of a tenth of the frame's height, in pixels."""
NIGHT_NOISE = 12.0
"""Standard deviation of a pixel's brightness, of 255."""


def scene(left=None, light=1.0, noise_seed=None, size=(WIDTH, HEIGHT)):
    """Return the view of a frame with at most one far person.

    Args:
        left: left edge of the person in pixels; None for nobody.
        light: factor of the brightness.
        noise_seed: None for a frame without noise.
    """
    width, height = size
    pixels = np.full((height, width, 3), BACKGROUND, float)
    if left is not None:
        person = np.asarray(drawn_people()[0].resize(FAR_PERSON))
        pixels[300 : 300 + FAR_PERSON[1], left : left + FAR_PERSON[0]] = person
    pixels *= light
    if noise_seed is not None:
        pixels += np.random.default_rng(noise_seed).normal(0.0, NIGHT_NOISE, pixels.shape)
    picture = av.VideoFrame.from_ndarray(np.clip(pixels, 0, 255).astype(np.uint8), "rgb24")
    return view_of(Frame(datetime.now(UTC), picture, 0.0))


@pytest.mark.parametrize("left", [0, 7, 400, WIDTH - FAR_PERSON[0]])
def test_a_far_person_who_is_there_since_the_last_look_is_motion(left):
    assert has_changed(scene(), scene(left))


def test_a_far_person_who_walks_a_quarter_of_a_second_is_motion():
    # At 1.4 m a second a person of 1.7 m walks a fifth of the height.
    step = FAR_PERSON[1] // 5
    for left in range(200, 400, step):
        assert has_changed(scene(left), scene(left + step))


def test_a_person_who_walks_slowly_adds_up_to_motion_since_the_last_look():
    assert not has_changed(scene(200), scene(200))
    assert any(has_changed(scene(200), scene(200 + moved)) for moved in range(1, 15))


@pytest.mark.parametrize("light", [0.5, 0.9, 1.1, 1.5])
def test_a_light_that_is_switched_is_motion(light):
    assert has_changed(scene(), scene(light=light))


def test_noise_of_the_night_is_no_motion_and_hides_none():
    for seed in range(8):
        before = scene(noise_seed=seed)
        assert not has_changed(before, scene(noise_seed=100 + seed))
        assert has_changed(before, scene(400, noise_seed=100 + seed))


def test_an_upright_frame_has_a_view_of_the_same_size():
    upright = scene(size=(HEIGHT, WIDTH))
    assert upright.shape == scene().shape
    assert has_changed(upright, scene(300, size=(HEIGHT, WIDTH)))
