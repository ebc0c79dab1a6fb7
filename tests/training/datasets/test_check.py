"""`check-data`: what it finds, what it prints, and the status it exits with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from model.problems import InputProblem
from training.commands.data import check_data
from training.datasets.check import check_datasets
from training.datasets.registry import KINDS, read_dataset


@pytest.fixture
def command() -> typer.Typer:
    app = typer.Typer()
    app.command()(check_data)
    return app


def as_json(command: typer.Typer, *specs: str, status: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(command, [*specs, "--json"])
    assert result.exit_code == status, result.output
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_counts_are_set_beside_the_published_ones(
    command: typer.Typer, market1501_folder: Path
) -> None:
    report = as_json(command, f"market1501:{market1501_folder}")["datasets"][0]
    counts = {count["split"]: count for count in report["splits"]}
    assert (counts["train"]["images"], counts["train"]["identities"]) == (3, 2)
    assert counts["train"]["published_images"] == 12_936
    assert counts["train"]["published_identities"] == 751
    assert counts["query"]["published_images"] == 3_368
    assert counts["gallery"]["published_images"] == 19_732
    assert any("12,936 were published (-12,933)" in note for note in report["notes"])


def test_junk_and_distractors_are_images_but_nobody(
    command: typer.Typer, market1501_folder: Path
) -> None:
    report = as_json(command, f"market1501:{market1501_folder}")["datasets"][0]
    assert (report["images"], report["identities"]) == (7, 3)
    assert report["one_camera_identities"] == {"count": 1, "examples": ["0007"]}


def test_an_unreadable_file_is_named_and_fails_the_command(
    command: typer.Typer, cuhk01_folder: Path
) -> None:
    whole, empty = (cuhk01_folder / "campus" / f"000100{shot}.png" for shot in (1, 2))
    whole.write_bytes(whole.read_bytes()[:-200])
    empty.write_bytes(b"")
    report = as_json(command, f"cuhk01:{cuhk01_folder}", status=1)["datasets"][0]
    found = {(finding["source"], finding["code"]) for finding in report["unreadable"]["examples"]}
    assert found == {(str(whole), "truncated"), (str(empty), "empty")}
    result = CliRunner().invoke(command, [f"cuhk01:{cuhk01_folder}"])
    assert result.exit_code == 1
    assert str(whole) in result.stdout


def test_poor_crops_are_counted_by_fault_named_and_no_failure(
    command: typer.Typer, cuhk01_folder: Path
) -> None:
    lying, black = (cuhk01_folder / "campus" / f"000200{shot}.png" for shot in (1, 2))
    Image.open(lying).rotate(90, expand=True).resize((96, 48)).save(lying)
    Image.new("RGB", (24, 48)).save(black)
    spec = f"cuhk01:{cuhk01_folder}"
    faults = {fault["code"]: fault for fault in as_json(command, spec)["datasets"][0]["quality"]}
    for code, crop in (("not_person_shaped", lying), ("dark", black)):
        files = faults[code]["files"]
        assert (files["count"], files["examples"][0]["source"]) == (1, str(crop))
    page = CliRunner().invoke(command, [spec])
    assert page.exit_code == 0
    assert "Dark, 8.33% of the images: 1" in page.stdout
    assert f"{black}: nine tenths of the crop are darker than 0.00 of white" in page.stdout


def test_crops_too_small_to_recognise_a_person_by_are_named(
    command: typer.Typer, cuhk01_folder: Path, draw_image: Callable[..., Path]
) -> None:
    tiny = draw_image(cuhk01_folder / "campus" / "0002001.png", width=12, height=30)
    report = as_json(command, f"cuhk01:{cuhk01_folder}")["datasets"][0]
    (fault,) = report["quality"]
    assert fault["code"] == "low_resolution"
    assert [file["source"] for file in fault["files"]["examples"]] == [str(tiny)]
    width = report["width"]
    height = report["height"]
    assert (width["smallest"], width["median"], width["largest"]) == (12, 24, 24)
    assert (height["smallest"], height["median"], height["largest"]) == (30, 48, 48)


def test_every_finding_is_counted_and_a_few_of_each_kind_are_named(
    command: typer.Typer, tmp_path: Path
) -> None:
    rows = ["path,identity,camera"]
    for number in range(30):
        (tmp_path / f"{number:02d}.png").write_bytes(b"no image")
        Image.new("RGB", (24, 48)).save(tmp_path / f"black{number:02d}.png")
        rows += [f"{number:02d}.png,{number},A", f"black{number:02d}.png,{number},A"]
    (tmp_path / "shop.csv").write_text("\n".join(rows), encoding="utf-8")
    spec = str(tmp_path / "shop.csv")
    report = as_json(command, spec, status=1)
    found = report["datasets"][0]
    kinds = (found["unreadable"], found["quality"][0]["files"], found["one_camera_identities"])
    assert [(kind["count"], len(kind["examples"])) for kind in kinds] == [(30, 10)] * 3
    (picture,) = report["crossing_duplicates"]["examples"]
    assert (picture["files"], len(picture["sources"]), len(picture["people"])) == (30, 10, 10)

    page = CliRunner().invoke(command, [spec]).stdout
    assert page.count("no image") == 0
    assert page.count("the bytes are not") == 10
    assert "Unreadable files: 30" in page
    assert "and 20 more; --examples 30 names them all" in page
    assert "and 20 more files" in page
    assert (
        len(
            as_json(command, spec, "--examples", "30", status=1)["datasets"][0]["unreadable"][
                "examples"
            ]
        )
        == 30
    )


def test_people_under_one_camera_only_are_named(command: typer.Typer, cuhk01_folder: Path) -> None:
    for shot in ("003", "004"):
        (cuhk01_folder / "campus" / f"0010{shot}.png").unlink()
    report = as_json(command, f"cuhk01:{cuhk01_folder}")["datasets"][0]
    assert report["one_camera_identities"] == {"count": 1, "examples": ["0010"]}
    assert any("1 of 3 identities are under one camera only" in note for note in report["notes"])


def test_every_identical_file_is_counted_and_those_of_two_people_are_marked(
    command: typer.Typer, cuhk01_folder: Path, draw_image: Callable[..., Path]
) -> None:
    campus = cuhk01_folder / "campus"
    for name in ("0001001", "0002003", "0010001", "0010002"):
        draw_image(campus / f"{name}.png", seed=3 if name[:4] != "0010" else 4)
    spec = f"cuhk01:{cuhk01_folder}"
    report = as_json(command, spec)
    assert report["crossing_duplicates"]["examples"] == [
        {
            "files": 2,
            "sources": [str(campus / "0001001.png"), str(campus / "0002003.png")],
            "people": ["cuhk01/0001", "cuhk01/0002"],
            "places": ["cuhk01"],
            "crosses": ["identity"],
        },
    ]
    assert report["duplicates"]["examples"] == [
        {
            "files": 2,
            "sources": [str(campus / "0010001.png"), str(campus / "0010002.png")],
            "people": ["cuhk01/0010"],
            "places": ["cuhk01"],
            "crosses": [],
        },
    ]
    assert report["shared"] == [{"places": ["cuhk01"], "pictures": 2, "crossing": 1}]
    page = CliRunner().invoke(command, [spec]).stdout
    assert re.search(r"within cuhk01 +2 +1\b", page)
    assert "Same pixels, different label or split: 1" in page
    assert "Same pixels, same label and split: 1" in page
    assert f"cuhk01/0010: {campus / '0010001.png'}, {campus / '0010002.png'}" in page


def test_a_picture_that_was_stored_again_is_found_where_its_pixels_are_the_same(
    command: typer.Typer, cuhk01_folder: Path
) -> None:
    first = cuhk01_folder / "campus" / "0001001.png"
    with Image.open(first) as image:
        image.save(cuhk01_folder / "campus" / "0002003.png", compress_level=0)
    (picture,) = as_json(command, f"cuhk01:{cuhk01_folder}")["crossing_duplicates"]["examples"]
    assert picture["people"] == ["cuhk01/0001", "cuhk01/0002"]


def test_one_image_in_two_sets_or_two_splits_is_found(
    command: typer.Typer, cuhk01_folder: Path, market1501_folder: Path
) -> None:
    query = market1501_folder / "query" / "0001_c1s1_001051_00.jpg"
    (market1501_folder / "bounding_box_test" / query.name).write_bytes(query.read_bytes())
    copy = cuhk01_folder / "people.csv"
    copy.write_text("path,identity,camera\ncampus/0001001.png,7,A\n", encoding="utf-8")
    specs = f"cuhk01:{cuhk01_folder}", f"market1501:{market1501_folder}", f"manifest:{copy}"
    report = as_json(command, *specs)
    found = [
        (duplicate["people"], duplicate["crosses"])
        for duplicate in report["crossing_duplicates"]["examples"]
    ]
    assert found == [
        (["cuhk01/0001", "people/7"], ["data set"]),
        (["market1501/0001"], ["split"]),
    ]
    assert report["shared"] == [
        {"places": ["cuhk01", "people"], "pictures": 1, "crossing": 1},
        {"places": ["market1501/gallery", "market1501/query"], "pictures": 1, "crossing": 1},
    ]
    page = CliRunner().invoke(command, list(specs)).stdout
    assert "cuhk01 and people" in page
    assert "market1501/gallery and market1501/query" in page


def test_a_camera_with_far_fewer_images_is_noted(
    command: typer.Typer, tmp_path: Path, draw_image: Callable[..., Path]
) -> None:
    rows = ["path,identity,camera"]
    for number in range(7):
        draw_image(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,1,{'rare' if number == 0 else 'busy'}")
    (tmp_path / "shop.csv").write_text("\n".join(rows), encoding="utf-8")
    report = as_json(command, f"manifest:{tmp_path / 'shop.csv'}")["datasets"][0]
    assert report["images_by_camera"] == {"busy": 6, "rare": 1}
    assert report["notes"] == ["camera busy has 6.0 times the images of camera rare (6 and 1)"]


def test_the_page_names_the_set_its_terms_and_its_counts(
    command: typer.Typer, cuhk01_folder: Path
) -> None:
    result = CliRunner().invoke(command, [f"cuhk01:{cuhk01_folder}"])
    assert result.exit_code == 0
    assert "12 images, 3 identities, 2 cameras" in result.stdout
    assert "Terms: Academic research only" in result.stdout
    assert "3,884" in result.stdout
    assert "Reading files" not in result.stdout + result.stderr


def test_names_that_look_like_markup_are_printed_as_they_are(
    command: typer.Typer, tmp_path: Path
) -> None:
    (tmp_path / "[bold]x.png").write_bytes(b"no image")
    (tmp_path / "[red].csv").write_text(
        "path,identity,camera\n[bold]x.png,1,[/bold]\n", encoding="utf-8"
    )
    result = CliRunner().invoke(command, [f"manifest:{tmp_path / '[red].csv'}"])
    assert result.exit_code == 1
    assert "[bold]x.png: the bytes are not" in result.stdout
    assert "[/bold] 1" in result.stdout


def test_a_manifest_needs_no_kind(command: typer.Typer, manifest_folder: Path) -> None:
    path = manifest_folder / "manifest.csv"
    (found,) = as_json(command, str(path))["datasets"]
    assert found["spec"] == f"manifest:{path}"


def test_bad_input_is_left_to_the_command_line_to_report(
    command: typer.Typer, tmp_path: Path
) -> None:
    result = CliRunner().invoke(command, [f"cuhk01:{tmp_path / 'none'}"])
    assert isinstance(result.exception, InputProblem)


def test_progress_is_told_once_for_every_file(cuhk01_folder: Path) -> None:
    calls: list[int] = []
    check_datasets([read_dataset(f"cuhk01:{cuhk01_folder}")], on_file=lambda: calls.append(1))
    assert len(calls) == 12


def test_checking_data_needs_no_torch() -> None:
    script = "import sys, training.commands.check_data; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_two_sets_that_are_known_to_show_the_same_people_are_noted(
    command: typer.Typer, cuhk01_folder: Path, tmp_path: Path, draw_image: Callable[..., Path]
) -> None:
    for pair in range(1, 6):
        for camera in ("cam1", "cam2"):
            draw_image(tmp_path / "cuhk02" / f"P{pair}" / camera / "001_1.png")
    first = cuhk01_folder / "campus" / "0001001.png"
    (tmp_path / "cuhk02" / "P1" / "cam1" / "001_1.png").write_bytes(first.read_bytes())
    specs = f"cuhk01:{cuhk01_folder}", f"cuhk02:{tmp_path / 'cuhk02'}"
    report = as_json(command, *specs)
    assert report["notes"] == [
        "cuhk01 and cuhk02 show some of the same people: never train on one and test on the other"
    ]
    assert report["shared"] == [{"places": ["cuhk01", "cuhk02"], "pictures": 1, "crossing": 1}]
    assert report["notes"][0] in CliRunner().invoke(command, list(specs)).stdout


def test_the_version_that_was_read_is_told_and_its_own_counts_are_compared(
    command: typer.Typer, market1501_folder: Path, draw_image: Callable[..., Path]
) -> None:
    draw_image(market1501_folder / "images" / "0000_c3s1_000001_01.jpg")
    spec = f"market1501:{market1501_folder},distractors=500k"
    report = as_json(command, spec)["datasets"][0]
    assert report["version"] == "with the 500k distractors"
    published = {count["split"]: count["published_images"] for count in report["splits"]}
    assert published == {"train": 12_936, "query": 3_368, "gallery": None}
    assert "(with the 500k distractors)" in CliRunner().invoke(command, [spec]).stdout


def test_a_set_whose_files_state_no_camera_is_not_called_out_of_balance(
    command: typer.Typer, tmp_path: Path, draw_image: Callable[..., Path]
) -> None:
    for name in [*(f"000{person}001" for person in range(1, 8)), "0001002"]:
        draw_image(tmp_path / "Persons" / f"{name}.jpg")
    notes = as_json(command, f"ilids:{tmp_path}")["datasets"][0]["notes"]
    assert any("the files state no camera: every image of a person" in note for note in notes)
    assert not any("times the images" in note for note in notes)


def test_many_cameras_are_listed_in_short_on_the_page_and_in_full_in_the_json(
    command: typer.Typer, tmp_path: Path, draw_image: Callable[..., Path]
) -> None:
    rows = ["path,identity,camera"]
    for number in range(25):
        draw_image(tmp_path / f"{number}.png")
        rows.append(f"{number}.png,1,c{number}")
    (tmp_path / "shop.csv").write_text("\n".join(rows), encoding="utf-8")
    spec = f"manifest:{tmp_path / 'shop.csv'}"
    assert len(as_json(command, spec)["datasets"][0]["images_by_camera"]) == 25
    assert "and 15 more; --json names them all" in CliRunner().invoke(command, [spec]).stdout


def test_the_help_names_every_kind(command: typer.Typer) -> None:
    shown = CliRunner().invoke(command, ["--help"], env={"COLUMNS": "200"}).stdout
    assert all(kind in shown for kind in KINDS)
