"""False alarms that a running service was asked for, and those it obtained.

`python -m bench.served_alarms --artefact ARTEFACT --data KIND:PATH` starts a service. People are
split at random into two halves, a gallery is filled with one half's crops under one camera, and
crops under the other camera search it: the other half's, or with `--mixed` everybody's. Searches
are sent when the gallery has thresholds of its own, and all are judged. Every split is a gallery.

With `--features FILE` of `gmn embed` in place of `--data`, galleries of 50 to 375 people are filled
under half of the cameras, and 1, 2, 4 and 8 crops of a person under the others search together.
`python -m bench.figures pictures FILE…` writes the table of docs/calibration.md.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
from model.feature_file import COLUMNS, FeatureFile, read_features, write_features
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
# Galleries of people, and how many of each size, that several pictures search.
PEOPLE = (50, 100, 200, 375)
GALLERIES = 5
PICTURES = (1, 2, 4, 8)
ENROLLED_CROPS = 4
SEARCHES_OF_A_PERSON = 2
SEARCHES_OF_A_KIND = 120
CONCURRENT_SEARCHES = 4
EVERYBODY = "everybody"


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
        shuffled = random.permutation(people).tolist()
        known = frozenset(shuffled[: len(people) // 2])
        searches = [
            crop
            for crop in crops
            if crop.camera != gallery and (mixed or crop.identity not in known)
        ]
        order = random.permutation(len(searches))
        yield Split(
            gallery=[crop for crop in crops if crop.camera == gallery and crop.identity in known],
            searches=[searches[place] for place in order[:SEARCHES]],
            known=known,
        )


def draw_people(
    file: FeatureFile,
    size: int,
    number: int,
) -> tuple[list[int], dict[int, list[list[int]]], frozenset[str]]:
    """Draw a gallery of `size` people under half of the cameras, and searches under the others.

    Returns:
        Rows to enroll; by the number of pictures groups of rows that search, of enrolled people
        and of strangers alike; and the names of enrolled people.
    """
    random = np.random.default_rng([SEED, size, number])
    cameras = random.permutation(np.unique(file.columns["cameras"]))
    half = len(cameras) // 2
    inside = set(cameras[:half].tolist())
    shown: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    asking: dict[str, list[int]] = defaultdict(list)
    for row in random.permutation(len(file.features)).tolist():
        name = file.columns["identities"][row]
        camera = file.columns["cameras"][row]
        if camera in inside:
            shown[name][camera].append(row)
        else:
            asking[name].append(row)
    known = frozenset(random.permutation(sorted(shown))[:size].tolist())
    rows = [
        row
        for name in sorted(known)
        for crops in shown[name].values()
        for row in crops[:ENROLLED_CROPS]
    ]
    searches: dict[int, list[list[int]]] = {}
    for pictures in PICTURES:
        searches[pictures] = []
        for people in (known & asking.keys(), asking.keys() - known):
            groups = [
                asking[name][start : start + pictures]
                for name in sorted(people)
                for start in range(0, SEARCHES_OF_A_PERSON * pictures, pictures)
            ]
            whole = [group for group in groups if len(group) == pictures]
            chosen = random.permutation(len(whole))[:SEARCHES_OF_A_KIND]
            searches[pictures] += [whole[place] for place in chosen.tolist()]
    return rows, searches, known


def import_rows(
    client: Client,
    gallery: str,
    file: FeatureFile,
    rows: Sequence[int],
) -> None:
    columns = {name: [texts[row] for row in rows] for name, texts in file.columns.items() if texts}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npz"
        write_features(path, file.features[rows], columns, file.origin)
        job = client.wait_for_job(client.import_archive(path, gallery=gallery).job_id)
    if job.state != "done":
        raise InputProblem(f"{file.path}: was not imported: {job.detail}")


def judge_pictures(
    client: Client,
    gallery: str,
    file: FeatureFile,
    crop_ids: Mapping[str, str],
    groups: Sequence[Sequence[int]],
    known: frozenset[str],
) -> Iterator[dict[str, Any]]:
    """Search a gallery by groups of crops of another one, and yield a row for each answer."""

    def ask(rows: Sequence[int]) -> dict[str, Any]:
        asked = [crop_ids[file.columns["paths"][row]] for row in rows]
        answer = client.query_galleries(
            galleries=[gallery],
            gallery=EVERYBODY,
            crop_id=asked,
            scoring="cosine",
            operating_point=ASKED,
            top_k=1,
        )
        identity = file.columns["identities"][rows[0]]
        (first,) = answer.results
        return {
            "identity": identity,
            "known": identity in known,
            "matched": answer.verdict == "match",
            "right": first.identity == identity,
        }

    with ThreadPoolExecutor(CONCURRENT_SEARCHES) as threads:
        yield from threads.map(ask, groups)


def measure_pictures(artefact: str, features: Path) -> Iterator[dict[str, Any]]:
    file = read_features(features, COLUMNS)
    people = len(set(file.columns["identities"]))
    source = {"artefact": artefact, "data": features.stem}
    with own_service(artefact) as url, Client(url) as client:
        client.create_gallery(EVERYBODY, calibration="off")
        import_rows(client, EVERYBODY, file, range(len(file.features)))
        crops = client.crops(gallery=EVERYBODY)
        crop_ids = {str(crop.external_id): crop.crop_id for crop in crops}
        for size in [size for size in PEOPLE if size <= people / 2]:
            judged: dict[int, list[dict[str, Any]]] = defaultdict(list)
            for number in range(GALLERIES):
                rows, searches, known = draw_people(file, size, number)
                gallery = f"people.{size}.{number}"
                client.create_gallery(gallery)
                import_rows(client, gallery, file, rows)
                wait_for_thresholds(client, gallery, ["cosine"])
                for pictures, groups in searches.items():
                    judged[pictures] += judge_pictures(
                        client, gallery, file, crop_ids, groups, known
                    )
            for pictures, answers in judged.items():
                if not answers:
                    continue
                table = pd.DataFrame(answers)
                members = table[table.known]
                rate = matched_rate(table[~table.known])
                yield source | {
                    "size": size,
                    "pictures": pictures,
                    "strangers": int((~table.known).sum()),
                    "obtained": [round(value, 5) for value in (rate.mean, rate.low, rate.high)],
                    "detected": _share(members.right & members.matched),
                }


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
        wait_for_thresholds(client, gallery, scorings)


def wait_for_thresholds(client: Client, gallery: str, scorings: Sequence[Scoring]) -> None:
    deadline = time.monotonic() + FIRST_FIT_SECONDS
    while True:
        held = client.gallery(gallery)
        calibration = held.calibration
        fits = [calibration.scorings[scoring] for scoring in scorings]
        # A fit to a third fewer crops is renewed.
        if all(fit.state == "own" and 1.5 * fit.crops > held.crops for fit in fits):
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
    data: Annotated[
        list[str] | None, typer.Option(metavar="KIND:PATH", help="People under two cameras.")
    ] = None,
    features: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Of gmn embed, for several pictures.")
    ] = None,
    mixed: Annotated[bool, typer.Option(help="Known people search, too.")] = False,
    number: Annotated[int, typer.Option("--splits", help="Random halves of the people.")] = SPLITS,
) -> None:
    """Measure, and print a JSON object for each data set, or a list of all numbers of pictures."""
    if features:
        typer.echo(
            json.dumps([row for file in features for row in measure_pictures(artefact, file)])
        )
    for spec in data or ():
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
