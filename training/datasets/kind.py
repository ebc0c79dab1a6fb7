"""Kinds of data sets: the layout of their crops in folders, their terms and published counts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from model.crops.names import IMAGE_SUFFIXES, Ignored, is_hidden
from model.problems import visible
from training.datasets.record import CropRecord, Dataset, DatasetProblem, crop_in_file

READ_SUFFIXES = IMAGE_SUFFIXES | {".gif", ".tif", ".tiff"}
"""The endings of crops; those in formats that cannot be read are reported as such."""

NOT_ENTERED = "it is a folder, in which no images are looked for; move its images up"

Parts = Mapping[str, str]
"""The parts of a label, such as `identity`, `camera` and `split`, that file and folder name."""

Label = tuple[str, str]
"""Identity and camera."""


def _stated_label(parts: Parts) -> Label:
    return (parts["identity"], parts["camera"])


@dataclass(frozen=True)
class Layout:
    """The layout of a data set whose file names state the labels.

    Attributes:
        file_name: matches the whole name of a file; its groups are parts of the label.
        form: the pattern in words, such as `like 000_45.bmp (identity, viewing angle)`.
        folders: the folders of crops below the root, each with the parts that it stands for.
        within: folders of the archive above the root, the outermost first; they may be missing.
        label: returns identity and camera from the parts of a crop.
    """

    file_name: re.Pattern[str]
    form: str
    folders: Mapping[str, Parts] = field(default_factory=lambda: {"": {}})
    within: Sequence[str] = ()
    label: Callable[[Parts], Label] = _stated_label

    def records(
        self,
        kind: DatasetKind,
        path: Path,
        ignored: Ignored | None = None,
    ) -> list[CropRecord]:
        """Read every crop below the root, in the order of folders and names.

        Identities that label no person are read in the gallery only. The path is the root, or the
        folder of the archive above it. `ignored` collects what else lies in the folders of crops.

        Raises:
            DatasetProblem: a file or folder is wrong; the message names the first one.
        """
        root = descend(path, *self.within)
        listed(root)
        records = []
        for folder, stated in self.folders.items():
            for file in image_files(root / folder, ignored):
                match = self._match(file)
                if match is None:
                    raise DatasetProblem(
                        f"{file}: the name is not {self.form}; rename or remove the file"
                    )
                named = {name: part for name, part in match.groupdict().items() if part is not None}
                parts = {**stated, **named}
                identity, camera = self.label(parts)
                split = parts.get("split")
                if split in (None, "gallery") or identity not in kind.not_people:
                    records.append(crop_in_file(file, kind.name, identity, camera, split))
        return records

    def _match(self, file: Path) -> re.Match[str] | None:
        # Market-1501 as published has 24 files like `1488_c1s6_023021_00.jpg.jpg`.
        repeated = Path(file.stem).suffix.lower() == file.suffix.lower()
        return self.file_name.fullmatch(file.stem if repeated else file.name)


class PublishedCount(NamedTuple):
    """The published counts of one split; None if the authors state none.

    Attributes:
        identities: the number of people, without junk and distractors.
        images: the number of crops.
        split: `train`, `query`, `gallery`, or None if the set is not split.
        version: the `Dataset.version` of these counts; None for every version.
    """

    identities: int | None = None
    images: int | None = None
    split: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class RandomSplits:
    """Random splits of a small set, over which papers average.

    Each split searches for `test_people` of the `eligible_identities`. The other eligible people
    are neither in its queries nor in its gallery, so that they may be trained on. People who are
    not eligible stay in every gallery.

    Attributes:
        sides: the difference between queries and gallery. With `cameras` the queries are of the
            first camera by name, and the gallery of the second. With `splits` they are the set's
            own `query` and `gallery`. With `crops` a random crop of each person is the query, and
            another one is in the gallery.
        number: the number of splits.
    """

    test_people: int
    sides: Literal["cameras", "splits", "crops"]
    number: int = 10

    def eligible_identities(
        self,
        records: Iterable[CropRecord],
        not_people: frozenset[str] = frozenset(),
    ) -> list[str]:
        """Return the people with a crop on both sides, sorted; splits are drawn from these."""
        sides: dict[str, set[object]] = defaultdict(set)
        for number, record in enumerate(records):
            if self.sides == "splits":
                side: object = record.split
            elif self.sides == "cameras":
                side = record.camera
            else:
                side = number
            sides[record.identity].add(side)
        people = sides.keys() - not_people
        return sorted(name for name in people if len(sides[name]) > 1)


def read_layout(kind: DatasetKind, path: Path) -> Dataset:
    """Read a set by its layout alone."""
    assert kind.layout is not None
    ignored = Ignored()
    return kind.dataset(kind.layout.records(kind, path, ignored), kind.version, ignored)


@dataclass(frozen=True)
class DatasetKind:
    """One kind of data set, for `training.datasets.registry.register_dataset`.

    Attributes:
        name: the KIND of a spec; for a public set also the name of the data set.
        path: describes the PATH of a spec to people.
        terms: one sentence on how the data may be used.
        obtain: where to obtain the data.
        layout: the layout of the files in folders; None if `read` needs none.
        read: reads the data set, given this kind, the PATH, and the options as keywords.
        version: the `Dataset.version` of a set that is read by its layout alone.
        options: the options that may follow the PATH as `,name=value`, with their values.
        not_people: identities that label no person, such as junk.
        stands_for_camera: a clause that says how cameras are assigned if files state none.
        random_splits: None if the set has splits of its own, or papers do not split it.
        overlaps: the other kinds that show some of the same people.
        is_path: False if `read` takes the text behind the colon as it is.
    """

    name: str
    path: str
    terms: str
    obtain: str
    layout: Layout | None = None
    read: Callable[..., Dataset] = read_layout
    version: str = ""
    options: Mapping[str, Sequence[str]] = field(default_factory=dict)
    published: tuple[PublishedCount, ...] = ()
    not_people: frozenset[str] = frozenset()
    stands_for_camera: str = ""
    random_splits: RandomSplits | None = None
    overlaps: frozenset[str] = frozenset()
    is_path: bool = True

    def dataset(
        self,
        records: Iterable[CropRecord],
        version: str = "",
        ignored: Ignored | None = None,
    ) -> Dataset:
        """Make a data set of these crops and ignored files; the registry adds its spec."""
        others = ignored or Ignored()
        return Dataset(self.name, "", self.terms, tuple(records), version, ignored=others)


def descend(folder: Path, *names: str) -> Path:
    """Enter folders of these names one after another, and skip the missing ones."""
    for name in names:
        if (folder / name).is_dir():
            folder = folder / name
    return folder


def image_files(folder: Path, ignored: Ignored | None = None) -> list[Path]:
    """Return every image file directly in a folder, sorted by name, without hidden files.

    Args:
        folder: the folder.
        ignored: collects the other files and folders in it.

    Raises:
        DatasetProblem: the folder cannot be read, or has no image.
    """
    others = ignored or Ignored()
    files = []
    for place in listed(folder, others):
        if place.suffix.lower() in READ_SUFFIXES and place.is_file():
            files.append(place)
        elif place.is_dir():
            others.add(str(place), NOT_ENTERED)
        else:
            others.add_unused(str(place))
    if not files:
        raise DatasetProblem(f"{folder}: holds no image; name the data set's folder")
    return files


def listed(folder: Path, ignored: Ignored | None = None) -> list[Path]:
    """Return the files and folders in a folder, sorted by name, without hidden ones.

    Args:
        folder: the folder.
        ignored: collects the hidden ones, among which are by-products of storage systems.

    Raises:
        DatasetProblem: the folder is missing, is a file or cannot be read.
    """
    if not folder.exists():
        raise DatasetProblem(f"{visible(folder)}: no such folder; correct the path")
    if not folder.is_dir():
        raise DatasetProblem(f"{folder}: is a file; name the data set's folder")
    try:
        places = sorted(folder.iterdir())
    except OSError as error:
        raise DatasetProblem(
            f"{folder}: cannot be read ({error.strerror}); make it readable"
        ) from error
    others = ignored or Ignored()
    shown_places = []
    for place in places:
        if is_hidden(place.name):
            others.add_hidden(str(place))
        else:
            shown_places.append(place)
    return shown_places
