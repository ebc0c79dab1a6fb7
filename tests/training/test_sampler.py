"""PK sampling."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from training.datasets.record import CropRecord
from training.sampler import Sampling, build_sampler


def people(domain, identities, crops):
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


def sampler(records, identities, images, seed=0, order="crops"):
    settings = Sampling(identities=identities, images=images, order=order)
    return build_sampler(records, settings, seed)


@settings(max_examples=40)
@given(
    first=st.integers(4, 30),
    second=st.integers(4, 30),
    crops=st.integers(2, 11),
    seed=st.integers(0, 99),
)
def test_a_batch_holds_p_people_with_k_crops_each(first, second, crops, seed):
    records = people("one", first, crops) + people("two", second, crops)
    batches = sampler(records, 6, 4, seed=seed).epoch(0)
    assert batches
    for batch in batches:
        counts = Counter(records[row].person for row in batch)
        assert len(counts) == 6
        assert set(counts.values()) == {4}


def test_an_epoch_uses_an_identitys_crops_once_while_they_last():
    records = people("one", 8, 9)
    batches = sampler(records, 4, 4).epoch(3)
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(set(rows)) == 8 * 2 * 4


@settings(max_examples=40)
@given(crops=st.lists(st.integers(2, 60), min_size=4, max_size=20), seed=st.integers(0, 99))
def test_people_with_few_and_with_many_crops_fill_every_batch(crops, seed):
    records = [
        record for place, count in enumerate(crops) for record in people(str(place), 1, count)
    ]
    batches = sampler(records, 4, 4, seed=seed).epoch(1)
    for batch in batches:
        counts = Counter(records[row].person for row in batch)
        assert len(counts) == 4
        assert set(counts.values()) == {4}
    shown = Counter(records[row].person for row in {row for batch in batches for row in batch})
    for person, count in Counter(record.person for record in records).items():
        assert shown[person] >= min(count - count % 4, 4 * len(batches))


def test_an_epoch_shows_all_crops_though_a_few_people_have_most_of_them():
    records = people("busy", 12, 400) + people("quiet", 20, 4)
    built = sampler(records, 16, 4)
    assert built.crops_per_epoch(0) == len(records)
    assert len(built.epoch(0)) == 100


def test_a_person_with_nearly_all_crops_at_most_doubles_the_epoch():
    records = people("staff", 1, 1000) + people("visitors", 50, 4)
    built = sampler(records, 16, 4)
    assert len(built.epoch(0)) == 2 * 19
    assert built.crops_per_epoch(0) == 200 + 2 * 19 * 4
    assert {row for batch in built.epoch(0) for row in batch} != {
        row for batch in built.epoch(1) for row in batch
    }


def test_by_identities_each_one_has_a_batch_that_others_fill_at_random():
    records = people("one", 20, 5) + people("two", 10, 2)
    built = sampler(records, 4, 4, seed=1, order="identities")
    batches = built.epoch(0)
    assert Counter(records[batch[0]].person for batch in batches) == Counter(
        {record.person: 1 for record in records}
    )
    for batch in batches:
        assert set(Counter(records[row].person for row in batch).values()) == {4}
        assert len({records[row].person for row in batch}) == 4
    assert batches == built.epoch(0) != built.epoch(1)


def test_the_same_epoch_is_the_same_again_and_the_next_is_another():
    records = people("one", 20, 5)
    built = sampler(records, 4, 4, seed=5)
    assert built.epoch(2) == sampler(records, 4, 4, seed=5).epoch(2)
    assert built.epoch(2) != built.epoch(3)


def test_a_person_with_one_crop_is_left_out():
    records = people("one", 5, 4) + people("lonely", 5, 1)
    rows = {row for batch in sampler(records, 5, 4).epoch(0) for row in batch}
    assert {records[row].dataset for row in rows} == {"one"}


def test_by_domains_every_batch_is_of_one_domain_and_each_domain_has_as_many():
    records = people("large", 40, 6) + people("small", 9, 4)
    batches = sampler(records, 4, 2, seed=3, order="domains").epoch(0)
    domains = [{records[row].domain for row in batch} for batch in batches]
    assert all(len(cameras) == 1 for cameras in domains)
    counts = Counter(next(iter(cameras)) for cameras in domains)
    assert abs(counts["large"] - counts["small"]) <= 1
    assert all(len({records[row].person for row in batch}) == 4 for batch in batches)


def test_every_batch_mixes_the_domains_by_their_share():
    records = people("big", 90, 4) + people("small", 30, 4)
    for batch in sampler(records, 12, 4).epoch(0):
        domains = Counter(records[row].domain for row in batch)
        assert 2 * 4 <= domains["small"] <= 4 * 4


def test_a_domain_of_people_with_few_crops_has_more_places_than_its_share_of_crops():
    records = [*people("many", 10, 8), *people("few", 40, 2)]
    epoch = sampler(records, identities=4, images=4).epoch(0)
    places = Counter(records[row].domain for batch in epoch for row in batch)
    # Draws: 8 / 4 of each of ten people, and one of each of forty, at 80 crops each.
    assert places["few"] == 2 * places["many"]
