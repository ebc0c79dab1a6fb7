"""Times as evidence on drawn people: usual ones help, and those at random say little."""

import json

import numpy as np
import pandas as pd
import pytest

from bench import travel_times
from bench.figures import table
from model.feature_file import Origin
from training.evaluation.files import write_features

DIMENSION = 32
PEOPLE = 120
CAMERAS = 3
# Seconds between two cameras.
WALK = 60.0


@pytest.fixture
def features(tmp_path):
    """Write four crops a camera of people who walk past all cameras at their usual pace."""
    random = np.random.default_rng(0)
    paths = []
    vectors = []
    for person in range(1, PEOPLE + 1):
        middle = random.standard_normal(DIMENSION)
        started = random.uniform(0.0, 3000.0)
        for camera in range(1, CAMERAS + 1):
            arrived = started + camera * random.normal(WALK, 5.0)
            for turn in range(4):
                part = "query" if turn == 0 else "bounding_box_test"
                frame = round((arrived + turn) * travel_times.FRAMES_PER_SECOND)
                paths.append(f"{part}/{person:04}_c{camera}s1_{frame:06}_00.jpg")
                vectors.append(middle + 0.7 * random.standard_normal(DIMENSION))
    for name in ("-1_c1s1_000100_00.jpg", "0000_c2s1_000100_00.jpg"):
        paths.append(f"bounding_box_test/{name}")
        vectors.append(random.standard_normal(DIMENSION))
    path = tmp_path / "features.npz"
    write_features(path, np.array(vectors, np.float32), {"paths": paths}, Origin("embedder"))
    return path


def test_usual_times_help_times_at_random_do_not_and_none_change_nothing(
    features, monkeypatch, capsys
):
    monkeypatch.setattr(travel_times, "PEOPLE", 40)
    monkeypatch.setattr(travel_times, "GALLERIES", 2)
    travel_times.main("bundled", features)
    results = json.loads(capsys.readouterr().out)["results"]
    rows = pd.DataFrame(results).set_index(["kind", "times", "weight"])

    official = rows.loc["official"]["all"].map(lambda shares: shares["mAP"])
    assert official["real", 1.0] > official["real", 0.0] + 1.0
    assert official["at random", 0.0] == official["real", 0.0]
    assert official["at random", 1.0] > official["real", 0.0] - 1.0

    galleries = rows.loc["galleries"]
    assert galleries.best["real", 1.0] >= galleries.best["none", 0.0]
    assert (galleries.obtained <= 100.0).all()
    assert "| bundled |" in table("travel-times", results)
