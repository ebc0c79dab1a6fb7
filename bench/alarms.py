"""False alarms of a running service in galleries of people, beside the rate that was asked for.

`python -m bench.alarms ARTEFACT --data KIND:PATH --out FILE` starts a service and enrolls people
whom the artefact's training held out, or with `--test` those of the set's test part. Galleries of 1
to 375 of them hold crops of half of the cameras; crops of the other cameras, of their people and of
strangers, search them, alone and four of a person together.
`python -m bench.figures alarms FILE…` writes the table of docs/calibration.md.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from demo.service import own_service
from demo.story import enroll_all
from gmn_client import Client
from model.artefact import read_description, resolve_artefact
from model.problems import InputProblem
from model.search_calibration import FEW_IDENTITIES
from service.commands.bulk import SourceCrop
from training.datasets.record import CropRecord
from training.datasets.registry import kind_of, read_dataset
from training.evaluation.intervals import mean_interval
from training.evaluation.searches import held_out_people

SIZES = (1, 3, 5, 10, 17, 50, 100, 200, 375)
GALLERIES = 10
CROPS_OF_A_CAMERA = (1, 4)
PICTURES = (1, 4)
OPERATING_POINT = "far_1e-2"
SEARCHES_OF_A_PERSON = 2
SEARCHES_OF_A_KIND = 120
CONCURRENT_SEARCHES = 4
EVERYBODY = "everybody"
FIRST_FIT_SECONDS = 120.0
POLL_SECONDS = 0.5


def read_people(
    spec: str,
    held_out: Mapping[str, float],
    test: bool,
) -> Sequence[CropRecord]:
    """Return the crops of held-out people, or those of the test part.

    Raises:
        InputProblem: the artefact's training held out nobody of this set.
    """
    dataset = read_dataset(spec)
    if not test:
        return held_out_people(dataset, held_out).records
    tested = [record for record in dataset.records if record.split in ("query", "gallery")]
    return [record for record in tested if record.identity not in kind_of(spec).not_people]


def draw_gallery(
    crops: pd.DataFrame,
    size: int,
    crops_of_a_camera: int,
    seed: int,
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Draw people who are seen on both sides of the cameras.

    Args:
        crops: with columns `identity` and `camera`.
        size: how many people are enrolled.
        crops_of_a_camera: how many crops of a person under one camera are, at most.
        seed: of the draw, together with the size.

    Returns:
        Crops to enroll, and groups of crops that search together.
    """
    random = np.random.default_rng([size, seed])
    crops = crops.sample(frac=1, random_state=random)
    cameras = random.permutation(crops.camera.unique())
    enrolls = crops.camera.isin(cameras[: len(cameras) // 2])
    asking = crops[~enrolls]
    on_both_sides = np.intersect1d(crops.identity[enrolls], asking.identity)
    members = random.permutation(on_both_sides)[:size]
    enrolled = crops[enrolls & crops.identity.isin(members)]
    enrolled = enrolled.groupby(["identity", "camera"]).head(crops_of_a_camera)
    is_member = asking.identity.isin(members)
    searches = []
    for people, pictures in itertools.product((asking[is_member], asking[~is_member]), PICTURES):
        searches += _groups(people, pictures)
    return enrolled, searches


def _groups(crops: pd.DataFrame, pictures: int) -> list[pd.DataFrame]:
    turn = crops.groupby("identity").cumcount() // pictures
    crops = crops[turn < SEARCHES_OF_A_PERSON]
    groups = [group for _, group in crops.groupby([crops.identity, turn], sort=False)]
    return [group for group in groups if len(group) == pictures][:SEARCHES_OF_A_KIND]


def fill(
    client: Client,
    gallery: str,
    crops: pd.DataFrame,
) -> None:
    """Fill a new gallery, and wait until it has thresholds of its own if it is large enough.

    Raises:
        InputProblem: it has none after two minutes.
    """
    client.create_gallery(gallery)
    for (identity, camera), alike in crops.groupby(["identity", "camera"]):
        client.enroll_vectors(
            alike.vector.tolist(),
            alike.embedding_fingerprint.iloc[0],
            gallery,
            identity=identity,
            camera=camera,
        )
    deadline = time.monotonic() + FIRST_FIT_SECONDS
    while crops.identity.nunique() >= FEW_IDENTITIES:
        calibration = client.gallery(gallery).calibration
        # A fit to a third fewer crops is renewed.
        if calibration.state == "own" and 1.5 * calibration.crops > len(crops):
            return
        if time.monotonic() > deadline:
            raise InputProblem(f"gallery {gallery} has no thresholds of its own in two minutes")
        time.sleep(POLL_SECONDS)


def judge(
    client: Client,
    gallery: str,
    members: Sequence[str],
    searches: Sequence[pd.DataFrame],
) -> Iterator[dict[str, Any]]:
    """Search a gallery by groups of crops, and yield a row for each answer."""

    def ask(group: pd.DataFrame) -> dict[str, Any]:
        answer = client.query_galleries(
            galleries=[gallery],
            gallery=EVERYBODY,
            crop_id=group.crop_id.tolist(),
            operating_point=OPERATING_POINT,
            top_k=1,
        )
        first = answer.results[0]
        identity = group.identity.iloc[0]
        return {
            "gallery": gallery,
            "pictures": len(group),
            "identity": identity,
            "known": identity in members,
            "matched": answer.verdict == "match",
            "right": first.identity == identity,
            "score": first.cosine if first.pair_logit is None else first.pair_logit,
        }

    with ThreadPoolExecutor(CONCURRENT_SEARCHES) as threads:
        yield from threads.map(ask, searches)


def figures(answers: pd.DataFrame) -> dict[str, Any]:
    """Return shares of searches answered `match` in per cent.

    `obtained` is that of strangers, with a 95% interval over people, and `found` that of enrolled
    people. `best` is what each gallery's threshold on raw scores finds at the obtained rate.
    """
    strangers = answers[~answers.known]
    members = answers[answers.known]
    people = pd.factorize(strangers.identity, sort=True)[0]
    rate = mean_interval(strangers.matched.to_numpy(np.float64), people.astype(np.int64))
    limits = strangers.groupby("gallery").score.quantile(1.0 - rate.mean)
    above = members.score > members.gallery.map(limits).astype(float)
    return {
        "strangers": len(strangers),
        "members": len(members),
        "obtained": [round(100 * share, 3) for share in (rate.mean, rate.low, rate.high)],
        "found": round(100 * float((members.matched & members.right).mean()), 2),
        "best": round(100 * float((above & members.right).mean()), 2),
    }


def measure(
    client: Client,
    crops: pd.DataFrame,
    galleries: int,
) -> Iterator[dict[str, Any]]:
    """Yield the figures of each size, number of enrolled crops and number of pictures."""
    sizes = [size for size in SIZES if size <= crops.identity.nunique() / 2]
    for crops_of_a_camera, size in itertools.product(CROPS_OF_A_CAMERA, sizes):
        answers: list[dict[str, Any]] = []
        for number in range(galleries):
            enrolled, searches = draw_gallery(
                crops,
                size,
                crops_of_a_camera,
                number,
            )
            gallery = f"people.{crops_of_a_camera}.{size}.{number}"
            fill(client, gallery, enrolled)
            answers += judge(
                client,
                gallery,
                enrolled.identity.unique().tolist(),
                searches,
            )
        for pictures, judged in pd.DataFrame(answers).groupby("pictures"):
            about = {"crops": crops_of_a_camera, "size": size, "pictures": pictures}
            yield about | figures(judged)


def main(
    artefact: Annotated[str, typer.Argument(help="A file, or the name of a shipped one.")],
    data: Annotated[str, typer.Option(metavar="KIND:PATH", help="Labelled crops.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the figures.")],
    test: Annotated[bool, typer.Option(help="People of the test part, not held-out ones.")] = False,
    galleries: Annotated[int, typer.Option(help="How many of each size.")] = GALLERIES,
) -> None:
    """Measure every size of gallery, and write a list of JSON objects."""
    held_out = read_description(resolve_artefact(artefact)).provenance.held_out
    people = read_people(data, held_out, test)
    part = "test part" if test else "held out"
    about = {"artefact": artefact, "data": f"{people[0].dataset}, {part}"}
    sources = [
        SourceCrop(record.source, record.content, record.identity, record.camera)
        for record in people
    ]
    with own_service(artefact) as url, Client(url, gallery=EVERYBODY) as client:
        client.create_gallery(EVERYBODY, calibration="off")
        enroll_all(client, sources)
        stored = client.crops(include_vector=True)
        crops = pd.DataFrame(crop.model_dump() for crop in stored)
        rows = [about | measured for measured in measure(client, crops, galleries)]
    out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
