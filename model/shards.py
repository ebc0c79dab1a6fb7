"""The names of shards, which are the files of a folder that together hold the features of crops."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from model.problems import InputProblem

SHARD = re.compile(r"shard-(\d{5,})-of-(\d{5,})\.npz")


def shard_name(number: int, count: int) -> str:
    """Return the name of a shard, given its number from 0 and the number of all shards."""
    return f"shard-{number:05d}-of-{count:05d}.npz"


def holds_shards(folder: Path) -> bool:
    """Return whether a path is a folder with a shard in it."""
    return folder.is_dir() and any(SHARD.fullmatch(file.name) for file in folder.iterdir())


def shards_in(folder: Path) -> list[Path]:
    """Return the shards of a folder, in order.

    Raises:
        InputProblem: there is no shard, one is missing, or there are shards of several runs.
    """
    shards = {}
    for file in folder.iterdir():
        if match := SHARD.fullmatch(file.name):
            shards[file] = match
    totals = Counter(int(match[2]) for match in shards.values())
    if not shards:
        raise InputProblem(f"{folder}: holds no shard; name a file or folder of gmn embed")
    if len(totals) > 1:
        counts = " and ".join(str(total) for total in sorted(totals))
        raise InputProblem(
            f"{folder}: holds shards of several runs, of {counts} shards; give each run a folder "
            "of its own"
        )
    ((total, count),) = totals.items()
    if count < total:
        there = {int(match[1]) for match in shards.values()}
        missing = next(number for number in range(total) if number not in there)
        raise InputProblem(
            f"{folder}: {total - count} of {total} shards are missing, the first is "
            f"{shard_name(missing, total)}; run gmn embed again, which skips those that are there"
        )
    return sorted(shards)
