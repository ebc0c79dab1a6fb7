"""Hostile archives: nothing is written elsewhere, what is good comes, what is not is named."""

from __future__ import annotations

import gzip
import json
import re
import resource
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from model.crops.unpack import LeftOut, UnpackLimits, unpack_crops
from model.problems import InputProblem
from tests.hostile import archives
from tests.hostile.archives import GOOD, tar_of, zip_of

LIMITS = UnpackLimits(max_bytes=1_000_000, max_entry_bytes=100_000, max_entries=2_000)


@pytest.fixture
def unpack(tmp_path: Path):
    """Unpacks one and answers what was left out; whatever happens, nothing lies elsewhere."""
    place = tmp_path / "deep" / "er"

    def unpack_one(data: bytes, limits: UnpackLimits = LIMITS) -> list[LeftOut]:
        place.mkdir(parents=True, exist_ok=True)
        (tmp_path / "archive").write_bytes(data)
        try:
            return unpack_crops(tmp_path / "archive", place, limits)
        finally:
            found = [path for path in tmp_path.rglob("*") if not path.is_dir()]
            assert all(path.is_file() and not path.is_symlink() for path in found)
            outside = [path for path in found if not path.is_relative_to(place)]
            assert outside == [tmp_path / "archive"]
            assert not Path("/tmp/out.jpg").exists()
            held = sum(path.stat().st_size for path in place.rglob("*"))
            assert held <= limits.max_bytes + 100_000

    unpack_one.into = place  # type: ignore[attr-defined]
    return unpack_one


def came(unpack) -> bool:
    """Whether every good image did, as it is."""
    return all((unpack.into / name).read_bytes() == content for name, content in GOOD.items())


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize("name", archives.BESIDE.values(), ids=archives.BESIDE)
def test_a_name_that_leads_elsewhere_or_nowhere_is_left_out(unpack, pack, name) -> None:
    (left_out,) = unpack(pack({name: b"x", **GOOD}))
    assert "; " in left_out.reason
    assert len(left_out.name) <= 201
    assert came(unpack)


@pytest.mark.parametrize("pack", [zip_of, tar_of])
@pytest.mark.parametrize("name", archives.INSIDE.values(), ids=archives.INSIDE)
def test_an_odd_name_stays_inside(unpack, pack, name) -> None:
    assert unpack(pack({name: b"x", **GOOD})) == []
    assert came(unpack)


def test_links_devices_and_pipes_are_left_out(unpack) -> None:
    left_out = unpack(tar_of(GOOD, *archives.specials()))
    assert {file.name for file in left_out} == {entry.name for entry in archives.specials()}
    assert came(unpack)


def test_a_file_behind_a_link_of_the_archive_stays_inside(unpack, tmp_path: Path) -> None:
    link = archives.special("way", tarfile.SYMTYPE, str(tmp_path))
    data = tar_of({}, link)[:512] + tar_of({"way/a.jpg": b"x", **GOOD})
    assert unpack(data) == []
    assert (unpack.into / "way" / "a.jpg").read_bytes() == b"x"


def test_a_name_that_is_no_text_is_left_out(unpack) -> None:
    (left_out,) = unpack(tar_of({"\udcff\udcfe.jpg": b"x", **GOOD}))
    assert "UTF-8" in left_out.reason
    left_out.name.encode()
    assert came(unpack)


def test_a_name_with_a_nul_ends_there_or_is_left_out(unpack) -> None:
    data = bytearray(zip_of({"aXb.jpg": b"x", **GOOD}))
    (left_out,) = unpack(tar_of({"with\0nul.jpg": b"x", **GOOD})) or [None]
    assert left_out is None or "leads out" in left_out.reason
    assert unpack(bytes(data.replace(b"aXb", b"a\0b")), LIMITS) is not None
    assert came(unpack)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_of_two_files_of_one_name_the_first_comes_and_the_second_is_named(unpack, pack) -> None:
    several = [("a.jpg", b"first"), ("a.jpg", b"second"), ("a.jpg/c.jpg", b"third")]
    left_out = unpack(pack([*several, *GOOD.items()]))
    assert len(left_out) == 2
    assert all("came before" in file.reason for file in left_out)
    assert (unpack.into / "a.jpg").read_bytes() == b"first"
    assert came(unpack)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (archives.encrypted(), "without a password"),
        (archives.with_damaged_entry(), "Bad CRC-32"),
        (archives.lying_about_size(10), "damaged"),
        (archives.lying_about_size(4_000_000_000), "4,000,000,000 bytes"),
        (zip_of({"a.jpg": b"x"}, zipfile.ZIP_BZIP2) + b"", "method 12"),
        (zip_of({"a.jpg": b"x"}, zipfile.ZIP_LZMA) + b"", "method 14"),
    ],
)
def test_one_bad_entry_of_a_zip_is_named_and_the_others_come(unpack, data, why) -> None:
    (left_out,) = unpack(data)
    assert why in left_out.reason
    assert "; " in left_out.reason or "damaged" in left_out.reason
    assert b"good-0" not in data or came(unpack)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (archives.overlapping(2_500, 10), "over 2,000 files"),
        (archives.directory_of(2**40), "list of files is too long|damaged"),
        (tar_of({f"{number}.txt": b"" for number in range(2_500)}), "over 2,000 files"),
        (archives.extended_header(bytes(70_000)), "a header that is longer"),
        (archives.extended_header(bytes(70_000), b"L"), "a header that is longer"),
        (archives.extended_header(b"1" * 60_000), "no file's"),
        (bytes(archives.header("a.txt", -1024)) * 3, "back to its own beginning|damaged"),
        (archives.of_much_memory(), "damaged"),
        (
            gzip.compress(bytes(archives.header("a.jpg", 900_000)) + bytes(400_000), mtime=0),
            "damaged",
        ),
        (
            gzip.compress(archives.header("a.txt", 2**40) + bytes(30_000_000), mtime=0),
            "more than is",
        ),
        (zip_of({}), None),
        (b"", "neither"),
        (b"PK\3\4" + bytes(100), "neither"),
        (b"\x1f\x8b" + bytes(100), "damaged"),
        (gzip.compress(b"no tar" * 500, mtime=0), "neither"),
        (tar_of(GOOD)[:5000] + b"?" * 512 + tar_of(GOOD), "damaged"),
    ],
)
def test_a_bomb_or_a_broken_archive_is_refused_whole(unpack, data, why) -> None:
    if why is None:
        assert unpack(data) == []
        return
    with pytest.raises(InputProblem, match=why) as refused:
        unpack(data)
    assert str(refused.value).startswith("the archive ")
    assert "; " in str(refused.value)


def test_of_entries_that_are_all_the_same_bytes_one_comes(unpack) -> None:
    left_out = unpack(archives.overlapping(1_500, 10_000))
    assert len(left_out) == 1_499
    assert [path.name for path in unpack.into.iterdir()] == ["00000.jpg"]


def test_an_archive_that_is_cut_anywhere_is_refused(unpack) -> None:
    refused = 0
    for name, data in archives.truncated():
        print(name)  # noqa: T201
        try:
            assert unpack(data) == []
            # Nothing but the zeros at its end are gone then.
            assert came(unpack)
        except InputProblem as problem:
            assert re.search("damaged|neither", str(problem))  # noqa: PT017
            refused += 1
        for path in unpack.into.iterdir():
            path.unlink()
    assert refused >= 4 * 19 + 10


@pytest.mark.parametrize("tail", [b"\0" * 3_000, b"garbage" * 100])
@pytest.mark.parametrize("data", [zip_of(GOOD), tar_of(GOOD), gzip.compress(tar_of(GOOD), mtime=0)])
def test_what_follows_an_archive_is_passed_over_or_refused(unpack, data, tail) -> None:
    try:
        assert unpack(data + tail) == []
    except InputProblem as problem:
        assert "damaged" in str(problem)  # noqa: PT017
    assert came(unpack)


def test_an_entry_without_a_name_is_passed_by(unpack) -> None:
    named = zip_of([("nameless", b"x"), *GOOD.items()])
    assert unpack(named.replace(b"nameless", b"\0ameless")) == []
    assert came(unpack)


def test_a_zip_within_a_zip_is_no_image(unpack) -> None:
    assert unpack(zip_of({"inner.zip": zip_of({"a.jpg": bytes(500_000)}), **GOOD})) == []
    assert sorted(path.name for path in unpack.into.iterdir()) == sorted(GOOD)


def test_a_full_disk_is_not_called_a_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(zip_of({"a.jpg": b"x" * 50_000}))
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from model.crops.unpack import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))\n"
        "place = Path(sys.argv[1])\n"
        "try: unpack_crops(place / 'archive', place, UnpackLimits(10**6, 10**6))\n"
        "except Exception as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "cannot be unpacked here" in said
    assert "damaged" not in said
    assert not (tmp_path / "a.jpg").exists()


def test_bombs_are_refused_in_bounded_time_and_memory() -> None:
    command = [sys.executable, "-m", "tests.hostile.costly_archives"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    print(ran.stdout)  # noqa: T201
    measured = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(measured) == 5
    for row in measured:
        assert row["cpu_s"] < 5.0, row
        assert row["peak_mb"] < 100, row
