"""Records of released versions and of earlier formats, upgraded: they answer as before."""

import contextlib
import gzip
import json
import sqlite3
import subprocess
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from pydantic_core import to_jsonable_python

from model.problems import InputProblem
from service.ops.data_directory import DATABASE_NAME, snapshot_name
from service.record import people
from service.record.archive import archived_ids, check_archive, write_archive
from service.record.replacing import replace_crops
from service.record.restoring import restore_backup, write_backup
from service.record.transaction import FILE
from service.record.upgrade import upgrade
from service.record.verify import verify
from tests.forked import run_gmn
from tests.service.gallery.new_crops import (
    EMBEDDER,
    enroll,
    listed,
    listed_ids,
    new_crop,
    new_gallery,
    only,
    open_record,
)
from tests.service.record.new_searches import kept_ids

FORMAT_7 = Path(__file__).with_name("format_7")
ROOT = Path(__file__).parents[3]
FIRST_VERSION = Path(__file__).parent / "version_0.1.0" / "galleries.sqlite3.gz"
EXPECTED = json.loads((FORMAT_7 / "answers.json").read_text())
SERVED = EXPECTED.pop("served")
ASKED_AT = EXPECTED.pop("asked at")
IDS = [crop["crop_id"] for crop in EXPECTED["crops"]]
# The number of the gallery `lobby`, of which something of everything is kept.
LOBBY = 2
# Fields that format 7 did not have.
NEWER = {"changes_from", "bytes", "sha256", "dimension", "first_seen", "kept_searches", "image_url"}


def answers(record):
    crops = listed(record, LOBBY)
    searches = kept_ids(record, LOBBY)
    kept = record.calibrations
    found = {
        "galleries": record.galleries.all(),
        "secret": record.galleries.group_secret(),
        "crops": crops,
        "hashes": [crop.sha256 for crop in crops],
        "vectors": [crop.vector.tolist() for crop in record.crops.vectors(LOBBY)],
        "pictures": [record.crops.picture(LOBBY, crop.crop_id) for crop in crops],
        "people": _people(record, "name"),
        "last seen": _people(record, "last_seen"),
        "merges": record.people.merges(LOBBY),
        "searches": [_search(record, query_id) for query_id in searches],
        "kept pictures": [record.kept.picture(LOBBY, query_id) for query_id in searches],
        "cases": _cases(record),
        "published": kept.published(LOBBY),
        "scores": [
            (kept.counted(LOBBY, subject), kept.searches(LOBBY, subject))
            for subject in ("mnet", "cosine")
        ],
        "keys": record.keys.all(),
        "used": record.keys.last_used(),
        "asked for": record.keys.asked_for,
        "runtime": record.runtimes.get(EMBEDDER),
        "strays": record.stray_files.all(datetime(2100, 1, 1, tzinfo=UTC), 99),
        "snapshots": record.snapshots.all(LOBBY),
    }
    jsonable = to_jsonable_python(found, bytes_mode="base64", fallback=dict)
    return json.loads(json.dumps(_without_newer_fields(jsonable)))


def _people(record, sort):
    people = record.people.page(LOBBY, None, 99, sort=sort).results
    described = (record.people.get(LOBBY, person.identity) for person in people)
    return [person.model_dump(exclude={"cases"}) for person in described]


def _search(record, query_id):
    of_search = ("WHERE query_id = ?", (query_id,))
    with record.database.read() as reader:
        search = reader.row("searches", *of_search)
        cases = [case["case_id"] for case in reader.rows("case_searches", *of_search)]
        reviews = {
            review["crop_id"]: {
                name: review[name] for name in ("decision", "key_id", "reviewed_at")
            }
            for review in reader.rows("reviews", *of_search)
        }
    del search["gallery_id"], search["intact"]
    return {**search, "cases": cases, "reviews": reviews}


def _cases(record):
    cases = []
    for listed_case in record.cases.page(LOBBY, None, 99).results:
        case = record.cases.get(LOBBY, listed_case.case_id)
        queries = {query.query_id: (query.added_at, query.note) for query in case.queries}
        cases.append({**case.model_dump(exclude={"count"}), "queries": queries})
    return cases


def _without_newer_fields(value):
    if isinstance(value, dict):
        old = {key: part for key, part in value.items() if key not in NEWER}
        return {key: _without_newer_fields(part) for key, part in old.items()}
    if isinstance(value, list):
        return [_without_newer_fields(part) for part in value]
    return value


@pytest.fixture
def _then(monkeypatch):
    """Set the clock of merges, which end, to the day on which the records were made."""

    class Then(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromisoformat(ASKED_AT).astimezone(tz)

    monkeypatch.setattr(people, "datetime", Then)


@pytest.fixture
def released(tmp_path):
    """Folders of version 0.4: `data`, `backups` of it, and `redis_backups` of one in Redis."""
    with tarfile.open(FORMAT_7 / "records.tar.gz") as packed:
        packed.extractall(tmp_path / "released", filter="data")
    return tmp_path / "released"


@pytest.mark.usefixtures("_then")
def test_every_part_of_an_upgraded_record_answers_as_before(released, tmp_path):
    done = upgrade(released / "data", tmp_path / "new")
    assert (done.crops, done.left_out) == ({"lobby": 8, "empty": 0}, [])
    assert verify(tmp_path / "new").damage == []
    with open_record(tmp_path / "new") as after:
        found = answers(after)
        for part, answer in EXPECTED.items():
            assert found[part] == answer, part
        # A crop that was deleted before stays deleted.
        tombstones = after.database.connection().execute("SELECT crop_id FROM tombstones")
        deleted = [crop_id for (crop_id,) in tombstones]
        assert len(deleted) == 1
        assert after.crops.removed_among(LOBBY, deleted) == deleted
        assert after.jobs.page(None, 9) == []
        assert new_gallery(after, "new") == 4


@pytest.mark.usefixtures("_then")
def test_snapshots_and_merges_of_an_upgraded_record_are_undone_and_restored(released, tmp_path):
    upgrade(released / "data", tmp_path / "new")
    with open_record(tmp_path / "new") as after:
        (snapshot,) = after.snapshots.all(LOBBY)
        (merge,) = after.people.merges(LOBBY)
        assert after.people.undo_merge(LOBBY, merge.merge_id).count == 1
        before = after.galleries.get(LOBBY).version
        path = tmp_path / "new" / snapshot_name(LOBBY, snapshot.snapshot_id)
        assert after.database.write_from(path, replace_crops, LOBBY, path) > before
        assert listed_ids(after, LOBBY) == IDS


def test_a_backup_is_upgraded_and_only_read(released, tmp_path):
    (backup,) = (released / "backups").iterdir()
    before = {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    upgrade(backup, tmp_path / "new")
    after = {path: path.read_bytes() for path in backup.rglob("*") if path.is_file()}
    assert after == before
    with open_record(tmp_path / "new") as record:
        assert listed_ids(record, LOBBY) == IDS


def test_a_backup_of_redis_brings_its_images_and_vectors_from_outside(released, tmp_path):
    (backup,) = (released / "redis_backups").iterdir()
    upgrade(backup, tmp_path / "new")
    assert verify(tmp_path / "new").damage == []
    crops = [new_crop(number) for number in range(3)]
    with open_record(tmp_path / "new") as record:
        (gallery,) = (entry.gallery_id for entry in record.galleries.all())
        vectors = [crop.vector.tolist() for crop in record.crops.vectors(gallery)]
        assert vectors == [crop.vector.tolist() for crop in crops]
        ids = listed_ids(record, gallery)
        pictures = [record.crops.picture(gallery, crop_id).content for crop_id in ids]
        assert pictures == [crop.picture for crop in crops]


def test_an_upgrade_is_refused_where_there_is_nothing_or_something_already(released, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(InputProblem, match="name a data directory or a backup"):
        upgrade(tmp_path / "none", tmp_path / "new")
    with pytest.raises(InputProblem, match="is not empty"):
        upgrade(released / "data", released)
    with contextlib.closing(sqlite3.connect(released / "data" / DATABASE_NAME)) as database:
        database.execute("PRAGMA user_version = 6")
    with pytest.raises(InputProblem, match="has format 6"):
        upgrade(released / "data", tmp_path / "new")
    (released / "data" / DATABASE_NAME).write_bytes(b"damage" * 1000)
    with pytest.raises(InputProblem, match="with the version that wrote it"):
        upgrade(released / "data", tmp_path / "new")


def test_a_record_of_the_first_version_is_upgraded(tmp_path):
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / DATABASE_NAME).write_bytes(gzip.decompress(FIRST_VERSION.read_bytes()))
    upgrade(tmp_path / "old", tmp_path / "new")
    with open_record(tmp_path / "new") as record:
        (gallery,) = record.galleries.all()
        assert (gallery.name, gallery.crops, gallery.identities) == ("lobby", 29, 6)
        found = listed(record, gallery.gallery_id)
        assert [crop.metadata["number"] for crop in found] == list(range(1, 30))
        for number, crop in enumerate(record.crops.vectors(gallery.gallery_id), 1):
            drawn = np.random.default_rng(number).standard_normal(8).astype(np.float32)
            assert np.array_equal(crop.vector, drawn)
        assert [key.key_id for key in record.keys.all()] == ["door"]
        assert new_gallery(record, "new") == 2


WATCHES = ("watches", "watch_traffic", "alerts", "alert_pictures", "webhooks", "deliveries")
OF_REVIEWS = ("alert_scores", "review_changes", "ignored_reviews")
OF_CAMERAS = ("cameras", "camera_hours", "camera_traffic")
OF_FORMAT_13 = (*OF_CAMERAS, "watch_trials", "trial_alerts", *OF_REVIEWS)
LATEST = ("counted_tracks", "alert_crops", *OF_FORMAT_13)
OBSOLETE = ("restores", "incoming", "incoming_tracks", "collections", "unneeded_collections")
# Tables that came with later formats.
LATER_TABLES = {
    8: ("tracks", "remote_indexes", *WATCHES, *LATEST),
    9: ("remote_indexes", *WATCHES, *LATEST),
    10: ("remote_indexes", *LATEST),
    11: LATEST,
    12: OF_FORMAT_13,
}


def make_earlier(folder, version):
    """Give a record the tables of an earlier format, and all that were dropped since."""
    with contextlib.closing(sqlite3.connect(folder / FILE)) as connection:
        for name in LATER_TABLES[version]:
            connection.execute(f"DROP TABLE {name}")
            connection.execute("DELETE FROM sqlite_stat1 WHERE tbl = ?", (name,))
        for name in OBSOLETE:
            connection.execute(f"CREATE TABLE {name} (gallery_id INTEGER REFERENCES galleries)")
            connection.execute(f"INSERT INTO {name} VALUES (1)")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()


@pytest.mark.parametrize("version", LATER_TABLES)
def test_a_record_of_an_earlier_format_opens_without_its_obsolete_tables(
    record, gallery, tmp_path, version
):
    (old,) = enroll(record, gallery, new_crop(1))
    record.close()
    make_earlier(tmp_path, version)
    assert verify(tmp_path).damage == []
    with open_record(tmp_path) as opened:
        tables = opened.database.connection().execute("SELECT name FROM sqlite_master").fetchall()
        assert {name for (name,) in tables}.isdisjoint(OBSOLETE)
        (new,) = enroll(opened, gallery, new_crop(2, track="7"))
    with open_record(tmp_path) as again:
        tracks = {crop.crop_id: crop.track for crop in listed(again, gallery)}
        assert tracks == {old: None, new: "7"}


@pytest.mark.parametrize("version", [8, 10])
def test_archives_of_an_earlier_format_are_read_and_restored(tmp_path, version):
    data = tmp_path / "data"
    data.mkdir()
    with open_record(data) as record:
        gallery = new_gallery(record)
        ids = enroll(record, gallery, new_crop(1), new_crop(2))
        backup = write_backup(record.database, tmp_path / "backups")
        snapshot = tmp_path / "snapshot.gmn"
        write_archive(record.database, snapshot, gallery)
    for folder in (backup, snapshot):
        make_earlier(folder, version)
    check_archive(snapshot)
    assert archived_ids(snapshot) == ids
    restore_backup(backup, tmp_path / "restored", data)
    with open_record(tmp_path / "restored") as record:
        assert listed_ids(record, gallery) == ids
        record.crops.change(gallery, only(ids[0]), {"track": "new"})
        record.database.write_from(snapshot, replace_crops, gallery, snapshot)
        assert [crop.track for crop in listed(record, gallery)] == [None, None]


@pytest.fixture
def former_artefact(tmp_path):
    """Return the file of the artefact that filled the galleries, out of the history."""
    name = "model/artefacts/small@1.safetensors"
    command = ["git", "log", "-1", "--diff-filter=D", "--format=%H", "--", name]
    removal = subprocess.check_output(command, cwd=ROOT, text=True).strip()
    if not removal:
        pytest.skip("this clone lacks the history that has the former artefact")
    file = tmp_path / "small@1.safetensors"
    file.write_bytes(subprocess.check_output(["git", "show", f"{removal}^:{name}"], cwd=ROOT))
    return file


@pytest.mark.slow
def test_a_service_on_an_upgraded_data_directory_answers_as_before(
    start, refused_start, released, tmp_path, drawn_crops, former_artefact
):
    old = released / "served"
    assert f"gmn store upgrade {old} --into" in refused_start(old)
    command = ["store", "upgrade", str(old), "--into", str(tmp_path / "new")]
    assert run_gmn(*command).returncode == 0
    served = start(artefact="small", previous=former_artefact, data_dir=tmp_path / "new")
    lobby = "/v1/galleries/lobby"
    assert served.results(f"{lobby}/crops?limit=100") == SERVED["crops"]
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
