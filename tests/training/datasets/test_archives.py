"""Sets with MATLAB files beside their crops: the split of CUHK-SYSU, and CUHK03's archive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from model.problems import InputProblem
from training.datasets.protocols import PROTOCOLS, training_sets
from training.datasets.registry import read_dataset

DrawImage = Callable[..., Path]
BOXES = {
    "p1": [("s1.jpg", [1, 1, 19, 39]), ("s2.jpg", [11, 6, 24, 49])],
    "p7": [("s1.jpg", [1, 1, 9, 39])],
    "p11934": [("s2.jpg", [50, 60, 30, 40])],
}


def write_persons(folder: Path) -> None:
    persons = np.empty((1, len(BOXES)), dtype=[("idname", "O"), ("nAppear", "O"), ("scene", "O")])
    for column, (name, scenes) in enumerate(BOXES.items()):
        found = np.empty(
            (1, len(scenes)), dtype=[("imname", "O"), ("idlocate", "O"), ("ishard", "O")]
        )
        for number, (scene, box) in enumerate(scenes):
            found[0, number] = (scene, np.array([box], dtype=np.int32), 0)
        persons[0, column] = (name, len(scenes), found)
    (folder / "annotation").mkdir(parents=True)
    savemat(folder / "annotation" / "Person.mat", {"Person": persons})


@pytest.fixture
def cuhksysu(tmp_path: Path, draw_image: DrawImage) -> Path:
    """Person 1 is trained on, 11934 is searched for, and 7 is of neither list."""
    folder = tmp_path / "cuhksysu"
    write_persons(folder)
    for name in ("p00001_s00001_1", "p7_s1_1", "p11934_s2_1"):
        draw_image(folder / "cropped_images" / f"{name}.jpg")
    lists = folder / "annotation" / "test" / "train_test"
    lists.mkdir(parents=True)
    # A column of cells, and a row of structures: as the archive has them.
    train = np.empty((1, 1), dtype=object)
    train[0, 0] = {"idname": "p1", "nAppear": 2, "scene": np.zeros(1)}
    savemat(lists / "Train.mat", {"Train": train})
    test = np.empty((1, 1), dtype=[("Query", "O"), ("Gallery", "O")])
    query = {"imname": "s2.jpg", "idlocate": np.array([[50, 60, 30, 40]]), "idname": "p11934"}
    test[0, 0] = (query, np.zeros(1))
    savemat(lists / "TestG50.mat", {"TestG50": test})
    return folder


def test_cuhksysu_has_the_splits_of_its_authors(cuhksysu: Path) -> None:
    dataset = read_dataset(f"cuhksysu:{cuhksysu}")
    found = {(each.identity, each.camera): each.split for each in dataset.records}
    known = {
        ("p00001", "s00001"): "train",
        ("p00007", "s00001"): "gallery",
        ("p11934", "s00002"): "query",
    }
    assert found == known
    assert dataset.version == "ready crops, cropped_images, in its own splits"


def test_p2_trains_on_cuhksysu_s_training_split_and_p3_on_all_of_it(
    cuhksysu: Path,
) -> None:
    dataset = read_dataset(f"cuhksysu:{cuhksysu}")
    (p2,), (p3,) = (training_sets([dataset], PROTOCOLS[name], "msmt17") for name in ("P2", "P3"))
    assert p2.identities == ["p00001"]
    assert p3.identities == ["p00001", "p00007", "p11934"]


def test_damaged_lists_of_cuhksysu_s_splits_are_named(cuhksysu: Path) -> None:
    lists = cuhksysu / "annotation" / "test" / "train_test"
    savemat(lists / "Train.mat", {"Train": np.arange(3)})
    with pytest.raises(InputProblem, match=r"Train\.mat or TestG50\.mat lists no people .*again"):
        read_dataset(f"cuhksysu:{cuhksysu}")
    (lists / "TestG50.mat").unlink()
    with pytest.raises(InputProblem, match=r"TestG50\.mat: no such file; unpack it there"):
        read_dataset(f"cuhksysu:{cuhksysu}")


def test_ready_crops_without_an_annotation_have_no_split(
    tmp_path: Path, draw_image: DrawImage
) -> None:
    draw_image(tmp_path / "cropped_image" / "p00001_n01_s00001_hard0.png")
    dataset = read_dataset(f"cuhksysu:{tmp_path}")
    assert dataset.version == "ready crops, cropped_image"
    (record,) = dataset.records
    assert (record.identity, record.camera, record.split) == ("p00001", "s00001", None)


def test_an_annotation_of_something_else_is_named(cuhksysu: Path) -> None:
    file = cuhksysu / "annotation" / "Person.mat"
    savemat(file, {"Person": np.arange(3)})
    with pytest.raises(InputProblem, match=r"Person\.mat: lists no people with boxes"):
        read_dataset(f"cuhksysu:{cuhksysu}")
    savemat(file, {"Img": np.arange(3)})
    with pytest.raises(InputProblem, match=r"Person\.mat: has no variable Person"):
        read_dataset(f"cuhksysu:{cuhksysu}")


def test_the_archive_of_cuhk03_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "cuhk03_release").mkdir()
    (tmp_path / "cuhk03_release" / "cuhk-03.mat").write_bytes(b"MATLAB 7.3")
    with pytest.raises(InputProblem, match=r"no folder labeled.* page has ready"):
        read_dataset(f"cuhk03np:{tmp_path}")
