"""The registry: `KIND:PATH` specs, and the errors of wrong ones."""

import re
from dataclasses import replace

import pytest

from model.problems import InputProblem
from training.datasets.kind import DatasetKind, Layout
from training.datasets.registry import (
    KINDS,
    absolute_spec,
    overlapping,
    read_dataset,
    read_datasets,
    register_dataset,
)


def problem_with(spec):
    with pytest.raises(InputProblem) as caught:
        read_dataset(spec)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


@pytest.mark.parametrize("spec", ["", "mars:/data", "CUHK01:/data"])
def test_an_unknown_kind_is_told_the_kinds_there_are(spec):
    message = problem_with(spec)
    assert "a KIND of market1501, msmt17, cuhk03np" in message
    assert all(kind in message for kind in KINDS)


@pytest.mark.parametrize(
    ("spec", "meant"), [("market:/data", "market1501:/data"), ("sythetic:7", "synthetic:7")]
)
def test_a_mistyped_kind_is_answered_with_the_one_that_was_meant(spec, meant):
    assert problem_with(spec).endswith(f"did you mean {meant}?")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_spec_without_its_path_is_told_what_the_path_is(kind):
    assert f"lacks its PATH; write {kind}:" in problem_with(f"{kind}:")


def test_a_home_folder_is_found_behind_the_colon(cuhk01_folder, monkeypatch):
    monkeypatch.setenv("HOME", str(cuhk01_folder.parent))
    assert len(read_dataset(f"cuhk01:~/{cuhk01_folder.name}").records) == 12


def test_two_sets_of_one_name_are_refused_since_their_labels_would_mix(cuhk01_folder):
    (cuhk01_folder / "cuhk01.csv").write_text(
        "path,identity,camera\ncampus/0001001.png,1,A\n", encoding="utf-8"
    )
    specs = [f"cuhk01:{cuhk01_folder}", f"manifest:{cuhk01_folder / 'cuhk01.csv'}"]
    with pytest.raises(InputProblem, match=r"is named cuhk01, as cuhk01:.* is; drop one"):
        read_datasets(specs)


def test_an_option_is_taken_off_the_path_unless_the_folder_is_named_so(market1501_folder):
    spec = f"market1501:{market1501_folder},distractors=none"
    dataset = read_dataset(spec)
    assert dataset.spec == absolute_spec(spec) == spec
    assert len(dataset.records) == 7
    odd = market1501_folder.rename(market1501_folder.with_name("sets,distractors=500k"))
    assert read_dataset(f"market1501:{odd}").version == ""


def test_an_absolute_spec_means_the_same_data_in_every_folder(market1501_folder, monkeypatch):
    monkeypatch.chdir(market1501_folder.parent)
    name = market1501_folder.name
    absolute = f"market1501:{market1501_folder}, distractors = none"
    assert absolute_spec(f"market1501:{name}, distractors = none") == absolute
    assert absolute_spec("synthetic:7,identities=5") == "synthetic:7,identities=5"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (",boxes=detected", "there is no option boxes; its options are distractors"),
        (",distractors=all", "distractors is 'all'; write distractors=none or distractors=500k"),
        (",distractors=none,distractors=500k", "distractors is given twice"),
        (",distractors=500k", "images: no such folder"),
    ],
)
def test_an_option_that_there_is_none_of_is_told_those_there_are(market1501_folder, options, said):
    assert said in problem_with(f"market1501:{market1501_folder}{options}")


def test_overlaps_are_known_from_either_side():
    assert overlapping(["market1501", "cuhk02"], ["viper", "cuhk01"]) == [("cuhk02", "cuhk01")]
    assert overlapping(["cuhk02", "shop"], ["cuhk02", "market1501"]) == []
    for kind in KINDS.values():
        assert all(kind.name in KINDS[other].overlaps for other in kind.overlaps)


OUTSIDE = DatasetKind(
    name="gate",
    path="the folder of the gate's images",
    terms="Ours.",
    obtain="the gate",
    layout=Layout(re.compile(r"(?P<camera>[ab])-(?P<identity>\d+)\.png"), "like a-1.png"),
)


def test_a_data_set_of_a_known_name_or_without_a_reader_is_refused():
    with pytest.raises(ValueError, match="there is another data set viper already"):
        register_dataset(DatasetKind("viper", "", "", "", layout=OUTSIDE.layout))
    for unread in (DatasetKind("gate", "", "", ""), replace(OUTSIDE, options={"light": ("day",)})):
        with pytest.raises(ValueError, match="gate: give it a function that reads it, or a layout"):
            register_dataset(unread)
