"""Fit an M-Net to a trained embedder, as a correction of the cosine that holds for new cameras.

The embedder ranks its training people almost without errors. An M-Net that learns from their plain
features therefore helps under the cameras of the training data only. Here each crop is embedded
with the colours and blur of several other cameras, and M-Net, which starts at the cosine, learns to
rank these features. Finally a multiple of the cosine is added, because a large correction costs
under new cameras as much as it gains under known ones. All features are computed once, so that each
query can be compared with its nearest crops of the whole data set, where searches go wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import update_bn

from model.arrays import Codes
from model.embedder import Embedder
from model.metric_network import MetricNetwork, unit_features
from model.torch_runtime import folded
from model.weights import round_as_stored
from training.batches import BatchMaker
from training.datasets.record import CropRecord
from training.evaluation.embedding import Advance, ProgressBar
from training.metric_start import add_cosine, keep_cosine_unit, start_at_cosine
from training.recipe import Recipe

BATCH = 32
ROWS_AT_ONCE = 1024
# In a step each of QUERIES queries is compared with CANDIDATES of its NEAREST crops, and with
# POSITIVES crops of its own person.
QUERIES = 48
NEAREST = 60
CANDIDATES = 12
POSITIVES = 3
# M-Net's BatchNorm statistics are averaged over the pairs of the first steps.
STATISTICS_STEPS = 40
RANDOM_PAIRS = 10_000


class Views(NamedTuple):
    """The n views of one domain: its crops with the colours of several cameras.

    Attributes:
        units: unit features `(n, d)`.
        people, cameras: person and camera as numbers, `(n,)` int64.
        nearest: rows of the nearest views `(n, k)`, without those of the same person and camera.
    """

    units: Tensor
    people: Tensor
    cameras: Tensor
    nearest: Tensor


class Comparisons(NamedTuple):
    """The Q queries of a step, each with C candidates.

    Attributes:
        pairs: pair features `(Q, C, d)`.
        cosines: cosines of the same pairs, `(Q, C)`.
        same: whether both crops show the same person, `(Q, C)`.
        counted: False for pairs of one person under one camera, which no loss counts, `(Q, C)`.
    """

    pairs: Tensor
    cosines: Tensor
    same: Tensor
    counted: Tensor


def fit_metric_network(
    embedder: Embedder,
    records: Sequence[CropRecord],
    recipe: Recipe,
    progress_bar: ProgressBar,
) -> MetricNetwork:
    """Fit an M-Net to an embedder's features of training crops.

    Args:
        embedder: the embedder as the artefact stores it, in evaluation mode, on any device.
        records: the training crops; `chosen_records` selects some of them.
        recipe: the recipe; its `metric_fit.steps` is above 0.
        progress_bar: shows the progress of the embedding and of the fit.

    Returns:
        M-Net on the embedder's device, in evaluation mode.

    Raises:
        InputProblem: a crop cannot be read; the message names it.
    """
    views = recipe.metric_fit.views
    device = next(embedder.parameters()).device
    records = chosen_records(records, recipe)
    viewed = recipe.model_copy(update={"augmentation": recipe.metric_fit.augmentation})
    batches = BatchMaker(records, viewed, device)
    network = folded(embedder, recipe.preprocessing)
    parts = []
    with progress_bar("Embedding crops for M-Net", views * len(records)) as progress:
        for view in range(views):
            epoch = recipe.optimisation.epochs + 1 + view
            for number, first in enumerate(range(0, len(records), BATCH)):
                rows = list(range(first, min(first + BATCH, len(records))))
                images = batches.images(batches.make(epoch, number, rows))
                with torch.inference_mode():
                    parts.append(network(images).float().cpu())
                progress(len(rows))
    features = torch.cat(parts)
    domains = [record.domain for record in records] * views
    people = _numbers([record.person for record in records] * views)
    cameras = _numbers([record.camera for record in records] * views)
    domain_views = []
    for name in sorted(set(domains)):
        inside = torch.tensor([domain == name for domain in domains])
        units = unit_features(features[inside].to(device))
        domain_views.append(
            with_nearest(units, people[inside].to(device), cameras[inside].to(device))
        )
    with progress_bar("Fitting M-Net", recipe.metric_fit.steps) as progress:
        return fit_to_views(domain_views, recipe, progress)


def fit_to_views(
    views: Sequence[Views], recipe: Recipe, progress: Advance = lambda _: None
) -> MetricNetwork:
    """Fit an M-Net to the views of each domain in turn, on their device, in evaluation mode."""
    settings = recipe.metric_fit
    device = views[0].units.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        metric_network = MetricNetwork(recipe.embedder.dimension, recipe.metric_network)
    start_at_cosine(metric_network)
    metric_network.to(device).train()
    hooks = keep_cosine_unit(metric_network)
    optimiser = torch.optim.AdamW(metric_network.parameters(), weight_decay=0.0)
    statistics_pairs = []
    for step in range(settings.steps):
        # The learning rate falls to 0 along a cosine.
        share = 0.5 * (1.0 + math.cos(math.pi * step / settings.steps))
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * share
        compared = compare(metric_network, views[step % len(views)], (recipe.seed, step))
        pairs = compared.pairs.flatten(0, 1)
        if step < STATISTICS_STEPS:
            statistics_pairs.append(pairs)
        progress(1)
        counted = compared.counted
        scores = metric_network.scores(pairs).view(counted.shape)
        ranking = pair_ranking_loss(scores, compared.same, counted)
        anchor = cosine_anchor_loss(scores[counted], compared.cosines[counted])
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(ranking + settings.cosine_anchor * anchor)
        optimiser.step()
    for hook in hooks:
        hook.remove()
    round_as_stored(metric_network)
    update_bn(statistics_pairs, metric_network.eval())
    add_cosine(metric_network, settings.cosine_weight * _spread_ratio(metric_network, views))
    round_as_stored(metric_network)
    return metric_network


def chosen_records(records: Sequence[CropRecord], recipe: Recipe) -> list[CropRecord]:
    """Choose about `metric_fit.crops` crops of each data set, all crops of each chosen person."""
    chosen: list[CropRecord] = []
    for dataset in sorted({record.dataset for record in records}):
        crops = [record for record in records if record.dataset == dataset]
        people = sorted({record.identity for record in crops})
        share = min(1.0, recipe.metric_fit.crops / len(crops))
        count = math.ceil(share * len(people))
        order = np.random.default_rng(recipe.seed).permutation(len(people))
        chosen_people = {people[number] for number in order[:count]}
        chosen += [record for record in crops if record.identity in chosen_people]
    return chosen


def _numbers(labels: Sequence[object]) -> Tensor:
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return torch.tensor([numbers[label] for label in labels])


def with_nearest(
    units: Tensor,
    people: Tensor,
    cameras: Tensor,
) -> Views:
    """Find the nearest other views of each view of a domain."""
    nearest = []
    for start in range(0, len(units), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        cosines = units[rows] @ units.T
        repeated = (people[rows, None] == people) & (cameras[rows, None] == cameras)
        # No cosine is as low as this.
        cosines.masked_fill_(repeated, -2.0)
        nearest.append(cosines.topk(min(NEAREST, len(units)), dim=1).indices)
    return Views(units, people, cameras, torch.cat(nearest))


def compare(
    metric_network: MetricNetwork,
    views: Views,
    seed: tuple[int, int],
) -> Comparisons:
    """Draw queries, and for each query some of its nearest crops and some of its own person."""
    random = np.random.default_rng(seed)
    size = len(views.units)
    queries = random.integers(0, size, min(QUERIES, size))
    candidates = np.stack([_candidates(views, int(query), random) for query in queries])
    device = views.units.device
    query = torch.tensor(queries, device=device)
    candidate = torch.tensor(candidates, device=device)
    same = views.people[candidate] == views.people[query, None]
    one_camera = views.cameras[candidate] == views.cameras[query, None]
    first = views.units[query, None]
    second = views.units[candidate]
    return Comparisons(
        metric_network.pair_features(first, second),
        (first * second).sum(dim=-1),
        same,
        ~(same & one_camera),
    )


def _candidates(
    views: Views,
    query: int,
    random: np.random.Generator,
) -> Codes:
    nearest = views.nearest[query].cpu().numpy()
    near = random.choice(nearest, min(CANDIDATES, len(nearest)), replace=False)
    same_person = views.people == views.people[query]
    other_camera = views.cameras != views.cameras[query]
    positives = (same_person & other_camera).nonzero().flatten().cpu().numpy()
    # A person under one camera has no positives. The query itself takes their place, uncounted.
    drawn = random.choice(positives if len(positives) else np.array([query]), POSITIVES)
    return np.concatenate((near, drawn))


def pair_ranking_loss(
    scores: Tensor,
    same: Tensor,
    counted: Tensor,
) -> Tensor:
    """Compute the mean over positive pairs of log(1 + Σ over negatives of exp(s_negative − s)).

    The negatives are those of the pair's query. The loss depends on how far the crops of the person
    lie above those of other people, and not on the level of the scores, as does a ranking.

    Args:
        scores: s(p, q) of Q queries and C candidates each, `(Q, C)`.
        same: whether both crops show the same person, `(Q, C)` bool.
        counted: the pairs that count, `(Q, C)` bool.

    Returns:
        A scalar; 0 if no positive pair counts.
    """
    negatives = scores.masked_fill(same | ~counted, float("-inf"))
    negatives = negatives.logsumexp(dim=1, keepdim=True)
    positive = (same & counted).to(scores.dtype)
    # softplus(x) is log(1 + e^x). A query without negatives, whose logsumexp is −∞, adds nothing.
    losses = functional.softplus(negatives.clamp(min=-1e4) - scores)
    return (positive * losses).sum() / positive.sum().clamp(min=1)


def cosine_anchor_loss(scores: Tensor, cosines: Tensor) -> Tensor:
    """Compute the mean squared difference of standardised scores and standardised cosines.

    The loss keeps M-Net's correction small compared with the cosine. No gradient passes through the
    standard deviation of the scores, so that their scale may grow.

    Args:
        scores: s(p, q) of pairs, `(N,)`.
        cosines: cosines of the same pairs, `(N,)`.

    Returns:
        A scalar.
    """
    least = torch.finfo(scores.dtype).eps
    deviation = scores.std().detach().clamp(min=least)
    standardised = (scores - scores.mean()) / deviation
    target = (cosines - cosines.mean()) / cosines.std().clamp(min=least)
    return (standardised - target).square().mean()


@torch.no_grad()
def _spread_ratio(metric_network: MetricNetwork, views: Sequence[Views]) -> float:
    """Compute the ratio of the standard deviations of M-Net's scores and of cosines.

    It is the mean over the domains, from random pairs of each.
    """
    ratios = []
    for domain in views:
        random = torch.Generator().manual_seed(0)
        first, second = torch.randint(len(domain.units), (2, RANDOM_PAIRS), generator=random)
        firsts = domain.units[first.to(domain.units.device)]
        seconds = domain.units[second.to(domain.units.device)]
        scores = metric_network.scores(metric_network.pair_features(firsts, seconds))
        cosines = (firsts * seconds).sum(dim=-1)
        ratios.append(float(scores.std() / cosines.std()))
    return sum(ratios) / len(ratios)
