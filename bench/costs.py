"""Times to decode and encode pictures, which `service.engine.cost` takes as prices.

`python -m bench.costs` prints, as the best of three, milliseconds on one core for each megapixel.
"""

from __future__ import annotations

import io
import timeit
from collections.abc import Callable

import numpy as np
import typer
from PIL import Image

from model.crops.decode import decode_crop
from model.crops.frames import png_of

SIDE = 1400
MEGAPIXELS = SIDE * SIDE / 1e6
ROUNDS = 3


def _print_time(
    name: str,
    work: Callable[..., object],
    argument: object,
) -> None:
    seconds = min(timeit.repeat(lambda: work(argument), number=1, repeat=ROUNDS))
    typer.echo(f"{name}: {1e3 * seconds / MEGAPIXELS:.1f} ms a megapixel")


def main() -> None:
    """Print a line for each format of a noisy and of a smooth picture."""
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    pictures = {
        "noise": Image.fromarray(random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)),
        "smooth": coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
    }
    for name, picture in pictures.items():
        for kind in ("JPEG", "PNG", "WEBP", "BMP"):
            file = io.BytesIO()
            picture.save(file, kind)
            _print_time(f"decode {kind}, {name}", decode_crop, file.getvalue())
        _print_time(f"encode PNG, {name}", png_of, np.asarray(picture))


if __name__ == "__main__":
    typer.run(main)
