"""How well tracks are joined into people, and people are counted, on Market-1501's test part.

Run `gmn embed ARTEFACT --data market1501:PATH --out FEATURES` first. The tracker is given: a track
has crops of one person, camera and sequence without a gap of more than two seconds. Who is who
across tracks is not given. Each sequence is a time of its own. The constants of grouping were
chosen with `small` on the first half of the people, without identity 182, whom the pictures show to
be identity 60. `python -m bench.figures people FILE…` and `people-stated` write the tables of
docs/seen.md.

`--scale` groups drawn crops instead, and compares the time with that of the product of all pairs.
"""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer

from bench.watch import read_crops
from model.arrays import Array, Floats, sigmoid, unit_rows
from model.artefact import read_description, resolve_artefact
from model.calibration import ScoringCalibration
from service.search.calibration import JOINING_SHARE
from service.visits.grouping import group_crops
from service.visits.linkage import People, join_tracklets, widen_interval
from service.visits.reading import SeenCrop, SeenCrops
from service.visits.tracklets import find_tracklets

FRAMES_PER_SECOND = 25.0
GAP_FRAMES = 50
# Sequences begin a day apart.
SEQUENCE_SECONDS = 86_400.0
DRAWS = 40
SIZES = (10, 25, 50, 100, 200)
# Identities 60 and 182 of the test part are one person.
DOUBLE = 182
# The probabilities that groups state, in classes.
PROBABILITIES = (0.5, 0.8, 0.95, 0.99, 1.01)
SCALE_CROPS = 100_000
SCALE_TRACKS = 10_000
SCALE_DIMENSION = 256


def read_people(path: Path) -> tuple[pd.DataFrame, Floats]:
    """Read people, cameras, times and tracks of the test part, and unit vectors, in one order."""
    crops, features = read_crops(path, GAP_FRAMES)
    crops = crops.astype({"part": int})
    crops["time"] = crops.part * SEQUENCE_SECONDS + crops.frame / FRAMES_PER_SECOND
    vectors = unit_rows(features[crops.index.to_numpy()])
    return crops.reset_index(drop=True), vectors


def halves(crops: pd.DataFrame) -> dict[str, Array]:
    people = np.random.default_rng(0).permutation(np.sort(crops.person.unique()))
    parts = {"chosen on": people[::2], "not chosen on": people[1::2]}
    return {half: part[part != DOUBLE] for half, part in parts.items()}


def select(crops: pd.DataFrame, vectors: Floats, people: Array) -> tuple[SeenCrops, Array]:
    """Return the crops of people as the service reads them, and who is on each."""
    own = crops[crops.person.isin(people)]
    labels = [
        SeenCrop(slot, str(slot), None, crop.camera, str(crop.track), crop.time)
        for slot, crop in enumerate(own.itertuples(), 1)
    ]
    return SeenCrops(1, labels, vectors[own.index.to_numpy()]), own.person.to_numpy()


def judge(
    crops: SeenCrops, shown: Array, calibration: ScoringCalibration
) -> tuple[dict[str, Any], list[tuple[float, bool]]]:
    """Compare the groups of crops with their people.

    Args:
        shown: person of each crop, `(n,)`.

    Returns:
        Counts of pairs of tracks and of people; and for each group of several tracks the
        probability that it states, and whether it is of one person.
    """
    tracklets = find_tracklets(crops, calibration.pair_threshold(JOINING_SHARE))
    people = join_tracklets(crops, tracklets, calibration)
    who = np.array([np.bincount(shown[tracklet.positions]).argmax() for tracklet in tracklets])
    pairs = np.triu_indices(len(who), 1)
    is_joined = (people.labels[:, None] == people.labels)[pairs]
    is_same = (who[:, None] == who)[pairs]
    fewest, most, counted = count_people(people)
    counts = {
        "tracks": len(tracklets),
        "right": int((is_joined & is_same).sum()),
        "joined": int(is_joined.sum()),
        "same": int(is_same.sum()),
        "fewest": fewest,
        "counted": counted,
        "most": most,
    }
    return counts, list(describe_groups(people, who))


def count_people(people: People) -> tuple[int, int, int]:
    """Return the ends of the interval and the number, as the service counts people."""
    counted = int(people.counted.max()) + 1
    fewest = int(people.fewest.max()) + 1
    most = int(people.most.max()) + 1
    return *widen_interval(counted, fewest, most), counted


def describe_groups(people: People, who: Array) -> Iterator[tuple[float, bool]]:
    for label, weakest in enumerate(people.weakest):
        if np.isfinite(weakest):
            own = who[people.labels == label]
            yield float(sigmoid(weakest)), bool((own == own[0]).all())


def measure(artefact: str, features: Path) -> dict[str, list[dict[str, Any]]]:
    """Return rows of groups and counts, and rows of the probabilities that groups state."""
    results: list[dict[str, Any]] = []
    probabilities: list[dict[str, Any]] = []
    calibration = read_description(resolve_artefact(artefact)).calibration.scorings["cosine"]
    crops, vectors = read_people(features)
    for half, people in halves(crops).items():
        stated: list[tuple[float, bool]] = []
        for size in (*SIZES, len(people)):
            generator = np.random.default_rng(size)
            draws = 1 if size == len(people) else DRAWS
            rows = []
            for _ in range(draws):
                drawn = generator.choice(people, size, replace=False)
                counts, groups = judge(*select(crops, vectors, drawn), calibration)
                rows.append(counts)
                stated += groups
            described = {"artefact": artefact, "half": half, "people": size}
            results.append(described | summarize(rows, size))
        described = {"artefact": artefact, "half": half}
        probabilities += [described | own for own in reliability(stated)]
    return {"results": results, "stated": probabilities}


def summarize(rows: list[dict[str, Any]], size: int) -> dict[str, Any]:
    table = pd.DataFrame(rows)
    total = table.sum()
    return {
        "draws": len(rows),
        "tracks": round(float(table.tracks.mean()), 1),
        "precision": round(float(total.right / max(total.joined, 1)), 4),
        "recall": round(float(total.right / total.same), 4),
        "counted": round(float(table.counted.mean()), 1),
        "inside": round(float(((table.fewest <= size) & (size <= table.most)).mean()), 3),
        "low": round(float((table.fewest / table.counted).mean()), 3),
        "high": round(float((table.most / table.counted).mean()), 3),
    }


def reliability(stated: list[tuple[float, bool]]) -> list[dict[str, Any]]:
    """Compare what groups of several tracks state with the share that are of one person."""
    table = pd.DataFrame(stated, columns=["probability", "is_one"])
    classes = pd.cut(table.probability, PROBABILITIES, right=False)
    return [
        {
            "groups": len(own),
            "stated": round(float(own.probability.mean()), 3),
            "of_one_person": round(float(own.is_one.mean()), 3),
        }
        for _, own in table.groupby(classes, observed=True)
    ]


def measure_scale(artefact: str) -> dict[str, Any]:
    """Group drawn crops, and multiply all pairs of their vectors, on this thread."""
    calibration = read_description(resolve_artefact(artefact)).calibration.scorings["cosine"]
    generator = np.random.default_rng(0)
    looks = generator.normal(size=(SCALE_TRACKS // 4, SCALE_DIMENSION)).astype(np.float32)
    per_track = SCALE_CROPS // SCALE_TRACKS
    tracks = np.repeat(np.arange(SCALE_TRACKS), per_track)
    noise = generator.normal(size=(SCALE_CROPS, SCALE_DIMENSION)).astype(np.float32)
    units = unit_rows(looks[tracks % len(looks)] + 0.7 * noise)
    labels = [
        SeenCrop(
            slot, str(slot), None, str(track % 10), str(track), 60.0 * track + slot % per_track
        )
        for slot, track in enumerate(tracks.tolist(), 1)
    ]
    crops = SeenCrops(1, labels, units)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    groups = group_crops(crops, calibration, calibration.pair_threshold(JOINING_SHARE))
    grouping = time.process_time() - began
    began = time.process_time()
    for start in range(0, SCALE_CROPS, 256):
        units[start : start + 256] @ units.T
    product = time.process_time() - began
    return {
        "crops": SCALE_CROPS,
        "tracks": SCALE_TRACKS,
        "groups": len(groups),
        "cpu_seconds": round(grouping, 1),
        "product_cpu_seconds": round(product, 1),
        "ratio": round(grouping / product, 2),
        "gigabytes_more": round(
            (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6, 2
        ),
    }


def main(artefact: str, features: Path | None = None, scale: bool = False) -> None:
    """Print the figures as a JSON object.

    Args:
        artefact: a file, or a shipped name.
        features: the file or folder that gmn embed wrote with this artefact.
        scale: measure the time and memory of a large grouping instead.
    """
    figures = {"results": [measure_scale(artefact)]} if scale else {}
    if features is not None:
        figures |= measure(artefact, features)
    typer.echo(json.dumps(figures))


if __name__ == "__main__":
    typer.run(main)
