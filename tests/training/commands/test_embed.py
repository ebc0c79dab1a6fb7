import csv
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from model.feature_file import read_features
from model.problems import InputProblem
from training.commands.data import embed


@pytest.fixture(scope="module")
def manifest(drawn_crops, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    path = folder / "people.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity", "camera"])
        for number, crop in enumerate(drawn_crops):
            (folder / f"{number}.png").write_bytes(crop.png)
            rows.writerow([f"{number}.png", crop.identity, crop.camera])
    return path


@pytest.fixture(scope="module")
def features(tiny_artefact: Path, manifest: Path, tmp_path_factory) -> Path:
    out: Path = tmp_path_factory.mktemp("features") / "features.npz"
    embed(str(tiny_artefact), f"manifest:{manifest}", out)
    return out


@pytest.fixture
def _in_pytorch(monkeypatch) -> None:
    """Without OpenVINO, whose networks take seconds to compile."""
    monkeypatch.setitem(sys.modules, "openvino", None)


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


@pytest.mark.usefixtures("_in_pytorch")
def test_a_folder_of_shards_is_read_as_the_file_is(
    features, tiny_artefact, manifest, tmp_path, monkeypatch
):
    monkeypatch.setattr("training.evaluation.offline.SHARD_CROPS", 7)
    monkeypatch.setattr("training.evaluation.offline.BATCH_CROPS", 4)
    for part in ("2/2", "1/2"):
        embed(str(tiny_artefact), f"manifest:{manifest}", tmp_path / "shards", part)
    assert len(list((tmp_path / "shards").iterdir())) == 4
    one, many = (read_features(place, ["paths"]) for place in (features, tmp_path / "shards"))
    assert many.paths == one.paths
    np.testing.assert_allclose(many.features, one.features, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/2"])
def test_a_part_that_is_none_or_of_a_file_is_named(part, tiny_artefact, manifest, tmp_path):
    out = tmp_path / ("all.npz" if part == "1/2" else "shards")
    with pytest.raises(InputProblem, match=f"--part {part}: "):
        embed(str(tiny_artefact), f"manifest:{manifest}", out, part)
    assert not out.exists()


@pytest.mark.usefixtures("_in_pytorch")
def test_a_crop_that_is_left_out_is_named_and_ends_with_status_1(
    tiny_artefact, manifest, tmp_path, capsys
):
    people = tmp_path / "people"
    shutil.copytree(manifest.parent, people)
    (people / "5.png").write_bytes(b"no picture")
    with pytest.raises(typer.Exit) as ended:
        embed(str(tiny_artefact), f"manifest:{people / 'people.csv'}", tmp_path / "features.npz")
    assert ended.value.exit_code == 1
    assert "5.png: the bytes are not a JPEG" in capsys.readouterr().err
    with np.load(tmp_path / "features.npz") as arrays:
        assert len(arrays["features"]) == 23


@pytest.mark.parametrize(
    ("content", "said"), [(None, "no such file"), (b"not a zip", "not a readable"), (b"", "npz")]
)
def test_a_file_that_is_no_feature_file_is_named(content, said, tmp_path):
    wrong = tmp_path / "wrong.npz"
    if content is not None:
        wrong.write_bytes(content)
    with pytest.raises(InputProblem, match=f"wrong.npz.*{said}"):
        read_features(wrong)


@pytest.mark.usefixtures("_in_pytorch")
def test_a_place_that_cannot_be_written_is_named(tiny_artefact, manifest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputProblem, match="cannot be written"):
        embed(str(tiny_artefact), f"manifest:{manifest}", tmp_path / "file" / "features.npz")
