"""False alarms and found people of watch lists against their forecasts, on Market-1501's test part.

Run `gmn embed ARTEFACT --data market1501:PATH --out FEATURES` first. For each list, people, one or
three enrolling cameras, and one, two or five crops per person are drawn. A track has crops of one
person and camera without a gap of more than 1,000 frames. A third or half of the strangers are the
traffic that a list has seen, and the tracks of the others are judged.

The people of a list pass other cameras than those that enrolled them, or the same camera. At the
same camera each of them has two tracks or more, of which one is enrolled. Only people with odd
numbers are drawn for it, as the constants of that case were chosen on the others.

An artefact without a reference forecasts nothing for lists of fewer than 18 people and promises no
rate below 1%, and no traffic moves its thresholds, so that none of these is measured.
`python -m bench.figures watch FILE…` writes the table of docs/alarms.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from model.arrays import Array
from model.artefact import load_artefact, resolve_artefact
from model.order_statistics import FEW_IDENTITIES
from service.watch.forecast import forecast_alarms, forecast_found
from service.watch.scores import WatchList
from service.watch.threshold import (
    LEAST_RATE_ALONE,
    Reviews,
    ThresholdFit,
    Traffic,
    WatchThreshold,
)
from training.evaluation.files import read_features

SIZES = (3, 9, 18, 40, 100)
LISTS = 90
CROPS = (1, 2, 5)
RATES = (1e-2, 1e-3)
# Cameras that enroll people, and cameras that they pass, which are others or the same one.
OTHER_CAMERAS = [
    ("1", "23456"),
    ("2", "13456"),
    ("3", "12456"),
    ("6", "12345"),
    ("135", "246"),
    ("246", "135"),
]
OWN_CAMERAS = [(camera, camera) for camera in "12356"]
CAMERAS = {"another": OTHER_CAMERAS, "own": OWN_CAMERAS}
# One stranger in three, or in two, is part of the traffic. One camera alone sees fewer people.
STRANGERS_PER_SENDER = {"another": 3, "own": 2}
# Listed people's share of the traffic.
TRAFFIC = {"strangers": 0.0, "20% listed": 0.2}
TRACKS_SEEN = 200
# Reviews at the own camera after traffic of strangers: right decisions on the traffic and on half
# of the listed people, or `WRONG_REJECTIONS` rejections of alerts about listed people.
REVIEWED = "strangers, reviewed"
ATTACKED = "strangers, wrongly rejected"
WRONG_REJECTIONS = 20
CROPS_COMPARED = 8
GAP_FRAMES = 1000
# Files of the test part, without 0000 and -1, the distractors and junk, which show nobody.
NAME = (
    r"(?:query|bounding_box_test)/"
    r"(?P<person>(?!0000)\d{4})_c(?P<camera>\d)s(?P<part>\d)_(?P<frame>\d+)"
)
Features = NDArray[np.float32]


def read_crops(path: Path, gap_frames: int = GAP_FRAMES) -> tuple[pd.DataFrame, Features]:
    """Read people, cameras and tracks of the test part, by row, and all features `(n, d)`.

    Args:
        gap_frames: the longest gap within a track.
    """
    file = read_features(path)
    crops = pd.Series(file.columns["paths"]).str.extract(NAME).dropna()
    crops = crops.astype({"person": int, "frame": int})
    crops = crops.sort_values(["person", "camera", "part", "frame"])
    gaps = crops.groupby(["person", "camera", "part"]).frame.diff()
    # The first crop of a person and camera begins a track, too; its gap is NaN.
    begins = ~(gaps <= gap_frames)
    crops["track"] = begins.cumsum()
    return crops, file.features


def judge_lists(
    crops: pd.DataFrame,
    features: Features,
    reference: Features | None,
    size: int,
    camera: str,
) -> Iterator[dict[str, Any]]:
    """Draw lists of `size` people, which watch `another` camera or their `own`.

    Args:
        reference: the artefact's reference; without one, the lists have no traffic.

    Yields:
        A row for each list, traffic and rate: the alarms of strangers' tracks, the share of listed
        people's tracks that are found, and the forecasts of both.
    """
    if camera == "own":
        crops = crops[crops.person % 2 == 1]
    for number in range(LISTS):
        random = np.random.default_rng([size, number])
        enrolling, passed = CAMERAS[camera][number % len(CAMERAS[camera])]
        crops_per_person = CROPS[number // len(CAMERAS[camera]) % len(CROPS)]
        drawn = crops.sample(frac=1, random_state=random)

        enrolled = drawn[drawn.camera.isin(list(enrolling))]
        seen = drawn[drawn.camera.isin(list(passed))]
        if camera == "own":
            enrolled = choose_tracks(enrolled)
        listed = draw_list(enrolled, size, crops_per_person)
        watch_list = WatchList(
            features[listed.index], listed.person.to_numpy(), listed.camera.to_numpy(np.int64)
        )
        seen = seen[~seen.track.isin(listed.track)].groupby("track").head(CROPS_COMPARED)
        scores, _, nearest = watch_list.score(features[seen.index])
        seen = seen.assign(score=scores, right=watch_list.people[nearest] == seen.person)
        tracks = seen.sort_values("score").groupby("track").last()
        is_listed = tracks.person.isin(listed.person)
        known = tracks[is_listed]
        strangers = tracks[~is_listed]
        people = random.permutation(strangers.person.unique())
        senders = people[: len(people) // STRANGERS_PER_SENDER[camera]]
        sends_traffic = strangers.person.isin(senders)
        judged = strangers[~sends_traffic]

        sent = {
            name: draw_traffic(known, strangers[sends_traffic], share, random)
            for name, share in TRAFFIC.items()
        }
        for rate in RATES:
            if reference is None and rate < LEAST_RATE_ALONE:
                continue
            fit = ThresholdFit(watch_list, rate, reference, len(seen) / len(tracks))
            code = int(passed) if camera == "own" else None
            thresholds = {"none": fit.at(code)}
            if reference is not None:
                for name, scores in sent.items():
                    thresholds[name] = fit.at(code, Traffic.of(scores))
                if camera == "own":
                    thresholds |= review(fit, int(passed), known, sent["strangers"], random)
            for name, threshold in thresholds.items():
                yield {
                    "camera": camera,
                    "traffic": name,
                    "rate": rate,
                    "judged": len(judged),
                    "raised": (judged.score > threshold.value).sum(),
                    "obtained": ((known.score > threshold.value) & known.right).mean(),
                    **forecast_alarms(
                        threshold, len(judged), len(judged) / judged.person.nunique()
                    )._asdict(),
                    **forecast_found(watch_list, threshold)._asdict(),
                }


def choose_tracks(crops: pd.DataFrame) -> pd.DataFrame:
    """Choose one track of each person who has several, and return its crops."""
    tracks = crops.groupby("person").track
    return crops[(crops.track == tracks.transform("first")) & (tracks.transform("nunique") > 1)]


def draw_list(
    crops: pd.DataFrame,
    size: int,
    crops_per_person: int,
) -> pd.DataFrame:
    """Return the crops of a list's first people, each by as many of the cameras as possible.

    The crops are ordered by person.
    """
    people = crops.person.unique()[:size]
    crops = crops[crops.person.isin(people)]
    turns = crops.groupby(["person", "camera"]).cumcount()
    by_person = crops.assign(turn=turns).sort_values(["person", "turn"], kind="stable")
    return by_person.groupby("person").head(crops_per_person)


def draw_traffic(
    known: pd.DataFrame,
    strangers: pd.DataFrame,
    share: float,
    random: np.random.Generator,
) -> Array:
    """Draw the scores of tracks that the list has seen, with a share of listed people."""
    listed_tracks = min(round(share * TRACKS_SEEN), len(known))
    parts = [(known, listed_tracks), (strangers, TRACKS_SEEN - listed_tracks)]
    sent = [
        tracks.score.sample(number, random_state=random, replace=len(tracks) < number)
        for tracks, number in parts
    ]
    return np.concatenate(sent)


def review(
    fit: ThresholdFit,
    camera: int,
    known: pd.DataFrame,
    sent: Array,
    random: np.random.Generator,
) -> dict[str, WatchThreshold]:
    """Return the thresholds at a camera after right reviews and after wrong reviews."""
    traffic = Traffic.of(sent)
    value = fit.at(camera, traffic).value
    raised = known.score[known.score > value]
    confirmed = raised.sample(frac=0.5, random_state=random).to_numpy(np.float64)
    rejected = sent[sent > value]
    wrong = raised.nlargest(WRONG_REJECTIONS).to_numpy(np.float64)
    nobody = np.zeros(0)
    return {
        REVIEWED: fit.at(camera, traffic, Reviews(rejected, confirmed)),
        ATTACKED: fit.at(camera, traffic, Reviews(np.resize(wrong, WRONG_REJECTIONS), nobody)),
    }


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Summarize lists of one size, traffic and rate.

    `ratio` is the median, 5% and 95% quantile of the obtained rate over the requested one. The
    others are shares: of lists with alarms inside and above the forecast interval, of tracks found,
    and of lists that find as many tracks as forecast, by the basis of the forecast.
    """
    ratio = rows.raised / (rows.rate * rows.judged)
    low = rows.found_low.astype(float).fillna(0.0)
    high = rows.found_high.astype(float).fillna(1.0)
    as_forecast = rows.obtained.between(low, high).groupby(rows.found_basis)
    return {
        "ratio": ratio.quantile([0.5, 0.05, 0.95]).round(2).tolist(),
        "mean_ratio": ratio.mean().round(2),
        "inside": rows.raised.between(rows.low, rows.high).mean().round(3),
        "above": (rows.raised > rows.high).mean().round(3),
        "found": rows.obtained.mean().round(3),
        "as_forecast": as_forecast.mean().round(3).to_dict(),
    }


def main(artefact: str, features: Path) -> None:
    """Draw lists of every size, and print the figures as a JSON object.

    Args:
        artefact: a file, or a shipped name.
        features: the file that gmn embed wrote with this artefact.
    """
    reference = load_artefact(resolve_artefact(artefact)).reference
    least = FEW_IDENTITIES if reference is None else 1
    crops, vectors = read_crops(features)
    cells = []
    for camera in CAMERAS:
        for size in (size for size in SIZES if size >= least):
            rows = pd.DataFrame(judge_lists(crops, vectors, reference, size, camera))
            for (traffic, rate), cell in rows.groupby(["traffic", "rate"], sort=False):
                described = {"camera": camera, "size": size, "traffic": traffic, "rate": rate}
                cells.append({"artefact": artefact} | described | figures(cell))
    typer.echo(json.dumps({"results": cells}))


if __name__ == "__main__":
    typer.run(main)
