"""A camera that is watched while the clock of its machine is set."""

import threading
from datetime import datetime, timedelta
from types import SimpleNamespace

import pytest

from gmn_camera import source
from gmn_camera.settings import read_options
from gmn_camera.watch import Watcher
from tests.camera.drawn_videos import FPS, draw_frame, sending, write_video
from tests.waiting import eventually


class SettableClock(datetime):
    """The clock of the machine; `ahead` is what it was set forward."""

    ahead = timedelta()

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.ahead


class StandInClient:
    """Accepts every sighting and heartbeat, and remembers them."""

    def __init__(self):
        self.crops = []
        self.lags = []

    def sight(self, *images, **_):
        self.crops += images
        return SimpleNamespace(results=[SimpleNamespace(problem=None)] * len(images))

    def heartbeat(self, _camera, *, lag, **_):
        self.lags.append(lag)


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """Return a video in which a person stands."""
    frames = (draw_frame({0: 200}) for _ in range(FPS))
    return write_video(tmp_path_factory.mktemp("videos") / "stand.mp4", frames)


@pytest.mark.parametrize("set_forward", [timedelta(hours=-1), timedelta(days=20_000)])
def test_who_stands_before_a_camera_whose_clock_is_set_stays_one_track(
    set_forward, video, monkeypatch
):
    monkeypatch.setattr(source, "datetime", SettableClock)
    monkeypatch.setattr(SettableClock, "ahead", timedelta())
    monkeypatch.setattr("gmn_camera.watch.HEARTBEAT_SECONDS", 0.1)
    client = StandInClient()
    with sending(video) as camera:
        settings = read_options({"camera": "gate", "source": camera.address})
        watcher = Watcher(settings, client)
        watching = threading.Thread(target=watcher.run, args=[lambda _: None])
        watching.start()
        eventually(lambda: client.crops)
        SettableClock.ahead = set_forward
        seen_before = len(client.crops)
        eventually(lambda: len(client.crops) >= seen_before + 2)
        watcher.stop.set()
        watching.join()
    assert len({crop.track for crop in client.crops}) == 1
    # The time of capture is that of the clock.
    since = client.crops[-1].captured_at - client.crops[0].captured_at
    assert abs(since - set_forward) < timedelta(minutes=1)
    assert all(0 <= lag < 60 for lag in client.lags if lag is not None)
