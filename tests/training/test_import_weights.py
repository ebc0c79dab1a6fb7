"""Published weights as an artefact."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from model.architecture import EmbedderConfig, HeadConfig
from model.artefact import load_artefact
from model.embedder import Embedder
from model.osnet import SqueezeGate
from model.problems import InputProblem
from training.import_weights import compare, import_weights, read_embedder

# Of the tracing that OpenVINO's conversion does.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

FORMS = {
    "osnet_x0_25_folded": {"pooling": "average", "head": HeadConfig(layers="fc-relu")},
    "osnet_context_x0_25_folded": {
        "pooling": "depthwise",
        "map_size": (16, 8),
        "head": HeadConfig(layers="fc-prelu", dimension=24),
    },
}


def random_embedder(backbone: str) -> Embedder:
    """An embedder in which no bias is 0, since a graph without it has no layer for it."""
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig.model_validate({"backbone": backbone, **FORMS[backbone]}))
    with torch.no_grad():
        for name, parameter in embedder.named_parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.rand_like(parameter) + 0.01, alpha=1.0)
            elif name.startswith("pooling"):
                parameter.mul_(1.0 + torch.rand_like(parameter))
    return embedder.eval()


def save_graph(embedder: torch.nn.Module, file: Path) -> None:
    import openvino

    model = openvino.convert_model(embedder, example_input=torch.rand(1, 3, 256, 128))
    model.reshape([1, 3, 256, 128])
    openvino.save_model(model, str(file), compress_to_fp16=False)


class TakesPixels(torch.nn.Module):
    """Open Model Zoo's input: BGR from 0 to 255, normalised within the graph."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor([123.7, 116.3, 103.5]).view(1, 3, 1, 1)
        std = torch.tensor([58.4, 57.1, 57.4]).view(1, 3, 1, 1)
        rgb = crops.index_select(1, torch.tensor([2, 1, 0]))
        features: torch.Tensor = self.embedder((rgb - mean) / std)
        return features


@pytest.mark.parametrize("backbone", FORMS)
@pytest.mark.slow
def test_a_graph_gives_back_the_weights_that_it_was_made_of(backbone: str, tmp_path: Path) -> None:
    embedder = random_embedder(backbone)
    save_graph(TakesPixels(embedder), tmp_path / "osnet.xml")
    found, preprocessing = read_embedder(tmp_path / "osnet.xml")
    assert found.config == embedder.config
    state = found.state_dict()
    for name, tensor in embedder.state_dict().items():
        assert torch.allclose(state[name], tensor, atol=1e-5), name
    assert preprocessing.mean == pytest.approx((123.7 / 255, 116.3 / 255, 103.5 / 255))
    assert preprocessing.std == pytest.approx((58.4 / 255, 57.1 / 255, 57.4 / 255))
    assert compare(found, preprocessing, tmp_path / "osnet.xml")["least_cosine"] > 0.99999


@pytest.mark.slow
def test_an_imported_artefact_scores_by_cosine_and_states_its_origin(tmp_path: Path) -> None:
    save_graph(TakesPixels(random_embedder("osnet_context_x0_25_folded")), tmp_path / "osnet.xml")
    import_weights(
        tmp_path / "osnet.xml",
        tmp_path / "out.safetensors",
        documented_data=("MSMT17",),
        terms="Apache License 2.0",
    )
    artefact = load_artefact(tmp_path / "out.safetensors")
    assert artefact.metric_network is None
    assert artefact.description.scorings == ("cosine",)
    provenance = artefact.description.provenance
    assert provenance.terms == "Apache License 2.0"
    (source,) = provenance.all_sources
    assert source.name == "osnet.xml"
    assert source.documented_data == ("MSMT17",)
    assert provenance.metrics["parity"]["least_cosine"] > 0.999


@pytest.mark.parametrize("name", ["osnet.pth", "osnet.xml"])
def test_weights_that_are_not_there_are_named_with_what_can_be_imported(
    name: str, tmp_path: Path
) -> None:
    absent = re.escape(f"{tmp_path / name}: no such file; name a torchreid state dict, an OpenVINO")
    with pytest.raises(InputProblem, match=absent):
        import_weights(tmp_path / name, tmp_path / "out.safetensors")


def test_a_graph_needs_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "osnet.xml").write_text("<net/>")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(InputProblem, match=r"osnet\.xml: needs the package openvino; pip install"):
        read_embedder(tmp_path / "osnet.xml")


@pytest.mark.slow
def test_a_layer_that_osnet_has_not_is_named(tmp_path: Path) -> None:
    embedder = random_embedder("osnet_x0_25_folded")
    embedder.backbone.conv1.activation = torch.nn.Sigmoid()
    save_graph(embedder, tmp_path / "odd.xml")
    with pytest.raises(InputProblem, match=r"odd\.xml: layer .*conv1.*\(Sigmoid\) is not the Relu"):
        read_embedder(tmp_path / "odd.xml")


@pytest.mark.slow
def test_batchnorm_behind_the_linear_layer_goes_into_its_weights(tmp_path: Path) -> None:
    embedder = random_embedder("osnet_x0_25_folded")
    norm = torch.nn.BatchNorm1d(512).eval()
    for tensor in norm.state_dict().values():
        if tensor.ndim:
            tensor.uniform_(0.5, 2.0)
    embedder.head.insert(1, norm)
    save_graph(embedder, tmp_path / "osnet.xml")
    found, _ = read_embedder(tmp_path / "osnet.xml")
    assert found.config.head == HeadConfig(layers="fc-relu")
    crops = torch.rand(4, 3, 256, 128)
    with torch.no_grad():
        assert torch.allclose(found(crops), embedder(crops), rtol=1e-4, atol=1e-4)


class OtherGateEachTime(torch.nn.Module):
    """A gate that a block's streams do not share."""

    def __init__(self, gates: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        self.gates = torch.nn.ModuleList(gates)
        self.calls = 0

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        weighed: torch.Tensor = self.gates[self.calls % len(self.gates)](maps)
        return weighed


@pytest.mark.slow
def test_a_gate_that_the_streams_do_not_share_is_named(tmp_path: Path) -> None:
    embedder = random_embedder("osnet_x0_25_folded")
    gates = [random_embedder("osnet_x0_25_folded").backbone.conv3[0].gate, SqueezeGate(24).eval()]
    embedder.backbone.conv3[0].gate = OtherGateEachTime(gates)
    save_graph(embedder, tmp_path / "odd.xml")
    with pytest.raises(InputProblem, match=r"layer .*conv3.*other weights than the same gate"):
        read_embedder(tmp_path / "odd.xml")


@pytest.mark.slow
def test_weights_that_differ_from_their_reference_are_not_written(tmp_path: Path) -> None:
    embedder = random_embedder("osnet_x0_25_folded")
    save_graph(embedder, tmp_path / "one.xml")
    save_torchreid_weights(tmp_path / "other.pth")
    with pytest.raises(InputProblem, match="nothing was written"):
        import_weights(
            tmp_path / "other.pth",
            tmp_path / "out.safetensors",
            reference=tmp_path / "one.xml",
        )
    assert not (tmp_path / "out.safetensors").exists()


def save_torchreid_weights(file: Path) -> None:
    """Writes an OSNet x0.25 with random weights the way torchreid stores one."""
    from tests.training.test_backbone_weights import torchreid_name

    embedder = Embedder(
        EmbedderConfig(
            backbone="osnet_x0_25", pooling="average", head=HeadConfig(layers="fc-bn-relu")
        )
    )
    state = {}
    for name, tensor in embedder.state_dict().items():
        if name.startswith("backbone."):
            state[torchreid_name(name.removeprefix("backbone."), False)] = tensor
        elif name.startswith("head."):
            state[name.replace("head.", "fc.")] = tensor
    torch.save(state, file)
