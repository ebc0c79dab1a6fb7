"""The crops of a track: enough for the service to see one track, and the best ones."""

import io
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gmn_camera.crops import PART_SECONDS, CropChooser
from service.watch.tracks import QUIET_SECONDS, STILL_SECONDS

BEGAN = datetime(2026, 3, 1, 12, tzinfo=UTC)
SHARP = np.tile(np.array([[0, 255], [255, 0]], np.uint8), (150, 150))[:, :, None].repeat(3, 2)
BOX = [100.0, 20.0, 180.0, 260.0]


class DrawnFrame:
    """A frame of 300×300 pixels at a time; `looks` counts how often its pixels were needed."""

    def __init__(self, seconds, pixels=SHARP):
        self.captured_at = BEGAN + timedelta(seconds=seconds)
        self.height, self.width = pixels.shape[:2]
        self.looks = 0
        self._pixels = pixels

    @property
    def pixels(self):
        self.looks += 1
        return self._pixels


def choose(chooser, seconds, box=BOX, score=0.9, others=(), pixels=SHARP):
    """Return the crops that are chosen with a frame in which a person is seen."""
    boxes = np.array([box, *others], float)
    scores = np.full(len(boxes), score)
    numbers = np.arange(len(boxes))
    zones = [None] * len(boxes)
    return chooser.add(DrawnFrame(seconds, pixels), boxes, scores, numbers, zones, seconds)


def choose_during(seconds, fps=10, **seen):
    """Return the crops of a person who is seen for some seconds, and then leaves."""
    chooser = CropChooser(96, "series")
    crops = []
    for step in range(round(seconds * fps)):
        crops += choose(chooser, step / fps, **seen)
    return crops + chooser.end()


@given(
    data=st.data(),
    fps=st.floats(2, 30),
    seconds=st.floats(1, 150),
)
def test_no_pause_between_two_crops_ends_the_track_in_the_service(data, fps, seconds):
    """A person who is seen well at least once a second is one track of the service."""
    chooser = CropChooser(96, "series")
    random = data.draw(st.randoms(use_true_random=False))
    crops = []
    usable_at = 0.0
    for step in range(int(seconds * fps)):
        now = step / fps
        is_usable = random.random() < 0.5 or now + 1 / fps - usable_at > 1.0
        usable_at = now if is_usable else usable_at
        score = random.uniform(0.5, 1.0) if is_usable else 0.3
        crops += choose(chooser, now, score=score)
    crops += chooser.end()
    for crop, after in pairwise(crops):
        pause = (after.captured_at - crop.captured_at).total_seconds()
        assert pause <= (STILL_SECONDS if crop.still else QUIET_SECONDS)


def test_a_passage_of_half_a_minute_gives_a_crop_for_each_of_its_parts():
    crops = choose_during(sum(PART_SECONDS) + 5)
    assert [crop.number for crop in crops] == list(range(len(PART_SECONDS)))
    assert len({crop.track for crop in crops}) == 1
    assert [crop.still for crop in crops] == [False] * 7 + [True]


def test_a_person_who_stays_gives_a_crop_a_minute_under_the_same_track():
    crops = choose_during(300, fps=2)
    late = [crop for crop in crops if crop.number >= len(PART_SECONDS)]
    assert len({crop.track for crop in crops}) == 1
    assert 3 <= len(late) <= 5
    assert all(crop.still for crop in late[:-1])


def test_the_crop_of_a_person_who_leaves_does_not_wait_for_the_end_of_its_part():
    chooser = CropChooser(96, "series")
    for step in range(70):
        choose(chooser, step / 10)
    chosen = {
        seconds: chooser.add(
            DrawnFrame(seconds), np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), [], seconds
        )
        for seconds in (8.0, 8.9, 9.0, 9.1)
    }
    assert [seconds for seconds, crops in chosen.items() if crops] == [9.0]
    assert not chosen[9.0][0].still


def test_a_crop_does_not_wait_for_a_stream_that_is_away():
    chooser = CropChooser(96, "series")
    choose(chooser, 0.0)
    (crop,) = chooser.end()
    assert crop.captured_at == BEGAN
    assert chooser.end() == []
    # Whoever is there afterwards is another track.
    choose(chooser, 60.0)
    (later,) = chooser.end()
    assert later.track != crop.track


def test_the_crop_shows_the_person_with_a_margin():
    (crop,) = choose_during(0.5)
    image = Image.open(io.BytesIO(crop.jpeg))
    assert image.format == "JPEG"
    assert image.size == (89, 259)


@pytest.mark.parametrize(
    ("seen", "reason"),
    [
        ({"box": [100, 20, 140, 110]}, "too low"),
        ({"score": 0.4}, "too uncertain"),
        ({"others": [[90, 10, 160, 270]]}, "hidden by somebody else"),
        ({"box": [20, 20, 280, 280]}, "too wide for a person"),
    ],
)
def test_a_person_who_is_seen_badly_gives_no_crop(seen, reason):
    assert [crop for crop in choose_during(3, **seen) if crop.track == "series-1"] == []


def test_the_best_frame_of_a_part_is_chosen():
    chooser = CropChooser(96, "series")
    seen = [
        {"score": 0.6},
        {"score": 0.9, "box": [0, 20, 80, 260]},
        {"score": 0.95},
        {"score": 0.9, "pixels": np.full_like(SHARP, 128)},
    ]
    for step, more in enumerate(seen):
        choose(chooser, step / 10, **more)
    (crop,) = chooser.end()
    assert crop.captured_at == BEGAN + timedelta(seconds=0.2)


def test_the_frame_is_not_converted_where_no_better_crop_can_come():
    chooser = CropChooser(96, "series")
    choose(chooser, 0.0, score=0.9)
    worse = DrawnFrame(0.1)
    chooser.add(worse, np.array([BOX]), np.array([0.6]), np.array([0]), [None], 0.1)
    assert worse.looks == 0


def test_tracks_of_two_runs_have_different_names():
    names = set()
    for series in ("one", "two"):
        chooser = CropChooser(96, series)
        choose(chooser, 0)
        names.update(crop.track for crop in chooser.end())
    assert len(names) == 2
