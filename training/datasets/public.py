"""The public sets: how each lays out its crops, its terms, and what its authors published."""

from __future__ import annotations

import re
from pathlib import Path

from training.datasets.archives import (
    CUHK03_LAYOUT,
    SYSU_LAYOUT,
    looks_like_cuhk03,
    looks_like_cuhksysu,
    read_cuhk03,
    read_cuhksysu,
    read_grid,
)
from training.datasets.kind import (
    THREE_FOLDERS,
    DatasetKind,
    Layout,
    Parts,
    PublishedCount,
    RandomSplits,
    read_layout,
)
from training.datasets.msmt17 import DROPPED, VERSIONS, looks_like_msmt17, read_msmt17
from training.datasets.record import Dataset

JUNK = "-1"
"""A badly drawn box of some person: evaluation drops it, it counts neither for nor against."""

DISTRACTOR = "0000"
"""A false detection or a person of no query: evaluation keeps it in the gallery, always wrong."""

CUHK_PAGE = "https://www.ee.cuhk.edu.hk/~xgwang/CUHK_identification.html"
CUHK_TERMS = "Academic research only; provided by the Chinese University of Hong Kong."
ON_REQUEST = "Published for research; ask its authors before any other use."
TWO_CAMERAS: dict[str, Parts] = {"cam_a": {"camera": "a"}, "cam_b": {"camera": "b"}}

FURTHER_DISTRACTORS = Layout(
    re.compile(r"(?P<identity>-1|0+)_(?P<camera>c[1-6]).*\.jpg"),
    "like 0000_c1s1_000151_01.jpg, as the 500k distractors are named",
    {"images": {"split": "gallery"}},
    label=lambda of: (JUNK if of["identity"] == JUNK else DISTRACTOR, of["camera"]),
)


def _read_market1501(kind: DatasetKind, path: Path, distractors: str = "none") -> Dataset:
    """Reads the three splits; junk and distractors are in the gallery alone.

    With `distractors=500k` the folder `images` of the 500,000 further distractors joins it.
    """
    dataset = read_layout(kind, path)
    if distractors == "none":
        return dataset
    further = FURTHER_DISTRACTORS.records(path, kind.name)
    return kind.dataset([*dataset.records, *further], "with the 500k distractors")


PUBLIC_SETS = (
    DatasetKind(
        "market1501",
        "the folder that holds bounding_box_train",
        "Research only; its authors ask not to distribute it or use it commercially.",
        "https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
        Layout(
            re.compile(r"(?P<identity>-1|\d{4})_(?P<camera>c[1-6])s\d_\d{6}_\d{2}\.jpg"),
            "like 0002_c1s1_000451_03.jpg (identity, camera, sequence, frame, box)",
            THREE_FOLDERS,
        ),
        read=_read_market1501,
        options={"distractors": ("none", "500k")},
        # The gallery's 19,732 images hold 3,819 of junk and the distractors.
        published=(
            PublishedCount("train", 12_936, 751),
            PublishedCount("query", 3_368, 750),
            PublishedCount("gallery", 19_732, 750, version=""),
        ),
        not_people=frozenset({JUNK, DISTRACTOR}),
    ),
    DatasetKind(
        "msmt17",
        "the folder that holds list_train.txt, or the one above it",
        "Research only, under the agreement its authors have signed; not to be redistributed.",
        "https://www.pkuvmc.com/dataset.html, after signing its agreement",
        read=read_msmt17,
        looks_like=looks_like_msmt17,
        options={"validation": ("train", "drop")},
        published=(
            *(PublishedCount("train", 32_621, 1_041, version) for version in VERSIONS),
            *(PublishedCount("train", 30_248, 1_041, version + DROPPED) for version in VERSIONS),
            PublishedCount("query", 11_659, 3_060),
            PublishedCount("gallery", 82_161, 3_060),
        ),
    ),
    DatasetKind(
        "cuhk03np",
        "the folder that holds labeled and detected, or cuhk03_release",
        CUHK_TERMS,
        f"{CUHK_PAGE}; the protocol is in https://github.com/zhunzhong07/person-re-ranking",
        CUHK03_LAYOUT,
        read=read_cuhk03,
        looks_like=looks_like_cuhk03,
        options={"boxes": ("labelled", "detected")},
        published=(
            PublishedCount("train", 7_368, 767, "labelled boxes"),
            PublishedCount("query", 1_400, 700),
            PublishedCount("gallery", 5_328, 700, "labelled boxes"),
            PublishedCount("train", 7_365, 767, "detected boxes"),
            PublishedCount("gallery", 5_332, 700, "detected boxes"),
        ),
    ),
    # Every pair of cameras numbers its people from the start; the people and crops of P1 are those
    # of CUHK01.
    DatasetKind(
        "cuhk02",
        "the folder that holds P1 to P5, or the one above it",
        CUHK_TERMS,
        CUHK_PAGE,
        Layout(
            re.compile(r"(?P<person>\d+)_\w+\.png", re.IGNORECASE),
            "like 001_1.png (identity within its pair of cameras, image)",
            {
                f"P{pair}/{camera}": {"pair": f"P{pair}", "camera": camera}
                for pair in range(1, 6)
                for camera in ("cam1", "cam2")
            },
            within=("Dataset",),
            label=lambda of: (f"{of['pair']}-{of['person']}", f"{of['pair']}-{of['camera']}"),
        ),
        published=(PublishedCount(None, 7_264, 1_816),),
        overlaps=frozenset({"cuhk01"}),
    ),
    DatasetKind(
        "cuhk01",
        "the folder of IIIIKKK.png files, or the one above it",
        CUHK_TERMS,
        CUHK_PAGE,
        Layout(
            re.compile(r"(?P<identity>\d{4})00(?P<shot>[1-4])\.png", re.IGNORECASE),
            "IIIIKKK.png with a four-digit identity and KKK from 001 to 004",
            within=("campus",),
            label=lambda of: (of["identity"], "A" if of["shot"] in "12" else "B"),
        ),
        published=(PublishedCount(None, 3_884, 971),),
        overlaps=frozenset({"cuhk02"}),
    ),
    DatasetKind(
        "cuhksysu",
        "the folder that holds annotation and Image, or one of ready crops",
        "Academic research only, given on request; not to be redistributed.",
        "http://www.ee.cuhk.edu.hk/~xgwang/PS/dataset.html, on request",
        SYSU_LAYOUT,
        read=read_cuhksysu,
        looks_like=looks_like_cuhksysu,
        options={"crops": ("scenes", "cut")},
        stands_for_camera="every scene counts as a camera",
        published=(
            PublishedCount(None, 34_574, 11_934),
            PublishedCount("train", None, 5_532),
            PublishedCount("query", 2_900, 2_900),
        ),
    ),
    DatasetKind(
        "viper",
        "the folder that holds cam_a and cam_b, or the one above it",
        ON_REQUEST,
        "https://vision.soe.ucsc.edu/node/178",
        Layout(
            re.compile(r"(?P<identity>\d{3})_\d{1,3}\.(?:bmp|png)", re.IGNORECASE),
            "like 000_45.bmp (identity, viewing angle)",
            TWO_CAMERAS,
            within=("VIPeR",),
        ),
        published=(PublishedCount(None, 1_264, 632),),
        random_splits=RandomSplits(test_people=316, sides="cameras"),
    ),
    DatasetKind(
        "grid",
        "the folder that holds probe and gallery, or the one above it",
        ON_REQUEST,
        "https://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html",
        Layout(
            re.compile(r"(?P<identity>\d{4})_(?P<camera>[1-8])_.+\.jpe?g", re.IGNORECASE),
            "like 0001_1_25004_107_32_106_221.jpeg (identity, camera, frame, box)",
            {"probe": {"split": "query"}, "gallery": {"split": "gallery"}},
            within=("underground_reid",),
        ),
        read=read_grid,
        # The gallery's 1,025 images hold 775 distractors.
        published=(PublishedCount("query", 250, 250), PublishedCount("gallery", 1_025, 250)),
        not_people=frozenset({DISTRACTOR}),
        random_splits=RandomSplits(test_people=125, sides="splits"),
    ),
    # People 0001 to 0200 are the same in both cameras; from 0201 on a number in one camera is
    # another person than that number in the other, so these are called a-0201 or b-0201.
    DatasetKind(
        "prid2011",
        "the folder that holds single_shot",
        "Research only; made by Graz University of Technology.",
        "https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/",
        Layout(
            re.compile(r"person_(?P<person>\d{4})\.png", re.IGNORECASE),
            "like person_0001.png",
            TWO_CAMERAS,
            within=("prid_2011", "single_shot"),
            label=lambda of: (
                of["person"] if int(of["person"]) <= 200 else f"{of['camera']}-{of['person']}",
                of["camera"],
            ),
        ),
        version="single shot",
        # 385 people in camera a, 749 in camera b, of whom 200 are in both.
        published=(PublishedCount(None, 1_134, 934),),
        random_splits=RandomSplits(test_people=100, sides="cameras"),
    ),
    # With every image as one of another camera, evaluation drops the query itself from its gallery
    # and nothing else.
    DatasetKind(
        "ilids",
        "the folder Persons, or the one above it",
        "Published for research; the i-LIDS video it is cut from has a licence of its own.",
        "http://www.eecs.qmul.ac.uk/~jason/data/i-LIDS_Pedestrian.tgz",
        Layout(
            re.compile(r"(?P<identity>\d{4})(?P<shot>\d{3})\.jpg", re.IGNORECASE),
            "like 0001001.jpg (four digits of identity, three of the image)",
            within=("i-LIDS_Pedestrian", "Persons", "images"),
            label=lambda of: (of["identity"], f"shot{int(of['shot'])}"),
        ),
        published=(PublishedCount(None, 476, 119),),
        stands_for_camera="every image of a person counts as one of another camera",
        random_splits=RandomSplits(test_people=60, sides="crops"),
    ),
    # The subset of images that its paper trains on. Two releases name scene and camera in different
    # order; both are read.
    DatasetKind(
        "randperson",
        "the folder randperson_subset, or the one above it",
        "People made by software, no person is shown; the licence is the one in its repository.",
        "https://github.com/VideoObjectSearch/RandPerson",
        Layout(
            re.compile(
                r"(?P<identity>\d{6})_(?:(?P<scene>s\d\d)_(?P<camera>c\d\d)"
                r"|(?P<camera_first>c\d\d)_(?P<scene_last>s\d\d))_f\d{6}\.(?:jpg|png)"
            ),
            "like 000000_s00_c01_f000264.jpg (identity, scene, camera, frame)",
            within=("randperson_subset", "subset"),
            label=lambda of: (
                of["identity"],
                (of.get("scene") or of["scene_last"]) + (of.get("camera") or of["camera_first"]),
            ),
        ),
        version="image subset",
        published=(PublishedCount(None, 132_145, 8_000),),
    ),
    # Read only to stand beside an old paper's row.
    DatasetKind(
        "dukemtmc",
        "the folder that holds bounding_box_train",
        "Withdrawn by its authors in 2019, since its people never agreed to be recorded: do not "
        "use it for anything new; this reader exists to check a row of an older paper.",
        "nowhere: its authors took it down",
        Layout(
            re.compile(r"(?P<identity>\d{4})_(?P<camera>c[1-8])_f\d{7}\.jpg"),
            "like 0001_c2_f0046182.jpg (identity, camera, frame)",
            THREE_FOLDERS,
        ),
        # The gallery shows 408 more people, who are under one camera only and answer no query.
        published=(
            PublishedCount("train", 16_522, 702),
            PublishedCount("query", 2_228, 702),
            PublishedCount("gallery", 17_661, 1_110),
        ),
    ),
)
