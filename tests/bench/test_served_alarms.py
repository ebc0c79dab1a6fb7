"""False alarms through a running service: who searches, and what is counted."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from bench import served_alarms
from bench.served_alarms import figures, splits
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
    assert {one.camera for one in split.gallery} == {"b"}
    assert {one.camera for one in split.searches} == {"a"}
    assert {one.identity for one in split.gallery} == split.known
    assert not {one.identity for one in split.searches} & split.known
    assert (len(split.gallery), len(split.searches)) == (10, 5)


def test_mixed_everybody_searches():
    (split,) = splits(_crops(), mixed=True, number=1)
    assert len(split.searches) == 10


def test_data_of_one_camera_is_refused():
    with pytest.raises(InputProblem, match="1 cameras"):
        next(splits([one for one in _crops() if one.camera == "a"], False, 1))


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
