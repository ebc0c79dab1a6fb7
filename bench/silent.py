"""Alarms by silent people of watch lists, and listed people found, on Market-1501's test part.

Run `gmn embed ARTEFACT --data market1501:PATH --out FEATURES` first. Lists are drawn as by
`bench.watch`, watch other cameras than those that enrolled them, and have no traffic. Beside each
list, silent people are drawn several times, with one, two or five crops of each, from as many
cameras as possible: those that enrolled the list, or those that it watches. Tracks that show an
enrolled crop are not judged. A track shows its crops in the order of its frames, and raises an
alarm at the first crop that rings, as in the service.

Only people with odd numbers are drawn, as the one constant was chosen on the others;
`--people even` draws those. `python -m bench.figures silent FILE…` writes the table of
docs/alarms.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import typer

from bench.watch import (
    CROPS,
    CROPS_COMPARED,
    OTHER_CAMERAS,
    Features,
    draw_list,
    read_crops,
)
from model.artefact import load_artefact, resolve_artefact
from model.problems import InputProblem
from service.watch.forecast import forecast_alarms, measure_kept_silent
from service.watch.scores import WatchList
from service.watch.silent import SilentGallery, advantage_of
from service.watch.threshold import ThresholdFit

SIZES = (9, 30)
SILENT_PEOPLE = 12
# Lists of each size: each camera group with each number of crops of listed and of silent people.
LISTS = 108
SILENT_DRAWS = 4
RATES = (1e-2, 1e-3)
# Cameras that enrolled the silent people: those of the list, or those that it watches.
ENROLLED_BY = ("list's", "watching")
Halves = Literal["odd", "even"]


def judge_lists(
    crops: pd.DataFrame,
    features: Features,
    reference: Features,
    advantage: float,
    size: int,
    enrolled_by: str,
) -> Iterator[dict[str, Any]]:
    """Draw lists of `size` people, each beside several draws of silent people.

    Args:
        advantage: that of silent people, as in `SilentGallery`.
        enrolled_by: cameras that enrolled the silent people, one of `ENROLLED_BY`.

    Yields:
        A row for each list, draw and rate: numbers of tracks of silent people, listed people and
        strangers, and of those that raised an alarm, of listed people by the right name, without
        silent people (`_before`) and with them. `low` and `high` are the forecast of strangers'
        alarms.
    """
    for number in range(LISTS):
        random = np.random.default_rng([size, number])
        enrolling, passed = OTHER_CAMERAS[number % len(OTHER_CAMERAS)]
        turn = number // len(OTHER_CAMERAS)
        crops_per_person = CROPS[turn % len(CROPS)]
        crops_per_silent = CROPS[turn // len(CROPS) % len(CROPS)]
        drawn = crops.sample(frac=1, random_state=random)
        enrolled = drawn[drawn.camera.isin(list(enrolling))]
        listed = draw_list(enrolled, size, crops_per_person)
        watch_list = _make_list(features, listed)
        seen = drawn[drawn.camera.isin(list(passed))].groupby("track").head(CROPS_COMPARED)
        seen = seen.sort_values(["track", "frame"])
        scores, cosines, nearest = watch_list.score(features[seen.index])
        seen = seen.assign(
            score=scores,
            listed=cosines,
            right=watch_list.people[nearest] == seen.person,
        )
        looks = len(seen) / seen.track.nunique()
        thresholds = [ThresholdFit(watch_list, rate, reference, looks).at() for rate in RATES]
        for draw in range(SILENT_DRAWS):
            order = np.random.default_rng([size, number, draw])
            others = drawn[~drawn.person.isin(listed.person)].sample(frac=1, random_state=order)
            cameras = passed if enrolled_by == "watching" else enrolling
            pool = others[others.camera.isin(list(cameras))]
            silent = draw_list(pool, SILENT_PEOPLE, crops_per_silent)
            silent_gallery = SilentGallery("silent", _make_list(features, silent), advantage)
            passing = seen[~seen.track.isin(silent.track)]
            passing = passing.assign(limit=silent_gallery.limits(features[passing.index]))
            kept_silent = measure_kept_silent(watch_list, silent_gallery, reference)
            for threshold in thresholds:
                tracks = ring(passing, threshold.value)
                is_listed = tracks.person.isin(listed.person)
                is_silent = tracks.person.isin(silent.person)
                strangers = tracks[~is_listed & ~is_silent]
                forecast = forecast_alarms(
                    threshold,
                    len(strangers),
                    len(strangers) / strangers.person.nunique(),
                    kept_silent,
                )
                yield {
                    "size": size,
                    "enrolled_by": enrolled_by,
                    "rate": threshold.asked,
                    "silent": is_silent.sum(),
                    "silent_alarms_before": tracks.rings_before[is_silent].sum(),
                    "silent_alarms": tracks.rings[is_silent].sum(),
                    "listed": is_listed.sum(),
                    "found_before": tracks.finds_before[is_listed].sum(),
                    "found": tracks.finds[is_listed].sum(),
                    "strangers": len(strangers),
                    "stranger_alarms_before": strangers.rings_before.sum(),
                    "stranger_alarms": strangers.rings.sum(),
                    "low": forecast.low,
                    "high": forecast.high,
                }


def _make_list(features: Features, crops: pd.DataFrame) -> WatchList:
    return WatchList(
        features[crops.index], crops.person.to_numpy(), crops.camera.to_numpy(np.int64)
    )


def ring(passing: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Return for each track whether it raises an alarm, without silent people and with them.

    Args:
        passing: the crops of tracks, in the order in which they arrive, with `track`, `person`,
            `score` and `listed` (the best cosine) with the list, `right` if its nearest person is
            theirs, and `limit`, the cosine that the silent people demand.

    Returns:
        `person`, `rings_before` and `rings` by track; `finds_before` and `finds` if it was by the
        right name.
    """
    best = passing.groupby("track")[["listed", "limit"]].cummax()
    exceeds = passing.score > threshold
    rings = exceeds & (best.listed >= best.limit)
    looks = passing.assign(
        rings_before=exceeds,
        rings=rings,
        finds_before=exceeds & passing.right,
        finds=rings & passing.right,
    )
    outcomes = ["rings_before", "rings", "finds_before", "finds"]
    tracks = looks.groupby("track")
    return tracks[outcomes].any().assign(person=tracks.person.first())


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Summarize the lists of a cell.

    `silent_alarms` and `stranger_alarms` are ratios of the alarms with silent people to those
    without; `found` is the share of listed people's tracks. `inside` and `above` are shares of
    lists whose strangers' alarms are inside the forecast interval and above it.
    """
    sums = rows.sum(numeric_only=True)
    inside = rows.stranger_alarms.between(rows.low, rows.high)
    return {
        "silent_alarms_before": int(sums.silent_alarms_before),
        "silent_alarms": round(sums.silent_alarms / max(1, sums.silent_alarms_before), 3),
        "stranger_alarms": round(sums.stranger_alarms / max(1, sums.stranger_alarms_before), 3),
        "found_before": round(sums.found_before / sums.listed, 4),
        "found": round(sums.found / sums.listed, 4),
        "inside": round(inside.mean(), 3),
        "above": round((rows.stranger_alarms > rows.high).mean(), 3),
    }


def main(
    artefact: str,
    features: Path,
    people: Annotated[Halves, typer.Option(help="Which people are drawn.")] = "odd",
) -> None:
    """Draw lists and silent people, and print the figures as a JSON object.

    Args:
        artefact: a file with a reference, or a shipped name.
        features: the file that gmn embed wrote with this artefact.
    """
    loaded = load_artefact(resolve_artefact(artefact))
    reference = loaded.reference
    if reference is None:
        raise InputProblem(f"{artefact} has no reference; gmn artefact add-reference adds one")
    crops, vectors = read_crops(features)
    crops = crops[crops.person % 2 == (people == "odd")]
    advantage = advantage_of(loaded.description.calibration.scorings["cosine"])
    cells = []
    for enrolled_by in ENROLLED_BY:
        for size in SIZES:
            judged = judge_lists(crops, vectors, reference, advantage, size, enrolled_by)
            rows = pd.DataFrame(judged)
            for rate, cell in rows.groupby("rate", sort=False):
                described = {"size": size, "enrolled_by": enrolled_by, "rate": rate}
                cells.append({"artefact": artefact} | described | figures(cell))
    typer.echo(json.dumps({"results": cells}))


if __name__ == "__main__":
    typer.run(main)
