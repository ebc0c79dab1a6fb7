"""Rows of crops in Milvus: vectors, and codes that only the record can decode.

A code is a keyed hash; names, crop ids and metadata never leave the record. Hits in Milvus are only
proposals: the record decides whether a crop still exists and what its labels are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from service.index.filters import SearchFilter
from service.record.values import ArchivedCrop, LabelledCrop, group_code, identity_code

PREFIX = "gmn"
# Increase this with every change of a row or its codes: collections in another format are rebuilt.
FORMAT = "_f1"
# A page of rows is a range of ids, because Milvus does not guarantee an order.
IDS_PER_PAGE = 8192
# Milvus refuses larger limits.
LARGEST_LIMIT = 16_384
TOO_SLOW = "this request takes too long; a smaller top_k may be answered"
UNKNOWN_CAMERA = -1
# Earlier than every time with a year; Milvus 2.3 has no null.
UNKNOWN_TIME = -1e18
EARLIEST_TIME = -1e17


class LabelRow(TypedDict):
    """The scalar fields of a row, which can be compared for equality or order; `id` is the slot."""

    id: int
    crop: int
    grp: int
    camera: int
    captured: float


class Row(LabelRow):
    """A row of a collection; `v` has unit length, `(d,)`."""

    v: NDArray[np.float32]


class Hit(TypedDict):
    """A row proposed by a search; an approximate index may miss some."""

    id: int
    crop: int
    grp: int
    v: NDArray[np.float32]


@dataclass(frozen=True)
class Codes:
    """63-bit codes of names, keyed by the record's secret and so the same in every process.

    Attributes:
        secret: at most 64 bytes.
    """

    secret: bytes

    def crop(self, label: LabelledCrop) -> int:
        """Return the code of a crop id, since another copy of the record may reuse a slot."""
        return self._code("crop", label.crop_id)

    def group(self, label: LabelledCrop) -> int:
        """Return the code of an identity, or a unique negative one if there is none."""
        return group_code(label, self.secret)

    def camera(self, name: str | None) -> int:
        return UNKNOWN_CAMERA if name is None else self._code("camera", name)

    def label(self, label: LabelledCrop) -> LabelRow:
        captured = label.captured_at
        return LabelRow(
            id=label.slot,
            crop=self.crop(label),
            grp=self.group(label),
            camera=self.camera(label.camera),
            captured=UNKNOWN_TIME if captured is None else captured.timestamp(),
        )

    def row(self, crop: ArchivedCrop) -> Row:
        vector = crop.vector.astype(np.float64)
        unit = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return Row(**self.label(crop.record), v=unit.astype(np.float32))

    def prefix(self, owner: str) -> str:
        return f"{PREFIX}_{self._code('record', owner):x}_"

    def collection(self, owner: str, gallery_id: int, build: int) -> str:
        return f"{self.prefix(owner)}{gallery_id}_{build}{FORMAT}"

    def expression(self, wanted: SearchFilter) -> str:
        """Return a filter as a Milvus expression, ignoring metadata; empty for every crop."""
        parts: list[str] = []
        if wanted.cameras:
            parts.append(f"camera in {self._encode_cameras(wanted.cameras)}")
        if wanted.exclude_cameras:
            parts.append(f"camera not in {self._encode_cameras(wanted.exclude_cameras)}")
        if wanted.captured_after:
            parts.append(f"captured >= {wanted.captured_after.timestamp()!r}")
        if wanted.captured_before:
            parts.append(f"captured > {EARLIEST_TIME!r}")
            parts.append(f"captured <= {wanted.captured_before.timestamp()!r}")
        if wanted.named is not None:
            parts.append("grp >= 0" if wanted.named else "grp < 0")
        if wanted.identities:
            codes = [identity_code(identity, self.secret) for identity in wanted.identities]
            parts.append(f"grp in {codes}")
        if wanted.without:
            parts.append(f"id not in {sorted(wanted.without)}")
        return " and ".join(parts)

    def _encode_cameras(self, names: Iterable[str]) -> list[int]:
        return [self.camera(name) for name in names]

    def _code(self, kind: str, text: str) -> int:
        hashed = blake2b(text.encode(), digest_size=8, key=self.secret, person=kind.encode())
        return int.from_bytes(hashed.digest(), "big") >> 1
