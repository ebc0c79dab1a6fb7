"""The embedder in PyTorch, on any device, with BatchNorm folded into the convolutions before it.

In evaluation mode BN(Wx) = γ(Wx − μ)/σ + β is itself a convolution, with weights γW/σ. Folded,
feature maps are written once instead of twice.
"""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import TypeVar

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.arrays import Floats, Pixels
from model.artefact import Artefact
from model.embedder import Embedder
from model.precision import DtypeName, RuntimeName
from model.preprocessing import Preprocessing

Network = TypeVar("Network", bound=nn.Module)
# Outputs may differ by this share of the largest one; folding moves them by about 1e-6.
TOLERANCE = 1e-4


@torch.no_grad()
def folded(network: Network, size: Preprocessing) -> Network:
    """Copy a network with the same outputs and each BatchNorm folded into its convolution.

    Args:
        network: a network in evaluation mode, on any device.
        size: size of the random crop by which the outputs are compared.

    Returns:
        A plain copy if the outputs differ, for example since two modules read those of a
        convolution.
    """
    shorter = copy.deepcopy(network)
    for (name, convolution), (norm_name, norm) in pairwise(list(shorter.named_modules())):
        if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            shorter.set_submodule(name, fuse_conv_bn_eval(convolution, norm))
            # timm's BatchNorms have an activation of their own.
            shorter.set_submodule(norm_name, getattr(norm, "act", nn.Identity()))
    random = torch.Generator().manual_seed(0)
    crop = torch.randn(1, 3, size.height, size.width, generator=random)
    crop = crop.to(next(network.parameters()).device)
    expected = network(crop)
    difference = (shorter(crop) - expected).abs().max()
    is_close = difference <= TOLERANCE * expected.abs().max()
    return shorter if is_close else copy.deepcopy(network)


class TorchRuntime:
    """The embedder in PyTorch, with BatchNorm folded; a batch of crops is one forward pass."""

    name: RuntimeName = "torch"

    def __init__(
        self,
        artefact: Artefact,
        dtype: DtypeName,
        device: str = "cpu",
    ) -> None:
        """Copy the embedder of an artefact to a device, such as `cuda:0`."""
        self.dtype = dtype
        self.device = device
        self._preprocessing = artefact.description.preprocessing
        embedder: Embedder = folded(artefact.embedder.requires_grad_(False), self._preprocessing)
        self._embedder = embedder.to(device)
        # This layout is faster. The annotations of PyTorch do not know the argument.
        self._embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def embed(self, crops: Pixels) -> Floats:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB.

        There has to be a crop, since instance normalisation does not accept an empty batch.
        """
        batch = self._preprocessing.normalise(torch.from_numpy(crops).to(self.device))
        with torch.autocast(
            batch.device.type,
            dtype=torch.bfloat16,
            enabled=self.dtype == "bfloat16",
        ):
            features = self._embedder(batch)
        return features.float().cpu().numpy()
