"""Sets too small for a split of their own: papers draw ten random halves and average."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from training.datasets.record import CropRecord


@dataclass(frozen=True)
class Trials:
    """How papers split a set at random, again and again.

    In each trial `test_people` of those who take part (`taking_part`) are searched for; the others
    who take part may be trained on and are in neither query nor gallery. People who do not
    take part but have crops on the gallery's side stay in the gallery of every trial.

    Attributes:
        test_people: how many people are searched for in a trial.
        sides: how queries and gallery crops differ. `cameras`: the first camera by name queries,
            the second is the gallery. `splits`: the set's own `query` and `gallery` splits.
            `crops`: of every person's crops one at random queries, another one is the gallery.
        number: how many trials are averaged.
    """

    test_people: int
    sides: Literal["cameras", "splits", "crops"]
    number: int = 10


def taking_part(
    records: Iterable[CropRecord], trials: Trials, not_people: frozenset[str] = frozenset()
) -> list[str]:
    """The people that a trial draws from: those with a crop on either side.

    Args:
        records: the crops of the set.
        trials: its custom.
        not_people: identities that label no person.

    Returns:
        Identities, sorted.
    """
    sides: dict[str, set[str | None]] = defaultdict(set)
    crops: dict[str, int] = defaultdict(int)
    for record in records:
        if record.identity not in not_people:
            sides[record.identity].add(record.split if trials.sides == "splits" else record.camera)
            crops[record.identity] += 1
    if trials.sides == "crops":
        return sorted(identity for identity, count in crops.items() if count > 1)
    return sorted(identity for identity, seen in sides.items() if len(seen) > 1)
