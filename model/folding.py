"""BatchNorm folded into the convolutions before it, for networks whose training is over.

Evaluated, BN(Wx) = γ(Wx − μ)/σ + β is itself a convolution, with weights γW/σ. Feature maps are
then written once instead of twice.
"""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
    after = shorter(example)
    # They differ if another module reads the convolution's output, too.
    same = bool((after - before).abs().max() <= TOLERANCE * before.abs().max())
    return shorter if same else network


def _pairs(network: nn.Module, example: Tensor) -> dict[str, str]:
    """Pair each convolution with the BatchNorm that reads its output, by their names."""
    names = {module: name for name, module in network.named_modules()}
    # The outputs are kept: a later tensor could have the place of one in memory.
    outputs: list[tuple[Tensor, nn.Module]] = []
    pairs: dict[str, str] = {}

    def keep(module: nn.Module, _: Any, output: Tensor) -> None:
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
