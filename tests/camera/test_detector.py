"""People in frames, by the shipped network and by those of users."""

from datetime import UTC, datetime

import av
import numpy as np
import openvino
import pytest
from openvino import opset13 as ops

from gmn_camera.detector import Detector
from gmn_camera.frame import Frame
from gmn_camera.pipeline import CropPipeline
from gmn_camera.settings import read_options
from gmn_client import InvalidInput
from gmn_client.zones import read_zone
from model.yolox import count_cells
from tests.camera.drawn_videos import HEIGHT, PERSON, WIDTH, draw_frame


def frame_of(picture):
    return Frame(
        datetime(2026, 3, 1, tzinfo=UTC),
        av.VideoFrame.from_ndarray(np.asarray(picture), "rgb24"),
        0.0,
    )


def test_drawn_people_are_found_where_they_are():
    detector = Detector(None, 1)
    found = detector.detect(frame_of(draw_frame({0: 60, 1: 400})))
    boxes = found.boxes[found.scores > 0.5] * ([WIDTH, HEIGHT] * 2)
    assert len(boxes) == 2
    for (left, top, right, bottom), expected in zip(sorted(boxes.tolist()), (60, 400), strict=True):
        assert abs((left + right) / 2 - (expected + PERSON[0] / 2)) < 20
        assert top >= HEIGHT - PERSON[1] - 60
        assert bottom - top > 0.75 * PERSON[1]


def test_people_in_an_upright_frame_are_found():
    found = Detector(None, 1).detect(frame_of(draw_frame({0: 120}, size=(360, 640))))
    assert (found.scores > 0.5).sum() == 1


def test_an_empty_frame_has_nobody():
    found = Detector(None, 1).detect(frame_of(draw_frame({})))
    assert (found.scores > 0.5).sum() == 0


def save_network(file, output, canvas=(64, 64)):
    """Write a network that answers the same for every picture.

    Args:
        output: its answer.
    """
    picture = ops.parameter([1, 3, *canvas], name="images", dtype=np.float32)
    nothing = ops.multiply(ops.reduce_sum(picture, [0, 1, 2, 3], True), np.float32(0))
    shape = [1] * output.ndim
    answer = ops.add(ops.constant(output.astype(np.float32)), ops.reshape(nothing, shape, False))
    openvino.save_model(openvino.Model([answer], [picture], "network"), file)
    return file


LEFT, TOP, RIGHT, BOTTOM = (0.25, 0.125, 0.5, 0.875)
CENTRE = [(LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2, RIGHT - LEFT, BOTTOM - TOP]


def yolo_output():
    """Return 20 boxes of YOLOv8 with three classes: a person twice, a car, and noise."""
    rows = np.zeros((20, 7))
    in_pixels = [64 * share for share in CENTRE]
    rows[:3, :4] = in_pixels
    rows[0, 4] = 0.9
    rows[1, 4] = 0.8
    rows[2, 5] = 0.95
    return rows.T[None]


def yolox_output():
    """Return the boxes of a YOLOX of 64×64 pixels: a person, a car, and nothing elsewhere."""
    rows = np.zeros((1, count_cells((64, 64)), 85))
    # The first cell of a stride of 8 pixels. Sizes are logarithms.
    rows[0, 0, :4] = [8 * CENTRE[0], 8 * CENTRE[1], np.log(8 * CENTRE[2]), np.log(8 * CENTRE[3])]
    rows[0, 0, 4:6] = [0.9, 1.0]
    rows[0, 1, 4:] = [0.9, 0.0, 0.0, 1.0] + [0.0] * 77
    return rows


def rtdetr_output():
    rows = np.zeros((1, 300, 4 + 80))
    rows[0, 7, :4] = CENTRE
    rows[0, 7, 4] = 0.9
    return rows


def ssd_output():
    rows = np.zeros((1, 1, 10, 7))
    rows[0, 0, 0] = [0, 1, 0.9, LEFT, TOP, RIGHT, BOTTOM]
    rows[0, 0, 1, 0] = -1
    return rows


@pytest.mark.parametrize(
    "output",
    [yolo_output(), yolox_output(), rtdetr_output(), ssd_output()],
    ids=["yolo", "yolox", "rtdetr", "ssd"],
)
def test_a_network_of_ones_own_is_read_by_the_shape_of_its_answer(output, tmp_path):
    file = save_network(tmp_path / "network.xml", output)
    # The frame is a square, as the network's canvas.
    found = Detector(file, 1).detect(frame_of(draw_frame({}, size=(320, 320))))
    assert found.scores.tolist() == pytest.approx([0.9], abs=1e-3)
    assert found.boxes[0] == pytest.approx([LEFT, TOP, RIGHT, BOTTOM], abs=1e-3)


def test_the_boxes_of_a_wide_frame_are_those_of_the_part_that_it_fills(tmp_path):
    file = save_network(tmp_path / "network.xml", rtdetr_output())
    found = Detector(file, 1).detect(frame_of(draw_frame({}, size=(640, 320))))
    # The frame fills 64×34 pixels: people may become taller by a sixteenth.
    assert found.boxes[0] == pytest.approx([LEFT, TOP * 64 / 34, RIGHT, 1.0], abs=1e-3)


@pytest.mark.parametrize("shape", [(1, 300, 6), (1, 10), (1, 3, 8, 8)])
def test_a_network_of_another_kind_is_refused_with_the_remedy(shape, tmp_path):
    file = save_network(tmp_path / "network.xml", np.zeros(shape))
    with pytest.raises(InvalidInput, match=r"is not supported; name an SSD .* without NMS"):
        Detector(file, 1)


def test_a_file_that_is_no_network_is_refused(tmp_path):
    file = tmp_path / "network.onnx"
    file.write_bytes(b"no network")
    for path in (file, tmp_path / "nowhere.xml"):
        with pytest.raises(InvalidInput, match=f"{path.name}: cannot be read as a network"):
            Detector(path, 1)


@pytest.mark.parametrize(
    ("zone", "people"),
    [
        ("0,0 0.5,0 0.5,1 0,1", 1),
        ("0,0 1,0 1,0.5 0,0.5", 0),
        ("0,0.5 1,0.5 1,1 0,1", 2),
    ],
    ids=["left half", "upper half", "lower half"],
)
def test_only_people_whose_feet_are_in_a_zone_count(zone, people):
    settings = read_options({"camera": "c", "source": "a.mp4", "zone": [zone]})
    pipeline = CropPipeline(settings, "series")
    for _ in range(3):
        found = pipeline.add(frame_of(draw_frame({0: 60, 1: 400})))
    assert len(found.boxes) == people
    assert pipeline.chooser.tracks == people


def test_a_crop_has_the_name_of_the_first_zone_with_the_feet_at_its_own_frame():
    everywhere = "0,0 1,0 1,1 0,1"
    drawn = ["ceiling: 0,0 1,0 1,0.1 0,0.1", "door: 0,0 0.5,0 0.5,1 0,1", everywhere]
    settings = read_options({"camera": "c", "source": "a.mp4", "zone": drawn})
    pipeline = CropPipeline(settings, "series")
    for _ in range(3):
        found = pipeline.add(frame_of(draw_frame({0: 60, 1: 400})))
    assert len(found.boxes) == 2
    # Zones that are drawn later hold for later frames.
    pipeline.zones = [read_zone(f"elsewhere: {everywhere}")]
    assert {crop.zone for crop in pipeline.end()} == {None, "door"}
