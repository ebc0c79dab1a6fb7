"""The registry of kinds of data sets, and the reader of `KIND:PATH` specs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from model.problems import legible
from model.registry import Registry
from training.datasets.drawn import SYNTHETIC
from training.datasets.kind import DatasetKind, read_layout
from training.datasets.manifests import MANIFEST, PEOPLE_FOLDER
from training.datasets.public import JUNK, PUBLIC_SETS
from training.datasets.record import CropRecord, Dataset, DatasetProblem
from training.datasets.rendered import RENDERED

KINDS: Registry[DatasetKind] = Registry("data set", "gmn.datasets")
"""All kinds by name, in the order in which messages list them."""

OPTION = re.compile(r"(?P<path>.*),\s*(?P<name>[a-z]+)\s*=\s*(?P<value>[^,/\\]*)", re.DOTALL)


class Spec(NamedTuple):
    """A parsed spec; `path`, and `tail` with the options, are as written."""

    kind: DatasetKind
    path: str
    options: dict[str, str]
    tail: str

    def __str__(self) -> str:
        return f"{self.kind.name}:{self.path}{self.tail}"


def register_dataset(kind: DatasetKind) -> None:
    """Add a kind of data set, so that specs can name it.

    An installed package does so in every process by an entry point of the group `gmn.datasets`.

    Raises:
        ValueError: another kind has the name, or the kind has neither a reader nor a layout.
    """
    if kind.read is read_layout and (kind.layout is None or kind.options):
        raise ValueError(
            f"data set {kind.name}: give it a function that reads it, or a layout and no options"
        )
    KINDS.add(kind.name, kind)


for _kind in (*PUBLIC_SETS, MANIFEST, PEOPLE_FOLDER, SYNTHETIC, RENDERED):
    register_dataset(_kind)


def kind_of(spec: str) -> DatasetKind:
    """Return the kind that a `KIND:PATH` names.

    Raises:
        DatasetProblem: there is no such kind; the message lists all kinds.
    """
    name, colon, path = spec.partition(":")
    if colon and name not in KINDS:
        KINDS.load_packages()
    if not colon or name not in KINDS:
        close = get_close_matches(name, KINDS, n=1) if colon else []
        hint = f"; did you mean {close[0]}:{path}?" if close else ""
        raise DatasetProblem(
            f"{legible(spec)}: is not KIND:PATH with a KIND of {', '.join(KINDS)}{hint}"
        )
    if not path:
        raise DatasetProblem(f"{spec}: lacks its PATH; write {name}: and {KINDS[name].path}")
    return KINDS[name]


def showing_people(spec: str, records: Iterable[CropRecord]) -> list[CropRecord]:
    """Return the crops that show a person, without junk and distractors."""
    no_people = kind_of(spec).not_people | {JUNK}
    return [record for record in records if record.identity not in no_people]


def read_dataset(spec: str) -> Dataset:
    """Read the data set of a `KIND:PATH`, or of the path of a CSV manifest.

    Raises:
        InputProblem: a file, row or folder is wrong; the message names the first one.
    """
    parsed = _parse(spec)
    kind = parsed.kind
    path = _named_path(parsed.path) if kind.is_path else parsed.path
    if kind.is_path and not Path(path).exists():
        raise DatasetProblem(
            f"{legible(spec)}: there is no file or folder {legible(path)}; correct the path"
        )
    dataset = kind.read(kind, path, **parsed.options)
    if not dataset.records:
        raise DatasetProblem(f"{spec}: has no crop; unpack the data set again")
    return replace(dataset, spec=str(parsed))


def read_datasets(specs: Sequence[str]) -> list[Dataset]:
    """Read several data sets, whose names must differ, because names are part of the labels.

    Raises:
        InputProblem: a data set cannot be read, or two of them have one name.
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
    """Make the path of a spec absolute, so that it does not depend on the working folder."""
    parsed = _parse(spec)
    if parsed.kind.is_path:
        absolute = _named_path(parsed.path).absolute()
        parsed = parsed._replace(path=str(absolute))
    return str(parsed)


def overlapping(names_a: Iterable[str], names_b: Iterable[str]) -> list[tuple[str, str]]:
    """Return pairs of kinds, one of each list, that show some of the same people.

    One set of such a pair must not be tested if the other is trained on.
    """
    second = list(names_b)
    return [
        (name, other)
        for name in names_a
        if name in KINDS
        for other in second
        if other in KINDS[name].overlaps
    ]


def _parse(spec: str) -> Spec:
    """Split a spec into kind, path and options; an existing path may contain commas.

    Raises:
        DatasetProblem: an option is unknown, has a wrong value or is given twice.
    """
    if Path(spec).suffix.lower() == ".csv" and Path(spec).is_file():
        spec = f"{MANIFEST.name}:{spec}"
    kind = kind_of(spec)
    path = text = spec.partition(":")[2]
    options: dict[str, str] = {}
    while kind.is_path and (match := OPTION.fullmatch(path)) and not Path(path).exists():
        path = match["path"]
        name = match["name"]
        value = match["value"].strip()
        if name not in kind.options:
            names = ", ".join(kind.options)
            remedy = f"its options are {names}" if names else "it takes none"
            raise DatasetProblem(f"{legible(spec)}: there is no option {name}; {remedy}")
        if value not in kind.options[name]:
            allowed = " or ".join(f"{name}={value}" for value in kind.options[name])
            raise DatasetProblem(f"{legible(spec)}: {name} is {value!r}; write {allowed}")
        if name in options:
            raise DatasetProblem(f"{spec}: {name} is given twice; write it once")
        options[name] = value
    return Spec(kind, path, options, text.removeprefix(path))


def _named_path(text: str) -> Path:
    """Expand `~` in the PATH of a spec, which no shell does behind a colon."""
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise DatasetProblem(f"{text}: {error}; write the path in full") from error
