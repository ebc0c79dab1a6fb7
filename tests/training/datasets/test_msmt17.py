"""MSMT17: its lists, its two versions, and what a wrong line is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from model.problems import InputProblem
from training.datasets.registry import read_dataset

DrawImage = Callable[..., Path]

LINES = {
    "list_train.txt": ("0000/0000_000_01_0303morning_0015_0.jpg 0",),
    "list_val.txt": ("0000/0000_001_14_0303noon_0016_1_ex.jpg 0",),
    "list_query.txt": ("0000/0000_000_05_0302noon_0001_0.jpg 0",),
    "list_gallery.txt": (
        "0000/0000_001_07_0302noon_0002_0.jpg 0",
        "0001/0001_000_15_0302afternoon_0003_2.jpg 1",
    ),
}
FOLDERS = {"V1": ("train", "test"), "V2": ("mask_train_v2", "mask_test_v2")}


@pytest.fixture(params=["V1", "V2"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def root(tmp_path: Path, draw_image: DrawImage, version: str) -> Path:
    """The folder that holds `MSMT17_V1` or `MSMT17_V2`."""
    folder = tmp_path / "msmt17" / f"MSMT17_{version}"
    train, test = FOLDERS[version]
    for name, lines in LINES.items():
        images = folder / (train if name in ("list_train.txt", "list_val.txt") else test)
        for line in lines:
            draw_image(images / line.rpartition(" ")[0])
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path / "msmt17"


def test_its_version_is_told_and_people_to_test_on_are_not_those_to_train_on(
    root: Path, version: str
) -> None:
    dataset = read_dataset(f"msmt17:{root}")
    assert dataset.version == version
    assert [(each.identity, each.camera, each.split) for each in dataset.records] == [
        ("train-0000", "01", "train"),
        ("train-0000", "14", "train"),
        ("test-0000", "05", "query"),
        ("test-0000", "07", "gallery"),
        ("test-0001", "15", "gallery"),
    ]
    assert dataset.records[0].decode().shape == (48, 24, 3)


def test_the_folder_of_the_lists_is_read_alike(root: Path, version: str) -> None:
    inside = read_dataset(f"msmt17:{root / f'MSMT17_{version}'}")
    assert inside.records == read_dataset(f"msmt17:{root}").records


def test_the_validation_list_can_be_left_out(root: Path, version: str) -> None:
    dataset = read_dataset(f"msmt17:{root},validation=drop")
    assert [record.camera for record in dataset.records] == ["01", "05", "07", "15"]
    assert dataset.version == f"{version} without its validation list"


def test_a_listed_file_that_is_not_there_is_named_with_its_line(root: Path, version: str) -> None:
    folder = root / f"MSMT17_{version}"
    missing = folder / FOLDERS[version][1] / "0001" / "0001_000_15_0302afternoon_0003_2.jpg"
    missing.unlink()
    with pytest.raises(InputProblem) as caught:
        read_dataset(f"msmt17:{root}")
    assert str(caught.value).startswith(f"{missing}: no such file, yet ")
    assert "list_gallery.txt, line 2 lists it" in str(caught.value)


@pytest.mark.parametrize(
    "line", ["0000_000_01_0303morning_0015_0.jpg", "0000/0000.jpg 0", "0000/0000_000_01_a_b.jpg x"]
)
def test_a_line_of_another_form_is_named(root: Path, version: str, line: str) -> None:
    (root / f"MSMT17_{version}" / "list_query.txt").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(InputProblem, match=r"list_query\.txt, line 1: .* is not a file like 0000_"):
        read_dataset(f"msmt17:{root}")


def test_lists_without_a_line_are_refused(root: Path, version: str) -> None:
    for name in LINES:
        (root / f"MSMT17_{version}" / name).write_text("\n", encoding="utf-8")
    with pytest.raises(InputProblem, match=f"msmt17:{root}: lists no crop"):
        read_dataset(f"msmt17:{root}")


def test_a_list_that_is_missing_is_named(root: Path, version: str) -> None:
    (root / f"MSMT17_{version}" / "list_val.txt").unlink()
    with pytest.raises(InputProblem, match=r"list_val\.txt: cannot be read .* unpack it beside"):
        read_dataset(f"msmt17:{root}")


def test_a_folder_of_neither_version_is_told_what_is_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputProblem, match=r"neither train \(version 1\) nor mask_train_v2"):
        read_dataset(f"msmt17:{tmp_path}")
    with pytest.raises(InputProblem, match="no such folder; name the one that holds list_train"):
        read_dataset(f"msmt17:{tmp_path / 'none'}")


def test_a_bare_path_is_told_the_spec_to_write(root: Path) -> None:
    with pytest.raises(InputProblem, match=f"it looks like msmt17:{root}$"):
        read_dataset(str(root))
