"""Doubtful crops that are found, and good ones that are called so, in galleries with errors.

`python -m bench.doubtful ARTEFACT KIND:PATH` draws galleries of the people whom the artefact's
training held out, or with `--test` of those of the set's test part. In each gallery 5% of the crops
have the name of somebody else, and 5% are cut to a quarter: half of the height and half of the
width at a drawn place. The people are split into halves. The constants of the rule were chosen on
the first half, of which the margins are printed that 2% of the good crops exceed, and the figures
are those of the second half.

In further galleries half of the people have one crop, and a fifth of the others have one more crop
under a new name. `python -m bench.figures doubtful FILE…` writes the table of docs/doubtful.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from model.arrays import Array, Codes, Floats, unit_rows
from model.artefact import Artefact, load_artefact, resolve_artefact
from model.calibration import ScoringCalibration
from model.problems import InputProblem
from model.runtimes import build_runtime
from service.doubtful.rule import MARGINS, measure_agreement
from training.datasets.record import CropRecord
from training.datasets.registry import read_dataset, showing_people
from training.evaluation.searches import held_out_people, whole_set

# Bounds on the people of a set, and on the crops of each.
MOST_PEOPLE = 300
MOST_CROPS = 12
# Largest numbers of crops of a person in the galleries.
SIZES = (12, 10, 8, 5, 4, 3, 2)
DRAWS = 5
WRONG_SHARE = 0.05
CUT_SHARE = 0.05
# Share of the crops of which a quarter is embedded as well.
QUARTERED_SHARE = 0.2
GOOD_SHARE_CALLED = 0.02
CROPS_AT_ONCE = 64
GOOD, WRONG, CUT = range(3)


class Crops(NamedTuple):
    """Embedded crops of people.

    Attributes:
        identities: names, `(n,)`.
        features: unit vectors, `(n, d)`.
        quarters: unit vectors of the crops that are cut to a quarter, `(m, d)`.
        quarter_of: for each crop the row of its quarter, or -1, `(n,)`.
    """

    identities: NDArray[np.str_]
    features: Floats
    quarters: Floats
    quarter_of: Codes


class Drawn(NamedTuple):
    """A gallery with errors, ordered by name.

    Attributes:
        names: codes of the names, ascending, `(n,)`.
        vectors: unit vectors, `(n, d)`.
        kinds: `GOOD`, `WRONG` or `CUT`, `(n,)`.
    """

    names: Codes
    vectors: Floats
    kinds: Codes


def choose_records(records: Sequence[CropRecord], random: np.random.Generator) -> list[CropRecord]:
    """Choose at most 300 people, and at most 12 crops of each, by name."""
    people = sorted({record.identity for record in records})
    chosen: dict[str, list[CropRecord]] = {
        name: [] for name in sorted(random.permutation(people)[:MOST_PEOPLE].tolist())
    }
    for position in random.permutation(len(records)):
        record = records[position]
        crops = chosen.get(record.identity)
        if crops is not None and len(crops) < MOST_CROPS:
            crops.append(record)
    return [record for crops in chosen.values() for record in crops]


def cut_to_a_quarter(crop: Image.Image, random: np.random.Generator) -> Image.Image:
    width, height = crop.size
    top = int(random.integers(height - height // 2 + 1))
    left = int(random.integers(width - width // 2 + 1))
    return crop.crop((left, top, left + width // 2, top + height // 2))


def embed(artefact: Artefact, records: Sequence[CropRecord], random: np.random.Generator) -> Crops:
    """Embed crops in OpenVINO, as the service does, and a quarter of some of them."""
    runtime = build_runtime(artefact, "openvino", "float32")
    resize = artefact.description.preprocessing.resize
    is_cut = random.random(len(records)) < QUARTERED_SHARE
    features = []
    quarters = []
    for start in range(0, len(records), CROPS_AT_ONCE):
        batch = records[start : start + CROPS_AT_ONCE]
        pictures = [record.decode() for record in batch]
        cut = [
            cut_to_a_quarter(picture, random)
            for position, picture in enumerate(pictures, start)
            if is_cut[position]
        ]
        features.append(runtime.embed(np.stack([resize(picture) for picture in pictures])))
        if cut:
            quarters.append(runtime.embed(np.stack([resize(picture) for picture in cut])))
    return Crops(
        identities=np.array([record.identity for record in records]),
        features=unit_rows(np.concatenate(features)),
        quarters=unit_rows(np.concatenate(quarters)),
        quarter_of=np.where(is_cut, np.cumsum(is_cut) - 1, -1),
    )


def read_crops(artefact: Artefact, data: str, test: bool, cache: Path | None) -> Crops:
    """Embed the people of a data set, or read them from a file of an earlier run."""
    if cache is not None and cache.exists():
        with np.load(cache) as stored:
            return Crops(**{name: stored[name] for name in Crops._fields})
    dataset = read_dataset(data)
    held_out = artefact.description.provenance.held_out
    search = whole_set(dataset) if test else held_out_people(dataset, held_out)
    by_source = {record.source: record for record in search.records}
    records = showing_people(data, by_source.values())
    random = np.random.default_rng(0)
    crops = embed(artefact, choose_records(records, random), random)
    if cache is not None:
        np.savez(cache, **crops._asdict())
    return crops


def draw_gallery(crops: Crops, people: NDArray[np.str_], most: int, seed: int) -> Drawn:
    """Draw at most `most` crops of each person, and rename and cut some of them."""
    random = np.random.default_rng([most, seed])
    rows = _take_few(random.permutation(_rows_of(crops, people)), crops.identities, most)
    names = np.unique(crops.identities[rows], return_inverse=True)[1]
    vectors = crops.features[rows].copy()
    kinds = np.full(len(rows), GOOD)

    can_be_cut = random.permutation(np.flatnonzero(crops.quarter_of[rows] >= 0))
    cut = can_be_cut[: round(CUT_SHARE * len(rows))]
    vectors[cut] = crops.quarters[crops.quarter_of[rows[cut]]]
    kinds[cut] = CUT
    others = random.permutation(np.flatnonzero(kinds == GOOD))
    wrong = others[: round(WRONG_SHARE * len(rows))]
    shift = random.integers(1, names.max() + 1, len(wrong))
    names[wrong] = (names[wrong] + shift) % (names.max() + 1)
    kinds[wrong] = WRONG

    order = np.argsort(names, kind="stable")
    return Drawn(names[order], vectors[order], kinds[order])


def draw_only_crops(crops: Crops, people: NDArray[np.str_], most: int, seed: int) -> Drawn:
    """Draw one crop of half of the people, and one of each fifth other person under a new name.

    Crops of people who have others are neither good nor wrong ones here.
    """
    random = np.random.default_rng([most, seed, 1])
    names: list[int] = []
    rows: list[int] = []
    kinds: list[int] = []
    for number, person in enumerate(random.permutation(people)):
        own = random.permutation(_rows_of(crops, np.array([person])))
        kept = own[: 1 if number % 2 else most]
        rows += kept.tolist()
        names += [number] * len(kept)
        kinds += [GOOD if number % 2 else CUT] * len(kept)
        if number % 10 == 0 and len(own) > most:
            rows.append(int(own[most]))
            names.append(len(people) + number)
            kinds.append(WRONG)
    order = np.argsort(names, kind="stable")
    return Drawn(np.array(names)[order], crops.features[rows][order], np.array(kinds)[order])


def judge(drawn: Drawn, calibration: ScoringCalibration) -> tuple[Array, Codes]:
    """Return the doubt about each crop, and the number of further crops of its person."""
    cosines = drawn.vectors @ drawn.vectors.T
    np.fill_diagonal(cosines, -np.inf)
    agreement = measure_agreement(cosines, drawn.names, drawn.names)
    return agreement.doubts(calibration), agreement.own_crops


def measure(crops: Crops, calibration: ScoringCalibration) -> Iterator[dict[str, Any]]:
    """Yield the figures of the second half of the people, by the most crops of a person."""
    people = np.random.default_rng(5).permutation(np.unique(crops.identities))
    people = people[len(people) // 2 :]
    counts = np.unique(crops.identities, return_counts=True)[1]
    for most in SIZES:
        if most > counts.max():
            continue
        doubtful: list[NDArray[np.bool_]] = []
        kinds: list[Codes] = []
        only_doubtful: list[NDArray[np.bool_]] = []
        only_kinds: list[Codes] = []
        for seed in range(DRAWS):
            drawn = draw_gallery(crops, people, most, seed)
            doubtful.append(judge(drawn, calibration)[0] >= 0.0)
            kinds.append(drawn.kinds)
            only = draw_only_crops(crops, people, min(most, counts.max() - 1), seed)
            doubts, own_crops = judge(only, calibration)
            only_doubtful.append((doubts >= 0.0)[own_crops == 0])
            only_kinds.append(only.kinds[own_crops == 0])
        found = np.concatenate(doubtful)
        kind = np.concatenate(kinds)
        of_only = np.concatenate(only_doubtful)
        only_kind = np.concatenate(only_kinds)
        yield {
            "people": len(people),
            "most": most,
            "crops": len(kinds[0]),
            "found": _share(found[kind != GOOD]),
            "wrong": _share(found[kind == WRONG]),
            "cut": _share(found[kind == CUT]),
            "good": _share(found[kind == GOOD]),
            "only_good": _share(of_only[only_kind == GOOD]),
            "only_wrong": _share(of_only[only_kind == WRONG]),
        }


def find_margins(crops: Crops, calibration: ScoringCalibration) -> list[float | None]:
    """Return the margin that 2% of the good crops of the first half exceed, by further crops."""
    people = np.random.default_rng(5).permutation(np.unique(crops.identities))
    people = people[: len(people) // 2]
    excesses: list[list[float]] = [[] for _ in MARGINS]
    for most in SIZES:
        for seed in range(DRAWS):
            drawn = draw_gallery(crops, people, most, seed)
            doubts, own_crops = judge(drawn, calibration)
            numbers = np.minimum(own_crops, len(MARGINS) - 1)
            for number in np.unique(numbers):
                good = (numbers == number) & (drawn.kinds == GOOD)
                excesses[number] += (doubts[good] + MARGINS[number]).tolist()
    return [
        round(float(np.quantile(excess, 1.0 - GOOD_SHARE_CALLED)), 1) if excess else None
        for excess in excesses
    ]


def name_of(data: str) -> str:
    """Return the name of a data set: its kind, or the folder of a manifest."""
    kind, _, path = data.partition(":")
    return Path(path).parent.name if kind == "manifest" else kind


def _rows_of(crops: Crops, people: NDArray[np.str_]) -> Codes:
    return np.flatnonzero(np.isin(crops.identities, people))


def _take_few(rows: Codes, identities: NDArray[np.str_], most: int) -> Codes:
    """Return at most `most` rows of each person, the first ones."""
    taken: dict[str, int] = {}
    few = []
    for row in rows.tolist():
        person = str(identities[row])
        taken[person] = taken.get(person, 0) + 1
        if taken[person] <= most:
            few.append(row)
    return np.array(few)


def _share(outcomes: NDArray[np.bool_]) -> float | None:
    return round(float(outcomes.mean()), 4) if len(outcomes) else None


def main(artefact: str, data: str, test: bool = False, cache: Path | None = None) -> None:
    """Print the figures of galleries with few and with many crops of a person as a JSON object.

    Args:
        artefact: a file, or the name of a shipped one.
        data: labelled crops, KIND:PATH.
        test: the people of the test part instead of those whom the training held out.
        cache: a file for the features, which a second run then reads.
    """
    loaded = load_artefact(resolve_artefact(artefact))
    calibration = loaded.description.calibration.scorings["cosine"]
    crops = read_crops(loaded, data, test, cache)
    if len(np.unique(crops.identities)) < 4:
        raise InputProblem(f"{data}: has too few people; name a set with at least four")
    part = "test part" if test else "held out"
    about = {"artefact": artefact, "data": f"{name_of(data)}, {part}"}
    rows = [about | row for row in measure(crops, calibration)]
    typer.echo(json.dumps({"results": rows, "margins": find_margins(crops, calibration)}))


if __name__ == "__main__":
    typer.run(main)
