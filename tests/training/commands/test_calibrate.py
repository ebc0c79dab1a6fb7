"""`gmn calibrate`, as it is typed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from model.artefact import load_artefact, replace_calibration
from model.metric_network import score_pairs
from model.problems import InputProblem
from training.commands.artefacts import calibrate

PEOPLE = "synthetic:3,identities=12,domains=1,cameras=2,crops=2"


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    single = typer.Typer(pretty_exceptions_enable=False)
    single.command()(calibrate)
    return single


def run(app: typer.Typer, *arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_new_operating_points_are_written_and_the_embedder_stays(
    app, tiny_artefact, tmp_path
) -> None:
    out = tmp_path / "new" / "mine.safetensors"
    answer = run(app, tiny_artefact, "--data", PEOPLE, "--out", out)
    assert answer.exit_code == 0, answer.output
    assert "calibrated on identities of synthetic" in answer.stdout
    old, new = (load_artefact(path).description for path in (tiny_artefact, out))
    assert new.embedding_fingerprint == old.embedding_fingerprint
    assert new.artefact_fingerprint != old.artefact_fingerprint
    assert new.calibration.genuine_pairs == 48
    assert new.calibration.scorings != old.calibration.scorings


def test_without_out_the_artefact_itself_is_replaced(app, tiny_artefact, tmp_path) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(Path(tiny_artefact).read_bytes())
    answer = run(app, own, "--data", PEOPLE, "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["data"] == "identities of synthetic"
    assert load_artefact(own).description.calibration.data == "identities of synthetic"
    assert [path.name for path in tmp_path.iterdir()] == ["own.safetensors"]


def test_the_bundled_artefact_is_not_overwritten(app) -> None:
    with pytest.raises(InputProblem, match="stays as it ships; name a file with --out"):
        CliRunner().invoke(app, ["bundled", "--data", PEOPLE], catch_exceptions=False)


def test_an_artefact_without_a_metric_network_is_calibrated_for_cosine_alone(
    app, cosine_artefact, tmp_path
) -> None:
    out = tmp_path / "mine.safetensors"
    answer = run(app, cosine_artefact, "--data", PEOPLE, "--out", out)
    assert answer.exit_code == 0, answer.output
    calibration = load_artefact(out).description.calibration
    assert list(calibration.scorings) == ["cosine"]
    assert calibration.genuine_pairs == 48


def test_a_constant_in_mnets_scores_is_gone_and_changes_neither_order_nor_probability(
    app, tiny_artefact, tmp_path
) -> None:
    """The logit of a pair is 0 at equal error, wherever training left it."""
    far = load_artefact(tiny_artefact)
    far.require_metric_network().move_scores(-450.0)
    moved = tmp_path / "moved.safetensors"
    replace_calibration(tiny_artefact, moved, far.description.calibration, far.metric_network)
    assert run(app, moved, "--data", PEOPLE).exit_code == 0
    out = tmp_path / "plain.safetensors"
    assert run(app, tiny_artefact, "--data", PEOPLE, "--out", out).exit_code == 0

    features = torch.randn(40, far.description.embedder.dimension)
    artefacts = [load_artefact(path) for path in (tiny_artefact, out, moved)]
    before, plain, again = (
        score_pairs(artefact.require_metric_network(), features, features).numpy()
        for artefact in artefacts
    )
    assert again == pytest.approx(plain, abs=1e-4)
    # One number is taken from every score.
    assert before - plain == pytest.approx(np.full(plain.shape, (before - plain).mean()), abs=1e-4)
    ours, theirs = (artefact.description.calibration.scorings["mnet"] for artefact in artefacts[1:])
    for far_rate in (1e-1, 1e-2, 1e-3):
        asked = far_rate, 20
        assert ours.search_threshold(*asked) == pytest.approx(
            theirs.search_threshold(*asked), abs=1e-3
        )
    assert ours.probability(0.3) == pytest.approx(theirs.probability(0.3), abs=1e-4)
    assert artefacts[1].description.calibration.scorings["mnet"].probability(0.0) == pytest.approx(
        0.5, abs=0.2
    )
