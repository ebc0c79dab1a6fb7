"""An artefact is measured on people that it was not trained on, or is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from model.artefact import TrainingData
from model.problems import InputProblem
from training.datasets.record import CropRecord, Dataset
from training.evaluation.protocols import whole_set
from training.evaluation.unseen import (
    Candidate,
    artefact_files,
    choose_unseen,
    may_have_been_seen,
    trained_on,
)


def training_data(spec: str, name: str = "", crops: int = 100) -> TrainingData:
    named = name or spec.partition(":")[0]
    return TrainingData(name=named, spec=spec, terms="", crops=crops, identities=10, cameras=2)


def dataset(spec: str, name: str = "", splits: tuple[str | None, ...] = (None,)) -> Dataset:
    named = name or spec.partition(":")[0]
    records = tuple(
        CropRecord(f"{split}{camera}", named, "1", camera, named, split=split)
        for split in splits
        for camera in "ab"
    )
    return Dataset(named, spec, "", records)


def candidate(name: str, *data: TrainingData) -> Candidate:
    """Only the provenance of a description is read."""
    description = SimpleNamespace(provenance=SimpleNamespace(data=data))
    return Candidate(name, Path(name), description)  # type: ignore[arg-type]


def test_a_set_that_shows_the_same_people_counts_as_trained_on():
    assert "same people" in trained_on([training_data("cuhk02:x")], dataset("cuhk01:y"))
    assert "same people" in trained_on([training_data("cuhk01:x")], dataset("cuhk02:y"))
    assert trained_on([training_data("cuhk01:x")], dataset("cuhk01:elsewhere"))
    assert trained_on([training_data("market1501:x")], dataset("cuhk01:y")) is None


def test_two_manifests_are_two_sets():
    known = [training_data("manifest:mine.csv", "mine")]
    assert trained_on(known, dataset("manifest:other.csv", "other")) is None
    assert trained_on(known, dataset("manifest:elsewhere/mine.csv", "mine"))


def test_drawn_people_of_another_seed_are_other_people():
    known = [training_data("synthetic:7,identities=60")]
    assert trained_on(known, dataset("synthetic:9,identities=16")) is None
    assert trained_on(known, dataset("synthetic:7,identities=16"))
    other = dataset("synthetic:9,identities=16")
    assert not may_have_been_seen(known, other, whole_set(other))


def test_of_several_artefacts_the_one_that_was_trained_without_the_set_is_chosen():
    market, viper = training_data("market1501:x"), training_data("viper:x")
    chosen = choose_unseen(
        [candidate("one", market), candidate("other", viper)], dataset("viper:y")
    )
    assert chosen.name == "one"


def test_an_artefact_that_was_trained_on_the_set_is_refused_with_the_remedy():
    with pytest.raises(InputProblem, match=r"one was trained on cuhk02.*--leave-out cuhk01"):
        choose_unseen([candidate("one", training_data("cuhk02:x"))], dataset("cuhk01:y"))


def test_where_several_fit_the_run_named_for_the_set_is_taken():
    market = training_data("market1501:x")
    two = [candidate("without-cuhk01", market), candidate("without-viper", market)]
    assert choose_unseen(two, dataset("viper:y")).name == "without-viper"
    with pytest.raises(InputProblem, match="give one of them"):
        choose_unseen(two, dataset("grid:y"))


def test_a_folder_of_runs_stands_for_its_artefacts(tmp_path):
    for name in ("without-a", "without-b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").touch()
    assert list(artefact_files([str(tmp_path)])) == ["without-a", "without-b"]
    run = tmp_path / "without-a"
    assert artefact_files([str(run)]) == {str(run): run / "model.safetensors"}
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputProblem, match=r"no run in it has a model\.safetensors"):
        artefact_files([str(empty)])


def test_a_query_split_is_unseen_unless_the_training_had_more_than_the_training_split():
    split = dataset("market1501:x", splits=("train", "query", "gallery"))
    search = whole_set(split)
    assert not may_have_been_seen([training_data("market1501:y", crops=2)], split, search)
    assert may_have_been_seen([training_data("market1501:y", crops=5)], split, search)
    assert not may_have_been_seen([training_data("viper:y")], split, search)


def test_a_set_without_splits_is_seen_where_it_was_trained_on():
    plain = dataset("cuhk01:x")
    assert may_have_been_seen([training_data("cuhk01:y", crops=2)], plain, whole_set(plain))
    assert may_have_been_seen([training_data("cuhk02:y", crops=2)], plain, whole_set(plain))
