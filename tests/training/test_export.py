"""`gmn export`: graphs that give PyTorch's features and scores, and the examples of both pages."""

import functools
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from model.architecture import EmbedderConfig, MetricNetworkConfig
from model.artefact import load_artefact, read_description, resolve_artefact
from model.backbones import BackboneKind, register_backbone
from model.crops.decode import decode_crop
from model.embedder import Embedder
from model.metric_network import MetricNetwork, cosine_similarities, score_pairs
from tests.forked import run_forked
from tests.outside import run_command
from tests.training.runs import run_here
from training.evaluation.files import save_artefact
from training.recipe import read_recipe

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TOLERANCE = 1e-4


def example(page, naming):
    (found,) = [
        block for block in PYTHON.findall((ROOT / "docs" / page).read_text()) if naming in block
    ]
    return str(found)


def artefact_like(source, file, embedder, network):
    """Write an artefact of random weights at 64×32 with another embedder, and an M-Net or none."""
    own = EmbedderConfig.model_validate(embedder)
    metric = network and MetricNetworkConfig.model_validate(network)
    torch.manual_seed(0)
    description = load_artefact(source).description.model_copy(
        update={"embedder": own, "metric_network": metric}
    )
    metric_network = metric and MetricNetwork(own.dimension, metric)
    save_artefact(file, description, Embedder(own), metric_network)
    return file


def require_parity(file, folder, crops):
    """Compare features by their length, and scores by the largest of them, with PyTorch's."""
    artefact = load_artefact(file)
    with torch.inference_mode():
        wanted = artefact.embedder(crops)
    embedder, pair_scorer = (
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        for name in ("embedder.onnx", "pair_scorer.onnx")
    )
    (found,) = embedder.run(None, {"crops": crops.numpy()})
    apart = np.abs(found - wanted.numpy()) / wanted.norm(dim=1, keepdim=True).numpy()
    assert apart.max() < TOLERANCE
    rows, columns = np.triu_indices(len(crops))
    expected = {"cosine": cosine_similarities(wanted, wanted).numpy()}
    if artefact.metric_network is not None:
        expected["mnet"] = score_pairs(artefact.metric_network, wanted, wanted).numpy()
    assert [output.name for output in pair_scorer.get_outputs()] == list(expected)
    for name, scores in expected.items():
        (scored,) = pair_scorer.run([name], {"first": found[rows], "second": found[columns]})
        largest = max(1.0, np.abs(scores).max())
        assert np.abs(scored - scores[rows, columns]).max() < TOLERANCE * largest, name


POOLED_BY_PLACE = {
    "pooling": "depthwise",
    "map_size": (4, 2),
    "head": {"layers": "fc-prelu", "dimension": 32},
}
# Each embedder with another form of M-Net.
NETWORKS = {
    "four convolutions": ({"backbone": "four_convolutions", **POOLED_BY_PLACE}, {"hidden": 16}),
    "gmn-msfl-msgr-r50": ({}, {"hidden": 16, "pair_feature": "abs"}),
    "osnet": ({"backbone": "osnet_x0_25"}, {"layers": "linear", "pair_feature": "raw"}),
    "folded": ({"backbone": "osnet_context_x0_25_folded", **POOLED_BY_PLACE}, {"hidden": 16}),
}
# The conversion of a deep network takes half a minute.
QUICK_NETWORK = "four convolutions"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name == QUICK_NETWORK else pytest.mark.slow)
        for name in NETWORKS
    ],
)
def test_graphs_of_every_kind_of_network_give_pytorch_s_numbers_at_any_batch_size(
    name, fast_artefact, tmp_path
):
    embedder, network = NETWORKS[name]
    if not embedder:
        # A smaller network of the same layers.
        embedder = read_recipe(name, ["embedder.backbone=resnet18"]).embedder.model_dump()
    file = artefact_like(fast_artefact, tmp_path / "own.safetensors", embedder, network)
    assert run_here("export", file, "--onnx", tmp_path / "onnx").status == 0
    for size in (1, 5):
        require_parity(file, tmp_path / "onnx", torch.randn(size, 3, 64, 32))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return a function that exports a shipped artefact once, below `runs/onnx` of a folder."""

    @functools.cache
    def export(name):
        folder = tmp_path_factory.mktemp(name)
        assert run_here("export", name, "--onnx", folder / "runs" / "onnx").status == 0
        return folder

    return export


@pytest.mark.slow
@pytest.mark.parametrize("name", ["small", "bundled"])
def test_shipped_artefacts_in_onnx_runtime_agree_with_pytorch_on_photographs(name, exported):
    data = Path(os.environ.get("REID_TEST_DATA", "/nowhere"))
    files = sorted((data / "market1501").rglob("*.jpg"))[::800][:12]
    if not files:
        pytest.skip("photographs are read from $REID_TEST_DATA/market1501, which is not there")
    preprocessing = load_artefact(resolve_artefact(name)).description.preprocessing
    images = [preprocessing.resize(decode_crop(file.read_bytes())) for file in files]
    crops = preprocessing.normalise(torch.from_numpy(np.stack(images))).contiguous()
    require_parity(resolve_artefact(name), exported(name) / "runs" / "onnx", crops)


@pytest.mark.slow
def test_the_examples_embed_and_score_as_each_other_and_one_runs_without_torch(
    exported, drawn_crops
):
    page = (ROOT / "docs" / "programs.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"^gmn (export .*)$", page, re.MULTILINE)
    assert written == "export bundled --onnx runs/onnx"
    folder = exported("bundled")
    for name, crop in zip(("ann.jpg", "photo.jpg"), drawn_crops, strict=False):
        Image.open(io.BytesIO(crop[2])).save(folder / name, quality=95)
    about = json.loads((folder / "runs" / "onnx" / "preprocessing.json").read_text())
    terms = read_description(resolve_artefact("bundled")).provenance.terms
    assert about["provenance"]["terms"] == terms
    assert about["pair_scorer"]["default"] == "cosine"
    assert about["pair_scorer"]["outputs"].keys() == {"cosine", "mnet"}
    without = "import sys\nsys.modules['torch'] = None\n" + example("programs.md", "onnxruntime")
    with_torch = example("programs.md", "score_pairs")
    ran = run_command(sys.executable, "-c", without, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    found = re.fullmatch(r"cosine (-?\d+\.\d+): (one person|two people)\n", ran.stdout)
    ran = run_forked(with_torch, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    expected = re.search(r"cosine (-?\d+\.\d+), M-Net -?\d", ran.stdout)
    assert float(found[1]) == pytest.approx(float(expected[1]), abs=2e-3)
    assert "at even odds" in ran.stdout


class DependsOnItsInput(torch.nn.Module):
    """A step that a graph cannot hold."""

    def forward(self, crops):
        return crops if float(crops.sum()) > 0 else -crops


@pytest.fixture
def artefact_of(tmp_path):
    """Return a function that writes an artefact whose backbone is a single module."""

    def write(name, module, source, network):
        identities = [torch.nn.Identity() for _ in range(3)]

        def build(last_stride):
            return torch.nn.Sequential(module, *identities)

        kind = BackboneKind(build, (3, 3, 3, 3), ("0", "1", "2", "3"), (1,))
        register_backbone(name, kind)
        file = tmp_path / f"{name}.safetensors"
        return artefact_like(source, file, {"backbone": name}, network)

    return write


def test_a_backbone_that_has_no_graph_is_refused_by_the_file(artefact_of, fast_artefact, tmp_path):
    file = artefact_of("no_graph", DependsOnItsInput(), fast_artefact, {"hidden": 16})
    ran = run_here("export", file, "--onnx", tmp_path / "onnx")
    assert ran.status == 2
    assert "embedder.onnx cannot be made of this artefact's networks" in ran.err
    assert "data-dependent" in ran.err
    assert list((tmp_path / "onnx").iterdir()) == []


def test_without_a_metric_network_pairs_are_scored_by_cosine_alone(
    artefact_of, cosine_artefact, tmp_path
):
    file = artefact_of("colours", torch.nn.Identity(), cosine_artefact, None)
    assert run_here("export", file, "--onnx", tmp_path / "onnx").status == 0
    require_parity(file, tmp_path / "onnx", torch.randn(3, 3, 64, 32))


def test_bad_input_is_named_and_leaves_nothing(fast_artefact, artefact_of, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    file = artefact_of("as_it_is", torch.nn.Identity(), fast_artefact, {"hidden": 16})
    artefact = load_artefact(file)
    with torch.no_grad():
        artefact.embedder.neck.weight.fill_(float("nan"))
    broken = tmp_path / "broken.safetensors"
    save_artefact(broken, artefact.description, artefact.embedder, artefact.metric_network)
    for file, folder, message in (
        (fast_artefact, "file", "file: cannot be written"),
        ("nosuch", "a", "there is no shipped artefact of this name"),
        (broken, "b", "features differ by nan"),
    ):
        ran = run_here("export", file, "--onnx", tmp_path / folder)
        assert ran.status == 2
        assert message in ran.err
    assert (tmp_path / "file").read_text() == "mine"
    assert list((tmp_path / "b").iterdir()) == []
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    ran = run_here("export", fast_artefact, "--onnx", tmp_path / "c")
    assert "pip install 'gmn-reid[export]'" in ran.err
    assert not (tmp_path / "c").exists()
