"""Published weights as an artefact."""

import re

import pytest
import torch

from model.architecture import EmbedderConfig, HeadConfig
from model.artefact import load_artefact
from model.embedder import Embedder
from model.problems import InputProblem
from training.import_weights import import_weights, read_embedder


def save_torchreid_weights(file):
    """Write an OSNet x0.25 with random weights the way torchreid stores one, and return it."""
    from tests.training.test_backbone_weights import torchreid_name

    head = HeadConfig(layers="fc-bn-relu")
    embedder = Embedder(EmbedderConfig(backbone="osnet_x0_25", pooling="average", head=head))
    state = {}
    for name, tensor in embedder.state_dict().items():
        if name.startswith("backbone."):
            state[torchreid_name(name.removeprefix("backbone."))] = tensor
        elif name.startswith("head."):
            state[name.replace("head.", "fc.")] = tensor
    torch.save(state, file)
    return embedder.eval()


def test_an_imported_artefact_scores_by_cosine_and_states_its_origin(tmp_path, monkeypatch):
    few = "synthetic:12,identities=12,domains=1,crops=2"
    monkeypatch.setattr("training.import_weights.CALIBRATION", few)
    torch.manual_seed(0)
    published = save_torchreid_weights(tmp_path / "osnet.pth")
    out = tmp_path / "out.safetensors"
    import_weights(
        tmp_path / "osnet.pth",
        out,
        documented_data=("MSMT17",),
        terms="Apache License 2.0",
    )
    artefact = load_artefact(out)
    crops = torch.rand(4, 3, 256, 128)
    with torch.no_grad():
        cosines = torch.cosine_similarity(artefact.embedder(crops), published(crops))
    assert (cosines > 0.9999).all()
    assert artefact.metric_network is None
    assert artefact.description.scorings == ("cosine",)
    provenance = artefact.description.provenance
    assert provenance.terms == "Apache License 2.0"
    (source,) = provenance.sources
    assert source.name == "osnet.pth"
    assert source.documented_data == ("MSMT17",)


def test_weights_that_are_not_there_are_named_with_what_can_be_imported(tmp_path):
    absent = re.escape(f"{tmp_path / 'osnet.pth'}: no such file; name a torchreid state dict")
    with pytest.raises(InputProblem, match=absent):
        import_weights(tmp_path / "osnet.pth", tmp_path / "out.safetensors")


@pytest.mark.parametrize("name", ["osnet.xml", "osnet.onnx"])
def test_a_graph_is_refused_with_the_artefacts_to_start_from(name, tmp_path):
    with pytest.raises(InputProblem, match=rf"{name}: a graph cannot be imported.*small-start"):
        import_weights(tmp_path / name, tmp_path / "out.safetensors")


def test_weights_without_the_layer_that_makes_features_are_refused(tmp_path):
    save_torchreid_weights(tmp_path / "osnet.pth")
    state = torch.load(tmp_path / "osnet.pth")
    bare = {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}
    torch.save(bare, tmp_path / "bare.pth")
    with pytest.raises(InputProblem, match=r"bare\.pth: has no fc layer"):
        read_embedder(tmp_path / "bare.pth")
