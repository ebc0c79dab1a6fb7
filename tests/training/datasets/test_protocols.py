"""What a protocol of domain generalisation trains on."""

import pytest

from model.problems import InputProblem
from training.datasets.protocols import PROTOCOLS, split_held_out, training_sets
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import KINDS


def dataset(name: str) -> Dataset:
    crops = (("1", "train"), ("2", "query"), ("2", "gallery"), ("-1", "gallery"))
    records = tuple(
        CropRecord(f"{name}/{number}", name, identity, str(number), name, split=split)
        for number, (identity, split) in enumerate(crops)
    )
    return Dataset(name, f"{name}:x", "", records)


MARKET, MSMT17, SYSU = (dataset(name) for name in ("market1501", "msmt17", "cuhksysu"))


def test_p2_trains_on_the_training_splits_of_the_other_sets():
    sets = training_sets([MARKET, MSMT17, SYSU], PROTOCOLS["P2"], "market1501")
    assert [one.name for one in sets] == ["msmt17", "cuhksysu"]
    assert [record.identity for record in sets[0].records] == ["1"]


def test_p3_trains_on_test_images_too_but_on_no_junk():
    (sysu, market) = training_sets([SYSU, MARKET, MSMT17], PROTOCOLS["P3"], "msmt17")
    assert [record.identity for record in market.records] == ["1", "2", "2"]
    training, held_out = split_held_out([market, sysu], 0.0, 0)
    assert len(training) == 7
    assert not held_out


def test_a_set_that_is_no_source_of_the_protocol_is_refused():
    with pytest.raises(InputProblem, match="msmt17:x: protocol P1 does not train on it"):
        training_sets([MARKET, MSMT17], PROTOCOLS["P1"])


def test_a_target_that_the_protocol_does_not_test_is_refused():
    with pytest.raises(InputProblem, match="protocol P2 does not test on it"):
        training_sets([MARKET, SYSU], PROTOCOLS["P2"], "cuhksysu")


def test_the_set_to_leave_out_has_to_be_named():
    with pytest.raises(InputProblem, match="leaves one set out; name it"):
        training_sets([MARKET, SYSU], PROTOCOLS["lodo"])


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_every_set_of_a_protocol_has_a_reader(protocol):
    assert {*protocol.sources, *protocol.targets} <= KINDS.keys()
