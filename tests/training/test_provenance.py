"""The origin that an artefact stores."""

import subprocess
from dataclasses import replace

import pytest

from model.artefact import load_artefact, resolve_artefact
from model.provenance import WeightSource
from training.datasets.drawn import draw_people
from training.evaluation.files import save_artefact
from training.provenance import (
    current_commit,
    describe_training,
    inherited_weights,
    weight_sources,
)
from training.recipe import read_recipe


def git(folder, *words):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def test_a_commit_is_marked_where_files_differ_from_it(tmp_path):
    assert current_commit(tmp_path) is None
    git(tmp_path, "init")
    (tmp_path / "code.py").write_text("one")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = current_commit(tmp_path)
    assert len(clean) == 40
    (tmp_path / "code.py").write_text("two")
    assert current_commit(tmp_path) == f"{clean}-dirty"


def test_starting_weights_are_hashed_and_state_the_data_that_the_recipe_names(tmp_path):
    file = tmp_path / "osnet.pth"
    file.write_bytes(b"weights")
    settings = [
        f"initial_weights={file}",
        'initial_weights_data=["ImageNet", "MSMT17"]',
        "initial_weights_terms=MIT; MSMT17 is for research.",
    ]
    drawn = replace(draw_people(1, 1, 2), terms="Free of any.")
    known, _ = describe_training(read_recipe("small-gmn", settings), [drawn], drawn.records, "")
    (source,) = known.sources
    assert source.name == "osnet.pth"
    assert source.sha256.startswith("9a129038d9a00aed")
    assert source.documented_data == ("ImageNet", "MSMT17")
    assert known.terms == "Free of any. MIT; MSMT17 is for research."


def test_an_artefact_to_start_from_passes_on_its_data_terms_and_sources():
    (own, *further), _ = weight_sources(read_recipe("small-gmn", ["initial_weights=small"]))
    known = load_artefact(resolve_artefact("small")).description.provenance
    assert own.data == known.data
    assert own.terms == known.terms
    assert [source.name for source in further] == [
        "small-start.safetensors",
        "person-reidentification-retail-0287.xml",
        "bundled.safetensors",
        "open.safetensors",
        "person-reidentification-retail-0277.xml",
    ]
    documented = [source.name for source in further if source.is_documented]
    assert documented == ["bundled.safetensors"]
    (known,), _ = weight_sources(read_recipe("small-gmn", ["initial_weights=torchvision"]))
    assert known.documented_data == ("ImageNet",)


@pytest.mark.parametrize("documented", [("MSMT17",), ()])
def test_imported_weights_are_as_documented_as_what_they_were_imported_from(
    documented, tiny_artefact, tmp_path
):
    known = load_artefact(tiny_artefact)
    published = WeightSource(
        role="initial weights", name="osnet.onnx", documented_data=documented, terms=""
    )
    provenance = known.description.provenance.model_copy(
        update={"data": (), "sources": (published,)}
    )
    imported = tmp_path / "imported.safetensors"
    description = known.description.model_copy(update={"provenance": provenance})
    save_artefact(imported, description, known.embedder, known.metric_network)
    (own, further), _ = inherited_weights("initial weights", str(imported))
    assert own.documented_data == further.documented_data == documented
    assert own.is_documented == bool(documented)
