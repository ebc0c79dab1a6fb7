"""The choice of people and sets to train on and to test: protocols, held-out people, limits."""

import pytest

from model.problems import InputProblem
from training.datasets.protocols import (
    PROTOCOLS,
    is_held_out,
    leave_out,
    limit_identities,
    limit_test_identities,
    split_held_out,
    training_sets,
)
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import KINDS

IDENTITIES = [f"{number:04d}" for number in range(2000)]


def dataset(name, crops):
    """Return a set with a crop for each identity and split, each by another camera."""
    records = tuple(
        CropRecord(f"{name}/{number}", name, identity, str(number), name, split=split)
        for number, (identity, split) in enumerate(crops)
    )
    return Dataset(name, f"{name}:x", "", records)


def people(name, identities, split=None):
    return dataset(name, [(identity, split) for identity in identities for _ in range(2)])


SPLITS = [("1", "train"), ("2", "query"), ("2", "gallery"), ("-1", "gallery")]
MARKET, MSMT17, SYSU = (dataset(name, SPLITS) for name in ("market1501", "msmt17", "cuhksysu"))


def test_p2_trains_on_the_training_splits_of_the_other_sets():
    sets = training_sets([MARKET, MSMT17, SYSU], PROTOCOLS["P2"], "market1501")
    assert [dataset.name for dataset in sets] == ["msmt17", "cuhksysu"]
    assert [dataset.identities for dataset in sets] == [["1"], ["1"]]


def test_p3_trains_on_test_images_too_but_on_no_junk():
    _, market = training_sets([SYSU, MARKET, MSMT17], PROTOCOLS["P3"], "msmt17")
    assert [(record.identity, record.split) for record in market.records] == [
        ("1", "train"),
        ("2", "train"),
        ("2", "train"),
    ]
    assert market.training_splits == ("train", "query", "gallery")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_set_of_a_protocol_has_a_reader(protocol):
    assert {*PROTOCOLS[protocol].sources, *PROTOCOLS[protocol].targets} <= KINDS.keys()


def held_out(fraction, name="set", seed=0):
    return {identity for identity in IDENTITIES if is_held_out(name, identity, fraction, seed)}


def test_the_people_held_out_are_the_same_on_every_machine_and_release():
    chosen = [identity for identity in IDENTITIES[:40] if is_held_out("cuhk01", identity, 0.2, 1)]
    assert chosen == ["0009", "0010", "0018", "0019", "0024", "0031", "0033", "0036"]


def test_the_asked_fraction_is_held_out_and_a_larger_one_only_adds_people():
    for fraction in (0.0, 0.1, 0.5, 1.0):
        assert len(held_out(fraction)) / 2000 == pytest.approx(fraction, abs=0.03)
    assert held_out(0.1) < held_out(0.3)


def test_the_seed_and_the_set_s_name_change_who_is_held_out():
    assert held_out(0.3) != held_out(0.3, seed=1)
    assert held_out(0.3) != held_out(0.3, name="other")


def test_a_split_parts_people_and_loses_no_training_crop():
    names = IDENTITIES[:100]
    sets = [people("a", names), people("b", names, "train"), people("c", names, "query")]
    training, away = split_held_out(sets, 0.3, seed=5)
    assert {record.dataset for record in training} == {record.dataset for record in away}
    assert sorted([*training, *away], key=lambda record: record.source) == sorted(
        [*sets[0].records, *sets[1].records], key=lambda record: record.source
    )
    for record in away:
        assert is_held_out(record.dataset, record.identity, 0.3, 5)
    assert {record.person for record in training}.isdisjoint(record.person for record in away)


def test_each_set_keeps_so_many_people_with_all_their_crops_and_more_hold_the_fewer():
    crops = [*people("a", IDENTITIES[:50]).records, *people("b", IDENTITIES[:8]).records]
    fewer = limit_identities(crops, 10, 3)
    more = limit_identities(crops, 20, 3)
    assert len(more) == 2 * (20 + 8)
    assert len({record.person for record in more}) == 20 + 8
    assert {record.person for record in fewer} < {record.person for record in more}
    assert limit_identities(crops, None, 0) == crops


def test_the_choice_does_not_depend_on_the_order_and_changes_with_the_seed():
    crops = people("a", IDENTITIES[:50]).records
    chosen = limit_identities(crops, 10, 3)
    assert limit_identities(crops[::-1], 10, 3) == chosen[::-1]
    assert limit_identities(crops, 10, 4) != chosen


def test_people_with_queries_are_limited_and_distractors_stay():
    crops = [("0000", "gallery")]
    for identity in IDENTITIES[1:7]:
        crops += [(identity, "query"), (identity, "gallery")]
    market = dataset("market1501", [*crops, ("7", "train"), ("8", "gallery")])
    two = limit_test_identities(market, 2)
    four = limit_test_identities(market, 4)
    assert (len(two.identities), len(four.identities)) == (2 + 1, 4 + 1)
    assert {"0000"} < set(two.identities) < set(four.identities) < {"0000", *IDENTITIES[1:7]}
    assert len(two.records) == 2 * 2 + 1
    assert limit_test_identities(market, None) == market


def test_a_set_is_left_out_by_its_name():
    assert leave_out([MARKET, SYSU], "cuhksysu") == [MARKET]
    with pytest.raises(InputProblem, match=r"b: no set of --data has this name; name market1501"):
        leave_out([MARKET], "b")
    with pytest.raises(InputProblem, match="nothing is left to train on"):
        leave_out([MARKET], "market1501")
