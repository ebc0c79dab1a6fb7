"""A start that lacks the artefact of a gallery is refused, and changes nothing."""

import shutil

import pytest

import gmn
from model.artefact import load_artefact, resolve_artefact
from service.record.transaction import FILE
from service.required_artefacts import require_artefacts
from service.settings import read_settings
from tests.outside import problem
from tests.service.conftest import save_other_artefact
from tests.service.gallery.new_crops import (
    EMBEDDER,
    listed_ids,
    new_crop,
    new_gallery,
    open_record,
)

pytestmark = pytest.mark.promise("missing-artefact")

KILLED = ("closed", "killed", "without shared memory")


def embedder_of(artefact):
    return load_artefact(artefact).description.embedding_fingerprint


def fill(record, name, embedder, crops=1):
    gallery = new_gallery(record, name, embedder)
    if crops:
        record.crops.enroll(gallery, embedder, [new_crop(number) for number in range(crops)])
    return gallery


def make_record(folder, ended="closed", **galleries):
    """Write a record with a crop in each gallery, as a process leaves it that ended in this way."""
    written = folder.with_name("written") if ended != "closed" else folder
    written.mkdir()
    with open_record(written) as record:
        for name, embedder in galleries.items():
            fill(record, name, embedder)
        if ended != "closed":
            shutil.copytree(written, folder)
    if ended == "without shared memory":
        (folder / f"{FILE}-shm").unlink()
    return folder


def content_of(folder):
    """Return the bytes of every file, and the time of the last change of each file and folder."""
    paths = [folder, *folder.rglob("*")]
    return {
        path: (path.read_bytes() if path.is_file() else None, path.stat().st_mtime_ns)
        for path in paths
    }


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("ended", KILLED)
def test_a_start_without_the_artefact_of_a_gallery_names_it_and_changes_nothing(
    tmp_path, refused_start, ended, processes
):
    data = make_record(tmp_path / "data", ended, lobby=EMBEDDER)
    before = content_of(data)
    said = refused_start(data, processes=processes)
    assert content_of(data) == before
    assert f"embedding fingerprint {EMBEDDER} filled lobby: name its file with" in said
    assert "--accept-unserved" in said


def test_each_missing_artefact_is_named_with_its_galleries(tmp_path, refused_start):
    galleries = {f"hall-{number}": "0" * 64 for number in range(7)}
    data = make_record(tmp_path / "data", **galleries, yard=EMBEDDER)
    said = refused_start(data)
    assert "filled hall-0, hall-1, hall-2, hall-3, hall-4 and 2 more galleries" in said
    assert f"{EMBEDDER} filled yard" in said


def test_a_gallery_without_crops_needs_no_artefact(tmp_path, open_service):
    (tmp_path / "data").mkdir()
    with open_record(tmp_path / "data") as record:
        fill(record, "empty", EMBEDDER, crops=0)
        emptied = fill(record, "emptied", EMBEDDER)
        record.crops.remove(emptied, listed_ids(record, emptied))
    served = open_service(data_dir=tmp_path / "data")
    assert served.read("/readyz")["galleries"] == {"ready": 3, "needs_reindex": 0}


def test_the_artefact_of_a_gallery_that_ships_need_not_be_named(tmp_path):
    small = embedder_of(resolve_artefact("small"))
    data = make_record(tmp_path / "data", lobby=small)
    require_artefacts(read_settings(data_dir=data, artefact="bundled"))


def test_a_start_that_accepts_it_leaves_the_gallery_to_be_reindexed(
    tmp_path, open_service, drawn_crops, other_artefact
):
    served = open_service(data_dir=tmp_path / "data")
    served.fill(served.create("yard"), drawn_crops[:2])
    served.stop()
    served = open_service(data_dir=tmp_path / "data", artefact=other_artefact, accept_unserved=True)
    assert served.read("/readyz")["galleries"] == {"ready": 1, "needs_reindex": 1}
    assert problem(served.query("yard", drawn_crops[0].png)) == (409, "needs_reindex")


def test_several_former_artefacts_answer_for_their_galleries(
    tmp_path, open_service, drawn_crops, tiny_artefact, other_artefact
):
    third = tmp_path / "third.safetensors"
    save_other_artefact(third, other_artefact)
    data = tmp_path / "data"
    for gallery, artefact in (("hall", tiny_artefact), ("yard", other_artefact)):
        served = open_service(data_dir=data, artefact=artefact, accept_unserved=True)
        served.fill(served.create(gallery), drawn_crops)
        served.stop()
    served = open_service(
        data_dir=data, artefact=third, previous=f"{tiny_artefact},{other_artefact}"
    )
    assert served.read("/v1/model")["previous"] == [tiny_artefact.name, other_artefact.name]
    for gallery in ("hall", "yard"):
        assert served.read(f"/v1/galleries/{gallery}")["state"] == "previous_model"
        (best, *_) = served.search(gallery, drawn_crops[0].png)
        assert best["identity"] == drawn_crops[0].identity


@pytest.fixture
def asked(tmp_path, tiny_artefact, monkeypatch, capsys):
    """Return a function that runs `gmn serve` where it cannot listen; it returns what it says."""
    monkeypatch.setenv("GMN_DEVICE", "cpu")

    def run(*options):
        # The address is of no machine, so that a start which lacks no artefact ends as well.
        where = ("--data-dir", str(tmp_path / "data"), "--host", "192.0.2.1")
        assert gmn.run(["serve", "--artefact", str(tiny_artefact), *where, *options]) == 2
        return capsys.readouterr().err

    return run


def test_the_option_for_a_former_artefact_may_be_repeated(
    tmp_path, asked, other_artefact, monkeypatch
):
    third = tmp_path / "a, b.safetensors"
    save_other_artefact(third, other_artefact)
    embedders = {"hall": embedder_of(other_artefact), "yard": embedder_of(third)}
    make_record(tmp_path / "data", **embedders)
    assert "filled hall" in asked()
    assert "filled yard" in asked("--previous", str(other_artefact))
    assert "filled hall" in asked("--previous", str(third))
    both = ("--previous", str(other_artefact), "--previous", str(third))
    assert "192.0.2.1:8000: cannot listen" in asked(*both)
    monkeypatch.setenv("GMN_PREVIOUS", str(other_artefact))
    assert "filled yard" in asked()
    assert "cannot listen" in asked("--accept-unserved")


def test_a_former_artefact_that_is_damaged_is_named_and_nothing_changes(
    tmp_path, refused_start, other_artefact
):
    data = make_record(tmp_path / "data", lobby=embedder_of(other_artefact))
    before = content_of(data)
    damaged = tmp_path / "former.safetensors"
    content = other_artefact.read_bytes()
    for spoiled in (content[:-100], content[:-8] + bytes(8)):
        damaged.write_bytes(spoiled)
        assert f"{damaged}: " in refused_start(data, previous=damaged)
        assert content_of(data) == before


def test_a_wrong_artefact_leaves_no_new_data_directory(tmp_path, refused_start):
    refused_start(tmp_path / "data", artefact=tmp_path / "none.safetensors")
    assert not (tmp_path / "data").exists()


def test_a_start_beside_a_running_service_is_refused_too(
    tmp_path, start, drawn_crops, other_artefact, refused_start
):
    served = start(data_dir=tmp_path / "data")
    served.fill("default", drawn_crops[:2])
    assert "filled default" in refused_start(tmp_path / "data", artefact=other_artefact)
    assert served.found("default", drawn_crops[0].png)


def test_a_server_of_vectors_is_not_asked_before(tmp_path, refused_start):
    data = make_record(tmp_path / "data", lobby=EMBEDDER)
    said = refused_start(data, index_url="http://127.0.0.1:9")
    assert EMBEDDER in said
