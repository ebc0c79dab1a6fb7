"""False alarms of drawn galleries after searches of several kinds, on Market-1501's test part.

Run `gmn embed ARTEFACT --data market1501:PATH --out FEATURES` first. Galleries are ranked by
cosine and get their thresholds as in the service, from their own crops and then from searches: of
enrolled people, of strangers, or of both. `bench.alarms` measures the same through a service, with
other cameras, fewer people and M-Net.
`python -m bench.figures cells FILE…` writes the table of docs/calibration.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from bench.watch import Features, read_crops
from model.gallery_thresholds import (
    GalleryThresholds,
    LeftOutSearches,
    fit_ratio,
    fit_thresholds,
    level,
)
from model.left_out import (
    hide_known,
    leaders_by_name,
    sampled_crops,
    search_other_cameras,
    subgalleries,
)
from model.search_calibration import Searches, pack_search, unpack_searches

# Groups of cameras, in two halves. One half enrolls and the other half searches, then in reverse.
CAMERAS = {"c1c2": ("1", "2"), "c3c6": ("3", "6"), "six": ("135", "246")}
SIZES = (30, 100, 200)
GALLERIES = 8
CROPS_PER_PERSON = 3
RATE = 0.01
RARE = 0.001
# Number of searches before the judged ones, and the share of them that show enrolled people.
EARLIER_SEARCHES = 100
MIXES = {"none": None, "enrolled": 1.0, "strangers": 0.0, "half of each": 0.5}


class Draw(NamedTuple):
    """A gallery and the people who search it.

    Attributes:
        enrolled: crops with columns `person` and `camera`, by row of the features.
        known, strangers: crops of enrolled and of other people, by the other half of the cameras.
    """

    enrolled: pd.DataFrame
    known: pd.DataFrame
    strangers: pd.DataFrame


def draw_gallery(crops: pd.DataFrame, cameras: tuple[str, str], size: int, seed: int) -> Draw:
    """Draw the people of a gallery, and at most three crops of each by one half of the cameras.

    Args:
        crops: crops with columns `person` and `camera`.
        cameras: both halves of the cameras, which are swapped for every second seed.
    """
    random = np.random.default_rng([size, seed])
    crops = crops.sample(frac=1, random_state=random)
    enrolling, asking = cameras if seed % 2 else cameras[::-1]
    of_list = crops[crops.camera.isin(list(enrolling))]
    searching = crops[crops.camera.isin(list(asking))]
    seen_by_both = np.intersect1d(of_list.person, searching.person)
    people = random.permutation(seen_by_both)
    members = people[:size]
    enrolled = of_list[of_list.person.isin(members)].groupby("person").head(CROPS_PER_PERSON)
    searching = searching[searching.person.isin(people)].groupby("person").head(CROPS_PER_PERSON)
    is_member = searching.person.isin(members)
    return Draw(enrolled, searching[is_member], searching[~is_member])


def fit_gallery(enrolled: pd.DataFrame, features: Features) -> GalleryThresholds:
    """Fit thresholds to left-out searches by cosine, as the service does.

    All crops of the sample search the parts of the gallery; in the service, at most 300 do.

    Args:
        features: unit vectors of all crops.
    """
    random = np.random.default_rng(len(enrolled))
    names = enrolled.person.to_numpy(np.int64)
    cameras = enrolled.camera.astype(int).to_numpy(np.int64)
    vectors = features[enrolled.index]
    queries = sampled_crops(names, random)
    left_out = []
    for people in subgalleries(names, random):
        searched = np.flatnonzero(np.isin(names, people))
        of_queries = (names[queries], cameras[queries])
        of_searched = (names[searched], cameras[searched])
        scores = vectors[queries] @ vectors[searched].T
        scores = hide_known(scores, *of_queries, *of_searched)
        left_out.append(
            LeftOutSearches(
                leaders_by_name(scores, np.broadcast_to(names[searched], scores.shape)),
                names[queries],
                len(people),
                search_other_cameras(*of_queries, *of_searched),
            )
        )
    return fit_thresholds(left_out)


def search(enrolled: pd.DataFrame, asking: pd.DataFrame, features: Features) -> pd.DataFrame:
    """Search a gallery by crops.

    Returns:
        A row for each crop: `person`; `leaders`, the nine best identity scores; and `right`, which
        is true if the best score is that of the person.
    """
    scores = features[asking.index] @ features[enrolled.index].T
    names = enrolled.person.to_numpy(np.int64)
    nearest = names[scores.argmax(axis=1)]
    leaders = leaders_by_name(scores, np.broadcast_to(names, scores.shape))
    return pd.DataFrame(
        {
            "person": asking.person.to_numpy(),
            "leaders": list(leaders),
            "right": nearest == asking.person.to_numpy(),
        }
    )


def judge_gallery(
    draw: Draw, features: Features, thresholds: GalleryThresholds, size: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Yield the shares of searches above the thresholds, after each mix of earlier searches.

    Half of the enrolled people and of the strangers send the earlier searches, and the others'
    searches are judged.
    """
    random = np.random.default_rng([size, seed, 1])
    known, sent_known = _split(search(draw.enrolled, draw.known, features), random)
    strangers, sent_strangers = _split(search(draw.enrolled, draw.strangers, features), random)
    best = strangers.leaders.str[0].quantile(1.0 - RATE)
    for mix, share in MIXES.items():
        fitted = thresholds
        if share is not None:
            number = round(EARLIER_SEARCHES * share)
            sent = [sent_known.head(number), sent_strangers.head(EARLIER_SEARCHES - number)]
            fitted = fit_ratio(thresholds, _pack(pd.concat(sent), size))
        yield {
            "mix": mix,
            "obtained": _reaching(strangers, fitted, size, RATE).mean(),
            "rare": _reaching(strangers, fitted, size, RARE).mean(),
            "found": (_reaching(known, fitted, size, RATE) & known.right).mean(),
            "best": ((known.leaders.str[0] > best) & known.right).mean(),
        }


def _split(answers: pd.DataFrame, random: np.random.Generator) -> tuple[pd.DataFrame, pd.DataFrame]:
    people = random.permutation(answers.person.unique())
    is_judged = answers.person.isin(people[: len(people) // 2])
    return answers[is_judged], answers[~is_judged]


def _pack(answers: pd.DataFrame, size: int) -> Searches:
    return unpack_searches([pack_search(leaders, size, 0.0) for leaders in answers.leaders])


def _reaching(
    answers: pd.DataFrame, thresholds: GalleryThresholds, size: int, rate: float
) -> NDArray[np.bool_]:
    leaders = np.array(answers.leaders.tolist())
    tail = thresholds.tail(size)
    limits = [tail.threshold(rate, of_search) for of_search in level(leaders).tolist()]
    return leaders[:, 0] >= np.array(limits)


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the means over galleries in per cent, and the standard deviation of `obtained`."""
    means = 100.0 * rows[["obtained", "rare", "found", "best"]].mean()
    return {**means.round(2).to_dict(), "spread": round(100.0 * rows.obtained.std(), 2)}


def main(label: str, features: Path) -> None:
    """Draw galleries of every size and group of cameras, and print figures as a JSON object.

    Args:
        label: the artefact's name in the table.
        features: the file that gmn embed wrote with this artefact.
    """
    crops, vectors = read_crops(features)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cells = []
    for group, cameras in CAMERAS.items():
        for size in SIZES:
            rows: list[dict[str, Any]] = []
            for seed in range(GALLERIES):
                draw = draw_gallery(crops, cameras, size, seed)
                thresholds = fit_gallery(draw.enrolled, units)
                rows += judge_gallery(draw, units, thresholds, size, seed)
            for mix, cell in pd.DataFrame(rows).groupby("mix", sort=False):
                described = {"artefact": label, "cameras": group, "size": size, "mix": mix}
                cells.append(described | figures(cell))
    typer.echo(json.dumps({"results": cells}))


if __name__ == "__main__":
    typer.run(main)
