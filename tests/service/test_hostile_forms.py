"""Forms, fields, paths and headers that nobody ought to send."""

from __future__ import annotations

import json
import time

import pytest

from tests.service.conftest import files
from tests.service.raw_http import (
    CROPS,
    END,
    PART,
    ask,
    besieged,
    connect,
    held_mb,
    request,
    statuses,
)

# Fixtures, which tests know by their names.
__all__ = ["ask", "besieged", "connect"]

NAMED = b'--b\r\nContent-Disposition: form-data; name="'
MULTIPART = {
    "no boundary": (b"multipart/form-data", PART + END),
    "an empty boundary": (b"multipart/form-data; boundary=", PART + END),
    "a boundary of 50,000": (b"multipart/form-data; boundary=" + b"b" * 50_000, PART + END),
    "another boundary": (b"multipart/form-data; boundary=c", PART + END),
    "two boundaries": (b"multipart/form-data; boundary=b; boundary=c", PART + END),
    "a boundary in the data": (b"multipart/form-data; boundary=b", PART[:-3] + b"--b" + PART),
    "no end": (b"multipart/form-data; boundary=b", PART),
    "nothing": (b"multipart/form-data; boundary=b", b""),
    "10,000 files": (b"multipart/form-data; boundary=b", PART * 10_000 + END),
    "10,000 fields": (
        b"multipart/form-data; boundary=b",
        (NAMED + b'identity"\r\n\r\nx\r\n') * 10_000 + END,
    ),
    "a value of 3 MB": (
        b"multipart/form-data; boundary=b",
        NAMED + b'identity"\r\n\r\n' + b"x" * 3_000_000 + END,
    ),
    "a name of 3 MB": (
        b"multipart/form-data; boundary=b",
        b'--b\r\nContent-Disposition: form-data; name="'
        + b"x" * 3_000_000
        + b'"\r\n\r\nx\r\n'
        + END,
    ),
    "300,000 headers of a part": (
        b"multipart/form-data; boundary=b",
        b"--b\r\n"
        + b"X-A: b\r\n" * 300_000
        + b'Content-Disposition: form-data; name="identity"\r\n\r\nx',
    ),
    "an unknown charset": (b"multipart/form-data; boundary=b; charset=nobodys", PART + END),
    "fields by ampersands": (b"application/x-www-form-urlencoded", b"identity=a&" * 200_000),
    "a field of 3 MB": (b"application/x-www-form-urlencoded", b"identity=" + b"%00" * 1_000_000),
    "a compressed body": (
        b"multipart/form-data; boundary=b\r\nContent-Encoding: gzip",
        b"\x1f\x8b",
    ),
}


@pytest.mark.parametrize(("kind", "body"), MULTIPART.values(), ids=MULTIPART)
@pytest.mark.slow
def test_a_broken_form_is_the_clients_error_soon(besieged, ask, kind, body):
    before = held_mb(besieged.process)
    began = time.monotonic()
    answer = ask(
        request(
            b"POST",
            CROPS.encode(),
            b"Content-Type: " + kind,
            b"Content-Length: %d" % len(body),
            body=body,
        )
    )
    assert statuses(answer)[-1] in (400, 413, 415, 422), answer[:300]
    assert b"; " in answer
    assert time.monotonic() - began < 10
    assert held_mb(besieged.process) - before < 100


TEXTS = ["\0", "a\0b", "\x1b[31m", "n" * 257, "\u202e", "..", ".", "\n"]
METADATA = {
    "depth 100,000": "[" * 100_000,
    "objects 5,000 deep": '{"a":' * 5_000 + "1" + "}" * 5_000,
    "33 levels": '{"a":' * 33 + "1" + "}" * 33,
    "17 kB": json.dumps({"a": "x" * 17_000}),
    "500 kB": json.dumps({"a": "x" * 500_000}),
    "1e999": '{"a": 1e999}',
    "NaN": '{"a": NaN}',
    "an integer of 5,000 digits": '{"a": %s}' % ("9" * 5_000),
    "half of a surrogate pair": '{"a": "\\ud800"}',
    "no object": "[1]",
    "a string": '"a"',
    "twice": '{"a": 1}{"a": 2}',
}


@pytest.mark.parametrize("field", ["identity", "camera", "external_id"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_name_that_is_none_is_422_and_the_field_named(besieged, drawn_crops, field, text):
    answer = besieged.enroll("default", drawn_crops[0].png, **{field: text})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize("text", METADATA.values(), ids=METADATA)
def test_metadata_that_cannot_be_kept_is_422_and_its_limits_named(besieged, drawn_crops, text):
    answer = besieged.enroll("default", drawn_crops[0].png, metadata=text)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("metadata: ")
    limit = "16,384 bytes and 32 levels" if len(text) <= 16_384 else "at most 16384 characters"
    assert limit in answer.json()["detail"]


@pytest.mark.parametrize("field", ["top_k", "rerank_depth", "min_version"])
@pytest.mark.parametrize(
    "number", ["1e999", "NaN", "-1", "9" * 5_000, "١٢", "0x10", "", "1.5", " "]
)
def test_a_number_that_is_none_is_422_and_the_field_named(besieged, drawn_crops, field, number):
    answer = besieged.query("default", drawn_crops[0].png, **{field: number})
    assert answer.status_code in ((200, 422) if number in ("", "١٢") else (422,))
    if answer.status_code == 422:
        assert field in answer.json()["detail"]
        assert len(answer.text) < 2_000


@pytest.mark.parametrize(
    "path",
    [
        "/v1/galleries/%00",
        "/v1/galleries/%ff%fe",
        "/v1/galleries/%ED%A0%80/crops",
        "/v1/galleries/default/crops/%00/image",
        "/v1/galleries/default/crops/..%2f..%2f..%2fetc%2fpasswd/image",
        "/v1/galleries/default/crops?identity=%ED%A0%80&camera=%00&external_id=%FF",
        "/v1/galleries/default/crops?cursor=" + "9" * 5_000,
        "/v1/galleries/default/crops?limit=" + "9" * 5_000,
        "/v1/galleries/default/identities?cursor=%00%ff",
        "/v1/galleries/default/identities/" + "n" * 20_000,
        "/v1/jobs/%00",
        "/v1/jobs?gallery=%00",
        "/v1/galleries/default/snapshots/..%2f..%2fx",
        "/v1/model?gallery_size=1e999",
        "/assets/..%2f..%2fsettings.py",
        "/assets/%2e%2e/%2e%2e/settings.py",
        "/docs/assets/%00",
        "//etc/passwd",
        "/" + "a/" * 10_000,
    ],
)
def test_an_odd_path_or_query_is_the_clients_error(besieged, path):
    for method in ("GET", "DELETE"):
        answer = besieged.http.request(method, path)
        assert answer.status_code in (200, 404, 405, 422), answer.text
        assert b"root:" not in answer.content
        assert b"class Settings" not in answer.content


@pytest.mark.parametrize(
    "key", ["", "a b", "n" * 10_000, "é".encode(), b"\xff", "k" * 256, "../..", "'; --"]
)
def test_an_odd_idempotency_key_is_taken_as_it_is_or_refused(besieged, drawn_crops, key):
    url = CROPS
    images = files(drawn_crops[0].png)
    answer = besieged.http.post(url, files=images, headers={"Idempotency-Key": key})
    assert answer.status_code in (201, 422), answer.text
    if answer.status_code == 422:
        assert "idempotency-key: " in answer.json()["detail"]


@pytest.mark.parametrize(
    "asked", ["bytes=0-0", "bytes=-1", "bytes=5-1", "bytes=0-9999999999999", "x=1", "bytes=a-b"]
)
def test_a_range_of_an_image_is_a_part_or_the_whole(besieged, drawn_crops, asked):
    crop = besieged.enrolled("default", drawn_crops[0].png)[0]
    many = ",".join([asked, *["bytes=0-1"] * 2_000])
    for ranges in (asked, many):
        url = f"{CROPS}/{crop}/image"
        answer = besieged.http.get(url, headers={"Range": ranges})
        assert answer.status_code in (200, 206, 416)
        assert len(answer.content) <= len(drawn_crops[0].png)


def test_1001_fields_of_a_url_encoded_form_are_400_and_the_limit_is_named(besieged):
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = besieged.http.patch(CROPS, content="&".join(["crop_ids=a"] * 1001), headers=form)
    assert answer.status_code == 400
    assert "Too many fields" in answer.json()["detail"]


def test_a_form_that_was_cut_off_is_400_and_nothing_is_stored(besieged, drawn_crops):
    image = PART.replace(b"\r\n\r\nx", b"\r\n\r\n" + drawn_crops[0].png)
    named = NAMED + b'identity"\r\n\r\nAnn\r\n'
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    before = besieged.read("/v1/galleries/default")["version"]
    for body in (image, image + named, image + named[:-4], image + named + END[:-4]):
        answer = besieged.http.post(CROPS, content=body, headers=form)
        assert (answer.status_code, answer.json()["title"]) == (400, "Bad request"), answer.text
        assert "last boundary" in answer.json()["detail"]
    assert besieged.read("/v1/galleries/default")["version"] == before
    assert besieged.http.post(CROPS, content=image + named + END, headers=form).is_success


@pytest.mark.parametrize("text", [b"M\xfcller", b"\xff", "Müller".encode()[:2]])
def test_text_that_is_not_utf_8_is_refused_and_nothing_is_stored(besieged, drawn_crops, text):
    image = PART.replace(b"\r\n\r\nx", b"\r\n\r\n" + drawn_crops[0].png)
    body = image + NAMED + b'identity"\r\n\r\n' + text + b"\r\n" + END
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    before = besieged.read("/v1/galleries/default")["version"]
    answer = besieged.http.post(CROPS, content=body, headers=form)
    assert answer.status_code == 400
    assert "identity: is not UTF-8" in answer.json()["detail"]
    escaped = "".join(f"%{byte:02x}" for byte in text)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    fields = f"unnamed=true&new_identity={escaped}"
    answer = besieged.http.patch(CROPS, content=fields, headers=form)
    assert answer.status_code == 422
    assert "not sent as UTF-8" in answer.json()["detail"]
    assert besieged.read("/v1/galleries/default")["version"] == before


@pytest.mark.parametrize("field", ["cameras", "exclude_cameras"])
def test_a_list_of_cameras_that_is_a_file_is_422(besieged, drawn_crops, field):
    sent = [*files(drawn_crops[0].png), (field, ("a", b"east"))]
    answer = besieged.http.post("/v1/galleries/default/queries", files=sent)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(field)


def test_a_value_that_is_none_of_several_is_named_by_its_field(besieged, drawn_crops):
    answer = besieged.http.patch("/v1/galleries/default", data={"calibration": "maybe"})
    assert [error["field"] for error in answer.json()["errors"]] == ["calibration"]
    sent = files(drawn_crops[0].png, drawn_crops[1].png)
    answer = besieged.http.post("/v1/pairs", files=sent, data={"operating_point": "maybe"})
    assert [error["field"] for error in answer.json()["errors"]] == ["operating_point"]
