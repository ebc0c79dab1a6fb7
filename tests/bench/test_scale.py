"""The bench of growing galleries: its sizes and its drawn crops."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bench import scale
from bench.figures import table
from bench.scale import BLOCK, ScaleCrops
from model.problems import InputProblem
from tests.bench.people import write_people


@pytest.fixture
def small(monkeypatch):
    """Sizes and queries of a moment, in this process."""
    monkeypatch.setattr(scale, "SIZES", (40, 400, 4000))
    monkeypatch.setattr(scale, "QUERIES", 8)
    monkeypatch.setattr(scale, "STARTS", 1)
    monkeypatch.setattr(scale, "ProcessPoolExecutor", lambda count, _: ThreadPoolExecutor(count))


def test_every_size_is_measured_and_becomes_a_row(small, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = scale.bench_scale(900, None)
    sizes = result.details["sizes"]
    assert [size["crops"] for size in sizes] == [40, 400, 900]
    for size in sizes:
        assert size["enrolled_per_second"] > 0
        assert size["read_seconds"] > 0
        assert set(size["exact_ms"]) == set(scale.FILTERS)
        assert size["disk_bytes_per_crop"] > 4 * 512
        assert size["rebuild_seconds"] > 0
        assert size["longest_write_ms"] > 0
    assert not list(tmp_path.iterdir())
    assert table("scale", [result._asdict()]).count("\n| clusters ") == 3


@pytest.mark.parametrize("kind", ["people", "clusters"])
def test_the_same_crops_are_drawn_in_every_run_and_those_of_a_person_lie_together(kind, tmp_path):
    features = write_people(tmp_path, 64) if kind == "people" else None
    drawn = ScaleCrops(features, 64)
    crops = [*drawn.crops(BLOCK - 60, BLOCK + 60)]
    again = [*ScaleCrops(features, 64).crops(BLOCK - 60, BLOCK + 60)]
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
        ScaleCrops(tmp_path / "features.npz")
