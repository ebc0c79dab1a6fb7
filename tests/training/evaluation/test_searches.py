"""Searches of whole sets, of people held out, and in random splits whose figures are pooled."""

import numpy as np
import pytest

from model.problems import InputProblem
from training.datasets.kind import RandomSplits
from training.datasets.protocols import is_held_out, limit_test_identities
from training.datasets.record import CropRecord, Dataset
from training.evaluation.evaluate_search import (
    paired_differences,
    plain_result,
    rank_search,
    rows_of_split,
)
from training.evaluation.metrics import QueryMetrics, rank_queries
from training.evaluation.searches import (
    held_out_people,
    search_in_random_splits,
    standard_search,
    whole_set,
)


def crop(identity, camera, split=None, shot=0):
    source = f"{identity}-{camera}-{shot}.png"
    return CropRecord(source, "small", identity, camera, "small", split=split)


def two_cameras(training=()):
    """Eight people under both cameras, two under the first alone, three under the second alone."""
    people = [f"{number}" for number in range(8)]
    records = [crop(person, camera) for camera in "ab" for person in people]
    records += [crop(f"a{number}", "a") for number in range(2)]
    records += [crop(f"b{number}", "b") for number in range(3)]
    return Dataset("small", "viper:small", "", tuple(records), training_people=training)


def people(search, rows, side):
    return {getattr(search, side)[row].identity for row in rows}


def test_each_split_searches_some_people_among_them_and_those_of_one_camera():
    search = search_in_random_splits(two_cameras(), RandomSplits(test_people=4, sides="cameras"))
    assert len(search.splits) == 10
    assert {len(split.queries) for split in search.splits} == {4}
    for split in search.splits:
        drawn = people(search, split.queries, "queries")
        assert people(search, split.gallery, "gallery") == drawn | {"b0", "b1", "b2"}
    assert len({tuple(split.queries) for split in search.splits}) > 1
    again = search_in_random_splits(two_cameras(), RandomSplits(4, "cameras"))
    for first, second in zip(search.splits, again.splits, strict=True):
        np.testing.assert_array_equal(first.queries, second.queries)


def test_splits_that_the_authors_ship_are_taken():
    training = (frozenset({"0", "1", "2", "3"}), frozenset({"4", "5", "6", "7"}))
    search = search_in_random_splits(two_cameras(training), RandomSplits(4, "cameras", number=2))
    assert people(search, search.splits[0].queries, "queries") == {"4", "5", "6", "7"}
    assert people(search, search.splits[1].queries, "queries") == {"0", "1", "2", "3"}


def test_without_cameras_one_crop_of_a_person_queries_and_another_is_the_gallery():
    records = [crop(str(person), f"shot{shot}") for person in range(6) for shot in range(4)]
    dataset = Dataset("small", "ilids:small", "", tuple(records))
    search = search_in_random_splits(dataset, RandomSplits(3, "crops"))
    for split in search.splits:
        assert people(search, split.queries, "queries") == people(search, split.gallery, "gallery")
        assert len(split.queries) == len(split.gallery) == 3
        assert not set(split.queries) & set(split.gallery)


def test_a_set_with_too_few_people_is_refused():
    with pytest.raises(InputProblem, match="8 people are on both sides, but a split draws 316"):
        standard_search(two_cameras())


def test_figures_of_the_splits_are_pooled():
    search = search_in_random_splits(two_cameras(), RandomSplits(4, "cameras"))
    labels = search.labels()
    shape = (len(search.queries), len(search.gallery))
    scores = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    pooled = rank_search(search, lambda split: rows_of_split(lambda rows: scores[rows], split))
    each = []
    for split in search.splits:
        own = scores[np.ix_(split.queries, split.gallery)]
        part = labels.part(split.queries, split.gallery)
        each.append(rank_queries(lambda rows, own=own: own[rows], part).means()["mAP"])
    assert pooled.means()["mAP"] == pytest.approx(np.mean(each))
    assert pooled.queries.tolist() == [row for split in search.splits for row in split.queries]


def test_the_interval_over_splits_covers_what_other_people_would_give():
    """A person is in half of the splits, and the person's queries there are alike."""
    random = np.random.default_rng(11)
    trials = 40
    covered = covered_difference = 0
    records = [crop(f"{person:03d}", camera) for camera in "ab" for person in range(80)]
    dataset = Dataset("small", "viper:small", "", tuple(records))
    search = search_in_random_splits(dataset, RandomSplits(40, "cameras"))
    labels = search.labels()
    queries = np.concatenate([split.queries for split in search.splits])

    def ranked(values):
        own = values[queries]
        return QueryMetrics(queries, own, own, own, np.where(own > 0.5, 1, 5), 0)

    for _ in range(trials):
        # How easy a person is, drawn again for each trial: 0.5 on average, level on average.
        easy, other = random.uniform(size=(2, 80))
        result = plain_result(ranked(easy), labels).metrics["mAP"]
        covered += result.low <= 0.5 <= result.high
        found = paired_differences({"cosine": ranked(easy), "mnet": ranked(other)}, labels)
        apart = found["mnet - cosine"]["mAP"]
        covered_difference += apart.low <= 0.0 <= apart.high
    assert covered >= 0.85 * trials
    assert covered_difference >= 0.85 * trials


def test_the_sets_own_query_and_gallery_sides_are_kept():
    records = [crop(str(person), "1", "query") for person in range(4)]
    records += [crop(str(person), "2", "gallery") for person in range(4)]
    records += [crop("0000", "3", "gallery")]
    dataset = Dataset("small", "grid:small", "", tuple(records))
    search = search_in_random_splits(dataset, RandomSplits(2, "splits"), frozenset({"0000"}))
    assert {len(split.gallery) for split in search.splits} == {3}


def dataset(*crops):
    records = tuple(
        CropRecord(f"{number}.png", "people", identity, camera, "people", split=split)
        for number, (identity, camera, split) in enumerate(crops)
    )
    return Dataset("people", "manifest:people.csv", "Unknown.", records)


def test_with_three_cameras_every_crop_is_searched_in_the_other_two():
    search = whole_set(dataset(("1", "a", None), ("1", "b", None), ("2", "c", None)))
    assert search.queries == search.gallery == search.records
    assert search.labels().other_cameras_only


def test_held_out_people_are_those_that_the_hash_chose():
    crops = [(str(person), camera, "train") for person in range(50) for camera in "ab"]
    search = held_out_people(dataset(*crops, ("9", "a", "query")), {"fraction": 0.3, "seed": 5})
    chosen = {person for person in map(str, range(50)) if is_held_out("people", person, 0.3, 5)}
    assert {record.identity for record in search.records} == chosen
    assert {record.split for record in search.records} == {"train"}


def test_an_artefact_that_held_nobody_out_is_refused():
    with pytest.raises(InputProblem, match="held out no people"):
        held_out_people(dataset(("1", "a", None), ("1", "b", None)), {"fraction": 0.0, "seed": 0})


def one_camera_held_out():
    """Return a set of two cameras, of which one shows the people held out, and how they are."""
    choice = {"fraction": 0.3, "seed": 5}
    crops = [
        (str(n), "a" if is_held_out("people", str(n), 0.3, 5) else "b", None) for n in range(9)
    ]
    assert len({camera for _, camera, _ in crops}) == 2
    return dataset(*crops), choice


def test_of_people_held_out_under_one_camera_only_they_are_said_to_be():
    tested, choice = one_camera_held_out()
    with pytest.raises(InputProblem) as refused:
        held_out_people(tested, choice)
    count = sum(is_held_out("people", str(person), 0.3, 5) for person in range(9))
    assert str(refused.value) == (
        f"manifest:people.csv: all crops of the people held out ({count} by fraction 0.3, seed 5) "
        "are of one camera; a search across cameras needs two or more; name the whole data set "
        "that the artefact was trained on, or evaluate with --split all"
    )


def test_of_a_set_of_one_camera_all_crops_are_said_to_be():
    crops = [(str(person), "a", None) for person in range(9)]
    with pytest.raises(InputProblem) as refused:
        held_out_people(dataset(*crops), {"fraction": 0.3, "seed": 5})
    assert str(refused.value) == (
        "manifest:people.csv: all crops are of one camera; a search across cameras needs two or "
        "more"
    )


def test_that_nobody_of_a_set_is_held_out_has_the_remedy_of_the_caller():
    alone = dataset(("1", "a", None), ("1", "b", None))
    choice = {"fraction": 1e-9, "seed": 0}
    with pytest.raises(InputProblem, match=r"or evaluate with --split all$"):
        held_out_people(alone, choice)
    with pytest.raises(
        InputProblem, match=r"is held out \(fraction 1e-09, seed 0 of 1 people\); do"
    ):
        held_out_people(alone, choice, "do it otherwise")


def test_fewer_people_are_searched_for_in_each_split_and_the_splits_stay_different():
    records = [crop(f"{person:03d}", camera) for camera in "ab" for person in range(632)]
    viper = limit_test_identities(Dataset("viper", "viper:x", "", tuple(records)), 250)
    search = standard_search(viper, 250)
    assert search.protocol == "10 random splits of 250 people, averaged"
    drawn = [frozenset(people(search, split.queries, "queries")) for split in search.splits]
    assert {len(chosen) for chosen in drawn} == {250}
    assert len(set(drawn)) == 10
    whole = standard_search(viper)
    for chosen, split in zip(drawn, whole.splits, strict=True):
        assert chosen < people(whole, split.queries, "queries")
    assert standard_search(viper, 400).protocol == whole.protocol
