"""Files of the data directory that no record names: those of unknown origin are never deleted."""

import contextlib
import shutil
from types import SimpleNamespace

import pytest

from gmn_client.models import Export
from service.gallery.files import clear_files, remove_unneeded_files
from service.opening import open_folder
from service.ops.critical_sections import CriticalSections
from service.ops.data_directory import hold
from service.ops.threads import BlockingPools
from service.record.values import GallerySettings
from service.store.exports import clear_exports
from tests.service.gallery.new_crops import EMBEDDER, NOON
from tests.service.gallery.new_jobs import new_job

LISTED = Export(
    export_id="kept",
    version=1,
    embedding_fingerprint=EMBEDDER,
    crops=1,
    pictures=0,
    bytes=4096,
    created_at=NOON,
    expires_at=NOON,
).model_dump_json()


@pytest.fixture
def runtime(tmp_path):
    """Return a record and its data directory, as far as files without a record need them."""
    pools = BlockingPools()
    with contextlib.closing(open_folder(tmp_path)) as record:
        yield SimpleNamespace(
            pools=pools,
            record=record,
            settings=SimpleNamespace(data_dir=tmp_path),
            sections=CriticalSections(),
        )
    pools.shutdown()


def _clear_files(runtime):
    return clear_files(runtime.record, runtime.settings.data_dir, runtime.pools.files)


def _remove_unneeded_files(runtime):
    return remove_unneeded_files(runtime.record, runtime.settings.data_dir, runtime.pools.files)


@pytest.fixture
def gallery(runtime):
    return runtime.record.galleries.create("lobby", EMBEDDER, GallerySettings()).gallery_id


def _written(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())
    return path


async def test_a_start_moves_aside_what_no_record_names(runtime, gallery, tmp_path, caplog):
    upload = _written(tmp_path / "imports" / "anothers" / "archive")
    runtime.record.jobs.create(new_job("waiting", gallery))
    waiting = _written(tmp_path / "imports" / "waiting" / "archive")
    for _ in range(2):
        await _clear_files(runtime)
        assert waiting.exists()
        assert not upload.exists()
        stray = tmp_path / "imports" / "stray" / "anothers" / "archive"
        assert stray.read_bytes() == b"archive"
    assert "anothers is in no record; moved to" in caplog.text


async def test_a_start_removes_exports_that_were_cut_off_and_moves_unknown_files_aside(
    runtime, gallery, tmp_path, caplog
):
    kept = _written(tmp_path / "exports" / str(gallery) / "kept" / "export.zip")
    (kept.parent / "listed.json").write_text(LISTED)
    part = _written(tmp_path / "exports" / str(gallery) / "cut.1f.part" / "export.zip")
    damaged = _written(tmp_path / "exports" / str(gallery) / "damaged" / "export.zip")
    (damaged.parent / "listed.json").write_text(LISTED[:20])
    foreign = _written(tmp_path / "exports" / "notes" / "a.txt")
    for _ in range(2):
        await clear_exports(runtime)
        assert kept.exists()
        assert not any(file.exists() for file in (part, damaged, foreign))
        strays = tmp_path / "exports" / "stray"
        assert (strays / f"{gallery}-damaged" / "export.zip").exists()
        assert (strays / "notes" / "a.txt").exists()
    assert "damaged is in no record; moved to" in caplog.text


async def test_the_files_of_what_was_deleted_are_removed_by_maintenance_however_that_ended(
    runtime, gallery, tmp_path
):
    other = runtime.record.galleries.create("yard", EMBEDDER, GallerySettings()).gallery_id
    export = _written(tmp_path / "exports" / str(other) / "one" / "export.zip")
    kept = _written(tmp_path / "exports" / str(gallery) / "two" / "export.zip")
    runtime.record.jobs.create(new_job("waiting", other))
    upload = _written(tmp_path / "imports" / "waiting" / "archive")
    # The process is killed after the commit, before it removes a file.
    runtime.record.galleries.delete(other)
    await _remove_unneeded_files(runtime)
    assert not any(file.exists() for file in (export, upload))
    assert kept.exists()
    assert runtime.record.unneeded_files.all() == []


async def test_an_upload_under_way_is_left_alone_and_one_that_was_cut_off_is_removed(
    runtime, tmp_path
):
    upload = _written(tmp_path / "imports" / "one" / "archive")
    runtime.record.unneeded_files.add(["imports/one"])
    with hold(upload.parent):
        await _clear_files(runtime)
        assert upload.exists()
    await _clear_files(runtime)
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
    await _remove_unneeded_files(runtime)
    assert [upload.exists() for upload in uploads] == [False, True]
    assert runtime.record.unneeded_files.all() == []
