"""`gmn bench pairs`: both sides are counted in multiply-adds, and memory follows the chunk."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import pairs
from model.problems import InputProblem


def test_the_scores_of_a_million_pairs_need_the_memory_of_a_chunk(
    tiny_artefact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "GALLERY", 64)
    monkeypatch.setattr(pairs, "ROUNDS", 2)
    found = pairs.bench_pairs(str(tiny_artefact))
    details = found.details
    assert found.reach == 0.9
    of_pair = (details["dimension"] + 2) * details["hidden"]
    counted = 2e-9 * of_pair * details["pairs_per_second"]
    assert details["scores_gflops"] == pytest.approx(counted, abs=0.1)
    features = 1e6 * 4 * details["dimension"] / 2**20
    # The scores themselves are 3.8 MiB.
    assert details["peak_mib_of_a_million_pairs"] < min(40.0, features / 2)


def test_an_artefact_without_m_net_has_no_pairs_to_score(cosine_artefact: Path) -> None:
    with pytest.raises(InputProblem, match="M-Net"):
        pairs.bench_pairs(str(cosine_artefact))
