"""Data sets of one's own: a CSV manifest, or a folder with a sub-folder per person."""

import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from model.problems import InputProblem
from training.datasets.registry import read_dataset

DrawImage = Callable[..., Path]


def test_a_manifest_set_is_named_after_its_file_or_its_folder(manifest_folder):
    manifest = manifest_folder / "manifest.csv"
    assert read_dataset(f"manifest:{manifest_folder}").name == "shop"
    dataset = read_dataset(str(manifest))
    assert (dataset.name, dataset.spec) == ("shop", f"manifest:{manifest}")
    manifest.rename(manifest_folder / "people.csv")
    assert read_dataset(f"manifest:{manifest_folder / 'people.csv'}").name == "people"


def test_a_manifest_set_carries_time_split_and_identity(manifest_folder):
    record = read_dataset(f"manifest:{manifest_folder}").records[0]
    assert record.captured_at == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert (record.identity, record.camera, record.split) == ("007", "door", "train")
    assert record.person == ("shop", "007")


def test_terms_beside_a_manifest_become_the_set_s_terms(manifest_folder):
    assert read_dataset(f"manifest:{manifest_folder}").terms.startswith("Unknown")
    terms = manifest_folder / "TERMS.txt"
    terms.write_text("\nOurs; consent on file.\nMore.\n", encoding="utf-8")
    assert read_dataset(f"manifest:{manifest_folder}").terms == "Ours; consent on file."
    terms.write_bytes("façade".encode("latin-1"))
    with pytest.raises(InputProblem, match=r"TERMS.txt: cannot be read .* save it as UTF-8"):
        read_dataset(f"manifest:{manifest_folder}")


def test_a_folder_with_a_sub_folder_per_person_is_a_data_set(tmp_path, draw_image):
    folder = tmp_path / "shop"
    for name in ("ann/1.png", "ann/2.png", "bob/a.png"):
        draw_image(folder / name)
    (folder / "TERMS.txt").write_text("Staff, by consent.")
    # Archivers, network drives and version control add folders without a person.
    for name in ("__MACOSX", "@eaDir", "@EADIR", "#recycle", "$Recycle.Bin", "lost+found", ".git"):
        draw_image(folder / name / "1.png")
    draw_image(folder / "ann" / "@eaDir" / "1.png" / "SYNOPHOTO_THUMB_M.jpg")
    dataset = read_dataset(f"folder:{folder}")
    labels = [(record.identity, record.camera) for record in dataset.records]
    assert labels == [("ann", "shot1"), ("ann", "shot2"), ("bob", "shot1")]
    assert (dataset.name, dataset.terms) == ("shop", "Staff, by consent.")


def test_a_folder_without_sub_folders_names_the_layout(tmp_path, draw_image):
    draw_image(tmp_path / "1.png")
    with pytest.raises(InputProblem, match="put the images of each person into a sub-folder"):
        read_dataset(f"folder:{tmp_path}")


def test_names_that_differ_only_in_the_unicode_form_are_one_person(tmp_path, draw_image):
    forms = [unicodedata.normalize(form, "José") for form in ("NFD", "NFC")]
    for number, name in enumerate(forms):
        draw_image(tmp_path / "people" / name / f"{number}.png")
    people = read_dataset(f"folder:{tmp_path / 'people'}")
    assert people.identities == ["José"]
    # An image of a person is never of another image's camera.
    assert people.cameras == ["shot1", "shot2"]
    manifest = tmp_path / "manifest.csv"
    rows = [f"people/{name}/{number}.png,{name},{name}\n" for number, name in enumerate(forms)]
    manifest.write_text("path,identity,camera\n" + "".join(rows), encoding="utf-8")
    listed = read_dataset(f"manifest:{manifest}")
    assert (listed.identities, listed.cameras) == (["José"], ["José"])


def test_a_folder_that_merely_resembles_a_by_product_is_a_person(tmp_path, draw_image):
    names = ("Recycle", "eaDir", "Snapshot", "found", "recycler2", "Thumbs")
    for name in names:
        draw_image(tmp_path / name / "1.png")
    assert read_dataset(f"folder:{tmp_path}").identities == sorted(names)


def test_a_folder_of_people_reports_what_it_left_out(tmp_path, draw_image):
    for name in ("ann/1.png", "ann/old/2.png", "bob/1.JPG", "eve.png", "#recycle/bob/2.png"):
        draw_image(tmp_path / name)
    for name in (
        "ann/a.heic",
        "bob/notes.txt",
        "bob/.b.png",
        "TERMS.txt",
        "list.xlsx",
        "ann/._1.png",
    ):
        (tmp_path / name).write_bytes(b"other")
    dataset = read_dataset(f"folder:{tmp_path}")
    assert len(dataset.records) == 2
    assert dataset.ignored.count == 8
    reasons = {
        Path(line.name).relative_to(tmp_path).as_posix(): line.reason
        for line in dataset.ignored.lines()
    }
    assert reasons.keys() == {
        *("#recycle", "ann/._1.png", "bob/.b.png", "ann/a.heic", "ann/old"),
        *("bob/notes.txt", "eve.png", "list.xlsx"),
    }
    assert "for its own use" in reasons["#recycle"]
    assert "begins with a dot" in reasons["bob/.b.png"]
    assert "this format are not read" in reasons["ann/a.heic"]
    assert "no images are looked for" in reasons["ann/old"]
    assert "in no person's sub-folder" in reasons["eve.png"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,Identity,camera\n", r"did you mean identity\?"),
        ("path;identity;camera\n", "separated by semicolons"),
        (
            "path,identity,camera,captured_at\n1.png,1,a,2024-W18-3T12:00:00Z\n",
            "is not an RFC 3339",
        ),
        ("path,identity,camera\n@eaDir\\1.png,1,a\n", "for its own use"),
    ],
)
def test_a_manifest_set_is_read_by_the_rules_of_every_manifest(tmp_path, draw_image, text, words):
    draw_image(tmp_path / "1.png")
    draw_image(tmp_path / "@eaDir" / "1.png")
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(InputProblem, match=words):
        read_dataset(f"manifest:{tmp_path}")
