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


def test_the_table_of_spreads_shows_searches_by_other_cameras_and_the_range_of_all_cells():
    cell = {"artefact": "drawn", "cameras": "AB", "centred": False, "scaled": True, "spread": 0.5}
    rows = [
        cell | {"mix": "own", "size": 30, "obtained": 0.7, "found": 60.0, "best": 80.0},
        cell | {"mix": "other", "size": 30, "obtained": 1.2, "found": 50.0, "best": 55.0},
        cell | {"mix": "other", "size": 100, "obtained": 1.0, "found": 40.0, "best": 39.0},
    ]
    condensed = figures.condense_cells(rows)
    (line,) = figures.table("spreads", [condensed]).splitlines()[2:]
    assert line == "| drawn | plain | yes | 1.2 · 50/55 | 1.0 · 40/39 | 0.7 to 1.2 | 0.75 |"


def test_a_gallery_of_enough_people_is_centred_by_its_own_crops(features):
    crops, units = cells.read_people(features)
    halves = cells.MARKET_CAMERAS["c1c2"]
    large = cells.draw_gallery(crops, halves, (0,), 60, 0)
    centred = cells.prepare_vectors(crops, large, units, centred=True, scaled=True)
    assert not np.allclose(centred.units, units, atol=0.01)
    first_rows = large.enrolled.groupby("person").head(1).index
    expected = units - units[first_rows].astype(np.float64).mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    # Only camera 1 enrolls, and its mean is then that of the whole gallery.
    np.testing.assert_allclose(centred.units, expected, atol=1e-6)
    np.testing.assert_array_equal(centred.spreads, 1.0)
    small = cells.draw_gallery(crops, halves, (0,), 30, 0)
    assert cells.prepare_vectors(crops, small, units, centred=True, scaled=True).units is units


def test_unnamed_crops_give_every_camera_a_mean_and_a_spread(features):
    crops, units = cells.read_people(features)
    halves = cells.MARKET_CAMERAS["c1c2"]
    draw = cells.draw_gallery(crops, halves, (0,), 30, 0, unnamed=50)
    plain = cells.draw_gallery(crops, halves, (0,), 30, 0)
    assert draw.enrolled.equals(plain.enrolled)
    assert draw.known.equals(plain.known)
    assert draw.unnamed.groupby(["person", "camera"]).size().tolist() == [1] * 100
    assert draw.strangers.person.nunique() == 40
    assert not set(draw.unnamed.person) & set(draw.strangers.person)
    for centred in (False, True):
        vectors = cells.prepare_vectors(crops, draw, units, centred, scaled=True)
        second = crops.index[crops.camera == "c2"]
        assert set(vectors.spreads[second]) != {1.0}
        assert len(set(vectors.spreads)) == 3
        assert (vectors.units is units) == (not centred)
        unscaled = cells.prepare_vectors(crops, draw, units, centred, scaled=False)
        np.testing.assert_array_equal(unscaled.units, vectors.units)
        np.testing.assert_array_equal(unscaled.spreads, 1.0)


def test_strangers_of_a_less_spread_camera_match_by_a_lower_threshold():
    leaders = np.array([[0.5, *[0.1] * 8], [0.3, *[0.1] * 8]])
    random = np.random.default_rng(0)
    names = np.arange(60)
    left_out = -np.sort(-random.normal(0.1, 0.03, (60, 9)))
    thresholds = cells.fit_thresholds([cells.LeftOutSearches(left_out, names, 60)])
    tails = {spread: thresholds.tail(60, spread=spread) for spread in (1.0, 0.5)}
    limit = tails[1.0].threshold(0.01, 0.1) - 0.1
    leaders[:, 0] = 0.1 + 0.75 * limit
    answers = pd.DataFrame({"spread": [1.0, 0.5], "leaders": list(leaders)})
    assert cells._reaching(answers, tails, 0.01).tolist() == [False, True]
