"""`gmn gallery`, `identities`, `crops`, `rename` and `compare`, against a real service process."""

from __future__ import annotations

import io
import json

import PIL.Image
import pytest

from gmn_client import Client, Image
from tests import forked
from tests.service.client.conftest import run_gmn


@pytest.fixture
def filled(service_url, gallery, drawn_crops):
    with Client(service_url, gallery=gallery) as client:
        labels = (("7", "east"), ("10", "west"), (None, "east"))
        client.enroll(
            Image(crop.png, identity=identity, camera=camera)
            for crop, (identity, camera) in zip(drawn_crops, labels, strict=False)
        )
        yield client


@pytest.fixture
def gmn(service_url, gallery):
    def run(*arguments, status=0):
        ran = run_gmn(service_url, gallery, *arguments)
        assert ran.returncode == status, ran.stdout + ran.stderr
        if "--json" in arguments:
            return json.loads(ran.stdout)
        return ran.stderr if status else ran.stdout

    return run


def test_identities_and_crops_are_listed(gmn, filled, gallery):
    assert [one["identity"] for one in gmn("identities", "--json")["results"]] == ["7", "10"]
    assert [one["identity"] for one in gmn("identities", "1", "--json")["results"]] == ["10"]
    shown = gmn("crops", "--unnamed", "--json")["results"]
    assert [(one["identity"], one["camera"]) for one in shown] == [(None, "east")]
    assert len(gmn("crops", "--order=-captured", "--limit", "2", "--json")["results"]) == 2
    assert shown[0]["crop_id"] in gmn("crops", "--camera", "east")


def test_crops_without_a_name_are_grouped(gmn, filled, drawn_crops):
    picture = PIL.Image.open(io.BytesIO(drawn_crops[5].png)).convert("RGB")
    copies = []
    for shade in (0, 1):
        picture.putpixel((0, 0), (shade, shade, shade))
        copies.append(picture.copy())
    landed = filled.enroll(copies).results
    found = gmn("group", "--json")
    assert [one["crop_ids"] for one in found["results"]] == [[one.crop_id for one in landed]]
    assert found["single"] == 1
    shown = gmn("group", "--camera", "east")
    assert "1 crops are in no group" in shown


def test_an_identity_is_renamed_and_a_merge_undone(gmn, filled):
    assert "1 crops are of 8 now" in gmn("rename", "7", "8")
    merged = gmn("rename", "8", "10")
    merge_id = merged.split("--undo ")[1].split()[0]
    assert filled.identity("10").crops == 2
    assert "1 crops are of 8 now" in gmn("rename", "--undo", merge_id)
    assert filled.identity("10").crops == 1
    assert "name the identity and its new name" in gmn("rename", "8", status=2)


def test_a_gallery_is_created_set_up_shown_and_deleted(service_url, gmn, gallery):
    name = f"{gallery}-made"
    run = lambda *more: forked.run_gmn("gallery", *more, "--url", service_url)  # noqa: E731
    assert "is created" in run("create", name, "--retention-days", "90").stdout
    assert "there is a gallery" in run("create", name).stderr
    settings = ("--retention-days", "0", "--calibration", "off", "--json")
    shown = json.loads(run("set", name, *settings).stdout)
    assert (shown["retention_days"], shown["calibration"]["state"]) == (None, "off")
    assert name in run("show", name).stdout
    assert name in run("list").stdout
    unasked = run("delete", name)
    assert unasked.returncode == 2
    assert "add --yes" in unasked.stderr
    assert "is deleted with 0 crops" in run("delete", name, "--yes").stdout
    assert run("show", name).returncode == 2
    assert "name a setting" in run("set", name).stderr


def test_two_images_are_compared(gmn, tmp_path, drawn_crops):
    for name, crop in zip("ab", (drawn_crops[0], drawn_crops[0]), strict=True):
        (tmp_path / f"{name}.png").write_bytes(crop.png)
    paths = [str(tmp_path / f"{name}.png") for name in "ab"]
    assert "cosine 1.000" in gmn("compare", *paths)
    assert gmn("compare", *paths, "--json")["judged_as"] == "pair"
