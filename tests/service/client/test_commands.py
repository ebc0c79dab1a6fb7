"""`gmn enroll` and `gmn query` as a user types them, against a real service process."""

from __future__ import annotations

import json
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gmn_client import Client, Image
from tests.service.client.conftest import run_gmn


@pytest.mark.parametrize("job", [[], ["--job"]], ids=["requests", "job"])
@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_broken_file_is_named_and_the_rest_is_enrolled(
    kind: str,
    job: list[str],
    request: pytest.FixtureRequest,
    service_url: str,
    gallery: str,
    drawn_crops,
) -> None:
    source = str(request.getfixturevalue(kind))
    finished = run_gmn(service_url, gallery, "enroll", source, *job, "--camera", "door", "--json")
    assert finished.returncode == 1, finished.stderr
    summary = json.loads(finished.stdout)
    assert summary["enrolled"] == len(drawn_crops)
    problems = {Path(problem["name"]).name: problem["code"] for problem in summary["problems"]}
    assert problems == {"broken.png": "truncated"}
    assert [Path(file["name"]).name for file in summary["ignored"]] == ["notes.txt"]
    with Client(service_url, gallery=gallery) as client:
        crops = list(client.crops())
    assert len(crops) == len(drawn_crops)
    assert {(crop.identity, crop.camera) for crop in crops} == {(None, "door")}


def test_a_manifest_brings_its_labels_and_enrols_nothing_twice(
    manifest: Path, service_url: str, gallery: str, drawn_crops
) -> None:
    first = run_gmn(service_url, gallery, "enroll", str(manifest), "--json")
    assert first.returncode == 0, first.stderr
    second = json.loads(run_gmn(service_url, gallery, "enroll", str(manifest), "--json").stdout)
    assert (second["enrolled"], second["duplicates"]) == (0, len(drawn_crops))
    names = [str(manifest.parent / f"{number:02d}.png") for number in range(len(drawn_crops))]
    assert second["duplicate_names"] == names
    shown = run_gmn(service_url, gallery, "enroll", str(manifest)).stdout
    assert all(name in shown for name in names[:10])
    assert "and 14 more; --json names them all" in shown
    with Client(service_url, gallery=gallery) as client:
        labels = sorted((crop.identity, crop.camera) for crop in client.crops())
    assert labels == sorted((crop.identity, crop.camera) for crop in drawn_crops)


def test_one_camera_enrolled_and_the_other_asked_gives_rank_1_and_map(
    manifest: Path, service_url: str, gallery: str, drawn_crops
) -> None:
    enrolled = run_gmn(service_url, gallery, "enroll", f"manifest:{manifest}", "--camera", "east")
    assert enrolled.returncode == 0, enrolled.stderr
    assert "12 enrolled" in enrolled.stdout
    asked = ["query", "--data", f"manifest:{manifest}", "--camera", "west"]
    finished = run_gmn(service_url, gallery, *asked, "--json")
    assert finished.returncode == 0, finished.stderr
    summary = json.loads(finished.stdout)
    assert summary["queries"] == summary["with_a_true_match"] == 12
    assert summary["rank_1"] > 0.8
    assert summary["rank_1"] <= summary["rank_5"] <= summary["rank_10"] <= 1.0
    assert summary["mAP"] > 0.7
    assert sum(summary["verdicts"].values()) == 12
    assert summary["service_timing_ms"]["total"] > 0
    table = run_gmn(service_url, gallery, *asked).stdout
    assert "Rank-1" in table
    assert f"{summary['mAP']:.2%}" in table


def test_crops_of_the_querys_own_person_and_camera_do_not_count(
    manifest: Path, service_url: str, gallery: str, drawn_crops
) -> None:
    run_gmn(service_url, gallery, "enroll", str(manifest), "--camera", "east")
    asked = ["query", "--data", str(manifest), "--camera", "east", "--json"]
    summary = json.loads(run_gmn(service_url, gallery, *asked).stdout)
    assert summary["with_a_true_match"] == 0
    assert summary["rank_1"] is None


def test_rankings_that_are_cut_short_give_the_same_rank_1_and_a_lower_bound_of_map(
    manifest: Path, service_url: str, gallery: str
) -> None:
    run_gmn(service_url, gallery, "enroll", str(manifest))
    asked = ["query", "--data", str(manifest), "--camera", "west", "--limit", "6"]
    whole = json.loads(run_gmn(service_url, gallery, *asked, "--json").stdout)
    short = json.loads(run_gmn(service_url, gallery, *asked, "--top-k", "6", "--json").stdout)
    assert whole["queries"] == short["queries"] == short["with_a_true_match"] == 6
    assert short["rank_1"] == whole["rank_1"]
    assert 0.0 < short["mAP"] <= whole["mAP"]
    table = run_gmn(service_url, gallery, *asked, "--top-k", "6").stdout
    assert "lower bound" in table


def test_images_are_one_query_or_one_each(
    folder: Path, manifest: Path, service_url: str, gallery: str, drawn_crops
) -> None:
    run_gmn(service_url, gallery, "enroll", str(manifest))
    images = [str(folder / "00.png"), str(folder / "23.png")]
    together = json.loads(run_gmn(service_url, gallery, "query", *images, "--json").stdout)
    assert len(together["results"]) == 10
    apart = run_gmn(service_url, gallery, "query", *images, "--separate", "--json")
    first, second = json.loads(apart.stdout)["results"]
    assert first["results"][0]["identity"] == drawn_crops[0].identity
    assert second["results"][0]["identity"] == drawn_crops[23].identity
    table = run_gmn(service_url, gallery, "query", images[0], "--top-k", "3").stdout
    assert "00.png: " in table
    assert together["verdict"] in ("match", "uncertain", "no_match")
    assert drawn_crops[0].identity in table


def test_several_galleries_are_searched_at_once(
    folder: Path, manifest: Path, service_url: str, client: Client, gallery: str
) -> None:
    other = f"{gallery}-b"
    client.create_gallery(other)
    for name in (gallery, other):
        run_gmn(service_url, name, "enroll", str(manifest))
    asked = ["query", str(folder / "00.png"), "--galleries", f"{gallery}, {other},gone"]
    answer = json.loads(run_gmn(service_url, gallery, *asked, "--json").stdout)
    assert len(answer["results"]) == 10
    assert [entry["gallery"] for entry in answer["galleries"]] == [gallery, other, "gone"]
    shown = " ".join(run_gmn(service_url, gallery, *asked).stdout.split())
    assert other in shown
    assert "warning: gallery 'gone' was not searched: there is no gallery 'gone'" in shown
    assert "false alarms: 0.01 of all galleries, 0.00333333 of each" in shown


def test_a_query_is_narrowed_by_cameras_and_times_and_grouped(
    folder: Path, service_url: str, client: Client, gallery: str, drawn_crops
) -> None:
    times = [datetime(2026, 3, 1 + number, tzinfo=UTC) for number in range(len(drawn_crops))]
    client.enroll(
        [
            Image(
                crop.png, "crop.png", identity=crop.identity, camera=crop.camera, captured_at=time
            )
            for crop, time in zip(drawn_crops, times, strict=True)
        ]
    )

    def asked(*options: str) -> dict[str, Any]:
        finished = run_gmn(service_url, gallery, "query", str(folder / "00.png"), *options)
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    whole = ["--json", "--top-k", "24"]
    west = asked(*whole, "--cameras", "west")["results"]
    assert {row["camera"] for row in west} == {"west"}
    assert asked(*whole, "--exclude-cameras", "east")["results"] == west
    assert len(asked(*whole, "--group-by", "identity")["results"]) == 6
    late = asked(*whole, "--after", "2026-03-05T00:00:00Z", "--before", "2026-03-07T00:00:00+00:00")
    assert len(late["results"]) == 3
    assert asked(*whole, "--cameras", "nowhere")["verdict"] == "nothing_searched"
    said = run_gmn(service_url, gallery, "query", str(folder / "00.png"), "--cameras", "nowhere")
    assert "none of its crops passes the filters" in said.stdout


def test_a_query_by_crops_or_by_a_track_of_the_gallery(
    service_url: str, client: Client, gallery: str, drawn_crops
) -> None:
    images = [Image(crop.png, camera=crop.camera, track="17") for crop in drawn_crops]
    ids = [image.crop_id for image in client.enroll(images).results]
    asked = ["--crop", ids[0], "--crop", ids[1], "--top-k", "50", "--json"]
    answer = json.loads(run_gmn(service_url, gallery, "query", *asked).stdout)
    assert {row["crop_id"] for row in answer["results"]} == set(ids[2:])
    asked = ["--track", "17", "--camera", "east", "--top-k", "50", "--json"]
    answer = json.loads(run_gmn(service_url, gallery, "query", *asked).stdout)
    assert {row["camera"] for row in answer["results"]} == {"west"}
    asked = ["--crop", ids[0], "--group-by", "track"]
    table = run_gmn(service_url, gallery, "query", *asked).stdout
    assert "first" in table
    refused = run_gmn(service_url, gallery, "query", "--track", "17")
    assert refused.returncode != 0
    assert "east, west" in refused.stderr


def test_an_option_of_a_query_that_cannot_be_used_is_named(
    folder: Path, manifest: Path, service_url: str, gallery: str
) -> None:
    image = str(folder / "00.png")
    for wrong, words in (
        ([image, "--after", "yesterday"], "captured_after: 'yesterday' is not an RFC 3339 time"),
        ([image, "--before", "2026-03-01T00:00:00"], "captured_before: "),
        ([image, "--operating-point", "far_1"], "far_1e-2"),
        (["--data", str(manifest), "--cameras", "west"], "go with images"),
        (["--data", str(manifest), "--galleries", "a,b"], "go with images"),
        ([image, "--galleries", "a,b", "--keep"], "keep, min_version, mode: "),
        (["--data", str(manifest), "--separate"], "--separate goes with images"),
        ([image, "--camera", "east"], "choose among the images of --data"),
        ([image, "--limit", "3"], "choose among the images of --data"),
    ):
        finished = run_gmn(service_url, gallery, "query", *wrong)
        assert finished.returncode == 2
        assert words in " ".join(finished.stderr.split())


def test_a_query_prints_the_warnings_of_its_images(
    folder: Path, manifest: Path, service_url: str, gallery: str
) -> None:
    run_gmn(service_url, gallery, "enroll", str(manifest))
    images = [str(folder / "00.png"), str(folder / "broken.png")]
    finished = run_gmn(service_url, gallery, "query", *images)
    assert finished.returncode == 0, finished.stderr
    assert "warning: image 2: left out of the search: the image data is cut" in finished.stdout


@pytest.mark.slow
def test_an_empty_gallery_is_said_to_be(manifest: Path, service_url: str, gallery: str) -> None:
    empty = run_gmn(service_url, gallery, "query", "--data", str(manifest))
    assert empty.returncode == 2
    assert "is empty" in empty.stderr


def test_one_image_is_enrolled_as_the_person_and_camera_that_are_named(
    folder: Path, service_url: str, gallery: str
) -> None:
    asked = ["enroll", str(folder / "00.png"), "--identity", "Ann", "--camera", "door"]
    finished = run_gmn(service_url, gallery, *asked)
    assert finished.returncode == 0, finished.stderr
    with Client(service_url, gallery=gallery) as client:
        (crop,) = client.crops()
    assert (crop.identity, crop.camera) == ("Ann", "door")


def test_a_folder_is_enrolled_as_one_person(
    folder: Path, service_url: str, gallery: str, drawn_crops
) -> None:
    (folder / "broken.png").unlink()
    finished = run_gmn(service_url, gallery, "enroll", str(folder), "--identity", "Ann")
    assert finished.returncode == 0, finished.stderr
    with Client(service_url, gallery=gallery) as client:
        assert [crop.identity for crop in client.crops()] == ["Ann"] * len(drawn_crops)


def test_an_identity_for_a_source_that_names_people_is_refused(
    manifest: Path, people_folder: Path, service_url: str, gallery: str
) -> None:
    for source in (manifest, people_folder):
        refused = run_gmn(service_url, gallery, "enroll", str(source), "--identity", "Ann")
        assert refused.returncode == 2
        assert "names the people itself" in refused.stderr
    packed = str(pack(people_folder))
    refused = run_gmn(service_url, gallery, "enroll", packed, "--identity", "Ann", "--json")
    assert refused.returncode == 1
    assert "leave it out" in json.loads(refused.stdout)["detail"]


WAYS = ("folder", "zip", "packed folder", "job")


def pack(folder: Path, prefix: str = "") -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, prefix + str(file.relative_to(folder)))
    return path


def enroll_by(way: str, folder: Path, service_url: str, gallery: str) -> dict[str, Any]:
    """Enrolls a folder as it is, as an archive of its content or of itself, or as a job."""
    prefixes = {"zip": "", "packed folder": f"{folder.name}/"}
    source = pack(folder, prefixes[way]) if way in prefixes else folder
    job = ["--job"] if way == "job" else []
    finished = run_gmn(service_url, gallery, "enroll", str(source), *job, "--json")
    assert finished.returncode == 0, finished.stderr + finished.stdout
    summary: dict[str, Any] = json.loads(finished.stdout)
    return summary


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_for_each_person_names_the_people_however_it_is_sent(
    way: str, people_folder: Path, service_url: str, gallery: str, drawn_crops
) -> None:
    (people_folder / "notes.txt").write_text("not an image")
    (people_folder / ".DS_Store").write_text("left by another system")
    summary = enroll_by(way, people_folder, service_url, gallery)
    assert summary["enrolled"] == summary["sent"] == len(drawn_crops)
    assert [Path(file["name"]).name for file in summary["ignored"]] == ["notes.txt"]
    with Client(service_url, gallery=gallery) as client:
        found = sorted(crop.identity for crop in client.crops())
    assert found == sorted(crop.identity for crop in drawn_crops)


@pytest.mark.parametrize("way", WAYS)
def test_a_manifest_has_crops_of_unknown_people_and_every_label_however_it_is_sent(
    way: str, tmp_path: Path, service_url: str, gallery: str, drawn_crops
) -> None:
    folder = tmp_path / "night"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(drawn_crops[number].png)
    (folder / "manifest.csv").write_text(
        "path,identity,camera,captured_at,external_id,metadata,weather\n"
        '0.png,,gate,2026-03-01T09:30:00Z,cam1/77,"{""shift"": ""night""}",rain\n'
        "1.png,Ann,,,,,\n"
    )
    summary = enroll_by(way, folder, service_url, gallery)
    assert (summary["enrolled"], summary["problems"]) == (2, [])
    reasons = {Path(file["name"]).name: file["reason"] for file in summary["ignored"]}
    assert "does not name it" in reasons["2.png"]
    assert "column is unknown" in reasons["manifest.csv: weather"]
    with Client(service_url, gallery=gallery) as client:
        unknown, ann = sorted(client.crops(), key=lambda crop: crop.identity or "")
    moment = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    assert (unknown.identity, unknown.camera, unknown.captured_at) == (None, "gate", moment)
    assert (unknown.external_id, unknown.metadata) == ("cam1/77", {"shift": "night"})
    assert (ann.identity, ann.camera, ann.external_id, ann.metadata) == ("Ann", None, None, None)


def test_what_is_ignored_is_printed(folder: Path, service_url: str, gallery: str) -> None:
    shown = run_gmn(service_url, gallery, "enroll", str(folder)).stdout
    assert "ignored: notes.txt: its name is no image's" in shown


def test_a_source_that_is_not_there_names_what_can_be_enrolled(
    service_url: str, gallery: str
) -> None:
    missing = run_gmn(service_url, gallery, "enroll", "nope")
    assert missing.returncode == 2
    for kind in ("nope", "image", "folder", "zip", "manifest"):
        assert kind in missing.stderr


@pytest.mark.parametrize("job", [[], ["--job"]])
def test_a_missing_gallery_names_the_option_that_creates_it(
    job: list[str], manifest: Path, service_url: str
) -> None:
    missing = run_gmn(service_url, "nowhere", "enroll", str(manifest), *job)
    assert missing.returncode == 2
    assert "--gallery nowhere: there is no such gallery; add --create" in missing.stderr
    assert len(missing.stderr.strip().splitlines()) == 1


def test_create_makes_the_gallery_once(manifest: Path, service_url: str) -> None:
    for _ in range(2):
        finished = run_gmn(service_url, "made-here", "enroll", str(manifest), "--create")
        assert finished.returncode == 0, finished.stderr


def test_a_query_image_that_is_none_is_named(
    folder: Path, manifest: Path, service_url: str, gallery: str
) -> None:
    run_gmn(service_url, gallery, "enroll", str(manifest))
    finished = run_gmn(service_url, gallery, "query", str(folder / "broken.png"))
    assert finished.returncode == 2
    assert len(finished.stderr.strip().splitlines()) == 1
