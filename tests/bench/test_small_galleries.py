"""Galleries of few people are judged by the thresholds of an artefact."""

import json

import numpy as np
import pytest

from bench import figures, small_galleries
from model.artefact import read_description
from model.feature_file import Origin
from training.evaluation.files import write_features

DIMENSION = 256


@pytest.fixture
def features(tmp_path):
    """Write four crops a camera of 60 people about directions of their own."""
    random = np.random.default_rng(0)
    columns = {"paths": [], "identities": [], "cameras": []}
    vectors = []
    for person in range(60):
        middle = random.standard_normal(DIMENSION)
        for camera in "AB":
            for number in range(4):
                columns["paths"].append(f"{person}{camera}{number}.png")
                columns["identities"].append(str(person))
                columns["cameras"].append(camera)
                vectors.append(middle + 0.2 * random.standard_normal(DIMENSION))
    path = tmp_path / "features.npz"
    write_features(path, np.array(vectors, np.float32), columns, Origin("embedder"))
    return path


def test_people_unlike_others_are_found_and_strangers_raise_no_alarm(
    features, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(small_galleries, "GALLERIES", 2)
    small_galleries.main("open", "drawn", features)
    printed = tmp_path / "small.json"
    printed.write_text(capsys.readouterr().out)
    rows = json.loads(printed.read_text())["results"]
    assert {row["size"] for row in rows} == set(small_galleries.SIZES)
    assert all((row["obtained"], row["found"]) == (0.0, 100.0) for row in rows)
    table = figures.table("small-galleries", figures.read_rows("small-galleries", str(printed)))
    assert "| open, drawn | AB | 17 | 0.0 · 100 |" in table


def test_more_than_two_crops_of_a_person_raise_the_threshold(features):
    calibration = read_description(small_galleries.resolve_artefact("open")).calibration
    asked = []

    class Recorder:
        def search_threshold(self, rate, people):
            asked.append((rate, people))
            return calibration.scorings["cosine"].search_threshold(rate, people)

    crops, units = small_galleries.read_people(features)
    halves = small_galleries.TWO_CAMERAS["AB"]
    for enrolling in ((0,), (0, 1)):
        draw = small_galleries.draw_gallery(crops, halves, enrolling, 10, 0)
        small_galleries.judge_gallery(draw, units, Recorder())
    assert asked == [(0.01, 10), (0.01, 14)]
