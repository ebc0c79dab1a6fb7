"""L_cls, identity classification, and L_tri, the batch-hard triplet loss (Hermans et al., 2017)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from training.losses.base import Features, LossSettings, register_loss


class IdentitySettings(LossSettings):
    """Settings of L_cls: the share of each label that is spread over all people."""

    label_smoothing: float = Field(0.1, ge=0, lt=1)


class PeopleClassifier(nn.Module):
    """Base class of losses with a linear classifier of the training people.

    Attributes:
        deviation: the standard deviation of the initial weights.
    """

    deviation: ClassVar[float]

    def __init__(
        self,
        settings: Any,
        dimension: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.classifier = nn.Linear(dimension, classes, bias=False)
        nn.init.normal_(self.classifier.weight, std=self.deviation)


@register_loss("identity", IdentitySettings)
class IdentityLoss(PeopleClassifier):
    """L_cls: the cross-entropy of a linear classifier of people; a scalar."""

    deviation = 0.001

    def forward(self, features: Features) -> Tensor:
        logits = self.classifier(features.after_neck).float()
        smoothing = self.settings.label_smoothing
        return functional.cross_entropy(logits, features.labels, label_smoothing=smoothing)


class CosFaceSettings(LossSettings):
    """Settings of CosFace.

    Attributes:
        scale: the factor on all cosines.
        margin: the number subtracted from the cosine of the true class.
    """

    scale: float = Field(30.0, gt=0)
    margin: float = Field(0.3, ge=0, lt=1)


@register_loss("cosface", CosFaceSettings)
class CosFace(PeopleClassifier):
    """CosFace: cross-entropy of scale · (cosine − margin of the true class) (CVPR 2018)."""

    # The length of a weight does not matter to its cosine, but with a smaller one the first steps
    # of Adam would turn its direction round.
    deviation = 0.01

    def forward(self, features: Features) -> Tensor:
        units = functional.normalize(features.after_neck.float())
        cosines = units @ functional.normalize(self.classifier.weight.float()).T
        labels = features.labels
        margins = torch.zeros_like(cosines).scatter(1, labels[:, None], self.settings.margin)
        return functional.cross_entropy(self.settings.scale * (cosines - margins), labels)


class TripletSettings(LossSettings):
    """Settings of L_tri.

    Attributes:
        margin: the margin, in units of the distance.
        distance: the distance of two features: `euclidean`, or `cosine` for 1 − cosine.
    """

    margin: float = Field(0.3, ge=0)
    distance: Literal["euclidean", "cosine"] = "euclidean"


@register_loss("triplet", TripletSettings)
def triplet_loss(settings: TripletSettings, features: Features) -> Tensor:
    """Compute L_tri: mean over anchors of max(0, farthest positive − nearest negative + margin).

    It is computed from features before the BNNeck. An anchor without a positive or without a
    negative counts as 0. A scalar.
    """
    labels = features.labels
    if settings.distance == "cosine":
        units = functional.normalize(features.before_neck.float())
        distances = 1.0 - units @ units.T
    else:
        before_neck = features.before_neck.float()
        squares = before_neck.square().sum(dim=1)
        squared = squares[:, None] + squares[None, :] - 2.0 * before_neck @ before_neck.T
        # Every feature has distance 0 from itself, where the root has no gradient.
        distances = squared.clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positives = same & ~itself
    negatives = ~same
    farthest = distances.masked_fill(~positives, -torch.inf).amax(dim=1)
    nearest = distances.masked_fill(~negatives, torch.inf).amin(dim=1)
    usable = positives.any(dim=1) & negatives.any(dim=1)
    farthest = torch.where(usable, farthest, 0.0)
    nearest = torch.where(usable, nearest, 0.0)
    violations = functional.relu(farthest - nearest + settings.margin)
    return torch.where(usable, violations, 0.0).mean()
