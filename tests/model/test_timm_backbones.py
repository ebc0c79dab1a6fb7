"""Backbones of timm, from random weights: nothing is downloaded."""

import socket
import sys
from unittest.mock import Mock

import pytest
import torch

from model.architecture import EmbedderConfig, MultiscaleConfig
from model.artefact import ArtefactProblem, load_artefact
from model.backbones import find_backbone, timm_backbone
from model.embedder import Embedder
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from tests.forked import run_forked
from training.cost import embedder_cost
from training.evaluation.files import save_artefact

RESNET = "timm:resnet10t"
CONVNEXT = "timm:convnext_atto"
CROPS = torch.rand(2, 3, 64, 32, generator=torch.Generator().manual_seed(5))


def config(name, **settings):
    return EmbedderConfig(backbone=name, last_stride=2, pooling="average", **settings)


@pytest.fixture
def without_timm(monkeypatch):
    timm_backbone.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)


@pytest.mark.parametrize(
    ("name", "size"), [(RESNET, 512), (CONVNEXT, 320), ("timm:regnetx_002", 368)]
)
def test_a_timm_backbone_gives_features_of_its_size(name, size):
    features = Embedder(config(name)).eval()(CROPS)
    assert features.shape == (2, size) == (2, config(name).dimension)


def test_a_residual_network_of_timm_has_four_stages():
    embedder = Embedder(config(RESNET, multiscale=MultiscaleConfig())).eval()
    with torch.no_grad():
        _, stages = embedder.before_neck(CROPS, (1, 2, 3, 4))
    assert [tuple(stage.shape[1:]) for stage in stages] == [
        (64, 16, 8),
        (128, 8, 4),
        (256, 4, 2),
        (512, 2, 1),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "timm:vit_tiny_patch16_224",
        "timm:mobilenetv3_small_050",
        # timm would fetch the configuration of this one.
        "timm:hf-hub:someone/model",
    ],
)
def test_another_network_is_refused_without_asking_any_server(monkeypatch, name):
    network = Mock(side_effect=OSError("no network"))
    monkeypatch.setattr(socket, "getaddrinfo", network)
    monkeypatch.setattr(socket.socket, "connect", network)
    with pytest.raises(InputProblem, match=f"there is no {name} with four stages"):
        find_backbone(name)
    network.assert_not_called()


def test_an_unknown_timm_name_is_answered_with_those_near():
    with pytest.raises(InputProblem, match="timm:resnet50"):
        find_backbone("timm:resnet5O")
    with pytest.raises(InputProblem, match=r"timm:resnet50\.a1_in1k"):
        find_backbone("timm:resnet50.a1_in2k")


def test_without_timm_the_extra_is_named(without_timm):
    with pytest.raises(InputProblem, match=r"gmn-reid\[timm\]"):
        find_backbone(RESNET)


def test_timm_is_imported_for_its_own_names_only():
    script = (
        "import sys; from model.embedder import Embedder, EmbedderConfig; import training.recipe; "
        "Embedder(EmbedderConfig(backbone='osnet_x0_25')); sys.exit('timm' in sys.modules)"
    )
    assert run_forked(script).returncode == 0


@pytest.mark.parametrize(("name", "millions"), [(RESNET, 4.92), (CONVNEXT, 3.37)])
def test_the_cost_of_a_timm_backbone_is_counted(name, millions):
    cost = embedder_cost(config(name), Preprocessing(height=64, width=32))
    assert cost.parameters / 1e6 == pytest.approx(millions, rel=0.01)
    assert cost.multiply_adds > 1e7


def test_an_artefact_with_a_timm_backbone_is_read_back(tmp_path, cosine_artefact, monkeypatch):
    # The graph's conversion takes most of the time, and is not read back here.
    monkeypatch.setattr("model.openvino_graph.openvino_graph", None)
    embedder = Embedder(config(CONVNEXT)).eval()
    known = load_artefact(cosine_artefact).description
    description = known.model_copy(update={"embedder": embedder.config})
    save_artefact(tmp_path / "atto.safetensors", description, embedder, None)
    with torch.no_grad():
        expected, found = (
            network(CROPS)
            for network in (embedder, load_artefact(tmp_path / "atto.safetensors").embedder)
        )
    assert torch.cosine_similarity(expected, found).min() > 0.999
    timm_backbone.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ArtefactProblem, match=r"atto\.safetensors: .*gmn-reid\[timm\]"):
        load_artefact(tmp_path / "atto.safetensors")
