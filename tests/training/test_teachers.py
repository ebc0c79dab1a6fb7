"""Teachers: asked once for every crop; their answers are kept and found by its content."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.artefact import load_artefact
from model.problems import InputProblem
from training.datasets.synthetic import draw_people
from training.distributed import Processes
from training.evaluation.embedding import embed_records
from training.teachers import ask_teachers

RECORDS = draw_people(seed=1, identities_per_domain=2, domains=1).records
ALONE = Processes()


@pytest.fixture
def teacher_file(tiny_artefact: Path, tmp_path: Path) -> Path:
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(tiny_artefact.read_bytes())
    return file


def test_a_teachers_features_are_those_it_gives_the_crops(teacher_file, tmp_path) -> None:
    backwards = RECORDS[::-1]
    ask_teachers([str(teacher_file)], backwards, tmp_path / "kept", ALONE)
    (teacher,) = ask_teachers([str(teacher_file)], RECORDS, tmp_path / "kept", ALONE)
    artefact = load_artefact(teacher_file)
    features = embed_records(artefact.embedder, artefact.description.preprocessing, RECORDS)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    assert teacher.name == "teacher"
    np.testing.assert_allclose(teacher.features, units, atol=1e-4)


def test_a_crop_is_shown_to_a_teacher_once(teacher_file, tmp_path, monkeypatch) -> None:
    shown: list[str] = []

    def remembering(embedder, preprocessing, records):
        shown.extend(record.source for record in records)
        return embed_records(embedder, preprocessing, records)

    monkeypatch.setattr("training.teachers.embed_records", remembering)
    ask_teachers([str(teacher_file)], RECORDS[:4], tmp_path, ALONE)
    ask_teachers([str(teacher_file)], RECORDS, tmp_path, ALONE)
    assert shown == [record.source for record in RECORDS]


def test_a_model_of_the_same_name_and_other_content_is_asked_anew(teacher_file, tmp_path) -> None:
    ask_teachers([str(teacher_file)], RECORDS[:2], tmp_path / "kept", ALONE)
    (kept,) = (tmp_path / "kept").iterdir()
    teacher_file.write_bytes(b"another model")
    with pytest.raises(InputProblem, match=r"teacher\.safetensors"):
        ask_teachers([str(teacher_file)], RECORDS[:2], tmp_path / "kept", ALONE)
    assert kept.exists()


def test_a_crop_that_changed_under_its_name_is_shown_anew(teacher_file, tmp_path) -> None:
    asked = ([str(teacher_file)], RECORDS, tmp_path / "kept", ALONE)
    (before,) = ask_teachers(*asked)
    changed = [replace(RECORDS[0], pixels=RECORDS[1].pixels), *RECORDS[1:]]
    (after,) = ask_teachers(asked[0], changed, *asked[2:])
    np.testing.assert_allclose(after.features[0], before.features[1], atol=1e-4)


def test_a_teacher_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputProblem, match=r"none\.xml: cannot be read.*distillation\.teachers"):
        ask_teachers([str(tmp_path / "none.xml")], RECORDS, tmp_path, ALONE)
