"""Collections that fail, lack rows, are in another format or belong to no gallery."""

import logging
import threading
import time

import pytest

from service.errors import CollectionUnavailable, IndexUnavailable
from service.milvus import indexer
from service.record.galleries import read_index_owners
from service.record.transaction import Reader
from service.store.backup import restore_backup, write_backup
from tests.service.milvus.fake_server import FakeServer
from tests.service.milvus.lab import drawn, drawn_crop, lab
from tests.waiting import eventually


@pytest.fixture
def milvus():
    return FakeServer()


def test_a_gallery_whose_writes_fail_stops_no_other_and_is_caught_up_later(one, monkeypatch):
    monkeypatch.setattr(indexer, "PAUSE_SECONDS", 0.1)
    failing, rows = one.indexed(1, name="failing")
    other, _ = one.indexed(1, name="other")
    collection = one.state(failing).collection
    upsert = one.server.upsert

    def refuse(to, rows):
        if to == collection:
            raise IndexUnavailable("it refuses to write")
        upsert(to, rows)

    one.server.upsert = refuse
    added = one.enroll(failing, drawn_crop(2))
    for number in range(2, 5):
        assert one.indexed(number, name="other")[1] == one.found(other, drawn(number), 1)
    assert one.found(failing, drawn(1)) == rows
    assert one.indexer.why_down == "it refuses to write"
    one.server.upsert = upsert
    one.caught_up(failing)
    assert sorted(one.found(failing, drawn(1))) == rows + added
    eventually(lambda: not one.indexer.why_down)


def test_an_error_of_the_record_is_logged_once_and_survived(one, caplog):
    gallery, rows = one.indexed(1)
    database = one.record.database
    data_version = database.data_version

    def fail_once():
        database.data_version = data_version
        raise OSError("it cannot be read")

    database.data_version = fail_once
    eventually(lambda: "it cannot be read" in caplog.text)
    rows += one.indexed(2)[1]
    assert sorted(one.found(gallery, drawn(1))) == rows
    assert caplog.text.count("the update of collections in Milvus failed") == 1


def test_rows_that_milvus_has_lost_are_counted_refused_and_written_anew(one, monkeypatch):
    monkeypatch.setattr(indexer, "COUNT_SECONDS", 0.1)
    gallery, rows = one.indexed(*range(20), name="counted")
    differing = one.writer.differing
    goes_on = threading.Event()
    object.__setattr__(one.writer, "differing", lambda *args: goes_on.wait(20) and differing(*args))
    one.server.delete(one.state(gallery).collection, rows[3:7])
    eventually(lambda: one.state(gallery).lacks_rows)
    # Also a search that would find enough.
    with pytest.raises(CollectionUnavailable, match="has lost crops"):
        one.index(gallery).search(drawn(1)[None], [None], 2)
    goes_on.set()
    eventually(lambda: not one.state(gallery).lacks_rows)
    one.assert_same(gallery, drawn(1)[None], [100])


def test_a_collection_in_another_format_is_not_searched_but_built_anew(one, monkeypatch):
    gallery, _ = one.indexed(1, 2)
    before = one.state(gallery).collection
    one.indexer.close()
    for module in ("rows", "writing"):
        monkeypatch.setattr(f"service.milvus.{module}.FORMAT", "_f2")
    with pytest.raises(CollectionUnavailable, match="being rebuilt"):
        one.index(gallery).search(drawn(1)[None], [None], 2)
    with lab(one.folder, one.milvus) as other:
        eventually(lambda: other.state(gallery).collection.endswith("_f2"))
        other.assert_same(gallery, drawn(1)[None], [2])
        eventually(lambda: before not in other.server.collections())


def test_a_collection_of_no_gallery_is_named_and_dropped_and_another_record_s_stays(one, caplog):
    caplog.set_level(logging.INFO)
    gallery, _ = one.indexed(1)
    unknown = one.codes.collection("", gallery.gallery_id, 1000)
    for collection in ("gmn_1234_1_1_f1", unknown):
        one.server.create(collection)
    eventually(lambda: unknown not in one.server.collections())
    assert f"collection {unknown} belongs to no gallery" in caplog.text
    assert {*one.server.collections()} == {"gmn_1234_1_1_f1", one.state(gallery).collection}


def restore(backup, into, current):
    into.mkdir()
    restore_backup(backup, into, current)
    return into


def test_services_restored_from_one_backup_share_a_server_and_no_collection(one, tmp_path):
    gallery, rows = one.indexed(1)
    backup = write_backup(one.record.database, tmp_path / "backups").path
    places = [restore(backup, tmp_path / name, tmp_path / "lost") for name in ("left", "right")]
    with lab(places[0], one.milvus) as left, lab(places[1], one.milvus) as right:
        found = {}
        for number, service in enumerate((left, right), 2):
            _, added = service.indexed(number)
            found[service] = rows + added
        time.sleep(indexer.DROP_AFTER_SECONDS + 1.0)
        _, added = one.indexed(4)
        found[one] = rows + added
        for service, expected in found.items():
            assert service.found(gallery, drawn(1)) == expected
            assert service.is_whole(gallery)
        assert len({service.state(gallery).collection for service in found}) == 3


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_restored_service_drops_the_collections_of_the_one_it_replaces_once(
    one, tmp_path, is_lost
):
    gallery, rows = one.indexed(1)
    before = one.state(gallery).collection
    backup = write_backup(one.record.database, tmp_path / "backups").path
    one.close()
    new = tmp_path / "new"
    with lab(restore(backup, new, new if is_lost else one.folder), one.milvus) as restored:
        eventually(lambda: before not in restored.server.collections())
        restored.caught_up(gallery)
        assert restored.found(gallery, drawn(1)) == rows
        eventually(lambda: len(read_index_owners(Reader(restored.record.database))) == 1)
        # The replaced service is started again.
        with lab(one.folder, one.milvus) as replaced:
            eventually(lambda: replaced.state(gallery).collection in one.server.collections())
            again = replaced.state(gallery).collection
            time.sleep(indexer.DROP_AFTER_SECONDS + 1.0)
            assert {again, restored.state(gallery).collection} <= {*one.server.collections()}


def test_a_gallery_without_crops_has_no_rows_to_count(one, monkeypatch):
    monkeypatch.setattr(indexer, "COUNT_SECONDS", 0.1)
    counted = []
    count = one.server.count
    one.server.count = lambda *args: counted.append(args[0]) or count(*args)
    one.gallery("empty")
    # The indexer may have met the first gallery before it was to count this often.
    one.indexed(1, name="counted")
    eventually(lambda: len(counted) > 3)
    assert "" not in counted
