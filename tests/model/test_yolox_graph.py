"""The rewritten graph of a YOLOX."""

import numpy as np
import pytest

from model.openvino_loading import compiled, load_openvino
from model.people_detector import SHIPPED_DETECTOR
from model.yolox import PERSON, count_cells
from model.yolox_graph import read_yolox

pytest.importorskip("openvino")
WIDTH, HEIGHT = 96, 64
# With less precision, differences would come from rounding.
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def test_it_gives_the_first_columns_of_what_the_network_gives_of_the_same_picture():
    picture = np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    network = load_openvino().Core().read_model(SHIPPED_DETECTOR)
    network.reshape([1, 3, HEIGHT, WIDTH])
    as_published = picture[None, :, :, ::-1].transpose(0, 3, 1, 2).astype(np.float32)
    expected = compiled(network, EXACT)(as_published)[0]
    found = compiled(read_yolox(SHIPPED_DETECTOR, WIDTH, HEIGHT), EXACT)(picture[None])[0]
    assert found.shape == (1, count_cells((HEIGHT, WIDTH)), PERSON + 1)
    assert found == pytest.approx(expected[:, :, : PERSON + 1], abs=1e-4)
