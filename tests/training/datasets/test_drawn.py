"""Drawn people: the same seed gives the same bytes, and people differ as people do."""

import numpy as np
import pytest

from model.problems import InputProblem
from training.datasets.drawn import draw_people
from training.datasets.registry import read_dataset


@pytest.fixture(scope="module")
def people():
    return draw_people(7, domains=4, identities_per_domain=12, cameras_per_domain=3)


def clothing(record):
    """Return mean colours of chest and legs, relative to the crop's mean."""
    pixels = np.asarray(record.decode()).astype(np.float64)
    parts = (pixels[32:62, 24:40], pixels[74:108, 24:40])
    colours = np.concatenate([part.mean((0, 1)) for part in parts])
    return colours - np.tile(pixels.mean((0, 1)), 2)


def test_the_same_seed_draws_the_same_bytes_and_a_larger_set_holds_the_smaller_ones(people):
    drawn = {record.source: np.asarray(record.decode()) for record in people.records}
    assert len(drawn) == len(people.records) == 4 * 12 * 3 * 2
    assert len({pixels.tobytes() for pixels in drawn.values()}) == len(drawn)
    smaller = draw_people(7, 2, 3, cameras_per_domain=2, crops_per_camera=1)
    for record in smaller.records:
        np.testing.assert_array_equal(np.asarray(record.decode()), drawn[record.source])


def test_another_seed_draws_other_people_of_the_size_asked_for():
    first, other = (draw_people(seed, 1, 1, height=96, width=40).records[0] for seed in (7, 8))
    assert (np.asarray(other.decode()).shape, np.asarray(other.decode()).dtype) == (
        (96, 40, 3),
        np.uint8,
    )
    assert not np.array_equal(np.asarray(first.decode()), np.asarray(other.decode()))


def test_a_person_wears_the_same_clothes_before_every_camera(people):
    for domain in range(4):
        records = [r for r in people.records if r.domain == f"synthetic/domain{domain}"]
        colours = np.stack([clothing(record) for record in records])
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2)
        who = np.array([record.identity for record in records])
        where = np.array([record.camera for record in records])
        elsewhere = where[:, None] != where[None]
        same = who[:, None] == who[None]
        assert apart[same & elsewhere].mean() < 0.75 * apart[~same & elsewhere].mean()


def test_a_spec_names_a_seed_and_counts(people):
    spec = "synthetic:7,identities=2,domains=3,cameras=2,crops=1"
    dataset = read_dataset(spec)
    assert dataset.spec == spec
    assert len(dataset.identities) == 2 * 3
    assert dataset.cameras == [f"d{domain}-c{camera}" for domain in range(3) for camera in range(2)]
    assert len(dataset.records) == 2 * 3 * 2
    np.testing.assert_array_equal(
        np.asarray(dataset.records[0].decode()), np.asarray(people.records[0].decode())
    )


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("-1", "the seed is '-1'"),
        ("7,identities=0", "identities is '0'"),
        ("7,people=3", "'people=3' is not one of identities, domains, cameras, crops"),
        ("7,crops=2,crops=3", "crops is given twice"),
        ("7,domains=1000000", "domains is '1000000'"),
    ],
)
def test_a_wrong_spec_is_refused_with_a_remedy(spec, fault):
    with pytest.raises(InputProblem) as refusal:
        read_dataset(f"synthetic:{spec}")
    assert str(refusal.value).startswith(f"synthetic:{spec}: {fault}")
    assert "such as synthetic:7" in str(refusal.value)
