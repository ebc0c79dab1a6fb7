"""Watch lists drawn from features: the judged tracks and the counts."""

import json

import numpy as np
import pandas as pd
import pytest

from bench import figures, watch
from model.feature_file import Origin
from training.evaluation.files import write_features

DIMENSION = 48


def write_tracks(path, names, dimension=DIMENSION):
    """Write a feature for each name, of people about directions of their own."""
    random = np.random.default_rng(0)
    people = {}
    vectors = []
    for name in names:
        middle = people.setdefault(name.split("_")[0], random.standard_normal(dimension))
        vectors.append(middle + 0.3 * random.standard_normal(dimension))
    columns = {"paths": [f"market/query/{name}" for name in names]}
    write_features(
        path,
        np.array(vectors, np.float32),
        columns,
        Origin("embedder"),
    )
    return path


def people_in_tracks(number):
    return [
        f"{person:04}_c{camera}s1_{frame:06}_00.jpg"
        for person in range(1, number + 1)
        for camera in range(1, 7)
        for frame in (0, 25, 9000)
    ]


def test_a_track_ends_with_its_camera_and_with_a_gap_of_a_thousand_frames(tmp_path):
    names = ["0002_c1s1_000100_01.jpg", "0002_c1s1_001050_01.jpg", "0002_c1s1_002051_01.jpg"]
    names += ["0002_c2s1_002060_01.jpg", "0002_c2s2_002070_01.jpg", "0003_c2s2_002070_01.jpg"]
    names += ["0000_c1s1_000001_00.jpg", "-1_c1s1_000001_00.jpg"]
    crops, features = watch.read_crops(write_tracks(tmp_path / "features.npz", names))
    assert len(features) == 8
    assert crops.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert crops.track.tolist() == [1, 1, 2, 3, 4, 5]


def test_crops_of_the_training_part_are_not_judged(tmp_path):
    path = tmp_path / "features.npz"
    columns = {"paths": ["bounding_box_train/0002_c1s1_000100_01.jpg"]}
    write_features(
        path,
        np.ones((1, 3), np.float32),
        columns,
        Origin("embedder"),
    )
    assert watch.read_crops(path)[0].empty


@pytest.mark.parametrize("camera", watch.CAMERAS)
def test_people_unlike_others_are_found_and_alarms_stay_within_the_forecast(
    tmp_path, monkeypatch, camera
):
    monkeypatch.setattr(watch, "LISTS", len(watch.CAMERAS[camera]))
    crops, features = watch.read_crops(
        write_tracks(tmp_path / "features.npz", people_in_tracks(150))
    )
    pairs = np.random.default_rng(5).standard_normal((1000, 2, DIMENSION))
    reference = pairs.sum(axis=1).astype(np.float32)
    rows = pd.DataFrame(watch.judge_lists(crops, features, reference, 3, camera))
    reviewed = {watch.REVIEWED, watch.ATTACKED} if camera == "own" else set()
    assert set(rows.traffic) == {"none", *watch.TRAFFIC} | reviewed
    assert len(rows) == watch.LISTS * len(watch.RATES) * rows.traffic.nunique()
    assert rows.obtained.mean() > 0.95
    assert (rows.raised <= rows.high).all()
    cells = [{"artefact": "a", "camera": camera, "traffic": "none", "size": 3}] * 2
    cells = [
        cell | {"rate": rate} | watch.figures(rows[rows.rate == rate])
        for cell, rate in zip(cells, watch.RATES, strict=True)
    ]
    table = figures.table("watch", cells)
    assert "3 people" in table
    assert f"/{cells[0]['found']:.0%} |" in table


def test_the_own_camera_has_lists_of_one_track_of_people_who_chose_no_constant(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(watch, "LISTS", 1)
    crops, features = watch.read_crops(
        write_tracks(tmp_path / "features.npz", people_in_tracks(60))
    )
    drawn = []

    def draw_list(crops, size, crops_per_person):
        drawn.append(crops)
        return watch_draw_list(crops, size, crops_per_person)

    watch_draw_list = watch.draw_list
    monkeypatch.setattr(watch, "draw_list", draw_list)
    reference = np.random.default_rng(5).standard_normal((500, DIMENSION)).astype(np.float32)
    judged = watch.judge_lists(crops, features, reference, 3, "own")
    assert len({row["judged"] for row in judged}) == 1
    (enrolled,) = drawn
    assert set(enrolled.person % 2) == {1}
    assert set(enrolled.camera) == {watch.CAMERAS["own"][0][0]}
    assert (enrolled.groupby("person").track.nunique() == 1).all()


def test_an_artefact_without_a_reference_is_measured_where_it_promises_something(
    tiny_artefact, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(watch, "LISTS", 1)
    monkeypatch.setattr(watch, "SIZES", (3, 18))
    path = write_tracks(tmp_path / "features.npz", people_in_tracks(60))
    watch.main(str(tiny_artefact), path)
    rows = json.loads(capsys.readouterr().out)["results"]
    assert {row["size"] for row in rows} == {18}
    assert {(row["traffic"], row["rate"]) for row in rows} == {("none", 0.01)}
    assert {row["camera"] for row in rows} == set(watch.CAMERAS)


def test_the_figures_of_lists_are_shares_and_quantiles():
    rows = pd.DataFrame(
        {
            "rate": [0.01] * 4,
            "judged": [1000] * 4,
            "raised": [0, 10, 10, 20],
            "low": [0, 0, 0, 0],
            "high": [15, 15, 15, 15],
            "obtained": [1.0, 0.5, 0.5, 1.0],
            "found_basis": ["one_camera", "one_camera", "not_known", "several_cameras"],
            "found_low": [None, None, None, 0.9],
            "found_high": [1.0, 0.4, None, 1.0],
        }
    )
    assert watch.figures(rows) == {
        "ratio": [1.0, 0.15, 1.85],
        "mean_ratio": 1.0,
        "inside": 0.75,
        "above": 0.25,
        "found": 0.75,
        "as_forecast": {"not_known": 1.0, "one_camera": 0.5, "several_cameras": 1.0},
    }
