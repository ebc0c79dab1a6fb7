"""A gallery leaves as Parquet files with its vectors, and comes back from them."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime

import numpy as np
import pytest

from gmn_client import Client, Image
from tests import forked

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def url(served):
    return str(served.http.base_url).rstrip("/")


@pytest.fixture
def client(url, gallery):
    with Client(url, gallery=gallery) as client:
        yield client


def _known(crop):
    return (
        crop.identity,
        crop.camera,
        crop.captured_at,
        crop.external_id,
        crop.metadata,
        crop.sha256,
    )


def _gmn(*arguments, url, status=0):
    ran = forked.run_gmn(*arguments, "--url", url)
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def test_a_gallery_comes_back_from_its_export(served, url, client, gallery, drawn_crops, tmp_path):
    nine = datetime(2026, 3, 1, 9, 30, 0, 250_000, tzinfo=UTC)
    client.enroll(
        [
            Image(drawn_crops[0].png, None, "Ann", "east", nine, "x1", {"shift": "night"}),
            Image(drawn_crops[1].png, None, None, "west"),
            Image(drawn_crops[4].png, None, "Bob"),
        ]
    )
    folder = tmp_path / "exported"
    assert "3 crops" in _gmn("gallery", "export", gallery, str(folder), url=url)
    assert "is not empty" in _gmn("gallery", "export", gallery, str(folder), url=url, status=2)
    (file,) = folder.iterdir()
    table = parquet.read_table(file)
    assert table.column("identity").to_pylist() == ["Ann", None, "Bob"]
    copy = served.create(f"copy.{gallery[-40:]}")
    asked = ("enroll", str(folder), "--gallery", copy)
    assert "3 enrolled" in _gmn(*asked, url=url)
    assert list(map(_known, client.crops(gallery=copy))) == list(map(_known, client.crops()))
    exported, back = (
        [one.vector for one in client.crops(gallery=name, include_vector=True)]
        for name in (gallery, copy)
    )
    assert exported == back
    # No crop is stored twice.
    assert "0 enrolled" in _gmn(*asked, url=url)
    found = client.query(drawn_crops[0].png, gallery=copy, metadata={"shift": "night"})
    assert [one.identity for one in found.results] == ["Ann"]


def test_pictures_leave_and_come_back_where_they_are_asked_for(
    served, url, client, gallery, drawn_crops, tmp_path
):
    client.enroll([Image(crop.png, None, crop.identity) for crop in drawn_crops[:3]])
    folder = tmp_path / "exported"
    _gmn("gallery", "export", gallery, str(folder), "--pictures", url=url)
    (file,) = folder.iterdir()
    table = parquet.read_table(file)
    assert table.column("image").to_pylist() == [crop.png for crop in drawn_crops[:3]]
    # A picture may be missing, and one that cannot be read is its own row's problem.
    images = pyarrow.array([drawn_crops[0].png, None, b"no image"])
    place = table.column_names.index("image")
    parquet.write_table(table.set_column(place, "image", images), file)
    copy = served.create(f"copy.{gallery[-40:]}")
    _gmn("enroll", str(folder), "--gallery", copy, url=url, status=1)
    first, second = client.crops(gallery=copy)
    assert client.image(first.crop_id, copy) == drawn_crops[0].png
    assert second.image_url is None
    assert list(map(_known, (first, second))) == list(map(_known, client.crops()))[:2]
    shown = client.identity("0000", gallery=copy)
    assert (shown.crop_id, shown.image_url) == (first.crop_id, first.image_url)


@pytest.fixture
def columns(served, drawn_crops):
    with Client(str(served.http.base_url)) as client:
        embedded = client.embeddings(drawn_crops[0].png)
    vector = np.array(embedded.results[0].embedding, np.float32)
    return {"vector": [vector, -vector]}, embedded.embedding_fingerprint


def _file(columns, made_by=None, **changed):
    arrays = {name: pyarrow.array(one) for name, one in (columns | changed).items()}
    about = {"embedding_fingerprint": made_by} if made_by else {}
    file = io.BytesIO()
    parquet.write_table(pyarrow.table(arrays).replace_schema_metadata(about), file)
    return file.getvalue()


def _send(served, gallery, content):
    sent = {"archive": ("crops.parquet", content)}
    answer = served.http.post(f"/v1/galleries/{gallery}/imports", files=sent)
    assert answer.status_code == 202, answer.text
    return served.ended_job(answer.json())


def test_vectors_alone_are_enough_and_times_may_be_texts(served, gallery, client, columns):
    vectors, made_by = columns
    known = {"identity": ["Ann", None], "captured_at": ["2026-03-01T09:30:00Z", ""]}
    for landed in (2, 0):
        job = _send(served, gallery, _file(vectors, made_by, **known))
        assert (job["state"], job["progress"]["landed"]) == ("done", landed), job
    first, second = client.crops(include_vector=True)
    assert (first.identity, second.identity, second.captured_at) == ("Ann", None, None)
    assert np.array_equal(np.array(first.vector, np.float32), vectors["vector"][0])


def test_a_file_that_cannot_be_used_ends_the_job_with_the_reason(served, gallery, columns):
    vectors, made_by = columns
    first, second = vectors["vector"]
    whole = _file(vectors, made_by)
    naive = [datetime(2026, 3, 1), None]
    for content, why in (
        (whole[:-40], "is not a readable Parquet file"),
        (b"PAR1" + bytes(200), "is not a readable Parquet file"),
        (_file(vectors), "does not name the embedder"),
        (_file(vectors, "0" * 64), "its vectors are of embedder 000000000000"),
        (_file({"identity": ["Ann"]}, made_by), "has no column vector"),
        (_file(vectors, made_by, vector=[first, second[:-1]]), "of several lengths"),
        (_file(vectors, made_by, vector=[first, None]), "of several lengths"),
        (_file(vectors, made_by, vector=[first, first * np.nan]), "not finite"),
        (_file(vectors, made_by, vector=["a", "b"]), "is not a readable Parquet file"),
        (_file(vectors, made_by, sha256=["x", ""]), "a sha256 that is none"),
        (_file(vectors, made_by, camera=["a,b", ""]), "crop 0: camera"),
        (_file(vectors, made_by, captured_at=naive), "captured_at: … is no RFC 3339 time"),
        (_file(vectors, made_by, metadata=["[1]", ""]), "crop 0: metadata"),
        (_file(vectors, made_by, identity=["a" * 70_000, ""]), "identity is str or too long"),
        (_file(vectors, made_by, identity=[7, 8]), "identity is int or too long"),
    ):
        job = _send(served, gallery, content)
        assert job["state"] == "failed", why
        assert why in job["detail"], job["detail"]
    listed = served.http.get(f"/v1/galleries/{gallery}/crops").json()
    assert json.dumps(listed["results"]) == "[]"


@pytest.mark.slow
def test_a_file_that_would_unpack_to_too_much_is_refused(served, gallery, columns):
    vectors, made_by = columns
    many = {"vector": [vectors["vector"][0]] * 60_000}
    job = _send(served, gallery, _file(many, made_by))
    assert job["state"] == "failed"
    assert "holds more than" in job["detail"]
