"""`gmn artefact extrapolate`, as it is typed, and the calibration that follows it."""

import numpy as np
import pytest
import torch

from model.artefact import load_artefact
from model.preprocessing import drawn_patterns
from model.runtimes import OpenVinoRuntime
from model.torch_runtime import TorchRuntime
from tests.training.runs import run_here
from training.evaluation.files import save_artefact
from training.provenance import TrainingFingerprints

START_TERMS = "Free for all."
TRAINED_TERMS = "Research only."


def save(path, source, terms, training):
    provenance = source.description.provenance.model_copy(update={"terms": terms})
    description = source.description.model_copy(update={"provenance": provenance})
    save_artefact(path, description, source.embedder, source.metric_network, training.tensors())
    return path


@pytest.fixture(scope="module")
def trained(fast_artefact, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "trained.safetensors"
    known = TrainingFingerprints(np.array([-3, 5]), np.array([7]))
    return save(path, load_artefact(fast_artefact), TRAINED_TERMS, known)


@pytest.fixture(scope="module")
def start(fast_artefact, tmp_path_factory):
    """Weights that the trained ones may have begun from: all a tenth away."""
    whole = load_artefact(fast_artefact)
    with torch.no_grad():
        for name, weights in whole.embedder.state_dict().items():
            if weights.is_floating_point():
                weights.mul_(0.9 if not name.endswith("running_var") else 1.05)
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    return save(path, whole, START_TERMS, TrainingFingerprints(np.array([11])))


def extrapolate(start, trained, alpha, out):
    return run_here("artefact", "extrapolate", start, trained, "--alpha", alpha, "--out", out)


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.25])
def test_weights_and_statistics_lie_on_the_line_through_start_and_training(
    start, trained, tmp_path, alpha
):
    out = tmp_path / "made.safetensors"
    assert extrapolate(start, trained, alpha, out).status == 0
    first, last, made = (
        load_artefact(path).embedder.state_dict() for path in (start, trained, out)
    )
    assert any(name.endswith("running_mean") for name in made)
    for name, weights in made.items():
        if weights.is_floating_point():
            expected = first[name] + alpha * (last[name] - first[name])
            # Matrices are stored in float16.
            torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-6)


def test_the_new_artefact_tells_where_it_comes_from_and_its_graph_has_the_new_weights(
    start, trained, tmp_path
):
    out = tmp_path / "beyond.safetensors"
    assert "until gmn calibrate" in extrapolate(start, trained, 1.25, out).out
    made = load_artefact(out)
    provenance = made.description.provenance
    assert [source.name for source in provenance.sources[:2]] == [
        "trained.safetensors",
        "start.safetensors",
    ]
    assert provenance.terms == f"{TRAINED_TERMS} {START_TERMS}"
    assert provenance.data == load_artefact(trained).description.provenance.data
    assert provenance.metrics == {}
    assert TrainingFingerprints.of(made).crops.tolist() == [-3, 5, 11]
    assert TrainingFingerprints.of(made).people.tolist() == [7]
    assert "graph.xml" in made.tensors
    crops = drawn_patterns(made.description.preprocessing)
    ours = OpenVinoRuntime(made, "float32").embed(crops)
    theirs = TorchRuntime(made, "float32", "cpu").embed(crops)
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)


def test_a_calibration_gives_it_thresholds_and_figures_and_another_keeps_the_figures(
    start, trained, tmp_path
):
    out = tmp_path / "beyond.safetensors"
    extrapolate(start, trained, 1.25, out)
    described = [load_artefact(out).description]
    for seed in (3, 4):
        people = f"synthetic:{seed},identities=12,domains=1,cameras=2,crops=2"
        assert run_here("calibrate", out, "--data", people).status == 0
        described.append(load_artefact(out).description)
    before, first, second = described
    assert first.embedding_fingerprint == before.embedding_fingerprint
    assert first.calibration.data == "identities of synthetic"
    figures = first.provenance.metrics["synthetic"]
    assert figures["identities"] == 12
    assert 0.0 < figures["cosine"]["mAP"][0] <= 1.0
    assert "| synthetic | 12 | 24 | cosine |" in run_here("model-card", out).out
    assert second.calibration != first.calibration
    assert second.provenance == first.provenance


def test_what_cannot_be_extrapolated_is_refused_with_the_remedy(trained, tmp_path):
    whole = load_artefact(trained)
    preprocessing = whole.description.preprocessing.model_copy(update={"height": 96})
    taller = whole.description.model_copy(update={"preprocessing": preprocessing})
    save_artefact(tmp_path / "taller", taller, whole.embedder, whole.metric_network)
    with torch.no_grad():
        whole.embedder.neck.running_var.mul_(10.0)
    wide = save(tmp_path / "wide", whole, START_TERMS, TrainingFingerprints())
    out = tmp_path / "beyond.safetensors"
    for start, alpha, message in (
        ("open", 1.25, "open.safetensors: its embedder differs from that of"),
        ("open", 1.25, "name the artefact that the training began from"),
        (tmp_path / "taller", 1.25, "its preprocessing differs"),
        (wide, 1.25, "neck.running_var would be 0 or less; choose a smaller one"),
        (trained, -0.1, "--alpha"),
        (trained, 2.1, "--alpha"),
    ):
        ran = extrapolate(start, trained, alpha, out)
        assert ran.status != 0
        assert message in ran.err
        assert not out.exists()
