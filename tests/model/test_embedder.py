"""Embedders over the registered backbones."""

from pathlib import Path

import pytest
import torch
import torchvision

from model.backbones import BACKBONES, build_backbone
from model.embedder import Embedder, EmbedderConfig, GeneralizedMeanPooling
from model.problems import InputProblem


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_gives_features_of_its_size(name: str) -> None:
    config = EmbedderConfig(backbone=name)
    features = Embedder(config).eval()(torch.rand(2, 3, 64, 32))
    assert features.shape == (2, config.dimension)


@pytest.mark.parametrize(
    "name", sorted(n for n in BACKBONES if BACKBONES[n].last_strides == (1, 2))
)
def test_last_stride_one_doubles_the_last_map(name: str) -> None:
    crops = torch.rand(1, 3, 64, 32)
    assert build_backbone(name, last_stride=2)(crops).shape[2:] == (2, 1)
    assert build_backbone(name, last_stride=1)(crops).shape[2:] == (4, 2)


def test_gem_with_exponent_one_is_the_average() -> None:
    maps = torch.rand(2, 5, 4, 3)
    pooled = GeneralizedMeanPooling(exponent=1.0)(maps)
    assert torch.allclose(pooled, maps.mean(dim=(2, 3)), atol=1e-5)


def test_gem_with_a_large_exponent_nears_the_maximum() -> None:
    maps = torch.rand(2, 5, 4, 3)
    pooled = GeneralizedMeanPooling(exponent=200.0)(maps)
    assert torch.allclose(pooled, maps.amax(dim=(2, 3)), rtol=0.03)


def test_a_crop_alone_has_the_feature_it_has_among_others() -> None:
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig(backbone="mobilenet_v2")).eval()
    crops = torch.rand(7, 3, 64, 32)
    with torch.inference_mode():
        together = embedder(crops)
        alone = torch.cat([embedder(crop[None]) for crop in crops])
    assert torch.allclose(together, alone, atol=1e-4)


def test_the_neck_has_no_trainable_shift() -> None:
    neck = Embedder(EmbedderConfig(backbone="resnet18")).neck
    assert not neck.bias.requires_grad


def test_weights_without_the_last_stage_are_taken(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    early = {key: state[key] for key in state if not key.startswith(("layer4.", "fc."))}
    path = tmp_path / "early.pth"
    torch.save(early, path)
    built = build_backbone("resnet18", initial_weights=str(path))
    assert torch.equal(built.get_submodule("conv1").weight, state["conv1.weight"])


def test_weights_of_another_architecture_are_refused_by_tensor(tmp_path: Path) -> None:
    path = tmp_path / "resnet.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    with pytest.raises(InputProblem, match=r"resnet\.pth: does not fit this backbone.*unknown"):
        build_backbone("mobilenet_v2", initial_weights=str(path))


def test_weights_that_lack_a_tensor_are_refused_by_name(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    del state["layer2.0.conv1.weight"], state["layer1.0.bn1.bias"]
    path = tmp_path / "gap.pth"
    torch.save(state, path)
    with pytest.raises(InputProblem, match=r"missing: layer1\.0\.bn1\.bias, layer2\.0\.conv1"):
        build_backbone("resnet18", initial_weights=str(path))


def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.pth"
    path.write_text("not weights")
    with pytest.raises(InputProblem, match=r"note\.pth: not a PyTorch state dict"):
        build_backbone("resnet18", initial_weights=str(path))


def test_absent_weights_are_refused_with_the_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(InputProblem, match="initial_weights"):
        build_backbone("resnet18", initial_weights=str(tmp_path / "absent.pth"))
