"""A camera that is watched: its clock is set, a still is asked for, and its zones change."""

import contextlib
import io
import threading
import time
from datetime import datetime, timedelta
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from gmn_camera import source
from gmn_camera.frame import Frame
from gmn_camera.settings import read_options
from gmn_camera.still import MAX_STILL_BYTES, encode_still
from gmn_camera.watch import Watcher
from gmn_client.models import HeartbeatAnswer
from tests.camera.drawn_videos import FPS, HEIGHT, WIDTH, draw_frame, sending, write_video
from tests.waiting import eventually


class SettableClock(datetime):
    """The clock of the machine; `ahead` is what it was set forward."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.ahead


class StandInClient:
    """Accepts every sighting and heartbeat, and remembers them; asks for one still."""

    def __init__(self):
        self.crops = []
        self.lags = []
        self.stills = []
        self.zones = []

    def sight(self, *images, **_):
        self.crops += images
        return SimpleNamespace(results=[SimpleNamespace(problem=None)] * len(images))

    def heartbeat(self, _camera, *, lag, **_):
        self.lags.append(lag)
        # A still may be under way while the next heartbeats are answered.
        return HeartbeatAnswer(zones=self.zones, still_wanted=len(self.lags) == 1)

    def send_still(self, _camera, still):
        self.stills.append(still)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Return a video in which a person stands."""
    frames = (draw_frame({0: 200}) for _ in range(FPS))
    return write_video(tmp_path_factory.mktemp("videos") / "stand.mp4", frames)


@contextlib.contextmanager
def watching(client, source, **options):
    """Yield while a camera is watched."""
    watcher = Watcher(read_options({"camera": "gate", "source": source, **options}), client)
    thread = threading.Thread(target=watcher.run, args=[lambda _: None])
    thread.start()
    try:
        yield watcher
    finally:
        watcher.stop.set()
        thread.join()


@pytest.mark.parametrize("set_forward", [timedelta(hours=-1), timedelta(days=20_000)])
def test_who_stands_before_a_camera_whose_clock_is_set_stays_one_track(
    set_forward, video, monkeypatch
):
    monkeypatch.setattr(source, "datetime", SettableClock)
    monkeypatch.setattr(SettableClock, "ahead", timedelta())
    monkeypatch.setattr("gmn_camera.watch.HEARTBEAT_SECONDS", 0.1)
    client = StandInClient()
    with sending(video) as camera, watching(client, camera.address):
        eventually(lambda: client.crops)
        SettableClock.ahead = set_forward
        seen_before = len(client.crops)
        eventually(lambda: len(client.crops) >= seen_before + 2)
    assert len({crop.track for crop in client.crops}) == 1
    # The time of capture is that of the clock.
    since = client.crops[-1].captured_at - client.crops[0].captured_at
    assert abs(since - set_forward) < timedelta(minutes=1)
    assert all(0 <= lag < 60 for lag in client.lags if lag is not None)


def test_a_still_that_is_asked_for_is_sent_once_and_shows_the_frame(video, monkeypatch):
    monkeypatch.setattr("gmn_camera.watch.HEARTBEAT_SECONDS", 0.1)
    client = StandInClient()
    with sending(video) as camera, watching(client, camera.address):
        eventually(lambda: client.stills)
        beats_before = len(client.lags)
        eventually(lambda: len(client.lags) >= beats_before + 5)
    (still,) = client.stills
    shown = Image.open(io.BytesIO(still))
    assert (shown.format, shown.size) == ("JPEG", (WIDTH, HEIGHT))
    drawn = np.asarray(draw_frame({0: 200}), int)
    assert np.abs(np.asarray(shown, int) - drawn).mean() < 20


def test_no_still_is_sent_outside_the_hours_of_a_camera(video, monkeypatch):
    monkeypatch.setattr("gmn_camera.watch.HEARTBEAT_SECONDS", 0.1)
    monkeypatch.setattr("gmn_camera.settings.CameraSettings.is_on", lambda *_: False)
    client = StandInClient()
    with sending(video) as camera, watching(client, camera.address) as watcher:
        eventually(lambda: watcher.figures.frame_at)
        beats_before = len(client.lags)
        eventually(lambda: len(client.lags) >= beats_before + 5)
    assert client.stills == []


def test_a_run_names_the_time_zone_by_which_it_reads_hours(video, monkeypatch, caplog):
    caplog.set_level("INFO")
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "ICT-7")
        time.tzset()
        with (
            sending(video) as camera,
            watching(StandInClient(), camera.address, hours="22:00-06:00"),
        ):
            eventually(lambda: "22:00-06:00" in caplog.text)
    time.tzset()
    assert "the hours 22:00-06:00 are those of the time zone ICT (UTC+0700)" in caplog.text


def test_zones_of_the_service_win_over_those_of_the_settings_until_they_are_taken_away(
    video, monkeypatch
):
    monkeypatch.setattr("gmn_camera.watch.HEARTBEAT_SECONDS", 0.1)
    client = StandInClient()
    # The person stands to the left of the middle, and the settings look at the right edge alone.
    right_edge = "0.9,0 1,0 1,1 0.9,1"
    with sending(video) as camera, watching(client, camera.address, zone=[right_edge]) as watcher:
        eventually(lambda: len(client.lags) >= 3 and watcher.figures.frames > FPS)
        assert watcher.figures.people == 0
        client.zones = ["0,0 0.8,0 0.8,1 0,1"]
        eventually(lambda: watcher.figures.people)
        client.zones = []
        beats_before = len(client.lags)
        eventually(lambda: len(client.lags) >= beats_before + 3)
        people_before = watcher.figures.people
        frames_before = watcher.figures.frames
        eventually(lambda: watcher.figures.frames > frames_before + FPS)
        assert watcher.figures.people == people_before


def test_zones_that_cannot_be_read_change_nothing(video, monkeypatch):
    monkeypatch.setattr("gmn_camera.watch.HEARTBEAT_SECONDS", 0.1)
    client = StandInClient()
    client.zones = ["of another version"]
    with sending(video) as camera, watching(client, camera.address) as watcher:
        eventually(lambda: watcher.figures.people)


@pytest.mark.parametrize("size", [(3840, 2160), (1080, 1920), (64, 48)])
def test_a_still_is_as_small_as_the_service_takes_it_also_of_noise(size):
    width, height = size
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    frame = Frame(datetime.now(), av.VideoFrame.from_ndarray(noise, format="rgb24"), 0.0)
    still = encode_still(frame)
    assert len(still) <= MAX_STILL_BYTES
    shown = Image.open(io.BytesIO(still))
    assert shown.width / shown.height == pytest.approx(width / height, rel=0.02)
