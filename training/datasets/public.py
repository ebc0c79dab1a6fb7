"""The public sets: how each lays out its crops, its terms, and what its authors published."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from training.datasets.archives import CUHK03NP, CUHK_PAGE, CUHK_TERMS, CUHKSYSU, read_mat
from training.datasets.kind import (
    THREE_FOLDERS,
    DatasetKind,
    Layout,
    Parts,
    PublishedCount,
    RandomSplits,
    descend,
    read_layout,
)
from training.datasets.msmt17 import MSMT17
from training.datasets.record import Dataset, DatasetProblem

JUNK = "-1"
"""A badly drawn box of some person: evaluation drops it, it counts neither for nor against."""

DISTRACTOR = "0000"
"""A false detection or a person of no query: evaluation keeps it in the gallery, always wrong."""

TWO_CAMERAS: dict[str, Parts] = {"cam_a": {"camera": "a"}, "cam_b": {"camera": "b"}}


# Market-1501: three folders of files, one a split, and an archive of further distractors.

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


MARKET1501 = DatasetKind(
    name="market1501",
    path="the folder that holds bounding_box_train",
    terms="Research only; its authors ask not to distribute it or use it commercially.",
    obtain="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    layout=Layout(
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
)


# Every pair of cameras numbers its people from the start, so an identity is `P1-001`, a camera
# `P1-cam1`; the people and crops of `P1` are those of CUHK01.
CUHK02 = DatasetKind(
    name="cuhk02",
    path="the folder that holds P1 to P5, or the one above it",
    terms=CUHK_TERMS,
    obtain=CUHK_PAGE,
    layout=Layout(
        re.compile(r"(?P<person>\d+)_\w+\.png", re.IGNORECASE),
        "like 001_1.png (identity within its pair of cameras, image)",
        {
            f"{pair}/{camera}": {"pair": pair, "camera": camera}
            for pair in ("P1", "P2", "P3", "P4", "P5")
            for camera in ("cam1", "cam2")
        },
        within=("Dataset",),
        label=lambda of: (f"{of['pair']}-{of['person']}", f"{of['pair']}-{of['camera']}"),
    ),
    published=(PublishedCount(None, 7_264, 1_816),),
    overlaps=frozenset({"cuhk01"}),
)

CUHK01 = DatasetKind(
    name="cuhk01",
    path="the folder of IIIIKKK.png files, or the one above it",
    terms=CUHK_TERMS,
    obtain=CUHK_PAGE,
    layout=Layout(
        re.compile(r"(?P<identity>\d{4})00(?P<shot>[1-4])\.png", re.IGNORECASE),
        "IIIIKKK.png with a four-digit identity and KKK from 001 to 004",
        within=("campus",),
        label=lambda of: (of["identity"], "A" if of["shot"] in "12" else "B"),
    ),
    published=(PublishedCount(None, 3_884, 971),),
    overlaps=frozenset({"cuhk02"}),
)

VIPER = DatasetKind(
    name="viper",
    path="the folder that holds cam_a and cam_b, or the one above it",
    terms="Published for research; ask its authors before any other use.",
    obtain="https://vision.soe.ucsc.edu/node/178",
    layout=Layout(
        re.compile(r"(?P<identity>\d{3})_\d{1,3}\.(?:bmp|png)", re.IGNORECASE),
        "like 000_45.bmp (identity, viewing angle)",
        TWO_CAMERAS,
        within=("VIPeR",),
    ),
    published=(PublishedCount(None, 1_264, 632),),
    random_splits=RandomSplits(test_people=316, sides="cameras"),
)


# QMUL GRID, the underground: 250 people in `probe` and `gallery`, and 775 distractors.


def _read_grid(kind: DatasetKind, path: Path) -> Dataset:
    """Reads GRID; its ten partitions where `features_and_partitions.mat` lies beside the folders.

    Raises:
        DatasetProblem: naming the first file or folder that is wrong.
    """
    dataset = read_layout(kind, path)
    file = descend(path, "underground_reid") / "features_and_partitions.mat"
    if not file.exists():
        return dataset
    partitions = read_mat(file, "trainIdxAll")
    try:
        training = tuple(_people_of_partition(one) for one in np.atleast_1d(partitions))
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise DatasetProblem(
            f"{file}: trainIdxAll does not list the people to train on ({error}); unpack it again, "
            "or remove it to draw splits at random"
        ) from error
    return replace(dataset, training_people=training)


def _people_of_partition(partition: Any) -> frozenset[str]:
    # A partition holds three lists: rows of the probe features, rows of the gallery features, and
    # the people, which is the one that names anybody.
    field = partition._fieldnames[2]
    return frozenset(f"{int(number):04d}" for number in np.atleast_1d(getattr(partition, field)))


GRID = DatasetKind(
    name="grid",
    path="the folder that holds probe and gallery, or the one above it",
    terms="Published for research; ask its authors before any other use.",
    obtain="https://personal.ie.cuhk.edu.hk/~ccloy/downloads_qmul_underground_reid.html",
    layout=Layout(
        re.compile(r"(?P<identity>\d{4})_(?P<camera>[1-8])_.+\.jpe?g", re.IGNORECASE),
        "like 0001_1_25004_107_32_106_221.jpeg (identity, camera, frame, box)",
        {"probe": {"split": "query"}, "gallery": {"split": "gallery"}},
        within=("underground_reid",),
    ),
    read=_read_grid,
    published=(PublishedCount("query", 250, 250), PublishedCount("gallery", 1_025, 250)),
    not_people=frozenset({DISTRACTOR}),
    random_splits=RandomSplits(test_people=125, sides="splits"),
)

# PRID 2011: people 0001 to 0200 are the same in both cameras; from 0201 on a number in one camera
# is another person than that number in the other, so these are called `a-0201` or `b-0201`.
PRID2011 = DatasetKind(
    name="prid2011",
    path="the folder that holds single_shot",
    terms="Research only; made by Graz University of Technology.",
    obtain="https://www.tugraz.at/institute/icg/research/team-bischof/lrs/downloads/PRID11/",
    layout=Layout(
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
)

# QMUL i-LIDS states no camera: with every image as one of another camera, evaluation drops the
# query itself from its gallery and nothing else.
ILIDS = DatasetKind(
    name="ilids",
    path="the folder Persons, or the one above it",
    terms="Published for research; the i-LIDS video it is cut from has a licence of its own.",
    obtain="http://www.eecs.qmul.ac.uk/~jason/data/i-LIDS_Pedestrian.tgz",
    layout=Layout(
        re.compile(r"(?P<identity>\d{4})(?P<shot>\d{3})\.jpg", re.IGNORECASE),
        "like 0001001.jpg (four digits of identity, three of the image)",
        within=("i-LIDS_Pedestrian", "Persons", "images"),
        label=lambda of: (of["identity"], f"shot{int(of['shot'])}"),
    ),
    published=(PublishedCount(None, 476, 119),),
    stands_for_camera="every image of a person counts as one of another camera",
    random_splits=RandomSplits(test_people=60, sides="crops"),
)

# RandPerson, the subset of images that its paper trains on. Two releases name scene and camera in
# different order; both are read.
RANDPERSON = DatasetKind(
    name="randperson",
    path="the folder randperson_subset, or the one above it",
    terms=(
        "People made by software, no person is shown; the licence is the one in its repository."
    ),
    obtain="https://github.com/VideoObjectSearch/RandPerson",
    layout=Layout(
        re.compile(
            r"(?P<identity>\d{6})_"
            r"(?:s(?P<scene>\d\d)_c(?P<camera>\d\d)|c(?P<camera_first>\d\d)_s(?P<scene_last>\d\d))"
            r"_f\d{6}\.(?:jpg|png)"
        ),
        "like 000000_s00_c01_f000264.jpg (identity, scene, camera, frame)",
        within=("randperson_subset", "subset"),
        label=lambda of: (
            of["identity"],
            f"s{of.get('scene') or of['scene_last']}c{of.get('camera') or of['camera_first']}",
        ),
    ),
    version="image subset",
    published=(PublishedCount(None, 132_145, 8_000),),
)

# DukeMTMC-reID is read only to stand beside an old paper's row.
DUKEMTMC = DatasetKind(
    name="dukemtmc",
    path="the folder that holds bounding_box_train",
    terms=(
        "Withdrawn by its authors in 2019, since its people never agreed to be recorded: do not "
        "use it for anything new; this reader exists to check a row of an older paper."
    ),
    obtain="nowhere: its authors took it down",
    layout=Layout(
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
)

PUBLIC_SETS = (
    MARKET1501,
    MSMT17,
    CUHK03NP,
    CUHK02,
    CUHK01,
    CUHKSYSU,
    VIPER,
    GRID,
    PRID2011,
    ILIDS,
    RANDPERSON,
    DUKEMTMC,
)
