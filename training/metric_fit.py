"""M-Net fitted over a trained embedder: a correction of the cosine that holds under other cameras.

The embedder ranks its own training people almost without an error, and what an M-Net learns from
their features as they are helps under the cameras they were taken by alone. So each crop is
embedded as several other cameras might show it, and M-Net learns to rank these features, beginning
at the cosine. In the end the cosine is added once more: people under other cameras lose by a large
correction what people under known ones gain. The features are computed once, which lets each query
be compared with its nearest crops of the whole data set, where a search goes wrong.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.swa_utils import update_bn

from model.embedder import Embedder
from model.folding import folded
from model.metric_network import MetricNetwork, unit_features
from model.weights import round_as_stored
from training.batches import BatchMaker
from training.datasets.record import CropRecord
from training.distributed import Processes
from training.evaluation.embedding import Advance, ProgressBar
from training.losses.pair_ranking import cosine_anchor_loss, pair_ranking_loss
from training.metric_start import add_cosine, keep_cosine_unit, start_at_cosine
from training.recipe import MetricFit, Recipe

BATCH = 32
ROWS_AT_ONCE = 1024
# Of a step: so many queries, each with some of its nearest crops and some of its own person.
QUERIES = 48
NEAREST = 60
CANDIDATES = 12
POSITIVES = 3
# M-Net's BatchNorm statistics are averaged over the pairs of the first steps.
STATISTICS_STEPS = 40
RANDOM_PAIRS = 10_000


class Views(NamedTuple):
    """Crops of one domain as several cameras might show them, n in all.

    Attributes:
        units: unit features `(n, d)`.
        people, cameras: numbers `(n,)` int64.
        nearest: rows of the nearest others `(n, k)`, but none of the same person and camera.
    """

    units: torch.Tensor
    people: torch.Tensor
    cameras: torch.Tensor
    nearest: torch.Tensor


class Comparisons(NamedTuple):
    """Queries of a step, each with its candidates.

    Attributes:
        pairs: pair features `(Q, C, d)`.
        cosines: of the same pairs, `(Q, C)`.
        same: whether a pair is of one person, `(Q, C)`.
        counted: whether it is judged: not of one camera, where it is of one person.
    """

    pairs: torch.Tensor
    cosines: torch.Tensor
    same: torch.Tensor
    counted: torch.Tensor


def fit_metric_network(
    embedder: Embedder,
    records: Sequence[CropRecord],
    recipe: Recipe,
    progress_bar: ProgressBar,
) -> MetricNetwork:
    """Return an M-Net fitted to an embedder's features of training crops.

    Args:
        embedder: as the artefact stores it, in evaluation mode, on any device.
        records: the training crops, of which `chosen_records` take part.
        recipe: its `metric_fit.steps` is above 0.
        progress_bar: shows how far the embedding is.

    Returns:
        M-Net on the embedder's device, in evaluation mode.

    Raises:
        InputProblem: naming a crop that cannot be read.
    """
    settings = recipe.metric_fit
    device = next(embedder.parameters()).device
    records = chosen_records(records, recipe)
    with progress_bar("Embedding crops for M-Net", settings.views * len(records)) as progress:
        features = _embed(embedder, records, recipe, progress)
    domains = [record.domain for record in records] * settings.views
    people = _numbers([record.person for record in records] * settings.views)
    cameras = _numbers([record.camera for record in records] * settings.views)
    views = []
    for domain in sorted(set(domains)):
        rows = torch.tensor([row for row, one in enumerate(domains) if one == domain])
        units = unit_features(features[rows].to(device))
        views.append(with_nearest(units, people[rows].to(device), cameras[rows].to(device)))
    return fit_to_views(views, recipe)


def fit_to_views(views: Sequence[Views], recipe: Recipe) -> MetricNetwork:
    """An M-Net fitted to the views of each domain in turn, in evaluation mode, on their device."""
    settings = recipe.metric_fit
    device = views[0].units.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        metric_network = MetricNetwork(recipe.embedder.dimension, recipe.metric_network)
    start_at_cosine(metric_network)
    metric_network.to(device).train()
    _train(metric_network, views, settings, recipe.seed)
    round_as_stored(metric_network)
    steps = range(min(settings.steps, STATISTICS_STEPS))
    each = (
        compare(metric_network, views[step % len(views)], (recipe.seed, step)) for step in steps
    )
    update_bn((compared.pairs.flatten(0, 1) for compared in each), metric_network.eval())
    add_cosine(metric_network, settings.cosine_weight * _spread_ratio(metric_network, views))
    round_as_stored(metric_network)
    return metric_network


def chosen_records(records: Sequence[CropRecord], recipe: Recipe) -> list[CropRecord]:
    """Return the crops that take part: whole people of each data set, a seed's choice."""
    kept: list[CropRecord] = []
    for dataset in sorted({record.dataset for record in records}):
        own = [record for record in records if record.dataset == dataset]
        people = sorted({record.identity for record in own})
        count = math.ceil(min(1.0, recipe.metric_fit.crops / len(own)) * len(people))
        order = np.random.default_rng(recipe.seed).permutation(len(people))
        some = {people[number] for number in order[:count]}
        kept += [record for record in own if record.identity in some]
    return kept


def _embed(
    embedder: Embedder, records: Sequence[CropRecord], recipe: Recipe, progress: Advance
) -> torch.Tensor:
    """Features `(views · n, d)` float32 on the CPU, one view of all crops after another."""
    device = next(embedder.parameters()).device
    settings = recipe.metric_fit
    viewed = recipe.model_copy(update={"augmentation": settings.augmentation})
    batches = BatchMaker(records, np.zeros(len(records), np.int64), viewed, device)
    network = folded(embedder, recipe.preprocessing)
    found = []
    for view in range(settings.views):
        epoch = recipe.optimisation.epochs + 1 + view
        for number, first in enumerate(range(0, len(records), BATCH)):
            rows = list(range(first, min(first + BATCH, len(records))))
            images = batches.images(batches.make(epoch, number, rows, Processes()))
            with torch.inference_mode():
                layout = images.contiguous(memory_format=torch.channels_last)
                found.append(network(layout).float().cpu())
            progress(len(rows))
    return torch.cat(found)


def _numbers(labels: Sequence[object]) -> torch.Tensor:
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return torch.tensor([numbers[label] for label in labels])


def with_nearest(units: torch.Tensor, people: torch.Tensor, cameras: torch.Tensor) -> Views:
    """Return the views of a domain, each with those that a search would find first."""
    nearest = []
    for start in range(0, len(units), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        cosines = units[rows] @ units.T
        repeated = (people[rows, None] == people) & (cameras[rows, None] == cameras)
        cosines.masked_fill_(repeated, -2.0)
        nearest.append(cosines.topk(min(NEAREST, len(units)), dim=1).indices)
    return Views(units, people, cameras, torch.cat(nearest))


def compare(metric_network: MetricNetwork, views: Views, seed: tuple[int, int]) -> Comparisons:
    """Draws queries, and for each some of its nearest crops and some of its own person."""
    random = np.random.default_rng(seed)
    queries = random.integers(0, len(views.units), min(QUERIES, len(views.units)))
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


def _candidates(views: Views, query: int, random: np.random.Generator) -> NDArray[np.int64]:
    nearest = views.nearest[query].cpu().numpy()
    near = random.choice(nearest, min(CANDIDATES, len(nearest)), replace=False)
    own = (views.people == views.people[query]) & (views.cameras != views.cameras[query])
    positives = own.nonzero().flatten().cpu().numpy()
    # A person under one camera has none: the query itself stands in, and is not counted.
    drawn = random.choice(positives if len(positives) else np.array([query]), POSITIVES)
    return np.concatenate((near, drawn))


def _train(
    metric_network: MetricNetwork, views: Sequence[Views], settings: MetricFit, seed: int
) -> None:
    kept = keep_cosine_unit(metric_network)
    optimiser = torch.optim.AdamW(metric_network.parameters(), weight_decay=0.0)
    for step in range(settings.steps):
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _share(step, settings.steps)
        compared = compare(metric_network, views[step % len(views)], (seed, step))
        scores = metric_network.scores(compared.pairs.flatten(0, 1)).view(compared.same.shape)
        loss = pair_ranking_loss(scores, compared.same, compared.counted)
        loss = loss + settings.cosine_anchor * cosine_anchor_loss(
            scores[compared.counted], compared.cosines[compared.counted]
        )
        optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimiser.step()
    for handle in kept:
        handle.remove()


def _share(step: int, steps: int) -> float:
    """Of the learning rate: from 1 to 0 along a cosine."""
    return 0.5 * (1.0 + math.cos(math.pi * step / steps))


@torch.no_grad()
def _spread_ratio(metric_network: MetricNetwork, views: Sequence[Views]) -> float:
    """How much wider M-Net's scores spread than cosines, over pairs of a domain drawn at random."""
    ratios = []
    device = views[0].units.device
    for domain in views:
        random = torch.Generator().manual_seed(0)
        first, second = torch.randint(len(domain.units), (2, RANDOM_PAIRS), generator=random)
        one = domain.units[first.to(device)]
        other = domain.units[second.to(device)]
        scores = metric_network.scores(metric_network.pair_features(one, other))
        ratios.append(float(scores.std() / (one * other).sum(dim=-1).std()))
    return sum(ratios) / len(ratios)
