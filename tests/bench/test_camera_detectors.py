"""Detectors of cameras beside each other: each has its figures."""

import io
import json

import pytest
import typer
from PIL import Image

from bench import camera_detectors
from gmn_camera.detector import Detector
from model.people_detector import SHIPPED_DETECTOR
from tests.camera.drawn_videos import walk, write_video
from tests.drawn_photos import photo_of


def test_each_detector_has_figures_of_photographs_and_pasted_people(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(camera_detectors, "SIZES", ((640, 360),))
    monkeypatch.setattr(camera_detectors, "HEIGHT_SHARES", (0.6,))
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(photo_of(1))
    (tmp_path / "labels" / "a.txt").write_text("0 0.2 0.5 0.2 0.66667\n")
    data = "synthetic:3,identities=8,domains=1,cameras=1,crops=1"
    camera_detectors.main(tmp_path, data, [SHIPPED_DETECTOR], people=4)
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["detector"] for row in rows] == ["person-detection-retail-0013", "yolox_nano"]
    for row in rows:
        sure, unsure = row["photographs"]
        assert (sure["min_score"], unsure["min_score"]) == (0.5, 0.2)
        assert sure["upright"] == unsure["upright"] == 1
        assert sure["boxes"] <= unsure["boxes"]
        assert [pasted["share_of_height"] for pasted in row["pasted"]] == [0.6, 0.6]
        assert all(pasted["people"] >= 4 for pasted in row["pasted"])
    assert rows[1]["photographs"][0]["upright_found"] == 1


def test_a_network_with_another_input_finds_the_same_person(tmp_path):
    frame = camera_detectors.frame_of(Image.open(io.BytesIO(photo_of(1))))
    shipped = Detector(None, 1)
    resized = camera_detectors.resize_input(shipped.file, 448, 256, tmp_path)
    assert resized.name == "person-detection-retail-0013-448x256.xml"
    (box,), (other,) = (
        camera_detectors.boxes_in_pixels(detector, frame, 0.5)
        for detector in (shipped, Detector(resized, 1))
    )
    assert abs(box - other).max() < 60


def test_a_size_that_cannot_be_read_is_named_with_the_remedy():
    assert camera_detectors.read_size("544x320") == (544, 320)
    with pytest.raises(typer.BadParameter, match="'544' is no size; write it like 544x320"):
        camera_detectors.read_size("544")


def test_the_frames_of_the_tracks_of_a_clip_are_counted(tmp_path):
    clip = write_video(tmp_path / "walk.mp4", walk([0, 1], 3))
    frames = camera_detectors.frames_of_tracks(Detector(None, 1).file, clip)
    assert len(frames) == 2
    assert all(20 <= count <= 30 for count in frames)
