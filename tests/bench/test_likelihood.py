"""Costs of likelihood ratios of drawn people, and their table."""

import json

import numpy as np
import pytest

from bench import figures, likelihood
from model.feature_file import Origin
from model.problems import InputProblem
from training.evaluation.files import write_features

PEOPLE = 260
DIMENSION = 256


def write_people(folder, number):
    """Write a crop of each person by each of two cameras, and one crop of ten others."""
    random = np.random.default_rng(0)
    people = [*np.repeat(np.arange(number), 2), *range(number, number + 10)]
    middles = random.standard_normal((number + 10, DIMENSION))[people]
    columns = {
        "paths": [f"{crop}.png" for crop in range(len(people))],
        "identities": [str(person) for person in people],
        "cameras": [*["A", "B"] * number, *["A"] * 10],
    }
    vectors = middles + 0.8 * random.standard_normal(middles.shape)
    path = folder / "features.npz"
    write_features(path, vectors.astype(np.float32), columns, Origin("embedder"))
    return path


def test_each_scoring_is_fitted_to_100_people_and_to_a_half_and_has_a_line_in_the_table(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(likelihood, "DRAWS", 2)
    likelihood.main("small", "drawn", write_people(tmp_path, PEOPLE))
    rows = json.loads(capsys.readouterr().out)["results"]
    cosine = [row for row in rows if row["scoring"] == "cosine"]
    assert [row["people"] for row in cosine] == [100, PEOPLE // 2, PEOPLE // 2]
    assert all(0.0 <= row["excess"] <= row["worst"] < 0.05 for row in cosine)
    line = figures.table("likelihood", cosine).splitlines()[2]
    assert line.startswith("| small | drawn | cosine | 0.")


def test_features_of_fewer_than_200_people_under_two_cameras_are_refused(tmp_path):
    with pytest.raises(InputProblem, match="199 people under two cameras; name features of at "):
        likelihood.main("open", "drawn", write_people(tmp_path, 199))
