"""The packed meshes are those of the clones, and the same bytes whenever they are packed."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training.rendered.meshes import FILE, MOVES_UNIT, read_meshes
from training.rendered.packing.assets import REPOSITORIES, Assets
from training.rendered.packing.formats import parse_target
from training.rendered.packing.pack import read_assets, write_meshes

CLONES = os.environ.get("REID_TEST_ASSETS", "")


@pytest.fixture(scope="module")
def meshes():
    return read_meshes()


def test_meshes_are_read_as_they_were_written(meshes, tmp_path):
    few = dict(list(meshes.moves.items())[:2])
    written = replace(meshes, moves=few, sources=[{"file": "körper.obj"}])
    write_meshes(written, tmp_path / "first.npz")
    write_meshes(written, tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    read = read_meshes(tmp_path / "first.npz")
    assert read.sources == written.sources
    assert read.parents == meshes.parents
    assert list(read.moves) == list(few)
    for name in few:
        np.testing.assert_array_equal(read.moves[name], few[name])
    for name in ("points", "skin", "tights", "skirt", "weights", "heads"):
        np.testing.assert_array_equal(getattr(read, name), getattr(meshes, name))
    shirt, again = (of.fitted["male_casualsuit01"] for of in (meshes, read))
    for field in vars(shirt):
        np.testing.assert_array_equal(getattr(again, field), getattr(shirt, field))


def test_an_index_that_two_bytes_cannot_hold_is_refused(meshes, tmp_path):
    with pytest.raises(ValueError, match="70000"):
        write_meshes(replace(meshes, skirt=np.array([[0, 1, 70_000]])), tmp_path / "meshes.npz")


def test_every_packed_file_has_a_source_under_a_free_licence(meshes):
    addresses = {repository.address: repository.commit for repository in REPOSITORIES}
    assert len(meshes.sources) > 300
    for source in meshes.sources:
        assert source["licence"] == "CC0-1.0"
        assert source["commit"] == addresses[source["repository"]]


@pytest.mark.skipif(not CLONES, reason="REID_TEST_ASSETS names no clones of MakeHuman's meshes")
def test_the_packed_file_is_what_the_clones_give(meshes, tmp_path):
    assets = Assets(Path(CLONES))
    write_meshes(read_assets(assets), tmp_path / "meshes.npz")
    packed, again = (np.load(file) for file in (FILE, tmp_path / "meshes.npz"))
    assert packed.files == again.files
    for name in packed.files:
        np.testing.assert_array_equal(packed[name], again[name])
    assert json.loads(str(packed["sources"])) == meshes.sources
    # Three decimals are kept, so that no move is rounded.
    name = "macrodetails/universal-female-young-averagemuscle-maxweight"
    text = assets.read(f"makehuman/data/targets/{name}.target")
    exact = parse_target(text, name, len(meshes.points))
    np.testing.assert_allclose(meshes.moves[name] * MOVES_UNIT, exact, atol=1e-6)
