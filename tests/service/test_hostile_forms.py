"""Forms, fields, paths and headers that nobody ought to send."""

import json

import httpx2
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

pytestmark = pytest.mark.promise("hostile-http")

# Fixtures, which tests know by their names.
__all__ = ["ask", "besieged", "connect"]

FORM = b"multipart/form-data; boundary=b"
URLENCODED = b"application/x-www-form-urlencoded"
NAMED = b'--b\r\nContent-Disposition: form-data; name="'
# The status of the answer, the type of the body and the body itself.
MULTIPART = {
    "an empty boundary": (400, b"multipart/form-data; boundary=", PART + END),
    "a boundary of 50,000": (415, b"multipart/form-data; boundary=" + b"b" * 50_000, PART + END),
    "two boundaries": (400, FORM + b"; boundary=c", PART + END),
    "a boundary in the data": (400, FORM, PART[:-3] + b"--b" + PART),
    "nothing": (400, FORM, b""),
    "no boundary": (400, FORM, b"x\r\n" * 10_000),
    "10,000 files": (400, FORM, PART * 10_000 + END),
    "10,000 fields": (400, FORM, (NAMED + b'identity"\r\n\r\nx\r\n') * 10_000 + END),
    "a value of 3 MB": (400, FORM, NAMED + b'identity"\r\n\r\n' + b"x" * 3_000_000 + END),
    "a name of 3 MB": (400, FORM, NAMED + b"x" * 3_000_000 + b'"\r\n\r\nx\r\n' + END),
    "300,000 headers of a part": (
        400,
        FORM,
        b"--b\r\n" + b"X-A: b\r\n" * 300_000 + NAMED[5:] + b'identity"\r\n\r\nx',
    ),
    "an unknown charset": (415, FORM + b"; charset=nobodys", PART + END),
    "fields by ampersands": (422, URLENCODED, b"identity=a&" * 200_000),
    "a field of 3 MB": (400, URLENCODED, b"identity=" + b"%00" * 1_000_000),
    "a compressed body": (415, FORM + b"\r\nContent-Encoding: gzip", b"\x1f\x8b"),
}


@pytest.mark.parametrize(("status", "kind", "body"), MULTIPART.values(), ids=MULTIPART)
@pytest.mark.slow
def test_a_broken_form_is_the_clients_error_soon(besieged, ask, status, kind, body):
    before = held_mb(besieged.process)
    headers = [b"Content-Type: " + kind, b"Content-Length: %d" % len(body)]
    answer = ask(request(b"POST", CROPS.encode(), *headers, body=body))
    assert statuses(answer) == [status], answer[:300]
    assert b"; " in answer
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
        "/v1/galleries/default/exports/..%2f..%2fx",
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
        assert answer.status_code in (200, 404, 405, 410, 422), answer.text
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


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [
        ("Idempotency-Key", "night-1", "night-2"),
        ("Idempotency-Key", "night-1", "night-1"),
        ("idempotency-key", "night-1", ""),
        ("Content-Type", FORM.decode(), "multipart/form-data; boundary=c"),
        ("Sec-Fetch-Site", "same-origin", "cross-site"),
    ],
)
def test_a_header_of_one_value_that_is_there_twice_is_refused(besieged, image, name, first, second):
    headers = httpx2.Headers([(name, first), (name, second)])
    if name != "Content-Type":
        headers["Content-Type"] = FORM.decode()
    before = besieged.http.get("/v1/galleries/default").json()["crops"]
    answer = besieged.http.post(CROPS, content=image + END, headers=headers)
    assert refused_fields(answer) == {name.lower()}
    assert "was sent several times; send it once" in answer.json()["detail"]
    assert besieged.http.get("/v1/galleries/default").json()["crops"] == before


def test_two_keys_are_none(besieged, image):
    for values in (["Bearer a", "Bearer b"], ["Basic a", "Bearer b"]):
        headers = httpx2.Headers([("Authorization", value) for value in values])
        answer = besieged.http.get("/v1/galleries", headers=headers)
        assert problem(answer) == (401, "unauthorised")
        assert "several times" in answer.json()["detail"]


def test_a_part_with_two_names_is_refused(besieged, image):
    twice = image.replace(
        b'"images"', b'"identity"\r\nContent-Disposition: form-data; name="images"', 1
    )
    assert twice != image
    answer = _posted(besieged, twice + END)
    assert problem(answer) == (400, "bad_request")
    assert "several Content-Disposition headers" in answer.json()["detail"]


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


PREAMBLES = {
    "a sentence": b"This is a multi-part message in MIME format.\r\n",
    "lines and dashes": b"--\r\n-- -b\r\n --b\r\n\r\n",
    "an empty line": b"\r\n",
    "200 kB": b"preamble \r\n" * 20_000,
}


@pytest.mark.parametrize("preamble", PREAMBLES.values(), ids=PREAMBLES)
@pytest.mark.parametrize("piece", [1 << 20, 7], ids=["at once", "in pieces"])
def test_text_before_the_first_boundary_of_a_form_is_passed_over(besieged, image, preamble, piece):
    body = preamble + image + NAMED + b'identity"\r\n\r\nAnn\r\n' + END
    # The last bytes of the text and the first ones of the boundary come in small pieces.
    start = max(0, len(preamble) - 40)
    pieces = [body[:start]]
    pieces += [body[place : place + piece] for place in range(start, start + 80, piece)]
    pieces.append(body[start + len(pieces[1:]) * piece :])
    answer = _posted(besieged, (part for part in pieces if part))
    assert answer.status_code == 201, answer.text
    assert answer.json()["results"][0]["identity"] == "Ann"


def test_a_boundary_that_the_body_lacks_is_named(besieged, image):
    answer = _posted(besieged, image.replace(b"--b", b"--c") + b"--c--\r\n")
    assert problem(answer) == (400, "bad_request")
    assert "no line --b, the boundary" in answer.json()["detail"]


@pytest.mark.parametrize("disposition", [b"", b"; filename*=utf-8''%C3%A4.png"])
@pytest.mark.parametrize("size", [1, 1_500_000])
def test_a_file_without_a_file_name_is_told_to_have_one(besieged, images, disposition, size):
    head = b'--b\r\nContent-Disposition: form-data; name="images"' + disposition
    answer = _posted(besieged, head + b"\r\n\r\n" + images[0] + bytes(size) + b"\r\n" + END)
    assert refused_fields(answer) == {"images"}
    assert "send each file as a part with a file name" in answer.json()["detail"]
    assert "curl does with an @ before it, as in -F images=@crop.png" in answer.json()["detail"]


def test_an_empty_text_is_a_file_that_was_not_chosen(besieged):
    answer = _posted(besieged, NAMED + b'images"\r\n\r\n\r\n' + END)
    assert refused_fields(answer) == {"images"}
    assert "none was sent" in answer.json()["detail"]


def test_a_compressed_body_is_415_on_every_call_and_its_encoding_is_named(besieged, images):
    calls = [
        ("POST", CROPS),
        ("PATCH", CROPS),
        ("DELETE", CROPS),
        ("POST", "/v1/galleries"),
        ("POST", "/v1/galleries/default/imports"),
        ("POST", "/v1/galleries/default/queries"),
        ("POST", "/v1/embeddings"),
        ("POST", "/v1/sightings"),
        ("POST", "/v1/keys"),
    ]
    for method, path in calls:
        for encoding in ("gzip", "br", "identity, ZSTD"):
            headers = {"Content-Type": FORM.decode(), "Content-Encoding": encoding}
            answer = besieged.http.request(method, path, content=b"x", headers=headers)
            assert problem(answer) == (415, "unsupported_media_type"), f"{method} {path}"
            named = encoding.rpartition(" ")[2].lower()
            assert f"the Content-Encoding '{named}'" in answer.json()["detail"]
            assert "; send it uncompressed" in answer.json()["detail"]
    plain = {"Content-Encoding": "identity"}
    assert besieged.http.post(CROPS, files=files(images[1]), headers=plain).is_success


PLAIN = {
    "top_k": ("five", "is not a whole number; send digits alone, such as 10"),
    "rerank_depth": ("0", "must be at least 1; send a larger number"),
    "min_version": ("9" * 5_000, "has too many digits; send a smaller number"),
    "keep": ("maybe", "is neither true nor false; send one of the two"),
    "group_by": ("face", "has no such value; send 'crop', 'identity' or 'track'"),
    "purpose": ("p" * 300, "may have at most 256 characters; send a shorter text"),
}


@pytest.mark.parametrize("field", PLAIN)
def test_an_error_of_a_field_is_in_plain_words(besieged, images, field):
    value, message = PLAIN[field]
    answer = besieged.query("default", images[0], **{field: value})
    assert refused_fields(answer) == {field}
    assert answer.json()["detail"] == f"{field}: {message}"


@pytest.mark.parametrize("field", ["top_k", "keep", "scoring", "cameras", "captured_after"])
def test_a_file_in_place_of_a_text_is_told_from_a_wrong_value(besieged, images, field):
    sent = [*files(images[0]), (field, ("name", b"5"))]
    answer = besieged.http.post("/v1/galleries/default/queries", files=sent)
    assert refused_fields(answer) == {field}
    assert "is a file; send it as text, without a file name" in answer.json()["detail"]


@pytest.mark.parametrize("name", ["file", "files", "Image", "images[]", "photo", "picture", "img"])
def test_usual_names_of_a_file_lead_to_the_right_one(besieged, images, name):
    answer = besieged.http.post("/v1/galleries/default/queries", files={name: ("a", images[0])})
    assert refused_fields(answer) == {name}
    assert f"{name}: this call has no such field; did you mean images?" in answer.json()["detail"]
    imports = "/v1/galleries/default/imports"
    answer = besieged.http.post(imports, files={name: ("a.zip", b"PK")})
    assert "did you mean archive?" in answer.json()["detail"]


def test_a_vector_of_a_wrong_length_is_told_from_one_of_another_embedder(besieged, images):
    answer = besieged.http.post("/v1/embeddings", files=files(images[0])).json()
    vector = answer["results"][0]["embedding"]
    sent = {"vector": json.dumps(vector[:-1]), "embedding_fingerprint": "0" * 64}
    for call in ("queries", "crops"):
        url = f"/v1/galleries/default/{call}"
        other = besieged.http.post(url, data=sent)
        assert "the vectors are of embedder 000000000000" in other.json()["detail"]
        sent_whole = {**sent, "embedding_fingerprint": answer["embedding_fingerprint"]}
        short = besieged.http.post(url, data=sent_whole)
        assert refused_fields(short) == {"vector", "embedding_fingerprint"}
        counts = f"has {len(vector) - 1:,} numbers, and those of gallery 'default'"
        assert counts in short.json()["detail"]
        assert f"have {len(vector):,}; " in short.json()["detail"]
        assert "embedder" not in short.json()["errors"][0]["message"]
