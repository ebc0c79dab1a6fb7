from dataclasses import replace

import numpy as np
import pytest

from model.problems import InputProblem
from training.datasets.record import CropRecord
from training.evaluation.evaluate_search import rank_lists, worst_queries
from training.evaluation.metrics import rank_queries
from training.evaluation.runs import (
    query_values,
    read_query_values,
    search_digest,
    write_query_values,
)
from training.evaluation.searches import Search


def crops(camera, *identities, folder="/data/set"):
    return tuple(
        CropRecord(f"{folder}/{camera}/{number}.png", "set", identity, camera, "set")
        for number, identity in enumerate(identities)
    )


@pytest.fixture
def search():
    return Search("a against b", crops("a", "x", "y", "z"), crops("b", "x", "y", "y", "-1"))


SCORES = np.array(
    [[0.2, 0.9, 0.8, 1.0], [0.1, 0.5, 0.2, 0.9], [0.3, 0.2, 0.1, 0.0]], dtype=np.float32
)


def rows(block):
    return SCORES[block]


def test_values_survive_the_file_to_the_figures_of_a_table(search, tmp_path):
    metrics = {"cosine": rank_queries(rows, search.labels())}
    kept = query_values(search, metrics)
    assert kept.identities.tolist() == search.labels().query_identities[:2].tolist()
    write_query_values(tmp_path / "queries.npz", [kept, kept])
    read = read_query_values(tmp_path / "queries.npz")
    assert len(read) == 2
    assert read[1].search == search_digest(search)
    assert read[1].rankings["cosine"]["mAP"] == pytest.approx([1 / 3, 1.0])
    assert read[1].identities.tolist() == kept.identities.tolist()


def test_a_search_is_known_again_on_another_disk_and_not_with_another_gallery(search):
    moved = replace(
        search,
        queries=crops("a", "x", "y", "z", folder="/mnt/set"),
        gallery=crops("b", "x", "y", "y", "-1", folder="/mnt/set"),
    )
    smaller = replace(search, gallery=search.gallery[:-1])
    assert search_digest(moved) == search_digest(search)
    assert search_digest(smaller) != search_digest(search)
    assert search_digest(replace(search, other_cameras_only=True)) != search_digest(search)


@pytest.mark.parametrize("content", [b"PK\x03\x04 torn", None])
def test_a_damaged_or_missing_file_is_named(tmp_path, content):
    if content:
        (tmp_path / "queries.npz").write_bytes(content)
    with pytest.raises(InputProblem, match=r"queries\.npz: is not a readable"):
        read_query_values(tmp_path / "queries.npz")


def test_rank_lists_run_from_the_hardest_query_and_hold_no_junk(search):
    metrics = {"cosine": rank_queries(rows, search.labels())}
    hardest, easiest = rank_lists(search, {"cosine": rows}, metrics)
    assert (hardest.identity, easiest.identity) == ("x", "y")
    assert hardest.average_precision["cosine"] == pytest.approx(1 / 3, abs=1e-4)
    found = [(crop.row, crop.right) for crop in hardest.ranked["cosine"]]
    assert found == [(1, False), (2, False), (0, True)]


def test_the_worst_queries_are_of_different_people():
    queries = crops("a", *"vvwxyz")
    several = Search("a against b", queries, crops("b", *"vwxyz"))
    # Every query is likest to a false crop, but those of y and z: the first two rank v last.
    scores = np.array(
        [
            [0.0, 0.9, 0.8, 0.7, 0.6],
            [0.0, 0.9, 0.8, 0.7, 0.6],
            [0.9, 0.1, 0.8, 0.7, 0.0],
            [0.9, 0.8, 0.7, 0.0, 0.0],
            [0.0, 0.0, 0.0, 0.9, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.9],
        ],
        dtype=np.float32,
    )

    def rows(block):
        return scores[block]

    metrics = {"cosine": rank_queries(rows, several.labels())}
    worst = worst_queries(several, {"cosine": rows}, metrics)
    assert [found.identity for found in worst] == ["v", "w", "x"]
    assert worst[0].average_precision["cosine"] == pytest.approx(1 / 5)
