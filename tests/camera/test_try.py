"""`gmn camera try`: what a camera shows, and what to change."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gmn_camera.settings import read_options
from gmn_camera.try_source import describe, try_source
from gmn_client import InvalidInput
from tests.camera.drawn_videos import (
    FPS,
    HEIGHT,
    WIDTH,
    draw_frame,
    sending,
    walk,
    write_video,
)
from tests.forked import run_gmn

CLIP = Path(os.environ.get("REID_TEST_DATA", "nowhere"), "video/one-by-one-person-detection.mp4")


def try_video(video, tmp_path, seconds=None, **options):
    settings = read_options({"camera": "c", "source": str(video), **options})
    return try_source(settings, seconds, tmp_path / "picture.png")


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("videos") / "walk.mp4", walk([0, 1], 3))


def test_a_trial_prints_people_heights_crops_and_cost_and_writes_one_picture(video, tmp_path):
    ran = run_gmn("camera", "try", str(video), "--out", "seen.png", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert f"{video}: {WIDTH}×{HEIGHT} pixels" in ran.stdout
    assert "people: 2 tracks" in ran.stdout
    assert "ms of CPU for a frame" in ran.stdout
    assert [file.name for file in tmp_path.iterdir()] == ["seen.png"]


def test_a_trial_answers_json(video, tmp_path):
    ran = run_gmn("camera", "try", str(video), "--json", cwd=tmp_path)
    tried = json.loads(ran.stdout)
    assert len(tried["tracks"]) == 2
    assert tried["crops"] == sum(track["crops"] for track in tried["tracks"]) >= 4


def test_the_picture_shows_the_boxes_of_the_people(video, tmp_path):
    tried = try_video(video, tmp_path)
    pixels = np.asarray(Image.open(tried.picture)).astype(int)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert (np.abs(pixels - (255, 32, 0)).sum(axis=2) == 0).sum() > 500


def test_of_a_file_that_is_cut_short_the_missing_seconds_are_said(video, tmp_path):
    tried = try_video(video, tmp_path, seconds=2)
    assert tried.seconds == pytest.approx(2, abs=0.2)
    seconds = sum(1 for _ in walk([0, 1], 3)) / FPS
    said = f"2 of {seconds:.0f} s were looked at; --seconds {seconds:.0f} for all"
    assert said in "\n".join(describe(tried))


def test_a_file_is_looked_at_to_its_end_and_nothing_is_said_to_be_missing(video, tmp_path):
    tried = try_video(video, tmp_path)
    assert tried.length is None
    assert "were looked at" not in "\n".join(describe(tried))


def test_a_long_file_is_cut_short(video, tmp_path, monkeypatch):
    monkeypatch.setattr("gmn_camera.try_source.FILE_SECONDS", 2)
    assert "--seconds" in "\n".join(describe(try_video(video, tmp_path)))


def test_the_times_of_tracks_are_those_of_the_clip(tmp_path):
    # The drawn person comes after three empty seconds.
    frames = [*[draw_frame({})] * (3 * FPS), *walk([0], 3)]
    tried = try_video(write_video(tmp_path / "later.mp4", frames), tmp_path)
    (track,) = tried.tracks
    assert 3 <= track.first_seen < 5
    assert track.last_seen <= tried.seconds
    (line,) = (line for line in describe(tried) if line.startswith(track.track))
    _, first, last, *_ = line.split()
    assert first == f"0:0{int(track.first_seen)}"
    assert last == f"0:0{int(track.last_seen)}"


def test_a_video_without_people_says_what_may_be_wrong(tmp_path):
    empty = write_video(tmp_path / "empty.mp4", [draw_frame({})] * FPS)
    tried = try_video(empty, tmp_path)
    assert (tried.tracks, tried.picture) == ([], None)
    assert "Nobody was seen" in "\n".join(describe(tried))


@pytest.mark.parametrize(
    ("zone", "inside", "outside"),
    [("0,0 1,0 1,0.2 0,0.2", 0, "2 people"), ("0,0 0.5,0 0.5,1 0,1", 1, "1 person")],
    ids=["of the ceiling", "of the left half"],
)
def test_people_who_stand_in_no_zone_are_counted_and_the_zones_are_named(
    tmp_path, zone, inside, outside
):
    standing = write_video(tmp_path / "two.mp4", [draw_frame({0: 60, 1: 400})] * (2 * FPS))
    tried = try_video(standing, tmp_path, zone=[zone])
    assert len(tried.tracks) == inside
    said = "\n".join(describe(tried))
    assert f"{outside} stood outside of all zones" in said
    assert "Nobody was seen" not in said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(600.0, "; --seconds 86400 for the most that can be"), (86_400.0, ", the most that can be")],
)
def test_of_a_file_longer_than_a_day_a_part_can_be_looked_at(video, tmp_path, seconds, said):
    tried = try_video(video, tmp_path).model_copy(update={"length": 90_000.0, "seconds": seconds})
    assert f"{seconds:.0f} of 90000 s were looked at{said}" in list(describe(tried))


def test_people_who_are_too_low_are_said_with_the_remedy(tmp_path):
    small = [
        frame.resize((WIDTH // 4, HEIGHT // 4)).resize((WIDTH // 2, HEIGHT // 2))
        for frame in walk([0], 3)
    ]
    padded = []
    for frame in small:
        whole = draw_frame({})
        whole.paste(frame.resize((200, 112)), (200, 200))
        padded.append(whole)
    tried = try_video(write_video(tmp_path / "small.mp4", padded), tmp_path)
    said = "\n".join(describe(tried))
    assert "use the camera's main stream" in said


def test_a_slow_camera_is_said(tmp_path):
    slow = write_video(tmp_path / "slow.mp4", walk([0], 4), fps=3)
    assert "tracks break below 5" in "\n".join(describe(try_video(slow, tmp_path)))


def test_a_stream_is_tried_too(video, tmp_path):
    with sending(video) as camera:
        tried = try_video(camera.address, tmp_path, seconds=8)
    assert (tried.width, tried.height) == (WIDTH, HEIGHT)
    assert tried.frames > 5


def test_a_picture_that_cannot_be_written_is_named(video, tmp_path):
    settings = read_options({"camera": "c", "source": str(video)})
    with pytest.raises(InvalidInput, match=r"picture\.what: cannot be written .*--out"):
        try_source(settings, 3, tmp_path / "picture.what")


@pytest.mark.slow
@pytest.mark.skipif(not CLIP.is_file(), reason="needs $REID_TEST_DATA")
def test_six_people_who_walk_past_are_six_tracks(tmp_path):
    tried = try_video(CLIP, tmp_path)
    assert tried.seconds > 138
    assert len(tried.tracks) == len([track for track in tried.tracks if track.crops]) == 6
    # They walk past one after the other.
    for track, later in pairwise(tried.tracks):
        assert track.last_seen < later.first_seen
    assert tried.advice == []
