"""Columns of a gallery's crops that searches compare, by slot, beside the mapped vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray

from service.record.crop_rows import CropColumns
from service.record.values import identity_code
from service.record.vectors import Vector, VectorFile
from service.search.filters import Filter, LazyTexts, MetadataRows, ReadTexts, no_texts

SLOTS_AT_ONCE = 4096
# Above this share of some slots, multiplying all of them is faster than copying the wanted first.
ALL_SLOTS_SHARE = 0.25
# The group number of no identity.
UNNAMED = -1
SHORTEST = 1e-12
LARGEST_CODE = 2**63 - 1
Slots = NDArray[np.int64]
Item = TypeVar("Item", bound=np.generic)


class TrackCodes(LazyTexts):
    """The codes of crops' tracks, which are read as `MetadataRows` are: at the first need."""

    def __init__(self, read: ReadTexts) -> None:
        super().__init__(read)
        self._codes = np.zeros(0, np.int64)

    def of(self, valid: NDArray[np.bool_], cameras: NDArray[np.int32]) -> NDArray[np.int64]:
        stale = self._unread(valid)
        if len(stale):
            codes = -1 - np.arange(len(valid))
            codes[: len(self._codes)] = self._codes
            codes[stale] = -1 - stale
            for slot, track in self._read(stale.tolist()):
                # Python keys the hashes of texts in each process: nobody can make two equal.
                codes[slot] = hash((int(cameras[slot]), track)) & LARGEST_CODE
            self._codes = codes
            self._is_read = np.ones(len(valid), np.bool_)
        return self._codes[: len(valid)]


class Columns:
    """Columns that are as long as the vector file, so that the place of a crop is its slot.

    A slot is given out once, and its vector is never written again, but erased. A slot without a
    living crop costs 29 bytes, and nothing at the next start where its neighbours have none either.
    One thread writes. Others may read the slots that were there before.

    Attributes:
        dimension: d, of the vectors.
        secret: under which identities become group codes.
        size: the slot after the newest crop's.
        count: the number of living crops.
        changes: how many crops were changed, each time counted.
        vectors: as the embedder gave them, `(capacity, d)` float32; to be read.
        norms: Euclidean lengths of the vectors, `(capacity,)` float32.
        valid: True where there is a living crop, `(capacity,)`.
        groups: the group codes, `(capacity,)` int64.
        group_numbers: a number for each group from 0, `(capacity,)` int32; -1 for no identity.
        cameras: a code for each camera, `(capacity,)` int32; 0 where it is unknown.
        captured: seconds since 1970, `(capacity,)` float64; NaN where unknown.
    """

    def __init__(
        self,
        dimension: int,
        secret: bytes = b"",
        metadata: ReadTexts = no_texts,
        tracks: ReadTexts = no_texts,
    ) -> None:
        self.dimension = dimension
        self.secret = secret
        self.size = 0
        self.count = 0
        self.changes = 0
        self.vectors: Vector = np.zeros((0, dimension), np.float32)
        self.norms = np.zeros(0, np.float32)
        self.valid = np.zeros(0, np.bool_)
        self.groups = np.zeros(0, np.int64)
        self.group_numbers = np.zeros(0, np.int32)
        self.cameras = np.zeros(0, np.int32)
        self.captured = np.zeros(0, np.float64)
        self._camera_codes: dict[str | None, int] = {None: 0}
        self._group_numbers: dict[int, int] = {}
        # The slots that the last filter passed, with the filter and `changes`.
        self._selected: tuple[Filter, int, Slots] | None = None
        self._metadata = MetadataRows(metadata)
        self._tracks = TrackCodes(tracks)

    def add(self, crops: CropColumns, file: VectorFile) -> None:
        """Add crops, of which those with slots below `size` are there already.

        Args:
            file: has their vectors.
        """
        crops = crops.at(np.flatnonzero(crops.slots >= self.size))
        slots = crops.slots
        if not len(slots):
            return
        if slots[-1] >= len(self.vectors):
            self._map(file)
        self._set_labels(crops)
        self.norms[slots] = _norms(self.vectors, slots)
        self.valid[slots] = True
        self.size = int(slots[-1]) + 1
        self.count += len(slots)
        self.changes += len(slots)

    def relabel(self, crops: CropColumns) -> None:
        """Give crops other labels; unknown ones are ignored."""
        crops = crops.at(np.flatnonzero(crops.slots < self.size))
        self._set_labels(crops)
        self._metadata.outdate(crops.slots)
        self._tracks.outdate(crops.slots)
        self.changes += len(crops.slots)

    def remove(self, slots: Iterable[int]) -> Slots:
        """Remove crops, and return the slots of the removed ones."""
        removed = [slot for slot in set(slots) if slot < self.size and self.valid[slot]]
        self.valid[removed] = False
        self.count -= len(removed)
        self.changes += len(removed)
        return np.array(removed, np.int64)

    def cosines(self, slots: Slots, query: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the cosines of slots, ascending, with a query of unit length, `(n,)`, in float32.

        Nothing but they has the length of the slots: a gallery of millions would take that often.
        """
        cosines = np.empty(len(slots), np.float32)
        for start in range(0, len(slots), SLOTS_AT_ONCE):
            wanted = slots[start : start + SLOTS_AT_ONCE]
            first = int(wanted[0])
            end = int(wanted[-1]) + 1
            if len(wanted) > ALL_SLOTS_SHARE * (end - first):
                products = _inner_products(self.vectors[first:end], query)[wanted - first]
            else:
                products = _inner_products(self.vectors[wanted], query)
            cosines[start : start + SLOTS_AT_ONCE] = products / self.norms[wanted]
        return cosines

    def units(self, slots: Slots) -> NDArray[np.float32]:
        """Return copies of the vectors of slots at unit length, `(n, d)`."""
        return np.asarray(self.vectors[slots] / self.norms[slots, None], np.float32)

    def unit_parts(self, slots: Slots) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """Yield the `units` of slots in parts, each with its places among the slots."""
        for start in range(0, len(slots), SLOTS_AT_ONCE):
            part = slice(start, min(start + SLOTS_AT_ONCE, len(slots)))
            yield part, self.units(slots[part])

    def select(self, wanted: Filter) -> Slots:
        """Return the slots of the living crops that pass a filter, ascending; not to be changed."""
        changes = self.changes
        selected = self._selected
        if selected and selected[:2] == (wanted, changes):
            return selected[2]
        every = slice(self.size)
        passing = self.valid[every]
        if wanted.cameras or wanted.exclude_cameras:
            passes = [wanted.passes_camera(camera) for camera in self._camera_codes]
            passing = passing & np.array(passes)[self.cameras[every]]
        if wanted.captured_after:
            passing = passing & (self.captured[every] >= wanted.captured_after.timestamp())
        if wanted.captured_before:
            passing = passing & (self.captured[every] <= wanted.captured_before.timestamp())
        if wanted.named is not None:
            passing = passing & ((self.groups[every] >= 0) == wanted.named)
        if wanted.identities:
            codes = [identity_code(identity, self.secret) for identity in wanted.identities]
            passing = passing & np.isin(self.groups[every], codes)
        if wanted.metadata:
            passing = passing & self._metadata.bearing(wanted.metadata, self.valid[every])
        if wanted.without:
            passing = passing.copy()
            passing[[slot for slot in wanted.without if slot < self.size]] = False
        slots = np.flatnonzero(passing)
        self._selected = wanted, changes, slots
        return slots

    def tracks(self) -> NDArray[np.int64]:
        """Return a code for each track and camera, `(size,)`; below 0 and its own without one."""
        every = slice(self.size)
        return self._tracks.of(self.valid[every], self.cameras[every])

    def _map(self, file: VectorFile) -> None:
        self.vectors = file.mapped()
        capacity = len(self.vectors)
        self.norms = _grown(self.norms, capacity)
        self.valid = _grown(self.valid, capacity)
        self.groups = _grown(self.groups, capacity)
        self.group_numbers = _grown(self.group_numbers, capacity)
        self.cameras = _grown(self.cameras, capacity)
        self.captured = _grown(self.captured, capacity)

    def _set_labels(self, crops: CropColumns) -> None:
        slots = crops.slots
        self.groups[slots] = crops.groups
        self.captured[slots] = crops.captured
        cameras = self._camera_codes
        self.cameras[slots] = [cameras.setdefault(name, len(cameras)) for name in crops.cameras]
        known = self._group_numbers
        codes, places = np.unique(crops.groups, return_inverse=True)
        numbers = [
            UNNAMED if code < 0 else known.setdefault(code, len(known)) for code in codes.tolist()
        ]
        self.group_numbers[slots] = np.array(numbers, np.int32)[places]


def _grown(column: NDArray[Item], capacity: int) -> NDArray[Item]:
    # Room for more takes no memory before it is written.
    grown = np.zeros(capacity, column.dtype)
    grown[: len(column)] = column
    return grown


def _inner_products(
    vectors: NDArray[np.float32], query: NDArray[np.float32]
) -> NDArray[np.float32]:
    # FAISS's own loop takes half the time of a matrix product through BLAS for one query. It is as
    # fast as IndexFlatIP, which would need a second copy of every vector.
    products = np.empty(len(vectors), np.float32)
    # FAISS exports it, its type stubs leave it out.
    faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
        faiss.swig_ptr(products),
        faiss.swig_ptr(np.ascontiguousarray(query)),
        faiss.swig_ptr(vectors),
        vectors.shape[1],
        len(vectors),
    )
    return products


def _norms(vectors: Vector, slots: Slots) -> NDArray[np.float32]:
    first = int(slots[0])
    end = int(slots[-1]) + 1
    # A run of slots is read in place.
    found = vectors[first:end] if end - first == len(slots) else vectors[slots]
    norms = np.empty(len(slots), np.float32)
    # FAISS exports it, its type stubs leave it out.
    faiss.fvec_norms_L2(  # type: ignore[attr-defined]
        faiss.swig_ptr(norms), faiss.swig_ptr(found), found.shape[1], len(found)
    )
    return np.maximum(norms, np.float32(SHORTEST))
