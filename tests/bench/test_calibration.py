"""Thresholds measured on stored features, and the document that shows the figures."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import calibration
from bench.calibration import calibration_error, markdown, summaries, summary
from bench.search_draws import Plan
from model.artefact import load_artefact

ROOT = Path(__file__).parents[2]
STORED = ROOT / "docs" / "figures" / "open_set" / "calibration.json"
PEOPLE = 100


@pytest.fixture(scope="module")
def features(tiny_artefact, tmp_path_factory) -> Path:
    random = np.random.default_rng(0)
    dimension = load_artefact(tiny_artefact).embedder.config.dimension
    who = random.normal(size=(PEOPLE, 1, 1, dimension))
    crops = who + 0.7 * random.normal(size=(PEOPLE, 2, 2, dimension))
    path = tmp_path_factory.mktemp("features") / "street.npz"
    np.savez(
        path,
        features=crops.reshape(-1, dimension).astype(np.float32),
        identities=np.repeat([f"{number:03}" for number in range(PEOPLE)], 4),
        cameras=np.tile(np.repeat(["a", "b"], 2), PEOPLE),
    )
    return path


def test_every_scoring_and_mix_is_a_row(features, tiny_artefact, tmp_path, capsys, monkeypatch):
    plans = (Plan(30, 30), Plan(40, 30, crops=1), Plan(30, 30, 1.0))
    monkeypatch.setattr(calibration, "PLANS", plans)
    monkeypatch.setattr(calibration, "NUMBERS", (20,))
    monkeypatch.setattr(calibration.measure, "__defaults__", (calibration.PLANS, 2))
    out = tmp_path / "found.json"

    calibration.main([f"{features}={tiny_artefact}"], out)

    rows = json.loads(out.read_text())
    seen = {(row["scoring"], row["mix"], row["gallery"]) for row in rows}
    assert len(seen) == len(rows) == 3 * (4 + 4 + 3)
    # Without names there are no thresholds of a gallery's own before it is searched.
    assert not [row for row in rows if row["mix"] == "none" and "unnamed" in row["gallery"]]
    for row in rows:
        rate, low, high = row["obtained"]
        assert 0.0 <= low <= rate <= high <= 1.0
        assert 0.0 <= row["found"] <= 1.0
        assert row["rare"] <= rate
    assert "30, unnamed" in capsys.readouterr().out


def test_a_calibration_error_is_that_of_either_kind_weighing_one_half():
    assert calibration_error(np.ones(10), np.zeros(1000)) == 0.0
    assert calibration_error(np.full(10, 0.5), np.full(1000, 0.5)) == pytest.approx(0.0)
    assert calibration_error(np.full(10, 0.95), np.full(1000, 0.95)) == pytest.approx(0.45)


def test_a_cell_holds_where_its_interval_reaches_into_the_range():
    row = {"found": 0.3, "best": 0.3}
    rows = [
        row | {"obtained": [0.01, 0.005, 0.02]},
        row | {"obtained": [0.003, 0.001, 0.005]},
        row | {"obtained": [0.03, 0.026, 0.04], "found": 0.1},
    ]

    found = summary(rows)

    assert (found["cells"], found["within"], found["touching"]) == (3, 1, 2)
    assert (found["found_within_a_fifth"], found["worth_finding"]) == (2, 3)


def test_the_document_shows_the_stored_figures():
    document = (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
    rows = json.loads(STORED.read_text(encoding="utf-8"))
    assert summaries(rows) in document
    # The cells of one set; those of the others are in the file.
    shown = [row for row in rows if row["features"] == "bundled-c1c2"]
    assert markdown(shown, "cosine") in document
