"""Asked against obtained false alarms on unseen cameras, by several label-free methods.

docs/calibration.md shows what it found.

For every artefact and feature file people are split at random into known, whose crops under one
camera are the gallery, and unknown. Half of either search first, without labels: what a method
reads the thresholds off. The others then show how many unknown people are answered with a match.

Example: python -m bench.recalibration --out docs/figures/open_set/recalibration.json \\
    --of runs/unseen/model.safetensors=cuhk01.npz --gallery 100 --gallery 600
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from model.artefact import Artefact, load_artefact, resolve_artefact
from model.calibration import Calibration, Scoring
from model.pair_scoring import identical_score, score_pairs
from model.problems import InputProblem
from model.recalibration import recalibrate
from training.evaluation.files import replacing
from training.evaluation.intervals import mean_interval
from training.evaluation.recalibrating import some_places
from training.evaluation.scoring import unit_length

ASKED = 1e-2
TRIALS = 20
MOST_KNOWN = 0.8
SEED = 0
SHOWN: tuple[Scoring, ...] = ("cosine", "mnet")


@dataclass(frozen=True)
class Cameras:
    """Scores of one camera's probes with another's gallery.

    Attributes:
        scores: by scoring, `(P, G)` float32.
        probes, gallery: identities, `(P,)` and `(G,)`.
    """

    scores: dict[Scoring, NDArray[np.float32]]
    probes: NDArray[np.str_]
    gallery: NDArray[np.str_]


@dataclass(frozen=True)
class Trial:
    """Rows of probes and columns of the gallery.

    Attributes:
        columns: the gallery, of known people.
        history: unlabelled searches, known and unknown.
        strangers, members: searches to judge by, of unknown and of known people.
    """

    columns: NDArray[np.int64]
    history: NDArray[np.int64]
    strangers: NDArray[np.int64]
    members: NDArray[np.int64]


Threshold = Callable[[Calibration, Scoring, NDArray[np.float32], NDArray[np.float32]], float]
"""From the artefact's calibration, a scoring, its scores and the cosines of the history."""


def stored(own: Calibration, name: Scoring, scores: NDArray[np.float32], _: Any) -> float:
    """The artefact's own threshold."""
    return own.scorings[name].search_threshold(ASKED, scores.shape[1])


def bulk(own: Calibration, name: Scoring, scores: NDArray[np.float32], _: Any) -> float:
    """The artefact's tail, moved and stretched as the median and the upper sixth are."""
    one = own.scorings[name]
    middle, sixth = np.quantile(scores, [0.5, 0.84])
    start, width = one.pair_threshold(0.5), one.pair_threshold(0.16) - one.pair_threshold(0.5)
    threshold = one.search_threshold(ASKED, scores.shape[1])
    return float(middle + (threshold - start) * (sixth - middle) / width)


def moved(own: Calibration, name: Scoring, scores: NDArray[np.float32], _: Any) -> float:
    """The artefact's tail, moved as the score of a share of 2% is."""
    one = own.scorings[name]
    shift = float(np.quantile(scores, 0.98)) - one.pair_threshold(0.02)
    return one.search_threshold(ASKED, scores.shape[1]) + shift


def pareto(_: Calibration, __: Scoring, scores: NDArray[np.float32], ___: Any) -> float:
    """A generalised Pareto tail over the upper tenth, by probability-weighted moments."""
    base = np.quantile(scores, 0.9)
    excess = np.sort(scores[scores > base].astype(np.float64) - base)
    count = len(excess)
    first = excess.mean()
    second = float((excess * np.arange(count - 1, -1, -1)).sum() / (count - 1) / count)
    shape, scale = 2 - first / (first - 2 * second), 2 * first * second / (first - 2 * second)
    per_pair = -np.expm1(np.log1p(-ASKED) / scores.shape[1])
    return float(base + scale / shape * ((0.1 / per_pair) ** shape - 1))


def exponential(_: Calibration, __: Scoring, scores: NDArray[np.float32], ___: Any) -> float:
    """An exponential tail for every query, from the upper tenth to the upper hundredth."""
    size = scores.shape[1]
    start, end = np.quantile(scores, [0.9, 0.99], axis=1)
    scale = (end - start) / np.log(10.0)
    places = np.linspace(start.min(), end.max() + 12 * scale.max(), 4000)
    shares = [np.minimum(1.0, 0.1 * np.exp((start - place) / scale)) for place in places]
    alarms = np.array([(1.0 - (1.0 - share) ** size).mean() for share in shares])
    return float(places[np.argmax(alarms <= ASKED)])


METHODS: dict[str, Threshold] = {
    "stored": stored,
    "bulk": bulk,
    "moved": moved,
    "pareto": pareto,
    "exponential": exponential,
}
ALONE = "cosines alone"
CHOSEN = "recalibrate"


def read_cameras(artefact: Artefact, features: Path) -> Cameras:
    """Scores of all of a feature file's first camera's crops and the second's.

    The camera with more crops is the gallery. M-Net's scores are kept beside the features.
    """
    with np.load(features, allow_pickle=False) as arrays:
        vectors, people, cameras = (arrays[key] for key in ("features", "identities", "cameras"))
    names, counts = np.unique(cameras, return_counts=True)
    if len(names) != 2:
        raise InputProblem(f"{features}: has {len(names)} cameras; name crops under two")
    gallery = cameras == names[np.argmax(counts)]
    probes = ~gallery
    units = unit_length(vectors)
    kept = features.with_suffix(f".{artefact.description.artefact_fingerprint[:12]}.npy")
    if not kept.exists():
        with replacing(kept) as beside, beside.open("wb") as file:
            first, second = (torch.from_numpy(vectors[rows]) for rows in (probes, gallery))
            np.save(file, score_pairs(artefact.metric_network, first, second).numpy())
    cosine, mnet = units[probes] @ units[gallery].T, np.load(kept)
    fused = artefact.description.calibration.fusion.fuse(cosine, mnet)
    scores: dict[Scoring, NDArray[np.float32]] = {"cosine": cosine, "mnet": mnet, "fused": fused}
    return Cameras(scores, people[probes], people[gallery])


def trials(cameras: Cameras, size: int) -> Iterator[Trial]:
    """Random splits of the people with a gallery of `size` crops; none where too few stay unknown.

    People of whom there is no probe stand in the gallery.
    """
    random = np.random.default_rng(SEED)
    searching = np.unique(cameras.probes)
    only_there = np.setdiff1d(cameras.gallery, searching)
    crops = float(np.median(np.unique(cameras.gallery, return_counts=True)[1]))
    wanted = round(size / crops)
    limit = MOST_KNOWN * len(searching) if len(only_there) == 0 else 0.5 * len(searching)
    members = min(wanted, int(limit))
    if wanted - members > len(only_there):
        return
    for _ in range(TRIALS):
        people = random.permutation(searching)
        known, unknown = people[:members], people[members:]
        others = random.permutation(only_there)[: wanted - members]
        half, rest = unknown[: len(unknown) // 2], unknown[len(unknown) // 2 :]
        asking = known[: min(len(known) // 2, len(half))]
        yield Trial(
            np.flatnonzero(np.isin(cameras.gallery, np.concatenate([known, others]))),
            np.flatnonzero(np.isin(cameras.probes, np.concatenate([half, asking]))),
            np.flatnonzero(np.isin(cameras.probes, rest)),
            np.flatnonzero(np.isin(cameras.probes, known[len(asking) :])),
        )


def measure(artefact: Artefact, cameras: Cameras, size: int) -> dict[str, dict[str, Any]]:
    """By scoring and method, the obtained rate and the detection rate, over all trials."""
    own = artefact.description.calibration
    identical = identical_score(artefact.metric_network)
    alarms: dict[tuple[Scoring, str], list[NDArray[np.float64]]] = {}
    found: dict[tuple[Scoring, str], list[NDArray[np.float64]]] = {}
    whose: list[NDArray[np.str_]] = []
    for trial in trials(cameras, size):
        history = {
            name: scores[np.ix_(trial.history, trial.columns)]
            for name, scores in cameras.scores.items()
        }
        crops = np.unique(cameras.gallery[trial.columns], return_counts=True)[1]
        scored = np.full_like(history["cosine"], np.nan)
        rows, columns = some_places(history["cosine"]).T
        scored[rows, columns] = history["mnet"][rows, columns]
        per_person = float(np.median(crops))
        after = {
            ALONE: recalibrate(own, history["cosine"], identical, None, per_person),
            CHOSEN: recalibrate(own, history["cosine"], identical, None, per_person, scored),
        }
        whose.append(cameras.probes[trial.strangers])
        for name, scores in cameras.scores.items():
            thresholds = {
                method: of(own, name, history[name], history["cosine"])
                for method, of in METHODS.items()
            }
            for method, calibration in after.items():
                one = calibration.scorings[name]
                thresholds[method] = one.search_threshold(ASKED, len(trial.columns))
            stranger = scores[np.ix_(trial.strangers, trial.columns)].max(axis=1)
            member = _found(cameras, trial, scores)
            for method, threshold in thresholds.items():
                alarms.setdefault((name, method), []).append(_ones(stranger >= threshold))
                found.setdefault((name, method), []).append(_ones(member >= threshold))
    if not whose:
        return {}
    people = np.unique(np.concatenate(whose), return_inverse=True)[1].astype(np.int64)
    figures: dict[str, dict[str, Any]] = {}
    for (name, method), values in alarms.items():
        rate = mean_interval(np.concatenate(values), people)
        figures.setdefault(name, {})[method] = {
            "obtained": [round(value, 5) for value in (rate.mean, rate.low, rate.high)],
            "detected": round(float(np.concatenate(found[name, method]).mean()), 4),
        }
    return figures


def _ones(true: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.asarray(true, dtype=np.float64)


def _found(cameras: Cameras, trial: Trial, scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The best score of every member, −∞ where someone else's is better."""
    part = scores[np.ix_(trial.members, trial.columns)]
    own = cameras.probes[trial.members][:, None] == cameras.gallery[trial.columns][None, :]
    best = np.max(part, axis=1, where=own, initial=-np.inf)
    other = np.max(part, axis=1, where=~own, initial=-np.inf)
    return np.where(best > other, best, np.float32(-np.inf))


def markdown(results: list[dict[str, Any]], scoring: str) -> str:
    """A table of one scoring, in per cent: obtained, and after the stroke detected."""
    names = [*METHODS, *([] if scoring == "cosine" else [ALONE]), CHOSEN]
    lines = [
        f"| artefact, people, N | {' | '.join(names)} | 95% interval of the last |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for result in results:
        found = result["scorings"][scoring]
        cells = [
            f"{100 * found[name]['obtained'][0]:.2f} / {100 * found[name]['detected']:.1f}"
            for name in names
        ]
        low, high = (100 * value for value in found[CHOSEN]["obtained"][1:])
        title = f"{result['artefact']}, {result['features']}, {result['gallery']:,}"
        lines.append(f"| {title} | {' | '.join(cells)} | {low:.2f}–{high:.2f} |")
    return "\n".join(lines)


def main(
    of: Annotated[list[str], typer.Option(metavar="ARTEFACT=FEATURES", help="Of gmn embed.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write, a .json file.")],
    gallery: Annotated[list[int], typer.Option(metavar="N", help="Gallery sizes.")] = [  # noqa: B006
        100,
        600,
        1_000,
        10_000,
    ],
) -> None:
    """Measures every artefact and feature file at every gallery size that it has people for.

    Prints the tables of docs/calibration.md.
    """
    results = []
    for pair in of:
        name, _, file = pair.partition("=")
        artefact = load_artefact(resolve_artefact(name))
        cameras = read_cameras(artefact, Path(file))
        for size in gallery:
            figures = measure(artefact, cameras, size)
            if figures:
                results.append(
                    {
                        "artefact": Path(name).parent.name or name,
                        "features": Path(file).stem,
                        "gallery": size,
                        "scorings": figures,
                    }
                )
    for scoring in SHOWN:
        typer.echo(f"{markdown(results, scoring)}\n")
    with replacing(out) as beside:
        beside.write_text(
            json.dumps({"asked": ASKED, "trials": TRIALS, "results": results}, indent=1)
        )


if __name__ == "__main__":
    typer.run(main)
