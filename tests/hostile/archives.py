"""Archives that are bombs, that lead elsewhere, or that are not what they say."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator

from tests.hostile.pictures import drawn, encoded

GOOD = {f"good-{number}.png": encoded(drawn(number), "PNG") for number in range(3)}
Entries = dict[str, bytes] | list[tuple[str, bytes]]
PACKED_BY = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
BESIDE = {
    "climbing": "../out.jpg",
    "climbing later": "a/b/../../../out.jpg",
    "climbing by backslashes": "..\\..\\out.jpg",
    "absolute": "/tmp/out.jpg",
    "a name of 10,000": "n" * 10_000 + ".jpg",
    "a name of 300": "n" * 300 + ".jpg",
    "1,500 folders deep": "d/" * 1_500 + "deep.jpg",
}
INSIDE = {"a drive": "C:\\people\\out.jpg", "a line's end": "two\nlines.jpg", "in words": "Å β.jpg"}


def zip_of(entries: Entries, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in _pairs(entries):
            archive.writestr(name, content)
    return file.getvalue()


def tar_of(entries: Entries, *members: tarfile.TarInfo) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", errors="surrogateescape") as archive:
        for name, content in _pairs(entries):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in members:
            archive.addfile(member)
    return file.getvalue()


def _pairs(entries: Entries) -> Iterable[tuple[str, bytes]]:
    return entries.items() if isinstance(entries, dict) else entries


def special(name: str, kind: bytes, leads_to: str = "") -> tarfile.TarInfo:
    """A link, device or pipe."""
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = leads_to
    return member


def specials() -> list[tarfile.TarInfo]:
    return [
        special("link.jpg", tarfile.SYMTYPE, "/etc/passwd"),
        special("climbing-link.jpg", tarfile.SYMTYPE, "../../../etc/passwd"),
        special("hard.jpg", tarfile.LNKTYPE, "/etc/passwd"),
        special("pipe.jpg", tarfile.FIFOTYPE),
        special("device.jpg", tarfile.CHRTYPE),
        special("disk.jpg", tarfile.BLKTYPE),
    ]


def header(name: str, size: int, kind: bytes = b"0") -> bytearray:
    """One tar header; a size that is negative is written as base 256."""
    member = tarfile.TarInfo(name)
    member.type = kind
    data = bytearray(member.tobuf(tarfile.USTAR_FORMAT))
    octal = b"%011o\0" % abs(size)
    far = (b"\x80" if size > 0 else b"\xff") + size.to_bytes(11, "big", signed=True)
    data[124:136] = octal if 0 <= size < 8**11 else far
    data[148:156] = b" " * 8
    data[148:156] = b"%06o\0 " % sum(data)
    return data


def encrypted() -> bytes:
    """A zip that says its first entry needs a password."""
    held = bytearray(zip_of({"secret.jpg": b"a" * 100, **GOOD}))
    held[6] |= 1
    held[held.index(b"PK\1\2") + 8] |= 1
    return bytes(held)


def with_damaged_entry() -> bytes:
    """A zip of which one entry's checksum does not hold."""
    held = bytearray(zip_of({"damaged.jpg": b"a" * 100, **GOOD}, zipfile.ZIP_STORED))
    held[held.index(b"aaaa")] = 0
    return bytes(held)


def lying_about_size(said: int) -> bytes:
    """A zip whose first entry has another size than its list says."""
    held = bytearray(zip_of({"lying.jpg": b"a" * 5_000, **GOOD}))
    at = held.index(b"PK\1\2") + 24
    held[at : at + 4] = struct.pack("<I", said)
    return bytes(held)


def overlapping(entries: int, size: int) -> bytes:
    """A zip whose entries are all the same bytes of it."""
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


def directory_end(entries: int, size: int, at: int) -> bytes:
    return b"PK\5\6" + struct.pack("<4H2IH", 0, 0, entries, entries, size, at, 0)


def directory_of(size: int) -> bytes:
    """A zip64 whose list of entries is said to be so long."""
    end = struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 1, 1, size, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 0, 1)
    return b"PK\6\6" + end + locator + directory_end(0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


def extended_header(content: bytes, kind: bytes = b"x") -> bytes:
    """A tar with one extension in front of one file."""
    padded = content + bytes(-len(content) % 512)
    extension = header("extension", len(content), kind)
    return bytes(extension + padded + header("a.jpg", 0)) + bytes(1024)


def of_much_memory() -> bytes:
    """An xz file that asks for a dictionary of 4 GiB."""
    packed = bytearray(lzma.compress(tar_of(GOOD)))
    length = (packed[12] + 1) * 4
    at = packed.index(b"\x21\x01", 12) + 2
    packed[at] = 40
    end = 12 + length - 4
    packed[end : end + 4] = struct.pack("<I", zlib.crc32(packed[12:end]))
    return bytes(packed)


def truncated() -> Iterator[tuple[str, bytes]]:
    """Every kind of archive at each 5 %."""
    kinds = {f"tar{end}": pack(tar_of(GOOD)) for end, pack in PACKED_BY.items()}
    kinds["zip"] = zip_of(GOOD)
    for kind, data in kinds.items():
        for percent in range(5, 100, 5):
            yield f"{kind} cut at {percent} %", data[: len(data) * percent // 100]
