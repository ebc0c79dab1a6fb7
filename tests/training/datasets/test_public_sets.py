"""The public sets: a miniature of each layout, and the crops read of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from model.problems import InputProblem
from training.datasets.protocols import PROTOCOLS, training_sets
from training.datasets.registry import KINDS, read_dataset

DrawImage = Callable[..., Path]
Place = Callable[[str], Path]


@dataclass(frozen=True)
class Miniature:
    """A miniature of a set.

    Attributes:
        files: their names.
        crops: identity, camera and split (`-` for none) of each crop that is read.
        folder: a folder that a spec may name as well as the one above it.
        wrong: a file whose name is wrong.
    """

    files: str
    crops: str
    folder: str
    wrong: str


MINIATURES = {
    "cuhk01": Miniature(
        "campus/0001001.png campus/0001002.png campus/0001003.png campus/0010004.PNG",
        "0001 A -, 0001 A -, 0001 B -, 0010 B -",
        "campus",
        "campus/0003005.png",
    ),
    "market1501": Miniature(
        """bounding_box_train/0002_c1s1_000451_03.jpg bounding_box_train/0007_c3s3_077419_03.jpg
        query/0001_c1s1_001051_00.jpg query/1488_c1s6_023021_00.jpg.jpg
        bounding_box_test/-1_c4s6_022316_11.jpg.jpg bounding_box_test/0000_c1s1_000151_01.jpg
        bounding_box_test/0001_c2s1_000301_00.jpg""",
        """0002 c1 train, 0007 c3 train, 0001 c1 query, 1488 c1 query, -1 c4 gallery,
        0000 c1 gallery, 0001 c2 gallery""",
        "",
        "query/0002_c7s1_000451_03.jpg",
    ),
    "viper": Miniature(
        """VIPeR/cam_a/000_45.bmp VIPeR/cam_a/001_90.bmp VIPeR/cam_b/000_45.bmp
        VIPeR/cam_b/001_90.bmp""",
        "000 a -, 001 a -, 000 b -, 001 b -",
        "VIPeR",
        "VIPeR/cam_b/45.bmp",
    ),
    # Its later numbers are other people in the other camera.
    "prid2011": Miniature(
        """prid_2011/single_shot/cam_a/person_0001.png prid_2011/single_shot/cam_a/person_0200.png
        prid_2011/single_shot/cam_a/person_0201.png prid_2011/single_shot/cam_b/person_0001.png
        prid_2011/single_shot/cam_b/person_0200.png prid_2011/single_shot/cam_b/person_0201.png""",
        "0001 a -, 0200 a -, a-0201 a -, 0001 b -, 0200 b -, b-0201 b -",
        "prid_2011",
        "prid_2011/single_shot/cam_a/0003.png",
    ),
    "ilids": Miniature(
        """i-LIDS_Pedestrian/Persons/0001001.jpg i-LIDS_Pedestrian/Persons/0001002.jpg
        i-LIDS_Pedestrian/Persons/0002001.jpg""",
        "0001 shot1 -, 0001 shot2 -, 0002 shot1 -",
        "i-LIDS_Pedestrian",
        "i-LIDS_Pedestrian/Persons/1.jpg",
    ),
    "grid": Miniature(
        """underground_reid/probe/0001_1_25004_107_32_106_221.jpeg
        underground_reid/probe/0002_2_25000_1_2_3_4.jpeg
        underground_reid/gallery/0000_7_25001_1_2_3_4.jpeg
        underground_reid/gallery/0001_5_25008_107_32_106_221.jpeg
        underground_reid/gallery/0002_6_25000_1_2_3_4.jpeg""",
        "0001 1 query, 0002 2 query, 0000 7 gallery, 0001 5 gallery, 0002 6 gallery",
        "underground_reid",
        "underground_reid/gallery/0003_9_1_2_3_4_5.jpeg",
    ),
    # Two releases name scene and camera in different order.
    "randperson": Miniature(
        """randperson_subset/000000_s00_c00_f000264.jpg randperson_subset/000000_s01_c02_f001032.jpg
        randperson_subset/000001_c02_s01_f000001.jpg""",
        "000000 s00c00 -, 000000 s01c02 -, 000001 s01c02 -",
        "randperson_subset",
        "randperson_subset/000000_f000264.jpg",
    ),
    "cuhk02": Miniature(
        " ".join(
            f"Dataset/P{pair}/cam{camera}/001_1.png" for pair in range(1, 6) for camera in (1, 2)
        ),
        ", ".join(
            f"P{pair}-001 P{pair}-cam{camera} -" for pair in range(1, 6) for camera in (1, 2)
        ),
        "Dataset",
        "Dataset/P3/cam2/1.png",
    ),
    "dukemtmc": Miniature(
        """bounding_box_train/0001_c2_f0046182.jpg query/0005_c2_f0046985.jpg
        bounding_box_test/0005_c5_f0051341.jpg bounding_box_test/0006_c8_f0000001.jpg""",
        "0001 c2 train, 0005 c2 query, 0005 c5 gallery, 0006 c8 gallery",
        "",
        "query/0005_c9_f0046985.jpg",
    ),
    "cuhksysu": Miniature(
        """cropped_images/p00001_n01_s00001_hard0.png cropped_images/p11422_s16929_1.jpg
        cropped_images/p7_s1_1.jpg""",
        "p00001 s00001 -, p11422 s16929 -, p00007 s00001 -",
        "cropped_images",
        "cropped_images/11422.jpg",
    ),
    "cuhk03np": Miniature(
        """labeled/bounding_box_train/0001_c1_1.png labeled/bounding_box_train/0001_c2_6.png
        labeled/query/0003_c1_22.png labeled/bounding_box_test/0003_c2_27.png""",
        "0001 c1 train, 0001 c2 train, 0003 c1 query, 0003 c2 gallery",
        "",
        "labeled/query/3_c1.png",
    ),
    "msmt17": Miniature(
        """MSMT17_V1/train/0000/0000_000_01_0303morning_0015_0.jpg
        MSMT17_V1/train/0000/0000_001_14_0303noon_0016_1_ex.jpg
        MSMT17_V1/test/0000/0000_000_05_0302noon_0001_0.jpg
        MSMT17_V1/test/0000/0000_001_07_0302noon_0002_0.jpg
        MSMT17_V1/test/0001/0001_000_15_0302afternoon_0003_2.jpg""",
        """train-0000 01 train, train-0000 14 train, test-0000 05 query, test-0000 07 gallery,
        test-0001 15 gallery""",
        "MSMT17_V1",
        "",
    ),
}
MSMT17_LISTS = {
    "train": ("0000/0000_000_01_0303morning_0015_0.jpg 0",),
    "val": ("0000/0000_001_14_0303noon_0016_1_ex.jpg 0",),
    "query": ("0000/0000_000_05_0302noon_0001_0.jpg 0",),
    "gallery": (
        "0000/0000_001_07_0302noon_0002_0.jpg 0",
        "0001/0001_000_15_0302afternoon_0003_2.jpg 1",
    ),
}
every_kind = pytest.mark.parametrize("kind", MINIATURES)


@pytest.fixture
def place(tmp_path, draw_image):
    def draw(kind):
        root = tmp_path / "set"
        for name in MINIATURES[kind].files.split():
            draw_image(root / name)
        if kind == "msmt17":
            for name, lines in MSMT17_LISTS.items():
                list_file = root / "MSMT17_V1" / f"list_{name}.txt"
                list_file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return root

    return draw


def read(kind, path):
    return read_dataset(f"{kind}:{path}")


def labels(records):
    return [f"{record.identity} {record.camera} {record.split or '-'}" for record in records]


@every_kind
def test_each_layout_is_read_from_the_archive_s_folder_and_the_one_above_it(kind, place):
    root = place(kind)
    miniature = MINIATURES[kind]
    dataset = read(kind, root)
    assert labels(dataset.records) == " ".join(miniature.crops.split()).split(", ")
    assert dataset.records == read(kind, root / miniature.folder).records
    assert (dataset.name, dataset.terms) == (kind, KINDS[kind].terms)
    for record in dataset.records:
        assert record.dataset == record.domain == kind
        assert np.asarray(record.decode()).shape == (48, 24, 3)


@pytest.mark.parametrize("kind", [kind for kind in MINIATURES if kind != "msmt17"])
def test_the_first_file_whose_name_is_wrong_is_named(kind, place):
    root = place(kind)
    wrong = root / MINIATURES[kind].wrong
    wrong.write_bytes(b"")
    with pytest.raises(InputProblem) as caught:
        read(kind, root)
    assert str(caught.value).startswith(f"{wrong}: the name is not ")


@every_kind
def test_an_archive_half_unpacked_is_refused(kind, place):
    root = place(kind)
    (root / MINIATURES[kind].files.split()[-1]).parent.rename(root / "elsewhere")
    with pytest.raises(InputProblem, match=r"no such f|holds no image"):
        read(kind, root)


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "._0001001.png", "readme.txt"])
def test_files_of_operating_systems_and_authors_are_passed_over(place, name):
    root = place("cuhk01")
    (root / "campus" / name).write_bytes(b"no crop")
    assert len(read("cuhk01", root).records) == 4


@pytest.mark.parametrize(
    ("kind", "test_people", "sides", "eligible"),
    [
        ("viper", 316, "cameras", ["000", "001"]),
        ("prid2011", 100, "cameras", ["0001", "0200"]),
        ("ilids", 60, "crops", ["0001"]),
        ("grid", 125, "splits", ["0001", "0002"]),
    ],
)
def test_small_sets_are_split_at_random_as_papers_do(kind, test_people, sides, eligible, place):
    splits = KINDS[kind].random_splits
    assert splits is not None
    assert (splits.number, splits.test_people, splits.sides) == (10, test_people, sides)
    records = read(kind, place(kind)).records
    assert splits.eligible_identities(records, KINDS[kind].not_people) == eligible


def test_market1501_takes_its_further_distractors_where_asked(place, draw_image):
    root = place("market1501")
    draw_image(root / "images" / "0000_c3s1_000001_01.jpg")
    draw_image(root / "images" / "-1_c2s1_000002_01.jpg")
    # There is junk in the gallery alone.
    draw_image(root / "bounding_box_train" / "-1_c1s1_000001_00.jpg")
    assert len(read("market1501", root).records) == 7
    dataset = read("market1501", f"{root},distractors=500k")
    assert dataset.version == "with the 500k distractors"
    assert labels(dataset.records[7:]) == ["-1 c2 gallery", "0000 c3 gallery"]


def test_grid_s_own_partitions_are_read(place):
    root = place("grid")
    assert read("grid", root).training_people == ()
    partitions = np.empty((1, 2), dtype=object)
    for number in range(2):
        rows = {"probeFeaturesIdx": [1], "galleryFeaturesIdx": [3], "personIdx": [number + 1, 7]}
        partitions[0, number] = rows
    file = root / "underground_reid" / "features_and_partitions.mat"
    savemat(file, {"trainIdxAll": partitions, "features": np.zeros((4, 2))})
    people = frozenset({"0001", "0007"}), frozenset({"0002", "0007"})
    assert read("grid", root).training_people == people
    for damage in (file.read_bytes()[:150], b""):
        file.write_bytes(damage)
        with pytest.raises(InputProblem, match=r"features_and_partitions\.mat: .*unpack it again"):
            read("grid", root)


def test_cuhk03np_reads_either_kind_of_boxes(place):
    root = place("cuhk03np")
    labelled = read("cuhk03np", root)
    with pytest.raises(InputProblem, match="has no folder labeled; name the folder"):
        read("cuhk03np", root / "labeled")
    (root / "labeled").rename(root / "detected")
    detected = read("cuhk03np", f"{root},boxes=detected")
    assert (labelled.version, detected.version) == ("labelled boxes", "detected boxes")
    assert labels(detected.records) == labels(labelled.records)
    with pytest.raises(InputProblem, match="has no folder labeled"):
        read("cuhk03np", root)


@pytest.fixture
def cuhksysu(place):
    """Person 1 is trained on, 11422 is searched for, and 7 is of neither list."""
    root = place("cuhksysu")
    lists = root / "annotation" / "test" / "train_test"
    lists.mkdir(parents=True)
    # A column of cells, and a row of structures: as the archive has them.
    train = np.empty((1, 1), dtype=object)
    train[0, 0] = {"idname": "p1", "nAppear": 2, "scene": np.zeros(1)}
    savemat(lists / "Train.mat", {"Train": train})
    test = np.empty((1, 1), dtype=[("Query", "O"), ("Gallery", "O")])
    query = {"imname": "s16929.jpg", "idlocate": np.array([[50, 60, 30, 40]]), "idname": "p11422"}
    test[0, 0] = (query, np.zeros(1))
    savemat(lists / "TestG50.mat", {"TestG50": test})
    return root


def test_cuhksysu_has_the_splits_of_its_authors(cuhksysu):
    dataset = read("cuhksysu", cuhksysu)
    assert labels(dataset.records) == [
        "p00001 s00001 train",
        "p11422 s16929 query",
        "p00007 s00001 gallery",
    ]
    assert dataset.version == "ready crops, cropped_images, in its own splits"
    (p2,) = training_sets([dataset], PROTOCOLS["P2"], "msmt17")
    (p3,) = training_sets([dataset], PROTOCOLS["P3"], "msmt17")
    assert p2.identities == ["p00001"]
    assert p3.identities == ["p00001", "p00007", "p11422"]


def test_damaged_lists_of_cuhksysu_s_splits_are_named(cuhksysu):
    lists = cuhksysu / "annotation" / "test" / "train_test"
    (lists / "TestG50.mat").unlink()
    with pytest.raises(InputProblem, match=r"TestG50\.mat: no such file; unpack it there"):
        read("cuhksysu", cuhksysu)
    for damaged in ({"Train": np.arange(3)}, {"Img": np.arange(3)}):
        savemat(lists / "Train.mat", damaged)
        with pytest.raises(InputProblem, match=r"Train\.mat: .* does not list people .*again"):
            read("cuhksysu", cuhksysu)


def test_cuhksysu_without_lists_tells_its_folder_of_crops(place):
    assert read("cuhksysu", place("cuhksysu")).version == "ready crops, cropped_images"


def test_msmt17_s_second_version_and_its_validation_list(place):
    root = place("msmt17")
    assert read("msmt17", root).version == "V1"
    folder = (root / "MSMT17_V1").rename(root / "MSMT17_V2")
    (folder / "train").rename(folder / "mask_train_v2")
    (folder / "test").rename(folder / "mask_test_v2")
    assert read("msmt17", root).version == "V2"
    assert len(read("msmt17", root).records) == 5
    dataset = read("msmt17", f"{root},validation=drop")
    assert dataset.cameras == ["01", "05", "07", "15"]
    assert dataset.version == "V2 without its validation list"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("0000_000_01_0303morning_0015_0.jpg", "line 1: .* is not a file name like 0000_"),
        ("0000/0000_000_01_a_b.jpg x", "line 1: .* is not a file name like 0000_"),
        ("0000/0009_000_01_a_b.jpg 9", "a_b.jpg: no such file, yet .*list_query.txt, line 1 lists"),
    ],
)
def test_a_wrong_line_of_msmt17_s_lists_is_named(place, line, problem):
    root = place("msmt17")
    (root / "MSMT17_V1" / "list_query.txt").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(InputProblem, match=problem):
        read("msmt17", root)


def test_msmt17_s_lists_that_are_empty_or_missing_are_refused(place):
    root = place("msmt17")
    for name in MSMT17_LISTS:
        (root / "MSMT17_V1" / f"list_{name}.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(InputProblem, match=f"msmt17:{root}: has no crop"):
        read("msmt17", root)
    (root / "MSMT17_V1" / "list_val.txt").unlink()
    with pytest.raises(InputProblem, match=r"list_val\.txt: cannot be read .* unpack it beside"):
        read("msmt17", root)
    with pytest.raises(InputProblem, match=r"neither train \(version 1\) nor mask_train_v2"):
        read("msmt17", root.parent)
