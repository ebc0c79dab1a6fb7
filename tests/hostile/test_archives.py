"""Hostile archives: good files are unpacked, others are named, and none is written elsewhere."""

import contextlib
import json
import resource
import struct
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

from model.crops.folder import packed_root
from model.crops.names import Ignored
from model.crops.unpack import UnpackLimits, UnpackProgress, unpack_crops
from model.problems import InputProblem
from tests.hostile import archives
from tests.hostile.archives import GOOD, zip_of
from tests.outside import run_command

pytestmark = pytest.mark.promise("hostile-files")

LIMITS = UnpackLimits(max_bytes=1_000_000, max_image_bytes=100_000, max_entries=2_000)


@pytest.fixture
def unpack(tmp_path):
    """Unpack an archive, check that no file lies elsewhere, and return the files left out."""
    place = tmp_path / "deep" / "er"

    def unpack_one(data, limits=LIMITS):
        place.mkdir(parents=True, exist_ok=True)
        (tmp_path / "archive").write_bytes(data)
        try:
            return unpack_crops(tmp_path / "archive", place, limits, Ignored())
        finally:
            found = [path for path in tmp_path.rglob("*") if not path.is_dir()]
            assert all(path.is_file() and not path.is_symlink() for path in found)
            outside = [path for path in found if not path.is_relative_to(place)]
            assert outside == [tmp_path / "archive"]
            assert not Path("/tmp/out.jpg").exists()
            held = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
            assert held <= limits.max_bytes + 100_000

    unpack_one.into = place
    return unpack_one


def came(unpack):
    """Return whether every good image did, as it is."""
    return all((unpack.into / name).read_bytes() == content for name, content in GOOD.items())


class TurnIsOver(Exception):
    pass


@pytest.mark.parametrize("entries_per_call", [1, 4])
def test_an_archive_that_is_unpacked_by_several_calls_gives_what_one_call_gives(
    tmp_path, entries_per_call
):
    archive = tmp_path / "archive"
    archive.write_bytes(zip_of({**GOOD, "../out.jpg": b"x", "notes.txt": b"x", "last.jpg": b"x"}))

    def unpack_by_calls(into, most):
        into.mkdir()
        progress = UnpackProgress()
        while True:
            ignored = Ignored()
            left = most

            def between():
                nonlocal left
                if left == 0:
                    raise TurnIsOver
                left -= 1

            with contextlib.suppress(TurnIsOver):
                left_out = unpack_crops(archive, into, LIMITS, ignored, between, progress=progress)
                files = {path.name: path.read_bytes() for path in into.rglob("*.*")}
                return files, left_out, ignored.lines(), progress.unpacked_bytes

    whole = unpack_by_calls(tmp_path / "whole", 1000)
    assert "last.jpg" in whole[0]
    assert unpack_by_calls(tmp_path / "parts", entries_per_call) == whole


@pytest.mark.parametrize("name", archives.BESIDE.values(), ids=archives.BESIDE)
def test_a_name_that_leads_elsewhere_or_nowhere_is_left_out(unpack, name):
    (left_out,) = unpack(zip_of({name: b"x", **GOOD}))
    assert "; " in left_out.reason
    assert len(left_out.name) <= 201
    assert came(unpack)


def test_a_name_that_is_utf_8_without_being_marked_so_is_unpacked_under_it(unpack):
    # So does the Finder of macOS write it. The other is of an old program of Windows.
    written = zip_of({"jose__.png": b"x", "jos_.png": b"y"})
    written = written.replace(b"jose__.png", "jose\u0301.png".encode())
    written = written.replace(b"jos_.png", "josé.png".encode("cp437"))
    assert unpack(written) == []
    assert (unpack.into / "jose\u0301.png").read_bytes() == b"x"
    assert (unpack.into / "josé.png").read_bytes() == b"y"


def packed_on_windows(folder, page, field=None):
    """Return an archive with a picture in a folder whose name is in a code page.

    Args:
        field: the content of the extra field of the Unicode path; None for none.
    """
    raw = f"{folder}/1.png".encode(page)
    stand_in = "Q" * len(raw)
    entry = zipfile.ZipInfo(stand_in)
    if field is not None:
        entry.extra = struct.pack("<HHHH", 0x9999, 0, 0x7075, len(field)) + field
    return zip_of([("Bob/1.png", b"x"), (entry, b"y")]).replace(stand_in.encode(), raw)


def unicode_path(raw, name, version=1):
    return struct.pack("<BI", version, zlib.crc32(raw)) + name.encode()


@pytest.mark.parametrize(
    ("folder", "page"), [("张伟", "gbk"), ("山田", "cp932"), ("Søren", "cp850"), ("김", "cp949")]
)
def test_a_name_in_a_code_page_is_read_by_its_unicode_path(unpack, folder, page):
    field = unicode_path(f"{folder}/1.png".encode(page), f"{folder}/1.png")
    assert unpack(packed_on_windows(folder, page, field)) == []
    assert (unpack.into / folder / "1.png").read_bytes() == b"y"


CODE_PAGES = [
    *(("张伟", "gbk"), ("山田", "cp932"), ("김철수", "cp949"), ("王小明", "big5")),
    *(("Иванов", "cp866"), ("Иванов", "cp1251"), ("Søren", "cp850"), ("Müller", "cp1252")),
    *(("Şık", "cp857"), ("Łódź", "cp852"), ("Ñandú", "cp1252"), ("山田A", "cp932")),
    *(("IMG张伟", "gbk"), ("Ελένη", "cp737"), ("Ægir", "cp850"), ("São", "cp1252")),
]


@pytest.mark.parametrize(("folder", "page"), CODE_PAGES)
@pytest.mark.parametrize("field", [None, b"", b"\1", b"\2abcdefgh"])
def test_a_name_in_a_code_page_is_read_rightly_or_reported(unpack, folder, page, field):
    left_out = unpack(packed_on_windows(folder, page, field))
    pictures = {path.parent.name for path in unpack.into.rglob("*.png")}
    if left_out:
        assert pictures == {"Bob"}
        assert "pack it with names in UTF-8" in left_out[0].reason
        # The folder of Bob is still not the only one, so that Bob keeps his name.
        assert packed_root(unpack.into) == unpack.into
    else:
        assert pictures == {"Bob", folder}


@pytest.mark.parametrize("folder", ["Jörg", "José", "André", "Käthe", "Günther"])
@pytest.mark.parametrize("page", ["cp437", "cp850"])
def test_a_name_that_every_code_page_reads_alike_is_read(unpack, folder, page):
    assert unpack(packed_on_windows(folder, page)) == []
    assert (unpack.into / folder / "1.png").read_bytes() == b"y"


RAW = "张伟/1.png".encode("gbk")


@pytest.mark.parametrize(
    "field",
    [
        unicode_path(RAW + b"x", "Eve/1.png"),
        unicode_path(RAW, "Eve/1.png", version=2),
        unicode_path(RAW, ""),
        unicode_path(RAW, "\0Eve/1.png"),
        unicode_path(RAW, "") + b"\xff",
    ],
)
def test_a_unicode_path_of_another_name_is_not_read(unpack, field):
    # A program that does not know the field may have renamed the entry.
    (left_out,) = unpack(packed_on_windows("张伟", "gbk", field))
    assert "pack it with names in UTF-8" in left_out.reason
    assert not (unpack.into / "Eve").exists()


def test_a_unicode_path_leads_out_of_no_archive(unpack):
    field = unicode_path("张伟/1.png".encode("gbk"), "../../out.png")
    (left_out,) = unpack(packed_on_windows("张伟", "gbk", field))
    assert "leads out of the archive" in left_out.reason


@pytest.mark.parametrize("name", archives.INSIDE.values(), ids=archives.INSIDE)
def test_an_odd_name_stays_inside(unpack, name):
    assert unpack(zip_of({name: b"x", **GOOD})) == []
    assert came(unpack)


def test_links_devices_and_pipes_become_plain_files(unpack):
    assert unpack(archives.links()) == []
    assert (unpack.into / "special-0.jpg").read_bytes() == b"/etc/passwd"
    assert came(unpack)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_files_of_one_name_the_first_comes_and_the_second_is_named(unpack):
    several = [("a.jpg", b"first"), ("a.jpg", b"second"), ("a.jpg/c.jpg", b"third")]
    left_out = unpack(zip_of([*several, *GOOD.items()]))
    assert len(left_out) == 2
    assert all("has the same name" in file.reason for file in left_out)
    assert (unpack.into / "a.jpg").read_bytes() == b"first"
    assert came(unpack)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (archives.encrypted(), "without a password"),
        (archives.with_damaged_entry(), "Bad CRC-32"),
        (archives.lying_about_size(10), "damaged"),
        (archives.lying_about_size(4_000_000_000), "4,000,000,000 bytes"),
        (zip_of({"large.jpg": bytes(150_000), **GOOD}), "150,000 bytes"),
        (zip_of({"a.jpg": b"x"}, zipfile.ZIP_BZIP2), "method 12"),
        (zip_of({"a.jpg": b"x"}, zipfile.ZIP_LZMA), "method 14"),
    ],
)
def test_one_bad_entry_of_a_zip_is_named_and_the_others_come(unpack, data, why):
    (left_out,) = unpack(data)
    assert why in left_out.reason
    assert "; " in left_out.reason or "damaged" in left_out.reason
    assert b"good-0" not in data or came(unpack)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (archives.overlapping(2_500, 10), "over 2,000 files"),
        (zip_of({f"{n}.jpg": bytes(99_000) for n in range(12)}), "more bytes than are allowed"),
        (zip_of({f"{n}/" + "a/" * 30 + "x.png": b"" for n in range(64)}), "files and folders"),
        (archives.directory_of(2**40), "list of files is too long|damaged"),
        (archives.with_long_extra_fields(), "over 4,096 bytes of extra fields"),
        (b"", "not a zip"),
        (b"PK\3\4" + bytes(100), "not a zip"),
        (b"no zip" * 500, "not a zip"),
    ],
)
def test_a_bomb_or_a_broken_archive_is_refused_whole(unpack, data, why):
    with pytest.raises(InputProblem, match=why) as refused:
        unpack(data)
    assert str(refused.value).startswith("the archive ")
    assert "; " in str(refused.value)


def test_a_manifest_may_be_larger_than_an_image(unpack):
    rows = b"path\n" * 50_000
    assert unpack(zip_of({"manifest.csv": rows, **GOOD})) == []
    assert (unpack.into / "manifest.csv").read_bytes() == rows


def test_of_entries_that_are_all_the_same_bytes_one_comes(unpack):
    left_out = unpack(archives.overlapping(1_500, 10_000))
    assert len(left_out) == 1_499
    assert [path.name for path in unpack.into.iterdir()] == ["00000.jpg"]


@pytest.mark.parametrize("data", list(archives.truncated()))
def test_an_archive_that_is_cut_anywhere_is_refused(unpack, data):
    with pytest.raises(InputProblem, match="damaged"):
        unpack(data)
    assert list(unpack.into.iterdir()) == []


NAMELESS = zip_of([("nameless", b"x"), *GOOD.items()]).replace(b"nameless", b"\0ameless")
PASSED_BY = {
    "zeros at the end": zip_of(GOOD) + bytes(3_000),
    "garbage at the end": zip_of(GOOD) + b"garbage" * 100,
    "an entry without a name": NAMELESS,
    "a zip within a zip": zip_of({"inner.zip": zip_of({"a.jpg": bytes(500_000)}), **GOOD}),
    "files of archivers": zip_of({".hidden/c.jpg": b"c", "__MACOSX/._a.jpg": b"d", **GOOD}),
}


@pytest.mark.parametrize("data", PASSED_BY.values(), ids=PASSED_BY)
def test_what_is_no_image_is_passed_by(unpack, data):
    assert unpack(data) == []
    assert sorted(path.name for path in unpack.into.iterdir()) == sorted(GOOD)
    assert came(unpack)


def test_a_full_disk_is_not_called_a_damaged_archive(tmp_path):
    (tmp_path / "archive").write_bytes(zip_of({"a.jpg": b"x" * 50_000}))
    script = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from model.crops.unpack import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))\n"
        "place = Path(sys.argv[1])\n"
        "try: unpack_crops(place / 'archive', place, UnpackLimits(10**6, 10**6), Ignored())\n"
        "except Exception as error: print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    said = run_command(*command, check=True).stdout
    assert "cannot be unpacked here" in said
    assert "damaged" not in said
    assert not (tmp_path / "a.jpg").exists()


def test_bombs_are_refused_in_bounded_time_and_memory():
    command = [sys.executable, "-m", "tests.hostile.costly_archives"]
    ran = run_command(*command, check=True)
    print(ran.stdout)  # noqa: T201
    measured = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(measured) == 3
    for row in measured:
        assert row["cpu_s"] < 5.0, row
        assert row["peak_mb"] < 100, row
