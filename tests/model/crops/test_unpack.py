"""Archives are unpacked within limits, and nowhere else than they were told."""

from __future__ import annotations

import stat
import zipfile

import pytest

from model.crops.names import Ignored
from model.crops.unpack import UnpackLimits, unpack_crops
from model.problems import InputProblem

LIMITS = UnpackLimits(max_bytes=10_000, max_entry_bytes=4_000)


def _zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def _unpack(archive, into):
    return unpack_crops(archive, into, LIMITS, Ignored())


def _unpacked(into):
    return sorted(str(file.relative_to(into)) for file in into.rglob("*") if file.is_file())


def test_images_and_manifests_are_unpacked_and_the_rest_is_passed_by(tmp_path):
    entries = {
        "people/a.jpg": b"a",
        "b.PNG": b"b",
        "people.csv": b"path",
        "read me.txt": b"-",
        ".hidden/c.jpg": b"c",
        "__MACOSX/._a.jpg": b"d",
    }
    archive = _zip(tmp_path / "archive", entries)
    into = tmp_path / "into"
    into.mkdir()
    assert _unpack(archive, into) == []
    assert _unpacked(into) == ["b.PNG", "people.csv", "people/a.jpg"]


@pytest.mark.parametrize("name", ["../out.jpg", "/tmp/out.jpg", "a/../../out.jpg", "..\\out.jpg"])
def test_no_entry_leaves_its_folder(tmp_path, name):
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    left_out = _unpack(_zip(tmp_path / "archive", {name: b"x", "in.jpg": b"y"}), into)
    assert ["leads out of the archive" in file.reason for file in left_out] == [True]
    assert _unpacked(into) == ["in.jpg"]
    assert _unpacked(tmp_path / "deep") == ["into/in.jpg"]


def test_a_link_becomes_a_file_that_leads_nowhere(tmp_path):
    link = zipfile.ZipInfo("a.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    into = tmp_path / "into"
    into.mkdir()
    assert _unpack(tmp_path / "archive", into) == []
    assert not (into / "a.jpg").is_symlink()
    assert (into / "a.jpg").read_bytes() == b"/etc/passwd"


def test_a_large_entry_is_left_out_and_the_others_come(tmp_path):
    archive = _zip(tmp_path / "archive", {"big.jpg": b"0" * 5_000, "small.jpg": b"1"})
    left_out = _unpack(archive, tmp_path)
    assert [file.name for file in left_out] == ["big.jpg"]
    assert "5,000 bytes" in left_out[0].reason
    assert (tmp_path / "small.jpg").read_bytes() == b"1"


def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path):
    entries = {f"{n}.jpg": b"0" * 3_900 for n in range(9)}
    with pytest.raises(InputProblem, match="more bytes than are allowed"):
        _unpack(_zip(tmp_path / "archive", entries), tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.jpg")) <= LIMITS.max_bytes


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.9])
def test_a_damaged_archive_says_so(tmp_path, share):
    archive = _zip(tmp_path / "archive", {f"{n}.jpg": bytes(range(256)) * 9 for n in range(4)})
    held = archive.read_bytes()
    archive.write_bytes(held[: int(len(held) * share)])
    with pytest.raises(InputProblem, match="archive"):
        _unpack(archive, tmp_path)


def test_an_encrypted_entry_says_what_to_do(tmp_path):
    archive = _zip(tmp_path / "archive", {"a.jpg": b"a" * 100, "b.jpg": b"b"})
    held = bytearray(archive.read_bytes())
    held[6] |= 1
    held[held.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(held)
    (left_out,) = _unpack(archive, tmp_path)
    assert left_out.name == "a.jpg"
    assert "password" in left_out.reason
    assert (tmp_path / "b.jpg").read_bytes() == b"b"
