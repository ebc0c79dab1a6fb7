"""The bench of runtimes: three sides of one run, and two ratios."""

from __future__ import annotations

import pytest

from bench import result
from bench.serve import bench_runtimes
from model.artefact import load_artefact


def test_the_service_is_held_against_both_on_the_same_crops(tiny_artefact, monkeypatch):
    pytest.importorskip("openvino")
    monkeypatch.setattr(result, "ROUNDS", 1)
    found = bench_runtimes(load_artefact(tiny_artefact))
    paces = found["crops_per_second"]
    assert found["runtime"].split()[0] in ("torch", "openvino")
    for other in ("openvino", "torch"):
        expected = paces["served"] / paces[other]
        assert found[f"over_{other}"]["ratio"] == pytest.approx(expected, rel=0.01)
