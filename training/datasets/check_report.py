"""What `check-data` reports, as plain values that also become its JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from pydantic import BaseModel

EXAMPLES = 10
"""How many findings of a kind a report names, unless it is asked for more."""

Found = TypeVar("Found")


class Findings(BaseModel, Generic[Found]):
    """All findings of one kind, counted; `examples` are the first of them."""

    count: int
    examples: list[Found]

    @classmethod
    def of(cls, found: Sequence[Found], most: int) -> Findings[Found]:
        """Counts findings and keeps at most so many."""
        return cls(count=len(found), examples=list(found[:most]))


class SplitCount(BaseModel):
    """One split, counted; `published_…` is None where the authors published nothing."""

    split: str | None
    images: int
    identities: int
    published_images: int | None = None
    published_identities: int | None = None


class FileFinding(BaseModel):
    """A file that is wrong; `code` is stable for programs, `detail` is for people."""

    source: str
    code: str
    detail: str


class QualityCount(BaseModel):
    """The readable crops of a set that pass one quality limit, by the fault's `code`."""

    code: str
    files: Findings[FileFinding]


class SizeBin(BaseModel):
    """How many crops have a side of `at_least` pixels and less than `below` (None: any more)."""

    at_least: int
    below: int | None
    images: int


class SizeRange(BaseModel):
    """Smallest, median and largest of a side, pixels, and its histogram."""

    smallest: int
    median: float
    largest: int
    histogram: list[SizeBin]


class DatasetReport(BaseModel):
    """One data set as found.

    Attributes:
        version: which version of the set was read; empty where there is one only.
        identities: number of people; junk and distractors are not counted.
        images_by_camera: number of crops under each camera.
        unreadable: files that training and evaluation would stop at.
        quality: readable files too poor to recognise a person by, the most frequent fault first; a
            file may have several.
        one_camera_identities: people who cannot be searched for across cameras.
        width, height: of the readable files; None where there is none.
        notes: what deserves a look, a sentence each.
    """

    name: str
    spec: str
    version: str
    terms: str
    obtain: str
    images: int
    identities: int
    images_by_camera: dict[str, int]
    splits: list[SplitCount]
    unreadable: Findings[FileFinding]
    quality: list[QualityCount]
    one_camera_identities: Findings[str]
    width: SizeRange | None
    height: SizeRange | None
    notes: list[str]


Crossing = Literal["data set", "split", "identity"]


class Duplicates(BaseModel):
    """One picture in several files.

    Attributes:
        files: how many.
        sources: the first of them.
        people: who the labels say they show, `data set/identity`; of many, the first.
        places: where they lie, `data set` or `data set/split`.
        crosses: what differs between them; empty where person and split are the same. `data set`
            and `split` are leaks: what is trained on is also tested on.
    """

    files: int
    sources: list[str]
    people: list[str]
    places: list[str]
    crosses: list[Crossing]


class NearDuplicates(Duplicates):
    """The same of files whose bytes differ, and which are labelled as different people or lie in
    several splits; `distance` is in bits of 256, 0 to the threshold."""

    distance: int


class SharedPictures(BaseModel):
    """How many pictures two places share, or how many are in one place under several names.

    Attributes:
        places: one or two.
        exact: pictures in several files with the same bytes.
        crossing: how many of these are labelled as different people or lie in several splits.
        near: pictures in files with other bytes; they always cross a label or a split.
    """

    places: list[str]
    exact: int
    crossing: int
    near: int


class CheckReport(BaseModel):
    """Every data set checked, and the pictures that are there more than once.

    Attributes:
        duplicates: files with the same bytes, under one label and in one split.
        crossing_duplicates: those under several labels or in several splits.
        near_duplicates: files with the same picture stored in another way, under another label or
            in another split.
        shared: both, counted by where they lie.
        notes: what is known of the sets together.
    """

    datasets: list[DatasetReport]
    crossing_duplicates: Findings[Duplicates]
    duplicates: Findings[Duplicates]
    near_duplicates: Findings[NearDuplicates]
    shared: list[SharedPictures]
    notes: list[str]
