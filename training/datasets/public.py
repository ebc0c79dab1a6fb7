"""The public sets: the table `public.toml`, and the code of those that it cannot describe."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from training.datasets.archives import (
    CUHK03_LAYOUT,
    SYSU_LAYOUT,
    looks_like_cuhk03,
    read_cuhk03,
    read_cuhksysu,
    read_grid,
)
from training.datasets.kind import (
    DatasetKind,
    Layout,
    Parts,
    PublishedCount,
    RandomSplits,
    read_layout,
)
from training.datasets.msmt17 import looks_like_msmt17, read_msmt17
from training.datasets.record import Dataset

JUNK = "-1"
"""A badly drawn box of some person: evaluation drops it, it counts neither for nor against."""

DISTRACTOR = "0000"
"""A false detection or a person of no query: evaluation keeps it in the gallery, always wrong."""

FURTHER_DISTRACTORS = Layout(
    re.compile(r"(?P<identity>-1|0+)_(?P<camera>c[1-6]).*\.jpg"),
    "like 0000_c1s1_000151_01.jpg, as the 500k distractors are named",
    {"images": {"split": "gallery"}},
    label=lambda of: (JUNK if of["identity"] == JUNK else DISTRACTOR, of["camera"]),
)


def _read_market1501(kind: DatasetKind, path: Path, distractors: str = "none") -> Dataset:
    """Reads the three splits; junk and distractors are in the gallery alone.

    With `distractors=500k` the folder `images` of the 500,000 further distractors joins it.
    """
    dataset = read_layout(kind, path)
    if distractors == "none":
        return dataset
    further = FURTHER_DISTRACTORS.records(kind, path)
    return kind.dataset([*dataset.records, *further], "with the 500k distractors")


def _label_of_prid2011(of: Parts) -> tuple[str, str]:
    both = int(of["person"]) <= 200
    return (of["person"] if both else f"{of['camera']}-{of['person']}", of["camera"])


def _label_of_randperson(of: Parts) -> tuple[str, str]:
    scene = of.get("scene") or of["scene_last"]
    camera = of.get("camera") or of["camera_first"]
    return (of["identity"], scene + camera)


LABELS: dict[str, Callable[[Parts], tuple[str, str]]] = {
    "cuhk02": lambda of: (f"{of['pair']}-{of['person']}", of["camera"]),
    "cuhk01": lambda of: (of["identity"], "A" if of["shot"] in "12" else "B"),
    "prid2011": _label_of_prid2011,
    "ilids": lambda of: (of["identity"], f"shot{int(of['shot'])}"),
    "randperson": _label_of_randperson,
}
"""Identity and camera, where a file's name and folder do not state just these two."""

CODE: dict[str, dict[str, Any]] = {
    "market1501": {"read": _read_market1501},
    "msmt17": {"read": read_msmt17, "looks_like": looks_like_msmt17},
    "cuhk03np": {"layout": CUHK03_LAYOUT, "read": read_cuhk03, "looks_like": looks_like_cuhk03},
    "cuhksysu": {"layout": SYSU_LAYOUT, "read": read_cuhksysu},
    "grid": {"read": read_grid},
}
"""The fields of a `DatasetKind` that are code."""


def _kind(name: str, row: Mapping[str, Any]) -> DatasetKind:
    """Return a set of the table."""
    fields = {**row, **CODE.get(name, {})}
    if "file_name" in row:
        layout = ("form", "folders", "within")
        own = {key: fields.pop(key) for key in layout if key in row}
        own |= {"label": LABELS[name]} if name in LABELS else {}
        fields["layout"] = Layout(re.compile(fields.pop("file_name")), **own)
    if "random_splits" in row:
        fields["random_splits"] = RandomSplits(**row["random_splits"])
    fields["published"] = tuple(PublishedCount(**one) for one in row["published"])
    for key in ("not_people", "overlaps"):
        fields[key] = frozenset(row.get(key, ()))
    return DatasetKind(name, **fields)


PUBLIC_SETS = tuple(
    _kind(name, row)
    for name, row in tomllib.loads(
        Path(__file__).with_name("public.toml").read_text("utf-8")
    ).items()
)
