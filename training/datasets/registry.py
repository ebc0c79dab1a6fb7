"""The one table of data sets, and `KIND:PATH` specs read by it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.problems import InputProblem
from training.datasets import cuhk01, manifest, market1501
from training.datasets.folder import DatasetProblem, named_path
from training.datasets.record import Dataset
from training.datasets.synthetic import people


@dataclass(frozen=True)
class PublishedCount:
    """What the authors published about one split.

    Attributes:
        split: `train`, `query`, `gallery`, or None where the set is not split.
        images: number of crops.
        identities: number of people, junk and distractors not counted.
    """

    split: str | None
    images: int
    identities: int


@dataclass(frozen=True)
class DatasetKind:
    """One kind of data set.

    Attributes:
        kind: the KIND of a spec.
        path: what the PATH of a spec is, for people.
        read: from the PATH to the data set.
        looks_like: whether a path is laid out as this kind; only used to suggest a remedy.
        obtain: where it comes from.
        terms: under what terms it may be used, one sentence.
        published: the authors' counts.
        not_people: identities that label no person, such as junk.
    """

    kind: str
    path: str
    read: Callable[[str], Dataset]
    looks_like: Callable[[Path], bool]
    obtain: str
    terms: str
    published: tuple[PublishedCount, ...] = ()
    not_people: frozenset[str] = frozenset()


KINDS = (
    DatasetKind(
        kind="market1501",
        path="the folder that holds bounding_box_train",
        read=market1501.read_market1501,
        looks_like=market1501.looks_like_market1501,
        obtain="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
        terms=market1501.TERMS,
        # The gallery's 19,732 images hold 3,819 of junk and the distractors.
        published=(
            PublishedCount("train", 12_936, 751),
            PublishedCount("query", 3_368, 750),
            PublishedCount("gallery", 19_732, 750),
        ),
        not_people=frozenset({market1501.JUNK, market1501.DISTRACTOR}),
    ),
    DatasetKind(
        kind="cuhk01",
        path="the folder of IIIIKKK.png files, or the one above it",
        read=cuhk01.read_cuhk01,
        looks_like=cuhk01.looks_like_cuhk01,
        obtain="https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html",
        terms=cuhk01.TERMS,
        published=(PublishedCount(None, 3_884, 971),),
    ),
    DatasetKind(
        kind="manifest",
        path="a CSV file, or a folder with a manifest.csv",
        read=manifest.read_manifest_dataset,
        looks_like=manifest.looks_like_manifest,
        obtain="your own crops",
        terms=manifest.TERMS,
    ),
    DatasetKind(
        kind="synthetic",
        path="a seed such as 7, with options such as 7,identities=60,domains=4",
        read=people.read_synthetic,
        looks_like=lambda _: False,
        obtain="drawn on the spot",
        terms=people.TERMS,
    ),
)


def kind_of(spec: str) -> DatasetKind:
    """The row of the table that a `KIND:PATH` names.

    Raises:
        DatasetProblem: naming the kinds there are.
    """
    name, colon, path = spec.partition(":")
    kind = next((kind for kind in KINDS if kind.kind == name), None)
    if kind is None or not colon:
        kinds = ", ".join(kind.kind for kind in KINDS)
        raise DatasetProblem(
            f"{spec}: is not KIND:PATH with a KIND of {kinds}{_suggestion(named_path(spec))}"
        )
    if not path:
        raise DatasetProblem(f"{spec}: lacks its PATH; write {name}: and {kind.path}")
    return kind


def read_dataset(spec: str) -> Dataset:
    """Reads the data set that a `KIND:PATH` names.

    Raises:
        InputProblem: naming the first file, row or folder that is wrong and, where the path holds
            another kind, the spec to write instead.
    """
    kind = kind_of(spec)
    path = spec.partition(":")[2]
    try:
        return kind.read(path)
    except InputProblem as problem:
        suggestion = "" if kind.looks_like(Path(path)) else _suggestion(Path(path))
        if not suggestion:
            raise
        raise DatasetProblem(f"{problem}{suggestion}") from problem


def read_datasets(specs: Sequence[str]) -> list[Dataset]:
    """Reads several data sets, each under a name of its own.

    Raises:
        InputProblem: as `read_dataset`, or if two sets have one name, since their labels would mix.
    """
    datasets: dict[str, Dataset] = {}
    for spec in specs:
        dataset = read_dataset(spec)
        if dataset.name in datasets:
            raise DatasetProblem(
                f"{spec}: is named {dataset.name}, as {datasets[dataset.name].spec} is; "
                "drop one of the two, or give one manifest another file name"
            )
        datasets[dataset.name] = dataset
    return list(datasets.values())


def _suggestion(path: Path) -> str:
    """The spec to write instead: for the path itself, a folder in it, or the folder it is in."""
    inside = sorted(path.iterdir()) if path.is_dir() and os.access(path, os.R_OK) else []
    folders = [place for place in inside if place.is_dir()]
    for place in (path, *folders, path.parent):
        for kind in KINDS:
            if kind.looks_like(place):
                return f"; it looks like {kind.kind}:{place}"
    return ""
