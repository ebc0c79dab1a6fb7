"""`make gpu`, or `python -m bench.gpu_check`: compares the service on a GPU with the CPU.

It needs no data, as it draws its crops. Each figure is printed as a line of JSON as soon as it is
measured, and all are written to a file for `python -m bench.figures gpu FILE`. A part that lacks a
package, fails or has no time left is reported, and the others go on. `--device cpu --tiny` tests
the check itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Option

from bench.gpu_measuring import Check
from model.precision import choose_device

# In the order of importance, since there may be no time for the last ones.
PARTS = {
    "machine": "bench.gpu_networks",
    "agreement": "bench.gpu_networks",
    "batches": "bench.gpu_networks",
    "speed": "bench.gpu_networks",
    "pairs": "bench.gpu_service",
    "index": "bench.gpu_service",
    "batcher": "bench.gpu_service",
    "variants": "bench.gpu_networks",
    "memory": "bench.gpu_service",
    "lost": "bench.gpu_service",
    "step": "bench.gpu_training",
}
Figures = dict[str, Any]


def measure(check: Check, parts: list[str], seconds: float) -> Iterator[Figures]:
    """Yield rows with `part`, `of` and `figures`; without figures, `left_out` gives the reason."""
    end = time.monotonic() + seconds
    for part in parts:
        yield from _measure_part(check, part, end)


def _measure_part(check: Check, part: str, end: float) -> Iterator[Figures]:
    row: Figures = {"part": part, "of": "", "figures": {}}
    if time.monotonic() > end:
        yield row | {"left_out": "there was no time"}
        return
    try:
        rows = getattr(import_module(PARTS[part]), part)(check)
        for of, figures in rows:
            yield row | {"of": of, "figures": figures}
            if time.monotonic() > end:
                yield row | {"left_out": "there was no time for the rest"}
                return
    except ModuleNotFoundError as error:
        yield row | {"left_out": f"{error.name} is not installed"}
    except Exception as error:
        # A failure on a GPU is a result too, and must not hide the other parts.
        yield row | {"left_out": f"it failed: {type(error).__name__}: {error}"}


def main(
    device: Annotated[str, Option(help="`cuda`, or `cpu` for a test of the check.")] = "cuda",
    tiny: Annotated[bool, Option(help="Measure little, for a test of the check.")] = False,
    part: Annotated[list[str] | None, Option(help="A part; may be repeated.")] = None,
    artefact: Annotated[list[str] | None, Option(help="A model; may be repeated.")] = None,
    seconds: Annotated[float, Option(help="No part begins after this time.")] = 440.0,
    out: Annotated[Path | None, Option(help="The file of all figures.")] = None,
) -> None:
    """Compare a GPU with the CPU, and measure it."""
    names = tuple(artefact or ("bundled", "small"))
    check = Check(str(choose_device(device)), names, tiny)
    results = []
    for row in measure(check, part or list(PARTS), seconds):
        typer.echo(json.dumps(row))
        results.append(row)
        if out:
            # A command that is killed leaves the rows that it has measured.
            out.write_text(json.dumps({"results": results}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
