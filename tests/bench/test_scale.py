"""The bench of growing galleries: its sizes and its drawn crops."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bench import scale
from bench.figures import table
from bench.scale import BLOCK, KINDS, ScaleCrops
from model.problems import InputProblem


@pytest.fixture
def small(monkeypatch):
    """Sizes and queries of a moment, in this process."""
    monkeypatch.setattr(scale, "FIRST_SIZE", 40)
    monkeypatch.setattr(scale, "QUERIES", 8)
    monkeypatch.setattr(scale, "UNCOUNTED", 0)
    monkeypatch.setattr(scale, "DIMENSION", 16)
    monkeypatch.setattr(scale, "ProcessPoolExecutor", lambda count, _: ThreadPoolExecutor(count))


def test_every_size_is_measured_and_becomes_a_row(small, tmp_path):
    result = scale.bench_scale(900, "clusters", work=tmp_path)
    sizes = result.details["sizes"]
    assert [size["crops"] for size in sizes] == [40, 400, 900]
    assert result.details["dimension"] == 16
    for size in sizes:
        assert size["enrolled_per_second"] > 0
        assert set(size["exact_ms"]) == set(scale.FILTERS)
        assert size["disk_bytes_per_crop"] > 4 * 16
    assert not list(tmp_path.iterdir())
    assert table("scale", [result.model_dump()]).count("\n| clusters ") == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_crops_are_drawn_in_every_run_and_those_of_a_person_lie_together(kind):
    drawn = ScaleCrops(kind, None, 64)
    crops = [*drawn.crops(BLOCK - 60, BLOCK + 60)]
    again = [*ScaleCrops(kind, None, 64).crops(BLOCK - 60, BLOCK + 60)]
    vectors = np.stack([crop.vector for crop in crops])
    assert np.array_equal(vectors, np.stack([crop.vector for crop in again]))
    assert len({crop.record.crop_id for crop in crops}) == 120
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    same = np.array([[a.record.identity == b.record.identity for b in crops] for a in crops])
    cosines = units @ units.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.3
    assert drawn.queries(16, 100).shape == (16, 64)


def test_a_file_without_identities_is_refused(tmp_path):
    np.savez(tmp_path / "features.npz", features=np.ones((3, 4), np.float32))
    with pytest.raises(InputProblem, match="gmn embed"):
        ScaleCrops("people", tmp_path / "features.npz", 4)
