"""The embedder in PyTorch, on any device, with BatchNorm folded into the convolutions before it.

Evaluated, BN(Wx) = γ(Wx − μ)/σ + β is itself a convolution, with weights γW/σ. Feature maps are
then written once instead of twice.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.arrays import Floats, Pixels
from model.artefact import Artefact
from model.embedder import Embedder
from model.precision import DtypeName, RuntimeName
from model.preprocessing import Preprocessing

Network = TypeVar("Network", bound=nn.Module)
# Relative to the largest output. Folding moves the last digits, about 1e-6.
TOLERANCE = 1e-4


@torch.no_grad()
def folded(network: Network, size: Preprocessing) -> Network:
    """Copy a network with the same outputs and fewer steps; return itself if there is no such copy.

    A random crop shows which BatchNorm follows which convolution, and compares the two networks.
    The network is in evaluation mode, on any device.
    """
    random = torch.Generator().manual_seed(0)
    example = torch.randn(1, 3, size.height, size.width, generator=random)
    example = example.to(next(network.parameters()).device)
    pairs = _pairs(network, example)
    if not pairs:
        return network
    shorter = copy.deepcopy(network)
    for convolution, norm in pairs.items():
        batch_norm: Any = shorter.get_submodule(norm)
        fused: Any = shorter.get_submodule(convolution)
        shorter.set_submodule(convolution, fuse_conv_bn_eval(fused, batch_norm))
        # timm's BatchNorms have an activation of their own.
        activation = getattr(batch_norm, "act", None)
        if not isinstance(activation, nn.Module):
            activation = nn.Identity()
        shorter.set_submodule(norm, activation)
    before = network(example)
    difference = (shorter(example) - before).abs().max()
    # They differ if another module reads the convolution's output, too.
    if difference <= TOLERANCE * before.abs().max():
        return shorter
    return network


def _pairs(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Pair each convolution with the BatchNorm that reads its output, by their names."""
    names = {module: name for name, module in network.named_modules()}
    # The outputs are kept: a later tensor could have the place of one in memory.
    outputs: list[tuple[Tensor, nn.Module]] = []
    pairs: dict[str, str] = {}

    def keep(
        module: nn.Module,
        _: Any,
        output: Tensor,
    ) -> None:
        outputs.append((output, module))

    def look(module: nn.Module, inputs: tuple[Tensor]) -> None:
        for output, convolution in outputs:
            if output is inputs[0]:
                pairs[names[convolution]] = names[module]

    hooks = []
    for module in names:
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(keep))
        elif isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(look))
    try:
        network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return pairs


class TorchRuntime:
    """The embedder in PyTorch, one forward pass a batch, with BatchNorm folded."""

    name: RuntimeName = "torch"

    def __init__(
        self,
        artefact: Artefact,
        dtype: DtypeName,
        device: str = "cpu",
    ) -> None:
        """Copy the embedder to a device, such as `cuda:0`; the artefact's own is not changed."""
        self.dtype = dtype
        self.device = device
        self._preprocessing = artefact.description.preprocessing
        embedder: Embedder = folded(artefact.embedder.requires_grad_(False), self._preprocessing)
        self._embedder = embedder.to(device)
        # The faster layout on a processor; mypy's view of Module.to does not know the argument.
        self._embedder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def embed(self, crops: Pixels) -> Floats:
        """Return features `(B, d)` float32 of resized crops `(B, height, width, 3)` uint8 RGB."""
        if not len(crops):
            # Instance normalisation takes no empty batch.
            return np.empty((0, self._embedder.config.dimension), np.float32)
        batch = self._preprocessing.normalise(torch.from_numpy(crops).to(self.device))
        with torch.autocast(
            batch.device.type,
            dtype=torch.bfloat16,
            enabled=self.dtype == "bfloat16",
        ):
            features = self._embedder(batch)
        return features.float().cpu().numpy()
