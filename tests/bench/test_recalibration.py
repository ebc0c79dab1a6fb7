"""Methods of re-calibration side by side, and the document that shows what they obtained."""

import json
from pathlib import Path

import numpy as np
import pytest

from bench import recalibration
from bench.recalibration import ALONE, CHOSEN, METHODS, SHOWN, markdown
from model.artefact import load_artefact

ROOT = Path(__file__).parents[2]
PEOPLE = 60


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


def test_every_method_is_measured_on_the_same_searches(
    features, tiny_artefact, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(recalibration, "TRIALS", 2)
    out = tmp_path / "found.json"
    recalibration.main([f"{tiny_artefact}={features}"], out, [60, 5_000])
    found = json.loads(out.read_text())
    (result,) = found["results"]
    assert (result["features"], result["gallery"]) == ("street", 60)
    for scoring in ("cosine", "mnet", "fused"):
        assert list(result["scorings"][scoring]) == [*METHODS, ALONE, CHOSEN]
        for figures in result["scorings"][scoring].values():
            rate, low, high = figures["obtained"]
            assert 0.0 <= low <= rate <= high <= 1.0
            assert 0.0 <= figures["detected"] <= 1.0
    assert "| recalibrate |" in capsys.readouterr().out


@pytest.mark.parametrize("scoring", SHOWN)
def test_the_document_shows_the_stored_figures(scoring) -> None:
    stored = ROOT / "docs" / "figures" / "open_set" / "recalibration.json"
    table = markdown(json.loads(stored.read_text())["results"], scoring)
    assert table in (ROOT / "docs" / "calibration.md").read_text(encoding="utf-8")
