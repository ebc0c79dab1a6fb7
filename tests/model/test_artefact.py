"""The artefact: a written file is read back, and everything else is one clear error."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gmn
from model import openvino_graph
from model.artefact import (
    HEADER_KEY,
    _fingerprints,
    load_artefact,
    resolve_artefact,
)
from model.embedder import Embedder
from model.metric_network import score_pairs
from model.preprocessing import drawn_patterns
from model.problems import ArtefactProblem
from model.runtimes import OpenVinoRuntime
from tests.artefact_files import read_parts, without_graph, write_parts
from training.datasets.registry import read_dataset
from training.evaluation.embedding import embed_records
from training.evaluation.files import save_artefact
from training.provenance import TrainingFingerprints


@pytest.fixture
def artefact(tiny_artefact):
    return load_artefact(tiny_artefact)


@pytest.fixture
def no_graph(monkeypatch):
    """Let artefacts be saved without their graph, whose conversion takes seconds."""

    def unsupported(*_):
        raise NotImplementedError("aten::mine")

    monkeypatch.setattr(openvino_graph, "openvino_graph", unsupported)


def add_graph(path):
    artefact = load_artefact(path)
    tensors = openvino_graph.graph_tensors(artefact.embedder, artefact.description.preprocessing)
    return artefact.save(path, tensors)


def save(path, artefact, **fields):
    """Save an artefact's networks with parts of its description replaced."""
    description = artefact.description.model_copy(update=fields)
    return save_artefact(path, description, artefact.embedder, artefact.metric_network)


def rewrite(source, target, **edit):
    header = json.loads(load_artefact(source).description.model_dump_json()) | edit
    save_file(load_file(source), target, metadata={HEADER_KEY: json.dumps(header)})


@pytest.mark.usefixtures("no_graph")
def test_what_was_saved_is_loaded_from_one_file_that_all_may_read(artefact, tmp_path):
    path = tmp_path / "copy.safetensors"
    before = os.umask(0o022)
    try:
        saved = save(path, artefact)
    finally:
        os.umask(before)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644
    loaded = load_artefact(path)
    crops = torch.rand(2, 3, 64, 32)
    assert loaded.description == saved
    assert torch.equal(loaded.embedder(crops), artefact.embedder(crops))
    assert not loaded.embedder.training
    assert not loaded.metric_network.training


@pytest.mark.usefixtures("no_graph")
def test_half_precision_halves_the_file_and_keeps_the_features(artefact, tmp_path):
    torch.manual_seed(0)
    embedder = Embedder(artefact.embedder.config).eval()
    path = tmp_path / "half.safetensors"
    save_artefact(path, artefact.description, embedder, artefact.metric_network)
    networks = (embedder, artefact.metric_network)
    whole = sum(
        4 * tensor.numel() for network in networks for tensor in network.state_dict().values()
    )
    assert path.stat().st_size < 0.6 * whole
    crops = torch.rand(2, 3, 64, 32)
    features = load_artefact(path).embedder(crops)
    assert torch.cosine_similarity(embedder(crops), features).min().item() > 0.999


@pytest.mark.usefixtures("no_graph")
def test_the_embedding_fingerprint_follows_embedder_and_preprocessing_alone(artefact, tmp_path):
    before = artefact.description
    path = tmp_path / "new.safetensors"
    taller = before.preprocessing.model_copy(update={"height": 96})
    reframed = save(path, artefact, preprocessing=taller)
    with torch.no_grad():
        artefact.metric_network.classifier[0].weight.add_(1.0)
    rescored = save(path, artefact)
    with torch.no_grad():
        artefact.embedder.neck.weight.add_(1.0)
    retrained = save(path, artefact)
    assert rescored.embedding_fingerprint == before.embedding_fingerprint
    assert rescored.artefact_fingerprint != before.artefact_fingerprint
    descriptions = (before, reframed, retrained)
    assert len({description.embedding_fingerprint for description in descriptions}) == 3


def flip_the_last_bit(tiny, path):
    content = bytearray(tiny.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)


def described(text):
    metadata = {HEADER_KEY: text}
    return lambda _, path: save_file({"weight": torch.zeros(3)}, path, metadata=metadata)


REFUSED = {
    "missing": (lambda *_: None, "no such file.*bundled"),
    "empty": (lambda _, path: path.touch(), r"file\.safetensors: not a readable artefact"),
    "cut in its header": (
        lambda tiny, path: path.write_bytes(tiny.read_bytes()[:100]),
        "not a readable artefact",
    ),
    "cut at its end": (
        lambda tiny, path: path.write_bytes(tiny.read_bytes()[:-10]),
        "not a readable artefact",
    ),
    "a pickle": (lambda _, path: torch.save({"a": 1}, path), "not a readable artefact"),
    "somebody else's": (
        lambda _, path: save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"}),
        "not an artefact of this project",
    ),
    "of another format": (
        lambda tiny, path: rewrite(tiny, path, format_version=99),
        "format 99, this program reads 1",
    ),
    "without a calibration": (
        lambda tiny, path: rewrite(tiny, path, calibration=None),
        "description is damaged",
    ),
    "described by half of a JSON object": (described("{"), "description is damaged"),
    "described by deep JSON": (described("[" * 100_000), "description is damaged"),
    "described by a long number": (
        described('{"format_version": ' + "9" * 5000),
        "description is damaged",
    ),
    "edited": (flip_the_last_bit, "fingerprint does not match"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_is_no_sound_artefact_is_refused(tiny_artefact, tmp_path, make, words):
    path = tmp_path / "file.safetensors"
    make(tiny_artefact, path)
    with pytest.raises(ArtefactProblem, match=words):
        load_artefact(path)


@pytest.mark.usefixtures("no_graph")
def test_a_missing_tensor_is_named(artefact, tmp_path):
    class Headless(torch.nn.Module):
        def state_dict(self):
            state = artefact.embedder.state_dict()
            return {name: state[name] for name in state if name != "neck.weight"}

    path = tmp_path / "headless.safetensors"
    save_artefact(path, artefact.description, Headless(), artefact.metric_network)
    with pytest.raises(ArtefactProblem, match=r"headless.*lacks the tensor embedder\.neck\.weight"):
        _ = load_artefact(path).embedder


def test_fields_of_other_versions_are_read_past_and_stay(tiny_artefact, tmp_path):
    header, tensors = read_parts(tiny_artefact)
    points = [{"score": 0.0, "log_ratio": -2.0}, {"score": 1.0, "log_ratio": 2.0}]
    header["calibration"]["scorings"]["cosine"]["isotonic"] = points
    fingerprints = _fingerprints(header, tensors)
    path = write_parts(tmp_path / "other.safetensors", header | fingerprints, tensors)
    other = load_artefact(path).description
    assert other.embedding_fingerprint == header["embedding_fingerprint"]
    assert other.artefact_fingerprint != header["artefact_fingerprint"]
    assert other.calibration == load_artefact(tiny_artefact).description.calibration
    assert add_graph(path).artefact_fingerprint == other.artefact_fingerprint
    header["embedder"]["unheard_of"] = 1
    write_parts(path, header | _fingerprints(header, tensors), tensors)
    with pytest.raises(ArtefactProblem, match="description is damaged"):
        load_artefact(path)


@pytest.mark.parametrize(
    ("name", "embedding", "whole", "has_reference"),
    [
        ("bundled", "71a6096288b9ee49", "", True),
        ("small", "0c26b242c1c3d669", "35b2bc6a6d7679c2", True),
        ("open", "6a2cbd2e6a48c320", "", False),
    ],
)
def test_the_features_and_thresholds_of_shipped_artefacts_are_as_released(
    name, embedding, whole, has_reference
):
    """Hold the features that galleries store, and the fingerprints that thresholds belong to."""
    shipped = load_artefact(resolve_artefact(name))
    description = shipped.description
    assert description.embedding_fingerprint.startswith(embedding)
    assert description.artefact_fingerprint.startswith(whole)
    shapes = {scoring.tail_shape for scoring in description.calibration.scorings.values()}
    assert None not in shapes
    if has_reference:
        assert shipped.reference.shape == (5052, 256)
        np.testing.assert_allclose(np.linalg.norm(shipped.reference, axis=1), 1.0, atol=1e-6)
    else:
        assert shipped.reference is None


@pytest.mark.parametrize("name", ["bundled", "small"])
def test_mnets_logit_is_positive_for_one_crop_twice_and_negative_for_strangers(name):
    shipped = load_artefact(resolve_artefact(name))
    records = read_dataset("synthetic:4,identities=6,domains=1,cameras=2,crops=1").records
    crops = [record for record in records if record.camera == records[0].camera]
    features = torch.from_numpy(
        embed_records(shipped.embedder, shipped.description.preprocessing, crops)
    )
    logits = score_pairs(shipped.require_metric_network(), features, features)
    same = torch.eye(len(crops), dtype=torch.bool)
    assert (logits[same] > 0).all()
    assert logits[~same].median() < 0
    zero = shipped.description.calibration.scorings["mnet"].probability(0.0)
    assert zero == pytest.approx(0.5, abs=0.06)


def test_an_artefact_without_m_net_that_ranks_by_it_is_refused(cosine_artefact, tmp_path):
    path = tmp_path / "claims.safetensors"
    rewrite(cosine_artefact, path, best="mnet")
    with pytest.raises(ArtefactProblem, match="damaged"):
        load_artefact(path)


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ArtefactProblem, match=r"smal: there is no.*known are bundled, open"):
        resolve_artefact("smal")


def test_an_artefact_may_be_named_in_the_home_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_artefact("~/site.safetensors") == tmp_path / "site.safetensors"


def test_an_artefact_without_fingerprints_of_its_training_crops_has_none():
    assert not len(TrainingFingerprints.of(load_artefact(resolve_artefact("open"))).crops)


def test_fingerprints_of_the_training_crops_travel_with_an_artefact(artefact, tmp_path):
    path = tmp_path / "new.safetensors"
    known = TrainingFingerprints(np.array([-3, 5]), np.array([7]))
    artefact.save(path, known.tensors())
    load_artefact(path).save(path, calibration=artefact.header["calibration"])
    found = TrainingFingerprints.of(load_artefact(path))
    assert (found.crops.tolist(), found.people.tolist()) == ([-3, 5], [7])


@pytest.mark.promise("changed-graph")
def test_a_graph_is_added_without_another_fingerprint(tiny_artefact, tmp_path, capsys):
    path = without_graph(tiny_artefact, tmp_path / "bare.safetensors")
    bare = load_artefact(path)
    assert "graph.xml" not in bare.tensors
    assert gmn.run(["artefact", "add-graph", str(path)]) == 0
    assert "has a graph" in capsys.readouterr().out
    whole = load_artefact(path)
    assert "graph.xml" in whole.tensors
    assert whole.description.artefact_fingerprint == bare.description.artefact_fingerprint
    assert whole.description.embedding_fingerprint == bare.description.embedding_fingerprint
    crops = drawn_patterns(whole.description.preprocessing)
    features = OpenVinoRuntime(whole, "float32").embed(crops)
    expected = OpenVinoRuntime(bare, "float32").embed(crops)
    np.testing.assert_allclose(features, expected, atol=1e-3)


@pytest.mark.promise("changed-graph")
@pytest.mark.parametrize("name", ["graph.xml", "graph.bin", "graph.probes"])
def test_a_changed_graph_does_not_match_its_fingerprint(tiny_artefact, tmp_path, name):
    header, tensors = read_parts(tiny_artefact)
    tensors[name].view(np.uint8).flat[0] ^= 1
    path = write_parts(tmp_path / "edited.safetensors", header, tensors)
    with pytest.raises(ArtefactProblem, match="fingerprint does not match"):
        load_artefact(path)


@pytest.mark.promise("changed-graph")
def test_a_graph_of_another_embedder_is_refused(tiny_artefact, tmp_path):
    """Two artefacts exchange their graphs, each with its fingerprint."""
    other = load_artefact(tiny_artefact)
    with torch.no_grad():
        other.embedder.neck.weight.mul_(2.0)
    path = tmp_path / "other.safetensors"
    save(path, other)
    others_header, others = read_parts(path)
    header, tensors = read_parts(tiny_artefact)
    header["graph_fingerprint"] = others_header["graph_fingerprint"]
    tensors |= {name: others[name] for name in others if name.startswith("graph.")}
    write_parts(path, header, tensors)
    with pytest.raises(ArtefactProblem, match="fingerprint does not match"):
        load_artefact(path)


@pytest.mark.usefixtures("no_graph")
def test_an_embedder_that_openvino_cannot_run_is_saved_without_a_graph(artefact, tmp_path, caplog):
    path = tmp_path / "plain.safetensors"
    save(path, artefact)
    assert "graph.xml" not in load_artefact(path).tensors
    assert "no graph for a service without PyTorch can be made" in caplog.text
    with pytest.raises(ArtefactProblem, match="aten::mine"):
        add_graph(path)


def test_equal_networks_are_saved_as_equal_files(artefact, tmp_path):
    files = [tmp_path / name for name in ("first.safetensors", "second.safetensors")]
    for file in files:
        save(file, artefact)
    first, second = (file.read_bytes() for file in files)
    assert first == second
