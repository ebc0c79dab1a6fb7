"""Draw a data set of rendered people into a folder, person by person."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from model.problems import InputProblem
from training.rendered.assets import Assets
from training.rendered.body import BodyModel
from training.rendered.cameras import Camera, draw_camera
from training.rendered.cloth import Stock
from training.rendered.crops import View, draw_crop
from training.rendered.garments import Wardrobe
from training.rendered.outfits import Source
from training.rendered.people import draw_figure

VERSION = 2
"""Changes with the pictures that a seed gives."""
SITE_PEOPLE = 100
"""The number of people who are seen by the same cameras."""
SITE_CAMERAS = 8
VIEWS = 4
"""The number of cameras that see a person, of those of the person's site."""
STRANGERS = 0.15
"""The share of crops in which somebody else is seen as well."""
TWINS = 0.5
"""The share of people who wear the same as one other person, but for shoes, bag and hair."""

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


def draw_people(
    plan: Plan, assets: Assets, out: Path, on_person: Callable[[int], None] = lambda _: None
) -> None:
    """Draw a data set, or the people that it still lacks.

    The folder gets the crops of each person in a folder of its own, `manifest.csv`, `TERMS.txt`,
    and `provenance.json` with the hash and licence of every asset. A person's folder appears when
    all its crops are drawn, so that the same call continues one that was stopped.

    Raises:
        InputProblem: the plan is out of range, or the folder has another plan or other contents.
    """
    _refuse_other_plan(plan, out)
    wardrobe = Wardrobe(assets, BodyModel(assets))
    unfinished = out / UNFINISHED
    for number in range(plan.people):
        finished = out / CROPS / f"{number:05d}"
        if not finished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            for name, content in draw_person(plan, number, wardrobe):
                (unfinished / name).write_bytes(content)
            unfinished.rename(finished)
        on_person(1)
    _write_manifest(out)
    provenance = {"plan": asdict(plan), "terms": TERMS, "assets": assets.provenance()}
    (out / PROVENANCE).write_text(json.dumps(provenance, indent=1) + "\n")


def draw_person(plan: Plan, number: int, wardrobe: Wardrobe) -> Iterator[tuple[str, bytes]]:
    """Yield the file name and the bytes of each crop of a person."""
    site = number // SITE_PEOPLE
    figure = draw_figure(_source(plan, site, number), wardrobe)
    random = _random(plan, 2, number)
    cameras = random.choice(SITE_CAMERAS, VIEWS, replace=False)
    for view, camera_number in enumerate(cameras):
        camera = _camera(plan, site, int(camera_number))
        heading = random.choice(camera.headings) + random.normal(0, 15)
        distance = random.uniform(camera.near, camera.far)
        for crop in range(view, plan.crops, VIEWS):
            heading += random.normal(0, 12)
            moment = View(heading, distance, random.random())
            stranger = None
            if random.random() < STRANGERS:
                stranger = draw_figure(Source(random, random, _stock(plan, site)), wardrobe)
            content = draw_crop(random, figure, wardrobe.body, camera, moment, stranger)
            yield f"s{site}c{camera_number}_{crop:02d}.jpg", content


def _source(plan: Plan, site: int, number: int) -> Source:
    person = _random(plan, 1, number)
    pair = _random(plan, 3, number // 2)
    are_twins = pair.random() < TWINS
    return Source(person, pair if are_twins else person, _stock(plan, site))


def _random(plan: Plan, *numbers: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(plan.seed, spawn_key=numbers))


@lru_cache(maxsize=2)
def _stock(plan: Plan, site: int) -> Stock:
    return Stock(_random(plan, 4, site))


@lru_cache(maxsize=2 * SITE_CAMERAS)
def _camera(plan: Plan, site: int, number: int) -> Camera:
    return draw_camera(_random(plan, 0, site, number))


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
