"""Teachers: asked once for every crop; their answers are kept and found by its content."""

import numpy as np
import pytest

from model.artefact import load_artefact
from model.problems import InputProblem
from training.datasets.drawn import draw_people
from training.distributed import Processes
from training.evaluation.embedding import embed_records
from training.teachers import load_teacher_features

RECORDS = draw_people(seed=1, identities_per_domain=2, domains=1).records
ALONE = Processes()


@pytest.fixture
def teacher_file(tiny_artefact, tmp_path):
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(tiny_artefact.read_bytes())
    return file


def test_a_teachers_features_are_those_it_gives_the_crops(teacher_file, tmp_path):
    backwards = RECORDS[::-1]
    load_teacher_features([str(teacher_file)], backwards, tmp_path / "kept", ALONE)
    (teacher,) = load_teacher_features([str(teacher_file)], RECORDS, tmp_path / "kept", ALONE)
    artefact = load_artefact(teacher_file)
    features = embed_records(artefact.embedder, artefact.description.preprocessing, RECORDS)
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(teacher, units, atol=1e-4)


def test_a_crop_is_shown_to_a_teacher_once(teacher_file, tmp_path, monkeypatch):
    shown = []

    def remembering(embedder, preprocessing, records):
        shown.extend(record.source for record in records)
        return embed_records(embedder, preprocessing, records)

    monkeypatch.setattr("training.teachers.embed_records", remembering)
    load_teacher_features([str(teacher_file)], RECORDS, tmp_path, ALONE)
    load_teacher_features([str(teacher_file)], RECORDS, tmp_path, ALONE)
    assert shown == [record.source for record in RECORDS]


def test_a_teacher_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputProblem, match=r"none\.xml: cannot be read.*distillation\.teachers"):
        load_teacher_features([str(tmp_path / "none.xml")], RECORDS, tmp_path, ALONE)
