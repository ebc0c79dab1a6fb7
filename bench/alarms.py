"""False alarms of a running service in galleries of people, compared with the requested rate.

`python -m bench.alarms ARTEFACT KIND:PATH` starts a service and enrolls people
whom the artefact's training held out, or with `--test` those of the set's test part. Crops of half
of the cameras search galleries of 1 to 375 of these people, for them and for strangers, one crop or
four crops of a person at once. The galleries hold crops of the other half of the cameras; some hold
crops of the searching cameras, or of all cameras.
`python -m bench.figures alarms FILE…` writes the table of docs/alarms.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import typer

from demo.data_sets import source_crops
from demo.service import own_service
from demo.story import enroll_all
from gmn_client import Client
from model.artefact import read_description, resolve_artefact
from model.order_statistics import FEW_IDENTITIES
from model.problems import InputProblem
from training.datasets.registry import kind_of, read_dataset
from training.evaluation.intervals import mean_interval
from training.evaluation.searches import held_out_people, whole_set

SIZES = (1, 3, 5, 10, 17, 50, 100, 200, 375)
# The enrolling cameras, as seen from the searching ones, and the sizes of such galleries.
EnrolledBy = Literal["other cameras", "own camera", "both"]
SIZES_OF: Mapping[EnrolledBy, tuple[int, ...]] = {
    "other cameras": SIZES,
    "own camera": (5, 50, 200),
    "both": (5, 50, 200),
}
CROPS_OF_A_CAMERA = (1, 4)
PICTURES = (1, 4)
OPERATING_POINT = "far_1e-2"
SEARCHES_OF_A_PERSON = 2
SEARCHES_OF_A_KIND = 120


def draw_gallery(
    crops: pd.DataFrame,
    size: int,
    crops_of_a_camera: int,
    seed: int,
    enrolled_by: EnrolledBy = "other cameras",
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """Draw a gallery of people, and searches for them and for strangers.

    Half of the cameras take the crops of the searches.

    Args:
        crops: crops with columns `identity` and `camera`.
        size: number of people, whom both halves of the cameras see.
        crops_of_a_camera: largest number of crops of a person by one camera that are enrolled.
        seed: seed of the draw, together with the size.
        enrolled_by: the cameras whose crops are enrolled.

    Returns:
        The crops to enroll, and groups of other crops that search together, each of one person.
    """
    random = np.random.default_rng([size, seed])
    crops = crops.sample(frac=1, random_state=random)
    cameras = random.permutation(crops.camera.unique())
    others, searchers = np.split(cameras, [len(cameras) // 2])
    searching = crops[crops.camera.isin(searchers)]
    seen_by_both = np.intersect1d(crops.identity[crops.camera.isin(others)], searching.identity)
    members = random.permutation(seen_by_both)[:size]

    enrolling = {"other cameras": others, "own camera": searchers, "both": cameras}[enrolled_by]
    enrolled = crops[crops.camera.isin(enrolling) & crops.identity.isin(members)]
    enrolled = enrolled.groupby(["identity", "camera"]).head(crops_of_a_camera)
    searching = searching.drop(index=enrolled.index, errors="ignore")
    is_member = searching.identity.isin(members)
    searches = []
    for people, pictures in product((searching[is_member], searching[~is_member]), PICTURES):
        turn = people.groupby("identity").cumcount() // pictures
        people = people[turn < SEARCHES_OF_A_PERSON]
        groups = [group for _, group in people.groupby([people.identity, turn], sort=False)]
        complete = [group for group in groups if len(group) == pictures]
        searches += complete[:SEARCHES_OF_A_KIND]
    return enrolled, searches


def fill(
    client: Client,
    gallery: str,
    crops: pd.DataFrame,
) -> None:
    """Create a gallery, and wait for its own thresholds if it has enough people for them.

    Raises:
        InputProblem: the gallery has no thresholds of its own after two minutes.
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
    deadline = time.monotonic() + 120
    while crops.identity.nunique() >= FEW_IDENTITIES:
        calibration = client.gallery(gallery).calibration
        # The service renews a fit to less than two thirds of the crops.
        if calibration.state == "own" and 1.5 * calibration.crops > len(crops):
            return
        if time.monotonic() > deadline:
            raise InputProblem(f"gallery {gallery} has no thresholds of its own in two minutes")
        time.sleep(0.5)


def search(
    client: Client,
    gallery: str,
    enrolled: pd.DataFrame,
    searches: Sequence[pd.DataFrame],
) -> Iterator[dict[str, Any]]:
    """Search a gallery by groups of crops of the client's gallery, and yield a row per search."""
    members = set(enrolled.identity)

    def ask(group: pd.DataFrame) -> dict[str, Any]:
        answer = client.query_galleries(
            galleries=[gallery],
            crop_id=group.crop_id.tolist(),
            operating_point=OPERATING_POINT,
            top_k=1,
        )
        nearest = answer.results[0]
        identity = group.identity.iloc[0]
        return {
            "gallery": gallery,
            "pictures": len(group),
            "identity": identity,
            "known": identity in members,
            "matched": answer.verdict == "match",
            "right": nearest.identity == identity,
            "score": nearest.cosine if nearest.pair_logit is None else nearest.pair_logit,
        }

    with ThreadPoolExecutor(4) as threads:
        yield from threads.map(ask, searches)


def figures(answers: pd.DataFrame) -> dict[str, Any]:
    """Return shares of the searches in per cent, and the number of searches for strangers.

    `obtained` is the share of strangers' searches that are answered `match`, with the ends of its
    95% interval over people. `found` is the share of members' searches that are answered `match`
    with the right person first. `best` is the share that a threshold of each gallery on raw scores
    would find at the obtained rate. Both are None if no crops of members are left for searches.
    """
    strangers = answers[~answers.known]
    members = answers[answers.known]
    matched = strangers.matched.to_numpy(np.float64)
    rate = mean_interval(matched, strangers.identity.to_numpy())
    thresholds = strangers.groupby("gallery").score.quantile(1.0 - rate.mean)
    above = members.score > members.gallery.map(thresholds)
    return {
        "strangers": len(strangers),
        "obtained": [round(100 * share, 3) for share in (rate.mean, rate.low, rate.high)],
        "found": _percent(members.matched & members.right),
        "best": _percent(above & members.right),
    }


def _percent(outcomes: pd.Series) -> float | None:
    return round(100 * float(outcomes.mean()), 2) if len(outcomes) else None


def measure(
    client: Client,
    crops: pd.DataFrame,
    galleries: int,
) -> Iterator[dict[str, Any]]:
    largest = crops.identity.nunique() / 2
    for enrolled_by, sizes in SIZES_OF.items():
        for crops_of_a_camera, size in product(CROPS_OF_A_CAMERA, sizes):
            if size > largest:
                continue
            answers: list[dict[str, Any]] = []
            for number in range(galleries):
                enrolled, searches = draw_gallery(
                    crops, size, crops_of_a_camera, number, enrolled_by
                )
                gallery = f"people.{enrolled_by.split()[0]}.{crops_of_a_camera}.{size}.{number}"
                fill(client, gallery, enrolled)
                answers += search(client, gallery, enrolled, searches)
                client.delete_gallery(gallery)
            for pictures, cell in pd.DataFrame(answers).groupby("pictures"):
                yield {
                    "enrolled_by": enrolled_by,
                    "crops": crops_of_a_camera,
                    "size": size,
                    "pictures": pictures,
                    **figures(cell),
                }


def main(
    artefact: str,
    data: str,
    test: bool = False,
    galleries: int = 10,
    features: Path | None = None,
) -> None:
    """Print the figures of every size of gallery as a JSON object.

    Args:
        artefact: a file, or the name of a shipped one.
        data: labelled crops, KIND:PATH.
        test: search for the people of the test part instead of those whom the training held out.
        galleries: number of galleries of each size.
        features: a file of `gmn embed ARTEFACT` with these crops, to save their embedding.
    """
    held_out = read_description(resolve_artefact(artefact)).provenance.held_out
    dataset = read_dataset(data)
    chosen = whole_set(dataset) if test else held_out_people(dataset, held_out)
    not_people = kind_of(data).not_people
    people = [record for record in chosen.records if record.identity not in not_people]
    part = "test part" if test else "held out"
    about = {"artefact": artefact, "data": f"{dataset.name}, {part}"}
    with own_service(artefact) as client:
        # All crops are embedded once. Each gallery is then filled with their vectors.
        client.change_gallery(calibration="off")
        if features is None:
            enroll_all(client, source_crops(people))
        else:
            client.wait_for_job(client.import_archive(features).job_id)
        crops = pd.DataFrame(crop.model_dump() for crop in client.crops(include_vector=True))
        crops = crops[crops.identity.isin({record.identity for record in people})]
        rows = [about | row for row in measure(client, crops, galleries)]
    typer.echo(json.dumps({"results": rows}))


if __name__ == "__main__":
    typer.run(main)
