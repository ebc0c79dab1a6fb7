"""A twin's figures go into the artefact it is a twin of, and no other report's."""

from __future__ import annotations

import pytest

from bench.twins import unseen_figures
from model.artefact import add_metrics, load_artefact
from model.problems import InputProblem

FIGURE = {"mean": 0.55, "low": 0.525, "high": 0.57304}


def _report(**recipe):
    return {
        "provenance": {
            "recipe": {"name": "twin", "seed": 0, "losses": {"gmn": 1.0}, **recipe},
            "data": [{"name": "roof"}],
        },
        "datasets": [
            {
                "name": "lobby",
                "protocol": "camera A queries camera B",
                "queries": 10,
                "gallery": 20,
                "identities": 10,
                "scorings": {"cosine": {"metrics": {"mAP": FIGURE}}},
            }
        ],
    }


RECIPE = {"name": "bundled", "seed": 0, "losses": {"gmn": 1.0}}


def test_a_twins_figures_are_kept_under_the_domain_it_never_saw():
    (name, figures), *_ = unseen_figures(_report(), RECIPE).items()
    assert name == "lobby, left out of a twin"
    assert figures["cosine"]["mAP"] == [0.55, 0.525, 0.573]
    assert (figures["queries"], figures["gallery"]) == (10, 20)


def test_a_model_of_another_recipe_is_no_twin():
    with pytest.raises(InputProblem, match="losses"):
        unseen_figures(_report(losses={"gmn": 0.0}), RECIPE)


def test_a_domain_of_the_twins_own_training_is_not_unseen():
    report = _report()
    report["provenance"]["data"].append({"name": "lobby"})
    with pytest.raises(InputProblem, match="trained on lobby"):
        unseen_figures(report, RECIPE)


def test_added_figures_leave_the_embedder_as_it_was(tiny_artefact, tmp_path):
    before = load_artefact(tiny_artefact).description
    copy = tmp_path / "copy.safetensors"
    add_metrics(tiny_artefact, copy, {"lobby": {"mAP": 0.5}})
    after = load_artefact(copy).description
    assert after.provenance.metrics == {**before.provenance.metrics, "lobby": {"mAP": 0.5}}
    assert after.embedding_fingerprint == before.embedding_fingerprint
    assert after.artefact_fingerprint != before.artefact_fingerprint
