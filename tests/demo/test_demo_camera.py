"""`gmn demo-camera` as a user runs it."""

import re

import pytest

from tests.forked import run_gmn


@pytest.fixture(autouse=True)
def known_runtime(monkeypatch):
    """Measuring which runtime is the fastest takes longer than the demo."""
    monkeypatch.setenv("GMN_RUNTIME", "openvino")
    monkeypatch.setenv("GMN_DTYPE", "float32")


@pytest.mark.slow
def test_the_second_camera_raises_an_alert_about_a_person_of_the_first():
    ran = run_gmn("demo-camera")
    assert ran.returncode == 0, ran.stderr
    assert re.search(r"^The camera hall saw 2 people and collected \d+ crops\.$", ran.stdout, re.M)
    assert re.findall(r"^The camera (hall|gate) watches ", ran.stderr, re.M) == ["hall", "gate"]
    assert ran.stderr.startswith("Drawing the clips of two cameras.\nStarting a service with ")
    assert re.findall(r"^Alert: the camera (\w+) sees (Person 1),", ran.stdout, re.M) == [
        ("gate", "Person 1")
    ]


def test_a_clip_that_is_no_video_is_named_with_the_reason(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"no video")
    ran = run_gmn("demo-camera", str(clip))
    assert ran.returncode == 2
    assert f"{clip}" in ran.stderr
    assert "Traceback" not in ran.stderr
