"""Draw a data set of rendered people into a folder, person by person."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from model.problems import InputProblem
from training.rendered.difficulty import HARD
from training.rendered.garments import Wardrobe
from training.rendered.meshes import read_meshes
from training.rendered.sites import Site

VERSION = 3
"""Changes with the pictures that a seed gives."""
SITE_PEOPLE = 100
"""The number of people who are seen by the same cameras."""
SITE_CAMERAS = 8
VIEWS = 4
"""The number of cameras that see a person, of those of the person's site."""

PEOPLE_MOST = 100_000
CROPS_MOST = 1_000
TERMS = "Drawn by this project from meshes of MakeHuman (CC0 1.0); no person is shown."
PLAN = "plan.json"
MANIFEST = "manifest.csv"
PROVENANCE = "provenance.json"
CROPS = "crops"
UNFINISHED = "unfinished"
CROP_NAME = re.compile(r"(?P<camera>s\d+c\d+)_\d+\.jpg")


@dataclass(frozen=True)
class Plan:
    """A data set to draw; the same plan gives the same bytes.

    Attributes:
        people: the number of people.
        crops: the number of crops of each, over `VIEWS` cameras.
        seed: of all that is drawn. A larger set contains the people of a smaller one.
    """

    people: int
    crops: int
    seed: int
    version: int = VERSION


def draw_people(plan: Plan, out: Path, on_person: Callable[[int], None] = lambda _: None) -> None:
    """Draw a data set, or the people that it still lacks.

    The folder gets the crops of each person in a folder of its own, `manifest.csv`, `TERMS.txt`,
    and `provenance.json` with the source, hash and licence of every mesh. A person's folder appears
    when all its crops are drawn, so that the same call continues one that was stopped.

    Raises:
        InputProblem: the plan is out of range, or the folder has another plan or other contents.
    """
    _refuse_other_plan(plan, out)
    meshes = read_meshes()
    wardrobe = Wardrobe(meshes)
    unfinished = out / UNFINISHED
    for first in range(0, plan.people, SITE_PEOPLE):
        number = first // SITE_PEOPLE
        site = Site(plan.seed, number, HARD, wardrobe)
        for person in range(min(SITE_PEOPLE, plan.people - first)):
            finished = out / CROPS / f"{first + person:05d}"
            if not finished.is_dir():
                shutil.rmtree(unfinished, ignore_errors=True)
                unfinished.mkdir()
                for name, content in _draw_person(site, person, plan.crops):
                    (unfinished / f"s{number}{name}").write_bytes(content)
                unfinished.rename(finished)
            on_person(1)
    _write_manifest(out)
    provenance = {"plan": asdict(plan), "terms": TERMS, "meshes": list(meshes.sources)}
    (out / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n")


def _draw_person(site: Site, person: int, crops: int) -> Iterator[tuple[str, bytes]]:
    """Yield the camera and number, as a file name, and the bytes of each crop of a person."""
    for view, camera in enumerate(site.viewers(person, SITE_CAMERAS, VIEWS)):
        for crop in range(view, crops, VIEWS):
            yield f"c{camera}_{crop:02d}.jpg", site.crop(person, camera, crop // VIEWS)


def _refuse_other_plan(plan: Plan, out: Path) -> None:
    """Refuse a folder that has another plan or other files; write the plan into a new one."""
    if not 2 <= plan.people <= PEOPLE_MOST:
        raise InputProblem(f"--people {plan.people}: draw 2 to {PEOPLE_MOST:,}")
    if not VIEWS <= plan.crops <= CROPS_MOST:
        raise InputProblem(f"--crops {plan.crops}: draw {VIEWS} to {CROPS_MOST:,} of each person")
    written = json.dumps(asdict(plan)) + "\n"
    file = out / PLAN
    if file.is_file():
        if file.read_text() != written:
            raise InputProblem(
                f"{out}: was begun with {file.read_text().strip()}, not with {written.strip()}; "
                "use the same options, or name another folder"
            )
    elif out.exists() and any(out.iterdir()):
        raise InputProblem(f"{out}: has other files; name a new folder")
    else:
        (out / CROPS).mkdir(parents=True)
        (out / "TERMS.txt").write_text(TERMS + "\n")
        file.write_text(written)


def _write_manifest(out: Path) -> None:
    unfinished = out / f"{MANIFEST}.part"
    with unfinished.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["path", "identity", "camera", "track"])
        for person in sorted((out / CROPS).iterdir()):
            for crop in sorted(person.iterdir()):
                match = CROP_NAME.fullmatch(crop.name)
                if match:
                    path = crop.relative_to(out).as_posix()
                    rows.writerow([path, person.name, match["camera"], person.name])
    unfinished.replace(out / MANIFEST)
