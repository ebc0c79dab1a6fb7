"""Tables of `gmn plan`: needs of galleries of several sizes, and a plan beside its measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.plan import ASSUMED, GIB, MEMORY, Demand, components, make_plan
from bench.scale import unit_costs
from bench.units import ARTEFACTS, REFERENCE, read_units
from training.evaluation.tables import Table

SIZES = (10**5, 10**6, 10**7, 10**9)
SMALL_SIZES = (10**4, 10**5, 10**6)
QUERIES_PER_SECOND = 20.0
CAMERAS = 30
MACHINE = {"cores": 16.0, "memory_gib": 64.0, "disk_gib": 1000.0}
ASSUMPTIONS = {name: number for name, (number, _) in ASSUMED.items()}


def costs_table() -> str:
    """Compute the needs of galleries of several sizes from the shipped unit costs."""
    assumed = ASSUMPTIONS | MACHINE
    units = read_units(REFERENCE)
    plans = [
        make_plan(Demand(crops, QUERIES_PER_SECOND, CAMERAS, ARTEFACTS[0], units, assumed))
        for crops in SIZES
    ]
    needs_by_plan = [
        {(part["name"], part["unit"]): part["need"] for part in plan["components"]}
        for plan in plans
    ]
    rows: list[list[str | None]] = [["layout", *(plan["layout"] for plan in plans)]]
    for name, unit in dict.fromkeys(part for needs in needs_by_plan for part in needs):
        needs = [needs.get((name, unit)) for needs in needs_by_plan]
        cells = [None if need is None else f"{need:,.1f}" for need in needs]
        rows.append([f"{name}, {unit}", *cells])
    rows.append(["ends first", *(_ending(plan["ends_first"]) for plan in plans)])
    return Table("", ("", *(f"{crops:,} crops" for crops in SIZES)), rows).markdown()


def sizes_table() -> str:
    """Compute the needs of a process, by crops and queries a second."""
    assumed = ASSUMPTIONS | MACHINE
    units = read_units(REFERENCE)
    names = ("processor", "memory of a process", "disk", "one search")
    rows = []
    for crops in SMALL_SIZES:
        for queries in (1.0, QUERIES_PER_SECOND):
            asked = Demand(crops, queries, CAMERAS, ARTEFACTS[0], units, assumed)
            needs = _needs(asked)
            rows.append([f"{crops:,}", f"{queries:g}", *(f"{needs[name]:.2g}" for name in names)])
    columns = ("crops", "queries/s", "cores", "memory, GiB", "disk, GiB", "one search, ms")
    return Table("", columns, rows).markdown()


def _ending(first: dict[str, Any]) -> str:
    grows_with = "crops" if "crops" in first else "load"
    return f"{first['component']}, at {first[grows_with]:.2g} × the {grows_with}"


def planned_table(sizes: Sequence[dict[str, Any]]) -> str:
    """Compare the largest size, planned by the costs of the one before, with its measurement."""
    *_, before, last = sizes
    costs = unit_costs(before) | {"process_bytes": before["process_bytes"]}
    units = read_units(REFERENCE)
    for name, value in costs.items():
        units[name] = units[name].model_copy(update={"value": value})
    # The crops of the bench have no pictures.
    assumed = ASSUMPTIONS | {"picture_bytes": 0.0, "dimension": last["dimension"]}
    asked = Demand(last["crops"], 0.0, 0, ARTEFACTS[0], units, assumed)
    needs = _needs(asked)
    # Smaller galleries have no copy in codes, so that only the exact search can be compared.
    exact_needs = _needs(asked._replace(assumed=assumed | {"ann_from_crops": math.inf}))
    memory = sum(
        last.get(f"{name}_bytes", 0) for name in ("process", "anonymous", "mapped", "index")
    )
    lines = [
        ("memory of a process, GiB", needs["memory of a process"], memory / GIB),
        ("one exact search, ms", exact_needs["one search"], last["flat_ms"]["all"]["p50"]),
        ("start of a process, s", needs["start of a process"], last["start_seconds"]),
        ("disk, GiB", needs["disk"], last["disk_bytes"] / GIB),
        ("record, crops/s", costs["enroll_crops_per_second"], last["enrolled_per_second"]),
    ]
    rows = [
        (name, f"{planned:,.2f}", f"{measured:,.2f}", f"{planned / measured:.2f}")
        for name, planned, measured in lines
    ]
    gallery = f"{last['crops']:,} crops, d = {last['dimension']}"
    columns = (gallery, f"planned from {before['crops']:,}", "measured", "ratio")
    return Table("", columns, rows).markdown()


def _needs(demand: Demand) -> dict[str, float]:
    return {part.name: part.need for part in components(demand, MEMORY)}
