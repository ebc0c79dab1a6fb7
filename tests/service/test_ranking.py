"""Ranking a gallery that proposes from product codes, which may miss some of the nearest."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from model.calibration import ScoringCalibration, TailPoint
from model.gallery_thresholds import artefact_thresholds
from model.search_calibration import SEARCH, artefact_search_calibration
from service.record.values import ArchivedCrop, CropLabel
from service.search import product_codes, ranking
from service.search.calibration import CurrentCalibration
from service.search.filters import Filter
from service.search.options import QueryOptions
from service.search.ranking import EmbedderChanged, Search
from tests.service.filled_index import FilledIndex

ASKED_FOR_ALONE = {
    "PROPOSED_SHARE": 1.0,
    "PROPOSED_MORE": 0,
    "LEAST_RECALL": 0.0,
    "MOST_TIME": math.inf,
}
PEOPLE = 100
CROPS_EACH = 40
DIMENSION = 32


# A pair's logit depends on the candidate alone, so that it shows whose it is.
NETWORKS = SimpleNamespace(pair_scores=lambda _, candidates: candidates.sum(axis=1))
TAIL = (TailPoint(share=1.0, score=-1.0), TailPoint(share=1e-3, score=1.0))
ARTEFACT = ScoringCalibration(slope=1.0, intercept=0.0, impostor_tail=TAIL)
MODEL = SimpleNamespace(
    networks=NETWORKS,
    description=SimpleNamespace(artefact_fingerprint="a"),
    embedder="e",
    calibration_version="a",
)
CURRENT = CurrentCalibration(
    model=MODEL,
    scoring="mnet",
    subject="mnet:a",
    artefact=artefact_search_calibration(ARTEFACT),
    few=artefact_thresholds(ARTEFACT),
    joins_at=0.6,
)


@pytest.fixture(scope="module", autouse=True)
def _proposed_of_few_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.search.index.CODED_ROWS", 1000)
        patch.setattr("service.search.index.DELTA_ROWS", 100)
        yield


@pytest.fixture(scope="module")
def clustered():
    """Build an index that proposes no more crops than asked and misses some, and its features."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ASKED_FOR_ALONE.items():
            patch.setattr(product_codes, name, value)
        yield _clustered()


def _clustered():
    random = np.random.default_rng(0)
    centres = np.repeat(random.normal(size=(PEOPLE, DIMENSION)), CROPS_EACH, axis=0)
    vectors = (centres + 0.6 * random.normal(size=centres.shape)).astype(np.float32)
    index = FilledIndex(DIMENSION)
    index.fill(
        ArchivedCrop(CropLabel(row, f"{row}", f"person {row // CROPS_EACH}", "east", None), vector)
        for row, vector in enumerate(vectors)
    )
    everyone = Filter(exclude_cameras=("none",))
    exact = [set(index.search(vectors[[row]], 100, everyone).row_ids) for row in range(0, 4000, 40)]
    index.renew_segment()
    proposed = [set(index.search(vectors[[row]], 100).row_ids) for row in range(0, 4000, 40)]
    assert index.kind == "pq4"
    assert proposed != exact
    return index, vectors


def _rank(index, query, **options):
    gallery = SimpleNamespace(
        index=index, name="default", version=1, embedder="e", image_url=lambda crop_id: crop_id
    )
    search = Search(gallery, CURRENT, QueryOptions(**options), query)
    (ranking,) = search.rank()
    rows = ranking.best.row_ids.tolist()
    labels = {row: CropLabel(row, f"{row}", f"person {row // CROPS_EACH}", "east") for row in rows}
    return search.results(ranking, labels)


def test_every_crop_of_a_deep_grouped_search_has_its_own_score(clustered):
    index, vectors = clustered
    random = np.random.default_rng(1)
    for row in random.integers(len(vectors), size=40):
        query = vectors[[row]] + 0.6 * random.normal(size=(1, DIMENSION)).astype(np.float32)
        results = _rank(index, query, group_by="identity", top_k=60)
        assert len({result.identity for result in results}) == 60
        for result in results:
            if result.pair_logit is not None:
                own = vectors[int(result.crop_id)].sum()
                assert result.pair_logit == pytest.approx(own, abs=1e-4)


def test_identities_beyond_the_scored_crops_follow_by_their_nearest_crop(clustered):
    index, vectors = clustered
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = vectors[:1]
    results = _rank(index, query, group_by="identity", top_k=PEOPLE)
    tail = [result for result in results if result.pair_logit is None]
    assert len(results) == PEOPLE
    assert len(tail) > PEOPLE / 2
    assert [crop.cosine for crop in tail] == sorted((crop.cosine for crop in tail), reverse=True)
    nearest = (units @ units[0]).reshape(PEOPLE, CROPS_EACH).max(axis=1)
    for result in tail:
        person = int(result.crop_id) // CROPS_EACH
        assert result.cosine == pytest.approx(nearest[person], abs=1e-5)


def test_a_result_without_a_label_is_left_out_and_the_others_move_up(clustered):
    index, vectors = clustered
    gallery = SimpleNamespace(
        index=index, name="default", version=1, embedder="e", image_url=lambda crop_id: crop_id
    )
    search = Search(gallery, CURRENT, QueryOptions(top_k=12), vectors[:1])
    (ranking,) = search.rank()
    first, _, *others = ranking.best.row_ids.tolist()
    assert len(others) == 10
    labels = {row: CropLabel(row, f"{row}") for row in (first, *others)}
    found = search.results(ranking, labels)
    assert [(result.rank, result.crop_id) for result in found[:3]] == [
        (1, f"{first}"),
        (2, f"{others[0]}"),
        (3, f"{others[1]}"),
    ]


def test_more_groups_than_there_are_name_each_once(clustered):
    index, vectors = clustered
    assert len(_rank(index, vectors[:1], group_by="identity", top_k=10_000)) == PEOPLE


def test_the_nearest_groups_of_proposed_crops_are_as_many_as_asked(clustered):
    index, vectors = clustered
    for row in range(0, len(vectors), 500):
        found = index.search(vectors[[row]], 4, grouped=True)
        people = found.row_ids // CROPS_EACH
        assert found.row_ids[0] == row
        assert len(set(people.tolist())) == 4
        assert found.cosines.tolist() == sorted(found.cosines.tolist(), reverse=True)
        assert found.searched == len(vectors)


def test_a_gallery_that_went_over_to_another_embedder_is_not_searched_by_old_features(clustered):
    index, vectors = clustered
    gallery = SimpleNamespace(index=index, name="default", version=1, embedder="newer")
    with pytest.raises(EmbedderChanged):
        next(Search(gallery, CURRENT, QueryOptions(), vectors[:1]).rank())


@pytest.mark.parametrize(("among", "searches"), [(400, 1), (200, 2)])
def test_people_for_the_level_are_found_by_one_search_where_the_near_crops_show_nine(
    monkeypatch, among, searches
):
    """Read the 400 nearest, which show ten people, as the hundred nearest show three."""
    random = np.random.default_rng(2)
    centres = np.repeat(random.normal(size=(30, DIMENSION)), CROPS_EACH, axis=0)
    vectors = (centres + 0.01 * random.normal(size=centres.shape)).astype(np.float32)
    index = FilledIndex(DIMENSION)
    index.fill(
        ArchivedCrop(CropLabel(row, f"{row}", f"person {row // CROPS_EACH}", "east", None), vector)
        for row, vector in enumerate(vectors)
    )
    monkeypatch.setattr(ranking, "NEAR", among)
    asked = []
    search = index.search

    def counted(*args, **options):
        asked.append(args[1])
        return search(*args, **options)

    monkeypatch.setattr(index, "search", counted)
    gallery = SimpleNamespace(
        index=index, name="default", version=1, embedder="e", image_url=lambda crop_id: crop_id
    )
    (found,) = Search(gallery, CURRENT, QueryOptions(), vectors[:1], sample=True).rank()
    assert len(found.sample) == SEARCH.itemsize
    assert len(asked) == searches


@pytest.mark.parametrize(
    ("people", "crops_each", "looks"), [(1, 1, 1), (5, 2, 5), (4, 8, 8), (8, 100, 57)]
)
def test_crops_of_few_people_count_by_their_root(people: int, crops_each: int, looks: int) -> None:
    judge = CURRENT.judge("far_1e-2", people, None, crops=people * crops_each)
    assert judge.match == pytest.approx(ARTEFACT.search_threshold(0.01, looks), abs=1e-3)
    assert judge.probability(np.array([judge.match])) == pytest.approx(0.916, abs=1e-3)
