"""Times of the parts of a request, which `service.engine.cost` takes as prices.

`python -m bench.costs` prints, as the best of three, milliseconds on one core for each megapixel
that is decoded or encoded and for each embedded image, and microseconds for each pair that M-Net
scores.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable

import numpy as np
import typer
from PIL import Image

from model.artefact import load_artefact, resolve_artefact
from model.crops.decode import decode_crop
from model.crops.frames import png_of
from model.runtimes import Probes
from service.engine.networks import Networks

SIDE = 1400
MEGAPIXELS = SIDE * SIDE / 1e6
ROUNDS = 3
QUERIES = 8
CANDIDATES = 1024


def _print_best(
    part: str,
    unit: str,
    units_per_second: float,
    work: Callable[..., object],
    *arguments: object,
) -> None:
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work(*arguments)
        seconds.append(time.perf_counter() - began)
    typer.echo(f"{part}: {min(seconds) * units_per_second:.1f} {unit}")


def _print_picture_times() -> None:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    pictures = {
        "noise": Image.fromarray(random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)),
        "smooth": coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC),
    }
    factor = 1e3 / MEGAPIXELS
    for name, picture in pictures.items():
        for kind in ("JPEG", "PNG", "WEBP", "BMP"):
            file = io.BytesIO()
            picture.save(file, kind)
            part = f"decode {kind}, {name}"
            _print_best(part, "ms a megapixel", factor, decode_crop, file.getvalue())
        pixels = np.asarray(picture)
        _print_best(f"encode PNG, {name}", "ms a megapixel", factor, png_of, pixels)


def _print_network_times(artefact_name: str) -> None:
    artefact = load_artefact(resolve_artefact(artefact_name))
    runtime = Probes(artefact).agreeing("openvino", "float32")
    networks = Networks(artefact, runtime)
    size = artefact.description.preprocessing
    random = np.random.default_rng(0)
    crop = random.integers(0, 255, (1, size.height, size.width, 3), dtype=np.uint8)
    _print_best(f"embed, {artefact_name}", "ms an image", 1e3, runtime.embed, crop)
    queries = random.normal(size=(QUERIES, networks.dimension)).astype(np.float32)
    candidates = random.normal(size=(CANDIDATES, networks.dimension)).astype(np.float32)
    factor = 1e6 / (QUERIES * CANDIDATES)
    part = f"score, {artefact_name}"
    _print_best(part, "µs a pair", factor, networks.pair_scores, queries, candidates)


def main() -> None:
    """Print a line for each part."""
    _print_picture_times()
    for artefact in ("bundled", "small"):
        _print_network_times(artefact)


if __name__ == "__main__":
    typer.run(main)
