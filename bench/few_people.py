"""False alarms in galleries of few named people, from an artefact's own thresholds.

`python -m bench.few_people --artefact ARTEFACT --data KIND:PATH --out FILE` draws galleries of 1,
3, 5, 10 and 17 people with two crops each. Only people that the artefact's training held out take
part, or with `--test` those of the set's test part. Each gallery draws its people, and its cameras:
half of the set's. Strangers and enrolled people search under the others.
`python -m bench.figures few FILE…` writes the table of docs/calibration.md.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from numpy.typing import NDArray

from model.artefact import Artefact, load_artefact, resolve_artefact
from model.calibration import SEARCH_OPERATING_POINTS, Scoring
from model.gallery_thresholds import GalleryThresholds, artefact_thresholds
from model.metric_network import cosine_similarities, score_pairs
from training.datasets.record import CropRecord
from training.datasets.registry import kind_of, read_dataset
from training.evaluation.embedding import decoded_batches
from training.evaluation.intervals import Estimate, mean_interval
from training.evaluation.offline import network_of
from training.evaluation.searches import held_out_people

SIZES = (1, 3, 5, 10, 17)
SCORINGS: tuple[Scoring, ...] = ("cosine", "mnet")
CROPS = 2
GALLERIES = 100
STRANGERS = 100
SEED = 0
ASKED = SEARCH_OPERATING_POINTS["far_1e-2"]
BINS = 10


@dataclass(frozen=True)
class Draw:
    """A gallery and the crops that search it, as indices into a list of crops."""

    members: frozenset[str]
    gallery: list[int]
    searches: list[int]


def read_people(
    spec: str,
    held_out: Mapping[str, float],
    test: bool,
) -> list[CropRecord]:
    """Return two crops at most of each person under each camera."""
    dataset = read_dataset(spec)
    if test:
        no_people = kind_of(spec).not_people
        records = [
            record
            for record in dataset.records
            if record.split in ("query", "gallery") and record.identity not in no_people
        ]
    else:
        records = list(held_out_people(dataset, held_out).records)
    shown: dict[tuple[str, str], list[CropRecord]] = defaultdict(list)
    for place in np.random.default_rng(SEED).permutation(len(records)):
        record = records[place]
        shown[record.identity, record.camera].append(record)
    return [record for key in sorted(shown) for record in shown[key][:CROPS]]


def draw_galleries(
    crops: Sequence[CropRecord],
    size: int,
    number: int,
) -> Iterator[Draw]:
    """Yield random galleries of `size` people who are seen on both sides of the cameras."""
    random = np.random.default_rng([SEED, size])
    cameras = np.unique([crop.camera for crop in crops])
    for _ in range(number):
        inside = set(random.permutation(cameras)[: len(cameras) // 2].tolist())
        shown: dict[str, list[int]] = defaultdict(list)
        asking: dict[str, list[int]] = defaultdict(list)
        for place in random.permutation(len(crops)).tolist():
            side = shown if crops[place].camera in inside else asking
            side[crops[place].identity].append(place)
        both = sorted(shown.keys() & asking.keys())
        members = sorted(random.permutation(both)[:size].tolist())
        others = sorted(asking.keys() - set(members))
        strangers = random.permutation([place for name in others for place in asking[name]])
        searches = strangers[:STRANGERS].tolist()
        gallery = []
        for name in members:
            gallery += shown[name][:CROPS]
            searches += asking[name]
        yield Draw(frozenset(members), gallery, searches)


def embed(artefact: Artefact, crops: Sequence[CropRecord]) -> torch.Tensor:
    """Return features `(n, d)` float32."""
    network = network_of(artefact, torch.device("cpu"), bfloat16=False)
    batches = decoded_batches(crops, network.preprocessing)
    return torch.from_numpy(np.concatenate([network.embed(batch) for batch in batches]))


def judge(
    draw: Draw,
    names: NDArray[np.str_],
    scores: NDArray[np.float32],
    thresholds: GalleryThresholds,
) -> pd.DataFrame:
    """Return a row for each search: who searched, and how the best result is judged.

    Args:
        draw: the gallery and its searches.
        names: of all crops, `(n,)`.
        scores: of the searches against the gallery, `(Q, G)`.
        thresholds: for few identities.
    """
    best = scores.max(axis=1).astype(np.float64)
    found = names[draw.gallery][scores.argmax(axis=1)]
    people = names[draw.searches]
    size = len(draw.members)
    known = np.isin(people, sorted(draw.members))
    return pd.DataFrame(
        {
            "identity": people,
            "known": known,
            "matched": best >= thresholds.threshold(ASKED, 0.0, size),
            "right": found == people,
            "score": best,
            "probability": thresholds.probability(best, 0.0, size),
        }
    )


def matched_rate(strangers: pd.DataFrame) -> Estimate:
    """Estimate the share of searches answered `match`, with a 95% interval over people."""
    people = pd.factorize(strangers.identity, sort=True)[0]
    return mean_interval(strangers.matched.to_numpy(np.float64), people.astype(np.int64))


def figures(judged: pd.DataFrame) -> dict[str, Any]:
    """Return shares of searches answered `match`, and how well the probability agrees.

    `best` is the share that each gallery's threshold on raw scores finds at the obtained rate.
    `least` is the lowest probability of a match, `error` the calibration error at even odds.
    """
    strangers = judged[~judged.known]
    members = judged[judged.known]
    rate = matched_rate(strangers)
    limits = strangers.groupby("gallery").score.quantile(1.0 - rate.mean)
    above = members.score > members.gallery.map(limits).astype(float)
    least = judged[judged.matched].probability.min()
    return {
        "galleries": judged.gallery.nunique(),
        "strangers": len(strangers),
        "members": len(members),
        "obtained": [round(value, 5) for value in (rate.mean, rate.low, rate.high)],
        "found": round(float((members.matched & members.right).mean()), 4),
        "best": round(float((above & members.right).mean()), 4),
        "least": round(float(least), 4),
        "error": round(_calibration_error(judged), 4),
    }


def _calibration_error(judged: pd.DataFrame) -> float:
    """Compare probability and share of right answers in ten bins; both kinds weigh one half."""
    known = judged.known
    weights = np.where(known, 0.5 / known.sum(), 0.5 / (~known).sum())
    bins = np.minimum((judged.probability * BINS).astype(int), BINS - 1)
    gaps = weights * (judged.probability - (known & judged.right))
    return float(gaps.groupby(bins).sum().abs().sum())


def measure(
    artefact: Artefact,
    crops: Sequence[CropRecord],
    galleries: int,
) -> Iterator[dict[str, Any]]:
    description = artefact.description
    features = embed(artefact, crops)
    names = np.array([crop.identity for crop in crops])
    scorings = [scoring for scoring in SCORINGS if scoring in description.scorings]
    for size in SIZES:
        judged: dict[Scoring, list[pd.DataFrame]] = defaultdict(list)
        for place, draw in enumerate(draw_galleries(crops, size, galleries)):
            queries = features[draw.searches]
            gallery = features[draw.gallery]
            for scoring in scorings:
                scores = cosine_similarities(queries, gallery)
                if scoring == "mnet":
                    scores = score_pairs(artefact.require_metric_network(), queries, gallery)
                thresholds = artefact_thresholds(description.calibration.scorings[scoring])
                rows = judge(draw, names, scores.numpy(), thresholds)
                judged[scoring].append(rows.assign(gallery=place))
        for scoring, answers in judged.items():
            measured = figures(pd.concat(answers, ignore_index=True))
            yield {"scoring": scoring, "size": size} | measured


def main(
    artefact: Annotated[str, typer.Option(help="A file, or the name of a shipped one.")],
    data: Annotated[list[str], typer.Option(metavar="KIND:PATH", help="Labelled crops.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the figures.")],
    test: Annotated[bool, typer.Option(help="People of the test part, not held-out ones.")] = False,
    galleries: Annotated[int, typer.Option(help="How many of each size.")] = GALLERIES,
) -> None:
    """Measure every size and scoring, and write a list of JSON objects."""
    loaded = load_artefact(resolve_artefact(artefact))
    held_out = loaded.description.provenance.held_out
    rows = []
    for spec in data:
        crops = read_people(spec, held_out, test)
        source = {"artefact": artefact, "data": crops[0].dataset, "test": test}
        rows += [source | measured for measured in measure(loaded, crops, galleries)]
    out.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
