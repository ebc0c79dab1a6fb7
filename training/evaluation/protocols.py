"""Which crops of a data set are queries, and which are the gallery they are searched in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.problems import InputProblem
from training.datasets.protocols import is_held_out
from training.datasets.record import CropRecord, Dataset
from training.evaluation.ranking import PairLabels, integer_labels


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
        held_out: the people are those that an artefact's training held out, or others whom its
            thresholds were fitted on.
        splits: where the set is split at random, what each split searches; figures pool them.
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
        """Identities and cameras as integers; junk is −1."""
        return integer_labels(
            [record.identity for record in self.queries],
            [camera_name(record) for record in self.queries],
            [record.identity for record in self.gallery],
            [camera_name(record) for record in self.gallery],
            other_cameras_only=self.other_cameras_only,
        )


def camera_name(record: CropRecord) -> str:
    """A camera's name across the domains of a set, each of which may have a camera "1"."""
    return f"{record.domain}\0{record.camera}"


def whole_set(dataset: Dataset) -> Search:
    """The set's own query and gallery splits; without them, all its crops across cameras.

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
    """The people of the training split that an artefact's training never saw, across cameras.

    Args:
        dataset: as it was read for training.
        held_out: `fraction` and `seed`, from the artefact's provenance.

    Raises:
        InputProblem: where no people were held out, or none of this set.
    """
    fraction, seed = held_out.get("fraction", 0.0), int(held_out.get("seed", 0))
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
    """Two cameras: the first against the second. More: every crop against all other cameras.

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
