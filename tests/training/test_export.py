"""`gmn export`: graphs that give PyTorch's features and scores, and the examples of both pages."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import gmn
from model.architecture import BackboneKind, EmbedderConfig, MetricNetworkConfig, register_backbone
from model.artefact import load_artefact, resolve_artefact, save_artefact
from model.crops.decode import decode_crop
from model.embedder import Embedder
from model.metric_network import MetricNetwork, cosine_similarities, score_pairs
from training.recipe import read_recipe

ROOT = Path(__file__).parents[2]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
TOLERANCE = 1e-4


def example(page: str, naming: str) -> str:
    (found,) = [
        block for block in PYTHON.findall((ROOT / "docs" / page).read_text()) if naming in block
    ]
    return str(found)


def artefact_like(tiny: Path, file: Path, embedder: object, network: object) -> Path:
    """An artefact of random weights at 64×32 with another embedder and M-Net."""
    own = EmbedderConfig.model_validate(embedder)
    metric = MetricNetworkConfig.model_validate(network)
    torch.manual_seed(0)
    description = load_artefact(tiny).description.model_copy(
        update={"embedder": own, "metric_network": metric}
    )
    save_artefact(file, description, Embedder(own), MetricNetwork(own.dimension, metric))
    return file


def sessions(folder: Path) -> list[onnxruntime.InferenceSession]:
    return [
        onnxruntime.InferenceSession(folder / name, providers=["CPUExecutionProvider"])
        for name in ("embedder.onnx", "pair_scorer.onnx")
    ]


def largest_differences(file: Path, folder: Path, crops: torch.Tensor) -> dict[str, float]:
    """Of features by their length, and end to end of every score by the largest, from PyTorch."""
    artefact = load_artefact(file)
    with torch.inference_mode():
        wanted = artefact.embedder(crops)
    embedder, pair_scorer = sessions(folder)
    found = embedder.run(None, {"crops": crops.numpy()})[0]
    rows, columns = np.triu_indices(len(crops))
    pairs = {"first": found[rows], "second": found[columns]}
    expected = {"cosine": cosine_similarities(wanted, wanted).numpy()}
    if artefact.metric_network is not None:
        expected["mnet"] = score_pairs(artefact.metric_network, wanted, wanted).numpy()
    apart = np.abs(found - wanted.numpy()) / wanted.norm(dim=1, keepdim=True).numpy()
    assert [output.name for output in pair_scorer.get_outputs()] == list(expected)
    return {"features": float(apart.max())} | {
        name: float(
            np.abs(pair_scorer.run([name], pairs)[0] - scores[rows, columns]).max()
            / max(1.0, np.abs(scores).max())
        )
        for name, scores in expected.items()
    }


RECIPES = {
    "gmn-r50": {},
    "msfl-r50": {},
    "gmn-msfl-msgr-r50": {},
    "instance": {"backbone": "osnet_ibn_x1_0"},
    "folded": {
        "backbone": "osnet_context_x0_25_folded",
        "pooling": "depthwise",
        "map_size": (4, 2),
        "head": {"layers": "fc-prelu", "dimension": 32},
    },
}


@pytest.mark.parametrize(
    "name",
    [name if name == "folded" else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
)
def test_graphs_of_every_kind_of_embedder_give_pytorch_s_numbers_at_any_batch_size(
    name: str, tiny_artefact: Path, tmp_path: Path
) -> None:
    embedder = RECIPES[name] or read_recipe(name).embedder.model_dump()
    file = artefact_like(tiny_artefact, tmp_path / "own.safetensors", embedder, {"hidden": 16})
    assert gmn.run(["export", str(file), "--onnx", str(tmp_path / "onnx")]) == 0
    for size in (1, 5):
        differences = largest_differences(file, tmp_path / "onnx", torch.randn(size, 3, 64, 32))
        assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.parametrize(
    "network",
    [
        {"layers": "linear"},
        {"hidden": 16, "pair_feature": "abs"},
        {"layers": "linear", "pair_feature": "raw"},
    ],
    ids=str,
)
@pytest.mark.slow
def test_every_form_of_m_net_is_exported(
    network: dict[str, object], tiny_artefact: Path, tmp_path: Path
) -> None:
    file = artefact_like(
        tiny_artefact, tmp_path / "own.safetensors", {"backbone": "resnet18"}, network
    )
    assert gmn.run(["export", str(file), "--onnx", str(tmp_path / "onnx")]) == 0
    differences = largest_differences(file, tmp_path / "onnx", torch.randn(3, 3, 64, 32))
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bundled", "small", "open"])
def test_shipped_artefacts_in_onnx_runtime_agree_with_pytorch_on_photographs(
    name: str, tmp_path: Path
) -> None:
    data = Path(os.environ.get("REID_TEST_DATA", "/nowhere"))
    files = sorted((data / "market1501").rglob("*.jpg"))[::200][:48]
    if not files:
        pytest.skip("photographs are read from $REID_TEST_DATA/market1501, which is not there")
    assert gmn.run(["export", name, "--onnx", str(tmp_path)]) == 0
    preprocessing = load_artefact(resolve_artefact(name)).description.preprocessing
    images = [preprocessing.resize(decode_crop(file.read_bytes())) for file in files]
    crops = preprocessing.normalise(torch.from_numpy(np.stack(images))).contiguous()
    differences = largest_differences(resolve_artefact(name), tmp_path, crops)
    assert max(differences.values()) < TOLERANCE, differences


@pytest.mark.slow
def test_the_examples_embed_and_score_as_each_other_and_one_runs_without_torch(
    tiny_artefact: Path,
    drawn_crops: list[tuple[str, str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, crop in zip(("ann.jpg", "photo.jpg"), drawn_crops, strict=False):
        Image.open(io.BytesIO(crop[2])).save(tmp_path / name, quality=95)
    page = (ROOT / "docs" / "programs.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"^gmn (export .*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    assert gmn.run(written.replace("bundled", str(tiny_artefact)).split()) == 0
    about = json.loads((tmp_path / "runs" / "onnx" / "preprocessing.json").read_text())
    assert about["provenance"]["terms"] == "Free of any: nobody is shown, every person is drawn."
    assert about["pair_scorer"]["default"] == "mnet"
    without = "import sys\nsys.modules['torch'] = None\n" + example("programs.md", "onnxruntime")
    with_torch = example("programs.md", "score_pairs").replace(
        'resolve_artefact("bundled")', f"Path({str(tiny_artefact)!r})"
    )
    printed = []
    for program in (without, with_torch):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        printed.append(ran.stdout)
    assert (scored := re.search(r"^mnet (-?\d+\.\d+): (one person|two people)$", printed[0], re.M))
    assert f"M-Net {scored[1]}" in printed[1]
    assert "at even odds" in printed[1]


@pytest.mark.slow
def test_networks_that_give_no_numbers_are_refused(
    tiny_artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artefact = load_artefact(tiny_artefact)
    with torch.no_grad():
        artefact.embedder.neck.weight.fill_(float("nan"))
    broken = tmp_path / "broken.safetensors"
    save_artefact(broken, artefact.description, artefact.embedder, artefact.metric_network)
    assert gmn.run(["export", str(broken), "--onnx", str(tmp_path / "a")]) == 2
    assert "features differ by nan" in capsys.readouterr().err


class DependsOnItsInput(torch.nn.Module):
    """A step that a graph cannot hold."""

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return crops if float(crops.sum()) > 0 else -crops


def test_a_backbone_that_has_no_graph_is_refused_by_the_file(
    tiny_artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register_backbone(
        "no_graph",
        BackboneKind(lambda _: torch.nn.Sequential(DependsOnItsInput()), (3, 3, 3, 3), None, (1,)),
    )
    file = artefact_like(
        tiny_artefact, tmp_path / "own.safetensors", {"backbone": "no_graph"}, {"hidden": 16}
    )
    assert gmn.run(["export", str(file), "--onnx", str(tmp_path / "onnx")]) == 2
    problem = capsys.readouterr().err
    assert "embedder.onnx cannot be made of this artefact's networks" in problem
    assert "data-dependent" in problem
    assert list((tmp_path / "onnx").iterdir()) == []


@pytest.mark.slow
def test_bad_input_is_named_and_leaves_nothing(
    tiny_artefact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    (tmp_path / "file").write_text("mine")
    assert gmn.run(["export", str(tiny_artefact), "--onnx", str(tmp_path / "file")]) == 2
    assert "file: cannot be written" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    assert gmn.run(["export", "nosuch", "--onnx", str(tmp_path / "a")]) == 2
    assert "there is no shipped artefact of this name" in capsys.readouterr().err
    monkeypatch.setattr("training.onnx_export.TOLERANCE", 0.0)
    assert gmn.run(["export", str(tiny_artefact), "--onnx", str(tmp_path / "a")]) == 2
    assert "other numbers than PyTorch" in capsys.readouterr().err
    assert list((tmp_path / "a").iterdir()) == []
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert gmn.run(["export", str(tiny_artefact), "--onnx", str(tmp_path / "b")]) == 2
    assert "pip install 'gmn-reid[export]'" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
