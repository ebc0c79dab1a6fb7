"""Drawn people: the same seed gives the same bytes, and people differ as people do."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from model.problems import InputProblem
from training.datasets.record import CropRecord, Dataset
from training.datasets.synthetic import draw_people, read_synthetic


@pytest.fixture(scope="module")
def people() -> Dataset:
    return draw_people(7, domains=4, identities_per_domain=12, cameras_per_domain=3)


def clothing(record: CropRecord) -> NDArray[np.float64]:
    """Mean colours of chest and legs, relative to the crop's mean, as a person would name them."""
    pixels = record.decode().astype(np.float64)
    parts = (pixels[32:62, 24:40], pixels[74:108, 24:40])
    relative: NDArray[np.float64] = np.stack([part.mean((0, 1)) for part in parts])
    relative -= pixels.mean((0, 1))
    return relative.reshape(-1)


def mean_colour(records: list[CropRecord]) -> NDArray[np.float64]:
    means: NDArray[np.float64] = np.stack([r.decode().mean((0, 1)) for r in records])
    colour: NDArray[np.float64] = means.mean(0)
    return colour


def test_the_same_seed_draws_the_same_bytes(people: Dataset) -> None:
    again = draw_people(7, domains=4, identities_per_domain=12, cameras_per_domain=3)
    assert [record.source for record in again.records] == [r.source for r in people.records]
    for first, second in zip(people.records, again.records, strict=True):
        np.testing.assert_array_equal(first.decode(), second.decode())


def test_another_seed_draws_other_people(people: Dataset) -> None:
    other = draw_people(8, domains=1, identities_per_domain=1)
    assert not np.array_equal(other.records[0].decode(), people.records[0].decode())


def test_a_larger_set_holds_the_smaller_ones_crops_unchanged(people: Dataset) -> None:
    drawn = {record.source: record.decode() for record in people.records}
    smaller = draw_people(
        7, domains=2, identities_per_domain=3, cameras_per_domain=2, crops_per_camera=1
    )
    for record in smaller.records:
        np.testing.assert_array_equal(record.decode(), drawn[record.source])


def test_as_many_crops_are_drawn_as_were_asked_for() -> None:
    people = draw_people(
        1, domains=2, identities_per_domain=5, cameras_per_domain=4, crops_per_camera=3,
        height=96, width=40,
    )  # fmt: skip
    assert len(people.records) == 2 * 5 * 4 * 3
    assert len(people.identities) == 2 * 5
    assert people.cameras == [f"d{domain}-c{camera}" for domain in (0, 1) for camera in range(4)]
    assert {record.domain for record in people.records} == {
        "synthetic/domain0",
        "synthetic/domain1",
    }
    assert len({record.source for record in people.records}) == len(people.records)
    for record in people.records:
        assert record.decode().shape == (96, 40, 3)
        assert record.decode().dtype == np.uint8


def test_a_record_says_who_where_and_under_what_terms(people: Dataset) -> None:
    record = next(r for r in people.records if r.source == "synthetic:7/d2/0011/c1/0")
    assert (record.identity, record.camera) == ("d2-0011", "d2-c1")
    assert (record.dataset, record.domain) == ("synthetic", "synthetic/domain2")
    assert people.name == "synthetic"
    assert people.terms == "Drawn by this project; no person is shown."


def test_a_person_wears_the_same_clothes_before_every_camera(people: Dataset) -> None:
    for domain in range(4):
        records = [r for r in people.records if r.domain == f"synthetic/domain{domain}"]
        colours = np.stack([clothing(record) for record in records])
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2)
        who = np.array([record.identity for record in records])
        where = np.array([record.camera for record in records])
        elsewhere = where[:, None] != where[None]
        same = who[:, None] == who[None]
        assert apart[same & elsewhere].mean() < 0.75 * apart[~same & elsewhere].mean()


def test_no_two_crops_of_a_person_are_alike(people: Dataset) -> None:
    first = [r.decode().tobytes() for r in people.records if r.identity == "d1-0003"]
    assert len(set(first)) == len(first) == 6


def test_cameras_and_domains_see_in_different_colours(people: Dataset) -> None:
    by_camera = {
        camera: mean_colour([r for r in people.records if r.camera == camera])
        for camera in people.cameras
    }
    for domain in range(4):
        cameras = np.stack([by_camera[f"d{domain}-c{camera}"] for camera in range(3)])
        assert np.ptp(cameras, axis=0).max() > 4.0
    domains = np.stack(
        [np.mean([by_camera[f"d{d}-c{c}"] for c in range(3)], axis=0) for d in range(4)]
    )
    assert np.ptp(domains, axis=0).max() > 15.0


def test_a_spec_names_a_seed_and_counts() -> None:
    people = read_synthetic("7,identities=2,domains=3,cameras=2,crops=1")
    assert people.spec == "synthetic:7,identities=2,domains=3,cameras=2,crops=1"
    assert len(people.identities) == 6
    assert len(people.records) == 12
    expected = draw_people(
        7, domains=3, identities_per_domain=2, cameras_per_domain=2, crops_per_camera=1
    )
    np.testing.assert_array_equal(people.records[5].decode(), expected.records[5].decode())


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("", "the seed is ''"),
        ("seven", "the seed is 'seven'"),
        ("-1", "the seed is '-1'"),
        ("7,identities=0", "identities is '0'"),
        ("7,identities=many", "identities is 'many'"),
        ("7,identities", "identities is ''"),
        ("7,people=3", "'people=3' is not one of identities, domains, cameras, crops"),
        ("7,crops=2,crops=3", "crops is given twice"),
        ("7,domains=1000000", "domains is '1000000'"),
    ],
)
def test_a_wrong_spec_is_refused_with_a_remedy(spec: str, fault: str) -> None:
    with pytest.raises(InputProblem) as refusal:
        read_synthetic(spec)
    assert str(refusal.value).startswith(f"synthetic:{spec}: ")
    assert fault in str(refusal.value)
    assert "such as synthetic:7" in str(refusal.value)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(InputProblem, match="counts of at least 1"):
        draw_people(7, domains=0)
