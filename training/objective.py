"""L = L_cls + L_tri + L_gmn + λ·L_pic, perhaps a teacher's lesson, and each term's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from model.backbones import split_stages
from model.embedder import Features
from model.metric_network import unit_features
from training.distributed import Processes
from training.initial_weights import StartingNetworks
from training.losses.distillation import (
    feature_distillation_loss,
    pair_distillation_loss,
    relation_distillation_loss,
)
from training.losses.generalizable_metric import generalizable_metric_loss
from training.losses.identity import identity_loss, margin_identity_loss
from training.losses.pair_identity_center import pair_identity_center_loss
from training.losses.triplet import triplet_loss
from training.recipe import Recipe
from training.settings import Distillation, Losses

INACTIVE_SHARE = 0.01


class TrainedNetworks(nn.Module):
    """What a run trains: embedder and M-Net, and what only training has.

    That is the identity classifier and, per teacher, a projection to its features.

    Attributes:
        frozen_stages: how many of the backbone's stages are not trained, from the first on; they
            stay in evaluation mode, so that their BatchNorm statistics stay, too.
        starts_learnt: whether the initial weights are of the whole embedder, not of its backbone.
    """

    def __init__(
        self,
        start: StartingNetworks,
        recipe: Recipe,
        identities: int,
        teacher_dimensions: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.embedder, self.metric_network = start.embedder, start.metric_network
        dimension = recipe.embedder.dimension
        self.classifier = nn.Linear(dimension, identities, bias=False)
        # Directions whose length is of no account should not turn round in a few of Adam's steps.
        spread = 0.01 if recipe.losses.identity_form == "margin" else 0.001
        nn.init.normal_(self.classifier.weight, std=spread)
        self.projections = nn.ModuleList(
            nn.Linear(dimension, size, bias=False) for size in teacher_dimensions
        )
        self.frozen_stages = recipe.optimisation.frozen_stages
        self.starts_learnt = start.is_whole
        for module in self._frozen():
            module.requires_grad_(False)

    def backbone_stages(self) -> list[list[nn.Module]]:
        """The modules of each of the backbone's stages; the first has the stem with it."""
        return split_stages(self.embedder.config.backbone, self.embedder.backbone)

    def train(self, mode: bool = True) -> TrainedNetworks:
        """Puts everything but the frozen stages into training mode."""
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        # Asked for anew: several processes replace a backbone's BatchNorms by their own.
        return [
            module for stage in self.backbone_stages()[: self.frozen_stages] for module in stage
        ]


@dataclass(frozen=True)
class Lesson:
    """What teachers make of a batch: each one's features of its crops, `(B, t)`, unit length."""

    teachers: Sequence[torch.Tensor]
    settings: Distillation


def loss_terms(
    networks: TrainedNetworks,
    features: Features,
    labels: torch.Tensor,
    settings: Losses,
    lesson: Lesson | None = None,
    anchor: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """The weighted terms that are switched on, by name.

    Args:
        networks: what is trained.
        features: of the batch.
        labels: `(B,)`.
        settings: which terms, and their weights.
        lesson: adds `distilled_feature`, `distilled_relation` and `distilled_pair`.
        anchor: what the initial weights make of the batch's crops, `(B, d)`; adds `anchor`.

    Returns:
        Of `identity`, `triplet`, `gmn` and `pic` those that are on, and those that were added.
    """
    terms: dict[str, torch.Tensor] = {}
    pair_logits = None
    if settings.identity:
        terms["identity"] = settings.identity * _identity_loss(
            networks.classifier, features.after_neck, labels, settings
        )
    if settings.triplet:
        terms["triplet"] = settings.triplet * triplet_loss(
            features.before_neck, labels, settings.margin, settings.triplet_form
        )
    if settings.gmn or settings.pic:
        first, second = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
        units = unit_features(features.after_neck)
        # index_select adds gradients up in a fixed order; indexing by [] does not.
        pairs = networks.metric_network.pair_features(
            units.index_select(0, first), units.index_select(0, second)
        )
        if settings.gmn:
            pair_logits = networks.metric_network(pairs)
            terms["gmn"] = settings.gmn * generalizable_metric_loss(
                pair_logits, labels[first] == labels[second]
            )
        if settings.pic:
            terms["pic"] = settings.pic * pair_identity_center_loss(
                pairs, labels[first], labels[second]
            )
    if anchor is not None:
        terms["anchor"] = settings.anchor * feature_distillation_loss(features.after_neck, anchor)
    if lesson is not None and lesson.teachers:
        terms |= _lesson_terms(networks, features.after_neck, pair_logits, lesson)
    return terms


def _identity_loss(
    classifier: nn.Linear, features: torch.Tensor, labels: torch.Tensor, settings: Losses
) -> torch.Tensor:
    if settings.identity_form == "margin":
        margin, scale = settings.identity_margin, settings.identity_scale
        return margin_identity_loss(features, classifier.weight, labels, margin, scale)
    return identity_loss(classifier(features), labels, settings.label_smoothing)


def _lesson_terms(
    networks: TrainedNetworks,
    features: torch.Tensor,
    pair_logits: torch.Tensor | None,
    lesson: Lesson,
) -> dict[str, torch.Tensor]:
    """The weighted terms of a student, by name: `distilled_feature`, `…_relation`, `…_pair`."""
    terms: dict[str, torch.Tensor] = {}
    settings = lesson.settings
    # Unit features side by side: a cosine of them is the mean of the teachers' cosines.
    together = torch.cat(list(lesson.teachers), dim=1)
    if settings.feature:
        lessons = [
            feature_distillation_loss(project(features), teacher)
            for project, teacher in zip(networks.projections, lesson.teachers, strict=True)
        ]
        terms["distilled_feature"] = settings.feature * torch.stack(lessons).mean()
    if settings.relation:
        terms["distilled_relation"] = settings.relation * relation_distillation_loss(
            features, together, settings.temperature
        )
    if settings.pair and pair_logits is not None:
        scores = pair_logits[:, 1] - pair_logits[:, 0]
        terms["distilled_pair"] = settings.pair * pair_distillation_loss(
            scores, together, settings.temperature
        )
    return terms


def gradient_norms(
    terms: dict[str, torch.Tensor], embedding: torch.Tensor, processes: Processes
) -> dict[str, float]:
    """The norm of each term's gradient at the pooled feature `(B, d)`; keeps the graph."""
    norms = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, embedding, retain_graph=True)
        processes.average([gradient])
        norms[name] = float(gradient.norm())
    return norms


def inactive_terms(norms: dict[str, float]) -> list[str]:
    """Terms whose gradient is under 1% of L_gmn's: they train nothing."""
    reference = norms.get("gmn", 0.0)
    return [name for name, norm in norms.items() if norm < INACTIVE_SHARE * reference]
