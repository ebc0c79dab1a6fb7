"""When the power goes, and what may be there afterwards."""

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

from tests.power_cut.acts import GONE
from tests.power_cut.disk import LOSSES, Disk

SEED = int(os.environ.get("SEED", "1"))
REPORTS = Path("runs")


def cut_and_check(root, asked, acts, check, folder, few, report):
    """Cut a recording at many moments, and check the disk each time.

    Args:
        root: the recorded folder.
        asked: the recording.
        acts: the operations of the recording.
        check: is given the disk, the act acknowledged last, and the one under way.
        folder: for the contents of the disk.
        few: how many cuts, where the environment's CUTS does not say.
        report: its name in `runs`, where CUTS says how many.

    Returns:
        A line for each fault.
    """
    chance = random.Random(SEED)
    begun = time.monotonic()
    cuts = int(os.environ.get("CUTS", few))
    disk = Disk(root)
    entries = iter(asked)
    followed = 0
    wrong = []
    tried = Counter()
    for number, (place, loss) in enumerate(_moments(asked, acts, chance, cuts)):
        while followed < place:
            disk.ask(next(entries))
            followed += 1
        disk.cut(folder / str(number), loss, chance)
        past, under_way = _allowed(asked, acts, place)
        try:
            found = check(folder / str(number), past, under_way)
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"]
        tried[loss] += 1
        said = f"after {past and past.name}, amid {under_way and under_way.name}"
        wrong += [
            f"cut {number}, {place} entries, {loss} lost, {said}: {problem}" for problem in found
        ]
    if "CUTS" in os.environ:
        _write(report, len(asked), tried, time.monotonic() - begun, wrong)
    return wrong


def differences(found, past, under_way):
    """Return the parts that are neither as acknowledged nor as the act under way makes them."""
    shown = [past.after] if past else []
    if under_way:
        shown += [under_way.before, under_way.after]
    if not shown:
        return []
    wrong = []
    for name in sorted(set(found).union(*shown)):
        allowed = [state.get(name, GONE) for state in shown]
        if found.get(name, GONE) not in allowed:
            wrong.append(f"{name}: found {str(found.get(name, GONE))[:200]}, which nobody asked")
    return wrong


def _moments(asked, acts, chance, cuts):
    """After how many entries the power goes: right after each acknowledgement, and by chance."""
    chosen = []
    for act in acts:
        after = (n for n, entry in enumerate(asked) if entry.nanoseconds > act.acknowledged)
        chosen.append((next(after, len(asked)), "everything"))
    while len(chosen) < cuts:
        chosen.append((chance.randint(0, len(asked)), LOSSES[len(chosen) % len(LOSSES)]))
    return sorted(chosen)


def _allowed(asked, acts, place):
    """Return the act that was acknowledged last before the cut, and the one under way then."""
    moment = asked[place].nanoseconds if place < len(asked) else time.monotonic_ns()
    past = [act for act in acts if act.acknowledged < moment]
    under_way = [act for act in acts if act.begun < moment <= act.acknowledged]
    return (past[-1] if past else None), (under_way[0] if under_way else None)


def _write(report, entries, tried, seconds, wrong):
    REPORTS.mkdir(exist_ok=True)
    said = {
        "seed": SEED,
        "cuts": sum(tried.values()),
        "by_loss": dict(tried),
        "entries": entries,
        "seconds": round(seconds, 1),
        "wrong": list(wrong),
    }
    (REPORTS / report).write_text(json.dumps(said, indent=1))
