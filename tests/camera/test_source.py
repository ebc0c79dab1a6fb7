"""Frames of files and streams."""

import logging
import socket
import threading
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from gmn_camera import source
from gmn_camera import video as video_module
from gmn_camera.settings import read_options
from gmn_camera.source import Stream, VideoFile
from gmn_client import InvalidInput
from tests.camera.drawn_videos import (
    FPS,
    HEIGHT,
    WIDTH,
    draw_frame,
    sending,
    turn_upright,
    write_video,
)
from tests.outside import free_port


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Return a video of three seconds in which a person walks to the right."""
    frames = (draw_frame({0: 10 * step}) for step in range(3 * FPS))
    return write_video(tmp_path_factory.mktemp("videos") / "walk.mp4", frames)


def frames_of(file, **options):
    settings = read_options({"camera": "c", "source": str(file), **options})
    return list(VideoFile(settings, threading.Event()).frames())


def test_a_file_gives_as_many_frames_a_second_as_were_asked_for(video):
    assert len(frames_of(video)) == 30
    assert len(frames_of(video, fps=5)) == 15
    assert len(frames_of(video, fps=30)) == 30


def test_the_frames_of_a_file_have_the_times_since_its_start(video):
    started = datetime(2026, 3, 1, 8, tzinfo=UTC)
    frames = frames_of(video, started=started)
    assert frames[0].captured_at == started
    assert frames[10].captured_at == started + timedelta(seconds=1)


def test_a_file_without_a_start_ends_now(video):
    newest = frames_of(video)[-1].captured_at
    assert datetime.now(UTC) - timedelta(minutes=1) < newest <= datetime.now(UTC)


def test_a_frame_has_its_pixels_and_can_be_made_smaller(video):
    frame = frames_of(video)[0]
    assert (frame.width, frame.height) == (WIDTH, HEIGHT)
    drawn = np.asarray(draw_frame({0: 0}), int)
    assert np.abs(frame.pixels.astype(int) - drawn).mean() < 4
    assert frame.resized(64, 36, "rgb24").shape == (36, 64, 3)


def test_a_video_that_a_phone_took_upright_is_turned(tmp_path):
    # A phone stores the picture lying on its left side.
    lying = draw_frame({0: 60}).transpose(Image.Transpose.ROTATE_90)
    file = write_video(tmp_path / "phone.mp4", [lying] * 5)
    turn_upright(file)
    frame = frames_of(file)[0]
    assert (frame.width, frame.height) == (WIDTH, HEIGHT)
    drawn = np.asarray(draw_frame({0: 60}), int)
    assert np.abs(frame.pixels.astype(int) - drawn).mean() < 4
    assert frame.resized(64, 36, "rgb24").shape == (36, 64, 3)


@pytest.mark.parametrize("content", [b"", b"a picture?" * 1000])
def test_a_file_that_is_no_video_is_refused(content, tmp_path):
    file = tmp_path / "clip.mp4"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match=r"clip\.mp4: cannot be read as a video .*name a video"):
        frames_of(file)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InvalidInput, match=r"nowhere\.mp4: there is no such file"):
        frames_of("nowhere.mp4")


def test_frames_that_are_too_large_are_refused(video, monkeypatch):
    monkeypatch.setattr(video_module, "MOST_PIXELS", WIDTH * HEIGHT - 1)
    with pytest.raises(InvalidInput, match=f"{WIDTH}×{HEIGHT} pixels are too large"):
        frames_of(video)


def test_the_log_of_a_stream_that_is_away_has_no_password(caplog):
    address = f"tcp://root:s3cret@127.0.0.1:{free_port()}"
    stop = threading.Event()
    stream = Stream(read_options({"camera": "c", "source": address}), stop)
    threading.Timer(1.0, stop.set).start()
    with caplog.at_level(logging.INFO, "gmn_camera"):
        assert set(stream.frames()) == {None}
    assert "it is opened again until it is back" in caplog.text
    assert "s3cret" not in caplog.text


def test_a_stream_that_sends_nothing_is_named_as_such(caplog, monkeypatch):
    monkeypatch.setattr(source, "TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        stop = threading.Event()
        stream = Stream(read_options({"camera": "c", "source": address}), stop)
        with caplog.at_level(logging.INFO, "gmn_camera"):
            for _ in stream.frames():
                if stream.reconnects:
                    stop.set()
    assert "nothing came for 0.5 s; it is opened again" in caplog.text


@pytest.mark.promise("camera-again")
def test_a_stream_is_followed_again_after_it_was_cut(video):
    with sending(video) as camera:
        stop = threading.Event()
        settings = read_options({"camera": "c", "source": camera.address})
        stream = Stream(settings, stop)
        frames = filter(None, stream.frames())
        first = next(frames)
        camera.cut()
        while stream.is_connected:
            time.sleep(0.02)
        camera.mend()
        cut_at = datetime.now(UTC)
        while next(frames).captured_at < cut_at:
            pass
        assert first.captured_at < cut_at
        assert stream.reconnects >= 1
        stop.set()


def test_a_slow_viewer_gets_the_newest_frame(video):
    with sending(video) as camera:
        stop = threading.Event()
        settings = read_options({"camera": "c", "source": camera.address})
        frames = filter(None, Stream(settings, stop).frames())
        next(frames)
        time.sleep(1.5)
        asked_at = datetime.now(UTC)
        # A frame that arrived while the next one was asked for may come first.
        next(frames)
        assert next(frames).captured_at > asked_at - timedelta(seconds=0.5)
        stop.set()
