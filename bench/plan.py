"""`gmn plan`: the needs of a gallery of some size and load, from measured unit costs.

A layout is a list of components, each with its need and the supply of one machine. The answer is
the first of two layouts in which every component fits, else the last.
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
MEMORY = "processes of one machine, with the index in the memory of each"
MILVUS = "processes of one machine without vectors, and Milvus"
LAYOUTS = (MEMORY, MILVUS)
# Each assumption has a number and its meaning; a number of 0 is read from this machine.
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
    """A part of a layout: its need, and the supply `has`, which is None where nothing bounds it."""

    name: str
    need: float
    has: float | None
    unit: str
    grows_with: Literal["crops", "load"] = "crops"

    @property
    def share(self) -> float:
        """Return the need divided by the supply; 0 without a bound."""
        return self.need / self.has if self.has else 0.0


class Demand(NamedTuple):
    """A gallery's size and load, with unit costs and assumptions by name."""

    crops: int
    queries_per_second: float
    cameras: int
    artefact: str
    units: Mapping[str, Unit]
    assumed: Mapping[str, float]

    def cost(self, name: str) -> float:
        """Return a unit cost; raises `InputProblem` if it was not measured."""
        if name not in self.units:
            raise InputProblem(f"{name}: no file of unit costs has it; add it to that of --units")
        return self.units[name].value

    @property
    def enrolled_per_second(self) -> float:
        return self.cameras * self.assumed["crops_per_camera_hour"] / 3600

    @property
    def dimension_ratio(self) -> float:
        return self.assumed["dimension"] / self.cost("dimension")

    @property
    def has_codes(self) -> bool:
        return self.crops >= self.assumed["ann_from_crops"]

    def search_ms(self, layout: str) -> tuple[float, float]:
        """Return the processor time of one search, and its time on an otherwise idle machine."""
        millions = self.dimension_ratio * self.crops / 1e6
        if layout != MILVUS:
            # A search in the memory of a process has one thread.
            cost = self.cost("ann_ms_per_million" if self.has_codes else "flat_ms_per_million")
            return millions * cost, millions * cost
        name = "milvus_ms_per_million"
        # All cores of the machine were busy when Milvus was measured.
        processor_ms = millions * self.cost(name) * self.units[name].cores
        return processor_ms, processor_ms / self.assumed["cores"]


def components(demand: Demand, layout: str) -> list[Component]:
    cost = demand.cost
    assumed = demand.assumed
    crops = demand.crops
    cores = assumed["cores"] * assumed["busy"]
    memory_gib = assumed["memory_gib"] * assumed["filled"]
    disk_gib = assumed["disk_gib"] * assumed["filled"]
    queries = demand.queries_per_second
    enrolled = demand.enrolled_per_second
    processor_ms, search_ms = demand.search_ms(layout)
    searching_cores = queries * processor_ms / 1000
    service_cores = queries * cost(f"query_ms_{demand.artefact}") / 1000
    service_cores += enrolled * cost(f"enroll_ms_{demand.artefact}") / 1000
    vector_bytes = 4 * assumed["dimension"]
    process_bytes = cost("process_bytes")
    if layout != MILVUS:
        service_cores += searching_cores
        code_bytes = assumed["dimension"] / 4 if demand.has_codes else 0.0
        process_bytes += crops * (vector_bytes + code_bytes + cost("crop_anon_bytes"))
    # The record and the side file have each vector once.
    record_bytes = cost("record_bytes_per_crop") + 8 * (assumed["dimension"] - cost("dimension"))
    stored_bytes = crops * (record_bytes + assumed["picture_bytes"])
    parts = [
        Component("memory of a process", process_bytes / GIB, memory_gib, "GiB"),
        Component("one search", search_ms, assumed["search_ms"], "ms"),
        Component("processor", service_cores, cores, "cores", "load"),
        Component("disk", stored_bytes / GIB, disk_gib, "GiB"),
        Component("record", enrolled, cost("enroll_crops_per_second"), "crops/s", "load"),
    ]
    if OF_A_GPU in demand.units:
        gpus = (queries + enrolled) / cost(OF_A_GPU) / assumed["busy"]
        parts.append(Component("GPUs, where these embed", gpus, None, "GPUs", "load"))
    if layout == MILVUS:
        milvus_bytes = crops * demand.dimension_ratio * cost("milvus_bytes_per_crop")
        indexed_per_second = cost("indexer_crops_per_second")
        parts += [
            Component("memory of Milvus", milvus_bytes / GIB, memory_gib, "GiB"),
            Component("disk of Milvus", crops * vector_bytes / GIB, None, "GiB"),
            Component("processor of Milvus", searching_cores, cores, "cores", "load"),
            Component("indexer", enrolled, indexed_per_second, "crops/s", "load"),
        ]
    else:
        start_seconds = crops / 1e6 * cost("start_seconds_per_million")
        parts.append(Component("start of a process", start_seconds, None, "s"))
    return parts


def make_plan(demand: Demand) -> dict[str, Any]:
    """Choose the first layout that fits, and find the component that ends first.

    `ends_first` has the factor by which the crops, or the queries and enrollments, may still grow.
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
    """Plans processors, memory, disk and Milvus of a gallery.

    Example: gmn plan --crops 1000000 --qps 20 --cameras 30
    """
    if artefact not in ARTEFACTS:
        raise InputProblem(f"--artefact {artefact}: give {' or '.join(ARTEFACTS)}")
    if not math.isfinite(qps):
        raise InputProblem(f"--qps {qps}: give a finite number")
    shipped = read_units(REFERENCE)
    measured = {} if units is None else read_units(units)
    assumed = _assumptions(assume or [])
    answer = make_plan(Demand(crops, qps, cameras, artefact, shipped | measured, assumed))
    answer["shipped_units"] = sorted(shipped.keys() - measured.keys())
    show(answer, as_json, _view(answer, crops))


def _assumptions(given: Sequence[str]) -> dict[str, float]:
    assumed = {name: number for name, (number, _) in ASSUMED.items()}
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assumed["cores"] = len(os.sched_getaffinity(0))
    assumed["memory_gib"] = round(memory_bytes / GIB, 1)
    assumed["disk_gib"] = round(shutil.disk_usage(".").free / GIB, 1)
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
        is_bounded = part["has"] is not None
        at_most = f"{part['has']:,.1f}" if is_bounded else "–"
        used = f"{part['share']:.0%}" if is_bounded else "–"
        rows.append((part["name"], f"{part['need']:,.1f}", at_most, part["unit"], used))
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
            name,
            f"{unit['value']:,.4g}",
            unit["source"],
            unit["machine"],
            unit["cores"],
            unit["date"],
            "shipped" if name in answer["shipped_units"] else "--units",
        )
        for name, unit in answer["units"].items()
    ]

    titles = ("unit cost", "value", "measured by", "machine", "cores", "date", "from")
    shown.append(plain_table(titles, costs))
    return Group(*shown)
