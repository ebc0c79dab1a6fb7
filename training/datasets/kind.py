"""The registry's entry for one kind of data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from training.datasets.record import Dataset
from training.datasets.trials import Trials


@dataclass(frozen=True)
class PublishedCount:
    """What the authors published about one split.

    Attributes:
        split: `train`, `query`, `gallery`, or None where the set is not split.
        images: number of crops.
        identities: number of people, junk and distractors not counted.
        version: the `Dataset.version` that was counted so; None where there is one version only.
    """

    split: str | None
    images: int
    identities: int
    version: str | None = None


@dataclass(frozen=True)
class DatasetKind:
    """One kind of data set.

    Attributes:
        kind: the KIND of a spec; for a public set also the name of what is read.
        path: what the PATH of a spec is, for people.
        read: from the PATH and its options to the data set.
        looks_like: whether a path is laid out as this kind; only used to suggest a remedy.
        obtain: where it comes from.
        terms: under what terms it may be used, one sentence.
        options: what may follow the PATH as `,name=value`, and the values of each.
        published: the authors' counts.
        not_people: identities that label no person, such as junk.
        stands_for_camera: what the reader takes for the camera where files state none, a clause;
            empty where they state it.
        trials: how papers split the set at random; None where it has a split, or no custom.
        overlaps: the other kinds that show some of the same people.
    """

    kind: str
    path: str
    read: Callable[[str], Dataset]
    looks_like: Callable[[Path], bool]
    obtain: str
    terms: str
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    published: tuple[PublishedCount, ...] = ()
    not_people: frozenset[str] = frozenset()
    stands_for_camera: str = ""
    trials: Trials | None = None
    overlaps: frozenset[str] = frozenset()
