"""MixStyle (Zhou et al., ICLR 2021) as a plug-in: a backbone that mixes the styles of crops."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn

from training.plugins import BackboneKind, find_backbone, register_backbone


class MixStyle(nn.Module):
    """Gives each map a mean and a deviation mixed with those of another crop's; off in evaluation.

    In half of the batches, as its authors do; λ is drawn from Beta(0.1, 0.1).
    """

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if not self.training or torch.rand(()) < 0.5:
            return maps
        mean = maps.mean(dim=(2, 3), keepdim=True).detach()
        deviation = (maps.var(dim=(2, 3), keepdim=True) + 1e-6).sqrt().detach()
        shape = torch.tensor(0.1)
        share = torch.distributions.Beta(shape, shape).sample((len(maps), 1, 1, 1)).to(maps)
        order = torch.randperm(len(maps)).to(maps.device)
        mixed_mean = share * mean + (1 - share) * mean[order]
        mixed_deviation = share * deviation + (1 - share) * deviation[order]
        return (maps - mean) / deviation * mixed_deviation + mixed_mean


def resnet18_mixstyle(last_stride: int) -> nn.Sequential:
    """ResNet-18 with MixStyle after its first two stages."""
    parts: list[tuple[str, nn.Module]] = []
    for name, module in resnet18.build(last_stride).named_children():
        parts.append((name, module))
        if name in ("layer1", "layer2"):
            parts.append((f"mix_{name}", MixStyle()))
    return nn.Sequential(OrderedDict(parts))


resnet18 = find_backbone("resnet18")
ends = ("mix_layer1", "mix_layer2", "layer3", "layer4")
register_backbone(
    "resnet18_mixstyle", BackboneKind(resnet18_mixstyle, resnet18.stage_channels, ends)
)
