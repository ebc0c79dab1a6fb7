import sys
from pathlib import Path

import numpy as np
import pytest

from model.problems import InputProblem
from training.datasets.record import CropRecord
from training.evaluation.peers import Peer


@pytest.fixture
def averaging_model(tmp_path: Path) -> Path:
    """An OpenVINO model whose feature is the mean of each input channel."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as operations

    crop = operations.parameter([1, 3, 256, 128], np.float32, name="data")
    mean = operations.reduce_mean(crop, np.array([2, 3]), keep_dims=True)
    path = tmp_path / "averaging.xml"
    openvino.save_model(openvino.Model([mean], [crop], "averaging"), path, False)
    return path


def crop(colour: tuple[int, int, int]) -> CropRecord:
    pixels = np.broadcast_to(np.array(colour, dtype=np.uint8), (64, 32, 3)).copy()
    return CropRecord("drawn", "drawn", "1", "a", "drawn", pixels=pixels)


def test_an_open_model_zoo_peer_sees_blue_green_red_from_0_to_255(averaging_model):
    features = Peer(averaging_model).embed([crop((10, 20, 30)), crop((200, 100, 0))])
    np.testing.assert_allclose(features, [[30, 20, 10], [0, 100, 200]], rtol=1e-3)


def test_a_peer_is_called_by_its_files_name(averaging_model):
    assert Peer(averaging_model).name == "averaging"


def test_without_openvino_the_remedy_is_named(averaging_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputProblem, match=r"pip install gmn-reid\[peers\]"):
        Peer(averaging_model)


def test_a_damaged_model_is_named(tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "broken.xml").write_text("<net>")
    with pytest.raises(InputProblem, match=r"broken\.xml: OpenVINO cannot run it"):
        Peer(tmp_path / "broken.xml")
