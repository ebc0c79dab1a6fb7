"""Records of released versions, upgraded: they answer as before."""

from __future__ import annotations

import contextlib
import gzip
import json
import sqlite3
import tarfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from model.problems import InputProblem
from service.ops.data_directory import DATABASE_NAME, snapshot_name
from service.record import people
from service.record.record import Record
from service.record.replacing import replace_crops
from service.record.upgrade import upgrade
from service.record.values import CropFilter, GallerySettings
from service.record.verify import verify
from tests.forked import run_gmn
from tests.service.gallery.new_crops import EMBEDDER, new_crop
from tests.service.record.format_7.answers import answers

FORMAT_7 = Path(__file__).with_name("format_7")
FIRST_VERSION = Path(__file__).parent / "version_0.1.0" / "galleries.sqlite3.gz"
EVERYTHING = CropFilter()
EXPECTED = json.loads((FORMAT_7 / "answers.json").read_text())
SERVED = EXPECTED.pop("served")
# Jobs are left out with their results.
LEFT_OUT = ("jobs", "open jobs", "problems", "groups", "staged")
UNSTAGED = {"staged_fingerprint": None, "staged_side": None, "staged_crops": 0, "staged_row": 0}
for gallery in EXPECTED["galleries"]:
    gallery.update(UNSTAGED)
for snapshot in EXPECTED["snapshots"]:
    del snapshot["gallery_id"]
# The number of the gallery `lobby`, of which something of everything is kept.
LOBBY = 2


@pytest.fixture
def then(monkeypatch):
    """Set the clock of merges, which end, to the day on which the records were made."""

    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromisoformat(EXPECTED["asked at"]).astimezone(tz)

    monkeypatch.setattr(people, "datetime", Then)


@pytest.fixture
def released(tmp_path):
    """Folders of version 0.4: `data`, `backups` of it, and `redis_backups` of one in Redis."""
    with tarfile.open(FORMAT_7 / "records.tar.gz") as packed:
        packed.extractall(tmp_path / "released", filter="data")
    return tmp_path / "released"


def only(folder: Path) -> Path:
    (path,) = folder.iterdir()
    return path


def answers_of(record: Record) -> dict[str, object]:
    found = json.loads(json.dumps(answers(record, LOBBY, EVERYTHING)))
    # The released version knew no tracks.
    assert [crop.pop("track") for crop in found["crops"]] == [None] * len(EXPECTED["crops"])
    return {**found, "asked at": EXPECTED["asked at"]}


@pytest.mark.usefixtures("then")
def test_every_part_of_an_upgraded_record_answers_as_before(released, tmp_path):
    done = upgrade(released / "data", tmp_path / "new")
    assert (done.crops, done.left_out) == ({"lobby": 8, "empty": 0}, [])
    assert verify(tmp_path / "new").damage == []
    with contextlib.closing(Record(tmp_path / "new")) as after:
        found = answers_of(after)
        for part, answer in EXPECTED.items():
            if part not in LEFT_OUT:
                assert found[part] == answer, part
        assert after.jobs.page(None, 9) == []
        assert after.galleries.create("new", EMBEDDER, GallerySettings()).gallery_id == 4


@pytest.mark.usefixtures("then")
def test_snapshots_and_merges_of_an_upgraded_record_are_undone_and_restored(released, tmp_path):
    upgrade(released / "data", tmp_path / "new")
    with contextlib.closing(Record(tmp_path / "new")) as after:
        (snapshot,) = after.snapshots.all(LOBBY)
        (merge,) = after.people.merges(LOBBY)
        assert after.people.undo_merge(LOBBY, merge.merge_id).count == 1
        before = after.galleries.get(LOBBY).version
        path = tmp_path / "new" / snapshot_name(LOBBY, snapshot.snapshot_id)
        assert replace_crops(after.database, LOBBY, path) > before
        ids = [crop.crop_id for crop in after.crops.page(LOBBY, EVERYTHING).crops]
        assert ids == [crop["crop_id"] for crop in EXPECTED["crops"]]


def test_a_crop_that_was_deleted_before_the_upgrade_stays_deleted(released, tmp_path):
    upgrade(released / "data", tmp_path / "new")
    with contextlib.closing(Record(tmp_path / "new")) as after:
        found = after.database.connection().execute("SELECT crop_id FROM tombstones")
        (deleted,) = [crop_id for (crop_id,) in found]
        assert after.crops.removed_among(LOBBY, [deleted]) == [deleted]
        assert deleted not in [crop["crop_id"] for crop in EXPECTED["crops"]]


@pytest.mark.usefixtures("then")
def test_a_backup_is_upgraded_and_only_read(released, tmp_path):
    backup = only(released / "backups")
    before = {path.name: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    upgrade(backup, tmp_path / "new")
    after = {path.name: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    assert after == before
    with contextlib.closing(Record(tmp_path / "new")) as record:
        assert answers_of(record)["crops"] == EXPECTED["crops"]


def test_an_upgrade_is_refused_where_there_is_nothing_or_something_already(released, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputProblem, match="name a data directory or a backup"):
        upgrade(tmp_path / "none", tmp_path / "new")
    upgrade(released / "data", tmp_path / "new")
    with pytest.raises(InputProblem, match="is not empty"):
        upgrade(released / "data", tmp_path / "new")


def test_a_record_of_another_format_is_not_read(released, tmp_path):
    path = released / "data" / DATABASE_NAME
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 6")
    with pytest.raises(InputProblem, match="has format 6"):
        upgrade(released / "data", tmp_path / "new")


def test_a_backup_of_redis_brings_its_images_and_vectors_from_outside(released, tmp_path):
    upgrade(only(released / "redis_backups"), tmp_path / "new")
    assert verify(tmp_path / "new").damage == []
    crops = [new_crop(number) for number in range(3)]
    with contextlib.closing(Record(tmp_path / "new")) as record:
        (gallery,) = record.galleries.all()
        vectors = [crop.vector.tolist() for crop in record.crops.vectors(gallery.gallery_id)]
        assert vectors == [crop.vector.tolist() for crop in crops]
        stored = record.crops.page(gallery.gallery_id, EVERYTHING).crops
        pictures = [record.crops.picture(gallery.gallery_id, crop.crop_id) for crop in stored]
        assert [picture.content for picture in pictures] == [crop.picture for crop in crops]


def test_a_record_of_the_first_version_is_upgraded(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / DATABASE_NAME).write_bytes(gzip.decompress(FIRST_VERSION.read_bytes()))
    upgrade(tmp_path / "old", tmp_path / "new")
    with contextlib.closing(Record(tmp_path / "new")) as record:
        (gallery,) = record.galleries.all()
        assert (gallery.name, gallery.crops, gallery.identities) == ("lobby", 29, 6)
        found = record.crops.page(gallery.gallery_id, EVERYTHING).crops
        assert [crop.metadata["number"] for crop in found] == list(range(1, 30))
        for number, crop in enumerate(record.crops.vectors(gallery.gallery_id), 1):
            drawn = np.random.default_rng(number).standard_normal(8).astype(np.float32)
            assert np.array_equal(crop.vector, drawn)
        assert [key.key_id for key in record.keys.all()] == ["door"]
        assert record.galleries.create("new", EMBEDDER, GallerySettings()).gallery_id == 2


@pytest.mark.slow
def test_a_service_on_an_upgraded_data_directory_answers_as_before(
    start, refused_start, released, tmp_path, drawn_crops
):
    old = released / "served"
    refused = refused_start(old)
    assert f"gmn store upgrade {old} --into" in refused
    command = ["store", "upgrade", str(old), "--into", str(tmp_path / "new")]
    assert run_gmn(*command).returncode == 0
    served = start(artefact="small", data_dir=tmp_path / "new")
    lobby = "/v1/galleries/lobby"
    crops = served.results(f"{lobby}/crops?limit=100")
    assert [crop.pop("track") for crop in crops] == [None] * len(SERVED["crops"])
    assert crops == SERVED["crops"]
    assert served.results(f"{lobby}/identities") == SERVED["people"]
    for crop, before in zip(drawn_crops[::5], SERVED["queries"], strict=True):
        # The order of that version: results did not come closer to others of their person.
        now = served.query("lobby", crop.png, top_k=10, order="score").json()
        assert now["verdict"] == before["verdict"]
        ids = [[result["crop_id"] for result in answer["results"]] for answer in (now, before)]
        assert ids[0] == ids[1]
        for result, expected in zip(now["results"], before["results"], strict=True):
            assert result["cosine"] == pytest.approx(expected["cosine"], abs=1e-5)
            assert result["identity"] == expected["identity"]
    (snapshot,) = served.results(f"{lobby}/snapshots")
    restored = served.http.post(f"{lobby}/snapshots/{snapshot['snapshot_id']}/restore")
    assert (restored.status_code, restored.json()["crops"]) == (200, len(SERVED["crops"]))
