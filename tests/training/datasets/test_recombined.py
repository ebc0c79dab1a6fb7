"""Recombined people: the upper half of one over the lower half of another, camera by camera."""

import numpy as np
import pytest
from PIL import Image

from training.datasets.recombined import recombine
from training.datasets.record import crop_in_file


@pytest.fixture
def records(tmp_path):
    """Five people of one plain colour each, under two cameras; the last under one alone."""
    made = []
    for person in range(5):
        for camera in ("a", "b") if person < 4 else ("a",):
            file = tmp_path / f"{person}-{camera}.png"
            Image.new("RGB", (20, 40), (40 * person, 0, 10 if camera == "a" else 20)).save(file)
            made.append(crop_in_file(file, "street", str(person), camera))
    return made


def test_a_new_person_is_seen_by_the_cameras_that_both_were_seen_by(records):
    made = recombine(records, per_set=6, seed=0)
    assert len({record.person for record in made}) == 6
    for record in made:
        upper, lower = record.identity.split(" over ")
        assert upper != lower
        assert "4" not in (upper, lower)
        pixels = np.asarray(record.decode())
        tint = 10 if record.camera == "a" else 20
        assert tuple(pixels[2, 5]) == (40 * int(upper), 0, tint)
        assert tuple(pixels[-2, 5]) == (40 * int(lower), 0, tint)
    assert {record.camera for record in made} == {"a", "b"}
    # No label is that of a real person, and there are no more new people than pairs.
    assert {record.person for record in made}.isdisjoint(record.person for record in records)
    assert len({record.person for record in recombine(records, 100, seed=0)}) == 4 * 3


def test_the_same_seed_makes_the_same_people_and_another_others(records):
    first, again, other = (recombine(records, 4, seed) for seed in (0, 0, 1))
    assert [record.source for record in first] == [record.source for record in again]
    assert [record.source for record in first] != [record.source for record in other]
