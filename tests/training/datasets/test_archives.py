"""Sets whose crops lie within larger files: CUHK03's archive and the scenes of CUHK-SYSU."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

from model.problems import InputProblem
from training.datasets.check import check_datasets
from training.datasets.protocols import PROTOCOLS, training_sets
from training.datasets.registry import read_dataset

DrawImage = Callable[..., Path]
NAMES = ["1_001_1_01.png", "1_001_2_06.png", "2_002_1_02.png", "2_002_2_10.png"]


def stored_crop(variable: str, name: str) -> NDArray[np.uint8]:
    random = np.random.default_rng(list(f"{variable}{name}".encode()))
    return random.integers(0, 255, (40, 20, 3), dtype=np.uint8)


def write_archive(file: Path) -> None:
    """MATLAB's version 7.3: HDF5 behind 512 bytes, cells as references, columns first."""
    file.parent.mkdir(parents=True)
    with h5py.File(file, "w", userblock_size=512) as archive:
        cells = archive.create_group("#refs#")
        for variable in ("labeled", "detected"):
            pairs = archive.create_dataset(variable, (1, 2), dtype=h5py.ref_dtype)
            for pair in range(2):
                label = f"{variable}{pair}"
                people = cells.create_dataset(label, (10, 2), dtype=h5py.ref_dtype)
                for shot in range(10):
                    for person in range(2):
                        view = 1 if shot < 5 else 2
                        name = f"{pair + 1}_{person + 1:03d}_{view}_{shot + 1:02d}.png"
                        # An empty cell is stored as its two lengths.
                        pixels: Any = np.zeros(2, dtype=np.uint64)
                        if name in NAMES:
                            pixels = stored_crop(variable, name).T
                        cell = cells.create_dataset(f"{label}-{shot}-{person}", data=pixels)
                        people[shot, person] = cell.ref
                pairs[0, pair] = people.ref


def write_protocol(folder: Path, variable: str, **changed: Any) -> None:
    filelist = np.array([[name] for name in NAMES], dtype=object)
    content = {
        "filelist": filelist,
        "labels": np.array([[1], [1], [900], [900]], dtype=np.uint16),
        "train_idx": np.array([[1], [2]]),
        "query_idx": np.array([[3]]),
        "gallery_idx": np.array([[4]]),
    }
    savemat(folder / f"cuhk03_new_protocol_config_{variable}.mat", content | changed)


@pytest.fixture
def cuhk03(tmp_path: Path) -> Path:
    write_archive(tmp_path / "cuhk03" / "cuhk03_release" / "cuhk-03.mat")
    for variable in ("labeled", "detected"):
        write_protocol(tmp_path / "cuhk03", variable)
    return tmp_path / "cuhk03"


@pytest.mark.parametrize("boxes", ["labelled", "detected"])
def test_cuhk03_is_read_out_of_its_archive_upright_and_in_colour(cuhk03: Path, boxes: str) -> None:
    dataset = read_dataset(f"cuhk03np:{cuhk03},boxes={boxes}")
    assert dataset.version == f"{boxes} boxes"
    assert [(each.identity, each.camera, each.split) for each in dataset.records] == [
        ("0001", "c1", "train"),
        ("0001", "c2", "train"),
        ("0900", "c1", "query"),
        ("0900", "c2", "gallery"),
    ]
    variable = "detected" if boxes == "detected" else "labeled"
    for record, name in zip(dataset.records, NAMES, strict=True):
        assert record.source.endswith(f"cuhk-03.mat#{variable}/{name}")
        np.testing.assert_array_equal(record.decode(), stored_crop(variable, name))


def test_a_crop_within_an_archive_can_be_sent_to_a_loader_s_process(cuhk03: Path) -> None:
    record = read_dataset(f"cuhk03np:{cuhk03}").records[0]
    sent = pickle.loads(pickle.dumps(record))
    np.testing.assert_array_equal(sent.decode(), record.decode())


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"labels": np.array([1, 2])}, "has 4 files and 2 labels"),
        ({"query_idx": np.array([5])}, "query_idx names file 5 of 4"),
        ({"filelist": np.array(["x.png"] * 4, dtype=object)}, "'x.png' is not like 1_001_1_01.png"),
        (
            {"filelist": np.array(["3_001_1_01.png"] * 4, dtype=object)},
            "cuhk-03.mat: has no crop 3_001_1_01.png, yet cuhk03_new_protocol_config_labeled.mat",
        ),
    ],
)
def test_a_protocol_that_does_not_fit_the_archive_is_named(
    cuhk03: Path, changed: dict[str, Any], said: str
) -> None:
    write_protocol(cuhk03, "labeled", **changed)
    with pytest.raises(InputProblem) as caught:
        read_dataset(f"cuhk03np:{cuhk03}")
    assert said in str(caught.value)


def test_cuhk03_without_its_protocol_or_with_a_damaged_archive_is_refused(cuhk03: Path) -> None:
    archive = cuhk03 / "cuhk03_release" / "cuhk-03.mat"
    archive.write_bytes(archive.read_bytes()[:600])
    with pytest.raises(InputProblem, match=r"cuhk-03\.mat: cannot be read as HDF5 .* unpack"):
        read_dataset(f"cuhk03np:{cuhk03}")
    (cuhk03 / "cuhk03_new_protocol_config_detected.mat").unlink()
    with pytest.raises(InputProblem, match=r"config_detected\.mat: no such file"):
        read_dataset(f"cuhk03np:{cuhk03},boxes=detected")


def test_a_crop_that_the_archive_lacks_is_named_when_it_is_read(cuhk03: Path) -> None:
    names = np.array(["1_002_1_01.png", *NAMES[1:]], dtype=object)
    write_protocol(cuhk03, "labeled", filelist=names)
    record = read_dataset(f"cuhk03np:{cuhk03}").records[0]
    with pytest.raises(InputProblem, match=r"#labeled/1_002_1_01\.png: there is no image"):
        record.decode()


BOXES = {
    "p1": [("s1.jpg", [1, 1, 19, 39]), ("s2.jpg", [11, 6, 24, 49])],
    "p11934": [("s2.jpg", [50, 60, 30, 40])],
}


@pytest.fixture
def cuhksysu(tmp_path: Path) -> Path:
    """Two scenes, 60 pixels wide and 80 high, and the people annotated in them."""
    folder = tmp_path / "cuhksysu"
    scenes = folder / "Image" / "SSM"
    scenes.mkdir(parents=True)
    for number in (1, 2):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(scenes / f"s{number}.jpg", quality=95)
    write_persons(folder, BOXES)
    return folder


def write_persons(folder: Path, boxes: dict[str, list[tuple[str, list[int]]]]) -> None:
    persons = np.empty((1, len(boxes)), dtype=[("idname", "O"), ("nAppear", "O"), ("scene", "O")])
    for column, (name, scenes) in enumerate(boxes.items()):
        found = np.empty(
            (1, len(scenes)), dtype=[("imname", "O"), ("idlocate", "O"), ("ishard", "O")]
        )
        for number, (scene, box) in enumerate(scenes):
            found[0, number] = (scene, np.array([box], dtype=np.int32), 0)
        persons[0, column] = (name, len(scenes), found)
    (folder / "annotation").mkdir(exist_ok=True)
    savemat(folder / "annotation" / "Person.mat", {"Person": persons})


def test_people_are_cut_from_the_scenes_they_are_annotated_in(cuhksysu: Path) -> None:
    dataset = read_dataset(f"cuhksysu:{cuhksysu}")
    assert dataset.version == "cut from the scenes by annotation/Person.mat"
    assert [(each.identity, each.camera) for each in dataset.records] == [
        ("p00001", "s00001"),
        ("p00001", "s00002"),
        ("p11934", "s00002"),
    ]
    scene = np.asarray(Image.open(cuhksysu / "Image" / "SSM" / "s2.jpg"))
    np.testing.assert_array_equal(dataset.records[1].decode(), scene[5:55, 10:35])
    # A box over the edge ends there.
    np.testing.assert_array_equal(dataset.records[2].decode(), scene[59:80, 49:60])
    assert dataset.records[2].source.endswith("s2.jpg#p11934")


def test_ready_crops_beside_the_scenes_are_read_where_asked(
    cuhksysu: Path, draw_image: DrawImage
) -> None:
    draw_image(cuhksysu / "cropped_image" / "p00001_n01_s00001_hard0.png")
    dataset = read_dataset(f"cuhksysu:{cuhksysu},crops=cut")
    assert dataset.version == "ready crops, cropped_image"
    from_scenes = read_dataset(f"cuhksysu:{cuhksysu}").records[0]
    assert dataset.records[0].person == from_scenes.person
    assert dataset.records[0].camera == from_scenes.camera


@pytest.fixture
def cuhksysu_with_splits(cuhksysu: Path, draw_image: DrawImage) -> Path:
    """Person 1 is trained on, 11934 is searched for, and 7 is of neither list."""
    write_persons(cuhksysu, BOXES | {"p7": [("s1.jpg", [1, 1, 9, 39]), ("s2.jpg", [1, 1, 9, 39])]})
    for name in ("p00001_s00001_1", "p7_s1_1", "p11934_s2_1"):
        draw_image(cuhksysu / "cropped_images" / f"{name}.jpg")
    lists = cuhksysu / "annotation" / "test" / "train_test"
    lists.mkdir(parents=True)
    # A column of cells, and a row of structures: as the archive has them.
    train = np.empty((1, 1), dtype=object)
    train[0, 0] = {"idname": "p1", "nAppear": 2, "scene": np.zeros(1)}
    savemat(lists / "Train.mat", {"Train": train})
    test = np.empty((1, 1), dtype=[("Query", "O"), ("Gallery", "O")])
    query = {"imname": "s2.jpg", "idlocate": np.array([[50, 60, 30, 40]]), "idname": "p11934"}
    test[0, 0] = (query, np.zeros(1))
    savemat(lists / "TestG50.mat", {"TestG50": test})
    return cuhksysu


@pytest.mark.parametrize("crops", ["scenes", "cut"])
def test_cuhksysu_has_the_splits_of_its_authors(cuhksysu_with_splits: Path, crops: str) -> None:
    dataset = read_dataset(f"cuhksysu:{cuhksysu_with_splits},crops={crops}")
    found = {(each.identity, each.camera): each.split for each in dataset.records}
    known = {
        ("p00001", "s00001"): "train",
        ("p00001", "s00002"): "train",
        ("p00007", "s00001"): "gallery",
        ("p00007", "s00002"): "gallery",
        ("p11934", "s00002"): "query",
    }
    assert found.items() <= known.items()
    assert set(found.values()) == {"train", "query", "gallery"}
    assert dataset.version.endswith(", in its own splits")


def test_p2_trains_on_cuhksysu_s_training_split_and_p3_on_all_of_it(
    cuhksysu_with_splits: Path,
) -> None:
    dataset = read_dataset(f"cuhksysu:{cuhksysu_with_splits}")
    (p2,), (p3,) = (training_sets([dataset], PROTOCOLS[name], "msmt17") for name in ("P2", "P3"))
    assert p2.identities == ["p00001"]
    assert p3.identities == ["p00001", "p00007", "p11934"]


def test_damaged_lists_of_cuhksysu_s_splits_are_named(cuhksysu_with_splits: Path) -> None:
    lists = cuhksysu_with_splits / "annotation" / "test" / "train_test"
    savemat(lists / "Train.mat", {"Train": np.arange(3)})
    with pytest.raises(InputProblem, match=r"Train\.mat or TestG50\.mat lists no people .*again"):
        read_dataset(f"cuhksysu:{cuhksysu_with_splits}")
    (lists / "TestG50.mat").unlink()
    with pytest.raises(InputProblem, match=r"TestG50\.mat: no such file; unpack it there"):
        read_dataset(f"cuhksysu:{cuhksysu_with_splits}")


def test_a_scene_that_is_not_there_and_a_box_that_is_none_are_named(cuhksysu: Path) -> None:
    write_persons(cuhksysu, {"p1": [("s1.jpg", [1, 1, 0, 39])]})
    with pytest.raises(InputProblem, match=r"Person\.mat: p1 in s1\.jpg has the box \[1, 1, 0"):
        read_dataset(f"cuhksysu:{cuhksysu}")
    write_persons(cuhksysu, {"p1": [("s3.jpg", [1, 1, 2, 39])]})
    with pytest.raises(InputProblem, match=r"s3\.jpg: no such file, yet annotation/Person\.mat"):
        read_dataset(f"cuhksysu:{cuhksysu}")


def test_a_box_outside_its_scene_is_named_when_it_is_read(cuhksysu: Path) -> None:
    write_persons(cuhksysu, {"p1": [("s1.jpg", [70, 1, 9, 39])]})
    record = read_dataset(f"cuhksysu:{cuhksysu}").records[0]
    with pytest.raises(InputProblem, match=r"s1\.jpg#p1: the box lies outside its scene"):
        record.decode()


def test_check_data_reads_crops_within_larger_files_too(cuhk03: Path, cuhksysu: Path) -> None:
    write_persons(cuhksysu, BOXES | {"p7": [("s1.jpg", [70, 1, 9, 39])]})
    specs = f"cuhk03np:{cuhk03}", f"cuhksysu:{cuhksysu}"
    archive, scenes = check_datasets([read_dataset(spec) for spec in specs])["datasets"]
    assert (archive["version"], archive["images"], archive["unreadable"]["count"]) == (
        "labelled boxes",
        4,
        0,
    )
    assert [count["published_images"] for count in archive["splits"]] == [7_368, 1_400, 5_328]
    assert [
        (found["code"], Path(found["source"]).name) for found in scenes["unreadable"]["examples"]
    ] == [("too_small", "s1.jpg#p7")]
    assert scenes["width"]["largest"] == 25


def test_an_annotation_of_something_else_is_named(cuhksysu: Path) -> None:
    file = cuhksysu / "annotation" / "Person.mat"
    savemat(file, {"Person": np.arange(3)})
    with pytest.raises(InputProblem, match=r"Person\.mat: lists no people with boxes"):
        read_dataset(f"cuhksysu:{cuhksysu}")
    savemat(file, {"Img": np.arange(3)})
    with pytest.raises(InputProblem, match=r"Person\.mat: has no variable Person"):
        read_dataset(f"cuhksysu:{cuhksysu}")
