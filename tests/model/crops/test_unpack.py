"""Archives are unpacked within limits, and nowhere else than they were told."""

from __future__ import annotations

import io
import tarfile
import zipfile

import pytest

from model.crops.unpack import UnpackLimits, unpack_crops
from model.problems import InputProblem

LIMITS = UnpackLimits(max_bytes=10_000, max_entry_bytes=4_000)


def _zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def _tar(path, entries, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def _unpacked(into):
    return sorted(str(file.relative_to(into)) for file in into.rglob("*") if file.is_file())


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_images_and_manifests_are_unpacked_and_the_rest_is_passed_by(tmp_path, pack):
    entries = {
        "people/a.jpg": b"a",
        "b.PNG": b"b",
        "people.csv": b"path",
        "read me.txt": b"-",
        ".hidden/c.jpg": b"c",
        "__MACOSX/._a.jpg": b"d",
    }
    archive = pack(tmp_path / "archive", entries)
    into = tmp_path / "into"
    into.mkdir()
    assert unpack_crops(archive, into, LIMITS) == []
    assert _unpacked(into) == ["b.PNG", "people.csv", "people/a.jpg"]


@pytest.mark.parametrize("pack", [_zip, _tar])
@pytest.mark.parametrize("name", ["../out.jpg", "/tmp/out.jpg", "a/../../out.jpg", "..\\out.jpg"])
def test_no_entry_leaves_its_folder(tmp_path, pack, name):
    into = tmp_path / "deep" / "into"
    into.mkdir(parents=True)
    left_out = unpack_crops(pack(tmp_path / "archive", {name: b"x", "in.jpg": b"y"}), into, LIMITS)
    assert ["leads out of the archive" in file.reason for file in left_out] == [True]
    assert _unpacked(into) == ["in.jpg"]
    assert _unpacked(tmp_path / "deep") == ["into/in.jpg"]


def test_a_link_is_left_out(tmp_path):
    with tarfile.open(tmp_path / "archive", "w") as archive:
        link = tarfile.TarInfo("a.jpg")
        link.type = tarfile.SYMTYPE
        link.linkname = "/etc/passwd"
        archive.addfile(link)
    into = tmp_path / "into"
    into.mkdir()
    (left_out,) = unpack_crops(tmp_path / "archive", into, LIMITS)
    assert "pack the file itself" in left_out.reason
    assert _unpacked(into) == []


def test_a_large_entry_is_left_out_and_the_others_come(tmp_path):
    archive = _zip(tmp_path / "archive", {"big.jpg": b"0" * 5_000, "small.jpg": b"1"})
    left_out = unpack_crops(archive, tmp_path, LIMITS)
    assert [file.name for file in left_out] == ["big.jpg"]
    assert "5,000 bytes" in left_out[0].reason
    assert (tmp_path / "small.jpg").read_bytes() == b"1"


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_a_bomb_is_refused_before_it_fills_the_disk(tmp_path, pack):
    entries = {f"{n}.jpg": b"0" * 3_900 for n in range(9)}
    with pytest.raises(InputProblem, match="more than is allowed"):
        unpack_crops(pack(tmp_path / "archive", entries), tmp_path, LIMITS)
    assert sum(file.stat().st_size for file in tmp_path.glob("*.jpg")) <= LIMITS.max_bytes


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.9])
@pytest.mark.parametrize("pack", [_zip, _tar])
def test_a_damaged_archive_says_so(tmp_path, pack, share):
    archive = pack(tmp_path / "archive", {f"{n}.jpg": bytes(range(256)) * 9 for n in range(4)})
    held = archive.read_bytes()
    archive.write_bytes(held[: int(len(held) * share)])
    with pytest.raises(InputProblem, match="archive"):
        unpack_crops(archive, tmp_path, LIMITS)


def test_an_encrypted_entry_says_what_to_do(tmp_path):
    archive = _zip(tmp_path / "archive", {"a.jpg": b"a" * 100, "b.jpg": b"b"})
    held = bytearray(archive.read_bytes())
    held[6] |= 1
    held[held.index(b"PK\1\2") + 8] |= 1
    archive.write_bytes(held)
    (left_out,) = unpack_crops(archive, tmp_path, LIMITS)
    assert left_out.name == "a.jpg"
    assert "password" in left_out.reason
    assert (tmp_path / "b.jpg").read_bytes() == b"b"
