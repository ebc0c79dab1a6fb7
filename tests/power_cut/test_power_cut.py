"""After a power cut at any moment everything acknowledged is there, and nothing deleted.

`make power-cut CUTS=600 SEED=1` tries more of them.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from service.api.app import create_app
from service.chained_file import check_chain
from service.settings import Settings
from tests.power_cut.disk import LOSSES, Asked, Disk, Loss, read_recording
from tests.power_cut.recording import build_recorder, recorded
from tests.power_cut.shown import (
    GONE,
    Shown,
    asked_in_audit,
    forgotten_pictures,
    found_by_search,
    keys_in,
    shown_by,
    wait_for_jobs,
)
from tests.power_cut.story import Act, Story

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

CUTS = int(os.environ.get("CUTS", "36"))
SEED = int(os.environ.get("SEED", "1"))
REPORT = Path("runs") / "power_cut.json"


@dataclass(frozen=True)
class Recording:
    """What a service asked of the disk, and what was done with it meanwhile."""

    root: Path
    asked: list[Asked]
    acts: list[Act]
    artefact: Path
    image: bytes
    key: str


@pytest.fixture(scope="module")
def recording(start, tiny_artefact, drawn_crops, tmp_path_factory) -> Recording:
    folder = tmp_path_factory.mktemp("power_cut")
    root, log = folder / "disk", folder / "log"
    root.mkdir()
    with recorded(build_recorder(folder), root, log):
        served = start(data_dir=root / "data", images_url=f"file://{root}/pictures")
        story = Story(served, root / "data", drawn_crops)
        story.tell()
        served.kill()
    return Recording(
        root, read_recording(log), story.acts, tiny_artefact, drawn_crops[0].png, story.key
    )


@contextlib.contextmanager
def _served_again(recording: Recording, disk: Path) -> Iterator[Any]:
    """The service in this process, on what a power cut has left."""
    data_dir = disk / "data"
    settings = Settings(
        artefact=str(recording.artefact),
        data_dir=data_dir,
        images_url=f"file://{disk}/pictures",
        device="cpu",
    )
    with TestClient(create_app(settings), base_url="http://localhost") as client:
        yield client


def _moments(recording: Recording, chance: random.Random) -> list[tuple[int, Loss]]:
    """After how many entries the power goes: right after each acknowledgement, and by chance."""
    entries = recording.asked
    after = [
        next((n for n, one in enumerate(entries) if one.nanoseconds > act.acknowledged), None)
        for act in recording.acts
    ]
    places = [place for place in after if place is not None]
    chosen = [(place, "everything") for place in places]
    while len(chosen) < CUTS:
        chosen.append((chance.randint(0, len(entries)), LOSSES[len(chosen) % len(LOSSES)]))
    return sorted(chosen[:CUTS])


def _allowed(recording: Recording, place: int) -> tuple[Act | None, Act | None]:
    """What was acknowledged last before the power went, and what was under way then."""
    entries = recording.asked
    moment = entries[place].nanoseconds if place < len(entries) else time.monotonic_ns()
    past = [act for act in recording.acts if act.acknowledged < moment]
    under_way = [act for act in recording.acts if act.begun < moment <= act.acknowledged]
    return (past[-1] if past else None), (under_way[0] if under_way else None)


def _differences(found: Shown, past: Act | None, under_way: Act | None) -> list[str]:
    """What is neither as it was acknowledged nor as what was under way would have made it."""
    shown: list[Shown] = [past.after] if past else []
    if under_way:
        shown += [under_way.before, under_way.after]
    if not shown:
        return []
    wrong = []
    for name in sorted(set(found).union(*shown)):
        allowed = [one.get(name, GONE) for one in shown]
        if found.get(name, GONE) not in allowed:
            wrong.append(f"{name}: found {str(found.get(name, GONE))[:200]}, which nobody asked")
    return wrong


def _check(recording: Recording, disk: Path, place: int) -> list[str]:
    """Serves what is left; answers what is wrong with it."""
    past, under_way = _allowed(recording, place)
    data_dir = disk / "data"
    with _served_again(recording, disk) as client:
        if keys_in(data_dir):
            client.headers["Authorization"] = f"Bearer {recording.key}"
        wait_for_jobs(client)
        found = shown_by(client, data_dir)
        wrong = _differences(found, past, under_way)
        for name in [key.removeprefix("crops of ") for key in found if key[:8] == "crops of"]:
            crops = len(found[f"crops of {name}"])
            if crops != found_by_search(client, name, recording.image):
                wrong.append(f"a search in {name} does not find the {crops} crops that are listed")
    chain = check_chain(data_dir / "audit.jsonl")
    if chain.problem:
        wrong.append(f"audit log, line {chain.lines + 1} {chain.problem}")
    if strays := forgotten_pictures(disk / "pictures", data_dir):
        wrong.append(f"pictures of crops that are gone: {strays}")
    if past and asked_in_audit(data_dir) < past.asked:
        wrong.append("the audit log has lost what was asked")
    return wrong


def test_after_a_power_cut_everything_acknowledged_is_there(recording, tmp_path):
    chance = random.Random(SEED)
    disk, asked, wrong = Disk(recording.root), iter(recording.asked), []
    tried: Counter[str] = Counter()
    followed, begun = 0, time.monotonic()
    for number, (place, loss) in enumerate(_moments(recording, chance)):
        while followed < place:
            disk.ask(next(asked))
            followed += 1
        target = tmp_path / str(number)
        disk.cut(target, loss, chance)
        try:
            found = _check(recording, target, place)
        except Exception as error:
            found = [f"{type(error).__name__}: {error}"]
        tried[loss] += 1
        past, under_way = _allowed(recording, place)
        wrong += [
            f"cut {number} after {place} entries, {loss} lost, "
            f"after {past and past.name}, amid {under_way and under_way.name}: {one}"
            for one in found
        ]
    if "CUTS" in os.environ:
        REPORT.parent.mkdir(exist_ok=True)
        report = {
            "seed": SEED,
            "cuts": sum(tried.values()),
            "by_loss": dict(tried),
            "entries": len(recording.asked),
            "seconds": round(time.monotonic() - begun, 1),
            "wrong": wrong,
        }
        REPORT.write_text(json.dumps(report, indent=1))
    assert not wrong, "\n".join(wrong)
