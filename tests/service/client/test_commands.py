"""`gmn enroll` and `gmn query` as a user types them, against a real service process."""

import unicodedata
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gmn_client import Image
from gmn_client.errors import InvalidInput


@pytest.mark.parametrize("kind", ["folder", "archive"])
def test_a_broken_file_is_named_and_the_rest_is_enrolled(client, gmn, kind, request, drawn_crops):
    source = request.getfixturevalue(kind)
    summary = gmn("enroll", source, "--camera", "door", "--json", status=1)
    assert summary["enrolled"] == len(drawn_crops)
    problems = {Path(problem["name"]).name: problem["code"] for problem in summary["problems"]}
    assert problems == {"broken.png": "truncated"}
    beside = {"folder": {"notes.txt"}, "archive": {"notes.txt", "__MACOSX"}}
    assert {Path(file["name"]).name for file in summary["ignored"]} == beside[kind]
    crops = list(client.crops())
    assert len(crops) == len(drawn_crops)
    assert {(crop.identity, crop.camera) for crop in crops} == {(None, "door")}
    shown = gmn("enroll", source, "--camera", "door", status=1)
    assert "notes.txt: its name is no image's" in shown


def test_a_file_whose_name_is_not_utf_8_is_enrolled_named_and_searched(
    client, gmn, folder, drawn_crops
):
    (folder / "00.png").rename(folder / "00\udcf6.png")
    summary = gmn("enroll", folder, "--json", status=1)
    assert summary["enrolled"] == len(drawn_crops)
    assert "00\\udcf6.png" in gmn("enroll", folder, status=1)
    assert "00\\udcf6.png: " in gmn("query", folder / "00\udcf6.png")
    with pytest.raises(InvalidInput, match="cannot be written in UTF-8"):
        client.enroll([Image(drawn_crops[0].png, identity="J\udcf6rg")])


def test_a_manifest_brings_its_labels_and_enrols_nothing_twice(client, gmn, manifest, drawn_crops):
    gmn("enroll", manifest)
    second = gmn("enroll", manifest, "--json")
    assert (second["enrolled"], second["duplicates"]) == (0, len(drawn_crops))
    names = [str(manifest.parent / f"{number:02d}.png") for number in range(len(drawn_crops))]
    assert second["duplicate_names"] == names
    shown = gmn("enroll", manifest)
    assert all(name in shown for name in names[:10])
    assert "and 14 more; --json names them all" in shown
    labels = sorted((crop.identity, crop.camera) for crop in client.crops())
    assert labels == sorted((crop.identity, crop.camera) for crop in drawn_crops)


def test_one_camera_enrolled_and_the_other_asked_gives_rank_1_and_map(gmn, manifest):
    enrolled = gmn("enroll", f"manifest:{manifest}", "--camera", "east")
    assert "12 enrolled" in enrolled
    asked = ["query", "--data", f"manifest:{manifest}", "--camera", "west"]
    summary = gmn(*asked, "--json")
    assert summary["queries"] == summary["with_a_true_match"] == 12
    assert summary["rank_1"] > 0.8
    assert summary["rank_1"] <= summary["rank_5"] <= summary["rank_10"] <= 1.0
    assert summary["mAP"] > 0.7
    assert sum(summary["verdicts"].values()) == 12
    assert summary["service_timing_ms"]["total"] > 0
    table = gmn(*asked)
    assert "Rank-1" in table
    assert f"{summary['mAP']:.2%}" in table


def test_crops_of_the_querys_own_person_and_camera_do_not_count(gmn, manifest):
    gmn("enroll", manifest, "--camera", "east")
    asked = ["query", "--data", manifest, "--camera", "east", "--json"]
    summary = gmn(*asked)
    assert summary["with_a_true_match"] == 0
    assert summary["rank_1"] is None


def test_rankings_that_are_cut_short_give_the_same_rank_1_and_a_lower_bound_of_map(gmn, manifest):
    gmn("enroll", manifest)
    asked = ["query", "--data", manifest, "--camera", "west", "--limit", "6"]
    whole = gmn(*asked, "--json")
    short = gmn(*asked, "--top-k", "6", "--json")
    assert whole["queries"] == short["queries"] == short["with_a_true_match"] == 6
    assert short["rank_1"] == whole["rank_1"]
    assert 0.0 < short["mAP"] <= whole["mAP"]
    table = gmn(*asked, "--top-k", "6")
    assert "lower bound" in table


def test_images_are_one_query_or_one_each(gmn, folder, manifest, drawn_crops):
    gmn("enroll", manifest)
    images = [folder / "00.png", folder / "23.png"]
    together = gmn("query", *images, "--json")
    assert len(together["results"]) == 10
    first, second = gmn("query", *images, "--separate", "--json")["results"]
    assert first["results"][0]["identity"] == drawn_crops[0].identity
    assert second["results"][0]["identity"] == drawn_crops[23].identity
    table = gmn("query", images[0], "--top-k", "3")
    assert "00.png: " in table
    assert together["verdict"] in ("match", "uncertain", "no_match")
    assert drawn_crops[0].identity in table


def test_several_galleries_are_searched_at_once(gmn, folder, manifest, client, gallery):
    other = f"{gallery}-b"
    client.create_gallery(other)
    for name in (gallery, other):
        gmn("enroll", manifest, gallery=name)
    asked = ["query", folder / "00.png", "--galleries", f"{gallery}, {other},gone"]
    answer = gmn(*asked, "--json")
    assert len(answer["results"]) == 10
    assert [entry["gallery"] for entry in answer["galleries"]] == [gallery, other, "gone"]
    shown = " ".join(gmn(*asked).split())
    assert other in shown
    assert "warning: gallery 'gone' was not searched: there is no gallery 'gone'" in shown
    assert "false alarms: 0.01 of all galleries, 0.00333333 of each" in shown


def test_a_query_is_narrowed_by_cameras_and_times_and_grouped(gmn, folder, client, drawn_crops):
    times = [datetime(2026, 3, 1 + number, tzinfo=UTC) for number in range(len(drawn_crops))]
    client.enroll(
        [
            Image(
                crop.png, "crop.png", identity=crop.identity, camera=crop.camera, captured_at=time
            )
            for crop, time in zip(drawn_crops, times, strict=True)
        ]
    )

    def asked(*options):
        return gmn("query", folder / "00.png", *options)

    whole = ["--json", "--top-k", "24"]
    west = asked(*whole, "--cameras", "west")["results"]
    assert {row["camera"] for row in west} == {"west"}
    assert asked(*whole, "--exclude-cameras", "east")["results"] == west
    assert len(asked(*whole, "--group-by", "identity")["results"]) == 6
    late = asked(*whole, "--after", "2026-03-05T00:00:00Z", "--before", "2026-03-07T00:00:00+00:00")
    assert len(late["results"]) == 3
    assert asked(*whole, "--cameras", "nowhere")["verdict"] == "nothing_searched"
    said = gmn("query", folder / "00.png", "--cameras", "nowhere")
    assert "none of its crops passes the filters" in said


def test_a_query_by_crops_or_by_a_track_of_the_gallery(gmn, client, drawn_crops):
    images = [Image(crop.png, camera=crop.camera, track="17") for crop in drawn_crops]
    ids = [image.crop_id for image in client.enroll(images).results]
    asked = ["--crop", ids[0], "--crop", ids[1], "--top-k", "50", "--json"]
    answer = gmn("query", *asked)
    assert {row["crop_id"] for row in answer["results"]} == set(ids[2:])
    asked = ["--track", "17", "--camera", "east", "--top-k", "50", "--json"]
    answer = gmn("query", *asked)
    assert {row["camera"] for row in answer["results"]} == {"west"}
    asked = ["--crop", ids[0], "--group-by", "track"]
    table = gmn("query", *asked)
    assert "first" in table
    refused = gmn("query", "--track", "17", status=2)
    assert "east, west" in refused


def test_an_option_of_a_query_that_cannot_be_used_is_named(gmn, folder, manifest):
    image = folder / "00.png"
    for wrong, words in (
        ([image, "--after", "yesterday"], "captured_after: 'yesterday' is not an RFC 3339 time"),
        ([image, "--before", "2026-03-01T00:00:00"], "captured_before: "),
        ([image, "--operating-point", "far_1"], "far_1e-2"),
        (["--data", manifest, "--cameras", "west"], "go with images"),
        (["--data", manifest, "--galleries", "a,b"], "go with images"),
        ([image, "--galleries", "a,b", "--keep"], "keep: a kept search belongs to one gallery"),
        (["--data", manifest, "--separate"], "--separate, --box, --keep"),
        ([image, "--limit", "3"], "choose among the images of --data"),
    ):
        finished = gmn("query", *wrong, status=2)
        assert words in " ".join(finished.split())


def test_a_query_prints_the_warnings_of_its_images(gmn, folder, manifest):
    gmn("enroll", manifest)
    images = [folder / "00.png", folder / "broken.png"]
    finished = gmn("query", *images)
    assert "warning: image 2: left out of the search: the image data is cut" in finished


@pytest.mark.slow
def test_an_empty_gallery_is_said_to_be(gmn, manifest):
    empty = gmn("query", "--data", manifest, status=2)
    assert "is empty" in empty


def test_an_image_or_a_folder_is_enrolled_as_one_person(client, gmn, folder, drawn_crops):
    (folder / "broken.png").unlink()
    gmn("enroll", folder / "00.png", "--identity", "Ann", "--camera", "door")
    (crop,) = client.crops()
    assert (crop.identity, crop.camera) == ("Ann", "door")
    gmn("enroll", folder, "--identity", "Bob")
    assert len(list(client.crops(identity="Bob"))) == len(drawn_crops)


def test_an_identity_for_a_source_that_names_people_is_refused(gmn, manifest, people_folder):
    for source in (manifest, people_folder):
        refused = gmn("enroll", source, "--identity", "Ann", status=2)
        assert "names the people itself" in refused
    refused = gmn("enroll", pack(people_folder), "--identity", "Ann", "--json", status=1)
    assert "leave it out" in refused["detail"]


WAYS = ("folder", "zip", "packed folder")


def pack(folder, prefix=""):
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(folder.rglob("*")):
            packed.write(file, prefix + str(file.relative_to(folder)))
    return path


def enroll_by(gmn, way, folder):
    """Enroll a folder as it is, or as an archive of its content or of itself."""
    prefixes = {"zip": "", "packed folder": f"{folder.name}/"}
    source = pack(folder, prefixes[way]) if way in prefixes else folder
    return gmn("enroll", source, "--json")


@pytest.mark.parametrize("way", WAYS)
def test_a_folder_for_each_person_names_the_people_however_it_is_sent(
    client, gmn, way, people_folder, drawn_crops
):
    (people_folder / "notes.txt").write_text("not an image")
    (people_folder / ".DS_Store").write_text("left by another system")
    summary = enroll_by(gmn, way, people_folder)
    assert summary["enrolled"] == summary["sent"] == len(drawn_crops)
    ignored = [Path(file["name"]).name for file in summary["ignored"]]
    assert sorted(ignored) == [".DS_Store", "notes.txt"]
    found = sorted(crop.identity for crop in client.crops())
    assert found == sorted(crop.identity for crop in drawn_crops)


@pytest.mark.parametrize("way", WAYS)
def test_a_manifest_has_crops_of_unknown_people_and_every_label_however_it_is_sent(
    client, gmn, way, tmp_path, drawn_crops
):
    folder = tmp_path / "night"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(drawn_crops[number].png)
    (folder / "manifest.csv").write_text(
        "path,identity,camera,captured_at,external_id,metadata,weather\n"
        '0.png,,gate,2026-03-01T09:30:00Z,cam1/77,"{""shift"": ""night""}",rain\n'
        "1.png,Ann,,,,,\n"
    )
    summary = enroll_by(gmn, way, folder)
    assert (summary["enrolled"], summary["problems"]) == (2, [])
    reasons = {Path(file["name"]).name: file["reason"] for file in summary["ignored"]}
    assert "does not name it" in reasons["2.png"]
    assert "column is unknown" in reasons["manifest.csv: weather"]
    unknown, ann = sorted(client.crops(), key=lambda crop: crop.identity or "")
    moment = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    assert (unknown.identity, unknown.camera, unknown.captured_at) == (None, "gate", moment)
    assert (unknown.external_id, unknown.metadata) == ("cam1/77", {"shift": "night"})
    assert (ann.identity, ann.camera, ann.external_id, ann.metadata) == ("Ann", None, None, None)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_camera_is_chosen_and_found_in_any_unicode_form(client, gmn, tmp_path, drawn_crops, form):
    for number in range(3):
        (tmp_path / f"é{number}.png").write_bytes(drawn_crops[number].png)
    gate = {name: unicodedata.normalize(name, "Südtor") for name in ("NFC", "NFD")}
    (tmp_path / "manifest.csv").write_text(
        "path,identity,camera\n"
        f"é0.png,Ann,{gate['NFD']}\n"
        f"e\u03011.png,Ann,{gate['NFC']}\n"
        "é2.png,Ann,door\n"
    )
    assert gmn("enroll", tmp_path, "--camera", gate[form], "--json")["enrolled"] == 2
    assert {crop.camera for crop in client.crops(camera=gate[form])} == {gate["NFC"]}
    found = gmn("query", tmp_path / "é2.png", "--cameras", gate[form], "--json")
    assert len(found["results"]) == 2


@pytest.mark.parametrize("way", [*WAYS, "data set"])
def test_by_products_of_storage_systems_are_left_out_however_they_are_sent(
    client, gmn, way, people_folder, drawn_crops
):
    person = people_folder / drawn_crops[0].identity
    for place in (person / "@eaDir" / "1.png", people_folder / "#Recycle", person / ".old"):
        place.mkdir(parents=True)
        (place / "thumbnail.jpg").write_bytes(drawn_crops[1].png)
    if way == "data set":
        summary = gmn("enroll", f"folder:{people_folder}", "--json")
    else:
        summary = enroll_by(gmn, way, people_folder)
    assert summary["enrolled"] == summary["sent"] == len(drawn_crops)
    reasons = {Path(file["name"]).name: file["reason"] for file in summary["ignored"]}
    assert reasons.keys() == {"@eaDir", "#Recycle", ".old"}
    assert "for its own use" in reasons["@eaDir"]
    assert "begins with a dot" in reasons[".old"]
    found = {crop.identity for crop in client.crops()}
    assert found == {crop.identity for crop in drawn_crops}


def test_a_folder_of_by_products_alone_names_one(gmn, tmp_path, drawn_crops):
    (tmp_path / "photos" / "@eaDir").mkdir(parents=True)
    (tmp_path / "photos" / "@eaDir" / "1.png").write_bytes(drawn_crops[0].png)
    error = gmn("enroll", tmp_path / "photos", status=2)
    assert "holds no image" in error
    assert "1 ignored, such as @eaDir" in error


def test_a_manifest_that_would_lose_labels_is_refused_by_the_command(gmn, folder):
    for text, words in (
        ("path,Identity\n00.png,Ann\n", "did you mean identity?"),
        ("path\tidentity\n00.png\tAnn\n", "separated by tabs"),
        ("path,identity\n..\\00.png,Ann\n", "..\\00.png: lies outside the manifest's folder"),
        ("path,captured_at\n00.png,2026-03-01T24:00:00Z\n", "has the hour 24"),
    ):
        (folder / "people.csv").write_text(text)
        assert words in gmn("enroll", folder / "people.csv", status=2)


def test_a_source_that_is_not_there_names_what_can_be_enrolled(gmn):
    missing = gmn("enroll", "nope", status=2)
    for kind in ("nope", "image", "folder", "zip", "manifest"):
        assert kind in missing


@pytest.mark.parametrize("kind", ["manifest", "archive"])
def test_a_missing_gallery_names_the_option_that_creates_it(gmn, kind, request):
    missing = gmn("enroll", request.getfixturevalue(kind), gallery="nowhere", status=2)
    assert "--gallery nowhere: there is no such gallery; add --create" in missing
    assert len(missing.strip().splitlines()) == 1
    for _ in range(2):
        gmn("enroll", request.getfixturevalue("people_folder"), "--create", gallery="made-here")


def test_a_query_image_that_is_none_is_named(gmn, folder, manifest):
    gmn("enroll", manifest)
    finished = gmn("query", folder / "broken.png", status=2)
    assert "the image data is cut off or damaged" in finished
    assert len(finished.strip().splitlines()) == 1


def test_names_that_look_like_markup_or_emoji_are_printed_as_they_are(gmn, tmp_path, drawn_crops):
    name = "[red]00:ab:11[red]"
    image = tmp_path / f"{name}.png"
    image.write_bytes(drawn_crops[0].png)
    broken = tmp_path / f"{name}.jpg"
    broken.write_bytes(b"no image")
    gmn("enroll", image, "--identity", name, "--camera", name)
    again = gmn("enroll", image, "--identity", name, "--camera", name)
    assert f"there already: {image.name}" in again
    refused = gmn("enroll", broken, status=1)
    assert f"{broken.name}: the bytes are not a JPEG" in refused
    for command in (["identities"], ["crops"], ["query", image]):
        assert name in gmn(*command)
    assert f"{image.name}: match" in gmn("query", image)
