"""People of a site and others: who is measured, who is fitted to, and what a table shows."""

import json

import numpy as np
import pandas as pd
import pytest

from bench import adapting, figures
from model.feature_file import Origin
from model.problems import InputProblem
from training.evaluation.files import write_features

DIMENSION = 48


@pytest.fixture
def street(monkeypatch):
    """30 people under two cameras, three crops of each, and one whom a single camera sees."""
    monkeypatch.setattr(adapting, "MEASURED", 12)
    monkeypatch.setattr(adapting, "SIZES", (4, 10))
    labels = [(person, camera) for person in range(30) for camera in "AB"] + [(99, "A")]
    return pd.DataFrame(labels * 3, columns=["person", "camera"])


def test_people_are_measured_whom_no_site_has(street):
    measured, sites = adapting.draw_people(street, 0)
    assert (measured.person.nunique(), sites[4].person.nunique()) == (12, 4)
    assert set(sites[4].person) < set(sites[10].person)
    assert not {*measured.person, 99} & set(sites[10].person)
    assert 99 not in set(measured.person)
    for drawn in (measured, sites[10]):
        assert set(drawn.groupby(["person", "camera"]).size()) == {adapting.CROPS}
    assert set(adapting.draw_people(street, 1)[0].person) != set(measured.person)


def test_too_few_people_are_refused_with_the_number_that_is_needed(street, monkeypatch):
    monkeypatch.setattr(adapting, "SIZES", (4, 30))
    with pytest.raises(InputProblem, match="show 30 people under two cameras; embed 42 or more"):
        adapting.draw_people(street, 0)


def test_people_gain_whose_cameras_change_all_alike(street, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(adapting, "DRAWS", 2)
    random = np.random.default_rng(0)
    shared = random.standard_normal((4, DIMENSION))
    middles = random.standard_normal((100, DIMENSION))
    vectors = [
        middles[crop.person] + 0.5 * random.standard_normal(4) @ shared
        for crop in street.itertuples()
    ]
    columns = {
        "paths": [f"{row}.png" for row in street.index],
        "identities": street.person.astype(str).tolist(),
        "cameras": street.camera.tolist(),
    }
    path = tmp_path / "features.npz"
    write_features(path, np.array(vectors, np.float32), columns, Origin("embedder"))
    adapting.main("open", "street", path)
    printed = tmp_path / "adapting.json"
    printed.write_text(capsys.readouterr().out)
    rows = json.loads(printed.read_text())["results"]
    assert len(rows) == 2 * 3 * 2
    means = pd.DataFrame(rows).groupby(["searched", "people"]).mAP.mean()
    for searched in adapting.SEARCHED:
        assert means[searched, 10] > means[searched, 0]
    assert means["other cameras", 0] > means["all cameras", 0]
    lines = figures.table("adapting", figures.read_rows("adapting", str(printed))).splitlines()
    assert len(lines) == 2 + 2 * 3


def test_a_table_has_the_mean_and_range_of_draws_and_the_gain_of_each_over_its_start():
    shares = {"rank_1": 80.0, "found": 40.0}
    rows = [
        {"artefact": "open", "data": "street", "searched": "all cameras"}
        | {"draw": draw, "people": people, "mAP": mean_precision}
        | shares
        for draw, people, mean_precision in ((0, 0, 70), (0, 5, 72), (1, 0, 60), (1, 5, 64))
    ]
    start, adapted = figures.table("adapting", rows).splitlines()[2:]
    assert start.startswith("| open | street | all cameras | nobody | 65.0 [60.0, 70.0] | – |")
    assert "| 5 people | 68.0 [64.0, 72.0] | +3.0 [+2.0, +4.0] |" in adapted
