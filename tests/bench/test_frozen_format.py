"""A record that a released version wrote is read by this one, whatever its format."""

import json
import tarfile

import pytest

from bench.frozen_format import DATA, DESCRIPTION, EXPORT, FOLDER, GALLERY, freeze_format, labels_of
from demo.service import own_service
from gmn_client import Image, RequestRefused
from service.record.schema import FORMAT, schema_of_format

FROZEN = sorted(folder.name for folder in FOLDER.glob("*"))


def describe(folder):
    return json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["of this version", *FROZEN])
def frozen(request, tmp_path_factory):
    """Return the folder of a format: one that is written now, and each that a release wrote."""
    if request.param in FROZEN:
        return FOLDER / request.param
    folder = tmp_path_factory.mktemp("formats") / str(FORMAT)
    freeze_format(folder)
    return folder


@pytest.mark.slow
def test_a_data_directory_is_served_as_it_was(frozen, tmp_path):
    described = describe(frozen)
    with tarfile.open(frozen / DATA) as packed:
        packed.extractall(tmp_path, filter="data")
    # Its artefact may not be shipped any more.
    variables = {"GMN_ACCEPT_UNSERVED": "true"}
    with own_service("small", variables, data_dir=tmp_path / "data") as client:
        client.gallery_name = GALLERY
        assert labels_of(client) == described["crops"]
        assert len(described["crops"]) > 1
        with pytest.raises(RequestRefused):
            client.crop(described["deleted"])
        kept = client.case(described["case"]["case_id"])
        assert kept.model_dump(mode="json") == described["case"]
        crop_id, (identity, camera) = next(iter(described["crops"].items()))
        picture = client.image(crop_id)
        # What was enrolled before is a duplicate, and is forgotten as any other.
        image = Image(picture, identity=identity, camera=camera)
        for is_repeated in (False, True):
            answer = client.enroll([image], idempotency_key="again")
            assert answer.replayed == is_repeated
            (again,) = answer.results
            assert (again.crop_id, again.duplicate) == (crop_id, True)
        client.forget(identity)
        assert all(name != identity for name, _ in labels_of(client).values())


@pytest.mark.slow
def test_an_export_is_imported(frozen):
    described = describe(frozen)
    with own_service("small") as client:
        client.create_gallery(GALLERY)
        client.gallery_name = GALLERY
        job = client.wait_for_job(client.import_archive(frozen / EXPORT).job_id)
        assert (job.state, job.problems) == ("done", 0)
        imported = sorted(map(str, labels_of(client).values()))
        assert imported == sorted(map(str, described["crops"].values()))


def test_every_released_format_is_kept_and_none_was_changed():
    assert {str(number) for number in range(1, FORMAT)} <= set(FROZEN)
    schema = [list(row) for row in schema_of_format()]
    for name in FROZEN:
        described = describe(FOLDER / name)
        is_of_today = described["format"] == FORMAT
        assert not is_of_today or described["schema"] == schema, (
            "a released format stays as it is: raise FORMAT in service/record/schema.py"
        )
