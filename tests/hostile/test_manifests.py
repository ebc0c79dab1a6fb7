"""Hostile manifests: rows, or a problem that names the line and says what to do."""

import json
import resource
import sys

import pytest

from model.crops.manifest import ManifestProblem, read_manifest
from tests.hostile.pictures import drawn
from tests.outside import encoded, run_command

pytestmark = pytest.mark.promise("hostile-files")

HEAD = b"path,identity,camera\n"
ONE = HEAD + b"a.png,1,c1\n"
EARLY = b"0001-01-01T00:00:00+23:59"
LATE = b"9999-12-31T23:59:59-23:59"
WHOLE = {
    "nothing": (b"", "the header lacks path"),
    "a header alone": (HEAD, "has no rows"),
    "a missing column": (b"path,identity\n", "lacks camera; it must be path,identity,camera"),
    "UTF-16": (ONE.decode().encode("utf-16"), "not a UTF-8 CSV file"),
    "UTF-32": (ONE.decode().encode("utf-32"), "not a UTF-8 CSV file"),
    "NULs": (bytes(5_000), "header lacks"),
    "a line of 2,000,000": (ONE + b"," * 2_000_000, "line 3: is over 1,000,000"),
    "a header of 2,000,000": (b"," * 2_000_000, "line 1: is over 1,000,000"),
    "columns by semicolons": (b"path;identity;camera\na.png;1;c1\n", "by semicolons; save"),
    "columns in capitals": (b"PATH,IDENTITY,CAMERA\na.png,1,c1\n", "did you mean path"),
    "JSON": (b'{"path": "a.png", "identity": "1", "camera": "c1"}\n', "not a UTF-8 CSV"),
    "a very long name of a column": (b"path,identity,camera" + b"y" * 99_000, "lacks camera"),
    "a row of many short lines": (ONE + b'"\n",' * 300_000, "line 250003: is over 1,000,000"),
    "very long names of columns": (b"path," + b"identityy," * 90_000, "has 90,002 columns"),
    "deep JSON": (b"[" * 500_000, "the header lacks|field larger"),
    "one file twice": (ONE + b"./a.png,1,c1\n", "line 3: ./a.png is listed already on line 2"),
}
ROWS = {
    "Latin-1": ("a.png,ü,c1".encode("latin-1"), "not a UTF-8 CSV file"),
    "half of a surrogate pair": (b"a.png,\xed\xa0\x80,c1", "not a UTF-8 CSV file"),
    "an open quote": (b'"a.png,1,c1', "not a UTF-8 CSV file"),
    "a quote amid": (b'"a".png,1,c1', "not a UTF-8 CSV file"),
    "a field of 200,000": (b"a.png," + b"x" * 200_000 + b",c1", "field larger than field"),
    "too many values": (b"a.png,1,c1,2,3,4,5", "line 2: more values than columns"),
    "too few values": (b"a.png,1", "line 2: camera is empty"),
    "no path": (b",1,c1", "line 2: path is empty"),
    "no identity": (b"a.png, ,c1", "line 2: identity is empty"),
    "no such file": (b"c.png,1,c1", "line 2: c.png: no such file"),
    "NUL in a path": (b"a\0.png,1,c1", "line 2: a\ufffd.png: cannot be opened"),
    "a path of 10,000": (b"n" * 10_000 + b",1,c1", "cannot be opened|no such file"),
    "a folder": (b".,1,c1", "is a folder"),
    "a loop of links": (b"loop.png,1,c1", "cannot be opened|no such file"),
    "no time": (b"a.png,1,c1,1e999", "is not an RFC 3339 time"),
    "a time without a zone": (b"a.png,1,c1,2024-05-01T12:00:00", "lacks a time zone"),
    "before all time": (b"a.png,1,c1," + EARLY, "outside the years 1 to 9999"),
    "after all time": (b"a.png,1,c1," + LATE, "outside the years 1 to 9999"),
    "metadata that are a list": (b"a.png,1,c1,,[1]", "line 2: metadata"),
    "deep metadata": (b"a.png,1,c1,," + b"[" * 100_000, "line 2: metadata"),
    "a split that rings": (b"a.png,1,c1,,,\a\a", "split '\ufffd"),
}
COLUMNS = b"path,identity,camera,captured_at,metadata,split\n"
CASES = WHOLE | {name: (COLUMNS + row + b"\n", why) for name, (row, why) in ROWS.items()}
TAKEN = {
    "a mark of the byte order": b"\xef\xbb\xbf" + HEAD + b"a.png,0001,c1\n",
    "lines as Windows ends them": HEAD.replace(b"\n", b"\r\n") + b"a.png,0001,c1\r\n\r\n",
    "a line's end within quotes": b'note,path,identity,camera\n"two\nlines",a.png,0001,c1\n',
    "further columns": b"path,identity,camera" + b",x" * 100 + b"\na.png,0001,c1\n",
    "no end of its last line": HEAD + b"a.png,0001,c1",
}


@pytest.fixture
def write(tmp_path):
    (tmp_path / "a.png").write_bytes(encoded(drawn(), "PNG"))
    (tmp_path / "loop.png").symlink_to("loop.png")

    def write_one(content):
        (tmp_path / "manifest.csv").write_bytes(content)
        return tmp_path / "manifest.csv"

    return write_one


@pytest.mark.parametrize(("content", "why"), CASES.values(), ids=CASES)
def test_a_hostile_manifest_is_refused_and_says_where(write, tmp_path, content, why):
    with pytest.raises(ManifestProblem, match=why) as refused:
        read_manifest(write(content))
    said = str(refused.value)
    assert said.startswith(str(tmp_path))
    assert len(said.splitlines()) == 1
    assert "; " in said or "is not one of" in said
    assert len(said) < 1_000


@pytest.mark.parametrize("content", TAKEN.values(), ids=TAKEN)
def test_an_odd_manifest_is_read(write, content):
    (row,) = read_manifest(write(content))
    assert (row.path.name, row.identity, row.camera) == ("a.png", "0001", "c1")


def test_a_line_without_an_end_does_not_fill_the_memory(write):
    manifest = write(b"")
    with manifest.open("wb") as file:
        file.write(HEAD)
        file.truncate(2_000_000_000)  # zeros that take no room on the disk
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ManifestProblem, match="over 1,000,000 characters"):
        read_manifest(manifest)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def peaks_of(*manifests):
    """Return the growth of memory in MB while exports with these manifests are read."""
    command = [sys.executable, "-m", "tests.hostile.costly_manifests", *manifests]
    measured = [json.loads(line) for line in run_command(*command, check=True).stdout.splitlines()]
    print(measured)  # noqa: T201
    return {row["input"]: row["peak_mb"] for row in measured}


def test_a_manifest_takes_no_more_memory_for_more_or_longer_rows():
    peaks = peaks_of("few rows", "many rows", "long rows", "one row")
    assert len(peaks) == 4
    assert max(peaks.values()) - peaks["few rows"] < 20


@pytest.mark.slow
@pytest.mark.parametrize("largest", ["most rows", "most bytes"])
def test_a_manifest_of_200_mb_or_400_000_rows_takes_little_more_memory_than_a_small_one(largest):
    peaks = peaks_of("few rows", largest)
    assert peaks[largest] - peaks["few rows"] < 40
