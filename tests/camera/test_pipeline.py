"""How often frames are looked at."""

import threading
from datetime import timedelta

import numpy as np
import pytest

from gmn_camera.detector import MIN_SCORE, Detections
from gmn_camera.pipeline import IDLE_SECONDS, CropPipeline
from gmn_camera.settings import read_options
from gmn_camera.source import VideoFile
from gmn_camera.tracker import MIN_NEW_SCORE
from tests.camera.drawn_videos import FPS, draw_frame, write_video

EMPTY_FRAMES = 4 * FPS
FRAMES_WITH_A_PERSON = 4 * FPS


@pytest.fixture
def video(tmp_path):
    """Return a video in which a person walks past, after four seconds without anybody."""
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


def run_pipeline(source, monkeypatch, **options):
    """Return the times of the frames, those of the looks, and the track numbers of each frame."""
    settings = read_options({"camera": "c", "source": str(source), **options})
    pipeline = CropPipeline(settings, "series")
    looked_at = remember_looks(pipeline, monkeypatch)
    frames = list(VideoFile(settings, threading.Event()).frames())
    numbers = [pipeline.add(frame).numbers.tolist() for frame in frames]
    times = [frame.captured_at for frame in frames]
    return times, looked_at, numbers


def test_an_empty_scene_is_looked_at_once_a_second_and_a_followed_person_five_times(
    video, monkeypatch
):
    times, looked_at, numbers = run_pipeline(video, monkeypatch)
    entered_at = times[EMPTY_FRAMES]
    while_empty = [moment for moment in looked_at if moment < entered_at]
    assert len(while_empty) == EMPTY_FRAMES / FPS
    # Each of the first frames is looked at, until the velocity of the person is known.
    looks = len(looked_at) - len(while_empty)
    assert FRAMES_WITH_A_PERSON / FPS * 5 <= looks <= FRAMES_WITH_A_PERSON / FPS * 5 + 4
    # A frame that was not looked at shows the people of the last look.
    with_a_person = [numbers_of_frame for numbers_of_frame in numbers if numbers_of_frame]
    assert with_a_person == [[0]] * len(with_a_person)
    assert len(with_a_person) >= FRAMES_WITH_A_PERSON - 6


def test_who_enters_an_empty_scene_is_looked_at_within_the_old_pause(video, monkeypatch):
    times, looked_at, _ = run_pipeline(video, monkeypatch)
    entered_at = times[EMPTY_FRAMES]
    noticed_at = next(moment for moment in looked_at if moment >= entered_at)
    assert (noticed_at - entered_at).total_seconds() <= IDLE_SECONDS + 1 / FPS


def test_at_fewer_than_ten_frames_a_second_each_frame_with_a_person_is_looked_at(
    video, monkeypatch
):
    times, looked_at, _ = run_pipeline(video, monkeypatch, fps=5)
    entered_at = times[EMPTY_FRAMES * 5 // FPS]
    since = [moment for moment in times if moment >= entered_at]
    assert len([moment for moment in looked_at if moment >= entered_at]) >= len(since) - 2


@pytest.mark.parametrize("score", [MIN_SCORE, MIN_NEW_SCORE - 0.01])
def test_who_stands_still_and_is_doubtful_is_looked_at_as_often_as_if_something_moved(
    score, tmp_path, monkeypatch
):
    still = write_video(tmp_path / "still.mp4", [draw_frame({})] * EMPTY_FRAMES)
    settings = read_options({"camera": "c", "source": str(still)})
    pipeline = CropPipeline(settings, "series")
    looked_at = []

    def detect(frame):
        looked_at.append(frame)
        return Detections(np.array([[0.4, 0.2, 0.6, 0.9]]), np.array([score]))

    monkeypatch.setattr(pipeline._detector, "detect", detect)
    for frame in VideoFile(settings, threading.Event()).frames():
        pipeline.add(frame)
    # Every third frame is the first that comes after a quarter of a second.
    assert len(looked_at) >= EMPTY_FRAMES // 3


def test_two_people_who_cross_have_one_track_each(tmp_path, monkeypatch):
    steps = range(4 * FPS)
    positions = [{0: 20 + 12 * step, 1: 500 - 12 * step} for step in steps]
    video = write_video(tmp_path / "cross.mp4", map(draw_frame, positions))
    _, looked_at, numbers = run_pipeline(video, monkeypatch)
    assert len(looked_at) < len(positions) * 0.75
    seen = {number for of_frame in numbers for number in of_frame}
    assert seen == {0, 1}


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
    assert before >= 2
    assert len(looked_at) - before >= before - 1
