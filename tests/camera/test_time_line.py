"""Files whose frames have odd times: of none is a frame left out."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from gmn_camera.settings import read_options
from gmn_camera.source import VideoFile
from gmn_camera.time_line import LONGEST_PAUSE, TimeLine
from tests.camera.drawn_videos import FPS, HEIGHT, WIDTH, draw_frame, write_frames_at, write_video

STARTED = datetime(2026, 3, 1, 8, tzinfo=UTC)
FRAMES = 2 * FPS


def times_of(file, **options):
    """Return the times of a file's frames in seconds since the given start."""
    settings = read_options({"camera": "c", "source": str(file), "started": STARTED, **options})
    frames = VideoFile(settings, threading.Event()).frames()
    return [(frame.captured_at - STARTED).total_seconds() for frame in frames]


def walk():
    return (draw_frame({0: 10 * step}) for step in range(FRAMES))


def evenly(count):
    return pytest.approx([number / FPS for number in range(count)], abs=0.02)


@pytest.mark.parametrize("name", ["part.ts", "part.mpg", "part.h264"])
@pytest.mark.parametrize("parts", [2, 3])
def test_recordings_that_were_joined_end_to_end_are_read_to_the_end(name, parts, tmp_path):
    file = write_video(tmp_path / name, walk())
    file.write_bytes(parts * file.read_bytes())
    assert times_of(file) == evenly(parts * FRAMES)


def test_joined_parts_of_few_frames_are_read_too(tmp_path):
    file = write_video(tmp_path / "part.ts", (draw_frame({0: 60}) for _ in range(3)))
    file.write_bytes(5 * file.read_bytes())
    assert times_of(file) == evenly(15)


def test_joined_recordings_without_a_start_end_now(tmp_path):
    file = write_video(tmp_path / "part.ts", walk())
    file.write_bytes(5 * file.read_bytes())
    settings = read_options({"camera": "c", "source": str(file)})
    asked_at = datetime.now(UTC)
    frames = list(VideoFile(settings, threading.Event()).frames())
    length = timedelta(seconds=5 * FRAMES / FPS)
    assert abs(frames[0].captured_at - (asked_at - length)) < timedelta(seconds=5)
    assert frames[-1].captured_at <= datetime.now(UTC)


def test_joined_recordings_are_said(tmp_path, caplog):
    file = write_video(tmp_path / "part.ts", walk())
    file.write_bytes(3 * file.read_bytes())
    times_of(file)
    assert "the times of its frames begin anew or jump" in caplog.text
    assert "(2 times)" in caplog.text


def test_recordings_of_two_sizes_that_were_joined_are_read_to_the_end(tmp_path):
    large = write_video(tmp_path / "large.ts", walk())
    half = (WIDTH // 2, HEIGHT // 2)
    small = write_video(tmp_path / "small.ts", (frame.resize(half) for frame in walk()))
    file = tmp_path / "both.ts"
    file.write_bytes(large.read_bytes() + small.read_bytes())
    settings = read_options({"camera": "c", "source": str(file), "started": STARTED})
    sizes = [
        (frame.width, frame.height, frame.pixels.shape[:2])
        for frame in VideoFile(settings, threading.Event()).frames()
    ]
    assert sizes[0] == (WIDTH, HEIGHT, (HEIGHT, WIDTH))
    assert sizes[-1] == (*half, half[::-1])
    assert len(sizes) == 2 * FRAMES


def test_the_log_says_that_a_part_of_a_file_could_not_be_decoded(tmp_path, caplog):
    first = write_video(tmp_path / "first.ts", walk())
    frames = ((number / FPS, frame) for number, frame in enumerate(walk()))
    other_codec = write_frames_at(tmp_path / "second.ts", frames, "libx265")
    file = tmp_path / "both.ts"
    file.write_bytes(first.read_bytes() + other_codec.read_bytes())
    assert len(times_of(file)) >= FRAMES - 1
    assert "packets could not be decoded" in caplog.text


@pytest.mark.parametrize("name", ["jump.mp4", "jump.ts", "jump.mkv"])
@pytest.mark.parametrize("jump", [30, 3600])
def test_a_jump_of_the_time_is_no_pause(jump, name, tmp_path):
    frames = [
        (number / FPS + (jump if number >= FRAMES // 2 else 0), frame)
        for number, frame in enumerate(walk())
    ]
    file = write_frames_at(tmp_path / name, frames)
    assert times_of(file) == evenly(FRAMES)


def test_a_jump_of_the_time_moves_no_start(tmp_path):
    frames = [(number / FPS + 3600 * (number > 9), frame) for number, frame in enumerate(walk())]
    file = write_frames_at(tmp_path / "jump.mp4", frames)
    settings = read_options({"camera": "c", "source": str(file)})
    first = next(VideoFile(settings, threading.Event()).frames())
    assert datetime.now(UTC) - first.captured_at < timedelta(minutes=1)


def test_a_short_pause_stays_a_pause(tmp_path):
    frames = [(number / FPS + 4 * (number > 9), frame) for number, frame in enumerate(walk())]
    times = times_of(write_frames_at(tmp_path / "pause.mp4", frames))
    assert times[10] - times[9] == pytest.approx(4.1, abs=0.02)


def test_a_raw_video_has_the_times_of_the_rate_that_it_names(tmp_path, caplog):
    file = write_video(tmp_path / "clip.h264", walk())
    assert times_of(file) == evenly(FRAMES)
    assert f"its frames have no times; {FPS} frames are taken for a second" in caplog.text


def test_a_raw_video_without_a_start_ends_now(tmp_path):
    file = write_video(tmp_path / "clip.h264", walk())
    settings = read_options({"camera": "c", "source": str(file)})
    first = next(VideoFile(settings, threading.Event()).frames())
    assert datetime.now(UTC) - first.captured_at < timedelta(minutes=1)


@pytest.mark.parametrize(("name", "codec"), [("clip.h264", "libx264"), ("clip.hevc", "libx265")])
def test_no_frame_of_a_raw_video_is_left_out(name, codec, tmp_path):
    frames = ((number / FPS, frame) for number, frame in enumerate(walk()))
    file = write_frames_at(tmp_path / name, frames, codec)
    # Encoded with times of milliseconds, H.264 names no rate.
    assert len(times_of(file, fps=25)) == FRAMES


@pytest.mark.parametrize(
    ("moments", "expected"),
    [
        ([5, 5.1, 5.2], [0, 0.1, 0.2]),
        ([0, 0.2, 0.1, 0.3], [0, 0.2, 0.2, 0.3]),
        ([None, None, None], [0, 0.1, 0.2]),
        ([0, None, 0.2], [0, 0.1, 0.2]),
        ([0, 0, 0], [0, 0.1, 0.2]),
        ([0, LONGEST_PAUSE, 2 * LONGEST_PAUSE], [0, LONGEST_PAUSE, 2 * LONGEST_PAUSE]),
        ([0, 0.1, -1e6, -1e6 + 0.1, 1e6, 1e6 + 0.1], [0, 0.1, 0.2, 0.3, 0.4, 0.5]),
    ],
)
def test_times_never_go_back_and_go_on_after_a_jump(moments, expected):
    time_line = TimeLine(0.1)
    assert [time_line.seconds_at(moment) for moment in moments] == pytest.approx(expected)
