"""Multipart forms read by the service's own parser and by python-multipart, and first forms.

The own parser may refuse more, and reads the same from a form that it accepts.
"""

from python_multipart.multipart import parse_options_header
from starlette.datastructures import Headers
from starlette.formparsers import MultiPartException, MultiPartParser

from service.http.multipart import read_form, skip_preamble

BOUNDARY = b"b"
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n%s\r\n'


class EndedParser(MultiPartParser):
    has_ended = False

    def on_end(self):
        self.has_ended = True


async def compare_parsers(parameters, body):
    """Assert that the own parser reads what python-multipart reads.

    Args:
        parameters: what follows the boundary in the content type.

    Returns:
        The items; None if the text is in another encoding than UTF-8.

    Raises:
        MultiPartException, InvalidField: the own parser refuses the form.
    """
    kind = b"multipart/form-data; boundary=" + BOUNDARY + parameters
    _, options = parse_options_header(kind)
    if options.get(b"charset", b"utf-8").lower() != b"utf-8":
        # The service refuses it before the body is read.
        return None
    boundary = options.get(b"boundary", b"")
    own = await _items(read_form(bytearray(body), boundary, frozenset()))

    async def whole():
        yield body

    headers = Headers({"content-type": kind.decode("latin-1")})
    parser = EndedParser(headers, skip_preamble(whole(), boundary))
    try:
        form = await parser.parse()
    except MultiPartException as refusal:
        raise AssertionError(f"python-multipart refuses the form: {refusal.message}") from refusal
    assert parser.has_ended
    assert await _items(form) == own
    return own


async def _items(form):
    try:
        return [
            (name, value)
            if isinstance(value, str)
            else (name, value.filename, value.size, value.headers.raw, await value.read())
            for name, value in form.multi_items()
        ]
    finally:
        await form.close()


def seeds():
    end = b"--b--\r\n"
    values = {
        b"identity": b"0042",
        b"camera": b"east,west",
        b"captured_at": b"2026-03-01T09:30:00Z",
        b"metadata": b'{"a": [1, {"b": null}], "c": 1e9}',
        b"top_k": b"10",
        b"cameras": b"a, b",
        b"captured_after": b"2026-03-01T09:30:00+01:00",
        b"min_version": b"7",
        b"mode": b"separate",
    }
    parts = [PART % pair for pair in values.items()]
    return [
        b"m\n" + FILE % b"image" + b"".join(parts) + end,
        *(b"m\n" + FILE % b"image" + part + end for part in parts),
        b"m; charset=utf-8\n" + FILE % b"image" + end,
        *(b"u\n" + name + b"=" + value for name, value in values.items()),
        b"u\nidentity=%ED%A0%80&camera=%00&metadata=" + b"[" * 5_000,
        b"m\n" + (FILE % b"") * 1_100 + end,
    ]
