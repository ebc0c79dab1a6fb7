"""A model whose scores are all alike is refused where it is made, calibrated or served."""

import re

import numpy as np
import pytest
import torch

import gmn
from model.artefact import load_artefact
from model.collapse import CollapsedModel, refuse_collapse
from model.metric_network import TorchPairScores
from model.preprocessing import drawn_patterns
from training.evaluation.files import save_artefact


@pytest.fixture(scope="module")
def collapsed_artefact(tiny_artefact, tmp_path_factory):
    """Return the tiny artefact with a neck that adds the same large vector to every feature."""
    artefact = load_artefact(tiny_artefact)
    with torch.no_grad():
        artefact.embedder.neck.bias.fill_(1e6)
    file = tmp_path_factory.mktemp("collapsed") / "collapsed.safetensors"
    save_artefact(file, artefact.description, artefact.embedder, artefact.metric_network)
    return file


def features_of(artefact):
    preprocessing = artefact.description.preprocessing
    crops = torch.from_numpy(drawn_patterns(preprocessing))
    with torch.inference_mode():
        return np.asarray(artefact.embedder(preprocessing.normalise(crops)))


def test_an_m_net_that_scores_all_pairs_alike_is_refused(
    tiny_artefact,
):
    artefact = load_artefact(tiny_artefact)
    network = artefact.require_metric_network()
    with torch.no_grad():
        network.classifier[-1].weight.zero_()
    with pytest.raises(CollapsedModel, match="M-Net's scores"):
        refuse_collapse("mine", features_of(artefact), TorchPairScores(network))


@pytest.mark.parametrize("command", ["calibrate", "serve"])
def test_a_collapsed_artefact_is_neither_calibrated_nor_served(
    collapsed_artefact, tmp_path, capsys, command
):
    data = "synthetic:3,identities=6,domains=1,cameras=2,crops=1"
    place = ["--data-dir", str(tmp_path / "data"), "--port", "0"]
    arguments = {
        "calibrate": [str(collapsed_artefact), "--data", data],
        "serve": ["--artefact", str(collapsed_artefact), *place],
    }
    before = collapsed_artefact.read_bytes()
    assert gmn.run([command, *arguments[command]]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert re.search(r"collapsed\.safetensors: .*collapsed.*cosines.*more epochs", said)
    assert collapsed_artefact.read_bytes() == before
