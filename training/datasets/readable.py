"""Every crop read once before a training, so that none ends it in the middle."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from model.problems import InputProblem
from training.datasets.folder import DatasetProblem
from training.datasets.record import CropRecord

NAMED = 5
"""How many unreadable crops a message names."""

AHEAD = 64
"""Crops that wait to be read at once."""


def refuse_unreadable(
    records: Sequence[CropRecord], on_crops: Callable[[int], None] = lambda _: None
) -> None:
    """Decodes every crop, in as many threads as there are processors; keeps none.

    Args:
        records: the crops; drawn ones are passed over.
        on_crops: called with a number of crops whenever so many were read.

    Raises:
        DatasetProblem: with the number of crops that cannot be read, and the first of them.
    """
    files = [record for record in records if record.pixels is None]
    found: list[str] = []
    with ThreadPoolExecutor(os.cpu_count() or 1, "reading") as pool:
        ahead: deque[Future[str | None]] = deque()
        for record in files:
            ahead.append(pool.submit(_problem_with, record))
            if len(ahead) > AHEAD:
                _note(ahead.popleft(), found, on_crops)
        while ahead:
            _note(ahead.popleft(), found, on_crops)
    if found:
        more = f", and {len(found) - NAMED:,} more" if len(found) > NAMED else ""
        raise DatasetProblem(
            f"{len(found):,} of {len(files):,} crops cannot be read: {'; '.join(found[:NAMED])}"
            f"{more}; repair, convert or remove them (gmn check-data lists them), then train again"
        )


def _problem_with(record: CropRecord) -> str | None:
    try:
        record.decode()
    except InputProblem as problem:
        return str(problem)
    return None


def _note(read: Future[str | None], found: list[str], on_crops: Callable[[int], None]) -> None:
    problem = read.result()
    if problem is not None:
        found.append(problem)
    on_crops(1)
