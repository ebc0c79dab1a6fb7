"""`gmn index`: a service rebuilds a collection, and rows that differ are found."""

import json

import pytest
from typer.testing import CliRunner

from gmn import make_app
from service.milvus import command as index
from tests.service.milvus.fake_server import FakeServer
from tests.service.milvus.lab import drawn, lab
from tests.waiting import eventually


@pytest.fixture
def run(one, milvus, monkeypatch, tmp_path):
    pytest.importorskip("pymilvus", reason="the command imports it: pip install -e .[milvus]")
    if isinstance(milvus, FakeServer):
        monkeypatch.setenv("GMN_INDEX_URL", "http://milvus:19530")
        monkeypatch.setattr("service.milvus.server.MilvusServer", lambda _: milvus.connect())
    else:
        monkeypatch.setenv("GMN_INDEX_URL", milvus.url)

    def run_command(*arguments):
        ran = CliRunner().invoke(make_app(), ["index", *arguments, "--data-dir", str(tmp_path)])
        return ran.exit_code, ran.stdout

    return run_command


def test_rows_that_differ_are_found_and_a_rebuild_mends_them(one, run):
    gallery, rows = one.indexed(*range(20))
    assert run("verify") == (0, "default: as in the record\n")
    before = one.state(gallery)
    one.server.delete(before.collection, rows[:3])
    status, printed = run("verify", "default", "--json")
    assert (status, json.loads(printed)["differing_rows"]) == (1, {"default": rows[:3]})
    assert run("rebuild", "default")[0] == 0
    assert one.state(gallery).collection != before.collection
    assert run("verify")[0] == 0


def test_without_a_service_a_rebuild_is_asked_for_and_says_who_does_it(one, run, monkeypatch):
    monkeypatch.setattr(index, "CAUGHT_UP_SECONDS", 0.0)
    gallery, rows = one.indexed(1)
    before = one.state(gallery).collection
    one.indexer.close()
    assert run("rebuild", "default")[0] == 1
    with lab(one.folder, one.milvus) as other:
        eventually(lambda: not other.state(gallery).unfinished)
        assert other.state(gallery).collection != before
        assert other.found(gallery, drawn(1)) == rows


def test_an_unknown_gallery_and_missing_settings_are_refused(run, monkeypatch):
    assert run("rebuild", "nowhere")[0] != 0
    monkeypatch.delenv("GMN_INDEX_URL")
    assert run("verify")[0] != 0
