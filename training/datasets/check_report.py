"""What `check-data` reports, as plain values that also become its JSON."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class SplitCount(_Frozen):
    """One split, counted; `published_…` is None where the authors published nothing."""

    split: str | None
    images: int
    identities: int
    published_images: int | None = None
    published_identities: int | None = None


class FileFinding(_Frozen):
    """A file that is wrong; `code` is stable for programs, `detail` is for people."""

    source: str
    code: str
    detail: str


class SizeRange(_Frozen):
    """Smallest, median and largest of a side, pixels."""

    smallest: int
    median: float
    largest: int


class DatasetReport(_Frozen):
    """One data set as found.

    Attributes:
        identities: number of people; junk and distractors are not counted.
        images_by_camera: number of crops under each camera.
        unreadable: files that training and evaluation would stop at.
        tiny: readable files under 16 pixels wide or 32 high.
        one_camera_identities: people who cannot be searched for across cameras.
        width, height: of the readable files; None where there is none.
        notes: what deserves a look, a sentence each.
    """

    name: str
    spec: str
    terms: str
    obtain: str
    images: int
    identities: int
    images_by_camera: dict[str, int]
    splits: list[SplitCount]
    unreadable: list[FileFinding]
    tiny: list[FileFinding]
    one_camera_identities: list[str]
    width: SizeRange | None
    height: SizeRange | None
    notes: list[str]


class DuplicateFiles(_Frozen):
    """Files with the same bytes, yet labelled as different people or lying in different splits."""

    sources: list[str]
    people: list[str]


class CheckReport(_Frozen):
    """Every data set checked, and the duplicates within and between them."""

    datasets: list[DatasetReport]
    duplicates: list[DuplicateFiles]

    @property
    def readable(self) -> bool:
        """Whether every file can be read."""
        return not any(dataset.unreadable for dataset in self.datasets)
