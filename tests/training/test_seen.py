"""An artefact is measured on people that it was not trained on, or is refused."""

from dataclasses import replace

import numpy as np
import pytest

from model.problems import InputProblem
from model.provenance import TrainingData, WeightSource
from tests.described import described_provenance
from training.datasets.record import CropRecord, Dataset
from training.datasets.registry import read_dataset
from training.evaluation.searches import whole_set
from training.provenance import (
    MOST_FINGERPRINTS,
    TrainingFingerprints,
    fingerprints_of,
    person_fingerprints,
)
from training.seen import seen_people, unseen_people

NOTHING_STORED = TrainingFingerprints()


def training_data(spec, name=""):
    named = name or spec.partition(":")[0]
    return TrainingData(
        name=named, spec=spec, terms="", crops=100, identities=10, cameras=2, fingerprints=100
    )


def dataset(spec, name=""):
    named = name or spec.partition(":")[0]
    records = tuple(CropRecord(camera, named, "1", camera, named) for camera in "ab")
    return Dataset(named, spec, "", records)


def reasons(trained, tested):
    """Return the reasons of an artefact none of whose crops is in the tested set."""
    return "; ".join(seen_people(described_provenance(trained), NOTHING_STORED, tested).reasons)


def test_a_set_that_shows_the_same_people_counts_as_trained_on():
    assert "same people" in reasons(training_data("cuhk02:x"), dataset("cuhk01:y"))
    assert "same people" in reasons(training_data("cuhk01:x"), dataset("cuhk02:y"))
    assert reasons(training_data("market1501:x"), dataset("cuhk01:y")) == ""
    tested = dataset("cuhk01:x")
    found = seen_people(described_provenance(training_data("cuhk02:y")), NOTHING_STORED, tested)
    assert found.of(whole_set(tested))


def test_a_person_of_a_public_set_is_known_again_though_no_crop_is():
    tested = read_dataset("synthetic:7,identities=2")
    first = min(tested.identities)
    trained_on = TrainingFingerprints(
        crops=np.array([1]), people=np.array(list(person_fingerprints(tested, [first])))
    )
    seen = seen_people(described_provenance(), trained_on, tested)
    assert seen.identities == {first}
    assert seen.reasons == (f"was trained on 1 of its {len(tested.identities)} people",)


def test_people_not_trained_on_under_one_camera_are_said_to_be():
    tested = read_dataset("synthetic:7,identities=2,domains=1,cameras=2")
    first = min(tested.identities)
    camera = tested.cameras[0]
    records = [
        record for record in tested.records if record.identity == first or record.camera == camera
    ]
    trained_on = TrainingFingerprints(
        crops=np.array([1]), people=np.array(list(person_fingerprints(tested, [first])))
    )
    with pytest.raises(InputProblem, match=r"people that the artefact was not trained on \(1\)"):
        unseen_people(replace(tested, records=tuple(records)), described_provenance(), trained_on)


def test_fingerprints_are_bounded_and_stay_a_sample_when_joined():
    many = fingerprints_of(range(MOST_FINGERPRINTS))
    joined = fingerprints_of([-1], inherited=[many])
    assert len(joined.crops) == MOST_FINGERPRINTS
    assert joined.crops[0] == -1
    assert len(joined.tensors()["training.crops"]) == MOST_FINGERPRINTS


def test_data_that_a_publisher_names_count_as_trained_on():
    weights = WeightSource(
        role="initial weights", name="osnet.pth", documented_data=("ImageNet", "Market-1501")
    )
    known = described_provenance(sources=(weights,))
    why = "has weights from osnet.pth, which was trained on Market-1501"
    assert seen_people(known, NOTHING_STORED, dataset("market1501:x")).reasons == (why,)
    assert seen_people(known, NOTHING_STORED, dataset("cuhk01:x")).reasons == ()
