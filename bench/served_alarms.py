"""Asked against obtained false alarms, through a running service.

`python -m bench.served_alarms --artefact ARTEFACT --data KIND:PATH` starts a service. People are
split at random into two halves, a gallery is filled with one half's crops under one camera, and
crops under the other camera search it: the other half's, or with `--mixed` everybody's. Searches
are judged from when the gallery has a calibration of its own. Every split is a gallery.
"""

from __future__ import annotations

import json
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


class Split(NamedTuple):
    """Who is enrolled, and which crops search, in their order."""

    gallery: list[SourceCrop]
    searches: list[SourceCrop]
    known: frozenset[str]


class Judged(NamedTuple):
    """One search that was answered under the gallery's own calibration.

    Attributes:
        identity: of whom.
        known: whether they are in the gallery.
        matched: the verdict was `match`.
        right: the first result is of the one who was searched for.
    """

    identity: str
    known: bool
    matched: bool
    right: bool


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
            [searches[place] for place in random.permutation(len(searches))],
            known,
        )


def judge(url: str, split: Split, gallery: str, scoring: Scoring) -> Iterator[Judged]:
    """Fills a gallery and searches it; what was answered before it learnt is left out."""
    options: QueryOptions = {"scoring": scoring, "operating_point": ASKED, "top_k": 1}
    with Client(url, gallery=gallery) as client:
        client.create_gallery(gallery)
        enroll_crops(client, split.gallery)
        before = client.query(split.searches[0].read(), **options).calibration_version
        for crop, answer, _ in query_crops(client, split.searches, options):
            if answer.calibration_version != before:
                identity, matched = str(crop.identity), answer.verdict == "match"
                right = answer.results[0].identity == identity
                yield Judged(identity, identity in split.known, matched, right)


def figures(judged: Sequence[Judged]) -> dict[str, Any]:
    """Shares answered `match`: of strangers, with a 95% interval over people, and of the known."""
    strangers = [one for one in judged if not one.known]
    people = np.unique([one.identity for one in strangers], return_inverse=True)[1]
    alarms = np.array([one.matched for one in strangers], np.float64)
    rate = mean_interval(alarms, people.astype(np.int64))
    members = [one.matched and one.right for one in judged if one.known]
    return {
        "searches": len(strangers),
        "people": len(set(people)),
        "obtained": [round(value, 5) for value in (rate.mean, rate.low, rate.high)],
        "detected": round(float(np.mean(members)), 4) if members else None,
    }


def measure(artefact: str, data: str, mixed: bool, number: int) -> dict[str, Any]:
    """Serves an artefact and searches it, by scoring."""
    crops = list(read_spec(data))
    found: dict[str, Any] = {}
    with own_service(artefact) as url:
        with Client(url) as client:
            offered = client.model().scorings
        for scoring in (one for one in SCORINGS if one in offered):
            judged: list[Judged] = []
            for place, split in enumerate(splits(crops, mixed, number)):
                judged += judge(url, split, f"{scoring}.{place}", scoring)
                found["gallery"] = len(split.gallery)
            found[scoring] = figures(judged)
    return found


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
