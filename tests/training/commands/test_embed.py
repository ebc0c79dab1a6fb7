"""`gmn embed`: a feature file or shards, and the crops that cannot be read."""

import sys
from pathlib import Path

import numpy as np
import pytest

from model.problems import InputProblem
from tests.training.runs import run_here, write_manifest
from training.evaluation.files import read_features


@pytest.fixture
def _in_pytorch(monkeypatch):
    """Without OpenVINO, whose networks take seconds to compile."""
    monkeypatch.setitem(sys.modules, "openvino", None)


def embed(artefact, people, out, *words):
    return run_here("embed", artefact, "--data", people, "--out", out, *words)


def test_a_file_or_a_folder_of_parts_names_every_crop_and_opens_without_pickle(
    tiny_artefact, people, drawn_crops, tmp_path
):
    assert embed(tiny_artefact, people, tmp_path / "all.npz").status == 0
    with np.load(tmp_path / "all.npz", allow_pickle=False) as arrays:
        assert arrays["features"].shape == (24, 1280)
        assert arrays["features"].dtype == np.float32
        assert not np.allclose(np.linalg.norm(arrays["features"], axis=1), 1.0)
        assert arrays["identities"].tolist() == [crop.identity for crop in drawn_crops]
        assert arrays["cameras"].tolist() == [crop.camera for crop in drawn_crops]
        assert Path(arrays["paths"][0]).name == "people-0.png"
    for part in ("2/2", "1/2"):
        embed(tiny_artefact, people, tmp_path / "shards", "--part", part)
    whole, parts = (read_features(tmp_path / name) for name in ("all.npz", "shards"))
    assert parts.columns["paths"] == whole.columns["paths"]
    np.testing.assert_allclose(parts.features, whole.features, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("part", ["0/2", "3/2", "a/b", "1/2"])
def test_a_part_that_is_none_or_of_a_file_is_named(part, tiny_artefact, people, tmp_path):
    out = tmp_path / ("all.npz" if part == "1/2" else "shards")
    assert f"--part {part}: " in embed(tiny_artefact, people, out, "--part", part).err
    assert not out.exists()


@pytest.mark.usefixtures("_in_pytorch")
def test_a_crop_that_is_left_out_is_named_and_ends_with_status_1(
    tiny_artefact, drawn_crops, tmp_path
):
    people = write_manifest(tmp_path / "people.csv", drawn_crops)
    (tmp_path / "people-5.png").write_bytes(b"no picture")
    ran = embed(tiny_artefact, people, tmp_path / "features.npz")
    assert ran.status == 1
    assert "people-5.png: the bytes are not a JPEG" in ran.err
    assert len(read_features(tmp_path / "features.npz").features) == 23
    ran = embed(tiny_artefact, people, tmp_path / "people-1.png" / "features.npz")
    assert "cannot be written" in ran.err


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), (b"not a zip", "not a readable"), (b"", "npz")]
)
def test_a_file_that_is_no_feature_file_is_named(content, said, tmp_path):
    wrong = tmp_path / "wrong.npz"
    if content is not None:
        wrong.write_bytes(content)
    with pytest.raises(InputProblem, match=f"wrong.npz.*{said}"):
        read_features(wrong)
