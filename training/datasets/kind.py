"""What is known of a kind of data set: how to read it, its terms, what its authors published."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from training.datasets.folders import Layout
from training.datasets.record import CropRecord, Dataset


@dataclass(frozen=True)
class PublishedCount:
    """What the authors published about one split.

    Attributes:
        split: `train`, `query`, `gallery`, or None where the set is not split.
        images: number of crops; None where they state none.
        identities: number of people, junk and distractors not counted.
        version: the `Dataset.version` that was counted so; None where there is one version only.
    """

    split: str | None
    images: int | None
    identities: int
    version: str | None = None


@dataclass(frozen=True)
class RandomSplits:
    """How papers split a small set at random, again and again, to average the figures.

    Each split searches for `test_people` of the `eligible_identities`; the other eligible people
    may be trained on and are in neither query nor gallery. People who are not eligible but have
    crops on the gallery's side stay in the gallery of every split.

    Attributes:
        test_people: how many people are searched for in a split.
        sides: how queries and gallery crops differ. `cameras`: the first camera by name queries,
            the second is the gallery. `splits`: the set's own `query` and `gallery` splits.
            `crops`: of every person's crops one at random queries, another one is the gallery.
        number: how many splits are averaged.
    """

    test_people: int
    sides: Literal["cameras", "splits", "crops"]
    number: int = 10

    def eligible_identities(
        self, records: Iterable[CropRecord], not_people: frozenset[str] = frozenset()
    ) -> list[str]:
        """The people that a split draws from, sorted: those with a crop on either side.

        Args:
            records: the crops of the set.
            not_people: identities that label no person.
        """
        sides: dict[str, set[object]] = defaultdict(set)
        for number, record in enumerate(records):
            side = {"splits": record.split, "cameras": record.camera, "crops": number}[self.sides]
            sides[record.identity].add(side)
        return sorted(
            name for name, own in sides.items() if len(own) > 1 and name not in not_people
        )


def read_layout(kind: DatasetKind, path: Path) -> Dataset:
    """Reads a set that is files in folders, by its layout alone."""
    assert kind.layout is not None
    return kind.dataset(kind.layout.records(path, kind.name, kind.not_people), kind.version)


@dataclass(frozen=True)
class DatasetKind:
    """One kind of data set, as `training.datasets.registry.register_dataset` takes it.

    Attributes:
        name: the KIND of a spec; for a public set also the name of what is read.
        path: what the PATH of a spec is, for people.
        terms: under what terms it may be used, one sentence.
        obtain: where it comes from.
        layout: how a set of files in folders lays out its crops; None where `read` knows.
        read: from this kind, the PATH and its options, as keywords, to the data set.
        looks_like: whether a path is laid out as this kind, to suggest a remedy; None asks the
            layout.
        version: what a set with a layout alone is called beyond its name.
        options: what may follow the PATH as `,name=value`, and the values of each.
        published: the authors' counts.
        not_people: identities that label no person, such as junk.
        stands_for_camera: what the reader takes for the camera where files state none, a clause;
            empty where they state it.
        random_splits: how papers split the set at random; None where it has a split, or no custom.
        overlaps: the other kinds that show some of the same people.
        is_path: False where what follows the colon is no path; `read` gets it as text.
    """

    name: str
    path: str
    terms: str
    obtain: str
    layout: Layout | None = None
    read: Callable[..., Dataset] = read_layout
    looks_like: Callable[[Path], bool] | None = None
    version: str = ""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    published: tuple[PublishedCount, ...] = ()
    not_people: frozenset[str] = frozenset()
    stands_for_camera: str = ""
    random_splits: RandomSplits | None = None
    overlaps: frozenset[str] = frozenset()
    is_path: bool = True

    def fits(self, path: Path) -> bool:
        """Whether a path is laid out as this kind."""
        if self.looks_like is not None:
            return self.looks_like(path)
        return self.layout is not None and self.layout.fits(path)

    def dataset(self, records: Iterable[CropRecord], version: str = "") -> Dataset:
        """The data set of these crops; the registry writes its spec."""
        return Dataset(self.name, "", self.terms, tuple(records), version)
