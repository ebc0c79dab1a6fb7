import csv
from pathlib import Path

import numpy as np
import pytest

from model.artefact import load_artefact
from model.metric_network import score_pairs
from model.problems import InputProblem
from training.commands.embed import embed
from training.commands.score import score


@pytest.fixture
def manifest(drawn_crops, tmp_path: Path) -> Path:
    path = tmp_path / "people.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity", "camera"])
        for number, crop in enumerate(drawn_crops):
            (tmp_path / f"{number}.png").write_bytes(crop.png)
            rows.writerow([f"{number}.png", crop.identity, crop.camera])
    return path


@pytest.fixture
def features(tiny_artefact: Path, manifest: Path, tmp_path: Path) -> Path:
    out = tmp_path / "features.npz"
    embed(str(tiny_artefact), f"manifest:{manifest}", out)
    return out


def test_the_feature_file_opens_without_pickle_and_names_every_crop(features, drawn_crops):
    with np.load(features, allow_pickle=False) as arrays:
        assert arrays["features"].shape == (24, 1280)
        assert arrays["features"].dtype == np.float32
        assert arrays["identities"].tolist() == [crop.identity for crop in drawn_crops]
        assert arrays["cameras"].tolist() == [crop.camera for crop in drawn_crops]
        assert Path(arrays["paths"][0]).name == "0.png"


def test_stored_features_are_not_of_unit_length(features):
    with np.load(features) as arrays:
        lengths = np.linalg.norm(arrays["features"], axis=1)
    assert not np.allclose(lengths, 1.0)


def test_scores_are_the_reference_scorers(features, tiny_artefact, tmp_path):
    import torch

    out = tmp_path / "deep" / "scores.npy"
    score(str(tiny_artefact), features, features, out)
    scores = np.load(out, allow_pickle=False)
    with np.load(features) as arrays:
        own = torch.from_numpy(arrays["features"])
    reference = score_pairs(load_artefact(tiny_artefact).metric_network, own, own)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, reference.numpy(), rtol=1e-4, atol=1e-4)


def test_features_of_another_embedder_are_refused(features, tiny_artefact, tmp_path):
    with np.load(features) as arrays:
        changed = dict(arrays) | {"embedding_fingerprint": np.array("0" * 64)}
    np.savez(tmp_path / "other.npz", **changed)
    with pytest.raises(InputProblem, match=r"other\.npz: was embedded by 000000000000"):
        score(str(tiny_artefact), features, tmp_path / "other.npz", tmp_path / "scores.npy")
    assert not (tmp_path / "scores.npy").exists()


def test_features_of_another_dimension_are_refused(features, tiny_artefact, tmp_path):
    np.savez(tmp_path / "short.npz", features=np.ones((3, 512), dtype=np.float32))
    with pytest.raises(InputProblem, match="512 dimensions"):
        score(str(tiny_artefact), tmp_path / "short.npz", features, tmp_path / "scores.npy")


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), (b"not a zip", "not a readable"), (b"", "npz")]
)
def test_a_file_that_is_no_feature_file_is_named(content, said, tiny_artefact, tmp_path):
    wrong = tmp_path / "wrong.npz"
    if content is not None:
        wrong.write_bytes(content)
    with pytest.raises(InputProblem, match=f"wrong.npz.*{said}"):
        score(str(tiny_artefact), wrong, wrong, tmp_path / "scores.npy")


def test_a_place_that_cannot_be_written_is_named(tiny_artefact, manifest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputProblem, match="cannot be written"):
        embed(str(tiny_artefact), f"manifest:{manifest}", tmp_path / "file" / "features.npz")


def test_an_artefact_without_a_metric_network_scores_no_pairs(features, cosine_artefact, tmp_path):
    with pytest.raises(InputProblem, match=r"cosine\.safetensors has no M-Net and offers"):
        score(str(cosine_artefact), features, features, tmp_path / "scores.npy")
