"""Names of shards, the files of a folder that together hold the features of crops."""

from __future__ import annotations

import re
from pathlib import Path

from model.problems import InputProblem

SHARD = re.compile(r"shard-(\d{5,})-of-(\d{5,})\.npz")


def shard_name(number: int, count: int) -> str:
    """Return the name of a shard, given its number from 0 and the number of all shards."""
    return f"shard-{number:05d}-of-{count:05d}.npz"


def shards_in(folder: Path) -> list[Path]:
    """Return the shards of a folder, in order; an empty list if there is none.

    Raises:
        InputProblem: a shard is missing, or there are shards of several runs.
    """
    names = {file.name for file in folder.iterdir()}
    totals = sorted({int(match[2]) for name in names if (match := SHARD.fullmatch(name))})
    if len(totals) > 1:
        raise InputProblem(
            f"{folder}: holds shards of several runs, of {totals[0]} and {totals[-1]} shards; give "
            "each run a folder of its own"
        )
    shards = [shard_name(number, total) for total in totals for number in range(total)]
    missing = [name for name in shards if name not in names]
    if missing:
        raise InputProblem(
            f"{folder}: {len(missing)} of {len(shards)} shards are missing, the first is "
            f"{missing[0]}; run gmn embed again, which skips those that are there"
        )
    return [folder / name for name in shards]
