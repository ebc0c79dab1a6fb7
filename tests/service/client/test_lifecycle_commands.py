"""`gmn enroll` of an archive, `forget` and `reindex`, against a real service process."""

import asyncio
import os
import pty
import zipfile

import pytest

from gmn_client import AsyncClient, Client, Image, InvalidInput
from tests.service.client.conftest import run_gmn
from tests.service.conftest import serving


def test_what_is_no_archive_is_named_before_it_is_sent(gmn, folder):
    refused = gmn("enroll", folder / "notes.txt", status=2)
    assert "notes.txt" in refused
    assert len(refused.strip().splitlines()) == 1


def test_forgetting_names_each_export_that_still_holds_the_person(gmn, client, drawn_crops):
    client.enroll([Image(crop.png, "x.png", crop.identity) for crop in drawn_crops])
    theirs = sum(crop.identity == "0000" for crop in drawn_crops)
    export_id = client.make_export().export_id
    forgotten = gmn("forget", "0000", "--yes")
    assert f"removed: {theirs}\n" in forgotten
    assert f"export {export_id}" in forgotten
    assert "audit log" in forgotten
    again = gmn("forget", "0000", "--yes", status=2)
    assert "'0000'" in again
    assert len(again.strip().splitlines()) == 1


def _download_twice(url, gallery, export_id, file):
    """Download to one file twice at once: one of them writes it, and is not disturbed."""

    async def download():
        async with AsyncClient(url, gallery=gallery) as client:
            both = (client.download_export(export_id, file) for _ in range(2))
            return await asyncio.gather(*both, return_exceptions=True)

    written, refused = sorted(asyncio.run(download()), key=lambda outcome: outcome is not None)
    assert written is None
    assert isinstance(refused, InvalidInput)
    assert zipfile.is_zipfile(file)
    assert [path.name for path in file.parent.glob(f"{file.name}*")] == [file.name]


def test_an_export_is_enrolled_into_a_new_gallery_without_who_was_forgotten(
    gmn, client, drawn_crops, tmp_path, gallery
):
    client.enroll([Image(crop.png, "x.png", crop.identity) for crop in drawn_crops])
    theirs = sum(crop.identity == "0000" for crop in drawn_crops)
    file = tmp_path / "export.zip"
    client.download_export(client.make_export().export_id, file)
    with pytest.raises(InvalidInput, match="exists already"):
        client.download_export(next(client.exports()).export_id, file)
    _download_twice(client.url, gallery, next(client.exports()).export_id, tmp_path / "twice.zip")
    client.forget("0000")
    copy = f"copy.{gallery[-50:]}"
    said = gmn("enroll", file, "--create", gallery=copy)
    assert f"{len(drawn_crops) - theirs} enrolled in gallery {copy}" in said
    assert f"{theirs} left out: they were deleted from the service before" in said
    summary = gmn("enroll", file, "--accept-undeleted", "--json", gallery=copy)
    assert (summary["enrolled"], summary["deleted"]) == (0, theirs)


def test_a_kept_search_has_its_picture_and_goes_with_the_person(gmn, client, drawn_crops, tmp_path):
    (tmp_path / "ann.png").write_bytes(drawn_crops[0].png)
    client.enroll([Image(crop.png, identity=crop.identity) for crop in drawn_crops[:8]])
    kept = gmn("query", tmp_path / "ann.png", "--keep")
    (query_id,) = [search.query_id for search in client.kept_searches()]
    assert f"kept as search {query_id}" in kept
    assert client.kept_image(query_id) == drawn_crops[0].png
    crop_id = client.kept_search(query_id).answer.results[0].crop_id
    client.review(query_id, crop_id, decision="confirmed", identity="Ann", enroll=True)
    assert "kept_searches: 1\n" in gmn("forget", "Ann", "--yes")
    assert list(client.kept_searches()) == []


def test_forgetting_without_a_terminal_needs_yes_and_removes_nothing_else(gmn, client, drawn_crops):
    client.enroll([Image(crop.png, "x.png", crop.identity) for crop in drawn_crops])
    assert "--yes" in gmn("forget", "0000", status=2)
    assert client.gallery().crops == len(drawn_crops)


@pytest.mark.parametrize(("answer", "status", "left"), [("n", 1, 24), ("y", 0, 20)])
def test_forgetting_on_a_terminal_asks_first(
    client, answer, status, left, service_url, gallery, drawn_crops
):
    client.enroll([Image(crop.png, "x.png", crop.identity) for crop in drawn_crops])
    keyboard, terminal = pty.openpty()
    os.write(keyboard, f"{answer}\n".encode())
    finished = run_gmn(service_url, gallery, "forget", "0000", stdin=terminal)
    os.close(keyboard)
    os.close(terminal)
    assert finished.returncode == status, finished.stderr
    assert "Remove 0000 from gallery" in finished.stderr
    assert client.gallery().crops == left


@pytest.mark.slow
def test_a_gallery_is_reindexed_under_another_model_and_only_there(
    tiny_artefact, other_artefact, tmp_path, drawn_crops
):
    with serving(tiny_artefact, tmp_path / "data") as url:
        with Client(url) as client:
            client.enroll([Image(crop.png, "x.png") for crop in drawn_crops[:3]])
        needless = run_gmn(url, "default", "reindex", "--wait")
        assert needless.returncode == 2
        assert "default" in needless.stderr
        assert len(needless.stderr.strip().splitlines()) == 1
    other = serving(other_artefact, tmp_path / "data", accept_unserved=True)
    with other as url, Client(url) as client:
        assert client.gallery().state == "needs_reindex"
        finished = run_gmn(url, "default", "reindex", "--wait")
        assert finished.returncode == 0, finished.stderr
        assert "3 of 3 crops" in finished.stdout
        assert client.gallery().state == "ready"
