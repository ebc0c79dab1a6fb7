"""The parser of multipart forms in memory reads what python-multipart reads, and refuses more."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.formparsers import FormParser, MultiPartException

from service.errors import InvalidField
from service.http.multipart import MAX_FORM_TEXT_BYTES, read_form, read_url_encoded
from tests.two_parsers import FILE, PART, compare_parsers, seeds

END = b"--b--\r\n"
ODD = b'--b\r\nContent-Disposition: form-data; name="a"; filename="b"%s\r\n\r\nx\r\n'
# Pieces of which forms are drawn, so that boundaries, line ends and headers come at odd places.
PIECES = st.sampled_from(
    [
        *(b"--b", b"\r\n", b"\r", b"\n", b"-", b"--", b" ", b"\t", b":", b"\0", b"\xff", b"x"),
        *(b'Content-Disposition: form-data; name="a"', b'; filename="f"', b"; name*=b", b"X-A: 1"),
        *(b"Content-Type: text/plain", "ä".encode(), b'"', b"\\"),
    ]
)
CONTENTS = st.lists(PIECES, max_size=6).map(b"".join)
PARTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([b"a", b"top_k", b"\xe4", b""]), CONTENTS).map(PART.__mod__),
        CONTENTS.map(FILE.__mod__),
        CONTENTS,
    ),
    max_size=4,
).map(b"".join)
BODIES = st.one_of(
    st.tuples(CONTENTS, PARTS, st.sampled_from([END, END + b"epilogue", b"--b--", b"--b"])),
    st.tuples(PARTS, CONTENTS),
).map(b"".join)


URL_PIECES = st.sampled_from(
    [b"a", b"&", b"=", b"+", b"%41", b"%", b"%c3%a4", b"%ff", "ä".encode(), b";", b"\0", b" "]
)


def compare(body, parameters=b""):
    try:
        return asyncio.run(compare_parsers(parameters, body))
    except (MultiPartException, InvalidField):
        return None


@settings(max_examples=1500, deadline=None)
@given(body=BODIES)
def test_a_form_that_is_read_is_read_as_by_python_multipart(body):
    compare(body)


def test_forms_that_clients_send_are_read():
    for seed in seeds():
        head, _, body = seed.partition(b"\n")
        if head[:1] == b"m" and body.count(b"filename") < 1000:
            assert compare(body, head[1:]), body[:80]
    browsers = (
        'preamble\r\n--b\r\nContent-Disposition: form-data; name="images"; filename="ä.png"\r\n'
        "Content-Type: image/png\r\n\r\n\x89PNG\r\n\x1a\n\r\n--b\r\n"
        'content-disposition: form-data; name="top_k"\r\n\r\n5\r\n--b--'
    )
    assert [item[0] for item in compare(browsers.encode())] == ["images", "top_k"]
    assert compare(END) == []


def test_the_longest_file_name_of_a_browser_is_read():
    name = b"%E4%B8%80" * 85 + b";" * 10
    assert compare(ODD.replace(b'b"%s', b'%s"') % name + END)[0][1] == name.decode()


@settings(max_examples=500, deadline=None)
@given(body=st.lists(URL_PIECES).map(b"".join))
def test_a_url_encoded_form_is_read_as_by_starlette(body):
    async def pieces():
        yield body

    expected = asyncio.run(FormParser({}, pieces()).parse())
    assert read_url_encoded(bytearray(body)).multi_items() == expected.multi_items()


def read(body, boundary=b"b", file_fields=()):
    return read_form(bytearray(body), boundary, frozenset(file_fields))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (FILE % b"x" * 1001 + END, "Too many files"),
        (PART % (b"a", b"x") * 1001 + END, "Too many fields"),
        (PART % (b"a", b"x" * (2**20 + 1)) + END, "Part exceeded maximum size"),
        (PART % (b"a", b"\xff") + END, "a: is not UTF-8"),
        (PART % (b"a", b"x"), "last boundary is missing"),
        (PART % (b"a", b"x") + b"--b", "last boundary is missing"),
        (PART % (b"a", b"x") + b"--b\r\nX-A", "last boundary is missing"),
        (PART % (b"a", b"x\r\n--bx") + END, "in a line with other text"),
        (b"--b \r\n" + (PART % (b"a", b"x"))[5:] + END, "in a line with other text"),
        (b"--c--", "no line --b"),
        (b"--b\r\nX-A: 1\r\n\r\nx\r\n" + END, '"name" must be provided'),
        (b"--b\r\n" + b"X-A: 1\r\n" * 9 + b"\r\n\r\n" + END, "more than 8 headers"),
        (b"--b\r\nX-A: " + b"x" * 1100 + b"\r\n\r\n\r\n" + END, "more than 1,024 bytes"),
        (ODD % (b";" * 17) + END, "more than 1,024 bytes or 16 semicolons"),
        ((ODD % (b"\r\nX-A: " + b"x" * 1000)) * 1100 + END, "headers of all parts have more than"),
        (b"--b\r\nX A: 1\r\n\r\n\r\n" + END, "malformed"),
        (b"--b\r\nX-A\r\n\r\n\r\n" + END, "malformed"),
    ],
)
def test_a_form_beyond_its_limits_is_refused_and_told_why(body, said):
    with pytest.raises(MultiPartException) as refusal:
        read(body)
    assert said in refusal.value.message


@pytest.mark.parametrize("boundary", [b"", b"b" * 257])
def test_a_boundary_of_no_or_too_many_bytes_is_refused(boundary):
    with pytest.raises(MultiPartException) as refusal:
        read(END, boundary)
    assert "boundary of 1 to 256 bytes" in refusal.value.message


def test_texts_are_limited_in_total_and_a_file_has_a_name():
    text = b"x" * 2**20
    with pytest.raises(InvalidField, match=f"more than {MAX_FORM_TEXT_BYTES:,} bytes"):
        read(PART % (b"a", text) * 5 + END)
    with pytest.raises(InvalidField, match="images: came without a file name"):
        read(PART % (b"images", b"x") + END, file_fields={"images"})
    assert read(PART % (b"images", b"") + END, file_fields={"images"})["images"] == ""
