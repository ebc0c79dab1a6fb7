"""Silent people beside drawn watch lists: when a track rings, who is judged, what is counted."""

import json

import numpy as np
import pandas as pd
import pytest

from bench import figures, silent, watch
from model.artefact import load_artefact, resolve_artefact
from tests.bench.test_watch import people_in_tracks, write_tracks


def test_a_track_rings_at_the_first_crop_by_which_the_listed_person_explains_it_better():
    looks = pd.DataFrame(
        [
            # Silent at first; then the listed person is nearer than the silent one ever was.
            {"track": 1, "score": 0.6, "listed": 0.6, "limit": 0.7, "right": False},
            {"track": 1, "score": 0.8, "listed": 0.8, "limit": 0.5, "right": True},
            # Above the threshold while the silent person has been nearer before.
            {"track": 2, "score": 0.1, "listed": 0.1, "limit": 0.9, "right": True},
            {"track": 2, "score": 0.8, "listed": 0.8, "limit": 0.5, "right": True},
            # It rings, and a later crop takes nothing back.
            {"track": 3, "score": 0.6, "listed": 0.6, "limit": 0.5, "right": False},
            {"track": 3, "score": 0.1, "listed": 0.1, "limit": 0.9, "right": False},
            # Never above the threshold.
            {"track": 4, "score": 0.3, "listed": 0.9, "limit": 0.1, "right": True},
        ]
    ).assign(person=7)
    tracks = silent.ring(looks, 0.5)
    assert tracks.rings_before.tolist() == [True, True, True, False]
    assert tracks.rings.tolist() == [True, False, True, False]
    assert tracks.finds_before.tolist() == [True, True, False, False]
    assert tracks.finds.tolist() == [True, False, False, False]
    assert tracks.person.tolist() == [7] * 4


@pytest.mark.parametrize("enrolled_by", silent.ENROLLED_BY)
def test_silent_people_unlike_others_ring_no_more_and_listed_people_are_found(
    tmp_path, monkeypatch, enrolled_by
):
    monkeypatch.setattr(silent, "LISTS", 6)
    monkeypatch.setattr(silent, "SILENT_DRAWS", 2)
    path = write_tracks(tmp_path / "features.npz", people_in_tracks(150))
    crops, features = watch.read_crops(path)
    pairs = np.random.default_rng(5).standard_normal((1000, 2, features.shape[1]))
    reference = pairs.sum(axis=1).astype(np.float32)
    judged = silent.judge_lists(crops, features, reference, 0.08, 9, enrolled_by)
    rows = pd.DataFrame(judged)
    assert len(rows) == 6 * 2 * len(silent.RATES)
    assert (rows.silent > 0).all()
    assert rows.silent_alarms.sum() == 0
    assert (rows.found == rows.found_before).all()
    assert (rows.stranger_alarms <= rows.stranger_alarms_before).all()


def test_a_half_of_the_people_is_drawn_and_printed_and_the_table_says_what_missed_its_aim(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(silent, "LISTS", 1)
    monkeypatch.setattr(silent, "SIZES", (9,))
    drawn = []
    judge = silent.judge_lists

    def judge_lists(crops, *more):
        drawn.append(set(crops.person % 2))
        return judge(crops, *more)

    monkeypatch.setattr(silent, "judge_lists", judge_lists)
    dimension = load_artefact(resolve_artefact("small")).reference.shape[1]
    path = write_tracks(tmp_path / "features.npz", people_in_tracks(80), dimension)
    silent.main("small", path, "even")
    rows = json.loads(capsys.readouterr().out)["results"]
    assert drawn == [{0}] * len(silent.ENROLLED_BY)
    assert len(rows) == len(silent.ENROLLED_BY) * len(silent.RATES)
    met = rows[0] | {"silent_alarms": 0.1, "found_before": 0.95, "found": 0.93}
    missed = met | {"rate": 1e-3, "silent_alarms": 0.11}
    lost = met | {"size": 30, "found": 0.92}
    table = figures.table("silent", [met, missed, lost])
    assert "| 10% of" in table
    assert "| **11%** of" in table
    assert "| **10%** of" in table
