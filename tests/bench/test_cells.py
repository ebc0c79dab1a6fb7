"""Cells of drawn galleries: who is enrolled, who searches, and what is counted."""

import json

import numpy as np
import pandas as pd
import pytest

from bench import cells, figures
from model.feature_file import Origin
from training.evaluation.files import write_features

DIMENSION = 32


@pytest.fixture
def features(tmp_path):
    """Write four crops a camera of 120 people about directions of their own."""
    random = np.random.default_rng(0)
    columns = {"paths": [], "identities": [], "cameras": []}
    vectors = []
    for person in range(1, 121):
        middle = random.standard_normal(DIMENSION)
        for camera in range(1, 7):
            for frame in (0, 25, 50, 75):
                columns["paths"].append(f"query/{person:04}_c{camera}s1_{frame:06}_00.jpg")
                columns["identities"].append(f"{person:04}")
                columns["cameras"].append(f"c{camera}")
                vectors.append(middle + 0.2 * random.standard_normal(DIMENSION))
    path = tmp_path / "features.npz"
    write_features(path, np.array(vectors, np.float32), columns, Origin("embedder"))
    return path


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("enrolling", [(0,), (0, 1)])
def test_a_gallery_is_searched_by_other_crops_of_its_people_and_of_strangers(
    features, enrolling, seed
):
    crops, _ = cells.read_people(features)
    halves = cells.MARKET_CAMERAS["six"]
    draw = cells.draw_gallery(crops, halves, enrolling, 30, seed)
    cameras = [camera for half in enrolling for camera in halves[(half + seed) % 2]]
    assert set(draw.enrolled.camera) == set(cameras)
    assert draw.enrolled.groupby(["person", "camera"]).size().tolist() == [2] * 30 * len(cameras)
    assert set(draw.known.person) == set(draw.enrolled.person)
    assert not set(draw.known.index) & set(draw.enrolled.index)
    assert draw.strangers.person.nunique() == 90
    assert not set(draw.strangers.person) & set(draw.enrolled.person)
    for asking in (draw.known, draw.strangers):
        assert set(asking.half) == {0, 1}


def test_strangers_match_as_rarely_as_asked_and_people_unlike_others_are_found(
    features, monkeypatch, capsys
):
    monkeypatch.setattr(cells, "GALLERIES", 2)
    monkeypatch.setattr(cells, "SIZES", (30,))
    cells.main("drawn", features)
    rows = json.loads(capsys.readouterr().out)["results"]
    assert len(rows) == len(cells.MARKET_CAMERAS) * len(cells.MIXES)
    table = pd.DataFrame(rows)
    # The people of the drawn set are unlike each other, as those of no camera are.
    assert table.obtained.max() < 5.0
    assert (table.rare <= table.obtained).all()
    assert table.found.min() > 95.0
    assert table.best.min() > 95.0
    first = figures.table("cells", rows).splitlines()[2]
    assert first.startswith("| drawn | c1c2 | 30 | ")
    assert first.count("/") == len(cells.MIXES)
