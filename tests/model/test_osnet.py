"""OSNet's forms, and torchreid's weights under their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.backbones import (
    BACKBONES,
    build_backbone,
    find_backbone,
)
from model.embedder import Embedder, EmbedderConfig, HeadConfig
from model.osnet import build_osnet, osnet_forms, torchreid_tensors
from model.problems import InputProblem


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


@pytest.fixture
def registry() -> Iterator[None]:
    before = dict(BACKBONES)
    yield
    BACKBONES.clear()
    BACKBONES.update(before)


def test_osnet_has_the_papers_size() -> None:
    # Table 1 of the paper: 2.2 million parameters, with a 512-d head.
    config = EmbedderConfig(
        backbone="osnet_x1_0", pooling="average", head=HeadConfig(layers="fc-bn-relu")
    )
    assert sum(p.numel() for p in Embedder(config).parameters()) == pytest.approx(2.2e6, rel=0.02)


@pytest.mark.parametrize("name", ["osnet_x0_25", "osnet_ibn_x1_0"])
def test_a_torchreid_state_dict_fills_the_form_it_is_of(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_osnet(osnet_forms()[name])
    state = {torchreid_name(key, False): value for key, value in network.state_dict().items()}
    state |= {"classifier.weight": torch.zeros(7, 512), "classifier.bias": torch.zeros(7)}
    state |= {"fc.0.weight": torch.zeros(512, 128), "fc.0.bias": torch.zeros(512)}
    torch.save(state, tmp_path / "osnet.pth")
    filled = build_backbone(name, initial_weights=str(tmp_path / "osnet.pth"))
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
        build_backbone("osnet_x0_5", initial_weights=str(tmp_path / "osnet.pth"))


def test_a_tensor_that_osnet_has_not_is_named(tmp_path: Path) -> None:
    network = build_osnet(osnet_forms()["osnet_x0_25"])
    state = {torchreid_name(key, False): value for key, value in network.state_dict().items()}
    torch.save(state | {"conv2.0.extra.weight": torch.zeros(3)}, tmp_path / "osnet.pth")
    with pytest.raises(InputProblem, match=r"unknown: conv2\.0\.extra\.weight"):
        build_backbone("osnet_x0_25", initial_weights=str(tmp_path / "osnet.pth"))


def test_a_backbone_from_outside_is_embedded_like_any_other(registry: None) -> None:
    page = (Path(__file__).parents[2] / "docs/training.md").read_text(encoding="utf-8")
    example = page.partition("## Backbones")[2].partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(example, names)
    names["add"]()
    features = Embedder(EmbedderConfig(backbone="mine")).eval()(torch.rand(2, 3, 64, 32))
    assert features.shape == (2, 64)


def test_an_unknown_backbone_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(InputProblem, match="did you mean osnet_x1_0"):
        find_backbone("osnet_x1_O")


def test_a_last_stride_that_a_backbone_has_not_is_refused() -> None:
    with pytest.raises(ValueError, match="last_stride"):
        EmbedderConfig(backbone="osnet_x0_25", last_stride=2)


def test_depthwise_pooling_begins_as_the_mean() -> None:
    config = EmbedderConfig(backbone="osnet_x0_25", pooling="depthwise", map_size=(4, 2))
    torch.manual_seed(0)
    embedder = Embedder(config).eval()
    maps = torch.rand(2, 128, 4, 2)
    assert torch.allclose(embedder.pooling(maps), maps.mean((2, 3)), atol=1e-6)
