"""`make torture`: many cycles, or `python -m tests.torture.run --seed 7`."""

import argparse
import json
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.conftest import draw_crops, save_tiny_artefact
from tests.service.conftest import save_other_artefact
from tests.torture.driver import Driver
from tests.torture.ledger import Violation
from tests.torture.scenarios import SCENARIOS
from tests.torture.world import World

REPORT = Path(__file__).parents[2] / "runs" / "torture.json"
CYCLES = 200
# A process is killed here and not a machine, so a file system in memory is enough.
MEMORY = Path("/dev/shm")


class Failed(Exception):
    """A run that found something; its text is what to look at."""


def torture(plan, seed, artefacts, say=lambda _: None):
    """Run one world through its cycles; None stands for a kill at random.

    Raises:
        Failed: with the ledger's excerpt; the data are kept then.
    """
    chance = random.Random(seed)
    memory = str(MEMORY) if MEMORY.is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="torture-", dir=memory))
    world = World(folder / "world", list(artefacts), chance)
    driver = Driver(world, chance)
    begun = time.monotonic()
    cycle = 0
    try:
        driver.begin()
        for cycle, point in enumerate(plan, 1):
            started = time.monotonic()
            what = driver.at_random() if point is None else driver.at_failpoint(point)
            seconds = time.monotonic() - started
            say(f"{cycle}/{len(plan)}: killed {what}, {seconds:.1f} s")
    except Violation as violation:
        world.close()
        excerpt = "\n".join(world.ledger.excerpt(violation.crops))
        raise Failed(
            f"cycle {cycle}, seed {seed}: {violation}\n{excerpt}\nkept: {folder}"
        ) from violation
    except BaseException:
        world.close()
        raise
    world.close()
    shutil.rmtree(folder)
    return {"cycles": len(plan), "seconds": round(time.monotonic() - begun, 1), **driver.figures()}


def plan_for(cycles, chance):
    """Return every failpoint once, as far as they fit beside kills at random."""
    points = list(SCENARIOS)
    chance.shuffle(points)
    chosen = points[: cycles * 7 // 10]
    plan = chosen + [None] * (cycles - len(chosen))
    chance.shuffle(plan)
    return plan


def make_artefacts(folder):
    tiny = folder / "tiny.safetensors"
    other = folder / "other.safetensors"
    save_tiny_artefact(tiny, draw_crops())
    save_other_artefact(other, tiny)
    return [tiny, other]


def _say(line):
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main():
    """Run the given cycles; the exit status is 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=CYCLES)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    parser.add_argument("--failpoint", choices=SCENARIOS, help="only this one, at every cycle")
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    report = {"seed": asked.seed, "cycles": asked.cycles}
    _say(f"seed {asked.seed}, {asked.cycles} cycles")
    plan = [asked.failpoint] * asked.cycles
    if asked.failpoint is None:
        plan = plan_for(asked.cycles, random.Random(f"{asked.seed}/plan"))
    status = 0
    with tempfile.TemporaryDirectory(prefix="torture-artefacts-") as folder:
        try:
            report |= torture(plan, asked.seed, make_artefacts(Path(folder)), _say)
        except Failed as failed:
            _say(str(failed))
            report["failed"] = str(failed).splitlines()[0]
            status = 1
    report["broken_promises"] = status
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    _say(json.dumps(report, indent=2))
    return status


if __name__ == "__main__":
    sys.exit(main())
