"""Whole data sets as shards, by a stand-in network unless the embedder's own is meant."""

import hashlib
import signal
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from model.artefact import load_artefact, resolve_artefact
from model.preprocessing import Preprocessing
from model.problems import InputProblem
from model.shards import shards_in
from tests.forked import run_forked
from training.datasets.record import CropRecord
from training.evaluation import offline
from training.evaluation.embedding import embed_records
from training.evaluation.files import read_features
from training.evaluation.offline import Network, Part, embed_to_file, embed_to_folder, network_of

WHOLE = Part()
SIZE = Preprocessing(height=32, width=16)
KILLED_IN_THE_THIRD_SHARD = """
import os, signal, sys
from pathlib import Path
from tests.training.evaluation import test_offline as own

shards = []
def embed(crops):
    shards.append(len(crops))
    if len(shards) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return own.colours(crops)
own.offline.SHARD_CROPS = 5
own.embed_to_folder(
    own.network(embed), own.crops_in(Path(sys.argv[1])), Path(sys.argv[2]), own.Part(), own.no_bar
)
"""


@contextmanager
def no_bar(text, total):
    yield lambda _: None


def colours(crops):
    """Return the mean colours of each crop, a feature that differs with the crop."""
    return crops.mean(axis=(1, 2)).astype(np.float32)


def network(embed=colours, embedder="e" * 64):
    return Network(SIZE, embed, embedder)


def crops_in(folder):
    moment = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    return [
        CropRecord(str(file), "drawn", file.stem, "east", "drawn", file, captured_at=moment)
        for file in sorted(folder.glob("*.png"))
    ]


@pytest.fixture(scope="module")
def records(drawn_crops, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    for number, crop in enumerate(drawn_crops):
        (folder / f"{number:02d}.png").write_bytes(crop.png)
    return crops_in(folder)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch):
    monkeypatch.setattr(offline, "SHARD_CROPS", 5)
    monkeypatch.setattr(offline, "BATCH_CROPS", 2)


def _embed(records, folder, part=WHOLE, **changed):
    return embed_to_folder(network(**changed), records, folder, part, no_bar)


def test_features_are_those_of_the_network_in_pytorch(records):
    pytest.importorskip("openvino")
    artefact = load_artefact(resolve_artefact("small"))
    size = artefact.description.preprocessing
    fast = network_of(artefact, torch.device("cpu"), bfloat16=False)
    assert (fast.runtime, fast.precision) == ("openvino", "float32")
    crops = [size.resize(record.decode()) for record in records]
    found = fast.embed(np.stack(crops))
    # The service embeds them one by one.
    np.testing.assert_array_equal(found, np.concatenate([fast.embed(crop[None]) for crop in crops]))
    expected = embed_records(artefact.embedder, size, records)
    cosines = (_units(found) * _units(expected)).sum(axis=1)
    # An angle of some 1e-5 at most: float32's last digits.
    assert (1.0 - cosines).max() < 1e-9


def _units(features):
    return features / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)


def test_a_folder_reads_as_the_file_does(records, tmp_path):
    embed_to_file(network(), records, tmp_path / "all.npz", no_bar)
    assert _embed(records, tmp_path / "all").written == 5
    whole, parts = (read_features(tmp_path / name) for name in ("all.npz", "all"))
    np.testing.assert_array_equal(whole.features, parts.features)
    assert (whole.columns, whole.origin) == (parts.columns, parts.origin)
    assert whole.columns["paths"] == tuple(record.source for record in records)
    own = [hashlib.sha256(record.path.read_bytes()).hexdigest() for record in records]
    assert whole.columns["sha256"] == tuple(own)
    assert whole.columns["captured_at"][0] == "2026-03-01T09:30:00+00:00"


def test_a_killed_run_continues_and_nothing_is_computed_twice(records, tmp_path):
    folder = records[0].path.parent
    killed = run_forked(KILLED_IN_THE_THIRD_SHARD, str(folder), str(tmp_path / "out"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    embedded = []

    def embed(crops):
        embedded.append(len(crops))
        return colours(crops)

    outcome = _embed(records, tmp_path / "out", embed=embed)
    assert (outcome.skipped, outcome.written, sum(embedded)) == (2, 3, 24 - 10)
    np.testing.assert_array_equal(
        read_features(tmp_path / "out").features,
        colours(np.stack([SIZE.resize(record.decode()) for record in records])),
    )
    assert _embed(records, tmp_path / "out").written == 0


def test_parts_make_every_shard_once(records, tmp_path):
    parts = [_embed(records, tmp_path / "out", Part(number, 3)) for number in (3, 1)]
    with pytest.raises(InputProblem, match=r"2 of 5 shards are missing, the first is shard-00001"):
        read_features(tmp_path / "out")
    parts.append(_embed(records, tmp_path / "out", Part(2, 3)))
    assert [(part.written, part.features) for part in parts] == [(1, 5), (2, 10), (2, 9)]
    assert len(read_features(tmp_path / "out").features) == len(records)


@pytest.mark.parametrize(
    ("identity", "embedder", "what"),
    [("0000", "f" * 64, "artefact"), ("another", "e" * 64, "list of crops")],
)
def test_shards_of_another_run_are_named_and_left_alone(
    identity, embedder, what, records, tmp_path
):
    _embed(records, tmp_path / "out")
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    given = [replace(records[0], identity=identity), *records[1:]]
    with pytest.raises(InputProblem, match=rf"shard-\d+-of-00005\.npz: .*another {what}.*--out"):
        _embed(given, tmp_path / "out", embedder=embedder)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_a_crop_that_cannot_be_read_is_named_every_time_and_the_rest_goes_on(records, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    broken = replace(records[0], source="broken.png", path=tmp_path / "broken.png")
    gone = replace(records[0], source="gone.png", path=tmp_path / "gone.png")
    given = [broken, *records, gone]
    for written in (6, 0):
        outcome = _embed(given, tmp_path / "out")
        assert outcome.written == written
        assert [name.split(":")[0] for name in outcome.unreadable] == ["broken.png", "gone.png"]
    assert "not a JPEG" in outcome.unreadable[0]
    found = read_features(tmp_path / "out")
    assert (len(found.features), found.columns["paths"][0]) == (24, records[0].source)


def test_where_no_crop_can_be_read_there_is_no_feature_and_each_is_named(records, tmp_path):
    gone = replace(records[0], path=tmp_path / "gone.png")
    alone = embed_to_file(network(), [gone], tmp_path / "all.npz", no_bar)
    assert (alone.features, len(alone.unreadable)) == (0, 1)
    assert _embed([gone] * 7, tmp_path / "out").features == 0
    for name in ("all.npz", "out"):
        assert read_features(tmp_path / name).features.shape == (0, 3)


def test_shards_of_two_runs_or_two_artefacts_and_damaged_ones_are_named(records, tmp_path):
    _embed(records, tmp_path / "one")
    _embed(records, tmp_path / "two", embedder="f" * 64)
    mixed = tmp_path / "one" / shards_in(tmp_path / "one")[3].name
    mixed.write_bytes((tmp_path / "two" / mixed.name).read_bytes())
    with pytest.raises(InputProblem, match=r"shard-00003-of-00005\.npz: was made by another"):
        read_features(tmp_path / "one")
    mixed.write_bytes(mixed.read_bytes()[:-200])
    for again in (lambda: _embed(records, tmp_path / "one"), lambda: read_features(mixed.parent)):
        with pytest.raises(InputProblem, match=rf"{mixed.name}: is not a readable \.npz"):
            again()
    (tmp_path / "one" / "shard-00000-of-00002.npz").touch()
    with pytest.raises(InputProblem, match="several runs, of 2 and 5 shards"):
        read_features(tmp_path / "one")
    with pytest.raises(InputProblem, match=f"{tmp_path}: holds no shard"):
        read_features(tmp_path)
