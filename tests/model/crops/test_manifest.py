"""The CSV manifest: what is read from it, and how the first wrong row is named."""

import unicodedata
from datetime import UTC, datetime, timedelta

import pytest

from model.crops.manifest import ManifestProblem, find_manifest, read_manifest
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


@pytest.mark.parametrize("name", ["manifest.csv", "Manifest.csv", "MANIFEST.CSV", "manifest.CSV"])
def test_a_manifest_is_found_with_capitals_in_its_name(folder, name):
    assert find_manifest(folder) is None
    (folder / "manifest.csv.png").write_bytes(b"any")
    (folder / name).write_text("path\na.png\n")
    assert find_manifest(folder) == folder / name


def test_two_manifests_in_a_folder_are_refused(folder):
    (folder / "Manifest.csv").mkdir()
    (folder / "manifest.csv").write_text("path\na.png\n")
    assert find_manifest(folder) == folder / "manifest.csv"
    (folder / "MANIFEST.csv").write_text("path\nb.png\n")
    with pytest.raises(ManifestProblem, match=r"MANIFEST.csv and manifest.csv are both there; "):
        find_manifest(folder)


@pytest.mark.parametrize("blank", [",,", ",", " , ,\t", ",,,,,,", '"",""', "\u00a0,,", "\r\n,,"])
def test_a_blank_row_is_passed_over(folder, blank):
    # Excel writes them where a row was emptied, mostly as the last ones.
    text = f"path,identity,camera\n{blank}\na.png,1,c1\n{blank}\nb.png,2,c1\n{blank}\n{blank}\n"
    rows = read_manifest(write(folder, text))
    assert [(row.path.name, row.identity) for row in rows] == [("a.png", "1"), ("b.png", "2")]
    with pytest.raises(ManifestProblem, match="has no rows"):
        read_manifest(write(folder, f"path,identity,camera\n{blank}\n"))
    with pytest.raises(ManifestProblem, match="path is empty"):
        read_manifest(write(folder, "path,identity,camera\n,1,\n"))


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


def test_a_link_out_of_an_import_does_not_tell_which_files_lie_behind_it(tmp_path):
    inside = tmp_path / "inside"
    outside = tmp_path / "outside"
    for folder in (inside, outside):
        folder.mkdir()
    (outside / unicodedata.normalize("NFD", "é.png")).write_bytes(b"any")
    (inside / unicodedata.normalize("NFD", "ü")).symlink_to(outside)
    for name in ("ü/é.png", "ü/missing.png"):
        manifest = write(inside, f"path,identity,camera\n{name},1,c1\n")
        with pytest.raises(ManifestProblem, match="lies outside the import"):
            read_manifest(manifest, inside.resolve())


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
        with pytest.raises(ManifestProblem, match=r"(lies outside the import|no such file)"):
            read_manifest(manifest, inside.resolve())


HEADERS = {
    "spaces": "path, identity, camera",
    "spaces before commas": "path ,identity ,camera ",
    "quotes": '"path", "identity", "camera"',
    "quotes that a program quoted": '"""path""","""identity""","""camera"""',
    "curly quotes": "“path”,“identity”,“camera”",
    "no-break spaces": "\u00a0path\u00a0,\u00a0identity,\u202fcamera",
    "two marks of the byte order": '\ufeff\ufeff"path",identity,camera',
    "zero-width spaces": "path\u200b,identity\u200b,camera",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_what_surrounds_the_names_of_columns_is_left_out(folder, header):
    (row,) = read_manifest(write(folder, f'{header}\na.png, "Ann", c1\n'), required=("path",))
    assert (row.path.name, row.identity, row.camera) == ("a.png", "Ann", "c1")


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("Identity", "identity"),
        ("IDENTITY", "identity"),
        ("idenity", "identity"),
        ("indentity", "identity"),
        ("idnetity", "identity"),
        ("identify", "identity"),
        ("identity:", "identity"),
        ("Camera", "camera"),
        ("camra", "camera"),
        ("cameras", "camera"),
        ("Captured At", "captured_at"),
        ("captured-at", "captured_at"),
        ("capturedAt", "captured_at"),
        ("captured_att", "captured_at"),
        ("captured", "captured_at"),
        ("external id", "external_id"),
        ("ExternalID", "external_id"),
        ("meta-data", "metadata"),
        ("metdata", "metadata"),
        ("Track", "track"),
        ("trakc", "track"),
        ("Split", "split"),
        ("splits", "split"),
    ],
)
def test_a_column_of_nearly_a_known_name_is_refused_before_its_labels_are_lost(
    folder, column, meant
):
    manifest = write(folder, f"path,{column}\na.png,Ann\n")
    with pytest.raises(
        ManifestProblem, match=rf"line 1: .*; did you mean {meant}\? Rename"
    ) as said:
        read_manifest(manifest, required=("path",))
    assert repr(column) in str(said.value)


@pytest.mark.parametrize("header", ["Path,identity", "paht,identity", "path name,pth"])
def test_a_path_that_is_misspelt_is_said_to_be(folder, header):
    with pytest.raises(ManifestProblem, match=r"did you mean path\?"):
        read_manifest(write(folder, f"{header}\na.png,Ann\n"), required=("path",))


def test_a_label_that_training_needs_and_that_is_misspelt_is_said_to_be(folder):
    with pytest.raises(ManifestProblem, match=r"did you mean camera\?"):
        read_manifest(write(folder, "path,identity,Camera\na.png,Ann,c1\n"))


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "Image Path,PID,CamID",
            "; 'Image Path' looks like path, 'PID' looks like identity, 'CamID' looks like camera: "
            "rename them",
        ),
        ("path,person_id,camera", "; 'person_id' looks like identity: rename it"),
        ("path,identity,cam", "; 'cam' looks like camera: rename it"),
        ("img_path,identity,camera", "; 'img_path' looks like path: rename it"),
        ("path,identity,weather", "split]"),
    ],
)
def test_a_column_of_another_name_for_a_missing_one_is_named(folder, header, said):
    manifest = write(folder, f"{header}\na.png,1,2\n")
    with pytest.raises(ManifestProblem, match="line 1: the header lacks") as refused:
        read_manifest(manifest)
    assert str(refused.value).endswith(said)


@pytest.mark.parametrize(
    "column",
    [
        *("note", "weather", "person", "name", "id", "pid", "cam", "camera_id", "track_id", "date"),
        *("identity_source", "camera_model", "meta", "file", "x", "", "age", "lane", "time"),
    ],
)
def test_another_column_is_unknown_and_no_mistake(folder, column):
    ignored = Ignored()
    manifest = write(folder, f"path,{column}\na.png,x\n")
    (row,) = read_manifest(manifest, required=("path",), ignored=ignored)
    assert row.identity is None
    assert ["column is unknown" in line.reason for line in ignored.lines()] == [True]


def test_a_column_that_resembles_a_known_one_may_stand_beside_it(folder):
    manifest = write(folder, "path,identity,identifier,identityx\na.png,Ann,1,2\n")
    (row,) = read_manifest(manifest, required=("path",))
    assert row.identity == "Ann"


@pytest.mark.parametrize(
    "header", ["path,identity,identity", "path, identity,identity ", "path,path", 'path,"path"']
)
def test_a_known_column_that_occurs_twice_is_refused(folder, header):
    with pytest.raises(ManifestProblem, match=r"line 1: the column .* occurs twice; keep one"):
        read_manifest(write(folder, f"{header}\na.png,Ann,Bob\n"), required=("path",))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path;identity\na.png;Ann\n", "separated by semicolons; save the file with commas"),
        ("Path; Identity\na.png;Ann\n", "separated by semicolons"),
        ("identity;path,x\n", "separated by semicolons"),
        ('"path";"identity"\n', "separated by semicolons|not a UTF-8 CSV"),
        ("path\tidentity\na.png\tAnn\n", "separated by tabs; save the file with commas"),
        ("path|identity\na.png|Ann\n", "separated by vertical bars; save the file with commas"),
        ("sep=;\npath;identity\na.png;Ann\n", "note on the separator .*; remove this line"),
        ("sep=,\npath,identity\na.png,Ann\n", "note on the separator .*; remove this line"),
        ("SEP=\t\npath\tidentity\n", "note on the separator .*; remove this line"),
    ],
)
def test_another_separator_than_the_comma_is_named(folder, text, reason):
    with pytest.raises(ManifestProblem, match=reason):
        read_manifest(write(folder, text), required=("path",))


@pytest.fixture
def nested(folder):
    (folder / "sub" / "deep").mkdir(parents=True)
    for name in ("sub/1.png", "sub/deep/2.png", "own\\name.png"):
        (folder / name).write_bytes(b"any")
    (folder.parent / "outside.png").write_bytes(b"any")
    return folder


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("sub\\1.png", "sub/1.png"),
        (".\\sub\\1.png", "sub/1.png"),
        ("sub\\deep\\2.png", "sub/deep/2.png"),
        ("sub/deep\\2.png", "sub/deep/2.png"),
        ("sub\\..\\a.png", "a.png"),
        ("own\\name.png", "own\\name.png"),
    ],
)
def test_backslashes_separate_folders_as_on_windows(nested, path, found, within):
    manifest = write(nested, f"path\n{path}\n")
    (row,) = read_manifest(manifest, nested.resolve() if within else None, required=("path",))
    assert row.path == nested / found


@pytest.mark.parametrize("within", [True, False])
@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("..\\outside.png", "lies outside the (import|manifest's folder); correct the path"),
        ("sub\\..\\..\\outside.png", "lies outside the"),
        ("..\\..\\x.png", "lies outside the"),
        ("C:\\photos\\1.png", "is an absolute path of Windows; write a path that begins"),
        ("\\photos\\1.png", "is an absolute path of Windows"),
        ("\\\\nas\\photos\\1.png", "is an absolute path of Windows"),
        ("sub\\3.png", "no such file; correct the path"),
        ("sub\\deep", "is a folder, not an image"),
    ],
)
def test_backslashes_lead_to_no_file_outside(nested, path, reason, within):
    manifest = write(nested, f"path\n{path}\n")
    with pytest.raises(ManifestProblem, match=reason) as refused:
        read_manifest(manifest, nested.resolve() if within else None, required=("path",))
    assert f"line 2: {path}: " in str(refused.value)


@pytest.mark.parametrize(
    "path",
    [
        *("@eaDir/1.png", "sub/@EADIR/1.png", "sub\\@eaDir\\1.png", "#recycle/1.png", "._a.png"),
        *(".git/1.png", "./@eaDir/1.png", "{folder}/@eaDir/1.png"),
    ],
)
def test_a_by_product_that_a_manifest_names_is_refused_as_such(nested, path):
    path = path.format(folder=nested)
    for name in ("@eaDir/1.png", "sub/@EADIR/1.png", "sub/@eaDir/1.png", "#recycle/1.png"):
        (nested / name).parent.mkdir(exist_ok=True)
        (nested / name).write_bytes(b"any")
    with pytest.raises(ManifestProblem, match=r"for its own use, .*; remove the row") as refused:
        read_manifest(write(nested, f"path\n{path}\n"), required=("path",))
    assert f"line 2: {path}: " in str(refused.value)


def test_a_manifest_may_lie_in_a_by_product_itself_and_name_hidden_files(tmp_path):
    folder = tmp_path / "#snapshot" / "people"
    (folder / ".crops").mkdir(parents=True)
    (folder / ".crops" / "1.png").write_bytes(b"any")
    elsewhere = tmp_path / "@eaDir" / "2.png"
    elsewhere.parent.mkdir()
    elsewhere.write_bytes(b"any")
    rows = read_manifest(write(folder, f"path\n.crops/1.png\n{elsewhere}\n"), required=("path",))
    assert [row.path for row in rows] == [folder / ".crops" / "1.png", elsewhere]


def test_a_link_into_a_by_product_is_followed(folder):
    store = folder / ".git" / "objects"
    store.mkdir(parents=True)
    (store / "1").write_bytes(b"any")
    (folder / "linked.png").symlink_to(store / "1")
    (row,) = read_manifest(write(folder, "path\nlinked.png\n"), required=("path",))
    assert row.path == store / "1"
