import json

import numpy as np
import pytest

from model.problems import InputProblem
from tests.training.runs import write_manifest
from training.commands.data import embed
from training.commands.evaluate import evaluate, report
from training.datasets.record import CropRecord
from training.datasets.registry import read_dataset
from training.evaluation.files import read_features
from training.evaluation.peers import Peer


@pytest.fixture
def averaging_model(tmp_path):
    """Writes an OpenVINO model whose feature is the mean of each input channel."""
    openvino = pytest.importorskip("openvino")
    from openvino import opset13 as operations

    crop = operations.parameter([1, 3, 256, 128], np.float32, name="data")
    mean = operations.reduce_mean(crop, np.array([2, 3]), keep_dims=True)
    path = tmp_path / "averaging.xml"
    openvino.save_model(openvino.Model([mean], [crop], "averaging"), path, False)
    return path


def crop(colour):
    pixels = np.broadcast_to(np.array(colour, dtype=np.uint8), (64, 32, 3)).copy()
    return CropRecord("drawn", "drawn", "1", "a", "drawn", pixels=pixels)


def test_an_open_model_zoo_peer_sees_blue_green_red_from_0_to_255(averaging_model):
    features = Peer(averaging_model).embed([crop((10, 20, 30)), crop((200, 100, 0))])
    np.testing.assert_allclose(features, [[30, 20, 10], [0, 100, 200]], rtol=1e-3)


def test_gmn_embed_writes_a_peers_features_under_its_name(averaging_model, tmp_path):
    people = "synthetic:7,identities=2,domains=1"
    embed(str(averaging_model), people, tmp_path / "shards")
    records = read_dataset(people).records
    stored = read_features(tmp_path / "shards")
    assert stored.origin.embedder == "averaging"
    assert stored.columns["paths"] == tuple(record.source for record in records)
    np.testing.assert_array_equal(stored.features, Peer(averaging_model).embed(records))


def test_a_ready_made_model_is_measured_by_cosine_and_compared_over_the_same_queries(
    averaging_model, fast_artefact, drawn_crops, tmp_path
):
    data = [write_manifest(tmp_path / "people.csv", drawn_crops)]
    for model in (averaging_model, fast_artefact):
        evaluate(str(model), data, out=tmp_path / model.stem)
    found = json.loads((tmp_path / "averaging" / "report.json").read_text())
    (dataset,) = found["datasets"]
    assert list(dataset["scorings"]) == ["cosine"]
    assert dataset["scorings"]["cosine"]["operating_points"] == []
    assert not dataset["seen_in_training"]
    places = [str(tmp_path / model.stem) for model in (averaging_model, fast_artefact)]
    report(places, out=tmp_path / "compared")
    compared = json.loads((tmp_path / "compared" / "comparison.json").read_text())
    base, *others = compared["datasets"][0]["rankings"]
    assert {row["against"] for row in others} == {"cosine"}
    for row in others:
        apart = row["metrics"]["mAP"]["mean"] - base["metrics"]["mAP"]["mean"]
        assert row["differences"]["mAP"]["mean"] == pytest.approx(apart, abs=1e-6)


@pytest.mark.parametrize("asked", [{"scoring": "mnet"}, {"premise": True}])
def test_a_ready_made_model_has_no_mnet(averaging_model, asked):
    with pytest.raises(InputProblem, match=r"averaging\.xml: a ready-made model has no M-Net"):
        evaluate(str(averaging_model), ["synthetic:7,identities=2,domains=1"], **asked)
