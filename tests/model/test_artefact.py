"""The artefact: a written file is read back, and everything else is one clear error."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import gmn
from model import openvino_graph
from model.artefact import (
    HEADER_KEY,
    Artefact,
    Description,
    _fingerprints,
    load_artefact,
    read_description,
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
def artefact(tiny_artefact: Path) -> Artefact:
    return load_artefact(tiny_artefact)


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let artefacts be saved without their graph, whose conversion takes seconds."""

    def unsupported(*_: object) -> None:
        raise NotImplementedError("aten::mine")

    monkeypatch.setattr(openvino_graph, "openvino_graph", unsupported)


def add_graph(path: Path) -> Description:
    artefact = load_artefact(path)
    tensors = openvino_graph.graph_tensors(artefact.embedder, artefact.description.preprocessing)
    return artefact.save(path, tensors)


def rewrite(source: Path, target: Path, edit: dict[str, object]) -> None:
    """Copies an artefact with parts of its header replaced."""
    header = json.loads(load_artefact(source).description.model_dump_json()) | edit
    save_file(load_file(source), target, metadata={HEADER_KEY: json.dumps(header)})


def test_what_was_saved_is_loaded(artefact: Artefact, tmp_path: Path) -> None:
    path = tmp_path / "copy.safetensors"
    saved = save_artefact(path, artefact.description, artefact.embedder, artefact.metric_network)
    loaded = load_artefact(path)
    crops = torch.rand(2, 3, 64, 32)
    assert loaded.description == saved
    assert torch.equal(loaded.embedder(crops), artefact.embedder(crops))
    assert not loaded.embedder.training
    assert not loaded.metric_network.training


@pytest.mark.usefixtures("no_graph")
def test_half_precision_halves_the_file_and_keeps_the_features(
    artefact: Artefact, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    embedder = Embedder(artefact.embedder.config).eval()
    file = tmp_path / "half.safetensors"
    save_artefact(file, artefact.description, embedder, artefact.metric_network)
    networks = (embedder, artefact.metric_network)
    whole = sum(
        4 * tensor.numel() for network in networks for tensor in network.state_dict().values()
    )
    stored = load_artefact(file).tensors
    weights = sum(stored[name].nbytes for name in stored if not name.startswith("graph."))
    assert weights < 0.6 * whole
    crops = torch.rand(2, 3, 64, 32)
    one = embedder(crops)
    other = load_artefact(file).embedder(crops)
    assert torch.cosine_similarity(one, other).min().item() > 0.999


@pytest.mark.usefixtures("no_graph")
def test_a_new_metric_network_keeps_the_embedding_fingerprint(
    artefact: Artefact, tmp_path: Path
) -> None:
    with torch.no_grad():
        artefact.metric_network.classifier[0].weight.add_(1.0)
    before = artefact.description
    after = save_artefact(
        tmp_path / "new.safetensors", before, artefact.embedder, artefact.metric_network
    )
    assert after.embedding_fingerprint == before.embedding_fingerprint
    assert after.artefact_fingerprint != before.artefact_fingerprint


@pytest.mark.usefixtures("no_graph")
def test_a_new_embedder_or_preprocessing_changes_the_embedding_fingerprint(
    artefact: Artefact, tmp_path: Path
) -> None:
    before = artefact.description
    path = tmp_path / "new.safetensors"
    taller = before.preprocessing.model_copy(update={"height": 96})
    reframed = save_artefact(
        path,
        before.model_copy(update={"preprocessing": taller}),
        artefact.embedder,
        artefact.metric_network,
    )
    with torch.no_grad():
        artefact.embedder.neck.weight.add_(1.0)
    retrained = save_artefact(path, before, artefact.embedder, artefact.metric_network)
    fingerprints = {
        description.embedding_fingerprint for description in (before, reframed, retrained)
    }
    assert len(fingerprints) == 3


def test_a_missing_file_is_refused_with_the_word_that_always_works(tmp_path: Path) -> None:
    with pytest.raises(ArtefactProblem, match=r"no such file.*bundled"):
        load_artefact(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("kept", [0, 7, 100, 5000, -10])
def test_a_truncated_file_is_refused(tiny_artefact: Path, tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(tiny_artefact.read_bytes()[:kept])
    with pytest.raises(ArtefactProblem, match=r"cut\.safetensors: not a readable artefact"):
        load_artefact(path)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(ArtefactProblem, match="not a readable artefact"):
        load_artefact(path)


def test_somebody_elses_safetensors_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(ArtefactProblem, match="not an artefact of this project"):
        load_artefact(path)


def test_another_format_version_is_refused_by_number(tiny_artefact: Path, tmp_path: Path) -> None:
    path = tmp_path / "newer.safetensors"
    rewrite(tiny_artefact, path, {"format_version": 99})
    with pytest.raises(ArtefactProblem, match="format 99, this program reads 1"):
        load_artefact(path)


def test_a_missing_description_is_refused(tiny_artefact: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.safetensors"
    rewrite(tiny_artefact, path, {"calibration": None})
    with pytest.raises(ArtefactProblem, match="description is damaged"):
        load_artefact(path)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"format_version": ' + "9" * 5000])
def test_a_description_that_cannot_be_parsed_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.safetensors"
    save_file({"weight": torch.zeros(3)}, path, metadata={HEADER_KEY: text})
    with pytest.raises(ArtefactProblem, match="its description is damaged"):
        load_artefact(path)


def test_a_missing_tensor_is_named(
    artefact: Artefact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Headless(torch.nn.Module):
        def state_dict(self) -> dict[str, torch.Tensor]:  # type: ignore[override]
            state = artefact.embedder.state_dict()
            return {name: state[name] for name in state if name != "neck.weight"}

    path = tmp_path / "headless.safetensors"
    save_artefact(path, artefact.description, Headless(), artefact.metric_network)  # type: ignore[arg-type]
    headless = load_artefact(path)
    with pytest.raises(ArtefactProblem, match=r"headless.*lacks the tensor embedder\.neck\.weight"):
        _ = headless.embedder
    assert "graph.xml" not in headless.tensors


def test_an_edited_file_does_not_match_its_fingerprint(tiny_artefact: Path, tmp_path: Path) -> None:
    path = tmp_path / "edited.safetensors"
    content = bytearray(tiny_artefact.read_bytes())
    content[-1] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(ArtefactProblem, match="fingerprint does not match"):
        load_artefact(path)


def test_fields_of_other_versions_are_read_past_and_stay(
    tiny_artefact: Path, tmp_path: Path
) -> None:
    header, tensors = read_parts(tiny_artefact)
    points = [{"score": 0.0, "log_ratio": -2.0}, {"score": 1.0, "log_ratio": 2.0}]
    header["calibration"]["scorings"]["cosine"]["isotonic"] = points
    fingerprints = _fingerprints(header, tensors)
    path = write_parts(tmp_path / "older.safetensors", header | fingerprints, tensors)
    older = load_artefact(path).description
    assert older.embedding_fingerprint == header["embedding_fingerprint"]
    assert older.artefact_fingerprint != header["artefact_fingerprint"]
    assert older.calibration == load_artefact(tiny_artefact).description.calibration
    assert add_graph(path).artefact_fingerprint == older.artefact_fingerprint
    header["embedder"]["unheard_of"] = 1
    write_parts(path, header | _fingerprints(header, tensors), tensors)
    with pytest.raises(ArtefactProblem, match="description is damaged"):
        load_artefact(path)


@pytest.mark.usefixtures("no_graph")
def test_saving_leaves_no_half_written_file(artefact: Artefact, tmp_path: Path) -> None:
    save_artefact(
        tmp_path / "only.safetensors",
        artefact.description,
        artefact.embedder,
        artefact.metric_network,
    )
    assert [path.name for path in tmp_path.iterdir()] == ["only.safetensors"]


def test_the_description_says_what_it_was_trained_on(artefact: Artefact) -> None:
    assert isinstance(artefact.description, Description)
    assert artefact.description.provenance.terms


@pytest.mark.parametrize(
    ("name", "embedding"),
    [
        ("bundled@1", "835a38390b14e98e"),
        ("bundled@2", "6d9c4b425a5702b2"),
        ("bundled", "3115a47e02b31f40"),
        ("small", "b9bc8afab173d5b5"),
        ("open", "6a2cbd2e6a48c320"),
    ],
)
def test_galleries_of_released_versions_stay_valid(name: str, embedding: str) -> None:
    """Hold the features of the artefacts that shipped; their calibrations may be made anew."""
    description = load_artefact(resolve_artefact(name)).description
    assert description.embedding_fingerprint.startswith(embedding)
    shapes = {scoring.tail_shape for scoring in description.calibration.scorings.values()}
    assert None not in shapes


@pytest.mark.parametrize("name", ["bundled", "small"])
def test_an_artefact_whose_training_people_are_known_has_a_reference(name: str) -> None:
    reference = load_artefact(resolve_artefact(name)).reference
    assert reference is not None
    assert reference.shape == (5052, 256)
    np.testing.assert_allclose(np.linalg.norm(reference, axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["open", "bundled@1", "bundled@2"])
def test_other_artefacts_have_none(name: str) -> None:
    assert load_artefact(resolve_artefact(name)).reference is None


@pytest.mark.parametrize(
    ("name", "fingerprint"), [("bundled@2", "e315bb03cae2319d"), ("small", "b8b3b0a853df0099")]
)
def test_thresholds_fitted_to_galleries_of_released_versions_stay_valid(
    name: str, fingerprint: str
) -> None:
    """They are kept under the artefact's fingerprint, which a reference does not change."""
    known = read_description(resolve_artefact(name)).artefact_fingerprint
    assert known.startswith(fingerprint)


def test_the_artefact_of_earlier_versions_does_not_offer_the_withdrawn_scoring() -> None:
    first = read_description(resolve_artefact("bundled@1"))
    assert (first.scorings, first.default_scoring) == (("cosine", "mnet"), "mnet")


def test_an_artefact_whose_default_is_withdrawn_ranks_by_mnet(tmp_path: Path) -> None:
    path = tmp_path / "older.safetensors"
    rewrite(resolve_artefact("bundled@1"), path, {"best": "fused"})
    found = read_description(path)
    assert (found.scorings, found.default_scoring) == (("cosine", "mnet"), "mnet")


@pytest.mark.parametrize("name", ["bundled", "small"])
def test_mnets_logit_is_positive_for_one_crop_twice_and_negative_for_strangers(name: str) -> None:
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


def test_an_artefact_without_a_metric_network_offers_cosine_alone(
    cosine_artefact: Path, tmp_path: Path
) -> None:
    loaded = load_artefact(cosine_artefact)
    assert (loaded.description.scorings, loaded.description.default_scoring) == (
        ("cosine",),
        "cosine",
    )
    with pytest.raises(ArtefactProblem, match="mine has no M-Net and offers the scoring cosine"):
        loaded.require_metric_network("mine")
    path = tmp_path / "claims.safetensors"
    rewrite(cosine_artefact, path, {"best": "mnet"})
    with pytest.raises(ArtefactProblem, match="damaged"):
        load_artefact(path)


@pytest.mark.usefixtures("no_graph")
def test_the_default_scoring_is_the_one_that_the_artefact_names(
    artefact: Artefact, tmp_path: Path
) -> None:
    path = tmp_path / "quick.safetensors"
    best = artefact.description.model_copy(update={"best": "cosine"})
    saved = save_artefact(path, best, artefact.embedder, artefact.metric_network)
    assert load_artefact(path).description.default_scoring == "cosine"
    assert saved.embedding_fingerprint == artefact.description.embedding_fingerprint


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ArtefactProblem, match=r"smal: there is no.*known are bundled, bundled@1"):
        resolve_artefact("smal")


def test_an_older_artefact_keeps_all_but_its_calibration_when_it_is_calibrated(
    tmp_path: Path,
) -> None:
    first = resolve_artefact("bundled@1")
    bundled = load_artefact(first)
    calibration = bundled.description.calibration.model_dump(mode="json")
    again = bundled.save(tmp_path / "again.safetensors", calibration=calibration)
    # The withdrawn scoring is not written again.
    fingerprint = {"artefact_fingerprint": again.artefact_fingerprint}
    assert again == bundled.description.model_copy(update=fingerprint)
    assert not len(TrainingFingerprints.of(bundled).crops)


@pytest.mark.usefixtures("no_graph")
def test_fingerprints_of_the_training_crops_travel_with_an_artefact(
    artefact: Artefact, tmp_path: Path
) -> None:
    path = tmp_path / "new.safetensors"
    known = TrainingFingerprints(np.array([-3, 5]), np.array([7]))
    save_artefact(
        path,
        artefact.description,
        artefact.embedder,
        artefact.metric_network,
        tensors=known.tensors(),
    )
    load_artefact(path).save(path, calibration=artefact.header["calibration"])
    found = TrainingFingerprints.of(load_artefact(path))
    assert (found.crops.tolist(), found.people.tolist()) == ([-3, 5], [7])


def test_a_graph_is_added_to_an_older_artefact_without_another_fingerprint(
    tiny_artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = without_graph(tiny_artefact, tmp_path / "older.safetensors")
    older = load_artefact(path)
    assert "graph.xml" not in older.tensors
    assert gmn.run(["artefact", "add-graph", str(path)]) == 0
    assert "has a graph" in capsys.readouterr().out
    newer = load_artefact(path)
    assert "graph.xml" in newer.tensors
    assert newer.description.artefact_fingerprint == older.description.artefact_fingerprint
    assert newer.description.embedding_fingerprint == older.description.embedding_fingerprint
    crops = drawn_patterns(newer.description.preprocessing)
    features = OpenVinoRuntime(newer, "float32").embed(crops)
    expected = OpenVinoRuntime(older, "float32").embed(crops)
    np.testing.assert_allclose(features, expected, atol=1e-3)


@pytest.mark.parametrize("name", ["graph.xml", "graph.bin", "graph.probes"])
def test_a_changed_graph_does_not_match_its_fingerprint(
    tiny_artefact: Path, tmp_path: Path, name: str
) -> None:
    header, tensors = read_parts(tiny_artefact)
    tensors[name].view(np.uint8).flat[0] ^= 1
    path = write_parts(tmp_path / "edited.safetensors", header, tensors)
    with pytest.raises(ArtefactProblem, match="fingerprint does not match"):
        load_artefact(path)


def test_a_graph_of_another_embedder_is_refused(tiny_artefact: Path, tmp_path: Path) -> None:
    """Two artefacts exchange their graphs, each with its fingerprint."""
    other = load_artefact(tiny_artefact)
    with torch.no_grad():
        other.embedder.neck.weight.mul_(2.0)
    path = tmp_path / "other.safetensors"
    save_artefact(path, other.description, other.embedder, other.metric_network)
    others_header, others = read_parts(path)
    header, tensors = read_parts(tiny_artefact)
    header["graph_fingerprint"] = others_header["graph_fingerprint"]
    tensors |= {name: others[name] for name in others if name.startswith("graph.")}
    write_parts(path, header, tensors)
    with pytest.raises(ArtefactProblem, match="fingerprint does not match"):
        load_artefact(path)


@pytest.mark.usefixtures("no_graph")
def test_an_embedder_that_openvino_cannot_run_is_saved_without_a_graph(
    artefact: Artefact, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "plain.safetensors"
    save_artefact(path, artefact.description, artefact.embedder, artefact.metric_network)
    assert "graph.xml" not in load_artefact(path).tensors
    assert "no graph for a service without PyTorch can be made" in caplog.text
    with pytest.raises(ArtefactProblem, match="aten::mine"):
        add_graph(path)


def test_equal_networks_are_saved_as_equal_files(artefact: Artefact, tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first.safetensors", "second.safetensors")]
    for file in files:
        save_artefact(file, artefact.description, artefact.embedder, artefact.metric_network)
    first, second = (file.read_bytes() for file in files)
    assert first == second
