"""Drawn galleries whose cameras shift all vectors: what centring gives, and how it is decided."""

import json

import numpy as np
import pytest

from bench import centring, figures
from model.feature_file import Origin
from training.evaluation.files import write_features

DIMENSION = 24
CAMERAS = ("c1", "c2", "c3")


@pytest.fixture
def features(tmp_path):
    """Write two crops a camera of 90 people, and crops that are not tested."""
    random = np.random.default_rng(0)
    shifts = random.standard_normal((len(CAMERAS), DIMENSION))
    shifts *= 0.7 / np.linalg.norm(shifts, axis=1, keepdims=True)
    columns = {"paths": [], "identities": [], "cameras": []}
    vectors = []
    for person in range(1, 91):
        look = random.standard_normal(DIMENSION)
        look /= np.linalg.norm(look)
        for camera, shift in zip(CAMERAS, shifts, strict=True):
            for crop in range(2):
                columns["paths"].append(f"query/{person}_{camera}_{crop}.jpg")
                columns["identities"].append(f"{person:04}")
                columns["cameras"].append(camera)
                vectors.append(look + shift + 0.15 * random.standard_normal(DIMENSION))
    for path, identity, cameras in (
        ("bounding_box_train/1.jpg", "9999", CAMERAS),
        ("query/-1.jpg", "-1", CAMERAS),
        ("query/1.jpg", "9998", CAMERAS[:1]),
    ):
        for camera in cameras:
            columns["paths"].append(path)
            columns["identities"].append(identity)
            columns["cameras"].append(camera)
            vectors.append(random.standard_normal(DIMENSION))
    path = tmp_path / "features.npz"
    write_features(path, np.array(vectors, np.float32), columns, Origin("embedder"))
    return path


def test_tested_people_of_several_cameras_are_read_and_files_are_joined(features):
    crops = centring.read_crops([features])
    assert len(crops.people) == 90 * 3 * 2
    assert np.unique(crops.cameras).tolist() == [0, 1, 2]
    np.testing.assert_allclose(np.linalg.norm(crops.units, axis=1), 1.0, atol=1e-6)
    assert len(centring.read_crops([features, features]).people) == len(crops.people)


def test_a_gallery_has_half_of_the_crops_and_one_camera_misses_the_others(features):
    crops = centring.read_crops([features])
    queries, gallery = centring.draw_gallery(crops, 10, 20, np.random.default_rng(1))
    assert len(queries.people) == 10 * 3
    assert len(np.unique(queries.people)) == 10
    assert len(gallery.people) == 10 * 3 + 20 * 2 * 2
    seen = [len(np.unique(gallery.people[gallery.cameras == camera])) for camera in range(3)]
    assert sorted(seen) == [10, 30, 30]


def test_strangers_at_the_best_threshold_are_one_in_a_hundred():
    units = np.eye(200, dtype=np.float32)
    people = np.repeat(np.arange(200), 2)
    crops = centring.Crops(np.repeat(units, 2, axis=0), people, np.tile([0, 1], 200))
    for others_only in (False, True):
        assert centring.found_people(crops, np.arange(100), others_only) == (100.0, 100.0)
    alike = crops._replace(units=np.ones_like(crops.units) / np.sqrt(200))
    assert centring.found_people(alike, np.arange(100), False) == (0.0, 0.0)


def test_many_people_in_the_means_gain_and_few_people_lose(features, monkeypatch, capsys):
    monkeypatch.setattr(centring, "DRAWS", 3)
    monkeypatch.setattr(centring, "RANKED", 40)
    monkeypatch.setattr(centring, "PEOPLE_OF_A_MEAN", (1, 50))
    monkeypatch.setattr(centring, "PEOPLE_OF_A_CAMERA", (10, 60))
    monkeypatch.setattr(centring, "PEOPLE_OF_OTHER_CAMERAS", 60)
    centring.main("drawn", [features])
    printed = json.loads(capsys.readouterr().out)
    ranked = {(row["searched"], row["people"]): row for row in printed["results"]}
    assert set(ranked) == {(searched, k) for searched in centring.SEARCHED for k in (0, 1, 50)}
    for searched in centring.SEARCHED:
        plain, one, many = (ranked[searched, people] for people in (0, 1, 50))
        assert (plain["mAP_gain"], plain["found_gain"], plain["found_by_level_gain"]) == (0, 0, 0)
        assert one["mAP_gain"] < many["mAP_gain"]
    assert ranked["all cameras", 1]["mAP_gain"] < 0.0
    assert ranked["all cameras", 50]["mAP_gain"] > 0.0
    assert ranked["all cameras", 50]["found_gain"] > 0.0

    galleries = printed["galleries"]
    rows = {(row["searched"], row["others"], row["people"]): row for row in galleries}
    assert len(rows) == len(galleries) == 6
    few, many, beside = (rows["all cameras", *key] for key in ((0, 10), (0, 60), (60, 10)))
    assert few["has_means"] == few["is_centred"] == few["decided"] == 0.0
    assert many["has_means"] == many["is_centred"] == 1.0
    assert many["decided"] == many["by_rule"] > 0.0
    # The further people are enough for means.
    assert beside["has_means"] == 1.0

    table = figures.table("centring", printed["results"])
    assert table.count("\n| drawn | all cameras | ") == 3
    table = figures.table("centred-galleries", galleries)
    assert table.count("\n| drawn | all cameras | ") == 3
