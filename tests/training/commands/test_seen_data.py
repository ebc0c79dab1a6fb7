"""What counts as seen in training: the crops decide, not a set's name or its counts."""

import json
from dataclasses import replace

import pytest

from model.artefact import load_artefact
from tests.training.runs import FAST_BACKBONE, run_here, set_options, write_manifest
from training.datasets.protocols import PROTOCOLS, training_sets
from training.datasets.registry import read_dataset
from training.evaluation.files import save_artefact
from training.provenance import describe_training
from training.recipe import read_recipe

SMALL = (
    FAST_BACKBONE,
    *("preprocessing.height=64", "preprocessing.width=32"),
    *("sampling.identities=2", "sampling.images=2", "optimisation.epochs=1"),
    *("sampling.recombined=0", "held_out.fraction=0.5"),
)


def describe(path, like, recipe, *datasets):
    """Write an artefact whose provenance states a recipe and all crops of some sets."""
    records = [record for dataset in datasets for record in dataset.records]
    provenance, training = describe_training(recipe, datasets, records, "gmn train")
    known = load_artefact(like)
    description = known.description.model_copy(update={"provenance": provenance})
    save_artefact(
        path, description, known.embedder, known.metric_network, tensors=training.tensors()
    )
    return path


@pytest.fixture(scope="module")
def artefact(tmp_path_factory, drawn_crops, fast_artefact):
    """Trains on half of the drawn people."""
    folder = tmp_path_factory.mktemp("site")
    spec = write_manifest(folder / "own.csv", drawn_crops)
    settings = set_options(f"initial_weights={fast_artefact}", *SMALL)
    ran = run_here("train", "small-gmn", "--data", spec, "--out", folder / "run", *settings)
    assert ran.status == 0, ran.err
    return folder / "run" / "model.safetensors"


@pytest.fixture
def copy(tmp_path, drawn_crops):
    """Writes the same crops under another name."""
    return write_manifest(tmp_path / "elsewhere.csv", drawn_crops)


def measured(artefact, spec):
    ran = run_here("evaluate", artefact, "--data", spec, "--scoring", "cosine", "--json")
    assert ran.status == 0, ran.err
    return json.loads(ran.out)["datasets"][0]


def calibrated_on(artefact, spec, out):
    ran = run_here("calibrate", artefact, "--data", spec, "--out", out, "--json")
    assert ran.status == 0, ran.err
    return json.loads(ran.out)["data"]


def test_a_set_of_the_same_name_with_other_people_is_unseen(artefact, drawn_crops, tmp_path):
    # Other bytes stand for other crops.
    others = [crop._replace(png=crop.png + b"\0") for crop in drawn_crops]
    shop = write_manifest(tmp_path / "own.csv", others)
    assert measured(artefact, shop)["seen_in_training"] is False
    assert calibrated_on(artefact, shop, tmp_path / "new.safetensors") == "identities of own"


def test_the_same_crops_under_another_name_are_seen(artefact, copy):
    found = measured(artefact, copy)
    people = load_artefact(artefact).description.provenance.data[0].identities
    assert found["seen_in_training"] is True
    assert found["seen_identities"] == people
    assert found["seen_because"] == [f"was trained on {4 * people} of its 24 crops"]
    printed = run_here("evaluate", artefact, "--data", copy, "--scoring", "cosine").out
    assert f"{4 * people} of its 24 crops" in printed


def test_calibration_leaves_out_people_trained_on_under_another_name(artefact, copy, tmp_path):
    found = calibrated_on(artefact, copy, tmp_path / "new.safetensors")
    assert found == "held-out identities of elsewhere"


def test_calibration_refuses_a_set_that_shows_people_trained_on(tmp_path, drawn_crops):
    """CUHK02 shows the people of CUHK01, on whom the bundled artefact was trained."""
    for pair in range(1, 6):
        for camera, shot in (("cam1", 1), ("cam2", 3)):
            place = tmp_path / "cuhk02" / f"P{pair}" / camera
            place.mkdir(parents=True)
            for number, crop in enumerate(drawn_crops[:4]):
                (place / f"{pair}{number:02d}_{shot}.png").write_bytes(crop.png)
    asked = ("--data", f"cuhk02:{tmp_path / 'cuhk02'}", "--out", tmp_path / "new.safetensors")
    ran = run_here("calibrate", "bundled", *asked)
    assert "cuhk01, which shows some of the same people" in ran.err


def test_a_student_inherits_its_teachers_data_and_terms(artefact, copy, tmp_path):
    settings = [FAST_BACKBONE, "initial_weights=none", f'distillation.teachers=["{artefact}"]']
    drawn = read_dataset("synthetic:5,identities=4,domains=1,cameras=2,crops=1")
    recipe = read_recipe("small-gmn", settings)
    student = describe(tmp_path / "student.safetensors", artefact, recipe, drawn)
    assert measured(student, copy)["seen_in_training"] is True
    teacher = load_artefact(artefact).description.provenance
    known = load_artefact(student).description.provenance
    (source,) = (source for source in known.sources if source.role == "teacher")
    assert source.name == "model.safetensors"
    assert source.data == teacher.data
    assert teacher.terms in known.terms
    assert len(source.sha256) == 64


@pytest.mark.parametrize("protocol", ["P2", "P3"])
def test_test_images_that_were_trained_on_are_seen_however_few_they_are(
    protocol, fast_artefact, drawn_crops, tmp_path
):
    """Protocol P3 trains on test images; the counts alone do not show it."""
    sides = {"bounding_box_train": "012", "query": "345", "bounding_box_test": "345"}
    for split, people in sides.items():
        (tmp_path / split).mkdir()
        for number, crop in enumerate(drawn_crops):
            if crop.identity[-1] in people:
                camera = 1 + ("east", "west").index(crop.camera)
                name = f"{int(crop.identity) + 1:04d}_c{camera}s1_{number:06d}_00.jpg"
                (tmp_path / split / name).write_bytes(crop.png)
    spec = f"market1501:{tmp_path}"
    (whole,) = training_sets([read_dataset(spec)], PROTOCOLS[protocol], "msmt17")
    few = [record for record in whole.records if record.identity in ("0001", "0004")]
    assert few
    recipe = read_recipe("small-gmn", ["initial_weights=none"])
    path = tmp_path / "trained.safetensors"
    trained = describe(path, fast_artefact, recipe, replace(whole, records=few))
    assert measured(trained, spec)["seen_in_training"] is (protocol == "P3")
    known = load_artefact(trained).description.provenance.data[0]
    tested = ("query", "gallery") if protocol == "P3" else ()
    assert known.splits == ("train", *tested)
