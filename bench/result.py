"""The result of a bench, and functions that several benches share."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from demo.service import PROGRAM, own_service
from demo.story import Cast, draw_cast, enroll_all
from gmn_client import Client
from model.problems import InputProblem

ROOT = PROGRAM.parent
ROUNDS = 5
SEED = 31
CAMERAS = 4
Figures = TypeVar("Figures")


class BenchResult(NamedTuple):
    """One measured ratio.

    Attributes:
        bench: name of the bench.
        ratio: our figure divided by that of the other side in the same round; the median of rounds.
            None where there is no other side.
        spread: lowest and highest ratio of a round.
        reach: the ratio to reach; None without an aim.
        details: figures of each side, with units in the names.
    """

    bench: str
    ratio: float | None
    spread: tuple[float, float] | None
    reach: float | None
    details: dict[str, Any]

    @property
    def text(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.details.items())


def artefacts_to_measure(artefact: str | None) -> tuple[str, ...]:
    """Return the artefact, or `bundled` and `small` if none is named."""
    return ("bundled", "small") if artefact is None else (artefact,)


def require_checkout(folder: Path) -> None:
    """Raise `InputProblem` if a folder is no checkout of this project."""
    if not (folder / PROGRAM.name).is_file():
        raise InputProblem(
            f"{folder}: has no {PROGRAM.name}; name the folder of a checkout, such as one of git "
            "worktree add"
        )


@contextmanager
def filled_service(artefact: str, people: int, tree: Path = ROOT) -> Iterator[tuple[Client, Cast]]:
    """Start a service, and enroll drawn people in its default gallery.

    Args:
        tree: folder of the checkout whose service is started, by this interpreter.
    """
    cast = draw_cast("synthetic", SEED, people, 0, CAMERAS)
    with own_service(artefact, program=(sys.executable, str(tree / PROGRAM.name))) as client:
        enroll_all(client, cast.gallery)
        yield client, cast


def alternate(*sides: Callable[[], Figures]) -> list[tuple[Figures, ...]]:
    """Measure the sides in turn, so that other work of the machine slows them down alike.

    The turns go to and fro, as a service may still have work to do after its own.

    Returns:
        The figures of the sides in each of `ROUNDS` rounds. A round before them warms up.
    """
    rounds: list[tuple[Figures, ...]] = []
    for number in range(ROUNDS + 1):
        if number % 2:
            rounds.append(tuple(side() for side in reversed(sides))[::-1])
        else:
            rounds.append(tuple(side() for side in sides))
    return rounds[1:]


def compare(
    bench: str,
    rounds: Sequence[tuple[float, ...]],
    reach: float | None,
    details: dict[str, Any],
) -> BenchResult:
    """Divide our figure of each round by that of the other side; higher figures are better."""
    ratios = [round(float(ours / theirs), 4) for ours, theirs in rounds]
    return BenchResult(
        bench,
        statistics.median(ratios),
        (min(ratios), max(ratios)),
        reach,
        details,
    )


def memory_bytes(name: str) -> int:
    """Return a figure of this process's memory by its name in `/proc`, such as `VmRSS`."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    kilobytes = status.partition(f"\n{name}:")[2].split()[0]
    return 1024 * int(kilobytes)
