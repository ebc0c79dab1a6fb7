"""Time of the parts of a request, by which `service.engine.cost` prices them.

`python -m bench.costs` prints milliseconds on one core for each megapixel that is decoded or
encoded, for each image that is embedded, and microseconds for each pair that M-Net scores; the best
of three.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from functools import partial

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


def _seconds(work: Callable[[], object]) -> float:
    took = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        took.append(time.perf_counter() - began)
    return min(took)


def _pictures() -> dict[str, NDArray[np.uint8]]:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return {"noise": random.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), "smooth": smooth}


def _of_pictures() -> Iterator[tuple[str, float, str]]:
    for name, pixels in _pictures().items():
        for kind in ("JPEG", "PNG", "WEBP", "BMP"):
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, kind)
            seconds = _seconds(partial(decode_crop, file.getvalue()))
            yield f"decode {kind}, {name}", seconds / MEGAPIXELS * 1e3, "ms a megapixel"
        seconds = _seconds(partial(png_of, pixels))
        yield f"encode PNG, {name}", seconds / MEGAPIXELS * 1e3, "ms a megapixel"


def _of_networks(artefact_name: str) -> Iterator[tuple[str, float, str]]:
    artefact = load_artefact(resolve_artefact(artefact_name))
    runtime = Probes(artefact).agreeing("openvino", "float32")
    networks = Networks(artefact, runtime)
    size = artefact.description.preprocessing
    random = np.random.default_rng(0)
    crop = random.integers(0, 255, (1, size.height, size.width, 3), dtype=np.uint8)
    yield f"embed, {artefact_name}", _seconds(lambda: runtime.embed(crop)) * 1e3, "ms an image"
    queries, candidates = (
        random.normal(size=(count, networks.dimension)).astype(np.float32)
        for count in (QUERIES, CANDIDATES)
    )
    seconds = _seconds(lambda: networks.pair_scores(queries, candidates))
    yield f"score, {artefact_name}", seconds / (QUERIES * CANDIDATES) * 1e6, "µs a pair"


def main() -> None:
    """Print a line for each part."""
    for name, measured, unit in (*_of_pictures(), *_of_networks("bundled"), *_of_networks("small")):
        typer.echo(f"{name}: {measured:.1f} {unit}")


if __name__ == "__main__":
    typer.run(main)
