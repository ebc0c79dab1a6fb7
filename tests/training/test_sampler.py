"""PK sampling."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.problems import InputProblem
from training.datasets.record import CropRecord
from training.sampler import PKSampler


def people(domain: str, identities: int, crops: int) -> list[CropRecord]:
    return [
        CropRecord(
            source=f"{domain}/{identity}/{crop}",
            dataset=domain,
            identity=str(identity),
            camera=str(crop % 2),
            domain=domain,
            pixels=np.zeros((8, 8, 3), np.uint8),
        )
        for identity in range(identities)
        for crop in range(crops)
    ]


@settings(max_examples=40, deadline=None)
@given(
    first=st.integers(4, 30),
    second=st.integers(4, 30),
    crops=st.integers(2, 11),
    seed=st.integers(0, 99),
)
def test_a_batch_holds_p_people_with_k_crops_each(
    first: int, second: int, crops: int, seed: int
) -> None:
    records = people("one", first, crops) + people("two", second, crops)
    batches = PKSampler(records, identities=6, images=4, seed=seed).epoch(0)
    assert batches
    for batch in batches:
        counts = Counter(records[row].person for row in batch)
        assert len(counts) == 6
        assert set(counts.values()) == {4}


def test_every_batch_mixes_the_domains_by_their_share() -> None:
    records = people("big", 90, 4) + people("small", 30, 4)
    for batch in PKSampler(records, identities=12, images=4).epoch(0):
        domains = Counter(records[row].domain for row in batch)
        assert 2 * 4 <= domains["small"] <= 4 * 4


def test_an_epoch_uses_an_identitys_crops_once_while_they_last() -> None:
    records = people("one", 8, 9)
    batches = PKSampler(records, identities=4, images=4).epoch(3)
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(set(rows)) == 8 * 2 * 4


def test_the_same_epoch_is_the_same_again_and_the_next_is_another() -> None:
    records = people("one", 20, 5)
    sampler = PKSampler(records, identities=4, images=4, seed=5)
    assert sampler.epoch(2) == PKSampler(records, identities=4, images=4, seed=5).epoch(2)
    assert sampler.epoch(2) != sampler.epoch(3)


def test_one_name_in_two_data_sets_is_two_people() -> None:
    records = people("one", 3, 4) + people("two", 3, 4)
    assert PKSampler(records, identities=6, images=4).epoch(0)


def test_a_person_with_one_crop_is_left_out() -> None:
    records = people("one", 5, 4) + people("lonely", 5, 1)
    rows = {row for batch in PKSampler(records, identities=5, images=4).epoch(0) for row in batch}
    assert {records[row].dataset for row in rows} == {"one"}


def test_too_few_people_for_a_batch_are_refused_with_the_remedy() -> None:
    with pytest.raises(InputProblem, match=r"only 3 identities.*sampling\.identities"):
        PKSampler(people("one", 3, 4), identities=4, images=4)
