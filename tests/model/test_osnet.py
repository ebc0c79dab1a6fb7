"""OSNet's forms, and torchreid's weights under their names."""

from pathlib import Path

import pytest
import torch

from model.architecture import EmbedderConfig, HeadConfig
from model.backbones import BACKBONES, find_backbone
from model.embedder import Embedder
from model.problems import InputProblem


@pytest.fixture
def registry():
    before = dict(BACKBONES)
    yield
    BACKBONES.clear()
    BACKBONES.update(before)


def test_osnet_has_the_papers_size():
    # Table 1 of the paper: 2.2 million parameters, with a 512-d head.
    config = EmbedderConfig(
        backbone="osnet_x1_0", pooling="average", head=HeadConfig(layers="fc-bn-relu")
    )
    assert sum(p.numel() for p in Embedder(config).parameters()) == pytest.approx(2.2e6, rel=0.02)


def test_a_backbone_from_outside_is_embedded_like_any_other(registry):
    page = (Path(__file__).parents[2] / "docs/backbones.md").read_text(encoding="utf-8")
    example = page.partition("## Backbones")[2].partition("```python\n")[2].partition("```")[0]
    names = {}
    exec(example, names)
    names["add"]()
    features = Embedder(EmbedderConfig(backbone="mine")).eval()(torch.rand(2, 3, 64, 32))
    assert features.shape == (2, 64)


def test_an_unknown_backbone_is_answered_with_the_nearest_name():
    with pytest.raises(InputProblem, match="did you mean osnet_x1_0"):
        find_backbone("osnet_x1_O")


def test_a_last_stride_that_a_backbone_has_not_is_refused():
    with pytest.raises(ValueError, match="last_stride"):
        EmbedderConfig(backbone="osnet_x0_25", last_stride=2)


def test_depthwise_pooling_begins_as_the_mean():
    config = EmbedderConfig(backbone="osnet_x0_25", pooling="depthwise", map_size=(4, 2))
    torch.manual_seed(0)
    embedder = Embedder(config).eval()
    maps = torch.rand(2, 128, 4, 2)
    assert torch.allclose(embedder.pooling(maps), maps.mean((2, 3)), atol=1e-6)
