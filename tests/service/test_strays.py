"""Files of the data directory that no record names: those of unknown origin are never deleted."""

import contextlib
import shutil
from types import SimpleNamespace

import pytest

from service.gallery.archives import clear_files, remove_unneeded_files
from service.ops.critical_sections import CriticalSections
from service.ops.data_directory import hold, snapshot_name
from service.ops.threads import BlockingPools
from service.record.record import Record
from service.record.values import GallerySettings
from tests.service.gallery.new_crops import EMBEDDER, described
from tests.service.gallery.new_jobs import new_job


@pytest.fixture
def runtime(tmp_path):
    """Return a record and its data directory, as far as files without a record need them."""
    pools = BlockingPools()
    with contextlib.closing(Record(tmp_path)) as record:
        yield SimpleNamespace(
            pools=pools,
            record=record,
            settings=SimpleNamespace(data_dir=tmp_path),
            sections=CriticalSections(),
            snapshot_lock=lambda _: tmp_path / "snapshots.lock",
        )
    pools.shutdown()


@pytest.fixture
def gallery(runtime):
    return runtime.record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id


def _written(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())
    return path


def _kept_snapshot(runtime, gallery, name):
    file = _written(runtime.settings.data_dir / snapshot_name(gallery, name) / "record.sqlite3")
    runtime.record.snapshots.keep(gallery, described(name))
    return file.parent


async def test_a_start_moves_aside_what_no_record_names_and_removes_copies_that_were_cut_off(
    runtime, gallery, tmp_path, caplog
):
    kept = _kept_snapshot(runtime, gallery, "kept")
    unknown = _written(tmp_path / "snapshots" / "7" / "unknown.gmn" / "record.sqlite3")
    part = _written(kept.with_name("copy.1f.part") / "record.sqlite3")
    upload = _written(tmp_path / "imports" / "anothers" / "archive")
    runtime.record.jobs.create(new_job("waiting", gallery))
    waiting = _written(tmp_path / "imports" / "waiting" / "archive")
    for _ in range(2):
        await clear_files(runtime)
        assert all(file.exists() for file in (kept, waiting))
        assert not any(file.exists() for file in (part, unknown, upload))
        stray = tmp_path / "snapshots" / "stray" / "7-unknown.gmn" / "record.sqlite3"
        assert stray.read_bytes() == b"record.sqlite3"
        stray = tmp_path / "imports" / "stray" / "anothers" / "archive"
        assert stray.read_bytes() == b"archive"
    assert "unknown.gmn is in no record; moved to" in caplog.text


async def test_the_files_of_what_was_deleted_are_removed_by_maintenance_however_that_ended(
    runtime, gallery, tmp_path
):
    other = runtime.record.galleries.create("yard", EMBEDDER, GallerySettings()).gallery_id
    snapshots = [_kept_snapshot(runtime, other, name) for name in ("one", "two")]
    runtime.record.jobs.create(new_job("waiting", other))
    upload = _written(tmp_path / "imports" / "waiting" / "archive")
    single = _kept_snapshot(runtime, gallery, "single")
    # The process is killed after each of the commits, before it removes a file.
    runtime.record.galleries.delete(other)
    runtime.record.snapshots.remove(gallery, "single")
    copy = _written(tmp_path / snapshot_name(gallery, "copied") / "record.sqlite3")
    runtime.record.unneeded_files.add([snapshot_name(gallery, "copied")])
    kept = _kept_snapshot(runtime, gallery, "kept")
    await remove_unneeded_files(runtime)
    assert not any(file.exists() for file in (*snapshots, single, upload, copy))
    assert kept.exists()
    assert runtime.record.unneeded_files.all() == []


async def test_an_upload_under_way_is_left_alone_and_one_that_was_cut_off_is_removed(
    runtime, tmp_path
):
    upload = _written(tmp_path / "imports" / "one" / "archive")
    runtime.record.unneeded_files.add(["imports/one"])
    with hold(upload.parent):
        await clear_files(runtime)
        assert upload.exists()
    await clear_files(runtime)
    assert not upload.parent.exists()


async def test_an_upload_that_got_its_job_meanwhile_is_left_alone(
    runtime, gallery, tmp_path, monkeypatch
):
    uploads = [_written(tmp_path / "imports" / name / "archive") for name in ("cut-off", "kept")]
    runtime.record.unneeded_files.add(["imports/cut-off", "imports/kept"])
    remove = shutil.rmtree

    def slow_removal(folder):
        # Removing one takes long enough for the other to become a job.
        runtime.record.jobs.create(new_job("kept", gallery))
        remove(folder)

    monkeypatch.setattr(shutil, "rmtree", slow_removal)
    await remove_unneeded_files(runtime)
    assert [upload.exists() for upload in uploads] == [False, True]
    assert runtime.record.unneeded_files.all() == []
