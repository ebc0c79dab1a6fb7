"""False alarms of drawn galleries that their own cameras, other cameras or both search.

Run `gmn embed ARTEFACT --data KIND:PATH --out FEATURES` first, on Market-1501, or on a set of two
cameras whose people the artefact has not seen. Galleries are ranked by cosine and get their
thresholds as in the service. `bench.alarms` measures the same through a service, with fewer people.
`python -m bench.figures cells FILE…` writes the table of docs/alarms.md, and `spreads` that
of searches by other cameras in docs/centring.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from bench.watch import Features
from model.arrays import Array
from model.centring import ShownCrops, fit_means, measure_spreads
from model.gallery_thresholds import (
    GalleryThresholds,
    LeftOutSearches,
    StrangerTail,
    fit_thresholds,
    level,
)
from model.left_out import leaders_by_name, sampled_crops, subgalleries
from training.evaluation.files import read_features

# Groups of cameras, in two halves which are swapped for every second gallery.
Halves = tuple[tuple[str, ...], tuple[str, ...]]
MARKET_CAMERAS: dict[str, Halves] = {
    "c1c2": (("c1",), ("c2",)),
    "c3c6": (("c3",), ("c6",)),
    "six": (("c1", "c3", "c5"), ("c2", "c4", "c6")),
}
TWO_CAMERAS: dict[str, Halves] = {"AB": (("A",), ("B",))}
# The halves that enroll people, and those that search.
MIXES = {
    "own": ((0,), (0,)),
    "other": ((0,), (1,)),
    "own and other": ((0,), (0, 1)),
    "one of both": ((0, 1), (0,)),
    "both": ((0, 1), (0, 1)),
}
SIZES = (30, 100, 200)
GALLERIES = 8
# At most these crops of a person and camera are enrolled, and at most half; others search.
ENROLLED_CROPS = 2
SEARCHING_CROPS = 2
RATE = 0.01
RARE = 0.001
# People of Market-1501's training part, and crops of nobody.
NOT_TESTED = "bounding_box_train/"
NOBODY = ("-1", "0000", "0")


class Draw(NamedTuple):
    """A gallery and the people who search it.

    Attributes:
        enrolled: crops with columns `person`, `camera` and `half`, by row of the features.
        known, strangers: other crops of enrolled people and of others, by both halves.
        unnamed: a crop of each camera of further people, who neither search nor are found.
    """

    enrolled: pd.DataFrame
    known: pd.DataFrame
    strangers: pd.DataFrame
    unnamed: pd.DataFrame


class Vectors(NamedTuple):
    """Vectors of all crops, as a gallery compares them.

    Attributes:
        units: unit vectors `(n, d)`, centred by camera or not.
        spreads: that of each crop's camera, `(n,)`; 1 if thresholds are not scaled.
    """

    units: Features
    spreads: Array

    @classmethod
    def plain(cls, units: Features) -> Vectors:
        return cls(units, np.ones(len(units)))


def read_people(path: Path) -> tuple[pd.DataFrame, Features]:
    """Read people and cameras of the crops, by row, and all features `(n, d)` as unit vectors."""
    file = read_features(path)
    crops = pd.DataFrame(
        {
            "path": file.columns["paths"],
            "name": file.columns["identities"],
            "camera": file.columns["cameras"],
        }
    )
    is_tested = ~crops.path.str.contains(NOT_TESTED, regex=False)
    if crops.camera.str.startswith("c").all():
        is_tested &= ~crops.name.isin(NOBODY)
    crops["person"] = pd.factorize(crops.name, sort=True)[0]
    units = file.features / np.linalg.norm(file.features, axis=1, keepdims=True)
    return crops.loc[is_tested, ["person", "camera"]], units


def draw_gallery(
    crops: pd.DataFrame,
    halves: Halves,
    enrolling: tuple[int, ...],
    size: int,
    seed: int,
    unnamed: int = 0,
) -> Draw:
    """Draw a gallery of people whom both halves of the cameras see, and searches by other crops.

    Args:
        crops: crops with columns `person` and `camera`.
        halves: both halves of the cameras, which are swapped for every second seed.
        enrolling: the halves that enroll people.
        unnamed: number of further people of whom the gallery has unnamed crops.
    """
    random = np.random.default_rng([size, seed])
    crops = crops.sample(frac=1, random_state=random)
    half_of = {camera: half for half in (0, 1) for camera in halves[(half + seed) % 2]}
    crops = crops.assign(half=crops.camera.map(half_of)).dropna()
    seen_by_both = np.intersect1d(crops.person[crops.half == 0], crops.person[crops.half == 1])
    members = random.permutation(seen_by_both)[:size]

    of_camera = crops.groupby(["person", "camera"]).person
    most = np.minimum(ENROLLED_CROPS, (of_camera.transform("size") + 1) // 2)
    is_member = crops.person.isin(members)
    is_enrolled = is_member & crops.half.isin(enrolling) & (of_camera.cumcount() < most)
    searching = crops[~is_enrolled].groupby(["person", "camera"]).head(SEARCHING_CROPS)
    of_member = searching.person.isin(members)
    strangers = searching[~of_member]
    further = random.permutation(strangers.person.unique())[:unnamed]
    is_further = strangers.person.isin(further)
    return Draw(
        crops[is_enrolled],
        searching[of_member],
        strangers[~is_further],
        strangers[is_further].groupby(["person", "camera"]).head(1),
    )


def fit_gallery(enrolled: pd.DataFrame, vectors: Vectors) -> GalleryThresholds:
    """Fit thresholds to left-out searches by cosine, as the service does.

    All crops of the sample search the parts of the gallery; in the service, at most 300 do.
    """
    random = np.random.default_rng(len(enrolled))
    names = enrolled.person.to_numpy(np.int64)
    units = vectors.units[enrolled.index]
    spreads = vectors.spreads[enrolled.index]
    queries = sampled_crops(names, random)
    left_out = []
    for people in subgalleries(names, random):
        searched = np.flatnonzero(np.isin(names, people))
        scores = units[queries] @ units[searched].T
        scores[names[queries][:, None] == names[searched]] = -np.inf
        leaders = leaders_by_name(scores, np.broadcast_to(names[searched], scores.shape))
        leaders /= spreads[queries, None]
        left_out.append(LeftOutSearches(leaders, names[queries], len(people)))
    return fit_thresholds(left_out)


def search(enrolled: pd.DataFrame, asking: pd.DataFrame, vectors: Vectors) -> pd.DataFrame:
    """Search a gallery by crops.

    Returns:
        A row for each crop: `half` and `spread`, those of its camera; `leaders`, the nine best
        identity scores; and `right`, which is true if the best score is that of the person.
    """
    scores = vectors.units[asking.index] @ vectors.units[enrolled.index].T
    names = enrolled.person.to_numpy(np.int64)
    nearest = names[scores.argmax(axis=1)]
    leaders = leaders_by_name(scores, np.broadcast_to(names, scores.shape))
    return pd.DataFrame(
        {
            "half": asking.half.to_numpy(),
            "spread": vectors.spreads[asking.index],
            "leaders": list(leaders),
            "right": nearest == asking.person.to_numpy(),
        }
    )


def prepare_vectors(
    crops: pd.DataFrame, draw: Draw, features: Features, centred: bool, scaled: bool
) -> Vectors:
    """Centre unit vectors and measure spreads by a gallery's crops, if these show enough people.

    Args:
        crops: all crops with columns `person` and `camera`, by row of the features.
        centred: whether vectors lose the mean of their camera.
        scaled: whether thresholds are scaled by the spread of the searching camera.
    """
    if not (centred or scaled):
        return Vectors.plain(features)
    cameras = pd.Series(-1, index=range(len(features)))
    cameras[crops.index] = pd.factorize(crops.camera, sort=True)[0]
    codes = cameras.to_numpy(np.int64)
    gallery = pd.concat([draw.enrolled, draw.unnamed])
    rows = gallery.index.to_numpy()
    shown = ShownCrops(features[rows], codes[rows], gallery.person.to_numpy(np.int64))
    named = gallery.person.isin(draw.enrolled.person).to_numpy()
    means = fit_means(shown)
    if means is None:
        return Vectors.plain(features)
    units = means.centre(features, codes) if centred else features
    if not scaled:
        return Vectors.plain(units)
    spreads = measure_spreads(shown, named, means if centred else None)
    return Vectors(units, pd.Series(codes).map(spreads).fillna(1.0).to_numpy())


def judge_galleries(
    crops: pd.DataFrame,
    features: Features,
    halves: Halves,
    size: int,
    centred: bool = False,
    scaled: bool = False,
    unnamed: int = 0,
    galleries: int = GALLERIES,
) -> Iterator[dict[str, Any]]:
    """Draw galleries, and yield the shares of searches above each threshold, for each mix.

    Args:
        centred, scaled: as for `prepare_vectors`.
        unnamed: as for `draw_gallery`.
    """
    for seed in range(galleries):
        for enrolling in ((0,), (0, 1)):
            draw = draw_gallery(crops, halves, enrolling, size, seed, unnamed)
            vectors = prepare_vectors(crops, draw, features, centred, scaled)
            thresholds = fit_gallery(draw.enrolled, vectors)
            known = search(draw.enrolled, draw.known, vectors)
            strangers = search(draw.enrolled, draw.strangers, vectors)
            tails = {
                spread: thresholds.tail(size, spread=spread)
                for spread in np.unique(vectors.spreads).tolist()
            }
            for mix, (enrolled_by, asking) in MIXES.items():
                if enrolled_by == enrolling:
                    yield {"mix": mix, **_judge(known, strangers, asking, tails)}


def _judge(
    known: pd.DataFrame,
    strangers: pd.DataFrame,
    asking: tuple[int, ...],
    tails: Mapping[float, StrangerTail],
) -> dict[str, float]:
    known = known[known.half.isin(asking)]
    strangers = strangers[strangers.half.isin(asking)]
    best = strangers.leaders.str[0].quantile(1.0 - RATE)
    return {
        "obtained": _reaching(strangers, tails, RATE).mean(),
        "rare": _reaching(strangers, tails, RARE).mean(),
        "found": (_reaching(known, tails, RATE) & known.right).mean(),
        "best": ((known.leaders.str[0] > best) & known.right).mean(),
    }


def _reaching(
    answers: pd.DataFrame, tails: Mapping[float, StrangerTail], rate: float
) -> NDArray[np.bool_]:
    """Return which searches reach the threshold of their camera's spread."""
    leaders = np.array(answers.leaders.tolist())
    levels = level(leaders).tolist()
    limits = [
        tails[spread].threshold(rate, of_search)
        for spread, of_search in zip(answers.spread, levels, strict=True)
    ]
    return leaders[:, 0] >= np.array(limits)


def figures(rows: pd.DataFrame) -> dict[str, Any]:
    """Return the means over galleries in per cent, and the standard deviation of `obtained`."""
    means = 100.0 * rows[["obtained", "rare", "found", "best"]].mean()
    return {**means.round(2).to_dict(), "spread": round(100.0 * rows.obtained.std(), 2)}


def main(
    label: str,
    features: Path,
    centred: bool = False,
    scaled: bool = False,
    unnamed: int = 0,
    galleries: int = GALLERIES,
    size: list[int] | None = None,
) -> None:
    """Draw galleries of every size, group of cameras and mix, and print figures as a JSON object.

    Args:
        label: the names of artefact and data set in the table, such as `small market1501`.
        features: the file that gmn embed wrote with this artefact.
        centred: centre the vectors by camera.
        scaled: scale the thresholds by the spread of the searching camera.
        unnamed: number of people of whom each gallery also has unnamed crops of all cameras.
        galleries: number of galleries that are drawn of each kind.
        size: a number of people who are enrolled; repeat it for several. By default 30, 100, 200.
    """
    crops, units = read_people(features)
    of_market = crops.camera.str.startswith("c").all()
    cells = []
    for group, halves in (MARKET_CAMERAS if of_market else TWO_CAMERAS).items():
        for people in size or SIZES:
            drawn = judge_galleries(
                crops, units, halves, people, centred, scaled, unnamed, galleries
            )
            for mix, cell in pd.DataFrame(drawn).groupby("mix", sort=False):
                described = {"artefact": label, "cameras": group, "size": people, "mix": mix}
                described |= {"centred": centred, "scaled": scaled}
                cells.append(described | figures(cell))
    typer.echo(json.dumps({"results": cells}))


if __name__ == "__main__":
    typer.run(main)
