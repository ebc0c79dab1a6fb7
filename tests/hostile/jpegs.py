"""JPEG files put together segment by segment."""

import struct

from tests.hostile.pictures import HostileFile, drawn
from tests.outside import encoded

START = b"\xff\xd8"
END = b"\xff\xd9"
SCAN = b"\xff\xda"
TABLES = b"\xff\xc4"


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def with_segments(data, *segments):
    """Return a JPEG with further segments before its own."""
    return data[:2] + b"".join(segments) + data[2:]


def with_scans(image, more, **options):
    """Return a progressive JPEG that repeats its last scan `more` times."""
    data = encoded(image, "JPEG", progressive=True, **options)
    last = data[data.rindex(SCAN) : -2]
    return data[:-2] + last * more + END


def announcing(width, height):
    data = encoded(drawn(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def exif(entries, rest=b""):
    packed = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    count = struct.pack("<H", len(entries))
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + count + packed + bytes(4) + rest


def hostile_jpegs():
    good = encoded(drawn(), "JPEG", quality=90)
    small = encoded(drawn().resize((48, 96)), "JPEG", progressive=True)
    yield HostileFile("64 scans", with_scans(drawn(), 50), True)
    yield HostileFile("1,000 scans", with_scans(drawn(), 1_000), False)
    yield HostileFile("100,000 scans", with_scans(drawn(), 100_000), False)
    yield HostileFile("scans behind a comment", _hidden_scans(small), False)
    many = with_segments(good, segment(0xE5, b"") * 300_000)
    yield HostileFile("300,000 segments", many, False)
    yield HostileFile("1,000 comments", with_segments(good, segment(0xFE, b"c") * 1_000), True)
    yield HostileFile("colour profile of 4 MB", with_segments(good, *_profile(60)), True)
    yield HostileFile("only a start", START, False)
    yield HostileFile("start and end", START + END, False)
    yield HostileFile("start, again and again", START * 5_000 + END, False)
    yield HostileFile("header without scan", good[: good.index(SCAN)] + END, False)
    yield HostileFile("scan without header", START + good[good.index(SCAN) :], False)
    # The tables of the standard hold then, as in the frames of a film.
    yield HostileFile("without tables", good.replace(TABLES, b"\xff\xfe"), True)
    table = good.index(TABLES)
    for value in (0x00, 0xFF, 0x7F):
        spoilt = good[: table + 5] + bytes([value]) * 16 + good[table + 21 :]
        yield HostileFile(f"code lengths {value}", spoilt, None)
    for value in (0, 1, 65_535):
        interval = with_segments(good, segment(0xDD, struct.pack(">H", value)))
        yield HostileFile(f"restarts every {value}", interval, None)
    scan = good.index(SCAN) + 14
    for number in range(8):
        restart = good[: scan + 40] + bytes([0xFF, 0xD0 + number]) + good[scan + 40 :]
        yield HostileFile(f"restart {number} amid a scan", restart, None)
    yield HostileFile("filled with FF", good[:scan] + b"\xff" * 50_000 + good[scan:], None)
    for components in (0, 2, 5, 255):
        at = good.index(b"\xff\xc0") + 9
        changed = good[:at] + bytes([components]) + good[at + 1 :]
        yield HostileFile(f"{components} components", changed, False)
    for bits in (0, 12, 16):
        at = good.index(b"\xff\xc0") + 4
        yield HostileFile(f"{bits} bits", good[:at] + bytes([bits]) + good[at + 1 :], False)
    for marker in (0xC1, 0xC3, 0xC5, 0xC9, 0xCA, 0xCF):
        changed = good.replace(b"\xff\xc0", bytes([0xFF, marker]))
        yield HostileFile(f"frame of kind {marker:x}", changed, None)
    yield from _metadata(good)


def _metadata(good):
    # Everything at one place, of the largest size, ten times over.
    everywhere = exif([(tag, 7, 30_000, 26 + 12 * 2_500) for tag in range(2_500)], bytes(30_000))
    odd = {
        "EXIF whose tags lie over one another": everywhere,
        "EXIF that points to itself": exif([(0x8769, 4, 1, 8), (0x8825, 4, 1, 8)]),
        "EXIF of type 99": exif([(0x0112, 99, 1, 6)]),
        "orientation 0": exif([(0x0112, 3, 1, 0)]),
        "orientation 9": exif([(0x0112, 3, 1, 9)]),
        "orientation as text": exif([(0x0112, 2, 4, 0x0036)]),
        "many orientations": exif([(0x0112, 3, 1, 1)] * 1_000),
        "orientation of 4 billion": exif([(0x0112, 3, 0xFFFFFFFF, 8)]),
        "EXIF without entries": b"Exif\0\0II*\0\xff\xff\xff\xff",
        "EXIF of nothing": b"Exif\0\0",
        "BigTIFF": b"Exif\0\0II+\0\x08\0\0\0" + b"\xff" * 40,
        "XMP": b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation='6'>" + b"<a>" * 5_000,
    }
    for name, data in odd.items():
        yield HostileFile(name, with_segments(good, segment(0xE1, data)), True)
    pictures = b"MPF\0" + everywhere[6:]
    yield HostileFile("pictures in pictures", with_segments(good, segment(0xE2, pictures)), None)
    resource = b"Photoshop 3.0\0" + b"8BIM" * 10_000
    yield HostileFile("Photoshop's", with_segments(good, segment(0xED, resource)), True)


def _profile(pieces):
    body = bytes(65_000)
    return [
        segment(0xE2, b"ICC_PROFILE\0" + bytes([number, pieces]) + body)
        for number in range(1, pieces + 1)
    ]


def _hidden_scans(data):
    """Scans after a comment that holds an end marker, where a search for one would stop."""
    last = data[data.rindex(SCAN) : -2]
    return data[:-2] + segment(0xFE, END * 10) + last * 1_000 + END
