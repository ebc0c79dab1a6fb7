"""How often frames are looked at."""

import threading
from datetime import timedelta

import pytest

from gmn_camera.pipeline import IDLE_SECONDS, CropPipeline
from gmn_camera.settings import read_options
from gmn_camera.source import VideoFile
from tests.camera.drawn_videos import FPS, draw_frame, write_video

EMPTY_FRAMES = 3 * FPS
FRAMES_WITH_A_PERSON = 2 * FPS


@pytest.fixture
def video(tmp_path):
    """Return a video in which a person walks past, after three seconds without anybody."""
    positions = [{}] * EMPTY_FRAMES
    positions += [{0: 60 + 4 * step} for step in range(FRAMES_WITH_A_PERSON)]
    return write_video(tmp_path / "walk.mp4", map(draw_frame, positions))


def remember_looks(pipeline, monkeypatch):
    """Return a list that gets the time of each frame at which the detector looks."""
    detect = pipeline._detector.detect
    looked_at = []

    def detect_and_remember(frame):
        looked_at.append(frame.captured_at)
        return detect(frame)

    monkeypatch.setattr(pipeline._detector, "detect", detect_and_remember)
    return looked_at


def test_few_frames_are_looked_at_while_nobody_is_in_view(video, monkeypatch):
    settings = read_options({"camera": "c", "source": str(video)})
    pipeline = CropPipeline(settings, "series")
    looked_at = remember_looks(pipeline, monkeypatch)
    frames = list(VideoFile(settings, threading.Event()).frames())
    people = [len(pipeline.add(frame).boxes) for frame in frames]
    entered_at = frames[EMPTY_FRAMES].captured_at
    while_empty = [moment for moment in looked_at if moment < entered_at]
    assert len(while_empty) <= EMPTY_FRAMES / FPS / IDLE_SECONDS
    assert len(looked_at) - len(while_empty) >= FRAMES_WITH_A_PERSON - 2
    # The second box gives a track its number.
    assert sum(people) >= FRAMES_WITH_A_PERSON - 4


@pytest.mark.parametrize("step", [timedelta(hours=-1), timedelta(hours=1)])
def test_as_many_frames_are_looked_at_after_the_clock_was_set(step, video, monkeypatch):
    settings = read_options({"camera": "c", "source": str(video)})
    pipeline = CropPipeline(settings, "series")
    looked_at = remember_looks(pipeline, monkeypatch)
    empty = list(VideoFile(settings, threading.Event()).frames())[:EMPTY_FRAMES]
    middle = empty[len(empty) // 2].captured_at
    for frame in empty:
        if frame.captured_at >= middle:
            frame.captured_at += step
        pipeline.add(frame)
    before = sum(abs(moment - middle) < timedelta(minutes=1) for moment in looked_at)
    assert before >= 4
    assert len(looked_at) - before >= before - 1
