"""The public sets that are folders of crops: what a miniature of each layout is read as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from model.problems import InputProblem
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import KINDS, read_dataset

DrawImage = Callable[..., Path]


@dataclass(frozen=True)
class Layout:
    """A miniature: its files, the folder a spec names, and a file whose name is wrong."""

    kind: str
    files: tuple[str, ...]
    folder: str
    wrong: str


VIPER = Layout(
    "viper",
    tuple(
        f"VIPeR/{camera}/{name}.bmp"
        for camera in ("cam_a", "cam_b")
        for name in ("000_45", "001_90")
    ),
    "VIPeR",
    "VIPeR/cam_b/45.bmp",
)
PRID = Layout(
    "prid2011",
    tuple(
        f"prid_2011/single_shot/{name}.png"
        for name in (
            "cam_a/person_0001",
            "cam_a/person_0002",
            "cam_a/person_0201",
            "cam_b/person_0001",
            "cam_b/person_0002",
            "cam_b/person_0201",
            "cam_b/person_0749",
        )
    ),
    "prid_2011",
    "prid_2011/single_shot/cam_a/0003.png",
)
ILIDS = Layout(
    "ilids",
    tuple(
        f"i-LIDS_Pedestrian/Persons/{name}.jpg"
        for name in ("0001001", "0001002", "0001003", "0002001")
    ),
    "i-LIDS_Pedestrian",
    "i-LIDS_Pedestrian/Persons/1.jpg",
)
GRID = Layout(
    "grid",
    tuple(
        f"underground_reid/{name}.jpeg"
        for name in (
            "probe/0001_1_25004_107_32_106_221",
            "probe/0002_2_25000_1_2_3_4",
            "gallery/0001_5_25008_107_32_106_221",
            "gallery/0002_6_25000_1_2_3_4",
            "gallery/0000_7_25001_1_2_3_4",
            "gallery/0000_8_25002_1_2_3_4",
        )
    ),
    "underground_reid",
    "underground_reid/gallery/0003_9_1_2_3_4_5.jpeg",
)
RANDPERSON = Layout(
    "randperson",
    tuple(
        f"randperson_subset/{name}.jpg"
        for name in ("000000_s00_c00_f000264", "000000_s01_c02_f001032", "000001_c02_s01_f000001")
    ),
    "randperson_subset",
    "randperson_subset/000000_f000264.jpg",
)
CUHK02 = Layout(
    "cuhk02",
    tuple(
        f"Dataset/P{pair}/{camera}/{name}.png"
        for pair in range(1, 6)
        for camera in ("cam1", "cam2")
        for name in ("001_1", "001_2")
    ),
    "Dataset",
    "Dataset/P3/cam2/1.png",
)
DUKE = Layout(
    "dukemtmc",
    (
        "bounding_box_train/0001_c2_f0046182.jpg",
        "query/0005_c2_f0046985.jpg",
        "bounding_box_test/0005_c5_f0051341.jpg",
        "bounding_box_test/0006_c8_f0000001.jpg",
    ),
    "",
    "query/0005_c9_f0046985.jpg",
)
CUHKSYSU = Layout(
    "cuhksysu",
    (
        "cropped_images/p1_s1_1.jpg",
        "cropped_images/p1_s16929_2.jpg",
        "cropped_images/p11422_s16929_1.jpg",
    ),
    "cropped_images",
    "cropped_images/11422.jpg",
)
CUHK03NP = Layout(
    "cuhk03np",
    tuple(
        f"{boxes}/{name}.png"
        for boxes in ("labeled", "detected")
        for name in (
            "bounding_box_train/0001_c1_1",
            "bounding_box_train/0001_c2_6",
            "query/0003_c1_22",
            "bounding_box_test/0003_c2_27",
        )
    ),
    "",
    "labeled/query/3_c1.png",
)
LAYOUTS = (VIPER, PRID, ILIDS, GRID, RANDPERSON, CUHK02, DUKE, CUHKSYSU, CUHK03NP)


@pytest.fixture
def place(tmp_path: Path, draw_image: DrawImage) -> Callable[[Layout], Path]:
    def draw(layout: Layout) -> Path:
        for name in layout.files:
            draw_image(tmp_path / "set" / name)
        return tmp_path / "set"

    return draw


def seen(records: Iterable[CropRecord]) -> list[tuple[str, str, str | None]]:
    return [(record.identity, record.camera, record.split) for record in records]


def read(kind: str, path: Path | str) -> Dataset:
    return read_dataset(f"{kind}:{path}")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_the_folder_of_the_archive_and_the_one_above_it_are_read_alike(
    layout: Layout, place: Callable[[Layout], Path]
) -> None:
    root = place(layout)
    above = read(layout.kind, root)
    inside = read(layout.kind, root / layout.folder)
    assert above.records == inside.records
    assert above.name == layout.kind
    assert all(record.dataset == record.domain == layout.kind for record in above.records)
    assert all(record.decode().shape == (48, 24, 3) for record in above.records)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_the_first_file_whose_name_is_wrong_is_named(
    layout: Layout, place: Callable[[Layout], Path]
) -> None:
    root = place(layout)
    (root / layout.wrong).write_bytes(b"")
    with pytest.raises(InputProblem) as caught:
        read(layout.kind, root)
    assert str(caught.value).startswith(f"{root / layout.wrong}: the name is not like ")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_read_as_another_kind_it_is_told_the_spec_to_write(
    layout: Layout, place: Callable[[Layout], Path]
) -> None:
    root = place(layout)
    with pytest.raises(InputProblem) as caught:
        read("cuhk01", root)
    assert str(caught.value).endswith(f"; it looks like {layout.kind}:{root}")


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.kind)
def test_an_archive_half_unpacked_is_refused(
    layout: Layout, place: Callable[[Layout], Path]
) -> None:
    root = place(layout)
    last = (root / layout.files[-1]).parent
    if layout is CUHK03NP:
        last = root / "labeled" / "bounding_box_test"
    last.rename(root / "elsewhere")
    with pytest.raises(InputProblem, match=r"no such folder|holds no image"):
        read(layout.kind, root)


def test_viper_has_one_crop_of_everybody_under_either_camera(
    place: Callable[[Layout], Path],
) -> None:
    dataset = read("viper", place(VIPER))
    assert seen(dataset.records) == [
        ("000", "a", None),
        ("001", "a", None),
        ("000", "b", None),
        ("001", "b", None),
    ]
    splits = KINDS["viper"].random_splits
    assert splits is not None
    assert (splits.number, splits.test_people, splits.sides) == (10, 316, "cameras")
    assert splits.eligible_identities(dataset.records) == ["000", "001"]


def test_prid_s_later_numbers_are_other_people_in_the_other_camera(
    place: Callable[[Layout], Path],
) -> None:
    dataset = read("prid2011", place(PRID))
    assert dataset.identities == ["0001", "0002", "a-0201", "b-0201", "b-0749"]
    splits = KINDS["prid2011"].random_splits
    assert splits is not None
    assert splits.test_people == 100
    assert splits.eligible_identities(dataset.records) == ["0001", "0002"]


def test_ilids_takes_every_shot_for_a_camera(place: Callable[[Layout], Path]) -> None:
    dataset = read("ilids", place(ILIDS))
    assert dataset.cameras == ["shot1", "shot2", "shot3"]
    splits = KINDS["ilids"].random_splits
    assert splits is not None
    assert (splits.test_people, splits.sides) == (60, "crops")
    assert splits.eligible_identities(dataset.records) == ["0001"]


def test_grid_has_probes_gallery_and_distractors(place: Callable[[Layout], Path]) -> None:
    dataset = read("grid", place(GRID))
    assert seen(dataset.records)[:2] == [("0001", "1", "query"), ("0002", "2", "query")]
    assert Counter(record.identity for record in dataset.records)["0000"] == 2
    assert dataset.training_people == ()
    splits = KINDS["grid"].random_splits
    assert splits is not None
    not_people = KINDS["grid"].not_people
    assert splits.eligible_identities(dataset.records, not_people) == ["0001", "0002"]


def test_grid_s_own_partitions_are_read(place: Callable[[Layout], Path]) -> None:
    root = place(GRID)
    partitions = np.empty((1, 2), dtype=object)
    for number in range(2):
        rows = {"probeFeaturesIdx": [1], "galleryFeaturesIdx": [3], "personIdx": [number + 1, 7]}
        partitions[0, number] = rows
    file = root / "underground_reid" / "features_and_partitions.mat"
    savemat(file, {"trainIdxAll": partitions, "features": np.zeros((4, 2))})
    assert read("grid", root).training_people == (
        frozenset({"0001", "0007"}),
        frozenset({"0002", "0007"}),
    )
    file.write_bytes(file.read_bytes()[:150])
    with pytest.raises(InputProblem, match=r"features_and_partitions\.mat: .*unpack it again"):
        read("grid", root)


def test_randperson_s_two_ways_to_write_scene_and_camera_are_one_camera(
    place: Callable[[Layout], Path],
) -> None:
    assert seen(read("randperson", place(RANDPERSON)).records) == [
        ("000000", "s00c00", None),
        ("000000", "s01c02", None),
        ("000001", "s01c02", None),
    ]


def test_cuhk02_s_pairs_of_cameras_number_their_people_apart(
    place: Callable[[Layout], Path],
) -> None:
    dataset = read("cuhk02", place(CUHK02))
    assert dataset.identities == [f"P{pair}-001" for pair in range(1, 6)]
    assert len(dataset.cameras) == 10
    assert dataset.cameras[:2] == ["P1-cam1", "P1-cam2"]


def test_dukemtmc_says_that_it_was_withdrawn(place: Callable[[Layout], Path]) -> None:
    dataset = read("dukemtmc", place(DUKE))
    assert dataset.terms.startswith("Withdrawn by its authors")
    assert "took it down" in KINDS["dukemtmc"].obtain
    assert seen(dataset.records) == [
        ("0001", "c2", "train"),
        ("0005", "c2", "query"),
        ("0005", "c5", "gallery"),
        ("0006", "c8", "gallery"),
    ]


def test_ready_crops_of_cuhksysu_have_a_camera_for_every_scene(
    place: Callable[[Layout], Path],
) -> None:
    dataset = read("cuhksysu", place(CUHKSYSU))
    assert dataset.version == "ready crops, cropped_images"
    assert seen(dataset.records) == [
        ("p11422", "s16929", None),
        ("p00001", "s16929", None),
        ("p00001", "s00001", None),
    ]


def test_cuhk03np_says_which_boxes_it_read(place: Callable[[Layout], Path]) -> None:
    root = place(CUHK03NP)
    labelled = read("cuhk03np", root)
    detected = read("cuhk03np", f"{root},boxes=detected")
    assert (labelled.version, detected.version) == ("labelled boxes", "detected boxes")
    assert seen(labelled.records) == seen(detected.records)
    assert seen(labelled.records) == [
        ("0001", "c1", "train"),
        ("0001", "c2", "train"),
        ("0003", "c1", "query"),
        ("0003", "c2", "gallery"),
    ]
    assert "labeled" in labelled.records[0].source
    assert "detected" in detected.records[0].source


@pytest.mark.parametrize("boxes", ["labelled", "detected"])
def test_one_kind_of_boxes_alone_is_told_the_spec_to_write(
    place: Callable[[Layout], Path], boxes: str
) -> None:
    root = place(CUHK03NP)
    with pytest.raises(InputProblem, match=f"cuhk03np:{root},boxes={boxes}$"):
        read("cuhk03np", root / boxes.replace("labelled", "labeled"))
