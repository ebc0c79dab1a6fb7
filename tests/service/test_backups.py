"""Backups of a served directory: made by itself, named by a forgetting, and served again."""

import shutil
import signal
import time
from pathlib import Path

import pytest

import gmn
from service.store.backup import kept_backups
from tests.forked import GMN, run_forked, run_gmn
from tests.outside import figure
from tests.waiting import eventually

pytestmark = pytest.mark.slow


@pytest.mark.promise("2")
def test_a_service_backs_itself_up_and_a_forgotten_person_is_in_no_restore(
    open_service, tmp_path, images, capsys
):
    data = tmp_path / "data"
    folder = tmp_path / "backups"
    served = open_service(data_dir=data, backup_dir=folder)
    eventually(lambda: len(kept_backups(folder)) == 1, 60)
    assert figure(served, "gmn_backup_every_seconds") == 86400
    assert time.time() - figure(served, "gmn_backup_last_time_seconds") < 120
    # The name of a backup has its second.
    time.sleep(1.1)
    served.enroll("default", images[0], identity="Ann")
    served.enroll("default", images[4], identity="Bob")
    assert gmn.run(["backup", str(folder), "--data-dir", str(data)]) == 0
    first, second = kept_backups(folder)
    assert capsys.readouterr().out.split()[-1] == str(second)
    (folder / "gmn-backup.1f.part").mkdir()
    answer = served.http.delete("/v1/galleries/default/identities/Ann").json()
    named = {place["where"]: place["until"] for place in answer["remaining"]}
    assert "UTC if backups go on" in named[f"backup {second}"]
    assert f"backup {first}" not in named
    assert "the backup that is being written to GMN_BACKUP_DIR" in named
    assert served.stop() == 0
    new = tmp_path / "new"
    command = ["restore", str(second), "--into", str(new), "--replaces", str(data)]
    assert gmn.run(command) == 0
    assert "default: 1 crop\n" in capsys.readouterr().out
    again = open_service(data_dir=new)
    found = again.search("default", images[0])
    assert [crop["identity"] for crop in found] == ["Bob"]


def filled(start, data, crops):
    """Fill a data directory with a crop of Ann, by a service that has stopped."""
    served = start(data_dir=data)
    served.enrolled("default", crops[0].png, identity="Ann")
    assert served.stop() == 0
    return data


def back_up(data, folder, *options):
    ran = run_gmn("backup", str(folder), *options, "--data-dir", str(data))
    assert ran.returncode == 0, ran.stderr
    return Path(ran.stdout.split()[-1])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.promise("old-backups")
def test_old_backups_of_another_record_and_those_from_the_future_are_left_alone(
    start, tmp_path, drawn_crops
):
    folder = tmp_path / "backups"
    own = filled(start, tmp_path / "own", drawn_crops)
    other = filled(start, tmp_path / "other", drawn_crops)
    of_another = back_up(other, folder).rename(folder / "20260101T000000Z")
    old = back_up(own, folder).rename(folder / "20260102T000000Z")
    from_the_future = shutil.copytree(old, folder / "29990101T000000Z")
    written = back_up(own, folder, "--keep", "1")
    assert names(folder) == [of_another.name, written.name, from_the_future.name]


def test_what_other_programs_have_not_finished_beside_backups_is_left_alone(
    start, tmp_path, drawn_crops
):
    folder = tmp_path / "backups"
    others = {folder / "disk.part" / "image", folder / "film.mkv.part"}
    cut_off = folder / "gmn-backup.1f.part" / "record.sqlite3"
    for path in (*others, cut_off):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    written = back_up(filled(start, tmp_path / "data", drawn_crops), folder)
    assert names(folder) == sorted([written.name, "disk.part", "film.mkv.part"])
    assert all(path.exists() for path in others)


@pytest.mark.promise("old-backups")
def test_a_service_takes_no_other_backup_for_its_own_and_none_from_the_future(
    start, tmp_path, drawn_crops
):
    folder = tmp_path / "backups"
    other = filled(start, tmp_path / "other", drawn_crops)
    own = filled(start, tmp_path / "own", drawn_crops)
    others = {back_up(other, folder).name}
    others.add(back_up(own, folder).rename(folder / "29990101T000000Z").name)
    again = start(data_dir=own, backup_dir=folder)
    eventually(lambda: figure(again, "gmn_backup_last_time_seconds") > 0, 60)
    (made,) = set(names(folder)) - others
    assert len(made) == len("29990101T000000Z")
    assert abs(time.time() - figure(again, "gmn_backup_last_time_seconds")) < 120
    assert again.stop() == 0


@pytest.mark.promise("backup-moment")
@pytest.mark.parametrize("step", ["os.fchmod", "os.rename"])
def test_a_restore_that_was_cut_off_is_refused_at_the_start(
    start, refused_start, tmp_path, drawn_crops, step
):
    data = filled(start, tmp_path / "data", drawn_crops)
    backup = str(back_up(data, tmp_path / "backups"))
    new = tmp_path / "new"
    killed_at_the_step = (
        f"import os, shutil, signal; {step} = lambda *_, **__: os.kill(os.getpid(), 9)\n{GMN}"
    )
    restore = ("restore", backup, "--into", str(new), "--replaces", str(data))
    assert run_forked(killed_at_the_step, *restore).returncode == -signal.SIGKILL
    refused = f"{new}: a restore into it was cut off (new.part)"
    assert refused in refused_start(new)
    shutil.rmtree(new)
    assert run_gmn(*restore).returncode == 0
    (crop,) = start(data_dir=new).results("/v1/galleries/default/crops")
    assert crop["identity"] == "Ann"


def test_of_two_services_on_one_directory_one_makes_the_backup(start, tmp_path):
    folder = tmp_path / "backups"
    place = {"data_dir": tmp_path / "data", "backup_dir": folder}
    services = [start(**place), start(**place)]
    for served in services:
        eventually(lambda served=served: figure(served, "gmn_backup_last_time_seconds") > 0, 60)
    for served in services:
        assert served.stop() == 0
        assert "no backup was made" not in served.log.read_text()
    assert len(kept_backups(folder)) == 1
