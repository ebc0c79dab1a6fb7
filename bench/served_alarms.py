"""False alarms that a running service was asked for, and those it obtained.

`python -m bench.served_alarms --artefact ARTEFACT --data KIND:PATH` starts a service. People are
split at random into two halves, a gallery is filled with one half's crops under one camera, and
crops under the other camera search it: the other half's, or with `--mixed` everybody's. Searches
are sent when the gallery has thresholds of its own, and all are judged. Every split is a gallery.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import pandas as pd
import typer

from bench.few_people import matched_rate
from demo.data_sets import query_crops, read_spec
from demo.service import own_service
from gmn_client import Client, QueryOptions
from model.calibration import Scoring
from model.problems import InputProblem
from service.commands.bulk import SourceCrop, enroll_crops

ASKED = "far_1e-2"
SCORINGS: tuple[Scoring, ...] = ("mnet", "cosine")
SPLITS = 8
SEED = 0
# More searches of one split would add little, as the figures depend on the number of people.
SEARCHES = 240
FIRST_FIT_SECONDS = 120.0
POLL_SECONDS = 0.5


class Split(NamedTuple):
    """Crops to enroll, crops that search in their order, and the names of enrolled people."""

    gallery: list[SourceCrop]
    searches: list[SourceCrop]
    known: frozenset[str]


def splits(
    crops: Sequence[SourceCrop],
    mixed: bool,
    number: int,
) -> Iterator[Split]:
    """Yield random halves of the people, enrolled under the camera with most crops."""
    cameras = Counter(crop.camera for crop in crops).most_common()
    if len(cameras) != 2:
        raise InputProblem(f"the data has {len(cameras)} cameras; name crops under two")
    gallery = cameras[0][0]
    people = np.unique([str(crop.identity) for crop in crops])
    random = np.random.default_rng(SEED)
    for _ in range(number):
        known = frozenset(random.permutation(people)[: len(people) // 2].tolist())
        searches = [
            crop
            for crop in crops
            if crop.camera != gallery and (mixed or crop.identity not in known)
        ]
        yield Split(
            gallery=[crop for crop in crops if crop.camera == gallery and crop.identity in known],
            searches=[searches[place] for place in random.permutation(len(searches))[:SEARCHES]],
            known=known,
        )


def fill(
    url: str,
    split: Split,
    gallery: str,
    scorings: Sequence[Scoring],
) -> None:
    """Fill a gallery, and wait until it has thresholds of its own.

    Raises:
        InputProblem: it has none after two minutes.
    """
    with Client(url, gallery=gallery) as client:
        client.create_gallery(gallery)
        list(enroll_crops(client, split.gallery))
        deadline = time.monotonic() + FIRST_FIT_SECONDS
        while True:
            calibration = client.gallery(gallery).calibration
            if all(calibration.scorings[scoring].state == "own" for scoring in scorings):
                return
            if time.monotonic() > deadline:
                raise InputProblem(
                    f"gallery {gallery} has no thresholds of its own but those of its "
                    f"{calibration.state}; name 36 people or more"
                )
            time.sleep(POLL_SECONDS)


def judge(
    url: str,
    split: Split,
    gallery: str,
    scoring: Scoring,
) -> Iterator[dict[str, Any]]:
    """Search a gallery by one scoring, and yield a row for each answer by its own calibration."""
    options: QueryOptions = {"scoring": scoring, "operating_point": ASKED, "top_k": 1}
    with Client(url, gallery=gallery) as client:
        for crop, answer, _ in query_crops(client, split.searches, options):
            first = answer.results[0]
            identity = str(crop.identity)
            score = first.cosine if scoring == "cosine" else first.pair_logit
            if answer.calibration.state == "own" and score is not None:
                yield {
                    "gallery": gallery,
                    "identity": identity,
                    "known": identity in split.known,
                    "matched": answer.verdict == "match",
                    "right": first.identity == identity,
                    "score": score,
                }


def figures(judged: pd.DataFrame) -> dict[str, Any]:
    """Return shares answered `match`: of strangers, with a 95% interval over people, and of known.

    `best` is the share that each gallery's best threshold on the same scores would have detected.
    """
    strangers = judged[~judged.known]
    members = judged[judged.known]
    rate = matched_rate(strangers)
    best = members.gallery.map(strangers.groupby("gallery").score.quantile(0.99)).astype(float)
    return {
        "searches": len(strangers),
        "people": strangers.identity.nunique(),
        "obtained": [round(value, 5) for value in (rate.mean, rate.low, rate.high)],
        "detected": _share(members.right & members.matched),
        "best": _share(members.right & (members.score > best)),
    }


def _share(detected: pd.Series[bool]) -> float | None:
    return round(float(detected.mean()), 4) if len(detected) else None


def measure(
    artefact: str,
    data: str,
    mixed: bool,
    number: int,
) -> dict[str, Any]:
    """Serve an artefact, and return the figures of each of its scorings."""
    crops = list(read_spec(data))
    gallery_size: dict[str, Any] = {}
    with own_service(artefact) as url:
        with Client(url) as client:
            offered = client.model().scorings
        scorings = [scoring for scoring in SCORINGS if scoring in offered]
        judged: dict[Scoring, list[dict[str, Any]]] = {scoring: [] for scoring in scorings}
        for place, split in enumerate(splits(crops, mixed, number)):
            fill(url, split, f"split.{place}", scorings)
            gallery_size["gallery"] = len(split.gallery)
            for scoring in scorings:
                judged[scoring] += judge(url, split, f"split.{place}", scoring)
    return gallery_size | {scoring: figures(pd.DataFrame(rows)) for scoring, rows in judged.items()}


def main(
    artefact: Annotated[str, typer.Option(help="A file, or bundled.")],
    data: Annotated[list[str], typer.Option(metavar="KIND:PATH", help="People under two cameras.")],
    mixed: Annotated[bool, typer.Option(help="Known people search, too.")] = False,
    number: Annotated[int, typer.Option("--splits", help="Random halves of the people.")] = SPLITS,
) -> None:
    """Measure, and print one JSON object for each data set."""
    for spec in data:
        measured = {
            "artefact": Path(artefact).parent.name or artefact,
            "data": spec,
            "mixed": mixed,
            "splits": number,
            **measure(artefact, spec, mixed, number),
        }
        typer.echo(json.dumps(measured))


if __name__ == "__main__":
    typer.run(main)
