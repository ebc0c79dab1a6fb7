"""`gmn gallery`, `identities`, `crops` and `rename`, against a real service process."""

import io
import json
from datetime import datetime

import PIL.Image

from gmn_client import Image
from tests import forked


def test_identities_and_crops_are_listed(gmn, filled):
    assert [result["identity"] for result in gmn("identities", "--json")["results"]] == ["7", "10"]
    assert [result["identity"] for result in gmn("identities", "1", "--json")["results"]] == ["10"]
    shown = gmn("crops", "--unnamed", "--json")["results"]
    assert [(crop["identity"], crop["camera"]) for crop in shown] == [(None, "east")]
    assert len(gmn("crops", "--order=-captured", "--limit", "2", "--json")["results"]) == 2
    assert shown[0]["crop_id"] in gmn("crops", "--camera", "east")


def test_times_are_shown_in_utc_without_their_zone(gmn, filled, drawn_crops):
    moment = datetime.fromisoformat("2026-03-01T10:30:12+01:00")
    filled.enroll([Image(drawn_crops[3].png, identity="Ann", captured_at=moment)])
    seen_or_enrolled = "last seen or enrolled (UTC)"
    for asked, title in (("crops", "captured (UTC)"), ("identities", seen_or_enrolled)):
        shown = gmn(asked)
        assert title in shown
        assert " 2026-03-01 09:30 " in shown


def test_the_boxes_of_a_frame_are_enrolled_and_searched_by(gmn, filled, tmp_path, drawn_crops):
    frame = PIL.Image.new("RGB", (200, 160))
    for place, crop in enumerate(drawn_crops[4:6]):
        picture = PIL.Image.open(io.BytesIO(crop.png)).convert("RGB").resize((64, 128))
        frame.paste(picture, (100 * place, 10))
    frame.save(tmp_path / "frame.png")
    path = str(tmp_path / "frame.png")
    boxes = ("--box", "0,10,64,128", "--box", "100,10,64,128")
    done = gmn("enroll", path, *boxes, "--box", "190,10,64,128", "--json", status=1)
    assert (done["enrolled"], [problem["name"] for problem in done["problems"]]) == (2, ["box 3"])
    assert gmn("query", path, *boxes[:2], "--json")["results"][0]["cosine"] > 0.999
    for asked in (("query", path, "--box", "1,2"), ("enroll", str(tmp_path), *boxes)):
        assert "--box" in gmn(*asked, status=2)


def test_an_identity_is_renamed_and_a_merge_undone(gmn, filled):
    assert "merged: false" in gmn("rename", "7", "8")
    merge_id = gmn("rename", "8", "10", "--json")["merge_id"]
    assert filled.identity("10").crops == 2
    assert "identity: 8" in gmn("api", "undo_merge", merge_id)
    assert filled.identity("10").crops == 1
    assert "new_identity" in gmn("rename", "8", status=2)


def test_a_gallery_is_created_set_up_shown_and_deleted(service_url, gallery):
    name = f"{gallery}-made"
    run = lambda *more: forked.run_gmn("gallery", *more, "--url", service_url)  # noqa: E731
    assert "90 (captured)" in run("create", name, "--retention-days", "90").stdout
    assert "there is a gallery" in run("create", name).stderr
    settings = ("--retention-days", "0", "--calibration", "off", "--json")
    shown = json.loads(run("set", name, *settings).stdout)
    assert (shown["retention_days"], shown["calibration"]["state"]) == (None, "off")
    assert "24 hours (captured)" in run("set", name, "--retention-hours", "24").stdout
    assert name in run("show", name).stdout
    assert name in run("list").stdout
    unasked = run("delete", name)
    assert unasked.returncode == 2
    assert "add --yes" in unasked.stderr
    assert f"Delete gallery {name}" in unasked.stderr
    assert run("delete", name, "--yes").stdout == "removed: 0\n"
    for asked in (("set", "--retention-days", "7"), ("set", "", "--retention-days", "7")):
        unnamed = run(*asked)
        assert unnamed.returncode == 2
        assert "NAME" in unnamed.stderr.upper()
    assert run("show", name).returncode == 2
    shown = forked.run_gmn("gallery", "set", "--help", env={"COLUMNS": "200"}).stdout
    assert "older crops are deleted; 0 keeps all" in shown
