"""Smooth random textures."""

from __future__ import annotations

import numpy as np

from training.rendered.arrays import Numbers

SIZE = 256


class Noise:
    """A texture that repeats itself, about from -1 to 1.

    Args:
        seed: of the texture.
        coarse: the size of its blotches, as a share of its period.
    """

    def __init__(self, seed: int, coarse: float) -> None:
        white = np.random.default_rng(seed).normal(size=(SIZE, SIZE))
        frequency = np.fft.fftfreq(SIZE) * SIZE * coarse
        low_pass = np.exp(-(frequency[:, None] ** 2 + frequency**2) / 2)
        values = np.fft.ifft2(np.fft.fft2(white) * low_pass).real
        self._values = (values / (2 * values.std())).astype(np.float32)

    def at(self, x: Numbers, y: Numbers, period: float) -> Numbers:
        """Return the texture at coordinates of one shape, in the unit of the period."""
        columns = (x * (SIZE / period)).astype(np.int64) % SIZE
        rows = (y * (SIZE / period)).astype(np.int64) % SIZE
        texture: Numbers = self._values[rows, columns]
        return texture


COARSE = Noise(1, 0.03)
FINE = Noise(2, 0.004)
