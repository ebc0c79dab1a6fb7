"""Columns of a gallery's crops used in searches, by slot, beside the mapped vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import faiss
import numpy as np
from numpy.typing import NDArray
from pydantic_core import from_json, to_json

from model.arrays import Floats, unit_rows
from model.centring import CameraMeans
from service.index.centring import (
    CameraCodes,
    Centring,
    ComparedCrops,
    NamedMeans,
    PreparedCentring,
    centre_features,
)
from service.index.filters import EVERY_CROP, GroupBy, SearchFilter, pair_text
from service.index.moments import Moments
from service.record.crop_rows import CropColumns
from service.record.values import identity_code
from service.record.vectors import Vector, VectorFile

# Number of slots whose vectors are read at once.
SLOTS_AT_ONCE = 4096
# Above this share of a range of slots, multiplying all rows is faster than copying the wanted ones.
ALL_SLOTS_SHARE = 0.25
# Group number of crops without an identity.
UNNAMED = -1
# Lower bound on the length of a vector, which is divided by.
SHORTEST = 1e-12
LARGEST_CODE = 2**63 - 1
# Bounds on a step of reading texts, of a few tenths of a second, between which other searches run.
SLOTS_PER_STEP = 512
CODES_PER_STEP = 50_000
Slots = NDArray[np.int64]
Number = TypeVar("Number", bound=np.generic)
COLUMNS = ("norms", "valid", "set_aside", "groups", "group_numbers", "cameras", "captured")
ReadTexts = Callable[[Sequence[int]], Iterable[tuple[int, str]]]
"""Yields (slot, text), such as a crop's metadata, for each given slot that has a text."""


# Many crops share most pairs.
@lru_cache(maxsize=10_000)
def _pair_code(pair: bytes) -> int:
    # Python salts str hashes per process, so nobody can craft collisions.
    return hash(pair_text(from_json(pair)))


def metadata_codes(_slot: int, metadata: str) -> list[int]:
    return [_pair_code(to_json(pair)) for pair in from_json(metadata).items()]


class LazyCodes:
    """64-bit codes of texts of crops, such as their metadata.

    Nothing is stored before the first use. Each use reads the texts of crops added or changed since
    the previous one, so a gallery that is never filtered by metadata has no cost.
    """

    def __init__(self, read: ReadTexts, encode: Callable[[int, str], list[int]]) -> None:
        """Store nothing; `encode` returns the codes of the text of a slot."""
        self._read = read
        self._encode = encode
        self._is_read = np.zeros(0, np.bool_)
        self._parts = [np.zeros((2, 0), np.int64)]

    def outdate(self, slots: Slots) -> None:
        self._is_read[slots[slots < len(self._is_read)]] = False
        self._parts = [part[:, ~np.isin(part[1], slots)] for part in self._parts]

    def catch_up(self, valid: NDArray[np.bool_]) -> bool:
        """Read some of the texts that are not known yet; return True if others remain.

        Args:
            valid: `(size,)`, True for a living crop.
        """
        unread = valid.copy()
        unread[: len(self._is_read)] &= ~self._is_read
        stale = np.flatnonzero(unread)
        if not len(stale):
            return False
        step = stale[:SLOTS_PER_STEP]
        codes: list[int] = []
        slots: list[int] = []
        for slot, text in self._read(step.tolist()):
            added = self._encode(slot, text)
            codes += added
            slots += [slot] * len(added)
            if len(codes) > CODES_PER_STEP:
                step = step[step <= slot]
                break
        self._parts.append(np.array([codes, slots], np.int64))
        self._is_read = ~unread
        self._is_read[step] = True
        return len(step) < len(stale)

    def table(self) -> Slots:
        """Return the codes, each above the slot of a crop that has it, `(2, n)`."""
        if len(self._parts) > 1:
            self._parts = [np.concatenate(self._parts, axis=1)]
        return self._parts[0]


class Columns:
    """Columns as long as the vector file, so that a crop's position is its slot.

    A slot is assigned once, and its vector is never rewritten, only erased. An empty slot costs 30
    bytes, or none after a restart if its neighbours are empty too. One thread writes; others may
    read slots that existed before. Centring does not change the vectors, and costs 4 bytes a slot.

    Attributes:
        dimension: d of the vectors.
        secret: the record's group secret, which keys the group codes.
        size: one more than the newest crop's slot.
        count: number of living crops.
        changes: number of crop changes so far.
        vectors: embedder output, not normalized, `(capacity, d)` float32; read-only.
        norms: Euclidean lengths of the vectors, `(capacity,)` float32.
        valid: True where there is a living crop, `(capacity,)`.
        set_aside: True where no search finds the crop, `(capacity,)`.
        groups: group codes, `(capacity,)` int64.
        group_numbers: consecutive numbers of the groups, `(capacity,)` int32; -1 for no identity.
        cameras: a code for each camera, `(capacity,)` int32; 0 if unknown.
        captured: seconds since 1970, `(capacity,)` float64; NaN if unknown.
        centring: means that comparisons subtract; None if there are none.
    """

    def __init__(
        self,
        dimension: int,
        secret: bytes,
        metadata: ReadTexts = lambda _: (),
        tracks: ReadTexts = lambda _: (),
    ) -> None:
        self.dimension = dimension
        self.secret = secret
        self.size = 0
        self.count = 0
        self.changes = 0
        self.vectors: Vector = np.zeros((0, dimension), np.float32)
        self._mapped_path: Path | None = None
        self.norms = np.zeros(0, np.float32)
        self.valid = np.zeros(0, np.bool_)
        self.set_aside = np.zeros(0, np.bool_)
        self.groups = np.zeros(0, np.int64)
        self.group_numbers = np.zeros(0, np.int32)
        self.cameras = np.zeros(0, np.int32)
        self.captured = np.zeros(0, np.float64)
        self.centring: Centring | None = None
        self._camera_codes: dict[str | None, int] = {None: 0}
        self._group_numbers: dict[int, int] = {}
        # The last filter, the value of `changes` at that time, and the slots that passed.
        self._selected: tuple[SearchFilter, int, Slots] | None = None
        self._metadata = LazyCodes(metadata, metadata_codes)
        self._tracks = LazyCodes(tracks, self._track_codes)

    def add(self, crops: CropColumns, file: VectorFile) -> None:
        """Add crops, ignoring slots below `size`, which were added before.

        Args:
            file: the file with their vectors.
        """
        crops = crops.at(np.flatnonzero(crops.slots >= self.size))
        slots = crops.slots
        if not len(slots):
            return
        # A gallery that was emptied, and changed its embedder, goes on in another file.
        if file.path != self._mapped_path or slots[-1] >= len(self.vectors):
            self._map_vectors(file)
        self._set_labels(crops)
        first = int(slots[0])
        end = int(slots[-1]) + 1
        # A contiguous run of slots is read in place.
        rows = self.vectors[first:end] if end - first == len(slots) else self.vectors[slots]
        norms = np.empty(len(slots), np.float32)
        # FAISS exports this function, but its type stubs lack it.
        faiss.fvec_norms_L2(  # type: ignore[attr-defined]
            faiss.swig_ptr(norms), faiss.swig_ptr(rows), self.dimension, len(rows)
        )
        self.norms[slots] = np.maximum(norms, np.float32(SHORTEST))
        if self.centring is not None:
            self._scale(self.centring, slots, self.cameras[slots], lambda: None)
        self.valid[slots] = True
        self.size = end
        self.count += len(slots)
        self.changes += len(slots)

    def relabel(self, crops: CropColumns) -> Slots:
        """Change labels of crops.

        Returns:
            Slots of the living crops that comparisons centre by another camera now.
        """
        crops = crops.at(np.flatnonzero(crops.slots < self.size))
        slots = crops.slots
        if not len(slots):
            return slots
        cameras = self.cameras[slots]
        self._set_labels(crops)
        self._metadata.outdate(slots)
        self._tracks.outdate(slots)
        self.changes += len(slots)
        if self.centring is None:
            return np.zeros(0, np.int64)
        is_recentred = (self.cameras[slots] != cameras) & self.valid[slots]
        recentred = np.asarray(slots[is_recentred], np.int64)
        self._scale(self.centring, recentred, self.cameras[recentred], lambda: None)
        return recentred

    def remove(self, slots: Iterable[int]) -> Slots:
        removed = [slot for slot in set(slots) if slot < self.size and self.valid[slot]]
        self.valid[removed] = False
        self.count -= len(removed)
        self.changes += len(removed)
        return np.array(removed, np.int64)

    def are_searchable(self, slots: Slots | slice) -> NDArray[np.bool_]:
        return np.asarray(self.valid[slots] & ~self.set_aside[slots], np.bool_)

    @property
    def means(self) -> CameraMeans | None:
        """The means that comparisons subtract, by code of camera."""
        return None if self.centring is None else self.centring.means

    def code_cameras(self, cameras: Iterable[str | None]) -> CameraCodes:
        """Return the codes of cameras, `(n,)`; 0 for one that no crop has."""
        return np.array([self._camera_codes.get(name, 0) for name in cameras], np.int32)

    def code_means(self, named: NamedMeans) -> CameraMeans:
        """Return means by code of camera. Call it on the thread that writes."""
        means = {self._code_camera(name): mean for name, mean in named.cameras.items()}
        return CameraMeans(named.gallery, means)

    def prepare_centring(
        self, version: str, means: CameraMeans, between: Callable[[], None]
    ) -> PreparedCentring:
        """Compute what centred searches need of each crop, on any thread.

        Args:
            version: that of the means.
            means: `code_means` of these columns.
            between: called now and then; its errors are raised.
        """
        size = self.size
        cameras = self.cameras[:size].copy()
        centring = Centring(version, means, np.zeros(size, np.float32))
        slots = np.flatnonzero(self.valid[:size])
        self._scale(centring, slots, cameras[slots], between)
        return PreparedCentring(centring, cameras)

    def centre_by(self, prepared: PreparedCentring | None) -> None:
        """Subtract other means from now on, or none.

        The crops that were added or have another camera since are computed here.
        """
        if prepared is None:
            self.centring = None
            return
        centring = replace(prepared.centring, scales=self._grown(prepared.centring.scales))
        size = len(prepared.cameras)
        relabelled = np.flatnonzero(self.cameras[:size] != prepared.cameras)
        slots = np.concatenate([relabelled, np.arange(size, self.size)])
        self._scale(centring, slots, self.cameras[slots], lambda: None)
        self.centring = centring

    def cosines(self, slots: Slots, query: Floats) -> Floats:
        """Return the cosines `(n,)` float32 of slots, ascending, with a unit-length query.

        They are those of centred vectors if there is a `centring`, and the query must be centred.
        The vectors are read in parts, because a copy of millions would exhaust the memory.
        """
        cosines = np.empty(len(slots), np.float32)
        query = np.ascontiguousarray(query)
        centring = self.centring
        if centring is not None:
            offsets = centring.offsets(query, len(self._camera_codes))
        for start in range(0, len(slots), SLOTS_AT_ONCE):
            wanted = slots[start : start + SLOTS_AT_ONCE]
            first = int(wanted[0])
            end = int(wanted[-1]) + 1
            reads_all = len(wanted) > ALL_SLOTS_SHARE * (end - first)
            vectors = self.vectors[first:end] if reads_all else self.vectors[wanted]
            products = np.empty(len(vectors), np.float32)
            # For one query, FAISS's loop takes half the time of a matrix product through BLAS. It
            # is as fast as IndexFlatIP, which would need a second copy of every vector. FAISS
            # exports this function, but its type stubs lack it.
            faiss.fvec_inner_products_ny(  # type: ignore[attr-defined]
                faiss.swig_ptr(products),
                faiss.swig_ptr(query),
                faiss.swig_ptr(vectors),
                self.dimension,
                len(vectors),
            )
            if reads_all:
                products = products[wanted - first]
            scores = cosines[start : start + SLOTS_AT_ONCE]
            scores[:] = products / self.norms[wanted]
            if centring is not None:
                centring.centre_cosines(scores, offsets, self.cameras[wanted], wanted)
        return cosines

    def compared(self, slots: Slots, means: CameraMeans | None) -> ComparedCrops:
        """Return crops to compare after subtracting means by their cameras of this moment."""
        return ComparedCrops(slots, self.cameras[slots], means)

    def units(self, crops: ComparedCrops) -> Floats:
        """Return copies of the vectors of crops, at unit length, as comparisons use them.

        Returns:
            `(n, d)`, or `(n, k, d)` for slots `(n, k)`.
        """
        slots = crops.slots
        if crops.means is None:
            return np.asarray(self.vectors[slots] / self.norms[slots, None], np.float32)
        features = self.vectors[slots.reshape(-1)]
        centred = centre_features(features, crops.cameras.reshape(-1), crops.means)
        return unit_rows(centred).reshape(*slots.shape, self.dimension)

    def unit_parts(self, crops: ComparedCrops) -> Iterator[tuple[slice, Floats]]:
        """Yield the `units` of crops in parts, each with its slice of the crops."""
        for start in range(0, len(crops.slots), SLOTS_AT_ONCE):
            part = slice(start, min(start + SLOTS_AT_ONCE, len(crops.slots)))
            yield part, self.units(crops.at(part))

    def select(self, wanted: SearchFilter) -> Slots:
        """Return the slots of crops that pass a filter, ascending; do not modify them.

        Crops that are set aside pass no filter.
        """
        changes = self.changes
        selected = self._selected
        if selected and selected[:2] == (wanted, changes):
            return selected[2]
        used = slice(self.size)
        passing = self.are_searchable(used)
        if wanted.cameras or wanted.exclude_cameras:
            passes = [wanted.passes_camera(camera) for camera in self._camera_codes]
            passing &= np.array(passes)[self.cameras[used]]
        if wanted.captured_after:
            passing &= self.captured[used] >= wanted.captured_after.timestamp()
        if wanted.captured_before:
            passing &= self.captured[used] <= wanted.captured_before.timestamp()
        if wanted.named is not None:
            passing &= (self.groups[used] >= 0) == wanted.named
        if wanted.identities:
            codes = [identity_code(identity, self.secret) for identity in wanted.identities]
            passing &= np.isin(self.groups[used], codes)
        while self.reads_on(wanted):
            continue
        for pair in wanted.metadata:
            codes, slots_of_codes = self._metadata.table()
            has_pair = np.zeros(self.size, np.bool_)
            has_pair[slots_of_codes[codes == hash(pair)]] = True
            passing &= has_pair
        passing[[slot for slot in wanted.without if slot < self.size]] = False
        slots = np.flatnonzero(passing)
        self._selected = wanted, changes, slots
        return slots

    def camera_names(self) -> dict[int, str]:
        """Return the names of cameras by their codes in `cameras`."""
        codes = list(self._camera_codes.items())
        return {code: name for name, code in codes if name is not None}

    def moments(self, slots: Slots) -> Moments:
        """Return the cameras and times of crops, `(n,)`."""
        names = self.camera_names()
        cameras = [names.get(code, "") for code in self.cameras[slots].tolist()]
        return Moments(np.array(cameras, np.str_), self.captured[slots])

    def tracks(self) -> Slots:
        """Return `(size,)` codes of camera and track, and unique negative ones without a track."""
        while self.reads_on(EVERY_CROP, "track"):
            continue
        codes = -1 - np.arange(self.size)
        tracks, slots = self._tracks.table()
        codes[slots] = tracks
        return codes

    def reads_on(self, wanted: SearchFilter, by: GroupBy = "crop") -> bool:
        """Read some of the metadata or tracks that a search needs; return True if others remain."""
        valid = self.valid[: self.size]
        if wanted.metadata and self._metadata.catch_up(valid):
            return True
        return by == "track" and self._tracks.catch_up(valid)

    def _track_codes(self, slot: int, track: str) -> list[int]:
        # Python salts str hashes per process, so nobody can craft collisions.
        return [hash((int(self.cameras[slot]), track)) & LARGEST_CODE]

    def _map_vectors(self, file: VectorFile) -> None:
        self.vectors = file.mapped()
        self._mapped_path = file.path
        for name in COLUMNS:
            setattr(self, name, self._grown(getattr(self, name)))
        if self.centring is not None:
            self.centring = replace(self.centring, scales=self._grown(self.centring.scales))

    def _grown(self, column: NDArray[Number]) -> NDArray[Number]:
        """Return a copy of a column that is as long as the vector file."""
        capacity = len(self.vectors)
        # Unwritten pages of zeros take no memory.
        grown = np.zeros(capacity, column.dtype)
        grown[: len(column)] = column[:capacity]
        return grown

    def _scale(
        self, centring: Centring, slots: Slots, cameras: CameraCodes, between: Callable[[], None]
    ) -> None:
        """Compute the scales of crops by the means of some cameras, with `between` in between."""
        for start in range(0, len(slots), SLOTS_AT_ONCE):
            between()
            part = slice(start, start + SLOTS_AT_ONCE)
            features = self.vectors[slots[part]]
            lengths = np.linalg.norm(
                centre_features(features, cameras[part], centring.means), axis=1
            )
            scales = np.where(lengths > 0.0, 1.0 / np.maximum(lengths, SHORTEST), 0.0)
            centring.scales[slots[part]] = scales

    def _code_camera(self, name: str | None) -> int:
        return self._camera_codes.setdefault(name, len(self._camera_codes))

    def _set_labels(self, crops: CropColumns) -> None:
        slots = crops.slots
        self.groups[slots] = crops.groups
        self.captured[slots] = crops.captured
        self.set_aside[slots] = crops.set_aside
        codes_by_name = {name: self._code_camera(name) for name in dict.fromkeys(crops.cameras)}
        self.cameras[slots] = [codes_by_name[name] for name in crops.cameras]
        group_numbers = self._group_numbers
        codes, inverse = np.unique(crops.groups, return_inverse=True)
        numbers = [
            UNNAMED if code < 0 else group_numbers.setdefault(code, len(group_numbers))
            for code in codes.tolist()
        ]
        self.group_numbers[slots] = np.array(numbers, np.int32)[inverse]
