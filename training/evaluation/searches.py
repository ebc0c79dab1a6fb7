"""Choose the queries and the gallery of a data set.

Small sets are searched in random splits: people are drawn ten times, and the figures are pooled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from model.arrays import Codes
from model.problems import InputProblem
from model.wording import counted
from training.datasets.kind import RandomSplits
from training.datasets.protocols import some_identities, split_held_out
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import kind_of
from training.evaluation.metrics import PairLabels, integer_labels

TRAINING_REMEDY = (
    "give more people, raise held_out.fraction, choose another held_out.seed, or set "
    "held_out.fraction=0 and calibrate the run by gmn finish --data"
)
EVALUATION_REMEDY = (
    "name the whole data set that the artefact was trained on, or evaluate with --split all"
)
TWO_CAMERAS = "a search across cameras needs two or more"


@dataclass(frozen=True)
class RandomSplit:
    """One of the random splits of a small set, as rows of its search.

    Attributes:
        queries: rows of the queries, `(q,)`, which show the drawn people.
        gallery: rows of the gallery, `(g,)`: the same people, and people who are in every gallery.
    """

    queries: Codes
    gallery: Codes


@dataclass(frozen=True)
class Search:
    """The queries and the gallery of one data set.

    Attributes:
        protocol: a description of the choice.
        queries, gallery: the crops; the same tuple if every crop is a query.
        other_cameras_only: whether crops of the query's own camera are never in its gallery.
        held_out: whether the people were held out of an artefact's training, or its thresholds
            fitted to them.
        splits: the random splits of the set, if it has any; figures pool them.
    """

    protocol: str
    queries: tuple[CropRecord, ...]
    gallery: tuple[CropRecord, ...]
    other_cameras_only: bool = False
    held_out: bool = False
    splits: tuple[RandomSplit, ...] = ()

    @property
    def records(self) -> tuple[CropRecord, ...]:
        """The queries, followed by the gallery if it is not the same."""
        return self.queries if self.gallery is self.queries else self.queries + self.gallery

    def labels(self) -> PairLabels:
        """Return identities and cameras as integers."""
        return integer_labels(
            [record.identity for record in self.queries],
            [camera_name(record) for record in self.queries],
            [record.identity for record in self.gallery],
            [camera_name(record) for record in self.gallery],
            other_cameras_only=self.other_cameras_only,
        )


def camera_name(record: CropRecord) -> str:
    """Return a camera name that is unique in the data set: each domain may have a camera "1"."""
    return f"{record.domain}\0{record.camera}"


def whole_set(dataset: Dataset) -> Search:
    """Search in the set's own query and gallery splits or, without these, across its cameras.

    Raises:
        InputProblem: one of the two splits is missing, or there is only one camera.
    """
    queries = tuple(record for record in dataset.records if record.split == "query")
    gallery = tuple(record for record in dataset.records if record.split == "gallery")
    if queries and gallery:
        return Search("query and gallery splits", queries, gallery)
    if queries or gallery:
        present, absent = ("query", "gallery") if queries else ("gallery", "query")
        raise InputProblem(
            f"{dataset.spec}: has crops of the {present} split but none of the {absent} split; "
            "add them, or leave the split empty in every row"
        )
    return across_cameras(dataset.spec, dataset.records)


def held_out_people(
    dataset: Dataset,
    held_out: Mapping[str, float],
    remedy: str = EVALUATION_REMEDY,
) -> Search:
    """Search for the people that an artefact's training held out, across cameras.

    Args:
        dataset: the data set as it was read for the training.
        held_out: `fraction` and `seed` from the artefact's provenance.
        remedy: what to do if the people held out cannot be searched for.

    Raises:
        InputProblem: no people were held out, or none of this set, or all of them under one camera.
    """
    fraction = held_out.get("fraction", 0.0)
    seed = int(held_out.get("seed", 0))
    if fraction <= 0.0:
        raise InputProblem(
            "the artefact's training held out no people; evaluate on data it was not trained on, "
            "with --split all"
        )
    _, records = split_held_out([dataset], fraction, seed)
    choice = f"fraction {fraction:g}, seed {seed}"
    if not records:
        raise InputProblem(
            f"{dataset.spec}: none of its people is held out ({choice} of "
            f"{len(dataset.identities):,} people); {remedy}"
        )
    if len({camera_name(record) for record in dataset.records}) > 1:
        people = len({record.identity for record in records})
        subject = f"all crops of the people held out ({people:,} by {choice}) are"
        search = across_cameras(dataset.spec, records, subject, f"{TWO_CAMERAS}; {remedy}")
    else:
        search = across_cameras(dataset.spec, records)
    return replace(search, held_out=True)


def across_cameras(
    spec: str,
    records: Sequence[CropRecord],
    subject: str = "all crops are",
    remedy: str = TWO_CAMERAS,
) -> Search:
    """Search with every crop in the crops of all other cameras; of two, with the first's alone.

    Args:
        spec: the data set's spec, for messages.
        records: the crops.
        subject: the beginning of the message that they are of one camera.
        remedy: the end of this message.

    Raises:
        InputProblem: there is only one camera.
    """
    cameras = sorted({camera_name(record) for record in records})
    if len(cameras) < 2:
        raise InputProblem(f"{spec}: {subject} of one camera; {remedy}")
    if len(cameras) > 2:
        everyone = tuple(records)
        return Search(
            f"every crop against the other {len(cameras) - 1} cameras", everyone, everyone, True
        )
    queries = tuple(record for record in records if camera_name(record) == cameras[0])
    gallery = tuple(record for record in records if camera_name(record) == cameras[1])
    return Search(f"camera {queries[0].camera} against {gallery[0].camera}", queries, gallery)


def standard_search(dataset: Dataset, most: int | None = None) -> Search:
    """Search a set as papers do: small ones in random splits, others in their own splits.

    Args:
        dataset: the data set, after `limit_test_identities`.
        most: the largest number of people that a random split searches for; None for the papers'.

    Raises:
        InputProblem: the set lacks the people or the splits for that.
    """
    kind = kind_of(dataset.spec)
    if kind.random_splits is None:
        return whole_set(dataset)
    return search_in_random_splits(dataset, kind.random_splits, kind.not_people, most=most)


def search_in_random_splits(
    dataset: Dataset,
    trials: RandomSplits,
    not_people: frozenset[str] = frozenset(),
    most: int | None = None,
) -> Search:
    """Return a search with the crops of all splits, and the rows of each split.

    The splits are those of the set's authors if these publish any; else people are drawn.

    Args:
        dataset: the data set, with crops of both sides.
        trials: the usual way to split the set.
        not_people: identities that label no person.
        most: the largest number of people that a split searches for, chosen as by
            `limit_identities`; None is all.

    Raises:
        InputProblem: fewer people are eligible than a split draws.
    """
    people = trials.eligible_identities(dataset.records, not_people)
    if len(people) < trials.test_people:
        found = counted(len(people), "person is", "people are")
        raise InputProblem(
            f"{dataset.spec}: {found} on both sides, but a split draws "
            f"{trials.test_people}; complete the set, or name a part of it as a manifest"
        )
    searched = trials.test_people
    queries, gallery = _sides(dataset, trials, set(people))
    splits = []
    for number in range(trials.number):
        random = np.random.default_rng((0, number))
        if dataset.training_people:
            drawn = set(people) - dataset.training_people[number % len(dataset.training_people)]
        else:
            drawn = set(random.choice(people, trials.test_people, replace=False).tolist())
        drawn = some_identities(dataset.name, drawn, most, seed=0)
        if trials.sides == "crops":
            splits.append(_one_crop_each(queries, sorted(drawn), random))
            continue
        stay = {record.identity for record in gallery} - set(people)
        splits.append(RandomSplit(_rows(queries, drawn), _rows(gallery, drawn | stay)))
    return Search(
        f"{trials.number} random splits of {min(most or searched, searched)} people, averaged",
        queries,
        gallery,
        splits=tuple(splits),
    )


def _sides(
    dataset: Dataset,
    trials: RandomSplits,
    people: Collection[str],
) -> tuple[tuple[CropRecord, ...], tuple[CropRecord, ...]]:
    """Return the queries of all eligible people, and all crops that some gallery has."""
    if trials.sides == "crops":
        everyone = tuple(record for record in dataset.records if record.identity in people)
        return everyone, everyone
    sides = [(record.split, record) for record in dataset.records]
    query = "query"
    other = "gallery"
    if trials.sides == "cameras":
        sides = [(record.camera, record) for record in dataset.records]
        query, other = sorted({record.camera for record in dataset.records})[:2]
    return (
        tuple(record for side, record in sides if side == query and record.identity in people),
        tuple(record for side, record in sides if side == other),
    )


def _one_crop_each(
    records: tuple[CropRecord, ...],
    drawn: list[str],
    random: np.random.Generator,
) -> RandomSplit:
    """Draw a crop of each person as the query, and another one for the gallery."""
    pairs = [random.choice(_rows(records, {person}), 2, replace=False) for person in drawn]
    queries, gallery = np.stack(pairs).T
    return RandomSplit(queries.astype(np.int64), gallery.astype(np.int64))


def _rows(records: tuple[CropRecord, ...], people: Collection[str]) -> Codes:
    return np.array(
        [row for row, record in enumerate(records) if record.identity in people], dtype=np.int64
    )
