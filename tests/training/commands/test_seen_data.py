"""What counts as seen in training: the crops decide, not a set's name or its counts."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from model.artefact import load_artefact, save_artefact
from model.problems import InputProblem
from tests.conftest import draw_crops
from tests.forked import run_gmn
from training.commands.artefacts import calibrate
from training.commands.evaluate import evaluate
from training.datasets.protocols import PROTOCOLS, training_sets
from training.datasets.record import Dataset
from training.datasets.registry import read_dataset
from training.provenance import describe_training
from training.recipe import Recipe, read_recipe

SMALL = [
    *("preprocessing.height=64", "preprocessing.width=32"),
    *("sampling.identities=2", "sampling.images=2", "optimisation.epochs=1"),
    *("sampling.recombined=0", "held_out.fraction=0.5"),
]


def write_set(folder: Path, name: str, crops) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "identity", "camera"])
        for number, crop in enumerate(crops):
            (folder / f"{number}.png").write_bytes(crop.png)
            rows.writerow([f"{number}.png", crop.identity, crop.camera])
    return folder / f"{name}.csv"


def train(out: Path, spec: str, *settings: str) -> Path:
    words = [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    done = run_gmn("train", "small-gmn", "--data", spec, "--out", str(out), *words)
    assert done.returncode == 0, done.stderr
    return out / "model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sites")


@pytest.fixture(scope="module")
def own(folder) -> Path:
    return write_set(folder / "site", "own", draw_crops())


@pytest.fixture(scope="module")
def artefact(folder, own, tiny_artefact) -> Path:
    return train(folder / "run", f"manifest:{own}", f"initial_weights={tiny_artefact}")


def described(path: Path, like: Path, recipe: Recipe, *datasets: Dataset) -> Path:
    """An artefact whose provenance states a recipe and all crops of some sets."""
    records = [record for dataset in datasets for record in dataset.records]
    provenance, training = describe_training(recipe, datasets, records, "gmn train")
    known = load_artefact(like)
    description = known.description.model_copy(update={"provenance": provenance})
    save_artefact(path, description, known.embedder, known.metric_network, training=training)
    return path


@pytest.fixture(scope="module")
def student(folder, artefact) -> Path:
    """A model that was trained on drawn people, with the artefact as its teacher."""
    settings = ["initial_weights=none", f'distillation.teachers=["{artefact}"]']
    drawn = read_dataset("synthetic:5,identities=4,domains=1,cameras=2,crops=1")
    recipe = read_recipe("small-gmn", settings)
    return described(folder / "student.safetensors", artefact, recipe, drawn)


def run(command, *arguments: object):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(command)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def measured(artefact: Path, data: Path) -> dict:
    spec = f"manifest:{data}"
    answer = run(evaluate, artefact, "--data", spec, "--scoring", "cosine", "--json")
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)["datasets"][0]


def trained_people(artefact: Path, own: Path) -> int:
    return load_artefact(artefact).description.provenance.data[0].identities


def test_a_set_of_the_same_name_with_other_people_is_unseen(artefact, folder) -> None:
    others = [
        crop._replace(png=crop.png + b"\0") for crop in draw_crops()
    ]  # other bytes stand for other crops
    shop = write_set(folder / "shop", "own", others)
    assert measured(artefact, shop)["seen_in_training"] is False


def test_the_same_crops_under_another_name_are_seen(artefact, own, folder) -> None:
    copy = write_set(folder / "copy", "elsewhere", draw_crops())
    found = measured(artefact, copy)
    people = trained_people(artefact, own)
    assert found["seen_in_training"] is True
    assert found["seen_identities"] == people
    assert found["seen_because"] == [f"was trained on {4 * people} of its 24 crops"]
    printed = run(evaluate, artefact, "--data", f"manifest:{copy}", "--scoring", "cosine")
    assert f"{4 * people} of its 24 crops" in printed.stdout


def test_calibration_uses_everybody_of_a_set_that_has_only_the_name(artefact, folder) -> None:
    others = [crop._replace(png=crop.png + b"\0") for crop in draw_crops()]
    shop = write_set(folder / "shop", "own", others)
    out = folder / "calibrated.safetensors"
    answer = run(calibrate, artefact, "--data", f"manifest:{shop}", "--out", out, "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["data"] == "identities of own"


def test_calibration_leaves_out_people_trained_on_under_another_name(artefact, folder) -> None:
    copy = write_set(folder / "copy", "elsewhere", draw_crops())
    out = folder / "calibrated.safetensors"
    answer = run(calibrate, artefact, "--data", f"manifest:{copy}", "--out", out, "--json")
    assert answer.exit_code == 0, answer.output
    assert json.loads(answer.stdout)["data"] == "held-out identities of elsewhere"


def test_calibration_refuses_a_set_that_shows_people_trained_on(tmp_path) -> None:
    """CUHK02 shows the people of CUHK01, on whom the bundled artefact was trained."""
    images = tmp_path / "cuhk02"
    for pair in range(1, 6):
        for camera in ("cam1", "cam2"):
            place = images / f"P{pair}" / camera
            place.mkdir(parents=True)
            for number, crop in enumerate(draw_crops()[:4]):
                (place / f"{pair}{number:02d}_{1 if camera == 'cam1' else 3}.png").write_bytes(
                    crop.png
                )
    with pytest.raises(InputProblem, match="cuhk01, which shows some of the same people"):
        calibrate("bundled@1", [f"cuhk02:{images}"], tmp_path / "new.safetensors")


def test_a_student_inherits_its_teachers_data_and_terms(student, artefact, folder) -> None:
    copy = write_set(folder / "copy", "elsewhere", draw_crops())
    assert measured(student, copy)["seen_in_training"] is True
    teacher = load_artefact(artefact).description.provenance
    known = load_artefact(student).description.provenance
    (source,) = (source for source in known.all_sources if source.role == "teacher")
    assert source.name == "model.safetensors"
    assert source.data == teacher.data
    assert teacher.terms in known.terms
    assert len(source.sha256) == 64


def write_market(place: Path) -> str:
    """Three drawn people in the training split of a set in Market-1501's layout, three others."""
    sides = {"bounding_box_train": (0, 1, 2), "query": (3, 4, 5), "bounding_box_test": (3, 4, 5)}
    for split, people in sides.items():
        (place / split).mkdir(parents=True)
        for number, crop in enumerate(draw_crops()):
            if int(crop.identity) in people:
                camera = 1 + ("east", "west").index(crop.camera)
                name = f"{int(crop.identity) + 1:04d}_c{camera}s1_{number:06d}_00.jpg"
                (place / split / name).write_bytes(crop.png)
    return f"market1501:{place}"


@pytest.mark.parametrize("protocol", ["P2", "P3"])
def test_test_images_that_were_trained_on_are_seen_however_few_they_are(
    protocol, tiny_artefact, folder
) -> None:
    """Protocol P3 trains on test images; the counts alone do not show it."""
    spec = write_market(folder / protocol)
    (whole,) = training_sets([read_dataset(spec)], PROTOCOLS[protocol], "msmt17")
    few = [record for record in whole.records if record.identity in ("0001", "0004")]
    assert few
    recipe = read_recipe("small-gmn", ["initial_weights=none"])
    trained = described(
        folder / f"{protocol}.safetensors", tiny_artefact, recipe, replace(whole, records=few)
    )
    answer = run(evaluate, trained, "--data", spec, "--scoring", "cosine", "--json")
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)["datasets"][0]
    assert found["seen_in_training"] is (protocol == "P3")
    known = load_artefact(trained).description.provenance.data[0]
    tested = ("query", "gallery") if protocol == "P3" else ()
    assert known.splits == ("train", *tested)
