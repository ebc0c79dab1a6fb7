"""ArcFace (Deng et al., CVPR 2019) as a plug-in: an angular margin on the own class."""

import torch
from torch import nn
from torch.nn import functional

from training.plugins import Features, LossSettings, register_loss


class Settings(LossSettings):
    scale: float = 30.0
    margin: float = 0.5


@register_loss("arcface", Settings)
class ArcFace(nn.Module):
    def __init__(self, settings: Settings, dimension: int, classes: int) -> None:
        super().__init__()
        self.settings = settings
        self.directions = nn.Parameter(torch.empty(classes, dimension).normal_(std=0.01))

    def forward(self, features: Features) -> torch.Tensor:
        units = functional.normalize(features.after_neck)
        cosines = (units @ functional.normalize(self.directions).T).clamp(-1 + 1e-6, 1 - 1e-6)
        own = functional.one_hot(features.labels, len(self.directions))
        logits = self.settings.scale * (cosines.acos() + self.settings.margin * own).cos()
        return functional.cross_entropy(logits, features.labels)
