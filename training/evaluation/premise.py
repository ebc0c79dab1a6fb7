"""Measure GMN's premise: is the gap between domains smaller in pair space than in instance space?

Both spaces have the same crops and the same number of vectors, of unit length. People are drawn in
couples. A couple has four crops, two people under two cameras each, and four pairs of these crops:
two genuine and two impostor pairs. No two couples share a person, so that couples are independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import torch
from sklearn.manifold import TSNE
from threadpoolctl import threadpool_limits

from model.architecture import MetricNetworkConfig, PairFeatureKind
from model.arrays import Array, Floats
from model.artefact import Artefact
from model.metric_network import pair_features
from model.problems import InputProblem
from training.datasets.record import CropRecord, Person
from training.evaluation.domain_gap import (
    Discrepancy,
    domain_classifier,
    halves,
    maximum_mean_discrepancy,
)
from training.evaluation.embedding import embed_records
from training.evaluation.intervals import mean_interval
from training.evaluation.results import (
    DomainGap,
    PremiseResult,
    Projection,
    SpaceGap,
)
from training.evaluation.scoring import unit_length
from training.evaluation.searches import camera_name

COUPLES = 75
PERPLEXITY = 30.0
FEWEST_COUPLES = 10
INSTANCES = "instance"
PAIRS = "pair"
GENUINE = (True, True, False, False)
"""Says which of a couple's pairs are genuine, in the order of `_pairs`."""

IdentityPair = tuple[CropRecord, CropRecord, CropRecord, CropRecord]
"""A couple: two crops of the first person, then two of the second, under two cameras each."""


def sample_identity_pairs(records: Sequence[CropRecord]) -> dict[str, list[IdentityPair]]:
    """Draw the same number of couples from every domain, at most 75, of people under two cameras.

    Returns:
        The couples by domain, in alphabetical order; empty if fewer than two domains have ten.
    """
    people: dict[str, dict[Person, list[CropRecord]]] = {}
    for record in records:
        people.setdefault(record.domain, {}).setdefault(record.person, []).append(record)
    couples_by_domain = {domain: _couples(crops) for domain, crops in sorted(people.items())}
    enough = {
        domain: couples
        for domain, couples in couples_by_domain.items()
        if len(couples) >= FEWEST_COUPLES
    }
    if len(enough) < 2:
        return {}
    size = min(len(couples) for couples in enough.values())
    return {domain: couples[:size] for domain, couples in enough.items()}


def measure_premise(
    artefact: Artefact,
    couples: Mapping[str, Sequence[IdentityPair]],
) -> PremiseResult:
    """Measure the gap of every two domains in both spaces, and project both spaces to pictures.

    Args:
        artefact: its embedder computes the features. Its M-Net decides the kind of pair features;
            without M-Net they are squares.
        couples: the result of `sample_identity_pairs`.

    Raises:
        InputProblem: there are fewer than two domains, or a crop cannot be read.
    """
    if len(couples) < 2:
        raise InputProblem(
            f"a domain gap needs two domains with {2 * FEWEST_COUPLES} people each, all under two "
            "cameras; name another data set as well, or leave --premise out"
        )
    kind = (artefact.description.metric_network or MetricNetworkConfig()).pair_feature
    spaces: dict[str, dict[str, Floats]] = {INSTANCES: {}, PAIRS: {}}
    for domain, of_domain in couples.items():
        records = [record for couple in of_domain for record in couple]
        features = embed_records(artefact.embedder, artefact.description.preprocessing, records)
        instances = unit_length(features).reshape(len(of_domain), 4, -1)
        spaces[INSTANCES][domain] = instances
        compared = features.reshape(instances.shape) if kind == "raw" else instances
        spaces[PAIRS][domain] = _pairs(compared, kind)
    return PremiseResult(
        pair_feature=kind,
        people=2 * len(next(iter(couples.values()))),
        points=4 * len(next(iter(couples.values()))),
        gaps=_gaps(spaces),
        projections=[_projection(name, space) for name, space in spaces.items()],
    )


def _couples(people: Mapping[Person, Sequence[CropRecord]]) -> list[IdentityPair]:
    random = np.random.default_rng(0)
    seen_twice: list[tuple[CropRecord, CropRecord]] = []
    for _, records in sorted(people.items()):
        cameras = sorted({camera_name(record) for record in records})
        if len(cameras) < 2:
            continue
        chosen = random.choice(len(cameras), 2, replace=False)
        first, second = (
            [record for record in records if camera_name(record) == cameras[number]]
            for number in chosen
        )
        seen_twice.append(
            (first[random.integers(len(first))], second[random.integers(len(second))])
        )
    order = random.permutation(len(seen_twice))[: 2 * COUPLES]
    mixed = [seen_twice[number] for number in order]
    couples = zip(mixed[::2], mixed[1::2], strict=False)
    return [(*first_person, *second_person) for first_person, second_person in couples]


def _pairs(instances: Floats, kind: PairFeatureKind) -> Floats:
    """Compute pair features of unit length from comparable features, both `(couples, 4, d)`."""
    rows = torch.from_numpy(instances)
    pairs = pair_features(rows[:, [0, 2, 0, 2]], rows[:, [1, 3, 3, 1]], kind).numpy()
    return unit_length(pairs.reshape(-1, pairs.shape[-1])).reshape(pairs.shape)


def _gaps(spaces: Mapping[str, Mapping[str, Floats]]) -> list[DomainGap]:
    """Measure the gap of every two domains in both spaces, and that between halves of a domain."""
    same = {
        name: {domain: _separation(*halves(features)) for domain, features in space.items()}
        for name, space in spaces.items()
    }
    domain_gaps = []
    for pair in combinations(spaces[INSTANCES], 2):
        right = {}
        gaps = {}
        for name, space in spaces.items():
            gap, right[name] = _separation(space[pair[0]], space[pair[1]])
            halved = [same[name][domain] for domain in pair]
            gaps[name] = SpaceGap(
                mmd=gap.squared,
                mmd_by_chance=gap.by_chance,
                mmd_same_domain=sum(discrepancy.squared for discrepancy, _ in halved) / 2,
                classifier=mean_interval(right[name]),
                classifier_same_domain=sum(float(named.mean()) for _, named in halved) / 2,
            )
        domain_gaps.append(
            DomainGap(
                domains=pair,
                instance=gaps[INSTANCES],
                pair=gaps[PAIRS],
                classifier_difference=mean_interval(right[PAIRS] - right[INSTANCES]),
            )
        )
    return domain_gaps


def _separation(
    first: Floats,
    second: Floats,
) -> tuple[Discrepancy, Array]:
    """Return the MMD of two domains, and the classifier's accuracy in each group."""
    return maximum_mean_discrepancy(first, second), domain_classifier(first, second)


def _projection(name: str, space: Mapping[str, Floats]) -> Projection:
    flat = [features.reshape(-1, features.shape[-1]) for features in space.values()]
    parts = np.split(project(np.concatenate(flat)), len(space))
    return Projection(
        space=name,
        domains={
            domain: [(round(float(x), 3), round(float(y), 3)) for x, y in part]
            for domain, part in zip(space, parts, strict=True)
        },
        genuine=list(GENUINE) * (len(parts[0]) // 4) if name == PAIRS else [],
    )


def project(features: Floats) -> Floats:
    """Project features by t-SNE (van der Maaten and Hinton, JMLR 2008), starting from their PCA.

    Args:
        features: features `(n, d)`, at least four; a few thousand take seconds.

    Returns:
        Points `(n, 2)`, centred, with coordinates from −1 to 1; the same for the same features.
    """
    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    # With several threads the order of summation, and so the picture, would vary.
    with threadpool_limits(limits=1):
        points = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(features)
    points = points - points.mean(axis=0)
    return np.asarray(points / max(float(np.abs(points).max()), 1e-12), dtype=np.float32)
