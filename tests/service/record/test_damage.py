"""Damage costs the crop: it is named and left out, and the rest is served as before."""

import contextlib
import random
import shutil
import sqlite3
from collections import Counter

import numpy as np
import pytest

import gmn
from model.problems import InputProblem
from service.errors import DamagedRecord, ServiceStopping
from service.opening import open_folder
from service.record.crop_rows import read_columns
from service.record.keys import ApiKey
from service.record.transaction import Reader
from service.record.values import GallerySettings, ListFilter
from service.store.verify import inspect, verify
from tests.service.gallery.new_crops import (
    EMBEDDER,
    NOON,
    OTHER_EMBEDDER,
    desk_of,
    enroll,
    forget,
    listed,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)
from tests.service.record.filled import flip
from tests.service.record.new_searches import WEEK, new_search

pytestmark = [pytest.mark.promise("damage"), pytest.mark.sqlite_alone]

LOBBY = 20
YARD = 5


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with open_record(folder) as record:
        settings = GallerySettings(retention_days=30)
        lobby = record.galleries.create("lobby", EMBEDDER, settings).gallery_id
        yard = new_gallery(record, "yard")
        crops = (new_crop(n, f"person {n % 3}") for n in range(LOBBY + 1))
        first, *_ = enroll(record, lobby, *crops)
        enroll(record, yard, *(new_crop(100 + n) for n in range(YARD)))
        record.crops.remove(lobby, [first])
        record.keys.add(ApiKey("door", "0" * 64, ("query",), None, "", NOON))
        desk_of(record).kept.keep(lobby, [new_search(picture=b"picture")], 10)
    return folder


@pytest.fixture
def data_dir(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "data")


def everything(folder):
    """Read every crop by gallery, with its vector and picture, but for slots; and the keys."""
    found = {}
    with open_record(folder) as record:
        for gallery in record.galleries.all():
            number = gallery.gallery_id
            vectors = {
                vector.record.crop_id: vector.vector.tolist()
                for vector in record.crops.vectors(number)
            }
            found[gallery.name] = {
                crop.crop_id: (
                    (crop.identity, crop.metadata, crop.created_at),
                    vectors[crop.crop_id],
                    record.crops.picture(number, crop.crop_id),
                )
                for crop in listed(record, number)
            }
        found["keys"] = record.keys.all()
        found["searches"] = desk_of(record).kept.page(1, WEEK, None, 9)
    return found


def test_a_whole_record_is_said_to_be_whole(data_dir):
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    found = verify(data_dir)
    assert found.damage == []
    counts = {gallery.name: gallery.whole for gallery in found.galleries.values()}
    assert counts == {"lobby": LOBBY, "yard": YARD}
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("wanted", "file"),
    [
        # The text is no JSON any more.
        (b'r":7}', "record.sqlite3"),
        (b"image 7", "record.sqlite3"),
        (new_crop(7).vector.tobytes(), "vectors-1-0.f32"),
    ],
    ids=["row", "picture", "vector"],
)
def test_a_damaged_crop_is_named_and_left_out_and_can_be_deleted(data_dir, wanted, file):
    expected = everything(data_dir)
    flip(data_dir / file, wanted)
    lobby, yard = verify(data_dir).galleries.values()
    assert (lobby.whole, yard.whole) == (LOBBY - 1, YARD)
    (named,) = lobby.damaged_crops.values()
    with open_record(data_dir) as record:
        record.check()
        if file == "record.sqlite3" and wanted == b"image 7":
            crop_id = named.split()[4]
            with pytest.raises(DamagedRecord, match=f"the picture of crop {crop_id} is missing"):
                record.crops.picture(1, crop_id)
        ((crop_id,),) = record.damaged_crops().values()
        assert crop_id in named
        left = listed_ids(record, 1)
        assert crop_id not in left
        assert len(left) == LOBBY - 1
        record.crops.remove(1, [crop_id])
        assert record.damaged_crops() == {}
    del expected["lobby"][crop_id]
    assert everything(data_dir) == expected
    assert verify(data_dir).damage == []


def test_a_listing_goes_on_behind_damaged_crops(data_dir):
    for number in (3, 4, 9):
        flip(data_dir / "record.sqlite3", b'r":%d}' % number)
    with open_record(data_dir) as record:
        pages = []
        cursor = ""
        while cursor is not None:
            page = record.crops.page(1, ListFilter(), cursor, limit=2)
            pages += [crop.metadata["number"] for crop in page.crops]
            cursor = page.cursor
    assert pages == [number for number in range(1, LOBBY + 1) if number not in (3, 4, 9)]


def test_a_person_with_a_damaged_crop_is_forgotten(data_dir):
    flip(data_dir / "record.sqlite3", b'r":7}')
    with open_record(data_dir) as record:
        forget(record, 1, "person 1")
        assert record.people.counts(1, ["person 1"]) == {}
    assert b"image 7" not in (data_dir / "record.sqlite3").read_bytes()
    assert verify(data_dir).galleries[1].damage == []


def test_a_damaged_key_is_named_by_a_verification(data_dir):
    flip(data_dir / "record.sqlite3", b'["query"]')
    assert verify(data_dir).damage == ["API key door is not what was written"]


def test_crops_on_a_page_that_cannot_be_read_cost_no_others(record, gallery, tmp_path):
    crops = [new_crop(number, "p" * 40 + str(number)) for number in range(200)]
    enroll(record, gallery, *crops)
    record.close()
    path = tmp_path / "record.sqlite3"
    body = bytearray(path.read_bytes())
    page = body.index(b'{"number":120}') // 4096 * 4096
    body[page : page + 4096] = bytes(4096)
    path.write_bytes(body)
    with open_record(tmp_path) as opened:
        reader = Reader(opened.database)
        parts = list(read_columns(reader, gallery, opened.galleries.group_secret()))
        slots = [slot for part in parts for slot in part.slots.tolist()]
        damaged = {slot for _, slot in opened.database.damaged}
    assert 100 < len(slots) < 200
    assert damaged == {*range(1, 201)} - {*slots}


def test_a_check_of_the_pages_reports_damage_and_can_be_ended(data_dir):
    path = data_dir / "record.sqlite3"
    body = bytearray(path.read_bytes())
    page = body.index(b'{"number":7}') // 4096 * 4096
    # Where the contents of the page begin.
    body[page + 5 : page + 7] = b"\1\1"
    path.write_bytes(body)
    with open_record(data_dir) as record:
        connection = record.database.connection()
        connection.set_trace_callback(lambda text: "quick_check" in text and record.end_check())
        with pytest.raises(ServiceStopping):
            record.check_pages()
        connection.set_trace_callback(None)
        record.check_pages()
        assert record.database.problems


def answers(record):
    """Return the vector and the picture of each crop, and the keys; None where damage is named."""
    vectors = {}
    pictures = {}
    for gallery in record.galleries.all():
        with contextlib.suppress(DamagedRecord):
            for crop in record.crops.vectors(gallery.gallery_id):
                vectors[crop.record.crop_id] = crop.vector.tolist()
        for crop_id in vectors:
            with contextlib.suppress(DamagedRecord):
                if picture := record.crops.picture(gallery.gallery_id, crop_id):
                    pictures[crop_id] = picture.content
        list(
            read_columns(
                Reader(record.database), gallery.gallery_id, record.galleries.group_secret()
            )
        )
    with contextlib.suppress(DamagedRecord):
        return vectors, pictures, record.keys.all()
    return vectors, pictures, None


# Each of the records is opened, which syncs files: a busy disk may take minutes for all of them.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("flips", [60, pytest.param(1500, marks=pytest.mark.slow)])
def test_no_flipped_bit_changes_a_vector_or_a_picture_or_what_a_key_may_do(
    data_dir, tmp_path, flips
):
    with open_record(data_dir) as record:
        vectors, pictures, keys = answers(record)
    names = ("record.sqlite3", "vectors-1-0.f32")
    kept = shutil.copytree(data_dir, tmp_path / "kept")
    chance = random.Random(flips)
    outcomes = Counter()
    for number in range(flips):
        name = names[number % 2]
        content = bytearray((kept / name).read_bytes())
        bit = chance.randrange(len(content) * 8)
        content[bit // 8] ^= 1 << bit % 8
        for path in kept.iterdir():
            if path.is_file():
                shutil.copy(path, data_dir)
        (data_dir / name).write_bytes(content)
        try:
            with open_record(data_dir) as record:
                found, found_pictures, found_keys = answers(record)
                if len(found) < len(vectors):
                    record.check_pages()
                noted = record.database.damaged or record.database.problems
        except (DamagedRecord, InputProblem):
            outcomes["named"] += 1
            continue
        assert found.items() <= vectors.items()
        assert found_pictures.items() <= pictures.items()
        # A damaged key is left out, and opens nothing.
        assert found_keys is None or (found_keys == keys) or (found_keys == [] and noted)
        assert len(found) == len(vectors) or noted
        outcomes["whole" if len(found) == len(vectors) else "left out"] += 1
    assert outcomes["left out"] > flips / 5
    assert outcomes["named"] < flips / 10


def test_a_crop_that_is_removed_while_it_is_checked_is_no_damage(data_dir):
    with open_record(data_dir) as record, inspect(data_dir) as inspection:
        removed = listed_ids(record, 1)[3]
        record.crops.remove(1, [removed])
        whole = [
            crop.crop_id for gallery in inspection.galleries for crop in inspection.crops(gallery)
        ]
        assert removed not in whole
        assert len(whole) == LOBBY + YARD - 1
        assert inspection.found.damage == []


@pytest.mark.parametrize("left", ["nothing", "its beginning", "zeros"])
def test_a_record_that_is_gone_is_named(data_dir, capsys, left):
    path = data_dir / "record.sqlite3"
    size = path.stat().st_size
    if left == "nothing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if left == "its beginning" else bytes(size))
    with pytest.raises(DamagedRecord, match="gmn restore"):
        open_folder(data_dir)
    assert gmn.run(["store", "verify", "--data-dir", str(data_dir)]) == 1
    told = capsys.readouterr().out
    assert "the record cannot be read" in told


def test_a_record_that_is_no_database_is_named_by_a_backup(data_dir, tmp_path, capsys):
    (data_dir / "record.sqlite3").write_bytes(b"damage" * 1000)
    assert gmn.run(["backup", str(tmp_path / "backups"), "--data-dir", str(data_dir)]) == 2
    assert "gmn restore" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ("store", "verify"),
        ("store", "forget-runtime"),
        ("index", "rebuild", "lobby"),
    ],
)
def test_a_directory_without_data_is_named_and_stays_empty(tmp_path, capsys, command):
    assert gmn.run([*command, "--data-dir", str(tmp_path)]) == 2
    assert "no service has kept data there" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("settings", ["no JSON", '{"retention_days": "soon"}'])
def test_a_gallery_whose_settings_cannot_be_read_is_named(data_dir, capsys, settings):
    with contextlib.closing(sqlite3.connect(data_dir / "record.sqlite3")) as connection:
        connection.execute("UPDATE galleries SET settings = ?", (settings,))
        connection.commit()
    with open_record(data_dir) as record, pytest.raises(DamagedRecord, match="not what was writ"):
        record.galleries.all()
    assert gmn.run(["store", "verify", "--data-dir", str(data_dir)]) == 1
    assert "the record cannot be read" in capsys.readouterr().out


def test_vectors_that_go_while_a_record_is_verified_are_no_damage(record, gallery, tmp_path):
    yard = new_gallery(record, "yard")
    enroll(record, gallery, new_crop(1))
    enroll(record, yard, new_crop(2))
    record.staged.begin(gallery, OTHER_EMBEDDER)
    record.staged.add(gallery, {1: np.ones(4, np.float32)})
    with inspect(tmp_path) as inspection:
        record.staged.switch(gallery)
        record.galleries.delete(yard)
        for listed_before in inspection.galleries:
            assert list(inspection.crops(listed_before)) == []
        assert inspection.found.damage == []
