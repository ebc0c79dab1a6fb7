"""The check of a machine with a GPU, on the CPU: it compares and measures."""

import json
import sys
from importlib import import_module

import pytest
import torch

from bench import figures, gpu_check, gpu_service, tables
from bench.gpu_measuring import Check, Row
from bench.gpu_networks import with_group_norms
from model.artefact import load_artefact, resolve_artefact
from model.preprocessing import drawn_patterns
from model.problems import InputProblem
from tests.outside import run_command

# A machine with a GPU need not have the packages of the service for the parts about the networks.
WITHOUT = ("faiss", "fastapi", "redis", "openvino", "httpx2", "service", "gmn_client")
ONLY_ON_A_GPU = {"memory", "lost"}


@pytest.fixture(scope="module")
def rows(tiny_artefact):
    check = Check("cpu", (str(tiny_artefact),), is_tiny=True)
    return list(gpu_check.measure(check, list(gpu_check.PARTS), 280.0))


def _figures(rows, part):
    return [row["figures"] for row in rows if row["part"] == part]


def test_every_part_measures_something(rows):
    left_out = [row for row in rows if "left_out" in row]
    assert left_out == []
    assert {row["part"] for row in rows} == set(gpu_check.PARTS) - ONLY_ON_A_GPU
    rates = [
        value
        for row in rows
        for name, value in row["figures"].items()
        if name.startswith(("crops/s", "pairs/s"))
    ]
    assert len(rates) > 10
    assert all(rate > 0 for rate in rates)


def test_a_cpu_agrees_with_itself(rows):
    assert _figures(rows, "agreement")[0]["least cosine"] == pytest.approx(1.0, abs=1e-5)
    (pairs,) = _figures(rows, "pairs")
    assert pairs["largest difference, deviations"] == 0.0
    assert pairs["equal alone"] == 4
    (index,) = _figures(rows, "index")
    assert index["missed of 100"] == 0
    (step,) = _figures(rows, "step")
    assert step["gradient, relative difference"] == pytest.approx(0.0, abs=1e-3)


def test_features_are_counted_as_equal_in_every_batch(rows):
    for counted in _figures(rows, "batches"):
        equal = [value for name, value in counted.items() if name.startswith("equal")]
        assert len(equal) > 4
        assert set(equal) == {counted["crops"]}


def test_the_figures_become_the_table_of_the_page(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    monkeypatch.setattr(figures, "FIGURES", tmp_path)
    monkeypatch.setattr(tables, "FIGURES", tmp_path)
    page = tmp_path / "README.md"
    page.write_text("<!-- gpu -->\n<!-- /gpu -->\n")
    measured = tmp_path / "measured.json"
    measured.write_text(json.dumps({"results": [*rows, {**rows[0], "left_out": "no time"}]}))
    figures.main(["gpu", str(measured)])
    text = page.read_text()
    assert "| machine | – | python: 3." in text
    assert "| machine | – | no time |" in text
    assert json.loads((tmp_path / "gpu.json").read_text())[0] == rows[0]


def test_a_part_that_fails_or_has_no_time_says_so_and_the_others_go_on(tiny_artefact, monkeypatch):
    def fails(_):
        yield Row("first", {"figure": 1})
        raise RuntimeError("an illegal memory access")

    def misses(_):
        raise ModuleNotFoundError(name="faiss")

    monkeypatch.setattr(gpu_service, "pairs", fails)
    monkeypatch.setattr(gpu_service, "index", misses)
    check = Check("cpu", (str(tiny_artefact),), is_tiny=True)
    found = list(gpu_check.measure(check, ["pairs", "index", "machine"], 60.0))
    assert [row.get("left_out") for row in found] == [
        None,
        "it failed: RuntimeError: an illegal memory access",
        "faiss is not installed",
        None,
    ]
    (late,) = gpu_check.measure(check, ["machine"], -1.0)
    assert late["left_out"] == "there was no time"


def test_each_part_is_where_it_is_looked_for():
    for name, module in gpu_check.PARTS.items():
        assert callable(getattr(import_module(module), name))


def test_lines_and_the_file_have_the_same_figures(tiny_artefact, tmp_path, capsys):
    out = tmp_path / "gpu.json"
    gpu_check.main("cpu", tiny=True, part=["machine"], artefact=[str(tiny_artefact)], out=out)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert json.loads(out.read_text())["results"] == lines
    assert lines[0]["figures"]["torch"] == torch.__version__


def test_group_norms_give_nearly_the_features_of_instance_norms():
    artefact = load_artefact(resolve_artefact("small"))
    crops = torch.from_numpy(drawn_patterns(artefact.description.preprocessing)[:2])
    batch = artefact.description.preprocessing.normalise(crops).contiguous()
    with torch.inference_mode():
        expected = artefact.embedder(batch)
        found = with_group_norms(artefact.embedder)(batch)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_the_parts_about_networks_need_neither_the_service_nor_faiss():
    program = "import sys, bench.gpu_check, bench.gpu_networks, bench.gpu_training\n"
    program += f"print([name for name in {WITHOUT!r} if name in sys.modules])"
    finished = run_command(sys.executable, "-c", program, check=True)
    assert finished.stdout.strip() == "[]"


def test_a_machine_without_a_gpu_is_told_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputProblem, match="no GPU is usable"):
        gpu_check.main()
