"""Backups of a served directory: made by itself, named by a forgetting, and served again."""

from __future__ import annotations

import shutil
import time

import pytest

import gmn
from service.ops.data_directory import DATABASE_NAME
from service.record.backup import kept_backups
from service.record.record import open_sqlite
from tests.service.test_metrics import figure
from tests.waiting import eventually


@pytest.mark.slow
def test_a_service_backs_itself_up_and_a_forgotten_person_is_in_no_restore(
    start, tmp_path, drawn_crops, capsys
):
    data = tmp_path / "data"
    folder = tmp_path / "backups"
    served = start(data_dir=data, backup_dir=folder)
    eventually(lambda: len(kept_backups(folder)) == 1, 60)
    assert figure(served, "gmn_backup_every_seconds") == 86400
    assert time.time() - figure(served, "gmn_backup_last_time_seconds") < 120
    # The name of a backup has its second.
    time.sleep(1.1)
    served.enroll("default", drawn_crops[0].png, identity="Ann")
    served.enroll("default", drawn_crops[4].png, identity="Bob")
    assert gmn.run(["backup", str(folder), "--data-dir", str(data)]) == 0
    first, second = kept_backups(folder)
    assert capsys.readouterr().out.split()[-1] == str(second.path)
    answer = served.http.delete("/v1/galleries/default/identities/Ann").json()
    named = {one["where"]: one["until"] for one in answer["remaining"]}
    assert "UTC if backups go on" in named[f"backup {second.path}"]
    assert f"backup {first.path}" not in named
    served.http.post("/v1/galleries/default/queries")
    assert served.stop() == 0
    new = tmp_path / "new"
    command = ["restore", str(second.path), "--data-dir", str(new), "--replaces", str(data)]
    assert gmn.run(command) == 0
    assert "default: 1 crops, 1 left out as deleted since" in capsys.readouterr().out
    again = start(data_dir=new)
    found = again.query("default", drawn_crops[0].png).json()["results"]
    assert [one["identity"] for one in found] == ["Bob"]


@pytest.mark.slow
def test_of_two_processes_on_redis_one_makes_a_backup_that_an_empty_redis_takes(
    start, tmp_path, drawn_crops, redis_record, monkeypatch, capsys
):
    data = tmp_path / "data"
    folder = tmp_path / "backups"
    new = tmp_path / "new"
    place = {"redis_url": redis_record.url, "data_dir": data, "images_url": (data / "i").as_uri()}
    replicas = [start(backup_dir=folder, replica_name=name, **place) for name in ("one", "other")]
    eventually(lambda: kept_backups(folder), 60)
    for served in replicas:
        assert time.time() - figure(served, "gmn_backup_last_time_seconds") < 120
    replicas[0].enroll("default", drawn_crops[0].png, identity="Ann")
    replicas[1].enroll("default", drawn_crops[4].png, identity="Bob")
    monkeypatch.setenv("GMN_REDIS_URL", place["redis_url"])
    monkeypatch.setenv("GMN_IMAGES_URL", place["images_url"])
    command = ["backup", str(folder), "--data-dir", str(data)]
    assert gmn.run(command) == 0
    # The other process makes none beside that of the first one.
    first, second = kept_backups(folder)
    answer = replicas[1].http.delete("/v1/galleries/default/identities/Ann").json()
    named = [one["where"] for one in answer["remaining"]]
    assert f"backup {second.path}" in named
    assert f"backup {first.path}" not in named
    for served in replicas:
        assert served.stop() == 0
        assert "no backup was made" not in served.log.read_text()
    assert gmn.run(command) == 0
    redis_record.ask("FLUSHALL")
    monkeypatch.setenv("GMN_IMAGES_URL", (new / "i").as_uri())
    # A file in the data directory of before is of another record.
    shutil.rmtree(data)
    data.mkdir()
    open_sqlite(data / DATABASE_NAME).close()
    command = ["restore", str(second.path), "--data-dir", str(new), "--replaces", str(data)]
    assert gmn.run(command) == 0
    assert "default: 1 crops, 1 left out as deleted since" in capsys.readouterr().out
    again = start(**place | {"data_dir": new, "images_url": (new / "i").as_uri()})
    (found,) = again.query("default", drawn_crops[0].png).json()["results"]
    assert found["identity"] == "Bob"
    assert again.http.get(found["image_url"]).content == drawn_crops[4].png
