"""A kind of data set: the layout of its crops in folders, its terms, its published counts."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from training.datasets.record import CropRecord, Dataset, DatasetProblem, crop_in_file

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff"})

Parts = Mapping[str, str]
"""Parts of the names of a file and its folder, such as `identity`, `camera` and `split`."""


def _stated_label(parts: Parts) -> tuple[str, str]:
    return (parts["identity"], parts["camera"])


@dataclass(frozen=True)
class Layout:
    """The layout of a public set.

    Attributes:
        file_name: matches the whole name of a file; its groups are parts of the label.
        form: the same for people, such as `like 000_45.bmp (identity, viewing angle)`.
        folders: the folders of the crops below the root, and the parts that each of them states.
        within: folders of the archive that may lie above the root, from the outside inwards.
        label: returns identity and camera from all parts of a crop.
    """

    file_name: re.Pattern[str]
    form: str
    folders: Mapping[str, Parts] = field(default_factory=lambda: {"": {}})
    within: Sequence[str] = ()
    label: Callable[[Parts], tuple[str, str]] = _stated_label

    def records(
        self,
        kind: DatasetKind,
        path: Path,
    ) -> list[CropRecord]:
        """Return every crop below a root or the folder above it, in the order of folders and names.

        Identities that label no person are read in a gallery only.

        Raises:
            DatasetProblem: naming the first file or folder that is wrong.
        """
        root = descend(path, *self.within)
        listed(root)
        records = []
        for folder, stated in self.folders.items():
            for file in image_files(root / folder):
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
    """The published counts of one split; None where the authors state none.

    Attributes:
        identities: number of people, junk and distractors not counted.
        images: number of crops.
        split: `train`, `query`, `gallery`, or None where the set is not split.
        version: the `Dataset.version` of these counts; None is every version.
    """

    identities: int | None = None
    images: int | None = None
    split: str | None = None
    version: str | None = None


@dataclass(frozen=True)
class RandomSplits:
    """Random splits of a small set, over which papers average.

    Each split searches for `test_people` of the `eligible_identities`. The other eligible people
    may be trained on and are in neither query nor gallery; all other people of the gallery's side
    stay in the gallery of every split.

    Attributes:
        sides: the difference between queries and gallery. `cameras`: the first camera by name
            queries, the second is the gallery. `splits`: the set's own `query` and `gallery`.
            `crops`: of every person's crops one at random queries, another one is the gallery.
        number: how many splits are averaged.
    """

    test_people: int
    sides: Literal["cameras", "splits", "crops"]
    number: int = 10

    def eligible_identities(
        self,
        records: Iterable[CropRecord],
        not_people: frozenset[str] = frozenset(),
    ) -> list[str]:
        """Return the people that a split draws from, sorted: those with a crop on either side."""
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
    return kind.dataset(kind.layout.records(kind, path), kind.version)


@dataclass(frozen=True)
class DatasetKind:
    """One kind of data set, as `training.datasets.registry.register_dataset` takes it.

    Attributes:
        name: the KIND of a spec; for a public set also the name of the data set.
        path: describes the PATH of a spec to people.
        terms: one sentence on how it may be used.
        obtain: its source.
        layout: the layout of a set of files in folders; None where `read` needs none.
        read: reads the data set, from this kind, the PATH and its options as keywords.
        version: `Dataset.version` of a set with a layout alone.
        options: names of options that may follow the PATH as `,name=value`, with their values.
        not_people: identities that label no person, such as junk.
        stands_for_camera: a clause on the substitute where files state no camera, else empty.
        random_splits: None where the set has a split of its own, or papers do not split it.
        overlaps: the other kinds that show some of the same people.
        is_path: False where `read` takes the text behind the colon as it is.
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
    ) -> Dataset:
        """Return the data set of these crops; the registry adds its spec."""
        return Dataset(self.name, "", self.terms, tuple(records), version)


def descend(folder: Path, *names: str) -> Path:
    """Return the innermost folder of these names; one that is missing is passed over."""
    for name in names:
        if (folder / name).is_dir():
            folder = folder / name
    return folder


def image_files(folder: Path) -> list[Path]:
    """Return every image file directly in a folder, sorted by name, without hidden files.

    Raises:
        DatasetProblem: as `listed`, or if the folder holds no image.
    """
    files = [
        file for file in listed(folder) if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
    ]
    if not files:
        raise DatasetProblem(f"{folder}: holds no image; name the data set's folder")
    return files


def listed(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, sorted by name, without hidden ones.

    Raises:
        DatasetProblem: if the folder is missing, is a file or cannot be read.
    """
    if not folder.exists():
        raise DatasetProblem(f"{folder}: no such folder; correct the path")
    if not folder.is_dir():
        raise DatasetProblem(f"{folder}: is a file; name the data set's folder")
    try:
        return sorted(place for place in folder.iterdir() if not place.name.startswith("."))
    except OSError as error:
        raise DatasetProblem(
            f"{folder}: cannot be read ({error.strerror}); make it readable"
        ) from error
