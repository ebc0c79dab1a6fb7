"""Enrolments and queries a second of another checkout and of this one, in turn in one run.

Usage: python -m tests.load.compare CHECKOUT [--artefact small]

Both services run in this environment, which needs what the other checkout imports. While one is
measured the other has nothing to do.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.result import alternate, ratio_of
from tests.load.clients import GALLERY, Pictures
from tests.service.conftest import START, Served

HERE = Path(__file__).parents[2]
SETTINGS = {"runtime": "openvino", "dtype": "float32", "log_level": "warning"}


class Load(NamedTuple):
    """What is asked, images of one request, requests at a time, and images of one round."""

    path: str
    images_in_one: int
    in_flight: int
    images: int


LOADS = (
    Load("crops", 1, 8, 128),
    Load("crops", 8, 4, 256),
    Load("crops", 32, 2, 512),
    Load("queries", 1, 1, 64),
    Load("queries", 1, 8, 128),
)


def ask(served: Served, load: Load, pictures: Pictures) -> None:
    """Sends one round; raises where an answer is not a success."""

    def send(images: Sequence[bytes]) -> None:
        form = [("images", ("crop", image)) for image in images]
        served.http.post(f"{GALLERY}/{load.path}", files=form).raise_for_status()

    requests = [
        [pictures.next() for _ in range(load.images_in_one)]
        for _ in range(load.images // load.images_in_one)
    ]
    with ThreadPoolExecutor(load.in_flight) as threads:
        list(threads.map(send, requests))


def main() -> None:
    """Prints a row of a table for each load."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("checkout", type=Path)
    options.add_argument("--artefact", default="small")
    asked = options.parse_args()
    with contextlib.ExitStack() as held:
        sides: dict[str, Served] = {}
        for name, checkout in (("before", asked.checkout.resolve()), ("now", HERE)):
            place = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="gmn-compare-")))
            settings: dict[str, Any] = {"artefact": asked.artefact, "data_dir": place, **SETTINGS}
            program = f"import sys; sys.path.insert(0, {str(checkout)!r})\n{START}"
            sides[name] = Served(place / "log", program, forked=False, **settings)
            held.callback(sides[name].kill)
        for load in LOADS:
            pictures = Pictures(seed=3)
            paces = alternate(
                {name: partial(ask, served, load, pictures) for name, served in sides.items()},
                load.images,
            )
            ratio, (low, high) = ratio_of(paces["now"], paces["before"])
            before, now = (statistics.median(paces[name]) for name in sides)
            sys.stdout.write(
                f"| {load.path} | {load.images_in_one} | {load.in_flight} | "
                f"{before:.0f} | {now:.0f} | {ratio:.2f}, {low:.2f}–{high:.2f} |\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
