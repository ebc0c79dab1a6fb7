"""The check of a machine with a GPU, on the CPU: it compares, measures, and names its device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import gpu_check
from bench.gpu_check import CPU_SIZES, check

# A machine with a GPU need not have the packages of the service.
WITHOUT = ("faiss", "fastapi", "redis", "openvino", "httpx", "service", "gmn_client")


def test_all_three_agree_with_the_cpu_in_float32(tiny_artefact: Path) -> None:
    rows = list(check(torch.device("cpu"), CPU_SIZES, str(tiny_artefact)))
    assert [row["precision"] for row in rows] == ["float32", "bfloat16"] * 3
    assert all(row["per_second"] > 0 and row["peak_mib"] is None for row in rows)
    embedded, _, scored, near, stepped, _ = (row["difference"] for row in rows)
    assert embedded["least cosine"] == pytest.approx(1.0, abs=1e-5)
    assert scored["largest difference"] == 0.0
    assert 0.0 < near["largest difference"] < near["standard deviation of scores"]
    assert stepped["loss, relative"] == pytest.approx(0.0, abs=1e-5)
    assert stepped["cosine of the gradients"] == pytest.approx(1.0, abs=1e-3)


def test_the_script_needs_neither_the_service_nor_faiss() -> None:
    program = "import sys, bench.gpu_check\n"
    program += f"print([name for name in {WITHOUT!r} if name in sys.modules])"
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == "[]"


def test_without_a_gpu_the_script_names_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_check, "check", lambda *_, **__: [])
    gpu_check.main("cpu", tmp_path / "figures.json")
    assert "No GPU is used" in capsys.readouterr().out
    assert '"device": "CPU' in (tmp_path / "figures.json").read_text(encoding="utf-8")
