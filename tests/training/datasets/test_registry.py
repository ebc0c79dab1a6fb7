"""The registry: `KIND:PATH` specs, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from model.problems import InputProblem
from training.datasets.registry import KINDS, read_dataset, read_datasets


def problem_with(spec: str) -> str:
    with pytest.raises(InputProblem) as caught:
        read_dataset(spec)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def test_each_kind_reads_its_own_layout(
    cuhk01_folder: Path, market1501_folder: Path, manifest_folder: Path
) -> None:
    specs = [
        f"cuhk01:{cuhk01_folder}",
        f"market1501:{market1501_folder}",
        f"manifest:{manifest_folder}",
    ]
    datasets = read_datasets(specs)
    assert [dataset.name for dataset in datasets] == ["cuhk01", "market1501", "shop"]
    assert [dataset.spec for dataset in datasets] == specs
    for dataset in datasets:
        assert {record.dataset for record in dataset.records} == {dataset.name}


def test_drawn_people_are_a_kind_like_any_other() -> None:
    dataset = read_dataset("synthetic:7,identities=2,domains=1,cameras=2,crops=1")
    assert dataset.name == "synthetic"
    assert len(dataset.records) == 4


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.kind)
def test_every_kind_says_where_to_obtain_it_and_under_what_terms(kind: object) -> None:
    assert all(getattr(kind, name) for name in ("kind", "path", "obtain", "terms"))


@pytest.mark.parametrize("spec", ["", "people", "viper:/data", "CUHK01:/data", ":/data"])
def test_an_unknown_kind_is_told_the_kinds_there_are(spec: str) -> None:
    assert "a KIND of market1501, cuhk01, manifest, synthetic" in problem_with(spec)


@pytest.mark.parametrize("kind", [kind.kind for kind in KINDS])
def test_a_spec_without_its_path_is_told_what_the_path_is(kind: str) -> None:
    assert f"lacks its PATH; write {kind}:" in problem_with(f"{kind}:")


def test_a_bare_path_is_told_the_spec_to_write(cuhk01_folder: Path) -> None:
    assert f"it looks like cuhk01:{cuhk01_folder}" in problem_with(str(cuhk01_folder))


def test_a_folder_of_another_kind_is_told_the_spec_to_write(
    cuhk01_folder: Path, market1501_folder: Path, manifest_folder: Path
) -> None:
    for wrong, right in (
        (f"cuhk01:{market1501_folder}", f"market1501:{market1501_folder}"),
        (f"market1501:{cuhk01_folder}", f"cuhk01:{cuhk01_folder}"),
        (f"market1501:{market1501_folder / 'query'}", f"market1501:{market1501_folder}"),
        (f"manifest:{market1501_folder}", f"market1501:{market1501_folder}"),
        (f"market1501:{manifest_folder}", f"manifest:{manifest_folder}"),
        (
            f"cuhk01:{manifest_folder / 'manifest.csv'}",
            f"manifest:{manifest_folder / 'manifest.csv'}",
        ),
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
