"""Searches of a data set: its crops that ask, and the gallery that they are searched in.

Small sets are searched in random splits: ten times some people are drawn, and the figures pooled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem
from training.datasets.kind import RandomSplits
from training.datasets.protocols import is_held_out, some_identities
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import kind_of
from training.evaluation.metrics import PairLabels, integer_labels


@dataclass(frozen=True)
class RandomSplit:
    """One of the random splits of a small set, as rows of its search.

    Attributes:
        queries: `(q,)`, of people drawn.
        gallery: `(g,)`, of the same people and of those who are in every gallery.
    """

    queries: NDArray[np.int64]
    gallery: NDArray[np.int64]


@dataclass(frozen=True)
class Search:
    """The searches of one data set.

    Attributes:
        protocol: how they were chosen, for people.
        queries, gallery: the crops; where every crop queries, both are the same ones.
        other_cameras_only: a query's gallery holds no crop of its own camera at all.
        held_out: the people were held out of an artefact's training, or its thresholds were
            fitted on them.
        splits: the searches of each random split of the set; figures pool them.
    """

    protocol: str
    queries: tuple[CropRecord, ...]
    gallery: tuple[CropRecord, ...]
    other_cameras_only: bool = False
    held_out: bool = False
    splits: tuple[RandomSplit, ...] = ()

    @property
    def records(self) -> tuple[CropRecord, ...]:
        """Every crop once: first the queries, then the gallery where it is not the same."""
        return self.queries if self.gallery is self.queries else self.queries + self.gallery

    def labels(self) -> PairLabels:
        """Return identities and cameras as integers; junk is −1."""
        return integer_labels(
            [record.identity for record in self.queries],
            [camera_name(record) for record in self.queries],
            [record.identity for record in self.gallery],
            [camera_name(record) for record in self.gallery],
            other_cameras_only=self.other_cameras_only,
        )


def camera_name(record: CropRecord) -> str:
    """Return a camera's name across the domains of a set, each of which may have a camera "1"."""
    return f"{record.domain}\0{record.camera}"


def whole_set(dataset: Dataset) -> Search:
    """Return the set's own query and gallery splits; without them, all its crops across cameras.

    Raises:
        InputProblem: where a split lacks its counterpart or there is one camera only.
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


def held_out_people(dataset: Dataset, held_out: Mapping[str, float]) -> Search:
    """Search for the people that an artefact's training held out, across cameras.

    Args:
        dataset: as it was read for training.
        held_out: `fraction` and `seed`, from the artefact's provenance.

    Raises:
        InputProblem: where no people were held out, or none of this set.
    """
    fraction = held_out.get("fraction", 0.0)
    seed = int(held_out.get("seed", 0))
    if fraction <= 0.0:
        raise InputProblem(
            "the artefact's training held out no people; evaluate on data it was not trained on, "
            "with --split all"
        )
    records = [
        record
        for record in dataset.records
        if record.split in (None, "train")
        and is_held_out(dataset.name, record.identity, fraction, seed)
    ]
    if not records:
        raise InputProblem(
            f"{dataset.spec}: none of its people is held out (fraction {fraction:g}, seed {seed}); "
            "name the data set that the artefact was trained on"
        )
    return replace(across_cameras(dataset.spec, records), held_out=True)


def across_cameras(spec: str, records: Sequence[CropRecord]) -> Search:
    """Return two cameras: the first against the second. More: every crop against all other cameras.

    Raises:
        InputProblem: where there is one camera only.
    """
    cameras = sorted({camera_name(record) for record in records})
    if len(cameras) < 2:
        raise InputProblem(
            f"{spec}: all crops are of one camera; a search across cameras needs two or more"
        )
    if len(cameras) > 2:
        everyone = tuple(records)
        return Search(
            f"every crop against the other {len(cameras) - 1} cameras", everyone, everyone, True
        )
    queries = tuple(record for record in records if camera_name(record) == cameras[0])
    gallery = tuple(record for record in records if camera_name(record) == cameras[1])
    return Search(f"camera {queries[0].camera} against {gallery[0].camera}", queries, gallery)


def standard_search(dataset: Dataset, most: int | None = None) -> Search:
    """Search a set as papers do: in random splits by custom, else in its own splits.

    Args:
        dataset: as read; without a split of its own, after `limit_test_identities`.
        most: how many people a random split searches for at most; None is what papers do.

    Raises:
        InputProblem: where the set cannot be searched so.
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
    """Return the search of everybody who takes part, and which of it each split is.

    Where the set's authors ship their own splits, these are taken; else people are drawn.

    Args:
        dataset: with crops of both sides.
        trials: how the set is split by custom.
        not_people: identities that label no person.
        most: how many of the people drawn are searched for at most, chosen as `limit_identities`
            does; None is all.

    Raises:
        InputProblem: where fewer people take part than a split draws.
    """
    people = trials.eligible_identities(dataset.records, not_people)
    if len(people) < trials.test_people:
        raise InputProblem(
            f"{dataset.spec}: {len(people)} people are on both sides, and a split draws "
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
    """Return everybody's queries, and all crops of some split's gallery."""
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
    """Return one crop of every person drawn as the query, another one as the gallery."""
    pairs = [random.choice(_rows(records, {person}), 2, replace=False) for person in drawn]
    queries, gallery = np.stack(pairs).T
    return RandomSplit(queries.astype(np.int64), gallery.astype(np.int64))


def _rows(records: tuple[CropRecord, ...], people: Collection[str]) -> NDArray[np.int64]:
    return np.array(
        [row for row, record in enumerate(records) if record.identity in people], dtype=np.int64
    )
