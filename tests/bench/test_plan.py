"""`gmn plan`: arithmetic with known answers, unit costs from files, and input that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gmn
from bench.plan import ASSUMED, LAYOUTS, MEMORY, MILVUS, Demand, components, make_plan
from bench.plan_tables import costs_table, planned_table
from bench.tables import FIGURES, page_of
from bench.units import ARTEFACTS, REFERENCE, UNITS, keep_units, read_units

GIB = 2**30
COSTS = {
    "dimension": 512,
    "process_bytes": GIB,
    "crop_anon_bytes": 100,
    "flat_ms_per_million": 80,
    "ann_ms_per_million": 20,
    "start_seconds_per_million": 5,
    "record_bytes_per_crop": 6000,
    "enroll_crops_per_second": 4000,
    "milvus_bytes_per_crop": 2000,
    "milvus_ms_per_million": 20,
    "indexer_crops_per_second": 2000,
    "query_ms_bundled": 30,
    "query_ms_small": 13,
    "enroll_ms_bundled": 32,
    "enroll_ms_small": 12,
}
MACHINE = {"cores": 4, "memory_gib": 20, "disk_gib": 200, "busy": 0.5, "filled": 0.5}
ASSUMPTIONS = {name: number for name, (number, _) in ASSUMED.items()} | MACHINE


def file_of(path: Path, costs: dict[str, Any]) -> Path:
    about = {"source": "a test", "machine": "a machine", "cores": 2, "date": "2026-01-02"}
    path.write_text(json.dumps({name: {"value": cost} | about for name, cost in costs.items()}))
    return path


@pytest.fixture
def units(tmp_path: Path) -> Path:
    return file_of(tmp_path / "units.json", COSTS)


def demand(units: Path, crops: int, queries: float = 10.0, **more: Any) -> Demand:
    given = {"cameras": 0, "artefact": "bundled"} | more
    costs = UNITS.validate_json(units.read_bytes())
    return Demand(crops, queries, units=costs, assumed=ASSUMPTIONS, **given)


def needs(asked: Demand, layout: str) -> dict[str, float]:
    return {part.name: part.need for part in components(asked, layout)}


def test_a_small_gallery_is_in_the_memory_of_processes(units: Path) -> None:
    # Half as wide as measured: 100,000 crops are 80 · 0.1 / 2 = 4 ms on one thread.
    found = needs(demand(units, 100_000, cameras=36), MEMORY)
    assert found["one search"] == pytest.approx(4.0)
    # 10 queries of 30 + 4 ms and a crop a second of 32 ms.
    assert found["processor"] == pytest.approx(0.34 + 0.032)
    assert found["memory of a process"] == pytest.approx(1 + 100_000 * (4 * 256 + 100) / GIB)
    # The record and the side file are each 4 · 256 bytes smaller than those measured.
    assert found["disk"] == pytest.approx(100_000 * (6000 - 2048 + 5000) / GIB)
    assert (found["start of a process"], found["record"]) == (pytest.approx(0.5), 1.0)
    answer = make_plan(demand(units, 100_000))
    assert (answer["layout"], answer["fits"], answer["too_small"]) == (MEMORY, True, {})


def test_a_large_gallery_has_codes_that_one_thread_scans(units: Path) -> None:
    found = needs(demand(units, 1_000_000), MEMORY)
    assert found["one search"] == pytest.approx(10.0)
    assert found["processor"] == pytest.approx(10 * (30 + 10) / 1000)
    assert found["memory of a process"] == pytest.approx(1 + 1e6 * (4.25 * 256 + 100) / GIB)


def test_the_artefact_decides_what_a_request_costs(units: Path) -> None:
    found = needs(demand(units, 100_000, artefact="small", cameras=36), MEMORY)
    assert found["processor"] == pytest.approx((10 * (13 + 4) + 12) / 1000)


def test_a_cost_of_a_gpu_adds_the_gpus(tmp_path: Path) -> None:
    units = file_of(tmp_path / "own.json", COSTS | {"embed_gpu_crops_per_second": 100})
    assert read_units(units).keys() > COSTS.keys()
    # A half of each may be used.
    found = needs(demand(units, 100_000, 190.0, cameras=360), MEMORY)
    assert found["GPUs, where these embed"] == pytest.approx(2 * (190 + 10) / 100)


def test_more_queries_than_a_machine_answers_fit_no_layout(units: Path) -> None:
    # 6.8 cores, 2 of the machine; Milvus searches beside it, and still 6 are needed.
    answer = make_plan(demand(units, 100_000, 200.0))
    assert (answer["layout"], answer["fits"]) == (MILVUS, False)
    assert answer["too_small"] == {MEMORY: ["processor"]}
    assert needs(demand(units, 100_000, 200.0), MILVUS)["processor"] == pytest.approx(6.0)


def test_more_crops_than_a_memory_holds_are_in_milvus(units: Path) -> None:
    asked = demand(units, 9_000_000, 10.0, cameras=36)
    answer = make_plan(asked)
    assert (answer["layout"], answer["fits"]) == (MILVUS, True)
    assert answer["too_small"][MEMORY] == ["memory of a process"]
    found = needs(asked, MILVUS)
    assert found["memory of a process"] == 1.0
    assert found["one search"] == pytest.approx(45.0)
    assert found["memory of Milvus"] == pytest.approx(9e6 * 2000 / 2 / GIB)
    assert found["processor of Milvus"] == pytest.approx(10 * 90 * 2 / 1000)
    assert found["disk of Milvus"] == pytest.approx(9e6 * 4 * 256 / GIB)
    assert "start of a process" not in found


def test_the_component_that_ends_first_is_named_with_the_size_at_which_it_ends(units: Path) -> None:
    answer = make_plan(demand(units, 100_000))
    # 0.34 of 2 cores is more than any other share.
    assert answer["ends_first"] == {"component": "processor", "load": pytest.approx(2 / 0.34)}
    answer = make_plan(demand(units, 1_000_000, 1.0))
    assert answer["ends_first"]["component"] == "memory of a process"
    assert answer["ends_first"]["crops"] == pytest.approx(10 / (1 + 1e6 * 1188 / GIB))


def test_what_fits_no_layout_is_reported_as_too_small(units: Path) -> None:
    answer = make_plan(demand(units, 1_000_000_000))
    assert (answer["layout"], answer["fits"]) == (MILVUS, False)
    assert "memory of a process" in answer["too_small"][MEMORY]


def test_the_answer_names_each_unit_cost_and_each_assumption(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = file_of(tmp_path / "own.json", {"query_ms_small": 5.25})
    arguments = ["plan", "--crops", "1000", "--qps", "1", "--units", str(own)]
    assert gmn.run([*arguments, "--assume", "cores=64", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["units"]["query_ms_small"]["value"] == 5.25
    assert set(answer["shipped_units"]) == set(read_units(REFERENCE)) - {"query_ms_small"}
    assert answer["assumed"]["cores"] == 64
    assert gmn.run(arguments) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in (*ASSUMED, *read_units(REFERENCE), "ends first"))
    assert "Costs marked shipped are of another machine" in text


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (["--crops", "0"], "greater than or equal to 1"),
        (["--qps", "inf"], "finite"),
        (["--artefact", "large"], "give bundled or small"),
        (["--assume", "horses=3"], "NAME one of cores"),
        (["--assume", "cores=0"], "above 0"),
        (["--units", "no-such-file"], "gmn bench serve --units"),
    ],
)
def test_bad_input_is_refused_with_the_remedy(
    given: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gmn.run(["plan", "--crops", "10", "--qps", "1", *given]) == 2
    assert reason in capsys.readouterr().err


def test_a_file_with_an_unknown_or_negative_cost_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for costs in ({"horse_ms": 1}, {"query_ms_small": -1}):
        own = file_of(tmp_path / "own.json", costs)
        assert gmn.run(["plan", "--crops", "10", "--qps", "1", "--units", str(own)]) == 2
        assert str(own) in capsys.readouterr().err.replace("\n", "")


def test_a_bench_keeps_its_unit_costs_beside_those_of_others(tmp_path: Path) -> None:
    path = file_of(tmp_path / "units.json", {"query_ms_small": 5, "process_bytes": 9})
    machine = {"processor": "a processor", "cores": 3}
    keep_units(path, "gmn bench serve", {"process_bytes": 0.5}, machine)
    kept = read_units(path)
    assert (kept["query_ms_small"].value, kept["process_bytes"].value) == (5, 0.5)
    assert kept["process_bytes"].source == "gmn bench serve"
    assert (kept["process_bytes"].machine, kept["process_bytes"].cores) == ("a processor", 3)


def test_the_shipped_unit_costs_are_enough_for_every_layout() -> None:
    for artefact in ARTEFACTS:
        asked = Demand(10**6, 10.0, 20, artefact, read_units(REFERENCE), ASSUMPTIONS)
        assert all(components(asked, layout) for layout in LAYOUTS)


def test_the_page_shows_what_the_shipped_costs_come_to() -> None:
    shown = f"<!-- plan -->\n{costs_table()}\n<!-- /plan -->"
    assert shown in page_of("plan").read_text("utf-8"), "run python -m bench.figures plan"


def test_the_plan_of_the_largest_measured_gallery_is_near_what_was_measured() -> None:
    """A cost of 100,000 crops, such as a start, holds for ten times as many, within a half."""
    sizes = json.loads((FIGURES / "scale.json").read_text(encoding="utf-8"))["people"]
    assert [size["crops"] for size in sizes[-2:]] == [100_000, 1_000_000]
    shown = planned_table(sizes)
    assert f"<!-- planned -->\n{shown}\n<!-- /planned -->" in page_of("planned").read_text("utf-8")
    ratios = [float(line.split(" | ")[-1].strip(" |")) for line in shown.splitlines()[2:]]
    assert len(ratios) == 5
    assert all(0.67 < ratio < 1.5 for ratio in ratios)
