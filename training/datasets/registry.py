"""The one table of data sets, and `KIND:PATH` specs read by it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from model.problems import InputProblem
from training.datasets import (
    cuhk01,
    cuhk02,
    cuhk03np,
    cuhksysu,
    dukemtmc,
    grid,
    ilids,
    manifest,
    market1501,
    msmt17,
    people_folder,
    prid2011,
    randperson,
    viper,
)
from training.datasets.folder import DatasetProblem, named_path
from training.datasets.kind import DatasetKind
from training.datasets.options import split_options
from training.datasets.record import CropRecord, Dataset
from training.datasets.synthetic import people

SYNTHETIC = DatasetKind(
    kind="synthetic",
    path="a seed such as 7, with options such as 7,identities=60,domains=4",
    read=people.read_synthetic,
    looks_like=lambda _: False,
    obtain="drawn on the spot",
    terms=people.TERMS,
)

KINDS: tuple[DatasetKind, ...] = (
    market1501.KIND,
    msmt17.KIND,
    cuhk03np.KIND,
    cuhk02.KIND,
    cuhk01.KIND,
    cuhksysu.KIND,
    viper.KIND,
    grid.KIND,
    prid2011.KIND,
    ilids.KIND,
    randperson.KIND,
    dukemtmc.KIND,
    manifest.KIND,
    people_folder.KIND,
    SYNTHETIC,
)

LOOKED_INTO = 20
"""How many folders within a wrong path are looked at for the spec to suggest."""


def kind_of(spec: str) -> DatasetKind:
    """The row of the table that a `KIND:PATH` names.

    Raises:
        DatasetProblem: naming the kinds there are.
    """
    name, colon, path = spec.partition(":")
    kind = next((kind for kind in KINDS if kind.kind == name), None)
    if kind is None or not colon:
        kinds = [kind.kind for kind in KINDS]
        close = get_close_matches(name, kinds, n=1) if colon else []
        hint = f"; did you mean {close[0]}:{path}?" if close else ""
        named = named_path(path if colon else spec)
        if not hint and named.exists():
            hint = _suggestion(named)
        raise DatasetProblem(f"{spec}: is not KIND:PATH with a KIND of {', '.join(kinds)}{hint}")
    if not path:
        raise DatasetProblem(f"{spec}: lacks its PATH; write {name}: and {kind.path}")
    return kind


def showing_people(spec: str, records: Iterable[CropRecord]) -> list[CropRecord]:
    """The crops of a set that show a person: neither junk nor distractors."""
    nobody = kind_of(spec).not_people | {market1501.JUNK}
    return [record for record in records if record.identity not in nobody]


def read_dataset(spec: str) -> Dataset:
    """Reads the data set that a `KIND:PATH` or the path of a CSV manifest names.

    Raises:
        InputProblem: naming the first file, row or folder that is wrong and, where the path holds
            another kind, the spec to write instead.
    """
    if _is_manifest(spec):
        spec = f"{manifest.KIND.kind}:{spec}"
    kind = kind_of(spec)
    text = spec.partition(":")[2]
    try:
        dataset = kind.read(text)
    except InputProblem as problem:
        path = _path_of(kind, text)
        is_clear = kind.looks_like(path) or f"{kind.kind}:" in str(problem)
        suggestion = "" if is_clear else _suggestion(path)
        if not suggestion:
            raise
        raise DatasetProblem(f"{problem}{suggestion}") from problem
    if not dataset.records:
        raise DatasetProblem(f"{spec}: lists no crop; unpack the data set again")
    return dataset


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


def absolute_spec(spec: str) -> str:
    """The spec with an absolute path, which means the same data in every working folder."""
    if _is_manifest(spec):
        spec = f"{manifest.KIND.kind}:{spec}"
    kind = kind_of(spec)
    text = spec.partition(":")[2]
    if kind is SYNTHETIC:
        return spec
    path = split_options(kind.kind, text, kind.options)[0]
    return f"{kind.kind}:{named_path(path).absolute()}{text[len(path) :]}"


def overlapping(names_a: Iterable[str], names_b: Iterable[str]) -> list[tuple[str, str]]:
    """Which data sets show some of the same people, although their names differ.

    Such a pair must not lie on both sides, one to train on and one to test on.

    Args:
        names_a, names_b: names of data sets; one that is no kind overlaps nothing known.

    Returns:
        Pairs of a name of `names_a` and a name of `names_b`, in their order.
    """
    overlaps = {kind.kind: kind.overlaps for kind in KINDS}
    second = list(names_b)
    return [(a, b) for a in names_a for b in second if b in overlaps.get(a, ())]


def _is_manifest(spec: str) -> bool:
    return Path(spec).suffix.lower() == ".csv" and Path(spec).is_file()


def _path_of(kind: DatasetKind, text: str) -> Path:
    try:
        return named_path(split_options(kind.kind, text, kind.options)[0])
    except DatasetProblem:
        return Path(text)


def _suggestion(path: Path) -> str:
    """The spec to write instead: for the path itself, a folder in it, or the folder it is in."""
    inside = sorted(path.iterdir()) if path.is_dir() and os.access(path, os.R_OK) else []
    folders = islice((place for place in inside if place.is_dir()), LOOKED_INTO)
    for place in (path, *folders, path.parent):
        for kind in KINDS:
            if kind.looks_like(place):
                return f"; it looks like {kind.kind}:{place}"
    return ""
