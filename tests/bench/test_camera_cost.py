"""Checkouts beside each other: the videos that are written, whose turn it is, and the figures."""

import json
from pathlib import Path

import av
import pytest

from bench import camera_cost
from tests.camera.drawn_videos import draw_frame, walk, write_video


@pytest.fixture
def clip(tmp_path, monkeypatch):
    monkeypatch.setattr(camera_cost, "WIDTH", 640)
    monkeypatch.setattr(camera_cost, "HEIGHT", 360)
    monkeypatch.setattr(camera_cost, "EMPTY_SECONDS", 2)
    frames = [draw_frame({}), *walk([0], 3)]
    return write_video(tmp_path / "walk.mp4", frames)


def seconds_of(video):
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0)) / camera_cost.FPS


def test_the_videos_show_the_clip_and_its_scene_without_people(clip, tmp_path):
    videos = camera_cost.write_videos(clip, tmp_path)
    _, people, nobody = videos.values()
    assert seconds_of(people) == pytest.approx(6, abs=0.2)
    assert seconds_of(nobody) == 2
    with av.open(str(nobody)) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(float)
    empty = draw_frame({})
    assert abs(pixels - empty).mean() < 10


def test_checkouts_take_turns_and_each_has_its_figures(clip, tmp_path, monkeypatch, capsys):
    tried = []

    def try_video(checkout, video):
        tried.append(checkout)
        tracks = [{"crops": 2}, {"crops": 0}]
        milliseconds = 10.0 * len(tried)
        return {
            "cpu_milliseconds": milliseconds,
            "frames": 100,
            "seconds": 10.0,
            "tracks": tracks,
            "crops": 2,
        }

    monkeypatch.setattr(camera_cost, "try_video", try_video)
    other = Path("other")
    camera_cost.main(clip, tmp_path, [other], rounds=3)
    this = camera_cost.THIS_CHECKOUT
    assert tried == [this, other] * 9
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 6
    assert rows[0]["checkout"] == str(this)
    assert (rows[0]["least"], rows[0]["cores"], rows[0]["most"]) == (0.1, 0.3, 0.5)
    assert (rows[0]["tracks"], rows[0]["tracks_with_crops"], rows[0]["crops"]) == (2, 1, 2)


def test_a_checkout_tries_a_video(clip):
    tried = camera_cost.try_video(camera_cost.THIS_CHECKOUT, clip)
    assert len(tried["tracks"]) == 1
    assert tried["cpu_milliseconds"] > 0
