"""Rendered people as a data set: drawn when they are read, the same each time."""

import numpy as np
import pytest

from training.datasets.record import DatasetProblem
from training.datasets.registry import read_dataset

SPEC = "rendered:5,identities=2,cameras=2,crops=2"


@pytest.fixture(scope="module")
def people():
    return read_dataset(SPEC)


def test_every_camera_of_a_site_sees_each_of_its_people(people):
    labels = [(crop.identity, crop.camera) for crop in people.records]
    assert sorted(set(labels)) == [
        (f"s0-000{person}", f"s0-c{camera}") for person in range(2) for camera in range(2)
    ]
    assert len(labels) == 8
    assert "CC0" in people.terms


def test_a_larger_set_has_the_crops_of_a_smaller_one_in_any_order(people):
    larger = read_dataset("rendered:5,identities=3,domains=2,cameras=3,crops=3")
    by_source = {crop.source: crop for crop in larger.records}
    for crop in reversed(people.records):
        np.testing.assert_array_equal(crop.decode(), by_source[crop.source].decode())


def test_crops_of_a_person_differ_and_another_seed_or_site_has_other_people(people):
    first, second = (np.asarray(crop.decode()) for crop in people.records[:2])
    assert first.shape != second.shape or (first != second).any()
    elsewhere = read_dataset("rendered:6,identities=1,domains=2,cameras=1,crops=1").records
    pictures = [crop.content() for crop in (people.records[0], *elsewhere)]
    assert len(set(pictures)) == 3


@pytest.mark.parametrize(
    ("text", "fault"), [("5,people=2", "'people=2' is not one of"), ("5,crops=0", "crops is '0'")]
)
def test_a_wrong_number_is_refused_with_an_example(text, fault):
    with pytest.raises(DatasetProblem, match=f"^rendered:{text}: {fault}.*such as rendered:7"):
        read_dataset(f"rendered:{text}")
