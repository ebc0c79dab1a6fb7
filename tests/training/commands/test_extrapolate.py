"""`gmn artefact extrapolate`, as it is typed, and the calibration that follows it."""

from pathlib import Path

import numpy as np
import pytest
import torch

import gmn
from model.artefact import Artefact, load_artefact, save_artefact
from model.openvino_runtime import OpenVinoRuntime
from model.probes import drawn_patterns
from model.provenance import TrainingFingerprints
from model.torch_runtime import TorchRuntime

PEOPLE = "synthetic:3,identities=12,domains=1,cameras=2,crops=2"
START_TERMS = "Free for all."
TRAINED_TERMS = "Research only."


def save(path: Path, source: Artefact, terms: str, training: TrainingFingerprints) -> Path:
    provenance = source.description.provenance.model_copy(update={"terms": terms})
    description = source.description.model_copy(update={"provenance": provenance})
    save_artefact(path, description, source.embedder, source.metric_network, training)
    return path


@pytest.fixture(scope="module")
def trained(tiny_artefact, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "trained.safetensors"
    known = TrainingFingerprints(np.array([-3, 5]), np.array([7]))
    return save(path, load_artefact(tiny_artefact), TRAINED_TERMS, known)


@pytest.fixture(scope="module")
def start(tiny_artefact, tmp_path_factory) -> Path:
    """Weights that the trained ones may have begun from: all a tenth away."""
    whole = load_artefact(tiny_artefact)
    with torch.no_grad():
        for name, weights in whole.embedder.state_dict().items():
            if weights.is_floating_point():
                weights.mul_(0.9 if not name.endswith("running_var") else 1.05)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    return save(path, whole, START_TERMS, TrainingFingerprints(np.array([11])))


def extrapolate(start: Path, trained: Path, alpha: float, out: Path) -> int:
    files = (str(start), str(trained), "--alpha", str(alpha), "--out", str(out))
    return gmn.run(["artefact", "extrapolate", *files])


@pytest.mark.parametrize(("alpha", "end"), [(0.0, "start"), (1.0, "trained")])
def test_the_ends_of_the_way_are_the_start_and_the_training(
    start, trained, tmp_path, alpha, end
) -> None:
    out = tmp_path / "end.safetensors"
    assert extrapolate(start, trained, alpha, out) == 0
    expected = {"start": start, "trained": trained}[end]
    found = load_artefact(out).embedder.state_dict()
    for name, weights in load_artefact(expected).embedder.state_dict().items():
        # Matrices are stored in float16.
        torch.testing.assert_close(found[name], weights, rtol=1e-3, atol=1e-6)


def test_weights_and_statistics_lie_a_quarter_beyond_the_training(start, trained, tmp_path) -> None:
    out = tmp_path / "beyond.safetensors"
    assert extrapolate(start, trained, 1.25, out) == 0
    first, last, beyond = (
        load_artefact(path).embedder.state_dict() for path in (start, trained, out)
    )
    assert any(name.endswith("running_mean") for name in beyond)
    for name, weights in beyond.items():
        if weights.is_floating_point():
            expected = first[name] + 1.25 * (last[name] - first[name])
            torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-6)


def test_the_new_artefact_tells_where_it_comes_from(start, trained, tmp_path, capsys) -> None:
    out = tmp_path / "beyond.safetensors"
    extrapolate(start, trained, 1.25, out)
    assert "until gmn calibrate" in capsys.readouterr().out
    made = load_artefact(out)
    provenance = made.description.provenance
    assert [source.name for source in provenance.sources[:2]] == [
        "trained.safetensors",
        "start.safetensors",
    ]
    assert provenance.terms == f"{TRAINED_TERMS} {START_TERMS}"
    assert provenance.data == load_artefact(trained).description.provenance.data
    assert provenance.metrics == {}
    assert made.training.crops.tolist() == [-3, 5, 11]
    assert made.training.people.tolist() == [7]


def test_its_graph_computes_the_new_weights(start, trained, tmp_path) -> None:
    out = tmp_path / "beyond.safetensors"
    extrapolate(start, trained, 1.25, out)
    made = load_artefact(out)
    assert made.has_graph
    crops = drawn_patterns(made.description.preprocessing)
    ours = OpenVinoRuntime(made, "float32").embed(crops)
    theirs = TorchRuntime(made, "float32", "cpu").embed(crops)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_calibration_gives_it_thresholds_and_figures_of_its_own(
    start, trained, tmp_path, capsys
) -> None:
    out = tmp_path / "beyond.safetensors"
    extrapolate(start, trained, 1.25, out)
    before = load_artefact(out).description
    assert gmn.run(["calibrate", str(out), "--data", PEOPLE]) == 0
    after = load_artefact(out).description
    assert after.embedding_fingerprint == before.embedding_fingerprint
    assert after.calibration.data == "identities of synthetic"
    figures = after.provenance.metrics["synthetic"]
    assert figures["identities"] == 12
    assert 0.0 < figures["cosine"]["mAP"][0] <= 1.0
    assert gmn.run(["model-card", str(out)]) == 0
    assert "| synthetic | 12 | 24 | cosine |" in capsys.readouterr().out


def test_another_calibration_keeps_the_figures(start, trained, tmp_path) -> None:
    out = tmp_path / "beyond.safetensors"
    extrapolate(start, trained, 1.25, out)
    assert gmn.run(["calibrate", str(out), "--data", PEOPLE]) == 0
    first = load_artefact(out).description
    others = "synthetic:4,identities=12,domains=1,cameras=2,crops=2"
    assert gmn.run(["calibrate", str(out), "--data", others]) == 0
    second = load_artefact(out).description
    assert second.calibration != first.calibration
    assert second.provenance == first.provenance


def test_artefacts_of_two_networks_are_refused(trained, tmp_path, capsys) -> None:
    out = tmp_path / "beyond.safetensors"
    assert extrapolate("open", trained, 1.25, out) != 0
    error = capsys.readouterr().err
    assert "open.safetensors: its embedder is another than that of" in error
    assert "name the artefact that the training began from" in error
    assert not out.exists()


def test_artefacts_of_two_inputs_are_refused(trained, tmp_path, capsys) -> None:
    whole = load_artefact(trained)
    taller = whole.description.preprocessing.model_copy(update={"height": 96})
    other = tmp_path / "taller.safetensors"
    description = whole.description.model_copy(update={"preprocessing": taller})
    save_artefact(other, description, whole.embedder, whole.metric_network)
    assert extrapolate(other, trained, 1.25, tmp_path / "beyond.safetensors") != 0
    assert "its preprocessing is another" in capsys.readouterr().err


def test_a_variance_that_would_be_negative_is_named(trained, tmp_path, capsys) -> None:
    whole = load_artefact(trained)
    with torch.no_grad():
        whole.embedder.neck.running_var.mul_(10.0)
    wide = save(tmp_path / "wide.safetensors", whole, START_TERMS, TrainingFingerprints())
    out = tmp_path / "beyond.safetensors"
    assert extrapolate(wide, trained, 1.25, out) != 0
    assert "neck.running_var would be 0 or less; choose a smaller one" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("alpha", [-0.1, 2.1])
def test_an_alpha_out_of_its_range_is_refused(start, trained, tmp_path, alpha) -> None:
    out = tmp_path / "beyond.safetensors"
    assert extrapolate(start, trained, alpha, out) != 0
    assert not out.exists()
