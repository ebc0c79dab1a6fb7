"""Asked against obtained false alarms, through a running service.

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
import typer

from demo.service import own_service
from demo.source_crops import read_spec
from gmn_client import Client, QueryOptions
from model.calibration import Scoring
from model.problems import InputProblem
from service.commands.bulk import SourceCrop, enroll_crops, query_crops
from training.evaluation.intervals import mean_interval

ASKED = "far_1e-2"
SCORINGS: tuple[Scoring, ...] = ("mnet", "cosine")
SPLITS = 8
SEED = 0
# Of one split, at most; the figures rest on people more than on searches.
SEARCHES = 240
FIRST_FIT_SECONDS, POLL_SECONDS = 120.0, 0.5


class Split(NamedTuple):
    """Who is enrolled, and which crops search, in their order."""

    gallery: list[SourceCrop]
    searches: list[SourceCrop]
    known: frozenset[str]


class Judged(NamedTuple):
    """One search that was answered under the gallery's own calibration.

    Attributes:
        gallery: which one was searched.
        identity: of whom.
        known: whether they are in the gallery.
        matched: the verdict was `match`.
        right: the first result is of the one who was searched for.
        score: of the first result.
    """

    gallery: str
    identity: str
    known: bool
    matched: bool
    right: bool
    score: float


def splits(crops: Sequence[SourceCrop], mixed: bool, number: int) -> Iterator[Split]:
    """Random halves of the people; the camera with most crops is the gallery's."""
    cameras = Counter(crop.camera for crop in crops).most_common()
    if len(cameras) != 2:
        raise InputProblem(f"the data has {len(cameras)} cameras; name crops under two")
    gallery = cameras[0][0]
    people = np.unique([str(crop.identity) for crop in crops])
    random = np.random.default_rng(SEED)
    for _ in range(number):
        known = frozenset(random.permutation(people)[: len(people) // 2].tolist())
        asking = [one for one in crops if one.camera != gallery]
        searches = [one for one in asking if mixed or one.identity not in known]
        yield Split(
            [one for one in crops if one.camera == gallery and one.identity in known],
            [searches[place] for place in random.permutation(len(searches))[:SEARCHES]],
            known,
        )


def fill(url: str, split: Split, gallery: str, scorings: Sequence[Scoring]) -> None:
    """Fills a gallery, and waits until it has thresholds of its own.

    Raises:
        InputProblem: it has none after two minutes.
    """
    with Client(url, gallery=gallery) as client:
        client.create_gallery(gallery)
        list(enroll_crops(client, split.gallery))
        deadline = time.monotonic() + FIRST_FIT_SECONDS
        while True:
            calibration = client.gallery(gallery).calibration
            if all(calibration.scorings[one].state == "own" for one in scorings):
                return
            if time.monotonic() > deadline:
                raise InputProblem(
                    f"gallery {gallery} has no thresholds of its own but those of its "
                    f"{calibration.state}; name 36 people or more"
                )
            time.sleep(POLL_SECONDS)


def judge(url: str, split: Split, gallery: str, scoring: Scoring) -> Iterator[Judged]:
    """Searches a gallery by one scoring."""
    options: QueryOptions = {"scoring": scoring, "operating_point": ASKED, "top_k": 1}
    with Client(url, gallery=gallery) as client:
        for crop, answer, _ in query_crops(client, split.searches, options):
            first, identity = answer.results[0], str(crop.identity)
            score = first.cosine if scoring == "cosine" else first.pair_logit
            if answer.calibration.state == "own" and score is not None:
                known, matched = identity in split.known, answer.verdict == "match"
                right = first.identity == identity
                yield Judged(gallery, identity, known, matched, right, score)


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """Shares answered `match`: of strangers, with a 95% interval over people, and of the known.

    `best` is what each gallery's best threshold on the same scores would have found.
    """
    strangers = [one for one in judged if not one.known]
    people = np.unique([one.identity for one in strangers], return_inverse=True)[1]
    alarms = np.array([one.matched for one in strangers], np.float64)
    rate = mean_interval(alarms, people.astype(np.int64))
    members = [one for one in judged if one.known]
    best = {
        gallery: np.quantile([one.score for one in strangers if one.gallery == gallery], 0.99)
        for gallery in {one.gallery for one in strangers}
    }
    found = [one.matched and one.right for one in members]
    ideal = [one.right and bool(one.score > best[one.gallery]) for one in members]
    return {
        "searches": len(strangers),
        "people": len(set(people)),
        "obtained": [round(value, 5) for value in (rate.mean, rate.low, rate.high)],
        "detected": round(float(np.mean(found)), 4) if members else None,
        "best": round(float(np.mean(ideal)), 4) if members else None,
    }


def measure(artefact: str, data: str, mixed: bool, number: int) -> dict[str, Any]:
    """Serves an artefact and searches it, by scoring."""
    crops = list(read_spec(data))
    found: dict[str, Any] = {}
    with own_service(artefact) as url:
        with Client(url) as client:
            scorings = [one for one in SCORINGS if one in client.model().scorings]
        judged: dict[Scoring, list[Judged]] = {scoring: [] for scoring in scorings}
        for place, split in enumerate(splits(crops, mixed, number)):
            fill(url, split, f"split.{place}", scorings)
            found["gallery"] = len(split.gallery)
            for scoring in scorings:
                judged[scoring] += judge(url, split, f"split.{place}", scoring)
    return found | {scoring: figures(some) for scoring, some in judged.items()}


def main(
    artefact: Annotated[str, typer.Option(help="A file, or bundled.")],
    data: Annotated[list[str], typer.Option(metavar="KIND:PATH", help="People under two cameras.")],
    mixed: Annotated[bool, typer.Option(help="Known people search, too.")] = False,
    number: Annotated[int, typer.Option("--splits", help="Random halves of the people.")] = SPLITS,
) -> None:
    """Measures, and prints one JSON object a data set."""
    for one in data:
        found: dict[str, Any] = {"artefact": Path(artefact).parent.name or artefact, "data": one}
        found |= {"mixed": mixed, "splits": number}
        typer.echo(json.dumps(found | measure(artefact, one, mixed, number)))


if __name__ == "__main__":
    typer.run(main)
