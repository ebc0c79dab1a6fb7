"""Tables of `gmn plan`: what galleries of some sizes need, and one beside its measurement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from bench.plan import ASSUMED, GIB, PROCESS, Demand, components, make_plan
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
    """What galleries of some sizes need, from the shipped unit costs."""
    assumed = ASSUMPTIONS | MACHINE
    units = read_units(REFERENCE)
    plans = [
        make_plan(Demand(crops, QUERIES_PER_SECOND, CAMERAS, ARTEFACTS[0], units, assumed))
        for crops in SIZES
    ]
    needs = [{(p["name"], p["unit"]): p["need"] for p in plan["components"]} for plan in plans]
    rows: list[list[str | None]] = [["layout", *(plan["layout"] for plan in plans)]]
    for part in dict.fromkeys(part for need in needs for part in need):
        found = (need.get(part) for need in needs)
        rows.append([", ".join(part), *(None if one is None else f"{one:,.1f}" for one in found)])
    rows.append(["ends first", *(_ending(plan["ends_first"]) for plan in plans)])
    return Table("", ("", *(f"{crops:,} crops" for crops in SIZES)), rows).markdown()


def sizes_table() -> str:
    """What one process with SQLite needs, by crops and queries a second."""
    assumed = ASSUMPTIONS | MACHINE
    units = read_units(REFERENCE)
    names = ("processor", "memory of a process", "disk", "one search")
    rows = []
    for crops in SMALL_SIZES:
        for queries in (1.0, QUERIES_PER_SECOND):
            asked = Demand(crops, queries, CAMERAS, ARTEFACTS[0], units, assumed)
            needs = {part.name: part.need for part in components(asked, PROCESS)}
            rows.append([f"{crops:,}", f"{queries:g}", *(f"{needs[one]:.2g}" for one in names)])
    columns = ("crops", "queries/s", "cores", "memory, GiB", "disk, GiB", "one search, ms")
    return Table("", columns, rows).markdown()


def _ending(first: dict[str, Any]) -> str:
    times = first.get("crops", first.get("load"))
    of = "crops" if "crops" in first else "load"
    return f"{first['component']}, at {times:.2g} × the {of}"


def planned_table(sizes: Sequence[dict[str, Any]]) -> str:
    """The largest size as `gmn plan` computes it from the costs of the one before, and measured."""
    *_, before, last = sizes
    costs = unit_costs(before) | {"process_bytes": before["process_bytes"]}
    units = read_units(REFERENCE)
    for name, value in costs.items():
        units[name] = units[name].model_copy(update={"value": value})
    # Crops without pictures; the search of all crops, as no smaller gallery has a copy in codes.
    own = {"picture_bytes": 0.0, "dimension": last["dimension"]}
    assumed = ASSUMPTIONS | own
    asked = Demand(last["crops"], 0.0, 0, ARTEFACTS[0], units, assumed)
    needs = {part.name: part.need for part in components(asked, PROCESS)}
    flat = asked._replace(assumed=assumed | {"ann_from_crops": math.inf})
    (search,) = (one.need for one in components(flat, PROCESS) if one.name == "one search")
    held = sum(last.get(f"{name}_bytes", 0) for name in ("process", "anonymous", "mapped", "index"))
    lines = [
        ("memory of a process, GiB", needs["memory of a process"], held / GIB),
        ("one exact search, ms", search, last["flat_ms"]["all"]["p50"]),
        ("start of a process, s", needs["start of a process"], last["start_seconds"]),
        ("disk, GiB", needs["disk"], last["disk_bytes"] / GIB),
        ("record, crops/s", costs["enroll_crops_per_second"], last["enrolled_per_second"]),
    ]
    rows = [(name, f"{a:,.2f}", f"{b:,.2f}", f"{a / b:.2f}") for name, a, b in lines]
    of = f"{last['crops']:,} crops, d = {last['dimension']}"
    return Table(
        "", (of, f"planned from {before['crops']:,}", "measured", "ratio"), rows
    ).markdown()
