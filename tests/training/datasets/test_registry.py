"""The registry: `KIND:PATH` specs, and what a wrong one is told."""

from __future__ import annotations

import re
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from model import registry as parts
from model.problems import InputProblem
from training.datasets import registry
from training.datasets.kind import DatasetKind, Layout
from training.datasets.record import Dataset, crop_in_file
from training.datasets.registry import (
    KINDS,
    absolute_spec,
    overlapping,
    read_dataset,
    read_datasets,
    register_dataset,
)


def problem_with(spec: str) -> str:
    with pytest.raises(InputProblem) as caught:
        read_dataset(spec)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_several_sets_are_read_each_under_its_name(
    cuhk01_folder: Path, manifest_folder: Path
) -> None:
    specs = [f"cuhk01:{cuhk01_folder}", f"manifest:{manifest_folder}"]
    datasets = read_datasets(specs)
    assert [dataset.name for dataset in datasets] == ["cuhk01", "shop"]
    assert [dataset.spec for dataset in datasets] == specs


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_every_kind_says_where_to_obtain_it_and_under_what_terms(kind: object) -> None:
    assert all(getattr(kind, name) for name in ("name", "path", "obtain", "terms"))


@pytest.mark.parametrize("spec", ["", "people", "mars:/data", "CUHK01:/data", ":/data"])
def test_an_unknown_kind_is_told_the_kinds_there_are(spec: str) -> None:
    message = problem_with(spec)
    assert "a KIND of market1501, msmt17, cuhk03np" in message
    assert all(kind in message for kind in KINDS)


@pytest.mark.parametrize(
    ("spec", "meant"), [("market:/data", "market1501:/data"), ("sythetic:7", "synthetic:7")]
)
def test_a_mistyped_kind_is_answered_with_the_one_that_was_meant(spec: str, meant: str) -> None:
    assert problem_with(spec).endswith(f"did you mean {meant}?")


def test_an_unknown_kind_is_not_taken_for_what_lies_in_the_working_folder(
    cuhk01_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(cuhk01_folder)
    assert "looks like" not in problem_with("nosuch:1")


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_spec_without_its_path_is_told_what_the_path_is(kind: str) -> None:
    assert f"lacks its PATH; write {kind}:" in problem_with(f"{kind}:")


def test_a_folder_of_another_kind_is_told_the_spec_to_write(
    cuhk01_folder: Path, market1501_folder: Path, manifest_folder: Path
) -> None:
    manifest = manifest_folder / "manifest.csv"
    for wrong, right in (
        (str(cuhk01_folder), f"cuhk01:{cuhk01_folder}"),
        (f"market1501:{market1501_folder / 'query'}", f"market1501:{market1501_folder}"),
        (
            f"market1501:{market1501_folder / 'query'},distractors=none",
            f"market1501:{market1501_folder}",
        ),
        (f"manifest:{market1501_folder}", f"market1501:{market1501_folder}"),
        (f"cuhk01:{manifest}", f"manifest:{manifest}"),
    ):
        assert problem_with(wrong).endswith(f"it looks like {right}")


def test_a_folder_of_the_right_kind_with_a_wrong_file_gets_no_other_advice(
    cuhk01_folder: Path,
) -> None:
    (cuhk01_folder / "manifest.csv").write_text("path,identity,camera\n", encoding="utf-8")
    (cuhk01_folder / "campus" / "9999999.png").write_bytes(b"")
    assert "looks like" not in problem_with(f"cuhk01:{cuhk01_folder}")


def test_a_home_folder_is_found_behind_the_colon(
    cuhk01_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(cuhk01_folder.parent))
    assert len(read_dataset(f"cuhk01:~/{cuhk01_folder.name}").records) == 12


def test_two_sets_of_one_name_are_refused_since_their_labels_would_mix(
    cuhk01_folder: Path,
) -> None:
    (cuhk01_folder / "cuhk01.csv").write_text(
        "path,identity,camera\ncampus/0001001.png,1,A\n", encoding="utf-8"
    )
    specs = [f"cuhk01:{cuhk01_folder}", f"manifest:{cuhk01_folder / 'cuhk01.csv'}"]
    with pytest.raises(InputProblem, match=r"is named cuhk01, as cuhk01:.* is; drop one"):
        read_datasets(specs)


def test_an_option_is_taken_off_the_path(market1501_folder: Path) -> None:
    spec = f"market1501:{market1501_folder},distractors=none"
    dataset = read_dataset(spec)
    assert dataset.spec == absolute_spec(spec) == spec
    assert len(dataset.records) == 7


def test_an_absolute_spec_means_the_same_data_in_every_folder(
    market1501_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
def test_an_option_that_there_is_none_of_is_told_those_there_are(
    market1501_folder: Path, options: str, said: str
) -> None:
    assert said in problem_with(f"market1501:{market1501_folder}{options}")


def test_a_folder_named_like_an_option_is_a_folder(market1501_folder: Path) -> None:
    odd = market1501_folder.rename(market1501_folder.with_name("sets,distractors=500k"))
    assert read_dataset(f"market1501:{odd}").version == ""


def test_overlaps_are_known_from_either_side() -> None:
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


def test_a_data_set_from_outside_is_read_suggested_and_listed_like_any_other(
    tmp_path: Path, draw_image: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "KINDS", copy(KINDS))
    assert callable(draw_image)
    draw_image(tmp_path / "a-1.png")
    draw_image(tmp_path / "b-1.png")
    register_dataset(OUTSIDE)
    dataset = read_dataset(f"gate:{tmp_path}")
    assert (dataset.name, dataset.spec, dataset.terms) == ("gate", f"gate:{tmp_path}", "Ours.")
    assert problem_with(f"market1501:{tmp_path}").endswith(f"it looks like gate:{tmp_path}")
    assert ", gate" in problem_with("nosuch:1")


def test_an_installed_package_adds_a_data_set_with_options(
    tmp_path: Path, draw_image: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(kind: DatasetKind, path: Path, light: str = "day") -> Dataset:
        return kind.dataset([crop_in_file(path / "1.png", kind.name, light, "a")], light)

    door = DatasetKind(
        "door", "a folder", "Ours.", "", read=read, options={"light": ("day", "night")}
    )
    monkeypatch.setattr(registry, "KINDS", copy(KINDS))
    point = SimpleNamespace(name="door", load=lambda: lambda: register_dataset(door))
    monkeypatch.setattr(parts, "entry_points", lambda group: [point] * (group == "gmn.datasets"))
    dataset = read_dataset(f"door:{tmp_path},light=night")
    assert (dataset.version, dataset.identities) == ("night", ["night"])
    assert "write light=day or light=night" in problem_with(f"door:{tmp_path},light=dusk")


def test_a_data_set_of_a_known_name_or_without_a_reader_is_refused() -> None:
    with pytest.raises(ValueError, match="there is a data set viper already"):
        register_dataset(DatasetKind("viper", "", "", "", layout=OUTSIDE.layout))
    for unread in (DatasetKind("gate", "", "", ""), replace(OUTSIDE, options={"light": ("day",)})):
        with pytest.raises(ValueError, match="gate: give it a function that reads it, or a layout"):
            register_dataset(unread)
