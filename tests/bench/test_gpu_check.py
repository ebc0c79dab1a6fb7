"""The check of a machine with a GPU, on the CPU: it compares and measures."""

import sys

import pytest
import torch

from bench import gpu_check
from model.problems import InputProblem
from tests.outside import run_command

# A machine with a GPU need not have the packages of the service.
WITHOUT = ("faiss", "fastapi", "redis", "openvino", "httpx2", "service", "gmn_client")


def test_all_three_agree_with_the_cpu_in_float32(tiny_artefact, monkeypatch):
    sizes = {"CROPS": 4, "QUERIES": 16, "GALLERY": 256, "SECONDS": 0.1, "RECIPE": "quick"}
    for name, value in sizes.items():
        monkeypatch.setattr(gpu_check, name, value)
    rows = list(gpu_check.check(torch.device("cpu"), str(tiny_artefact)))
    assert [row["precision"] for row in rows] == ["float32"] * 3 + ["bfloat16"] * 2
    assert all(row["per_second"] > 0 for row in rows)
    embedded, stepped, scored, _, _ = (
        value for row in rows for value in row["difference"].values()
    )
    assert embedded == pytest.approx(1.0, abs=1e-5)
    assert scored == 0.0
    assert stepped == pytest.approx(0.0, abs=1e-3)


def test_the_script_needs_neither_the_service_nor_faiss():
    program = "import sys, bench.gpu_check\n"
    program += f"print([name for name in {WITHOUT!r} if name in sys.modules])"
    finished = run_command(sys.executable, "-c", program, check=True)
    assert finished.stdout.strip() == "[]"


def test_a_machine_without_a_gpu_is_told_so(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(InputProblem, match="no GPU is usable"):
        gpu_check.main()
