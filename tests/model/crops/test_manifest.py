"""The CSV manifest: what is read from it, and how the first wrong row is named."""

import unicodedata
from datetime import UTC, datetime, timedelta

import pytest

from model.crops.manifest import ManifestProblem, read_manifest
from model.crops.names import Ignored

MISSING = "path,identity,camera\nnobody.png,1,c1\n"


@pytest.fixture
def folder(tmp_path):
    """Return a folder with three files to list; a manifest's reader does not open them."""
    for name in ("a.png", "b.png", "ünïcode, with comma.png"):
        (tmp_path / name).write_bytes(b"any")
    return tmp_path


def write(folder, text):
    manifest = folder / "people.csv"
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    return manifest


def test_rows_are_read_in_order_with_their_leading_zeros(folder):
    rows = read_manifest(write(folder, "path,identity,camera\nb.png,0007,c2\na.png,7,c1\n"))
    assert [(row.path, row.identity, row.camera) for row in rows] == [
        (folder / "b.png", "0007", "c2"),
        (folder / "a.png", "7", "c1"),
    ]
    assert rows[0].captured_at is None
    assert rows[0].split is None


def test_time_and_split_are_read_where_they_are_given(folder):
    rows = read_manifest(
        write(
            folder,
            "path,identity,camera,captured_at,split\n"
            "a.png,1,c1,2024-05-01T12:00:00Z,query\n"
            "b.png,1,c2,2024-05-01T14:00:00.5+02:00,\n",
        )
    )
    noon = datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert [row.captured_at for row in rows] == [noon, noon + timedelta(seconds=0.5)]
    assert [row.split for row in rows] == ["query", None]


def test_quoted_names_may_hold_commas_and_any_letters(folder):
    rows = read_manifest(write(folder, 'path,identity,camera\n"ünïcode, with comma.png",Å,β\n'))
    assert (rows[0].path.name, rows[0].identity) == ("ünïcode, with comma.png", "Å")


def test_absolute_paths_are_taken_as_they_are(folder, tmp_path):
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    rows = read_manifest(write(elsewhere, f"path,identity,camera\n{folder / 'a.png'},1,c1\n"))
    assert rows[0].path == folder / "a.png"


@pytest.mark.parametrize(("name", "words"), [("none.csv", "No such file"), ("", "Is a directory")])
def test_a_manifest_that_cannot_be_opened_is_named(tmp_path, name, words):
    with pytest.raises(
        ManifestProblem, match=rf"\({words}.*name a readable CSV manifest"
    ) as caught:
        read_manifest(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize("text", ["path,identity\n", "path,identity,camera\n", MISSING, b"\xff"])
def test_within_a_folder_problems_do_not_name_what_lies_above_it(folder, text):
    with pytest.raises(ManifestProblem, match=r"^people\.csv[:,]") as caught:
        read_manifest(write(folder, text), folder.resolve())
    assert str(folder) not in str(caught.value)


def test_a_manifest_of_very_many_columns_is_refused(folder):
    manifest = write(folder, "path" + ",more" * 1_000 + "\na.png\n")
    with pytest.raises(ManifestProblem, match="line 1: has 1,001 columns"):
        read_manifest(manifest, required=("path",))


def test_labels_that_are_not_required_may_be_empty_or_missing(folder):
    manifest = write(folder, 'path,metadata,note\na.png,"{""a"": 1}",x\nb.png,,\n')
    ignored = Ignored()
    first, second = read_manifest(manifest, required=("path",), ignored=ignored)
    assert (first.identity, first.camera, first.metadata) == (None, None, '{"a": 1}')
    assert (second.identity, second.metadata) == (None, None)
    assert [line.name.rpartition(": ")[2] for line in ignored.lines()] == ["note"]


@pytest.mark.parametrize(
    ("written", "on_disk"),
    [
        ("Zoë/josé.png", "NFD"),
        (unicodedata.normalize("NFD", "Zoë/josé.png"), "NFC"),
        # A keyboard of Vietnamese writes a base and a tone.
        ("Nguy\u00ea\u0303n/ê.png", "NFC"),
        ("Nguy\u00ea\u0303n/ê.png", "NFD"),
    ],
)
def test_a_path_finds_its_file_in_any_unicode_form(tmp_path, written, on_disk):
    file = tmp_path / unicodedata.normalize(on_disk, written)
    file.parent.mkdir()
    file.write_bytes(b"any")
    manifest = write(tmp_path, f"path,identity,camera\n{written},1,c1\n")
    for within in (None, tmp_path.resolve()):
        assert [row.path for row in read_manifest(manifest, within)] == [file]
    again = f"path,identity,camera\n{written},1,c1\n{file.relative_to(tmp_path)},1,c1\n"
    with pytest.raises(ManifestProblem, match="is listed already on line 2"):
        read_manifest(write(tmp_path, again))


def test_of_two_files_whose_names_differ_only_in_form_each_is_found(tmp_path):
    names = [unicodedata.normalize(form, "josé.png") for form in ("NFC", "NFD")]
    for name in names:
        (tmp_path / name).write_bytes(b"any")
    rows = "".join(f"{name},1,c1\n" for name in names)
    read = read_manifest(write(tmp_path, f"path,identity,camera\n{rows}"))
    assert [row.path.name for row in read] == names


def test_no_file_outside_an_import_is_found_by_another_form_of_its_name(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    secret = tmp_path / unicodedata.normalize("NFD", "é.png")
    secret.write_bytes(b"any")
    (inside / unicodedata.normalize("NFD", "ü.png")).symlink_to(secret)
    for name in ("../é.png", "ü.png", "é.png"):
        manifest = write(inside, f"path,identity,camera\n{name},1,c1\n")
        with pytest.raises(ManifestProblem, match=r"…: (lies outside the import|no such file)"):
            read_manifest(manifest, inside.resolve())
