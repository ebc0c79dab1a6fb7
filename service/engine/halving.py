"""Work on many that is tried on halves where it fails, down to the ones that are to blame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from service.errors import DeviceLost

Item = TypeVar("Item")


def in_halves(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], None],
    alone: Callable[[Item, Exception], None],
) -> None:
    """Does work on all items together; where that raises, on its halves, and on theirs.

    One bad item among n costs 2·log₂ n passes more, and the others theirs: whoever is in no group
    with it is worked on once.

    Args:
        items: in order.
        work: on some of them, and on all of those or none.
        alone: told of an item on which it raised with no other beside it, and what.

    Raises:
        DeviceLost: as `work` does; trying again is in vain.
    """
    groups = [items]
    while groups:
        group = groups.pop()
        error = _raised(work, group)
        if error is None:
            continue
        if len(group) == 1:
            alone(group[0], error)
            continue
        middle = len(group) // 2
        groups += [group[middle:], group[:middle]]


def _raised(work: Callable[[Sequence[Item]], None], group: Sequence[Item]) -> Exception | None:
    try:
        work(group)
    except DeviceLost:
        raise
    except Exception as error:
        # Its frames hold what was allocated, which the next try needs.
        return error.with_traceback(None)
    return None
