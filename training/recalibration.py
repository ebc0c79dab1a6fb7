"""M-Net's BatchNorm statistics for the pairs it will see, estimated anew when training is over.

While DP is on, the statistics are of perturbed pair features; a test pair is not perturbed, its
variance is lower, and every score would shift.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from model.embedder import Embedder
from model.metric_network import MetricNetwork, unit_features
from training.datasets.record import CropRecord
from training.loader import BatchMaker, load_batches
from training.recipe import Recipe
from training.sampler import PKSampler

BATCHES = 50


@torch.no_grad()
def recalibrate_metric_network(
    embedder: Embedder, metric_network: MetricNetwork, batches: Iterable[torch.Tensor]
) -> None:
    """Averages M-Net's BatchNorm statistics over some batches, without DP, all else fixed.

    Args:
        embedder, metric_network: on one device; both are left in evaluation mode.
        batches: training crops `(B, 3, h, w)` on that device, as the network takes them.
    """
    embedder.eval()
    metric_network.perturbing = False
    with averaged_statistics(metric_network) as norms:
        for images in batches if norms else ():
            units = unit_features(embedder(images))
            first, second = torch.triu_indices(
                len(units), len(units), offset=1, device=units.device
            )
            metric_network(metric_network.pair_features(units[first], units[second]))


@contextmanager
def averaged_statistics(metric_network: MetricNetwork) -> Iterator[list[nn.BatchNorm1d]]:
    """M-Net's BatchNorms, whose statistics the block's forward passes average anew.

    M-Net is in evaluation mode afterwards.
    """
    metric_network.eval()
    norms = [module for module in metric_network.modules() if isinstance(module, nn.BatchNorm1d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    yield norms
    for norm in norms:
        norm.momentum = 0.1
        norm.eval()


def training_batches(
    recipe: Recipe, records: Sequence[CropRecord], batches: BatchMaker, count: int = BATCHES
) -> Iterator[torch.Tensor]:
    """The first batches of P × K crops of the epoch after the last one, as the network takes them.

    Args:
        recipe: of the run.
        records: the training crops.
        batches: makes batches of them.
        count: at most so many batches.
    """
    sampling, epoch = recipe.sampling, recipe.optimisation.epochs
    sampler = PKSampler(records, sampling.identities, sampling.images, recipe.seed)
    for batch in load_batches(batches, epoch, sampler.epoch(epoch)[:count], 0, recipe.workers):
        yield batches.images(batch)
