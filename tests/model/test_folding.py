"""BatchNorm folded into convolutions: nothing but the time it takes changes."""

import pytest
import torch
from torch import nn

from model.architecture import EmbedderConfig
from model.embedder import Embedder
from model.preprocessing import Preprocessing
from model.torch_runtime import folded

SIZE = Preprocessing(height=64, width=32)
EMBEDDERS = {
    "mobilenet": {"backbone": "mobilenet_v2"},
    "resnet": {"backbone": "resnet50"},
    "multiscale": {"backbone": "mobilenet_v2", "pooling": "average", "multiscale": {}},
    # The BatchNorms of timm contain their activation.
    "timm": {"backbone": "timm:resnet10t", "last_stride": 2, "pooling": "average"},
}


def _norms(network):
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def _with_statistics(network):
    """As after training: no BatchNorm is the identity any more."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.running_var, module.weight.data):
                values.uniform_(0.5, 1.5, generator=generator)
            for values in (module.running_mean, module.bias.data):
                values.uniform_(-0.2, 0.2, generator=generator)
    return network.eval()


@pytest.mark.parametrize("name", EMBEDDERS)
def test_a_folded_embedder_gives_the_same_features_without_a_batch_norm(name):
    torch.manual_seed(0)
    embedder = _with_statistics(Embedder(EmbedderConfig.model_validate(EMBEDDERS[name])))
    crops = torch.randn(4, 3, 64, 32)
    before = {name: value.clone() for name, value in embedder.state_dict().items()}
    shorter = folded(embedder, SIZE)
    with torch.no_grad():
        expected = embedder(crops)
        found = shorter(crops)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
    assert _norms(shorter) == 0
    assert _norms(embedder) > 0
    for name, value in embedder.state_dict().items():
        assert torch.equal(value, before[name]), name


class Shared(nn.Module):
    """A convolution whose output is read beside its BatchNorm."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, images):
        maps = self.convolution(images)
        return self.norm(maps) + maps


class Bare(nn.Module):
    """No BatchNorm follows a convolution."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.convolution = nn.Conv2d(3, 4, 1)

    def forward(self, images):
        return self.convolution(self.norm(images))


@pytest.mark.parametrize("kind", [Shared, Bare])
def test_a_network_that_cannot_be_folded_gives_the_same_maps(kind):
    torch.manual_seed(0)
    network = _with_statistics(kind())
    crops = torch.randn(4, 3, 64, 32)
    with torch.no_grad():
        assert torch.equal(folded(network, SIZE)(crops), network(crops))
