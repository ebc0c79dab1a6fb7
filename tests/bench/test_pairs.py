"""`gmn bench pairs`: both sides are counted in multiply-adds, and memory follows the chunk."""

import pytest

from bench import pairs
from model.artefact import load_artefact
from model.problems import InputProblem


def test_the_scores_of_a_million_pairs_need_the_memory_of_a_chunk(tiny_artefact, monkeypatch):
    monkeypatch.setattr(pairs, "GALLERY", 64)
    monkeypatch.setattr("bench.result.ROUNDS", 2)
    result = pairs.bench_pairs(str(tiny_artefact))
    assert result.reach == 0.9
    assert result.ratio > 0
    assert result.details["pairs_per_second"] > 0
    features = 1e6 * 4 * load_artefact(tiny_artefact).description.embedder.dimension / 2**20
    # The scores themselves are 3.8 MiB.
    assert result.details["peak_mib_of_a_million_pairs"] < min(40.0, features / 2)


def test_an_artefact_without_m_net_has_no_pairs_to_score(cosine_artefact):
    with pytest.raises(InputProblem, match="M-Net"):
        pairs.bench_pairs(str(cosine_artefact))
