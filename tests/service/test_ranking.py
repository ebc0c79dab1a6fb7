"""Ranking a gallery that proposes from product codes, which may miss some of the nearest."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from model.calibration import ScoringCalibration, TailPoint
from model.gallery_thresholds import artefact_thresholds
from model.search_calibration import SEARCH, artefact_search_calibration
from service.index import product_codes as product_codes
from service.index.filters import SearchFilter
from service.record.values import ArchivedCrop, LabelledCrop
from service.search import ranking
from service.search.calibration import CurrentCalibration
from service.search.options import QueryOptions
from service.search.ranking import Search, SearchOutdated
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
NETWORKS = SimpleNamespace(
    pair_scores=lambda _, candidates: candidates.sum(axis=1),
    slices_of=lambda _, count: [slice(start, start + 2048) for start in range(0, count, 2048)],
)
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
    score_kind="mnet:a",
    artefact=artefact_search_calibration(ARTEFACT),
    few=artefact_thresholds(ARTEFACT),
    joins_at=0.6,
    slope=ARTEFACT.slope,
)


@pytest.fixture(scope="module")
def served(served_here):
    return served_here


@pytest.fixture(scope="module", autouse=True)
def _proposed_of_few_rows():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("service.index.gallery_index.CODED_ROWS", 1000)
        patch.setattr("service.index.gallery_index.DELTA_ROWS", 100)
        yield


def index_of(people, spread, seed=0):
    """Return an index of people with `CROPS_EACH` crops around their own directions, and these."""
    random = np.random.default_rng(seed)
    centres = np.repeat(random.normal(size=(people, DIMENSION)), CROPS_EACH, axis=0)
    vectors = (centres + spread * random.normal(size=centres.shape)).astype(np.float32)
    index = FilledIndex(DIMENSION)
    index.fill(ArchivedCrop(label(row), vector) for row, vector in enumerate(vectors))
    return index, vectors


def label(row):
    return LabelledCrop(
        slot=row, crop_id=f"{row}", identity=f"person {row // CROPS_EACH}", camera="east"
    )


@pytest.fixture(scope="module")
def clustered():
    """Build an index that proposes no more crops than asked and misses some, and its features."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ASKED_FOR_ALONE.items():
            patch.setattr(product_codes, name, value)
        index, vectors = index_of(PEOPLE, 0.6)

        def nearest(*more):
            return [
                set(index.search(vectors[[row]], [None], 100, *more).slots)
                for row in range(0, 4000, 40)
            ]

        exact = nearest(SearchFilter(exclude_cameras=("none",)))
        index.renew_segment()
        assert index.kind == "pq4"
        assert nearest() != exact
        yield index, vectors


def search_of(index, query, embedder="e", sample=False, **options):
    gallery = SimpleNamespace(
        index=index,
        own_index=index,
        name="default",
        version=1,
        embedder=embedder,
    )
    return Search(gallery, CURRENT, QueryOptions(**options), query, sample=sample)


def _rank(index, query, **options):
    search = search_of(index, query, **options)
    ranking = search.rank(search.propose())
    return search.results(ranking, {row: label(row) for row in ranking.best.slots.tolist()}, {})


@pytest.mark.parametrize(("depth", "pauses"), [(2000, 0), (2500, 1)])
def test_a_search_pauses_for_others_while_many_pairs_are_scored(clustered, depth, pauses):
    index, vectors = clustered
    search = search_of(index, vectors[:1], rerank_depth=depth, top_k=1)
    proposal = search.propose()
    *first, _ = search.parts_to_score(proposal)
    assert len(first) == pauses
    ranking = search.rank(proposal, [search.score(proposal, part) for part in first])
    assert ranking.candidates_scored == depth
    at_once = search.rank(proposal)
    np.testing.assert_array_equal(ranking.scores, at_once.scores)
    np.testing.assert_array_equal(ranking.best.slots, at_once.best.slots)


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


def test_more_groups_than_there_are_name_each_once(clustered):
    index, vectors = clustered
    assert len(_rank(index, vectors[:1], group_by="identity", top_k=10_000)) == PEOPLE


def test_the_nearest_groups_of_proposed_crops_are_as_many_as_asked(clustered):
    index, vectors = clustered
    for row in range(0, len(vectors), 500):
        found = index.search(vectors[[row]], [None], 4, grouped=True)
        assert found.slots[0] == row
        assert len(set(found.slots // CROPS_EACH)) == 4
        assert found.cosines.tolist() == sorted(found.cosines.tolist(), reverse=True)
        assert found.searched == len(vectors)


def test_an_index_is_told_the_camera_of_each_query(monkeypatch):
    monkeypatch.setattr(ranking, "NEAR", 110)
    index, vectors = index_of(20, 0.1)
    told = []
    search_index = index.search

    def search(queries, cameras, *rest, **more):
        told.append(cameras)
        return search_index(queries, cameras, *rest, **more)

    monkeypatch.setattr(index, "search", search)
    search_of(index, vectors[:2], camera="west").propose()
    assert told == [["west", "west"]]
    told.clear()
    crops = (label(0), replace(label(1), camera=None))
    by_crops = search_of(index, vectors[:2], sample=True, top_k=20, group_by="identity")
    replace(by_crops, query_crops=crops).propose()
    # Nine people for the level, and twenty for the results, are not among the nearest crops.
    assert told == [["east", None]] * 3


def test_a_gallery_that_went_over_to_another_embedder_is_not_searched_by_old_features(clustered):
    index, vectors = clustered
    with pytest.raises(SearchOutdated):
        search_of(index, vectors[:1], embedder="newer").propose()


@pytest.mark.parametrize("among", [400, 200])
def test_people_for_the_level_are_found_where_the_near_crops_show_nine_or_fewer(monkeypatch, among):
    monkeypatch.setattr(ranking, "NEAR", among)
    index, vectors = index_of(30, 0.01, seed=2)
    search = search_of(index, vectors[:1], sample=True)
    assert len(search.rank(search.propose()).sample) == SEARCH.itemsize


@pytest.mark.parametrize(
    ("people", "crops_each", "looks"), [(1, 1, 1), (5, 2, 5), (4, 8, 8), (8, 100, 57)]
)
def test_crops_of_few_people_count_by_their_root(people, crops_each, looks):
    judge = CURRENT.judge("far_1e-2", people, None, crops=people * crops_each)
    assert judge.match == pytest.approx(ARTEFACT.search_threshold(0.01, looks), abs=1e-3)
    assert judge.probability(np.array([judge.match])) == pytest.approx(0.916, abs=1e-3)
