"""The CSV manifest: what is read from it, and how the first wrong row is named."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from model.crops.manifest import ManifestProblem, read_manifest
from model.crops.names import Ignored

MISSING = "path,identity,camera\nnobody.png,1,c1\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with three files to list; a manifest's reader does not open them."""
    for name in ("a.png", "b.png", "ünïcode, with comma.png"):
        (tmp_path / name).write_bytes(b"any")
    return tmp_path


def write(folder: Path, text: str | bytes) -> Path:
    manifest = folder / "people.csv"
    manifest.write_bytes(text if isinstance(text, bytes) else text.encode())
    return manifest


def problem_with(manifest: Path) -> str:
    with pytest.raises(ManifestProblem) as caught:
        read_manifest(manifest)
    message = str(caught.value)
    assert message.startswith(str(manifest))
    assert len(message.splitlines()) == 1
    return message.removeprefix(str(manifest))


def test_rows_are_read_in_order_with_their_leading_zeros(folder: Path) -> None:
    rows = read_manifest(write(folder, "path,identity,camera\nb.png,0007,c2\na.png,7,c1\n"))
    assert [(row.path, row.identity, row.camera) for row in rows] == [
        (folder / "b.png", "0007", "c2"),
        (folder / "a.png", "7", "c1"),
    ]
    assert rows[0].captured_at is None
    assert rows[0].split is None


def test_time_and_split_are_read_where_they_are_given(folder: Path) -> None:
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


def test_columns_may_come_in_any_order_beside_others(folder: Path) -> None:
    rows = read_manifest(write(folder, "note,camera,path,identity\nshop,c1,a.png,1\n"))
    assert (rows[0].camera, rows[0].identity) == ("c1", "1")


def test_a_byte_order_mark_and_windows_line_ends_are_no_obstacle(folder: Path) -> None:
    rows = read_manifest(write(folder, b"\xef\xbb\xbfpath,identity,camera\r\na.png,1,c1\r\n\r\n"))
    assert rows[0].path == folder / "a.png"


def test_quoted_names_may_hold_commas_and_any_letters(folder: Path) -> None:
    rows = read_manifest(write(folder, 'path,identity,camera\n"ünïcode, with comma.png",Å,β\n'))
    assert (rows[0].path.name, rows[0].identity) == ("ünïcode, with comma.png", "Å")


def test_absolute_paths_are_taken_as_they_are(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    rows = read_manifest(write(elsewhere, f"path,identity,camera\n{folder / 'a.png'},1,c1\n"))
    assert rows[0].path == folder / "a.png"


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    assert "(No such file or directory); name a readable CSV manifest" in problem_with(
        tmp_path / "none.csv"
    )


def test_a_folder_in_the_place_of_a_manifest_is_named(tmp_path: Path) -> None:
    assert "(Is a directory); name a readable CSV manifest" in problem_with(tmp_path)


@pytest.mark.parametrize(
    ("header", "missing"),
    [("path,identity", "camera"), ("a.png,1,c1", "path, identity, camera"), ("", "path")],
)
def test_a_missing_column_is_named_with_the_header_to_write(
    folder: Path, header: str, missing: str
) -> None:
    message = problem_with(write(folder, f"{header}\na.png,1\n"))
    assert f"line 1: the header lacks {missing}" in message
    assert "path,identity,camera[,captured_at,external_id,metadata,track,split]" in message


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        (",1,c1", "path is empty"),
        ("a.png,,c1", "identity is empty"),
        ("a.png, ,c1", "identity is empty"),
        ("a.png,1", "camera is empty"),
        ("a.png", "identity is empty"),
        ("c.png,1,c1", "c.png: no such file"),
        (".,1,c1", "is a folder, not an image"),
        ("a\0.png,1,c1", "cannot be opened"),
        ("x" * 5000 + ".png,1,c1", "cannot be opened"),
        ("a.png,1,c1,,,surplus", "more values than columns"),
        ("a.png,1,c1,2024-05-01T12:00:00,", "is not RFC 3339 with a time zone"),
        ("a.png,1,c1,yesterday,", "is not RFC 3339 with a time zone"),
        ("a.png,1,c1,2024-13-01T12:00:00Z,", "is not RFC 3339 with a time zone"),
        ("a.png,1,c1,,test", "'test' is not one of train, query, gallery"),
        ("b.png,2,c1", "b.png is listed already on line 2"),
        ("./b.png,2,c1", "./b.png is listed already on line 2"),
    ],
)
def test_the_first_wrong_row_is_named_with_its_line(folder: Path, row: str, complaint: str) -> None:
    header = "path,identity,camera,captured_at,split"
    message = problem_with(write(folder, f"{header}\nb.png,1,c1,,\n{row}\n"))
    assert message.startswith(", line 3: ")
    assert complaint in message


@pytest.mark.parametrize(
    "data",
    [
        "path,identity,camera\nä.png,1,c1\n".encode("latin-1"),
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b'path,identity,camera\n"a.png,1,c1\n',
        "path,identity,camera\n".encode("utf-16"),
    ],
)
def test_what_is_no_utf8_csv_is_refused_with_the_remedy(folder: Path, data: bytes) -> None:
    assert "not a UTF-8 CSV file" in problem_with(write(folder, data))


def test_a_manifest_without_rows_is_refused(folder: Path) -> None:
    assert "has no rows" in problem_with(write(folder, "path,identity,camera\n"))


@pytest.mark.parametrize("text", ["path,identity\n", "path,identity,camera\n", MISSING, b"\xff"])
def test_within_a_folder_problems_do_not_name_what_lies_above_it(folder: Path, text) -> None:
    with pytest.raises(ManifestProblem, match=r"^people\.csv[:,]") as caught:
        read_manifest(write(folder, text), folder.resolve())
    assert str(folder) not in str(caught.value)


def test_labels_that_are_not_required_may_be_empty_or_missing(folder: Path) -> None:
    manifest = write(folder, 'path,metadata,note\na.png,"{""a"": 1}",x\nb.png,,\n')
    ignored = Ignored()
    first, second = read_manifest(manifest, required=("path",), ignored=ignored)
    assert (first.identity, first.camera, first.metadata) == (None, None, '{"a": 1}')
    assert (second.identity, second.metadata) == (None, None)
    assert [line.name.rpartition(": ")[2] for line in ignored.lines()] == ["note"]


@pytest.mark.parametrize("metadata", ["[1]", "night", "{", "[" * 100_000])
def test_metadata_that_are_no_json_object_are_named(folder: Path, metadata: str) -> None:
    message = problem_with(write(folder, f"path,identity,camera,metadata\na.png,1,c1,{metadata}\n"))
    assert "line 2: metadata" in message
