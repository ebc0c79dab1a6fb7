"""The boxes of people in the output of a YOLOX."""

import hashlib
import re

import numpy as np
import pytest

from model.people_detector import SHIPPED_DETECTOR
from model.yolox import count_cells, decode_people

CANVAS = (64, 96)


def output_with(cell, centre, size, scores):
    """Return an output in which one cell has a box, given in strides from the cell's corner."""
    rows = np.zeros((count_cells(CANVAS), 85), np.float32)
    rows[cell, :2] = centre
    rows[cell, 2:4] = np.log(size)
    rows[cell, 4:6] = scores
    return rows


def test_each_grid_has_a_cell_for_every_stride():
    assert count_cells(CANVAS) == 8 * 12 + 4 * 6 + 2 * 3
    assert count_cells((416, 416)) == 3549


@pytest.mark.parametrize(
    ("cell", "corner", "stride"),
    [
        (0, (0, 0), 8),
        (12 + 5, (5, 1), 8),
        (8 * 12 + 6 + 1, (1, 1), 16),
        (8 * 12 + 4 * 6 + 5, (2, 1), 32),
    ],
    ids=["first", "second row", "second grid", "last"],
)
def test_a_box_is_where_its_cell_is_and_as_large_as_its_stride_says(cell, corner, stride):
    output = output_with(cell, (0.5, 0.25), (2, 3), (0.9, 0.5))
    boxes, scores = decode_people(output, CANVAS)
    centre_x = (corner[0] + 0.5) * stride
    centre_y = (corner[1] + 0.25) * stride
    assert boxes[cell] == pytest.approx(
        [
            centre_x - stride,
            centre_y - 1.5 * stride,
            centre_x + stride,
            centre_y + 1.5 * stride,
        ]
    )
    assert scores[cell] == pytest.approx(0.45)


def test_an_object_of_another_class_is_no_person():
    output = output_with(3, (0, 0), (1, 1), (0.9, 0.0))
    output[3, 6] = 1.0
    assert decode_people(output, CANVAS)[1].max() == 0


def test_the_shipped_networks_are_the_files_that_the_notice_names():
    folder = SHIPPED_DETECTOR.parent
    notice = (folder / "NOTICE").read_text(encoding="utf-8")
    named = {name: digest for digest, name in re.findall(r"^  (\w{64})  (\S+)$", notice, re.M)}
    shipped = [file for file in folder.iterdir() if file.name not in ("NOTICE", "LICENSE")]
    assert named == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in shipped}
