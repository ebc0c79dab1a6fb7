"""MSFL: which maps are fused, what informs what, and what an artefact keeps of it."""

import pytest
import torch
from pydantic import ValidationError

from model.architecture import EmbedderConfig, HeadConfig, MultiscaleConfig
from model.artefact import (
    load_artefact,
)
from model.backbones import BACKBONES
from model.embedder import Embedder
from model.metric_network import MetricNetwork
from model.multiscale import CSIP, MSFL
from model.weights import round_as_stored
from training.evaluation.files import save_artefact

WIDTHS = (4, 8, 12, 16)


def stage_outputs(*sizes):
    sizes = sizes or ((16, 8), (8, 4), (4, 2), (2, 1))
    return [torch.rand(2, width, *size) for width, size in zip(WIDTHS, sizes, strict=True)]


def msfl(backbone="resnet18", last_stride=2, **multiscale):
    return EmbedderConfig(
        backbone=backbone,
        last_stride=last_stride,
        pooling="average",
        multiscale=MultiscaleConfig(**{"channels": 16, **multiscale}),
        head=HeadConfig(dimension=24),
    )


@pytest.mark.parametrize(
    ("row", "settings", "width"),
    [
        ("b", {"stages": (3, 4), "csip": False, "msff": False}, 12 + 16),
        ("c", {"csip": False, "msff": False}, 4 + 8 + 12 + 16),
        ("d", {"lateral": False, "msff": False}, 4 * 8),
        ("e", {"msff": False}, 4 * 8),
        ("f", {}, 4 * 8),
    ],
)
def test_every_row_of_the_ablation_fuses_the_maps_it_names(row, settings, width):
    fusion = MSFL(WIDTHS, MultiscaleConfig(channels=8, **settings))
    assert fusion(stage_outputs()).shape == (2, width)


def test_fusion_stacks_three_two_one_and_no_blocks_from_shallow_to_deep():
    fusion = MSFL(WIDTHS, MultiscaleConfig(channels=8))
    assert [len(blocks) for blocks in fusion.msff] == [3, 2, 1, 0]
    block = fusion.msff[0][0]
    assert [c.out_channels for c in (block.conv1, block.conv2, block.conv3)] == [2, 2, 8]


def test_the_deepest_map_informs_every_scale_and_the_shallowest_only_its_own():
    csip = CSIP(WIDTHS, 8, "1x1", lateral=True)
    maps = stage_outputs()
    before = csip(maps)
    changed_by = {}
    for place in (0, 3):
        moved = [scale + (at == place) for at, scale in enumerate(maps)]
        changed_by[place] = [
            not torch.equal(a, b) for a, b in zip(before, csip(moved), strict=True)
        ]
    assert changed_by == {0: [True, False, False, False], 3: [True, True, True, True]}


def test_without_laterals_the_shallow_maps_are_not_read():
    csip = CSIP(WIDTHS, 8, "1x1", lateral=False)
    maps = stage_outputs()
    others = [*(torch.rand_like(scale) for scale in maps[:-1]), maps[-1]]
    for first, second in zip(csip(maps), csip(others), strict=True):
        assert torch.equal(first, second)


def test_a_map_is_its_lateral_plus_the_convolution_of_the_deeper_one_upsampled():
    csip = CSIP(WIDTHS[2:], 8, "1x1", lateral=True)
    shallow, deep = stage_outputs()[2:]
    fine, coarse = csip([shallow, deep])
    doubled = coarse.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    expected = csip.laterals[0](shallow) + csip.top_down[0](doubled)
    assert torch.allclose(fine, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["1x1", "depthwise", "3x3"])
def test_every_top_down_convolution_keeps_the_maps_sizes(kind):
    maps = stage_outputs((17, 9), (9, 5), (5, 3), (5, 3))
    pyramid = CSIP(WIDTHS, 8, kind, lateral=True)(maps)
    assert [scale.shape[1:] for scale in pyramid] == [(8, *scale.shape[2:]) for scale in maps]


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_carries_multiscale_features(name):
    stride = BACKBONES[name].last_strides[-1]
    embedder = Embedder(msfl(name, stride)).eval()
    features, stages = embedder.before_neck(torch.rand(2, 3, 64, 32), (1, 2, 3, 4))
    assert features.shape == (2, embedder.config.dimension) == (2, 24)
    last = 4 // stride
    assert [tuple(maps.shape[2:]) for maps in stages] == [
        (16, 8),
        (8, 4),
        (4, 2),
        (last, last // 2),
    ]
    assert tuple(m.shape[1] for m in stages) == BACKBONES[name].stage_channels


def test_both_losses_read_the_embedding_and_it_has_no_negative_entry():
    embedder = Embedder(msfl())
    features, _ = embedder.before_neck(torch.rand(3, 3, 32, 32))
    assert embedder.after_neck(features) is features
    assert features.min() >= 0


def test_a_neck_may_follow_the_head():
    config = msfl().model_copy(update={"head": HeadConfig(dimension=24, neck=True)})
    embedder = Embedder(config)
    features, _ = embedder.before_neck(torch.rand(3, 3, 32, 32))
    assert not torch.equal(embedder.after_neck(features), features)


@pytest.mark.parametrize("stages", [(0, 1), (2, 1), (1, 1), (5,), ()])
def test_stages_that_are_none_are_refused(stages):
    with pytest.raises(ValidationError, match="stages"):
        MultiscaleConfig(stages=stages)


def test_gem_over_maps_with_negative_values_is_refused_with_the_setting_to_change():
    with pytest.raises(ValidationError, match=r"set embedder\.pooling=average"):
        EmbedderConfig(multiscale=MultiscaleConfig())


def test_an_embedder_without_the_parts_describes_itself_as_it_always_did():
    assert EmbedderConfig().model_dump() == {
        "backbone": "resnet50",
        "last_stride": 1,
        "pooling": "gem",
    }


def test_a_multiscale_artefact_is_read_back_whole(tiny_artefact, tmp_path):
    before = load_artefact(tiny_artefact)
    embedder = Embedder(msfl("mobilenet_v2")).eval()
    described = before.description.model_copy(update={"embedder": embedder.config})
    metric_network = MetricNetwork(24, described.metric_network)
    path = tmp_path / "msfl.safetensors"
    round_as_stored(embedder)
    save_artefact(path, described, embedder, metric_network)
    loaded = load_artefact(path)
    crops = torch.rand(2, 3, 64, 32)
    assert loaded.description.embedder == embedder.config
    assert torch.equal(loaded.embedder(crops), embedder(crops))
