"""Hostile manifests: rows, or a problem that names the line and says what to do."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from model.crops.manifest import ManifestProblem, read_manifest
from tests.hostile.pictures import drawn, encoded

HEAD = b"path,identity,camera\n"
CASES = {
    "nothing": (b"", "the header lacks path"),
    "a header alone": (HEAD, "has no rows"),
    "UTF-16": ((HEAD + b"a.png,1,c1\n").decode().encode("utf-16"), "not a UTF-8 CSV file"),
    "UTF-32": ((HEAD + b"a.png,1,c1\n").decode().encode("utf-32"), "not a UTF-8 CSV file"),
    "Latin-1": (HEAD + "a.png,ü,c1\n".encode("latin-1"), "not a UTF-8 CSV file"),
    "half of a surrogate pair": (HEAD + b"a.png,\xed\xa0\x80,c1\n", "not a UTF-8 CSV file"),
    "NUL in a path": (HEAD + b"a\0.png,1,c1\n", "line 2: a\ufffd.png: cannot be opened"),
    "NULs": (bytes(5_000), "header lacks"),
    "a field of 200,000": (HEAD + b"a.png," + b"x" * 200_000 + b",c1\n", "field larger than field"),
    "a line of 2,000,000": (HEAD + b"a.png,1,c1\n" + b"," * 2_000_000, "line 3: is over 1,000,000"),
    "a header of 2,000,000": (b"," * 2_000_000, "line 1: is over 1,000,000"),
    "an open quote": (HEAD + b'"a.png,1,c1\n' * 3, "not a UTF-8 CSV file"),
    "a quote amid": (HEAD + b'"a".png,1,c1\n', "not a UTF-8 CSV file"),
    "columns by semicolons": (b"path;identity;camera\na.png;1;c1\n", "the header lacks"),
    "columns in capitals": (b"PATH,IDENTITY,CAMERA\na.png,1,c1\n", "the header lacks"),
    "too many values": (HEAD + b"a.png,1,c1,2,3\n", "line 2: more values than columns"),
    "too few values": (HEAD + b"a.png,1\n", "line 2: camera is empty"),
    "a path of 10,000": (HEAD + b"n" * 10_000 + b",1,c1\n", "cannot be opened|no such file"),
    "a folder": (HEAD + b".,1,c1\n", "is a folder"),
    "a loop of links": (HEAD + b"loop.png,1,c1\n", "cannot be opened|no such file"),
    "JSON": (b'{"path": "a.png", "identity": "1", "camera": "c1"}\n', "the header lacks"),
    "deep JSON": (b"[" * 500_000, "the header lacks|field larger"),
    "no time": (b"path,identity,camera,captured_at\na.png,1,c1,1e999\n", "is not RFC 3339"),
    "before all time": (
        b"path,identity,camera,captured_at\na.png,1,c1,0001-01-01T00:00:00+23:59\n",
        "is not RFC 3339",
    ),
    "after all time": (
        b"path,identity,camera,captured_at\na.png,1,c1,9999-12-31T23:59:59-23:59\n",
        "is not RFC 3339",
    ),
    "a split that rings": (b"path,identity,camera,split\na.png,1,c1,\a\a\n", "split '\ufffd"),
    "one file twice": (HEAD + b"a.png,1,c1\n./a.png,1,c1\n", "listed already on line 2"),
}
TAKEN = {
    "a mark of the byte order": b"\xef\xbb\xbf" + HEAD + b"a.png,0001,c1\n",
    "lines as Windows ends them": HEAD.replace(b"\n", b"\r\n") + b"a.png,0001,c1\r\n\r\n",
    "a line's end within quotes": b'note,path,identity,camera\n"two\nlines",a.png,0001,c1\n',
    "further columns": b"path,identity,camera" + b",x" * 100 + b"\na.png,0001,c1\n",
    "no end of its last line": HEAD + b"a.png,0001,c1",
}


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(encoded(drawn(), "PNG"))
    (tmp_path / "loop.png").symlink_to("loop.png")

    def write_one(content: bytes) -> Path:
        (tmp_path / "manifest.csv").write_bytes(content)
        return tmp_path / "manifest.csv"

    return write_one


@pytest.mark.parametrize(("content", "why"), CASES.values(), ids=CASES)
def test_a_hostile_manifest_is_refused_and_says_where(write, content, why) -> None:
    with pytest.raises(ManifestProblem, match=why) as refused:
        read_manifest(write(content))
    said = str(refused.value)
    assert "; " in said or "such as 2024" in said or "is not one of" in said
    assert len(said) < 1_000


@pytest.mark.parametrize("content", TAKEN.values(), ids=TAKEN)
def test_an_odd_manifest_is_read(write, content) -> None:
    (row,) = read_manifest(write(content))
    assert (row.path.name, row.identity, row.camera) == ("a.png", "0001", "c1")


def test_a_line_without_an_end_does_not_fill_the_memory(write) -> None:
    manifest = write(b"")
    with manifest.open("wb") as file:
        file.write(HEAD)
        file.truncate(2_000_000_000)  # zeros that take no room on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ManifestProblem, match="over 1,000,000 characters"):
        read_manifest(manifest)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB
