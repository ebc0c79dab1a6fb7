"""Initial weights of backbones; nothing is downloaded."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from model.architecture import osnet_forms
from model.backbones import build_backbone
from model.osnet import build_osnet
from model.problems import InputProblem
from training.backbone_weights import load_backbone_weights, torchreid_tensors

RESNET = "timm:resnet10t"
VIT = "timm:vit_tiny_patch16_224"


def with_weights(name: str, initial_weights: object, last_stride: int = 1) -> nn.Module:
    backbone = build_backbone(name, last_stride)
    load_backbone_weights(name, backbone, str(initial_weights))
    return backbone


def test_weights_without_the_last_stage_are_taken(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    early = {key: state[key] for key in state if not key.startswith(("layer4.", "fc."))}
    path = tmp_path / "early.pth"
    torch.save(early, path)
    built = with_weights("resnet18", path)
    assert torch.equal(built.get_submodule("conv1").weight, state["conv1.weight"])


def test_weights_of_another_architecture_are_refused_by_tensor(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(InputProblem, match=r"resnet\.pth: does not fit this backbone.*unknown"):
        with_weights("mobilenet_v2", path)


def test_weights_that_lack_a_tensor_are_refused_by_name(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    del state["layer2.0.conv1.weight"], state["layer1.0.bn1.bias"]
    path = tmp_path / "gap.pth"
    torch.save(state, path)
    with pytest.raises(InputProblem, match=r"missing: layer1\.0\.bn1\.bias, layer2\.0\.conv1"):
        with_weights("resnet18", path)


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.pth"
    path.write_text("not weights")
    with pytest.raises(InputProblem, match=r"note\.pth: not a PyTorch state dict"):
        with_weights("resnet18", path)


def test_absent_weights_are_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(InputProblem, match="initial_weights"):
        with_weights("resnet18", tmp_path / "absent.pth")


def torchreid_name(name: str, separate: bool) -> str:
    """torchreid's name of a tensor of ours; OSNet-AIN has another module for the streams."""
    name = re.sub(r"^pool([23])\.", r"pool\1." if separate else r"conv\1.2.", name)
    name = name.replace(".reduce.", ".conv1.").replace(".shortcut.", ".downsample.")
    name = re.sub(r"\.expand\.norm\.", ".IN." if separate else ".conv3.norm.", name)
    name = name.replace(".expand.", ".conv3.").replace(".sum_norm.", ".IN.")
    stream = r"\.streams\.(\d)\.(\d)\."
    if separate:
        name = re.sub(stream, r".conv2.\1.layers.\2.", name)
    else:
        name = re.sub(r"\.streams\.0\.0\.", ".conv2a.", name)
        name = re.sub(stream, lambda m: f".conv2{'abcd'[int(m[1])]}.{m[2]}.", name)
    name = name.replace(".pointwise.", ".conv1.").replace(".depthwise.", ".conv2.")
    name = name.replace("gate.squeeze.", "gate.fc1.").replace("gate.excite.", "gate.fc2.")
    return name.replace(".norm.", ".bn.")


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ibn_x1_0"])
def test_a_torchreid_state_dict_fills_the_form_it_is_of(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_osnet(osnet_forms()[name])
    state = {torchreid_name(key, False): value for key, value in network.state_dict().items()}
    state |= {"classifier.weight": torch.zeros(7, 512), "classifier.bias": torch.zeros(7)}
    state |= {"fc.0.weight": torch.zeros(512, 128), "fc.0.bias": torch.zeros(512)}
    torch.save(state, tmp_path / "osnet.pth")
    filled = with_weights(name, tmp_path / "osnet.pth")
    crops = torch.rand(2, 3, 64, 32)
    assert torch.equal(filled.eval()(crops), network.eval()(crops))


def test_a_checkpoint_of_osnet_ain_is_recognised(tmp_path: Path) -> None:
    network = build_osnet(osnet_forms()["osnet_ain_x0_25"])
    # Where the residual has no instance normalisation its BatchNorm goes by another name.
    plain = {"conv3.0", "conv4.1"}
    state = {}
    for key, value in network.state_dict().items():
        name = torchreid_name(key, True)
        if ".IN." in name and key.rpartition(".expand")[0] in plain:
            name = name.replace(".IN.", ".conv3.bn.")
        state[f"module.{name}"] = value
    found, tensors = torchreid_tensors({"state_dict": state, "epoch": 3}, "osnet.pth.tar")
    assert found == "osnet_ain_x0_25"
    assert set(tensors) == set(network.state_dict())


def test_weights_of_another_width_are_refused_by_name(tmp_path: Path) -> None:
    network = build_osnet(osnet_forms()["osnet_x0_25"])
    state = {torchreid_name(key, False): value for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "osnet.pth")
    with pytest.raises(InputProblem, match="osnet_x0_25; set embedder"):
        with_weights("osnet_x0_5", tmp_path / "osnet.pth")


def test_a_tensor_that_osnet_has_not_is_named(tmp_path: Path) -> None:
    network = build_osnet(osnet_forms()["osnet_x0_25"])
    state = {torchreid_name(key, False): value for key, value in network.state_dict().items()}
    torch.save(state | {"conv2.0.extra.weight": torch.zeros(3)}, tmp_path / "osnet.pth")
    with pytest.raises(InputProblem, match=r"unknown: conv2\.0\.extra\.weight"):
        with_weights("osnet_x0_25", tmp_path / "osnet.pth")


@pytest.mark.parametrize("name", [RESNET, VIT])
def test_a_state_dict_with_timms_names_fills_the_backbone(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = timm.create_model(name.removeprefix("timm:"), num_classes=7).state_dict()
    torch.save(state, tmp_path / "weights.pth")
    backbone = with_weights(name, tmp_path / "weights.pth", 2)
    filled = backbone.state_dict()
    for key, value in filled.items():
        assert torch.equal(value, state[key.removeprefix("features.network.model.")]), key
    del state[next(iter(state))]
    torch.save(state, tmp_path / "gap.pth")
    with pytest.raises(InputProblem, match=r"gap\.pth: .*1 tensors are missing"):
        with_weights(name, tmp_path / "gap.pth", 2)


def test_the_weights_of_another_library_are_refused_by_the_word_to_set() -> None:
    with pytest.raises(InputProblem, match="set initial_weights to timm"):
        with_weights(RESNET, "torchvision", 2)
    with pytest.raises(InputProblem, match="timm:resnet18"):
        with_weights("resnet18", "timm", 2)
    with pytest.raises(InputProblem, match="timm has no weights for OSNet"):
        with_weights("osnet_x0_25", "timm", 1)


@pytest.mark.parametrize(
    ("word", "chosen"),
    [
        ("torchvision", "IMAGENET1K_V2"),
        ("torchvision:IMAGENET1K_V2", "IMAGENET1K_V2"),
        ("torchvision:IMAGENET1K_V1", "IMAGENET1K_V1"),
    ],
)
def test_torchvisions_weights_are_chosen_by_their_name(
    word: str, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = torchvision.models.resnet50(weights=None).state_dict()
    asked = []

    def downloaded(weights: object, **_: object) -> dict[str, torch.Tensor]:
        asked.append(str(weights))
        return dict(state)

    monkeypatch.setattr(torchvision.models.WeightsEnum, "get_state_dict", downloaded)
    built = with_weights("resnet50", word)
    assert asked == [f"ResNet50_Weights.{chosen}"]
    assert torch.equal(built.get_submodule("conv1").weight, state["conv1.weight"])
    with pytest.raises(InputProblem, match=r"torchvision:IMAGENET1K_V1 or torchvision:IMAGENET1K"):
        with_weights("resnet50", "torchvision:SWAG")


def test_a_download_that_fails_is_answered_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backbone = build_backbone(RESNET, 2)

    def offline(*args: object, **settings: object) -> nn.Module:
        raise OSError("no route")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputProblem, match=r"no route.*torch\.save.*or to none"):
        load_backbone_weights(RESNET, backbone, "timm")
