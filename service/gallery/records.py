"""What is kept of galleries and crops, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class NewCrop:
    """One crop to be stored.

    Attributes:
        image: the file's bytes, kept as they came.
        content_type: read from the bytes.
        sha256: of the bytes, hexadecimal.
        vector: `(d,)` float32 as the embedder gave it, not of unit length.
        identity, camera, external_id: opaque strings; None where unknown.
        captured_at: with time zone; None where unknown.
        metadata: the client's own JSON object.
    """

    image: bytes
    content_type: str
    sha256: str
    vector: NDArray[np.float32]
    identity: str | None = None
    camera: str | None = None
    captured_at: datetime | None = None
    external_id: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class StoredCrop:
    """A crop's record without its picture and vector; `row_id` is never given out twice."""

    row_id: int
    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: datetime | None
    external_id: str | None
    metadata: Mapping[str, Any] | None
    sha256: str
    content_type: str
    created_at: datetime


@dataclass(frozen=True)
class CropLabel:
    """What a ranking says of a crop, kept in memory so that answering reads no database."""

    row_id: int
    crop_id: str
    identity: str | None
    camera: str | None
    captured_at: datetime | None


@dataclass(frozen=True)
class IndexedCrop:
    """What the index learns of a crop; the vector is `(d,)` float32, not of unit length."""

    label: CropLabel
    vector: NDArray[np.float32]


@dataclass(frozen=True)
class LandedCrop:
    """What became of one crop of an enrolment; `duplicate` means that `crop_id` is an older one."""

    crop_id: str
    identity: str | None
    camera: str | None
    duplicate: bool
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Enrolment:
    """One committed enrolment: `landed` in the order asked, `added` what the index has to learn."""

    version: int
    embedding_fingerprint: str
    landed: tuple[LandedCrop, ...]
    added: tuple[IndexedCrop, ...]


@dataclass(frozen=True)
class Removal:
    """One committed deletion."""

    version: int
    row_ids: tuple[int, ...]


@dataclass(frozen=True)
class GalleryRecord:
    """A gallery as stored; `crops` and `identities` are counted when it is read."""

    gallery_id: int
    name: str
    embedding_fingerprint: str
    version: int
    crops: int
    identities: int
    image_bytes: int
    created_at: datetime


@dataclass(frozen=True)
class IdentityCount:
    """How many crops, under how many cameras, one identity has."""

    identity: str
    crops: int
    cameras: int


@dataclass(frozen=True)
class Picture:
    """A stored image file."""

    content: bytes
    content_type: str
