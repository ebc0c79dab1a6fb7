"""Galleries with errors, and the doubtful crops that are found in them."""

import json

import numpy as np
import pytest
from PIL import Image

from bench import doubtful, figures
from bench.doubtful import Crops, choose_records, cut_to_a_quarter
from model.arrays import unit_rows
from model.problems import InputProblem
from training.datasets.record import CropRecord

DIMENSION = 64
PEOPLE = 24
CROPS = 12


def _crops(people=PEOPLE):
    """Draw crops about a direction for each person, and quarters about none."""
    random = np.random.default_rng(0)
    directions = np.repeat(random.standard_normal((people, DIMENSION)), CROPS, axis=0)
    count = len(directions)
    features = directions + 0.2 * random.standard_normal((count, DIMENSION))
    return Crops(
        identities=np.repeat([f"{number:02}" for number in range(people)], CROPS),
        features=unit_rows(features.astype(np.float32)),
        quarters=unit_rows(random.standard_normal((count, DIMENSION)).astype(np.float32)),
        quarter_of=np.arange(count),
    )


@pytest.fixture
def run(tiny_artefact, tmp_path, capsys):
    """Measure drawn crops, and return what is printed."""

    def measure(crops):
        cache = tmp_path / "crops.npz"
        np.savez(cache, **crops._asdict())
        doubtful.main(str(tiny_artefact), "market1501:nowhere", cache=cache)
        return json.loads(capsys.readouterr().out)

    return measure


def test_wrong_and_cut_crops_are_found_and_good_ones_are_not_called_so(run):
    printed = run(_crops())
    first = printed["results"][0]
    assert (first["people"], first["most"], first["crops"]) == (12, 12, 144)
    assert (first["wrong"], first["cut"], first["good"], first["only_good"]) == (1.0, 1.0, 0.0, 0.0)
    assert [row["most"] for row in printed["results"]] == list(doubtful.SIZES)
    assert len(printed["margins"]) == len(doubtful.MARGINS)
    table = figures.table("doubtful", printed["results"])
    assert table.splitlines()[2].count("met") == 2


def test_too_few_people_are_refused(run):
    with pytest.raises(InputProblem, match="too few people"):
        run(_crops(people=3))


def test_a_person_has_twelve_crops_at_most_and_a_quarter_half_of_each_side():
    records = [
        CropRecord(f"{person}/{number}", "street", str(person), "east", "street")
        for person in range(3)
        for number in range(20)
    ]
    chosen = choose_records(records, np.random.default_rng(0))
    assert [record.identity for record in chosen] == ["0"] * 12 + ["1"] * 12 + ["2"] * 12
    picture = Image.new("RGB", (20, 40))
    assert cut_to_a_quarter(picture, np.random.default_rng(0)).size == (10, 20)
