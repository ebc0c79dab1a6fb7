"""The means by which a gallery is centred, and the spreads of its cameras."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from model.arrays import Array, in_turns
from model.centring import (
    UNKNOWN,
    Gain,
    ShownCrops,
    fit_means,
    measure_gain,
    measure_spreads,
)
from service.engine.device import DeviceThread
from service.gallery.registry import GalleryRegistry
from service.index.centring import NamedMeans
from service.index.columns import Columns
from service.index.filters import EVERY_CROP
from service.ops.threads import MonitoredThreadPool
from service.record.tracks import Tracks
from service.record.values import GalleryRecord

Integers = NDArray[np.int64]
# Upper bound on the cameras that have a mean of their own: those with the most crops.
MOST_CAMERAS = 256
# Upper bounds on the crops of a camera, and of all cameras, that means are learned from.
MOST_OF_CAMERA = 2000
MOST_CROPS = 50_000
# Pictures of nobody have almost no spread, and thresholds are divided by it.
LEAST_SPREAD = 0.1
# Unnamed crops of one camera without tracks count as one person if they are of the same minute.
MINUTE = 60.0
VERSION_DIGITS = 16
UNKNOWN_CAMERA = 0


class _Stored(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", ser_json_bytes="base64", val_json_bytes="base64"
    )


class StoredMeans(_Stored):
    """The means of a gallery, each `(d,)` float64, little-endian.

    Attributes:
        gallery: mean over the whole gallery, for crops of all other cameras.
        cameras: mean of each camera that has one, by its name.
    """

    gallery: bytes
    cameras: Mapping[str, bytes]

    @cached_property
    def version(self) -> str:
        """A digest, equal for equal means only."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:VERSION_DIGITS]

    @cached_property
    def named(self) -> NamedMeans:
        means = {name: _read_mean(mean) for name, mean in self.cameras.items()}
        return NamedMeans(self.version, _read_mean(self.gallery), means)


class CentringFit(_Stored):
    """The outcome of a fit of means.

    Attributes:
        gallery_version: version of the gallery whose crops they were fitted to, or of an earlier
            one.
        gain: how much better people rank who were left out of the means; None if there are too few
            people or crops.
        means: None unless the gain is clear.
    """

    gallery_version: int
    gain: Gain | None = None
    means: StoredMeans | None = None

    @property
    def version(self) -> str | None:
        """The version of the means; None if there are none."""
        return None if self.means is None else self.means.version


class FittedCameras(NamedTuple):
    """The effects of a gallery's cameras on vectors and scores.

    Attributes:
        centring: the means.
        spreads: `model.centring.measure_spreads` of the vectors as they are compared, by the names
            of cameras.
    """

    centring: CentringFit
    spreads: Mapping[str, float]


@dataclass(frozen=True)
class CentringFitter:
    """Fits the means and spreads of galleries to their named and unnamed crops.

    Attributes:
        threads: the calibration's thread.
    """

    device: DeviceThread
    galleries: GalleryRegistry
    tracks: Tracks
    threads: MonitoredThreadPool

    async def fit(self, gallery: GalleryRecord, columns: Columns) -> FittedCameras:
        """Fit the means of a gallery, if people rank better with them, and the spreads.

        Args:
            gallery: it has two named people at least.
            columns: of this version of the gallery, or of a later one.
        """
        crops = await self.device.run(_SampledCrops.of, columns)
        sample = await self.threads.run(crops.draw)
        by_slot = self.tracks.by_slot
        unnamed = sample.slots[sample.groups < 0].tolist()
        tracks = await self.galleries.read(lambda: dict(by_slot(gallery.gallery_id, unnamed)))
        return await self.threads.run(_fit, columns, sample, tracks, gallery.version)


@dataclass(frozen=True)
class _SampledCrops:
    """Crops of a gallery at one moment, by slot.

    Attributes:
        slots: ascending, `(n,)`.
        groups, cameras, captured: as in `Columns`, `(n,)` each.
    """

    slots: Integers
    groups: Integers
    cameras: NDArray[np.int32]
    captured: Array

    @classmethod
    def of(cls, columns: Columns) -> _SampledCrops:
        """Select the living crops; call this on the thread that writes the columns."""
        slots = columns.select(EVERY_CROP)
        captured = columns.captured[slots]
        return cls(slots, columns.groups[slots], columns.cameras[slots], captured)

    def at(self, positions: Integers) -> _SampledCrops:
        return _SampledCrops(
            self.slots[positions],
            self.groups[positions],
            self.cameras[positions],
            self.captured[positions],
        )

    def draw(self) -> _SampledCrops:
        """Draw crops of each camera; a part of them all if there are more than the bounds."""
        codes, counts = np.unique(self.cameras, return_counts=True)
        largest = codes[np.argsort(-counts, kind="stable")][:MOST_CAMERAS]
        most = min(MOST_OF_CAMERA, MOST_CROPS // max(1, len(largest)))
        shuffled = np.random.default_rng(len(self.slots)).permutation(len(self.slots))
        order, turns = in_turns(shuffled, self.cameras)
        drawn = order[(turns < most) & np.isin(self.cameras[order], largest)]
        return self.at(np.sort(drawn))

    def shown(self, tracks: Mapping[int, str]) -> Integers:
        """Return codes of who is on the crops, `(n,)`.

        An unnamed crop counts by its track. Without a track, all of one minute count as one person,
        and so do all whose time is unknown.

        Args:
            tracks: track ids by slot, unique within a camera.
        """
        codes: dict[object, int] = {}
        shown = []
        for slot, group, camera, captured in zip(
            self.slots.tolist(),
            self.groups.tolist(),
            self.cameras.tolist(),
            self.captured.tolist(),
            strict=True,
        ):
            who: object = group
            if group < 0:
                minute = None if math.isnan(captured) else captured // MINUTE
                who = camera, tracks.get(slot, minute)
            shown.append(codes.setdefault(who, len(codes)))
        return np.array(shown, np.int64)


def _fit(
    columns: Columns, sample: _SampledCrops, tracks: Mapping[int, str], gallery_version: int
) -> FittedCameras:
    cameras = sample.cameras.astype(np.int64)
    cameras[cameras == UNKNOWN_CAMERA] = UNKNOWN
    units = columns.units(columns.compared(sample.slots, None))
    crops = ShownCrops(units, cameras, sample.shown(tracks))
    is_named = sample.groups >= 0
    gain = measure_gain(crops, is_named)
    means = fit_means(crops) if gain is not None and gain.is_clear else None
    names = columns.camera_names()
    spreads = {
        names[code]: max(LEAST_SPREAD, round(spread, 4))
        for code, spread in measure_spreads(crops, is_named, means).items()
    }
    kept = None
    if means is not None:
        kept = StoredMeans(
            gallery=_as_bytes(means.gallery),
            cameras={names[code]: _as_bytes(mean) for code, mean in means.cameras.items()},
        )
    return FittedCameras(
        CentringFit(gallery_version=gallery_version, gain=gain, means=kept), spreads
    )


def _as_bytes(mean: Array) -> bytes:
    return mean.astype("<f8").tobytes()


def _read_mean(mean: bytes) -> Array:
    return np.frombuffer(mean, "<f8").astype(np.float64)
