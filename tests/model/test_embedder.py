"""Embedders over the registered backbones."""

import pytest
import torch

from model.architecture import EmbedderConfig
from model.backbones import BACKBONES
from model.embedder import Embedder, GeneralizedMeanPooling


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_every_backbone_has_a_last_map_of_its_stride_and_features_of_its_size(name):
    kind = BACKBONES[name]
    for stride in kind.last_strides:
        config = EmbedderConfig(backbone=name, last_stride=stride)
        features, (maps,) = Embedder(config).eval().before_neck(torch.rand(2, 3, 64, 32), (4,))
        assert features.shape == (2, config.dimension)
        assert maps.shape[1:] == (kind.stage_channels[3], 4 // stride, 2 // stride)


def pool_by(exponent, maps):
    pooling = GeneralizedMeanPooling()
    pooling.exponent.data.fill_(exponent)
    return pooling(maps)


def test_gem_with_exponent_one_is_the_average():
    maps = torch.rand(2, 5, 4, 3)
    pooled = pool_by(1.0, maps)
    assert torch.allclose(pooled, maps.mean(dim=(2, 3)), atol=1e-5)


def test_gem_with_a_large_exponent_nears_the_maximum():
    # In some random maps every value is below 0.6, whose power is 0 in float32.
    torch.manual_seed(0)
    maps = torch.rand(2, 5, 4, 3)
    pooled = pool_by(200.0, maps)
    assert torch.allclose(pooled, maps.amax(dim=(2, 3)), rtol=0.03)


def test_a_crop_alone_has_the_feature_it_has_among_others():
    torch.manual_seed(0)
    embedder = Embedder(EmbedderConfig(backbone="mobilenet_v2")).eval()
    crops = torch.rand(7, 3, 64, 32)
    with torch.inference_mode():
        together = embedder(crops)
        alone = torch.cat([embedder(crop[None]) for crop in crops])
    assert torch.allclose(together, alone, atol=1e-4)


def test_the_neck_has_no_trainable_shift():
    neck = Embedder(EmbedderConfig(backbone="resnet18")).neck
    assert not neck.bias.requires_grad
