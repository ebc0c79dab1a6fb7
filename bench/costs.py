"""Times of the parts of a request, which `service.engine.cost` takes as prices.

`python -m bench.costs` prints, as the best of three, milliseconds on one core for each megapixel
that is decoded or encoded and for each embedded image, and microseconds for each pair that M-Net
scores.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator

import numpy as np
import typer
from numpy.typing import NDArray
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


def _seconds(work: Callable[..., object], *arguments: object) -> float:
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work(*arguments)
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def _pictures() -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return {"noise": random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), "smooth": smooth}


def _picture_times() -> Iterator[tuple[str, float, str]]:
    for name, pixels in _pictures().items():
        for kind in ("JPEG", "PNG", "WEBP", "BMP"):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, kind)
            seconds = _seconds(decode_crop, file.getvalue())
            yield f"decode {kind}, {name}", seconds / MEGAPIXELS * 1e3, "ms a megapixel"
        seconds = _seconds(png_of, pixels)
        yield f"encode PNG, {name}", seconds / MEGAPIXELS * 1e3, "ms a megapixel"


def _network_times(artefact_name: str) -> Iterator[tuple[str, float, str]]:
    artefact = load_artefact(resolve_artefact(artefact_name))
    runtime = Probes(artefact).agreeing("openvino", "float32")
    networks = Networks(artefact, runtime)
    size = artefact.description.preprocessing
    random = np.random.default_rng(0)
    crop = random.integers(0, 255, (1, size.height, size.width, 3), dtype=np.uint8)
    yield f"embed, {artefact_name}", _seconds(runtime.embed, crop) * 1e3, "ms an image"
    queries = random.normal(size=(QUERIES, networks.dimension)).astype(np.float32)
    candidates = random.normal(size=(CANDIDATES, networks.dimension)).astype(np.float32)
    seconds = _seconds(networks.pair_scores, queries, candidates)
    yield f"score, {artefact_name}", seconds / (QUERIES * CANDIDATES) * 1e6, "µs a pair"


def main() -> None:
    """Print a line for each part."""
    times = [*_picture_times(), *_network_times("bundled"), *_network_times("small")]
    for name, measured, unit in times:
        typer.echo(f"{name}: {measured:.1f} {unit}")


if __name__ == "__main__":
    typer.run(main)
