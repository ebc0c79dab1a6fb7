"""A model whose scores are all alike is refused where it is made, calibrated or served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import gmn
from model.artefact import Artefact, load_artefact
from model.collapse import CollapsedModel, refuse_collapse
from model.metric_network import TorchPairScores
from model.preprocessing import drawn_patterns
from training.evaluation.files import save_artefact


@pytest.fixture(scope="module")
def collapsed_artefact(tiny_artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny artefact with a neck that adds the same large vector to every feature."""
    artefact = load_artefact(tiny_artefact)
    with torch.no_grad():
        artefact.embedder.neck.bias.fill_(1e6)
    file = tmp_path_factory.mktemp("collapsed") / "collapsed.safetensors"
    save_artefact(file, artefact.description, artefact.embedder, artefact.metric_network)
    return file


def probe(file: Path) -> None:
    artefact = load_artefact(file)
    scores = TorchPairScores(artefact.require_metric_network())
    refuse_collapse(str(file), features_of(artefact), scores)


def features_of(artefact: Artefact) -> NDArray[np.float32]:
    preprocessing = artefact.description.preprocessing
    crops = torch.from_numpy(drawn_patterns(preprocessing))
    with torch.inference_mode():
        return np.asarray(artefact.embedder(preprocessing.normalise(crops)))


def test_working_artefacts_pass(tiny_artefact: Path) -> None:
    probe(tiny_artefact)


def test_an_artefact_whose_cosines_are_all_alike_is_refused_with_the_remedy(
    collapsed_artefact: Path,
) -> None:
    with pytest.raises(CollapsedModel, match=r"collapsed\.safetensors: .*cosines.*more epochs"):
        probe(collapsed_artefact)


def test_an_m_net_that_scores_all_pairs_alike_is_refused(
    tiny_artefact: Path,
) -> None:
    artefact = load_artefact(tiny_artefact)
    network = artefact.require_metric_network()
    with torch.no_grad():
        network.classifier[-1].weight.zero_()
    with pytest.raises(CollapsedModel, match="M-Net's scores"):
        refuse_collapse("mine", features_of(artefact), TorchPairScores(network))


def test_a_collapsed_artefact_is_not_calibrated(
    collapsed_artefact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = collapsed_artefact.read_bytes()
    data = "synthetic:3,identities=6,domains=1,cameras=2,crops=1"
    assert gmn.run(["calibrate", str(collapsed_artefact), "--data", data]) == 2
    assert "the model has collapsed" in capsys.readouterr().err
    assert collapsed_artefact.read_bytes() == before


def test_a_collapsed_artefact_is_not_served(
    collapsed_artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve", "--artefact", str(collapsed_artefact), "--data-dir", str(tmp_path / "data")]
    assert gmn.run(command) == 2
    assert "the model has collapsed" in capsys.readouterr().err
