"""Initial weights of backbones; nothing is downloaded."""

import re

import pytest
import timm
import torch
import torchvision

from model.backbones import find_backbone
from model.problems import InputProblem
from tests.training.runs import first_batch
from training.backbone_weights import load_backbone_weights, torchreid_tensors
from training.checkpoint import run_identity
from training.datasets.drawn import draw_people
from training.provenance import weight_sources
from training.recipe import read_recipe
from training.run import prepare_run
from training.step import TrainingStep

RESNET = "timm:resnet10t"
CONVNEXT = "timm:convnext_tiny"


def with_weights(name, initial_weights, last_stride=1):
    backbone = find_backbone(name).build(last_stride)
    load_backbone_weights(name, backbone, str(initial_weights))
    return backbone


def test_weights_without_the_last_stage_are_taken(tmp_path):
    state = torchvision.models.resnet18(weights=None).state_dict()
    early = {key: state[key] for key in state if not key.startswith(("layer4.", "fc."))}
    path = tmp_path / "early.pth"
    torch.save(early, path)
    built = with_weights("resnet18", path)
    assert torch.equal(built.get_submodule("conv1").weight, state["conv1.weight"])


def test_weights_that_do_not_fit_are_refused_by_tensor(tmp_path):
    path = tmp_path / "resnet.pth"
    with pytest.raises(InputProblem, match="initial_weights"):
        with_weights("resnet18", path)
    path.write_text("not weights")
    with pytest.raises(InputProblem, match=r"resnet\.pth: not a PyTorch state dict"):
        with_weights("resnet18", path)
    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, path)
    with pytest.raises(InputProblem, match=r"resnet\.pth: does not fit this backbone.*unknown"):
        with_weights("mobilenet_v2", path)
    del state["layer2.0.conv1.weight"], state["layer1.0.bn1.bias"]
    torch.save(state, path)
    with pytest.raises(InputProblem, match=r"missing: layer1\.0\.bn1\.bias, layer2\.0\.conv1"):
        with_weights("resnet18", path)


def torchreid_name(name):
    """torchreid's name of a tensor of ours."""
    name = re.sub(r"^pool([23])\.", r"conv\1.2.", name)
    name = name.replace(".reduce.", ".conv1.").replace(".shortcut.", ".downsample.")
    name = name.replace(".expand.", ".conv3.")
    name = re.sub(r"\.streams\.0\.0\.", ".conv2a.", name)
    stream = r"\.streams\.(\d)\.(\d)\."
    name = re.sub(stream, lambda match: f".conv2{'abcd'[int(match[1])]}.{match[2]}.", name)
    name = name.replace(".pointwise.", ".conv1.").replace(".depthwise.", ".conv2.")
    name = name.replace("gate.squeeze.", "gate.fc1.").replace("gate.excite.", "gate.fc2.")
    return name.replace(".norm.", ".bn.")


def test_a_torchreid_state_dict_fills_the_osnet_of_its_width(tmp_path):
    torch.manual_seed(0)
    network = find_backbone("osnet_x0_25").build(1)
    state = {torchreid_name(key): value for key, value in network.state_dict().items()}
    state |= {"classifier.weight": torch.zeros(7, 512), "classifier.bias": torch.zeros(7)}
    state |= {"fc.0.weight": torch.zeros(512, 128), "fc.0.bias": torch.zeros(512)}
    torch.save(state, tmp_path / "osnet.pth")
    filled = with_weights("osnet_x0_25", tmp_path / "osnet.pth")
    crops = torch.rand(2, 3, 64, 32)
    assert torch.equal(filled.eval()(crops), network.eval()(crops))


def test_the_osnet_of_a_checkpoint_is_recognised():
    state = find_backbone("osnet_x0_5").build(1).state_dict()
    named = {f"module.{torchreid_name(key)}": value for key, value in state.items()}
    found, tensors = torchreid_tensors({"state_dict": named, "epoch": 3}, "osnet.pth.tar")
    assert found == "osnet_x0_5"
    assert set(tensors) == set(state)


def test_an_osnet_with_instance_normalisation_is_refused():
    state = {"conv1.conv.weight": torch.zeros(64, 3, 7, 7), "conv2.0.IN.weight": torch.zeros(256)}
    with pytest.raises(InputProblem, match=r"ain\.pth: .*instance normalisation.*plain OSNet"):
        torchreid_tensors(state, "ain.pth")


def test_weights_of_another_osnet_are_refused_by_width_or_tensor(tmp_path):
    network = find_backbone("osnet_x0_25").build(1)
    state = {torchreid_name(key): value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "osnet.pth")
    with pytest.raises(InputProblem, match="osnet_x0_25; set embedder"):
        with_weights("osnet_x0_5", tmp_path / "osnet.pth")
    torch.save(state | {"conv2.0.extra.weight": torch.zeros(3)}, tmp_path / "osnet.pth")
    with pytest.raises(InputProblem, match=r"unknown: conv2\.0\.extra\.weight"):
        with_weights("osnet_x0_25", tmp_path / "osnet.pth")


def test_a_state_dict_with_timms_names_fills_the_backbone(tmp_path):
    torch.manual_seed(1)
    state = timm.create_model(RESNET.removeprefix("timm:"), num_classes=7).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    backbone = with_weights(RESNET, tmp_path / "weights.pth", 2)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, state[key]), key
    del state[next(iter(state))]
    torch.save(state, tmp_path / "gap.pth")
    with pytest.raises(InputProblem, match=r"gap\.pth: .*1 tensors are missing"):
        with_weights(RESNET, tmp_path / "gap.pth", 2)


def test_the_weights_of_another_library_are_refused_by_the_word_to_set():
    with pytest.raises(InputProblem, match="set initial_weights to timm"):
        with_weights(RESNET, "torchvision", 2)
    with pytest.raises(InputProblem, match="timm:resnet18"):
        with_weights("resnet18", "timm", 2)
    with pytest.raises(InputProblem, match="timm has no weights for OSNet"):
        with_weights("osnet_x0_25", "timm", 1)


def test_a_download_that_fails_is_answered_with_the_remedy(monkeypatch, tmp_path):
    backbone = find_backbone(RESNET).build(2)

    def offline(*args, **settings):
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputProblem, match=r"no route.*torch\.save.*or to none"):
        load_backbone_weights(RESNET, backbone, "timm")


def timm_recipe(backbone, *settings):
    own = f'embedder={{backbone="{backbone}", last_stride=2, pooling="average"}}'
    small = ["sampling.identities=4", "sampling.images=2", "precision=float32"]
    return read_recipe("quick", [own, *small, *settings])


@pytest.mark.slow
def test_a_step_reaches_a_timm_backbone(tmp_path):
    run = prepare_run(timm_recipe(RESNET), draw_people(11, 2, 8, 2, 1).records, tmp_path)
    run.networks.train(True)
    batch = first_batch(run)
    TrainingStep(run).gradients(batch, seed=1, with_norms=True)
    for name, parameter in run.networks.embedder.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_weights_of_timm_are_stored_by_their_tag_and_licence():
    (source,), _ = weight_sources(timm_recipe(CONVNEXT, "initial_weights=timm"))
    assert source.name == "timm/convnext_tiny.in12k_ft_in1k"
    assert source.terms == "apache-2.0"
    assert not source.is_documented
    stated = timm_recipe(CONVNEXT, "initial_weights=timm", 'initial_weights_data=["ImageNet-21k"]')
    assert weight_sources(stated)[0][0].documented_data == ("ImageNet-21k",)


def test_a_run_from_timms_weights_can_be_identified_for_its_checkpoint():
    identity = run_identity(timm_recipe(CONVNEXT, "initial_weights=timm"), [])
    assert identity.files["initial_weights"] == "timm"


@pytest.mark.parametrize(
    ("word", "chosen"),
    [
        ("torchvision", "IMAGENET1K_V2"),
        ("torchvision:IMAGENET1K_V2", "IMAGENET1K_V2"),
        ("torchvision:IMAGENET1K_V1", "IMAGENET1K_V1"),
    ],
)
def test_torchvisions_weights_are_chosen_by_their_name(word, chosen, monkeypatch):
    state = torchvision.models.resnet50(weights=None).state_dict()
    asked = []

    def downloaded(weights, **_):
        asked.append(str(weights))
        return dict(state)

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", downloaded)
    built = with_weights("resnet50", word)
    assert asked == [f"ResNet50_Weights.{chosen}"]
    assert torch.equal(built.get_submodule("conv1").weight, state["conv1.weight"])
    with pytest.raises(InputProblem, match=r"torchvision:IMAGENET1K_V1 or torchvision:IMAGENET1K"):
        with_weights("resnet50", "torchvision:SWAG")
