"""Teachers: their features are read from files and found by the crop's name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model.problems import InputProblem
from training.datasets.synthetic import draw_people
from training.evaluation.feature_file import write_features
from training.teachers import read_teachers

RECORDS = draw_people(seed=1, identities_per_domain=2, domains=1).records


def features_file(path: Path, records, model: str, size: int = 4, value: float = 1.0) -> str:
    numbers = np.arange(len(records) * size, dtype=np.float32).reshape(-1, size) + value
    write_features(path, numbers, records, model)
    return str(path)


def test_a_teachers_files_together_hold_every_crop_in_the_trainings_order(tmp_path: Path) -> None:
    half = len(RECORDS) // 2
    late = features_file(tmp_path / "late.npz", RECORDS[half:], "peer", value=100.0)
    early = features_file(tmp_path / "early.npz", RECORDS[:half], "peer", value=1.0)
    (teacher,) = read_teachers([late, early], RECORDS)
    first = np.arange(4) + 1.0
    assert teacher.name == "peer"
    assert teacher.features.shape == (len(RECORDS), 4)
    np.testing.assert_allclose(teacher.features[0], first / np.linalg.norm(first), rtol=1e-6)


def test_two_models_are_two_teachers(tmp_path: Path) -> None:
    one = features_file(tmp_path / "one.npz", RECORDS, "one", size=4)
    two = features_file(tmp_path / "two.npz", RECORDS, "two", size=6)
    assert [(t.name, t.dimension) for t in read_teachers([one, two], RECORDS)] == [
        ("one", 4),
        ("two", 6),
    ]


def test_a_crop_that_the_teacher_has_not_seen_is_named(tmp_path: Path) -> None:
    file = features_file(tmp_path / "part.npz", RECORDS[:-1], "peer")
    with pytest.raises(InputProblem, match=f"{RECORDS[-1].source}.*run gmn embed"):
        read_teachers([file], RECORDS)


def test_a_file_that_does_not_say_who_made_it_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "bare.npz", features=np.ones((2, 3), dtype=np.float32))
    with pytest.raises(InputProblem, match="does not say whose"):
        read_teachers([str(tmp_path / "bare.npz")], RECORDS)


def test_files_of_one_teacher_with_two_sizes_are_refused(tmp_path: Path) -> None:
    one = features_file(tmp_path / "one.npz", RECORDS, "peer", size=4)
    two = features_file(tmp_path / "two.npz", RECORDS, "peer", size=6)
    with pytest.raises(InputProblem, match="4 and 6 dimensions"):
        read_teachers([one, two], RECORDS)
