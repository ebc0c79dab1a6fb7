"""False alarms and found people of watch lists against their forecasts, on Market-1501's test part.

`gmn embed ARTEFACT --data market1501:PATH --out FEATURES` comes before. A list draws its people, an
enrolling camera or three of them, and one, two or five crops a person. A track has crops of one
person and camera without a gap of more than 1,000 frames. A third of the strangers send the traffic
that a list has seen, and the others' tracks are judged.
`python -m bench.figures watch FILE…` writes the table of docs/watch.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from model.artefact import load_artefact, resolve_artefact
from model.feature_file import read_features
from model.problems import InputProblem
from service.watch.forecast import forecast_alarms, forecast_found
from service.watch.scores import WatchList
from service.watch.threshold import Traffic, fit_threshold

SIZES = (3, 9, 18, 40, 100)
LISTS = 90
CROPS = (1, 2, 5)
RATES = (1e-2, 1e-3)
# Cameras that enroll people, and cameras that they pass.
CAMERAS = [
    ("1", "23456"),
    ("2", "13456"),
    ("3", "12456"),
    ("6", "12345"),
    ("135", "246"),
    ("246", "135"),
]
# Listed people's share of the traffic.
TRAFFIC = {"none": None, "strangers": 0.0, "20% listed": 0.2}
TRACKS_SEEN = 200
CROPS_COMPARED = 8
GAP_FRAMES = 1000
NAME = r"(?P<person>\d{4})_c(?P<camera>\d)s(?P<part>\d)_(?P<frame>\d+)"
TEST_PART = r"query|bounding_box_test"
DISTRACTORS = "0000"
Features = NDArray[np.float32]


def read_crops(path: Path) -> tuple[pd.DataFrame, Features]:
    """Read the test part's people, cameras and tracks, and features `(n, d)`."""
    file = read_features(path, ["paths"])
    paths = pd.Series(file.paths)
    crops = paths[paths.str.contains(TEST_PART)].str.extract(NAME).dropna()
    crops = crops[crops.person != DISTRACTORS].astype({"person": int, "frame": int})
    crops = crops.sort_values(["person", "camera", "part", "frame"])
    place = crops[["person", "camera", "part"]]
    is_elsewhere = (place != place.shift()).any(axis=1)
    is_later = crops.frame.diff() > GAP_FRAMES
    begins = is_elsewhere | is_later
    return crops.assign(track=begins.cumsum()).reset_index(names="row"), file.features


def judge_lists(
    crops: pd.DataFrame,
    features: Features,
    reference: Features | None,
    size: int,
) -> Iterator[dict[str, Any]]:
    """Yield a row for each list of `size` people, traffic and rate."""
    for number in range(LISTS):
        random = np.random.default_rng([size, number])
        enrolling, passed = CAMERAS[number % len(CAMERAS)]
        most = CROPS[number // len(CAMERAS) % len(CROPS)]
        shown = crops[crops.camera.isin(list(enrolling))]
        shown = shown.sample(frac=1, random_state=random)
        listed = random.permutation(shown.person.unique())[:size]
        # A person's crops are of as many cameras as there are.
        shown = shown[shown.person.isin(listed)]
        turns = shown.groupby(["person", "camera"]).cumcount()
        shown = shown.loc[turns.sort_values(kind="stable").index]
        shown = shown.groupby("person").head(most)
        cameras = shown.camera.to_numpy(np.int64)
        watch_list = WatchList(
            features[shown.row],
            shown.person.to_numpy(),
            cameras,
        )
        seen = crops[crops.camera.isin(list(passed))]
        seen = seen.sample(frac=1, random_state=random)
        seen = seen.groupby("track").head(CROPS_COMPARED)
        heights, nearest = watch_list.heights(features[seen.row])
        seen = seen.assign(height=heights, right=nearest == seen.person)
        tracks = seen.sort_values("height").groupby("track").last()
        known = tracks[tracks.person.isin(listed)]
        strangers = tracks[~tracks.person.isin(listed)]
        order = random.permutation(strangers.person.unique())
        early = strangers.person.isin(order[: len(order) // 3])
        judged = strangers[~early]
        tracks_per_person = len(judged) / judged.person.nunique()
        for name, share in TRAFFIC.items():
            traffic = None
            if share is not None:
                count = min(round(share * TRACKS_SEEN), len(known))
                parts = [
                    known.height.sample(count, random_state=random),
                    strangers.height[early].sample(TRACKS_SEEN - count, random_state=random),
                ]
                traffic = Traffic.of(pd.concat(parts).to_numpy())
            for rate in RATES:
                threshold = fit_threshold(
                    watch_list,
                    rate,
                    reference,
                    traffic,
                    len(seen) / len(tracks),
                )
                alarms = forecast_alarms(threshold, len(judged), tracks_per_person)
                if alarms.low is None or alarms.high is None:
                    raise InputProblem("the artefact has no reference; gmn artefact add-reference")
                found = forecast_found(watch_list, threshold)
                obtained = float(((known.height > threshold.height) & known.right).mean())
                raised = int((judged.height > threshold.height).sum())
                yield {
                    "traffic": name,
                    "rate": rate,
                    "ratio": raised / (rate * len(judged)),
                    "inside": alarms.low <= raised <= alarms.high,
                    "above": raised > alarms.high,
                    "found": obtained,
                    "basis": found.found_basis,
                    "as_forecast": (found.found_low or 0.0)
                    <= obtained
                    <= (found.found_high or 1.0),
                }


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Summarize lists; `ratio` is the median, 5% and 95% quantile of obtained over asked rates."""
    return {
        "ratio": rows.ratio.quantile([0.5, 0.05, 0.95]).round(2).tolist(),
        **rows[["inside", "above", "found"]].mean().round(3),
        "as_forecast": rows.groupby("basis").as_forecast.mean().round(3).to_dict(),
    }


def main(
    artefact: Annotated[str, typer.Option(help="A file with a reference, or a shipped name.")],
    features: Annotated[Path, typer.Option(help="Written by gmn embed, of the same artefact.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the figures.")],
) -> None:
    """Draw lists of every size, and write a list of JSON objects."""
    reference = load_artefact(resolve_artefact(artefact)).reference
    crops, vectors = read_crops(features)
    cells = []
    for size in SIZES:
        rows = pd.DataFrame(judge_lists(crops, vectors, reference, size))
        for (traffic, rate), cell in rows.groupby(["traffic", "rate"], sort=False):
            about = {"artefact": artefact, "size": size, "traffic": traffic, "rate": rate}
            cells.append(about | figures(cell))
    out.write_text(json.dumps(cells), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
