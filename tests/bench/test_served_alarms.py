"""False alarms through a running service: the searches and the counts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench import served_alarms
from bench.served_alarms import figures, splits
from bench.tables import pictures_table
from model.feature_file import FeatureFile, Origin
from model.problems import InputProblem
from service.commands.bulk import SourceCrop


def _crops() -> list[SourceCrop]:
    return [
        SourceCrop(f"{person}{camera}{number}", bytes, str(person), camera)
        for person in range(10)
        for camera, number in (("a", 0), ("b", 0), ("b", 1))
    ]


def test_strangers_search_what_the_others_fill_from_another_camera():
    (split,) = splits(_crops(), mixed=False, number=1)
    assert {crop.camera for crop in split.gallery} == {"b"}
    assert {crop.camera for crop in split.searches} == {"a"}
    assert {crop.identity for crop in split.gallery} == split.known
    assert not {crop.identity for crop in split.searches} & split.known
    assert (len(split.gallery), len(split.searches)) == (10, 5)


def test_mixed_everybody_searches():
    (split,) = splits(_crops(), mixed=True, number=1)
    assert len(split.searches) == 10


def test_data_of_one_camera_is_refused():
    with pytest.raises(InputProblem, match="1 cameras"):
        next(splits([crop for crop in _crops() if crop.camera == "a"], False, 1))


def test_alarms_are_of_strangers_and_detections_of_the_known_who_are_found():
    judged = [
        ("g", "s1", False, True, False, 0.9),
        *(("g", f"s{number}", False, False, False, 0.1) for number in range(2, 5)),
        ("g", "k1", True, True, True, 0.95),
        ("g", "k2", True, True, False, 0.99),
    ]
    columns = ["gallery", "identity", "known", "matched", "right", "score"]
    found = figures(pd.DataFrame(judged, columns=columns))
    assert (found["searches"], found["people"], found["detected"]) == (4, 4, 0.5)
    assert found["obtained"][0] == 0.25
    assert found["best"] == 0.5


@pytest.fixture
def features() -> FeatureFile:
    """30 people under four cameras, five crops in each."""
    labels = [(f"{person}", f"c{camera}") for person in range(30) for camera in range(4)] * 5
    columns = {
        "paths": tuple(f"{number}.png" for number in range(len(labels))),
        "identities": tuple(identity for identity, _ in labels),
        "cameras": tuple(camera for _, camera in labels),
    }
    vectors = np.zeros((len(labels), 4), np.float32)
    return FeatureFile(Path("features.npz"), vectors, Origin("e"), columns)


def test_the_pictures_of_a_search_show_one_person_under_cameras_that_enroll_nobody(features):
    rows, searches, known = served_alarms.draw_people(features, 10, 0)
    identities = np.array(features.columns["identities"])
    cameras = np.array(features.columns["cameras"])
    assert set(identities[rows]) == known
    assert len(rows) == 10 * 2 * served_alarms.ENROLLED_CROPS
    for pictures, groups in searches.items():
        asking = np.array(groups)
        assert asking.shape[1] == pictures
        assert (identities[asking] == identities[asking][:, :1]).all()
        assert not set(cameras[asking].flat) & set(cameras[rows])
        assert set(identities[asking[:, 0]]) > known
    assert served_alarms.draw_people(features, 10, 1)[2] != known


def test_a_table_has_a_column_for_each_number_of_pictures():
    row = {"artefact": "bundled", "data": "street", "size": 50, "strangers": 9, "detected": 0.5}
    rows = [row | {"pictures": number, "obtained": [0.01, 0.0, 0.02]} for number in (1, 2)]
    table = pictures_table([*rows, rows[0] | {"size": 100}]).splitlines()
    assert table[0] == "| artefact | crops | people | 1 picture | 2 pictures |"
    assert table[2] == "| bundled | street | 50 | 1.0 [0.0-2.0] · 50 | 1.0 [0.0-2.0] · 50 |"
    assert table[3].startswith("| bundled | street | 100 | 1.0 [0.0-2.0] · 50 |")


@pytest.mark.slow
def test_a_service_is_started_and_searched(tiny_artefact, capsys, monkeypatch):
    monkeypatch.setenv("GMN_DEVICE", "cpu")
    monkeypatch.setenv("GMN_RUNTIME", "torch")
    data = "synthetic:3,identities=140,domains=1,cameras=2,crops=2"
    served_alarms.main(str(tiny_artefact), [data], number=1)
    found = json.loads(capsys.readouterr().out)
    for scoring in ("mnet", "cosine"):
        rate, low, high = found[scoring]["obtained"]
        assert 0.0 <= low <= rate <= high <= 1.0
