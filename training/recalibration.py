"""M-Net's BatchNorm statistics for the pairs it will see, estimated anew when training is over.

While DP is on, the statistics are of perturbed pair features; a test pair is not perturbed, its
variance is lower, and every score would shift.
"""

from __future__ import annotations

import torch
from torch import nn

from model.pair_features import batch_pairs, unit_features
from training.loader import load_batches
from training.run import Run

BATCHES = 50


@torch.no_grad()
def recalibrate_metric_network(run: Run) -> None:
    """Averages M-Net's BatchNorm statistics over some batches, without DP, all else fixed."""
    metric_network = run.networks.metric_network
    norms = [module for module in metric_network.modules() if isinstance(module, nn.BatchNorm1d)]
    if not norms:
        return
    run.networks.eval()
    metric_network.perturb(False)
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    epoch = run.recipe.optimisation.epochs
    order = run.sampler.epoch(epoch)[:BATCHES]
    for batch in load_batches(run.batches, epoch, order, 0, run.recipe.workers):
        units = unit_features(run.networks.embedder(run.batches.images(batch)))
        first, second = batch_pairs(len(units), run.device)
        metric_network(metric_network.pair_features(units[first], units[second]))
    for norm in norms:
        norm.momentum = 0.1
    run.networks.eval()
