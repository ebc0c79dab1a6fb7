"""`gmn plan`: what a gallery of some size and load needs, from measured unit costs.

A layout is a list of components, each with its need and with what one machine has of it. The answer
is the first of three layouts in which every component fits, else the last.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from rich.console import Group, RenderableType
from typer import Option

from bench.units import ARTEFACTS, OF_A_GPU, REFERENCE, Unit, read_units
from model.problems import InputProblem
from service.commands.common import JsonOption, plain_table, show

GIB = 2**30
PROCESS, REPLICAS, MILVUS = LAYOUTS = (
    "one process, SQLite and the index in its memory",
    "processes with the index in the memory of each, Redis and an object store",
    "processes without vectors, Redis, an object store and Milvus",
)
# The number, 0 where it is this machine's, and its meaning.
ASSUMED = {
    "cores": (0.0, "of each machine; a search in Milvus is divided among them"),
    "memory_gib": (0.0, "of each machine"),
    "disk_gib": (0.0, "of each machine, free"),
    "busy": (0.7, "share of the cores that may be used"),
    "filled": (0.7, "share of memory and disk that may be used"),
    "search_ms": (100.0, "a search may take"),
    "dimension": (256.0, "of a feature, as of bundled and small"),
    "picture_bytes": (5000.0, "of a stored crop"),
    "crops_per_camera_hour": (100.0, "enrolled from each camera, all day"),
    "ann_from_crops": (500_000.0, "a larger gallery has a copy in product codes"),
}


class Component(NamedTuple):
    """A part of a layout: what it needs and what there is of it, None where that is no bound."""

    name: str
    need: float
    has: float | None
    unit: str
    grows_with: Literal["crops", "load"] = "crops"

    @property
    def share(self) -> float:
        """The need divided by what there is; 0 without a bound."""
        return self.need / self.has if self.has else 0.0


class Demand(NamedTuple):
    """What is asked for, with unit costs and assumptions by name."""

    crops: int
    queries_per_second: float
    cameras: int
    artefact: str
    units: Mapping[str, Unit]
    assumed: Mapping[str, float]

    def cost(self, name: str) -> float:
        """A unit cost; `InputProblem` where it was not measured."""
        if name not in self.units:
            raise InputProblem(f"{name}: no file of unit costs has it; add it to that of --units")
        return self.units[name].value

    @property
    def enrolled_per_second(self) -> float:
        """Crops that the cameras add."""
        return self.cameras * self.assumed["crops_per_camera_hour"] / 3600

    @property
    def width(self) -> float:
        """Of a feature, over that of the features that were measured."""
        return self.assumed["dimension"] / self.cost("dimension")

    @property
    def has_codes(self) -> bool:
        """Whether the index of a process proposes from product codes."""
        return self.crops >= self.assumed["ann_from_crops"]

    def search_ms(self, layout: str) -> tuple[float, float]:
        """Of one search: the processor time, and the time on a machine that does nothing else."""
        millions = self.width * self.crops / 1e6
        if layout != MILVUS:
            # On one thread.
            spent = millions * self.cost(f"{'ann' if self.has_codes else 'flat'}_ms_per_million")
            return spent, spent
        name = "milvus_ms_per_million"
        # All cores of the machine were busy.
        spent = millions * self.cost(name) * self.units[name].cores
        return spent, spent / self.assumed["cores"]


def components(demand: Demand, layout: str) -> list[Component]:
    """The components of a layout."""
    cost = demand.cost
    assumed = demand.assumed
    crops = demand.crops
    cores = assumed["cores"] * assumed["busy"]
    memory, disk = (assumed[name] * assumed["filled"] for name in ("memory_gib", "disk_gib"))
    queries = demand.queries_per_second
    enrolled = demand.enrolled_per_second
    spent, one_search = demand.search_ms(layout)
    searching = queries * spent / 1000
    computed = queries * cost(f"query_ms_{demand.artefact}") / 1000
    computed += enrolled * cost(f"enroll_ms_{demand.artefact}") / 1000
    vector = 4 * assumed["dimension"]
    indexed = 0.0
    if layout != MILVUS:
        computed += searching
        copy = assumed["dimension"] / 4 if demand.has_codes else 0.0
        indexed = crops * (vector + copy + cost("crop_anon_bytes"))
    found = [
        Component("memory of a process", (cost("process_bytes") + indexed) / GIB, memory, "GiB"),
        Component("one search", one_search, assumed["search_ms"], "ms"),
        Component("processor", computed, cores if layout == PROCESS else None, "cores", "load"),
    ]
    if OF_A_GPU in demand.units:
        gpus = (queries + enrolled) / cost(OF_A_GPU) / assumed["busy"]
        found.append(Component("GPUs, where these embed", gpus, None, "GPUs", "load"))
    if layout != MILVUS:
        start = crops / 1e6 * cost("start_seconds_per_million")
        found.append(Component("start of a process", start, None, "s"))
    if layout == PROCESS:
        # The record and the side file have each vector once.
        record = cost("record_bytes_per_crop") + 8 * (assumed["dimension"] - cost("dimension"))
        stored = crops * (record + assumed["picture_bytes"]) / GIB
        written = cost("enroll_crops_per_second")
        return [
            *found,
            Component("disk", stored, disk, "GiB"),
            Component("record", enrolled, written, "crops/s", "load"),
        ]
    # The truth of the vectors, and with Milvus its own files.
    objects = crops * (vector * (2 if layout == MILVUS else 1) + assumed["picture_bytes"])
    found += [
        Component("processes", math.ceil(computed / cores), None, "machines", "load"),
        Component("memory of Redis", crops * cost("redis_bytes_per_crop") / GIB, memory, "GiB"),
        Component("disk of Redis", crops * cost("aof_bytes_per_crop") / GIB, disk, "GiB"),
        Component("object store", objects / GIB, None, "GiB"),
    ]
    if layout == MILVUS:
        rows = crops * demand.width / GIB
        indexer = cost("indexer_crops_per_second")
        found += [
            Component("memory of Milvus", rows * cost("milvus_bytes_per_crop"), memory, "GiB"),
            Component("processor of Milvus", searching, cores, "cores", "load"),
            Component("indexer", enrolled, indexer, "crops/s", "load"),
        ]
    return found


def make_plan(demand: Demand) -> dict[str, Any]:
    """The first layout that fits, its components, and the one that ends first.

    `ends_first` has how many times the crops, or the queries and enrollments, it is enough for.
    """
    too_small: dict[str, list[str]] = {}
    for layout in LAYOUTS:
        parts = components(demand, layout)
        too_small[layout] = [part.name for part in parts if part.share > 1]
        if not too_small[layout]:
            break
    first = max(parts, key=lambda part: part.share)
    return {
        "layout": layout,
        "fits": not too_small.pop(layout),
        "too_small": too_small,
        "components": [part._asdict() | {"share": part.share} for part in parts],
        "ends_first": {"component": first.name, first.grows_with: 1 / first.share},
        "assumed": dict(demand.assumed),
        "units": {name: unit.model_dump(mode="json") for name, unit in demand.units.items()},
    }


def plan(
    crops: Annotated[int, Option(min=1, help="Crops of the gallery.")],
    qps: Annotated[float, Option(min=0, help="Queries a second.")],
    cameras: Annotated[int, Option(min=0, help="Cameras that enroll crops all day.")] = 0,
    artefact: Annotated[str, Option(help=f"What embeds: {' or '.join(ARTEFACTS)}.")] = "bundled",
    units: Annotated[
        Path | None, Option(help="Unit costs by gmn bench --units; the shipped ones fill gaps.")
    ] = None,
    assume: Annotated[
        list[str] | None, Option(metavar="NAME=NUMBER", help="Replaces an assumption.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Plans processors, memory, Redis, object store, Milvus and disk of a gallery.

    Example: gmn plan --crops 1000000 --qps 20 --cameras 30
    """
    if artefact not in ARTEFACTS:
        raise InputProblem(f"--artefact {artefact}: give {' or '.join(ARTEFACTS)}")
    if not math.isfinite(qps):
        raise InputProblem(f"--qps {qps}: give a finite number")
    shipped = read_units(REFERENCE)
    own = {} if units is None else read_units(units)
    assumed = _assumptions(assume or [])
    answer = make_plan(Demand(crops, qps, cameras, artefact, shipped | own, assumed))
    answer["shipped_units"] = sorted(shipped.keys() - own.keys())
    show(answer, as_json, _view(answer, crops))


def _assumptions(given: Sequence[str]) -> dict[str, float]:
    assumed = {name: number for name, (number, _) in ASSUMED.items()}
    assumed["cores"] = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name, found in (("memory_gib", memory), ("disk_gib", shutil.disk_usage(".").free)):
        assumed[name] = round(found / GIB, 1)
    for text in given:
        name, _, number = text.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if name not in assumed or not 0 < value < math.inf:
            names = ", ".join(assumed)
            raise InputProblem(f"--assume {text}: give NAME=NUMBER, above 0, NAME one of {names}")
        assumed[name] = value
    return assumed


def _view(answer: Mapping[str, Any], crops: int) -> Group:
    shown: list[RenderableType] = []
    for layout, parts in answer["too_small"].items():
        shown.append(f"Too small: {layout} ({', '.join(parts)})")
    shown.append(f"{'Layout' if answer['fits'] else 'Too small as well'}: {answer['layout']}")
    rows = []
    for part in answer["components"]:
        bound = (
            ("–", "–") if part["has"] is None else (f"{part['has']:,.1f}", f"{part['share']:.0%}")
        )
        rows.append((part["name"], f"{part['need']:,.1f}", bound[0], part["unit"], bound[1]))
    shown.append(plain_table(("component", "needs", "at most", "unit", "used"), rows))
    ends = answer["ends_first"]
    if "crops" in ends:
        last = float(format(crops * ends["crops"], ".2g"))
        at = f"{last:,.0f} crops"
    else:
        at = f"{ends['load']:.2g} × the load"
    shown.append(f"{ends['component']} ends first, at about {at}.")
    if OF_A_GPU not in answer["units"]:
        shown.append("No unit cost was measured on a GPU; the processor embeds.")
    if answer["shipped_units"]:
        shown.append(
            "Costs marked shipped are of another machine; gmn bench --units measures this one."
        )
    assumed = [(name, f"{answer['assumed'][name]:g}", ASSUMED[name][1]) for name in ASSUMED]
    shown.append(plain_table(("assumed", "number", "meaning"), assumed))
    costs = [
        (
            *(name, f"{unit['value']:,.4g}", unit["source"], unit["machine"], unit["cores"]),
            *(unit["date"], "shipped" if name in answer["shipped_units"] else "--units"),
        )
        for name, unit in answer["units"].items()
    ]
    titles = ("unit cost", "value", "measured by", "machine", "cores", "date", "from")
    shown.append(plain_table(titles, costs))
    return Group(*shown)
