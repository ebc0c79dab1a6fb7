"""Archives that are bombs, have paths that lead elsewhere, or give wrong sizes or types."""

import io
import stat
import struct
import zipfile
import zlib

from tests.hostile.pictures import drawn
from tests.outside import encoded

GOOD = {f"good-{number}.png": encoded(drawn(number), "PNG") for number in range(3)}
BESIDE = {
    "climbing": "../out.jpg",
    "climbing later": "a/b/../../../out.jpg",
    "climbing by backslashes": "..\\..\\out.jpg",
    "absolute": "/tmp/out.jpg",
    "absolute by two slashes": "//tmp/out.jpg",
    "absolute by backslashes": "\\\\tmp\\out.jpg",
    "a name of 10,000": "n" * 10_000 + ".jpg",
    "a name of 300": "n" * 300 + ".jpg",
    "1,500 folders deep": "d/" * 1_500 + "deep.jpg",
}
INSIDE = {"a drive": "C:\\people\\out.jpg", "a line's end": "two\nlines.jpg", "in words": "Å β.jpg"}


def zip_of(entries, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in _pairs(entries):
            archive.writestr(name, content)
    return file.getvalue()


def _pairs(entries):
    return entries.items() if isinstance(entries, dict) else entries


def links():
    special = []
    for number, kind in enumerate((stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK)):
        entry = zipfile.ZipInfo(f"special-{number}.jpg")
        entry.external_attr = (kind | 0o777) << 16
        special.append((entry, "/etc/passwd"))
    return zip_of([*special, *GOOD.items()])


def with_long_extra_fields():
    entry = zipfile.ZipInfo("a.jpg")
    entry.extra = struct.pack("<HH", 0x9999, 5_000) + bytes(5_000)
    return zip_of([(entry, b"x"), *GOOD.items()])


def encrypted():
    held = bytearray(zip_of({"secret.jpg": b"a" * 100, **GOOD}))
    held[6] |= 1
    held[held.index(b"PK\1\2") + 8] |= 1
    return bytes(held)


def with_damaged_entry():
    held = bytearray(zip_of({"damaged.jpg": b"a" * 100, **GOOD}, zipfile.ZIP_STORED))
    held[held.index(b"aaaa")] = 0
    return bytes(held)


def lying_about_size(said):
    """Return a zip whose first entry has another size than its list says."""
    held = bytearray(zip_of({"lying.jpg": b"a" * 5_000, **GOOD}))
    at = held.index(b"PK\1\2") + 24
    held[at : at + 4] = struct.pack("<I", said)
    return bytes(held)


def overlapping(entries, size):
    """Return a zip whose entries are all the same bytes of it."""
    packed = zlib.compress(bytes(size), 9)[2:-4]
    check = zlib.crc32(bytes(size))
    local = b"PK\3\4" + struct.pack("<5H3I2H", 20, 0, 8, 0, 0, check, len(packed), size, 9, 0)
    body = local + b"00000.jpg" + packed
    listed = bytearray()
    for number in range(entries):
        counts = (check, len(packed), size, 9)
        said = struct.pack("<6H3I5H2I", 20, 20, 0, 8, 0, 0, *counts, *[0] * 6)
        listed += b"PK\1\2" + said + b"%05d.jpg" % (number % 100_000)
    return body + listed + directory_end(min(entries, 65_535), len(listed), len(body))


def directory_end(entries, size, at):
    return b"PK\5\6" + struct.pack("<4H2IH", 0, 0, entries, entries, size, at, 0)


def directory_of(size):
    """Return a zip64 whose list of entries is said to be so long."""
    end = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, size, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    return b"PK\6\6" + end + locator + directory_end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def truncated():
    """Yield a zip at each 5 %."""
    data = zip_of(GOOD)
    for percent in range(5, 100, 5):
        yield data[: len(data) * percent // 100]
