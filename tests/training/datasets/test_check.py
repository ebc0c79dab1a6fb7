"""`check-data`: its findings, its page and its exit status."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.training.runs import run_here
from training.commands.data import check_data
from training.datasets.registry import KINDS


def report_on(*specs, status=0):
    ran = run_here("check-data", *specs, "--json")
    assert ran.status == status, ran.err
    return json.loads(ran.out)


def page_on(*specs, status=0):
    ran = run_here("check-data", *specs)
    assert ran.status == status, ran.err
    return ran.out


def write_manifest(file, rows):
    file.write_text("\n".join(["path,identity,camera", *rows]), encoding="utf-8")
    return f"manifest:{file}"


@pytest.fixture
def cuhk01(cuhk01_folder):
    return f"cuhk01:{cuhk01_folder}"


@pytest.fixture
def campus(cuhk01_folder):
    return cuhk01_folder / "campus"


def test_counts_of_people_are_set_beside_the_published_ones(market1501_folder):
    (report,) = report_on(f"market1501:{market1501_folder}")["datasets"]
    # Junk and distractors are images but nobody.
    assert (report["images"], report["identities"]) == (7, 3)
    assert report["one_camera_identities"] == {"count": 1, "examples": ["0007"]}
    assert report["splits"][0] == {
        "split": "train",
        "images": 3,
        "identities": 2,
        "published_images": 12_936,
        "published_identities": 751,
    }
    assert [split["published_images"] for split in report["splits"]] == [12_936, 3_368, 19_732]
    note = "split train: 3 images, 12,936 were published (-12,933): figures cannot be compared"
    assert report["notes"][0].startswith(note)
    page = page_on(f"market1501:{market1501_folder}")
    assert "7 images, 3 identities, 3 cameras" in page
    assert "Terms: " in page
    assert "12,936" in page


def test_an_unreadable_file_is_named_and_fails_the_command(cuhk01, campus):
    whole = campus / "0001001.png"
    empty = campus / "0001002.png"
    whole.write_bytes(whole.read_bytes()[:-200])
    empty.write_bytes(b"")
    (report,) = report_on(cuhk01, status=1)["datasets"]
    files = {(file["source"], file["code"]) for file in report["unreadable"]["examples"]}
    assert files == {(str(whole), "truncated"), (str(empty), "empty")}
    assert str(whole) in page_on(cuhk01, status=1)


def test_poor_crops_are_counted_by_fault_named_and_no_failure(cuhk01, campus):
    black = campus / "0002002.png"
    tiny = campus / "0002003.png"
    Image.new("RGB", (24, 48)).save(black)
    Image.open(tiny).resize((12, 30)).save(tiny)
    (report,) = report_on(cuhk01)["datasets"]
    faults = {fault["code"]: fault["files"] for fault in report["quality"]}
    for code, crop in (("dark", black), ("low_resolution", tiny)):
        assert faults[code]["count"] == 1
        assert faults[code]["examples"][0]["source"] == str(crop)
    assert report["width"] == {"smallest": 12, "median": 24, "largest": 24}
    assert report["height"] == {"smallest": 30, "median": 48, "largest": 48}
    page = page_on(cuhk01)
    assert f"{black}: nine tenths of the crop are darker than 0.00 of white" in page
    assert "Width 12 to 24 (median 24) pixels" in page


def test_every_finding_is_counted_and_a_few_of_each_kind_are_named(tmp_path):
    rows = []
    for number in range(30):
        (tmp_path / f"{number:02d}.png").write_bytes(b"no image")
        Image.new("RGB", (24, 48)).save(tmp_path / f"black{number:02d}.png")
        rows += [f"{number:02d}.png,{number},A", f"black{number:02d}.png,{number},A"]
    spec = write_manifest(tmp_path / "shop.csv", rows)
    report = report_on(spec, status=1)
    shop = report["datasets"][0]
    kinds = (shop["unreadable"], shop["quality"][0]["files"], shop["one_camera_identities"])
    assert [(kind["count"], len(kind["examples"])) for kind in kinds] == [(30, 10)] * 3
    page = page_on(spec, status=1)
    assert page.count("the bytes are not") == 10
    assert "Unreadable files: 30" in page
    assert "and 20 more; --examples 30 names them all" in page
    assert page_on(spec, "--examples", "30", status=1).count("the bytes are not") == 30


def test_every_identical_file_is_counted_and_those_of_two_people_are_marked(
    cuhk01, campus, draw_image
):
    same = [draw_image(campus / f"{name}.png", seed=4) for name in ("0010001", "0010002")]
    other = campus / "0002003.png"
    # Another file with the same pixels.
    Image.open(campus / "0001001.png").save(other, compress_level=0)
    report = report_on(cuhk01)
    assert report["crossing_duplicates"]["examples"] == [
        {
            "files": 2,
            "sources": [str(campus / "0001001.png"), str(other)],
            "people": ["cuhk01/0001", "cuhk01/0002"],
            "places": ["cuhk01"],
            "crosses": ["identity"],
        },
    ]
    (duplicate,) = report["duplicates"]["examples"]
    assert (duplicate["people"], duplicate["crosses"]) == (["cuhk01/0010"], [])
    assert report["shared"] == [{"places": ["cuhk01"], "pictures": 2, "crossing": 1}]
    assert f"cuhk01/0010: {same[0]}, {same[1]}" in page_on(cuhk01)


def test_one_image_in_two_sets_or_two_splits_is_found(cuhk01, cuhk01_folder, market1501_folder):
    query = market1501_folder / "query" / "0001_c1s1_001051_00.jpg"
    (market1501_folder / "bounding_box_test" / query.name).write_bytes(query.read_bytes())
    people = write_manifest(cuhk01_folder / "people.csv", ["campus/0001001.png,7,A"])
    specs = cuhk01, f"market1501:{market1501_folder}", people
    report = report_on(*specs)
    duplicates = report["crossing_duplicates"]["examples"]
    assert [(duplicate["people"], duplicate["crosses"]) for duplicate in duplicates] == [
        (["cuhk01/0001", "people/7"], ["data set"]),
        (["market1501/0001"], ["split"]),
    ]
    assert report["shared"] == [
        {"places": ["cuhk01", "people"], "pictures": 1, "crossing": 1},
        {"places": ["market1501/gallery", "market1501/query"], "pictures": 1, "crossing": 1},
    ]
    assert "cuhk01 and people" in page_on(*specs)


def test_people_under_one_camera_and_cameras_out_of_balance_are_noted(tmp_path, draw_image):
    rows = []
    for number in range(8):
        file = draw_image(tmp_path / f"{number}.png")
        rows.append(f"{file.name},{number // 7},{'rare' if number == 0 else 'busy'}")
    (report,) = report_on(write_manifest(tmp_path / "shop.csv", rows))["datasets"]
    assert report["images_by_camera"] == {"busy": 7, "rare": 1}
    assert report["one_camera_identities"] == {"count": 1, "examples": ["1"]}
    assert report["notes"] == [
        "1 of 2 identities seen by one camera only: their queries have no true match",
        "camera busy has 7.0 times the images of camera rare (7 and 1)",
    ]


def test_names_that_look_like_markup_are_printed_as_they_are(tmp_path):
    (tmp_path / "[bold]x.png").write_bytes(b"no image")
    spec = write_manifest(tmp_path / "[red].csv", ["[bold]x.png,1,[/bold]"])
    page = page_on(spec, status=1)
    assert "[bold]x.png: the bytes are not" in page
    assert "[/bold] 1" in page


def test_checking_data_needs_no_torch():
    modules = f"training.datasets.check, {check_data.__module__}"
    script = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_help_names_every_kind():
    shown = run_here("check-data", "--help").out
    assert all(kind in shown for kind in KINDS)


def test_what_a_set_left_out_is_counted_and_named(market1501_folder):
    folder = market1501_folder / "bounding_box_train"
    thumbnails = folder / "@eaDir" / "0002_c1s1_000451_03.jpg"
    thumbnails.mkdir(parents=True)
    (thumbnails / "SYNOPHOTO_THUMB_M.jpg").write_bytes(b"no crop")
    (market1501_folder / "query" / "Thumbs.db").write_bytes(b"no crop")
    (market1501_folder / "query" / "notes.doc").write_bytes(b"no crop")
    spec = f"market1501:{market1501_folder}"
    (report,) = report_on(spec)["datasets"]
    ignored = report["ignored"]
    reasons = {Path(line["source"]).name: line["detail"] for line in ignored["examples"]}
    # One line stands for both files named Thumbs.db, one of which the fixture has.
    assert ignored["count"] == len(reasons) + 1
    assert "for its own use" in reasons["@eaDir"]
    assert reasons["Thumbs.db"].endswith("(1 more of this kind are left out)")
    assert "no image's" in reasons["notes.doc"]
    page = page_on(spec)
    assert f"Ignored files, folders and columns: {ignored['count']}" in page
    assert "@eaDir: a storage system" in page
