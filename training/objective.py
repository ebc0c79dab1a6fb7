"""L = L_cls + L_tri + L_gmn + λ·L_pic, and how much each term moves the embedding."""

from __future__ import annotations

import torch
from torch import nn

from model.embedder import Embedder, Features
from model.metric_network import MetricNetwork
from model.pair_features import batch_pairs, unit_features
from training.losses.generalizable_metric import generalizable_metric_loss
from training.losses.identity import identity_loss
from training.losses.pair_identity_center import pair_identity_center_loss
from training.losses.triplet import triplet_loss
from training.recipe import Losses

INACTIVE_SHARE = 0.01


class TrainedNetworks(nn.Module):
    """What a run trains: embedder, M-Net, and the identity classifier that only training has."""

    def __init__(self, embedder: Embedder, metric_network: MetricNetwork, identities: int) -> None:
        super().__init__()
        self.embedder = embedder
        self.metric_network = metric_network
        self.classifier = nn.Linear(embedder.config.dimension, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)


def loss_terms(
    networks: TrainedNetworks, features: Features, labels: torch.Tensor, settings: Losses
) -> dict[str, torch.Tensor]:
    """The weighted terms that are switched on, by name: `identity`, `triplet`, `gmn`, `pic`."""
    terms: dict[str, torch.Tensor] = {}
    if settings.identity:
        logits = networks.classifier(features.after_neck)
        terms["identity"] = settings.identity * identity_loss(
            logits, labels, settings.label_smoothing
        )
    if settings.triplet:
        terms["triplet"] = settings.triplet * triplet_loss(
            features.before_neck, labels, settings.margin
        )
    if settings.gmn or settings.pic:
        first, second = batch_pairs(len(labels), labels.device)
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
    return terms


def gradient_norms(terms: dict[str, torch.Tensor], embedding: torch.Tensor) -> dict[str, float]:
    """The norm of each term's gradient at the pooled feature `(B, d)`; keeps the graph."""
    norms = {}
    for name, term in terms.items():
        (gradient,) = torch.autograd.grad(term, embedding, retain_graph=True)
        norms[name] = float(gradient.norm())
    return norms


def inactive_terms(norms: dict[str, float]) -> list[str]:
    """Terms whose gradient is under 1% of L_gmn's: they train nothing."""
    reference = norms.get("gmn", 0.0)
    return [name for name, norm in norms.items() if norm < INACTIVE_SHARE * reference]
