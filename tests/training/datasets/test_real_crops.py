"""Real crops, where `REID_TEST_DATA` names the folder of `cuhk01`, `cuhk03_p1`, `market1501`."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from training.datasets.check import check_datasets
from training.datasets.registry import read_dataset

FOLDER = os.environ.get("REID_TEST_DATA", "")

pytestmark = pytest.mark.skipif(not FOLDER, reason="REID_TEST_DATA names no folder of real crops")


@pytest.mark.parametrize(
    ("spec", "images", "identities"),
    [
        (f"cuhk01:{FOLDER}/cuhk01", 1_940, 485),
        (f"manifest:{FOLDER}/cuhk03_p1", 7_239, 743),
    ],
)
def test_real_sets_have_the_counts_they_were_made_with(spec, images, identities):
    dataset = read_dataset(spec)
    assert len(dataset.records) == images
    assert len(dataset.identities) == identities
    assert dataset.cameras == ["A", "B"]
    assert np.asarray(dataset.records[0].decode()).shape[2] == 3


@pytest.mark.skipif(
    not (Path(FOLDER) / "market1501").is_dir(), reason="REID_TEST_DATA holds no market1501"
)
def test_market1501_as_published_is_read_whole():
    records = read_dataset(f"market1501:{FOLDER}/market1501").records
    assert Counter(record.split for record in records) == {
        "train": 12_936,
        "query": 3_368,
        "gallery": 19_732,
    }
    unlabelled = Counter(record.identity for record in records if record.identity in ("-1", "0000"))
    assert unlabelled == {"-1": 3_819, "0000": 2_798}


def test_no_more_of_real_people_is_flagged_than_is_the_same_picture():
    report = check_datasets([read_dataset(f"cuhk01:{FOLDER}/cuhk01")])
    repeated = [
        (example["people"], example["crosses"]) for example in report["duplicates"]["examples"]
    ]
    people = ["0258", "0334", "0371", "0375", "0407", "0458"]
    assert repeated == [([f"cuhk01/{person}"], []) for person in people]
    # The set gives two people two names.
    assert [example["people"] for example in report["crossing_duplicates"]["examples"]] == [
        ["cuhk01/0162", "cuhk01/0257"],
        ["cuhk01/0231", "cuhk01/0331"],
    ]
