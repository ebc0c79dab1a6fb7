import pytest

from model.problems import InputProblem
from training.datasets.protocols import is_held_out
from training.datasets.record import CropRecord, Dataset
from training.evaluation.searches import held_out_people, whole_set


def dataset(*crops: tuple[str, str, str | None]) -> Dataset:
    records = tuple(
        CropRecord(f"{number}.png", "people", identity, camera, "people", split=split)
        for number, (identity, camera, split) in enumerate(crops)
    )
    return Dataset("people", "manifest:people.csv", "Unknown.", records)


def test_a_set_with_query_and_gallery_splits_is_searched_as_it_says():
    search = whole_set(dataset(("1", "a", "query"), ("1", "b", "gallery"), ("2", "b", "train")))
    assert [record.source for record in search.queries] == ["0.png"]
    assert [record.source for record in search.gallery] == ["1.png"]


def test_two_cameras_are_searched_one_against_the_other():
    search = whole_set(dataset(("1", "b", None), ("1", "a", None), ("2", "a", None)))
    assert {record.camera for record in search.queries} == {"a"}
    assert {record.camera for record in search.gallery} == {"b"}
    assert len(search.records) == 3


def test_with_three_cameras_every_crop_is_searched_in_the_other_two():
    search = whole_set(dataset(("1", "a", None), ("1", "b", None), ("2", "c", None)))
    assert search.queries == search.gallery == search.records
    assert search.labels().other_cameras_only


def test_one_camera_is_refused():
    with pytest.raises(InputProblem, match="one camera"):
        whole_set(dataset(("1", "a", None), ("2", "a", None)))


def test_queries_without_a_gallery_are_refused():
    with pytest.raises(InputProblem, match="none of the gallery split"):
        whole_set(dataset(("1", "a", "query"), ("1", "b", "train")))


def test_held_out_people_are_those_that_the_hash_chose():
    crops = [(str(person), camera, "train") for person in range(50) for camera in "ab"]
    search = held_out_people(dataset(*crops, ("9", "a", "query")), {"fraction": 0.3, "seed": 5})
    chosen = {person for person in map(str, range(50)) if is_held_out("people", person, 0.3, 5)}
    assert {record.identity for record in search.records} == chosen
    assert {record.split for record in search.records} == {"train"}


def test_an_artefact_that_held_nobody_out_is_refused():
    with pytest.raises(InputProblem, match="held out no people"):
        held_out_people(dataset(("1", "a", None), ("1", "b", None)), {"fraction": 0.0, "seed": 0})
