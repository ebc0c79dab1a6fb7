"""Gains and costs of centring by camera, with means of many and of few people.

Run `gmn embed ARTEFACT --data KIND:PATH --out FEATURES` first, on people whom the artefact has not
seen. The first table ranks 200 people of each draw, while the means are learned from crops of
others. The second one is of whole galleries, which learn their means from their own crops by the
rules of `model.centring`. `python -m bench.figures centring FILE…` and `centred-galleries` write
the tables of docs/centring.md, and `centred-cells` that of `bench.cells` with `--centred --scaled`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from bench.cells import NOBODY, NOT_TESTED
from model.arrays import Array, Codes, Floats, unit_rows
from model.centring import LEAST_SHOWN, CameraMeans, ShownCrops, fit_means, measure_gain
from model.gallery_thresholds import level
from model.left_out import leaders_by_name
from training.evaluation.files import read_features
from training.evaluation.metrics import PairLabels, rank_queries

DRAWS = 20
# People who are ranked, one half of whom is enrolled where strangers search as well.
RANKED = 200
# Crops of which each camera's mean is made, and the numbers of people who are on them.
CROPS_OF_A_MEAN = 100
PEOPLE_OF_A_MEAN = (1, 2, 5, 10, 20, 50, 100)
# Numbers of people whom each camera of a gallery saw, or one camera beside others that saw 100.
PEOPLE_OF_A_CAMERA = (1, 2, 5, 10, 20, 50, 100, 200)
PEOPLE_OF_OTHER_CAMERAS = 100
RATE = 0.01
# At most this number of crops of each person and camera is read.
CROPS_OF_A_CAMERA = 2
# Queries search all cameras, or only those that did not take them.
SEARCHED = {"all cameras": False, "other cameras": True}


class Crops(NamedTuple):
    """Crops of people, in a random order.

    Attributes:
        units: unit vectors, `(n, d)`.
        people, cameras: codes, `(n,)`.
    """

    units: Floats
    people: Codes
    cameras: Codes

    def at(self, positions: Codes | NDArray[np.bool_]) -> Crops:
        return Crops(self.units[positions], self.people[positions], self.cameras[positions])

    def of(self, people: Codes) -> Crops:
        return self.at(np.isin(self.people, people))

    @property
    def shown(self) -> ShownCrops:
        return ShownCrops(self.units, self.cameras, self.people)


def read_crops(files: Sequence[Path]) -> Crops:
    """Read the features of a set's people whom two cameras or more see, in a seeded order."""
    tables = []
    features = []
    for path in files:
        file = read_features(path)
        columns = {name: file.columns[name] for name in ("paths", "identities", "cameras")}
        tables.append(pd.DataFrame(columns))
        features.append(file.features)
    crops = pd.concat(tables, ignore_index=True)
    is_person = ~crops.identities.isin(NOBODY if crops.cameras.str.startswith("c").all() else ())
    is_tested = ~crops.paths.str.contains(NOT_TESTED, regex=False)
    seen_by = crops.groupby("identities").cameras.transform("nunique")
    judged = crops[is_person & is_tested & (seen_by > 1)].sample(frac=1, random_state=0)
    rows = judged.groupby(["identities", "cameras"]).head(CROPS_OF_A_CAMERA).index.to_numpy()
    return Crops(
        unit_rows(np.concatenate(features)[rows]),
        pd.factorize(crops.identities[rows], sort=True)[0].astype(np.int64),
        pd.factorize(crops.cameras[rows], sort=True)[0].astype(np.int64),
    )


def centred(crops: Crops, means: CameraMeans | None) -> Crops:
    if means is None:
        return crops
    return crops._replace(units=means.centre(crops.units, crops.cameras))


def mean_precision(queries: Crops, gallery: Crops, other_cameras_only: bool) -> float:
    """Return mAP in per cent, without the crops of a query's own person and camera.

    Args:
        other_cameras_only: leave out other people under the query's camera, too.
    """
    scores = queries.units @ gallery.units.T
    labels = PairLabels(
        queries.people, queries.cameras, gallery.people, gallery.cameras, other_cameras_only
    )
    return 100.0 * float(rank_queries(lambda rows: scores[rows], labels).average_precision.mean())


def found_people(crops: Crops, enrolled: Codes, other_cameras_only: bool) -> tuple[float, float]:
    """Return the shares in per cent of searches that find their person, if 1% of strangers match.

    Crops of enrolled people and of all others search the crops of the enrolled ones, without those
    that `mean_precision` leaves out. The threshold is the best one: that of these strangers.

    Returns:
        The shares by a threshold on the best score, and on its distance to the level of the search,
        as the service judges.
    """
    gallery = crops.of(enrolled)
    scores = crops.units @ gallery.units.T
    is_left_out = crops.cameras[:, None] == gallery.cameras
    if not other_cameras_only:
        is_left_out &= crops.people[:, None] == gallery.people
    scores[is_left_out] = -np.inf
    is_right = gallery.people[scores.argmax(axis=1)] == crops.people
    is_known = np.isin(crops.people, enrolled)
    leaders = leaders_by_name(scores, np.broadcast_to(gallery.people, scores.shape))

    def share(best: Array) -> float:
        threshold = np.quantile(best[~is_known], 1.0 - RATE)
        return 100.0 * float(((best > threshold) & is_right)[is_known].mean())

    return share(leaders[:, 0]), share(leaders[:, 0] - level(leaders))


def draw_means(crops: Crops, people: int, random: np.random.Generator) -> CameraMeans:
    """Make the mean of each camera of at most 100 crops of this number of people."""
    means = {}
    for camera in np.unique(crops.cameras).tolist():
        own = crops.at(crops.cameras == camera)
        drawn = own.of(random.permutation(np.unique(own.people))[:people])
        means[camera] = drawn.units[:CROPS_OF_A_MEAN].mean(axis=0, dtype=np.float64)
    return CameraMeans(np.mean(list(means.values()), axis=0), means)


def measure_means(crops: Crops) -> Iterator[dict[str, Any]]:
    """Yield the figures of each draw without centring, and with means of few and many people."""
    everyone = np.unique(crops.people)
    for seed in range(DRAWS):
        random = np.random.default_rng(seed)
        drawn = random.permutation(everyone)
        ranked = crops.of(drawn[:RANKED])
        others = crops.of(drawn[RANKED:])
        enrolled = drawn[: RANKED // 2]
        for people in (0, *PEOPLE_OF_A_MEAN):
            means = draw_means(others, people, random) if people else None
            judged = centred(ranked, means)
            for searched, others_only in SEARCHED.items():
                found, found_by_level = found_people(judged, enrolled, others_only)
                yield {
                    "searched": searched,
                    "draw": seed,
                    "people": people,
                    "mAP": mean_precision(judged, judged, others_only),
                    "found": found,
                    "found_by_level": found_by_level,
                }


def draw_gallery(
    crops: Crops, people: int, others: int, random: np.random.Generator
) -> tuple[Crops, Crops]:
    """Draw a gallery, and crops that search it.

    Half of the crops of each person and camera are enrolled, one at least, and the others search.

    Args:
        people: number of people whom every camera sees.
        others: number of further people, whom all cameras but one see. They do not search.

    Returns:
        The crops that search, and those of the gallery.
    """
    drawn = random.permutation(np.unique(crops.people))
    present = crops.of(drawn[:people])
    table = pd.DataFrame({"person": present.people, "camera": present.cameras})
    of_camera = table.groupby(["person", "camera"]).person
    is_enrolled = (of_camera.cumcount() < (of_camera.transform("size") + 1) // 2).to_numpy()
    enrolled = present.at(is_enrolled)
    absent = crops.of(drawn[people : people + others])
    seen = absent.at(absent.cameras != random.choice(np.unique(crops.cameras)))
    gallery = Crops(
        np.concatenate([enrolled.units, seen.units]),
        np.concatenate([enrolled.people, seen.people]),
        np.concatenate([enrolled.cameras, seen.cameras]),
    )
    return present.at(~is_enrolled), gallery


def measure_galleries(crops: Crops) -> Iterator[dict[str, Any]]:
    """Yield for each drawn gallery mAP without centring, by the rule for means, and as decided."""
    for others in (0, PEOPLE_OF_OTHER_CAMERAS):
        for people in PEOPLE_OF_A_CAMERA:
            if people + others > len(np.unique(crops.people)):
                continue
            for seed in range(DRAWS):
                random = np.random.default_rng([people, others, seed])
                queries, gallery = draw_gallery(crops, people, others, random)
                means = fit_means(gallery.shown)
                everybody = np.ones(len(gallery.people), np.bool_)
                gain = measure_gain(gallery.shown, everybody) if means else None
                is_centred = gain is not None and gain.is_clear
                for searched, others_only in SEARCHED.items():
                    plain = mean_precision(queries, gallery, others_only)
                    by_rule = mean_precision(
                        centred(queries, means), centred(gallery, means), others_only
                    )
                    yield {
                        "searched": searched,
                        "people": people,
                        "others": others,
                        "mAP": plain,
                        "by_rule": by_rule - plain,
                        "decided": by_rule - plain if is_centred else 0.0,
                        "has_means": means is not None,
                        "is_centred": is_centred,
                    }


def summarize_means(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield means over draws, and the differences to no centring with their standard errors."""
    plain = rows[rows.people == 0].set_index(["searched", "draw"])
    for (searched, people), own in rows.groupby(["searched", "people"]):
        figures: dict[str, Any] = {"searched": searched, "people": int(people)}
        for name in ("mAP", "found", "found_by_level"):
            of_draws = own.set_index(["searched", "draw"])[name]
            differences = of_draws - plain.loc[of_draws.index, name]
            figures[name] = round(float(own[name].mean()), 2)
            figures[f"{name}_gain"] = round(float(differences.mean()), 2)
            figures[f"{name}_error"] = round(float(differences.sem()), 2)
        yield figures


def summarize_galleries(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for (searched, others, people), own in rows.groupby(["searched", "others", "people"]):
        yield {
            "searched": searched,
            "others": int(others),
            "people": int(people),
            "mAP": round(float(own.mAP.mean()), 2),
            "has_means": round(float(own.has_means.mean()), 3),
            "by_rule": round(float(own.by_rule.mean()), 2),
            "by_rule_worst": round(float(own.by_rule.min()), 2),
            "is_centred": round(float(own.is_centred.mean()), 3),
            "decided": round(float(own.decided.mean()), 2),
            "decided_worst": round(float(own.decided.min()), 2),
        }


def main(label: str, features: list[Path]) -> None:
    """Print the figures of one artefact and data set as a JSON object.

    Args:
        label: the names of artefact and data set in the tables, such as `open, CUHK03`.
        features: files or folders that gmn embed wrote with this artefact, of one data set.
    """
    crops = read_crops(features)
    means = summarize_means(pd.DataFrame(measure_means(crops)))
    galleries = summarize_galleries(pd.DataFrame(measure_galleries(crops)))
    about = {"artefact": label, "draws": DRAWS, "least": LEAST_SHOWN}
    typer.echo(
        json.dumps(
            {
                "results": [about | row for row in means],
                "galleries": [about | row for row in galleries],
            }
        )
    )


if __name__ == "__main__":
    typer.run(main)
