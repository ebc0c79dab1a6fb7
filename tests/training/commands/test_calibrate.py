"""`gmn calibrate`, as it is typed."""

import json

import numpy as np
import pytest
import torch

from model.artefact import load_artefact
from model.metric_network import score_pairs
from model.weights import stored_tensors
from tests.training.runs import run_here

PEOPLE = "synthetic:3,identities=12,domains=1,cameras=2,crops=2"


def test_new_operating_points_are_written_and_the_embedder_stays(fast_artefact, tmp_path):
    out = tmp_path / "new" / "mine.safetensors"
    ran = run_here("calibrate", fast_artefact, "--data", PEOPLE, "--out", out)
    assert ran.status == 0, ran.err
    assert "calibrated on identities of synthetic" in ran.out
    old, new = (load_artefact(path).description for path in (fast_artefact, out))
    assert new.embedding_fingerprint == old.embedding_fingerprint
    assert new.artefact_fingerprint != old.artefact_fingerprint
    assert new.calibration.genuine_pairs == 48
    assert new.calibration.scorings != old.calibration.scorings


def test_without_out_an_artefact_of_ones_own_is_replaced(cosine_artefact, tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(cosine_artefact.read_bytes())
    ran = run_here("calibrate", own, "--data", PEOPLE, "--json")
    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["data"] == "identities of synthetic"
    calibration = load_artefact(own).description.calibration
    assert calibration.data == "identities of synthetic"
    assert list(calibration.scorings) == ["cosine"]
    assert [path.name for path in tmp_path.iterdir()] == ["own.safetensors"]
    shipped = run_here("calibrate", "bundled", "--data", PEOPLE)
    assert "ships with the program; name another file with --out" in shipped.err


def test_a_constant_in_mnets_scores_is_gone_and_changes_neither_order_nor_probability(
    fast_artefact, tmp_path
):
    """The logit of a pair is 0 at equal error, wherever training left it."""
    far = load_artefact(fast_artefact)
    with torch.no_grad():
        far.require_metric_network().classifier[-1].bias.add_(torch.tensor([225.0, -225.0]))
    moved = tmp_path / "moved.safetensors"
    far.save(moved, stored_tensors("metric_network", far.metric_network))
    assert run_here("calibrate", moved, "--data", PEOPLE).status == 0
    out = tmp_path / "plain.safetensors"
    assert run_here("calibrate", fast_artefact, "--data", PEOPLE, "--out", out).status == 0

    features = torch.randn(40, far.description.embedder.dimension)
    artefacts = [load_artefact(path) for path in (fast_artefact, out, moved)]
    before, plain, again = (
        score_pairs(artefact.require_metric_network(), features, features).numpy()
        for artefact in artefacts
    )
    assert again == pytest.approx(plain, abs=1e-4)
    # One number is taken from every score.
    assert before - plain == pytest.approx(np.full(plain.shape, (before - plain).mean()), abs=1e-4)
    ours, theirs = (artefact.description.calibration.scorings["mnet"] for artefact in artefacts[1:])
    for far_rate in (1e-1, 1e-3):
        assert ours.search_threshold(far_rate, 20) == pytest.approx(
            theirs.search_threshold(far_rate, 20), abs=1e-3
        )
    assert ours.probability(0.3) == pytest.approx(theirs.probability(0.3), abs=1e-4)
    assert ours.probability(0.0) == pytest.approx(0.5, abs=0.2)
