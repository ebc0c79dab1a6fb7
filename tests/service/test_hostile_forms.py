"""Forms, fields, paths and headers that nobody ought to send."""

import json
import time

import pytest

from tests.outside import problem, refused_fields
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

FORM = b"multipart/form-data; boundary=b"
URLENCODED = b"application/x-www-form-urlencoded"
NAMED = b'--b\r\nContent-Disposition: form-data; name="'
MULTIPART = {
    "an empty boundary": (b"multipart/form-data; boundary=", PART + END),
    "a boundary of 50,000": (b"multipart/form-data; boundary=" + b"b" * 50_000, PART + END),
    "two boundaries": (FORM + b"; boundary=c", PART + END),
    "a boundary in the data": (FORM, PART[:-3] + b"--b" + PART),
    "nothing": (FORM, b""),
    "10,000 files": (FORM, PART * 10_000 + END),
    "10,000 fields": (FORM, (NAMED + b'identity"\r\n\r\nx\r\n') * 10_000 + END),
    "a value of 3 MB": (FORM, NAMED + b'identity"\r\n\r\n' + b"x" * 3_000_000 + END),
    "a name of 3 MB": (FORM, NAMED + b"x" * 3_000_000 + b'"\r\n\r\nx\r\n' + END),
    "300,000 headers of a part": (
        FORM,
        b"--b\r\n" + b"X-A: b\r\n" * 300_000 + NAMED[5:] + b'identity"\r\n\r\nx',
    ),
    "an unknown charset": (FORM + b"; charset=nobodys", PART + END),
    "fields by ampersands": (URLENCODED, b"identity=a&" * 200_000),
    "a field of 3 MB": (URLENCODED, b"identity=" + b"%00" * 1_000_000),
    "a compressed body": (FORM + b"\r\nContent-Encoding: gzip", b"\x1f\x8b"),
}


@pytest.mark.parametrize(("kind", "body"), MULTIPART.values(), ids=MULTIPART)
@pytest.mark.slow
def test_a_broken_form_is_the_clients_error_soon(besieged, ask, kind, body):
    before = held_mb(besieged.process)
    began = time.monotonic()
    headers = [b"Content-Type: " + kind, b"Content-Length: %d" % len(body)]
    answer = ask(request(b"POST", CROPS.encode(), *headers, body=body))
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
def test_a_name_that_is_none_is_422_and_the_field_named(besieged, images, field, text):
    answer = besieged.enroll("default", images[0], **{field: text})
    assert refused_fields(answer) == {field}


@pytest.mark.parametrize("text", METADATA.values(), ids=METADATA)
def test_metadata_that_cannot_be_kept_is_422_and_its_limits_named(besieged, images, text):
    answer = besieged.enroll("default", images[0], metadata=text)
    assert refused_fields(answer) == {"metadata"}
    limit = "16,384 bytes and 32 levels" if len(text) <= 16_384 else "at most 16384 characters"
    assert limit in answer.json()["detail"]


@pytest.mark.parametrize("field", ["top_k", "rerank_depth", "min_version"])
@pytest.mark.parametrize("number", ["1e999", "NaN", "-1", "9" * 5_000, "١٢", "0x10", "1.5", " "])
def test_a_number_that_is_none_is_422_and_the_field_named(besieged, images, field, number):
    answer = besieged.query("default", images[0], **{field: number})
    assert refused_fields(answer) == {field}
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
def test_an_odd_idempotency_key_is_taken_as_it_is_or_refused(besieged, images, key):
    url = CROPS
    answer = besieged.http.post(url, files=files(images[0]), headers={"Idempotency-Key": key})
    assert answer.status_code in (201, 422), answer.text
    if answer.status_code == 422:
        assert "idempotency-key: " in answer.json()["detail"]


def test_many_ranges_of_an_image_are_answered_by_the_whole(besieged, images):
    (crop_id,) = besieged.enrolled("default", images[0])
    ranges = ",".join(["bytes=0-0", *["bytes=0-1"] * 2_000])
    answer = besieged.http.get(f"{CROPS}/{crop_id}/image", headers={"Range": ranges})
    assert (answer.status_code, answer.content) == (200, images[0])


def test_1001_fields_of_a_url_encoded_form_are_400_and_the_limit_is_named(besieged):
    form = {"Content-Type": URLENCODED.decode()}
    answer = besieged.http.patch(CROPS, content="&".join(["crop_ids=a"] * 1001), headers=form)
    assert problem(answer) == (400, "bad_request")
    assert "Too many fields" in answer.json()["detail"]


@pytest.fixture
def image(images):
    return PART.replace(b"\r\n\r\nx", b"\r\n\r\n" + images[0])


def _version(besieged):
    return besieged.read("/v1/galleries/default")["version"]


def _posted(besieged, body):
    return besieged.http.post(CROPS, content=body, headers={"Content-Type": FORM.decode()})


def test_a_form_that_was_cut_off_is_400_and_nothing_is_stored(besieged, image):
    before = _version(besieged)
    named = image + NAMED + b'identity"\r\n\r\nAnn\r\n'
    for body in (image, named, named[:-4], named + END[:-4]):
        answer = _posted(besieged, body)
        assert problem(answer) == (400, "bad_request")
        assert "last boundary" in answer.json()["detail"]
    assert _version(besieged) == before
    assert _posted(besieged, named + END).is_success


@pytest.mark.parametrize("text", [b"M\xfcller", b"\xff", "Müller".encode()[:2]])
def test_text_that_is_not_utf_8_is_refused_and_nothing_is_stored(besieged, image, text):
    before = _version(besieged)
    answer = _posted(besieged, image + NAMED + b'identity"\r\n\r\n' + text + b"\r\n" + END)
    assert answer.status_code == 400
    assert "identity: is not UTF-8" in answer.json()["detail"]
    escaped = "".join(f"%{byte:02x}" for byte in text)
    answer = besieged.http.patch(
        CROPS,
        content=f"unnamed=true&new_identity={escaped}",
        headers={"Content-Type": URLENCODED.decode()},
    )
    assert answer.status_code == 422
    assert "not sent as UTF-8" in answer.json()["detail"]
    assert _version(besieged) == before


def test_a_list_of_cameras_that_is_a_file_is_422(besieged, images):
    sent = [*files(images[0]), ("cameras", ("a", b"east"))]
    answer = besieged.http.post("/v1/galleries/default/queries", files=sent)
    assert problem(answer) == (422, "invalid_field")
