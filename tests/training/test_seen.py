"""An artefact is measured on people that it was not trained on, or is refused."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from model.problems import InputProblem
from model.provenance import (
    Provenance,
    TrainingData,
    TrainingFingerprints,
    WeightSource,
)
from training.datasets.record import CropRecord, Dataset
from training.evaluation.searches import whole_set
from training.provenance import MOST_FINGERPRINTS, fingerprints_of
from training.seen import (
    Candidate,
    artefact_files,
    choose_unseen,
    seen_people,
    trained_on,
)

NOTHING_STORED = TrainingFingerprints()


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


def provenance(
    *data: TrainingData,
    held_out: dict[str, float] | None = None,
    sources: tuple[WeightSource, ...] | None = None,
    recipe: dict[str, object] | None = None,
) -> Provenance:
    return Provenance(
        data=data,
        terms="",
        recipe=recipe or {},
        command="",
        commit=None,
        created_at="",
        held_out=held_out or {},
        initial_weights="none",
        metrics={},
        sources=sources,
    )


def why_known(data: TrainingData, tested: Dataset) -> str | None:
    """Of an artefact that stores no fingerprints."""
    return trained_on(provenance(data), NOTHING_STORED, tested)


def is_seen(data: TrainingData, tested: Dataset) -> bool:
    found = seen_people(provenance(data), NOTHING_STORED, tested)
    return bool(found.of(whole_set(tested)))


def candidate(name: str, *data: TrainingData) -> Candidate:
    """Only the provenance of a description is read."""
    description = SimpleNamespace(provenance=provenance(*data))
    return Candidate(name, Path(name), description, NOTHING_STORED)  # type: ignore[arg-type]


def test_a_set_that_shows_the_same_people_counts_as_trained_on():
    assert "same people" in why_known(training_data("cuhk02:x"), dataset("cuhk01:y"))
    assert "same people" in why_known(training_data("cuhk01:x"), dataset("cuhk02:y"))
    assert why_known(training_data("cuhk01:x"), dataset("cuhk01:elsewhere"))
    assert why_known(training_data("market1501:x"), dataset("cuhk01:y")) is None


def test_two_manifests_are_two_sets():
    known = training_data("manifest:mine.csv", "mine")
    assert why_known(known, dataset("manifest:other.csv", "other")) is None
    assert "contents cannot be compared" in why_known(
        known, dataset("manifest:elsewhere/mine.csv", "mine")
    )


def test_drawn_people_of_another_seed_are_other_people():
    known = training_data("synthetic:7,identities=60")
    assert why_known(known, dataset("synthetic:9,identities=16")) is None
    assert why_known(known, dataset("synthetic:7,identities=16"))
    assert not is_seen(known, dataset("synthetic:9,identities=16"))


def test_of_several_artefacts_the_one_that_was_trained_without_the_set_is_chosen():
    market = training_data("market1501:x")
    viper = training_data("viper:x")
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


def test_a_set_that_was_trained_on_without_fingerprints_is_seen():
    plain = dataset("cuhk01:x")
    assert is_seen(training_data("cuhk01:y", crops=2), plain)
    assert is_seen(training_data("cuhk02:y", crops=2), plain)


def test_data_that_a_publisher_names_count_as_trained_on():
    weights = WeightSource(
        role="initial weights", name="osnet.pth", documented_data=("ImageNet", "Market-1501")
    )
    known = provenance(sources=(weights,))
    why = "has weights from osnet.pth, which was trained on Market-1501"
    assert trained_on(known, NOTHING_STORED, dataset("market1501:x")) == why
    assert trained_on(known, NOTHING_STORED, dataset("cuhk01:x")) is None


def test_an_older_student_names_the_teachers_of_its_recipe():
    known = provenance(recipe={"distillation": {"teachers": ["elsewhere.xml"]}})
    (source,) = known.all_sources
    assert (source.role, source.name, source.is_documented) == ("teacher", "elsewhere.xml", False)


def test_fingerprints_are_bounded_and_stay_a_sample_when_joined():
    many = fingerprints_of(range(MOST_FINGERPRINTS))
    joined = fingerprints_of([-1], inherited=[many])
    assert len(joined.crops) == MOST_FINGERPRINTS
    assert joined.crops[0] == -1
    assert len(joined.tensors()["training.crops"]) == MOST_FINGERPRINTS
