"""A camera whose stream is cut and whose service is killed, for some seconds."""

import pytest

from tests.camera.drawn_videos import walk, write_video
from tests.load.camera_soak import soak

pytestmark = pytest.mark.slow


def test_each_crop_that_was_chosen_is_accepted(tmp_path, monkeypatch):
    # So short a time is all warming up.
    for allowed in ("ALLOWED_MIB", "ALLOWED_FILES"):
        monkeypatch.setattr(f"tests.load.soak.{allowed}", 1e9)
    video = write_video(tmp_path / "walk.mp4", walk([0, 1], 4))
    found = soak(video, tmp_path, "small", 20.0, 1)
    assert found["wrong"] == []
    assert found["crops"] == found["accepted"] > 5
    assert found["back_s"]["slowest"] < 30
