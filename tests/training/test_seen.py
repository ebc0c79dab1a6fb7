"""An artefact is measured on people that it was not trained on, or is refused."""

import numpy as np

from model.provenance import (
    Provenance,
    TrainingData,
    TrainingFingerprints,
    WeightSource,
)
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import read_dataset
from training.evaluation.searches import whole_set
from training.provenance import MOST_FINGERPRINTS, fingerprints_of, person_fingerprints
from training.seen import seen_people

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
    """Return the reasons of an artefact that stores no fingerprints."""
    return "; it ".join(seen_people(provenance(data), NOTHING_STORED, tested).reasons) or None


def is_seen(data: TrainingData, tested: Dataset) -> bool:
    found = seen_people(provenance(data), NOTHING_STORED, tested)
    return bool(found.of(whole_set(tested)))


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
    assert seen_people(known, NOTHING_STORED, dataset("market1501:x")).reasons == (why,)
    assert seen_people(known, NOTHING_STORED, dataset("cuhk01:x")).reasons == ()


def test_a_person_of_a_public_set_is_known_again_though_no_crop_is():
    tested = read_dataset("synthetic:7,identities=2")
    first = min(tested.identities)
    trained_on = TrainingFingerprints(
        crops=np.array([1]), people=np.array(list(person_fingerprints(tested, [first])))
    )
    seen = seen_people(provenance(), trained_on, tested)
    assert seen.identities == {first}
    assert seen.reasons == (f"was trained on 1 of its {len(tested.identities)} people",)


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
