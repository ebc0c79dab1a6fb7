"""`gmn artefact add-reference`, as it is typed: vectors of nobody, of training people alone."""

import hashlib

import numpy as np
import pytest

from model.artefact import load_artefact
from model.feature_file import Origin
from model.problems import ArtefactProblem
from tests.artefact_files import read_parts, write_parts
from tests.training.runs import run_here
from training.evaluation.files import save_artefact, write_features
from training.provenance import TrainingFingerprints, fingerprint

TRAINED_PEOPLE = 120
OTHERS = 30
CAMERAS = ("north", "south", "west")


@pytest.fixture(scope="module")
def trained(tiny_artefact, tmp_path_factory):
    """Write an artefact that was trained on 120 people, a crop under each of three cameras."""
    path = tmp_path_factory.mktemp("trained") / "mine.safetensors"
    crops = [
        fingerprint(f"{person} {camera}".encode())
        for person in range(TRAINED_PEOPLE)
        for camera in CAMERAS
    ]
    tiny = load_artefact(tiny_artefact)
    training = TrainingFingerprints(np.sort(np.array(crops, np.int64)))
    save_artefact(path, tiny.description, tiny.embedder, tiny.metric_network, training.tensors())
    return path


@pytest.fixture
def artefact(trained, tmp_path):
    path = tmp_path / "mine.safetensors"
    path.write_bytes(trained.read_bytes())
    return path


def write_people(path, artefact, people=TRAINED_PEOPLE + OTHERS):
    """Write features: each person's are one direction, and others' point the other way."""
    embedder = load_artefact(artefact).description.embedding_fingerprint
    rows = [(person, camera) for person in range(people) for camera in CAMERAS]
    features = np.zeros((len(rows), 1280), np.float32)
    for row, (person, _) in enumerate(rows):
        features[row, person] = 10.0 if person < TRAINED_PEOPLE else -10.0
    digests = [hashlib.sha256(f"{person} {camera}".encode()) for person, camera in rows]
    columns = {
        "identities": [str(person) for person, _ in rows],
        "cameras": [camera for _, camera in rows],
        "sha256": [digest.hexdigest() for digest in digests],
    }
    write_features(path, features, columns, Origin(embedder))
    return path


def add(artefact, *features):
    return run_here("artefact", "add-reference", artefact, *features)


def test_every_vector_is_the_sum_of_two_people_of_the_training(artefact, tmp_path):
    before = load_artefact(artefact)
    assert before.reference is None
    people = write_people(tmp_path / "people.npz", artefact)
    assert "has a reference of" in add(artefact, people).out
    once = artefact.read_bytes()
    after = load_artefact(artefact)
    reference = after.reference
    assert len(reference) == 3 * TRAINED_PEOPLE
    assert reference.dtype == np.float32
    assert (np.count_nonzero(reference, axis=1) == 2).all()
    np.testing.assert_allclose(reference.max(axis=1), np.sqrt(0.5), atol=1e-6)
    assert not reference[:, TRAINED_PEOPLE:].any()
    # Each person is in six sums, so that none weighs more than another.
    assert (np.count_nonzero(reference[:, :TRAINED_PEOPLE], axis=0) == 6).all()

    # Galleries keep their vectors and the thresholds that were fitted to them.
    old = before.description
    new = after.description
    assert new.embedding_fingerprint == old.embedding_fingerprint
    assert new.graph_fingerprint == old.graph_fingerprint
    assert new.artefact_fingerprint == old.artefact_fingerprint
    assert new.calibration == old.calibration
    # A second reference replaces the first, and the same files give the same artefact.
    add(artefact, people)
    assert artefact.read_bytes() == once


def test_a_changed_reference_does_not_match_its_fingerprint(artefact, tmp_path):
    add(artefact, write_people(tmp_path / "people.npz", artefact))
    header, tensors = read_parts(artefact)
    tensors["reference.vectors"][0, 0] += 1
    write_parts(artefact, header, tensors)
    with pytest.raises(ArtefactProblem, match="fingerprint does not match"):
        load_artefact(artefact)


def test_people_are_paired_within_a_data_set_alone(artefact, tmp_path):
    people = write_people(tmp_path / "first.npz", artefact)
    with np.load(people) as arrays:
        second = dict(arrays)
    # The same people lie elsewhere in the second set.
    second["features"] = np.roll(second["features"], 640, axis=1)
    np.savez(tmp_path / "second.npz", **second)
    assert add(artefact, people, tmp_path / "second.npz").status == 0
    entries = load_artefact(artefact).reference > 0
    assert set(entries[:, :640].sum(axis=1)) == {0, 2}


def test_features_of_another_embedder_or_of_people_not_trained_on_are_refused(
    artefact, tiny_artefact, tmp_path
):
    before = artefact.read_bytes()
    foreign = write_people(tmp_path / "foreign.npz", artefact)
    with np.load(foreign) as arrays:
        np.savez(foreign, **dict(arrays) | {"embedding_fingerprint": np.array("0" * 64)})
    few = write_people(tmp_path / "few.npz", artefact, people=99)
    for features, message in (
        (foreign, "was not made by gmn embed with"),
        (few, "shows 99 people whom"),
    ):
        ran = add(artefact, features)
        assert ran.status == 2
        assert message in ran.err
    assert artefact.read_bytes() == before
    # The people that the tiny artefact was trained on are unknown.
    artefact.write_bytes(tiny_artefact.read_bytes())
    assert "shows 0 people whom" in add(artefact, few).err


def test_stored_numbers_keep_the_directions(artefact, tmp_path):
    people = write_people(tmp_path / "people.npz", artefact)
    with np.load(people) as arrays:
        drawn = dict(arrays)
    drawn["features"] = np.random.default_rng(3).normal(size=(450, 1280)).astype(np.float32)
    np.savez(people, **drawn)
    add(artefact, people)
    reference = load_artefact(artefact).reference
    np.testing.assert_allclose(np.linalg.norm(reference, axis=1), 1.0, atol=1e-6)
    units = drawn["features"] / np.linalg.norm(drawn["features"], axis=1, keepdims=True)
    # Either crop of a sum has half of its squared length; the others are almost orthogonal.
    nearest = np.sort(reference @ units.T, axis=1)[:, -2:]
    assert (np.abs(nearest - np.sqrt(0.5)) < 0.08).all()
