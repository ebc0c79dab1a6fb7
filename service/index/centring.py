"""Means that a gallery's searches subtract by camera; see `model.centring`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.arrays import Array, Floats
from model.centring import CameraMeans
from service.index.candidates import Integers

CameraCodes = NDArray[np.int32]


@dataclass(frozen=True)
class NamedMeans:
    """Means of the unit vectors of a gallery, by names: each process has codes of its own.

    Attributes:
        version: equal for equal means only.
        gallery: mean over the whole gallery, `(d,)`, for crops of all other cameras.
        cameras: mean `(d,)` of each camera that has one, by the camera's name.
    """

    version: str
    gallery: Array
    cameras: Mapping[str, Array]


@dataclass(frozen=True)
class Centring:
    """Means that searches subtract.

    Attributes:
        version: that of the `NamedMeans`.
        means: by code of camera, as in `Columns.cameras`.
        scales: reciprocal length of each crop's unit vector minus its mean, by slot, `(capacity,)`
            float32; 0 for an erased vector.
    """

    version: str
    means: CameraMeans
    scales: Floats

    def centre_cosines(
        self, cosines: Floats, offsets: Floats, cameras: CameraCodes, slots: Integers
    ) -> None:
        """Turn cosines of uncentred crops with a centred query into centred ones, in place.

        Args:
            cosines: `(n,)`.
            offsets: `offsets` of the query.
            cameras: codes of the crops' cameras, `(n,)`.
            slots: of the crops, `(n,)`.
        """
        cosines -= offsets[cameras]
        cosines *= self.scales[slots]

    def offsets(self, query: Floats, cameras: int) -> Floats:
        """Return the products `(cameras,)` of a query `(d,)` and each camera's mean, by code."""
        offsets = np.full(cameras, self.means.gallery @ query, np.float32)
        for camera, mean in self.means.cameras.items():
            offsets[camera] = mean @ query
        return offsets


@dataclass(frozen=True)
class PreparedCentring:
    """Means, and what was computed for the crops of one moment, before searches use them.

    Attributes:
        centring: its scales end with the newest crop of that moment, `(size,)`.
        cameras: codes of cameras by slot at that moment, `(size,)`.
    """

    centring: Centring
    cameras: CameraCodes


class ComparedCrops(NamedTuple):
    """Crops, and what comparisons subtract from them.

    Attributes:
        slots: of any shape.
        cameras: codes of their cameras at one moment, of the same shape.
        means: None if their vectors are not centred.
    """

    slots: Integers
    cameras: CameraCodes
    means: CameraMeans | None

    def at(self, positions: Integers | slice) -> ComparedCrops:
        return ComparedCrops(self.slots[positions], self.cameras[positions], self.means)


def centre_features(features: Floats | Array, cameras: CameraCodes, means: CameraMeans) -> Array:
    """Return features `(n, d)` at unit length minus the means of their cameras, in float64."""
    units = features.astype(np.float64)
    units /= np.maximum(np.linalg.norm(units, axis=1, keepdims=True), 1e-12)
    return means.subtract(units, cameras.astype(np.int64))
