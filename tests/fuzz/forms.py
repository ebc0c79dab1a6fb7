"""Parsing of forms and their fields about images: `python -m tests.fuzz.forms --seconds 120`.

The first line is `m` or `u`, for multipart or urlencoded, and the rest of the type; a body
follows. It goes through the parsing that the service's calls use.
"""

import asyncio

import atheris

with atheris.instrument_imports(
    include=[
        "python_multipart",
        "starlette",
        "service.http.fields",
        "service.http.forms",
        "service.http.query_forms",
    ]
):
    from starlette.formparsers import MultiPartException
    from starlette.requests import Request

    from service.http.forms import EnrollForm
    from service.http.query_forms import QueryForm

from pydantic import ValidationError
from starlette.exceptions import HTTPException

from service.errors import ServiceError
from tests.fuzz.harness import fuzz

URLENCODED = b"application/x-www-form-urlencoded"
FIELDS = ("identity", "camera", "captured_at", "external_id", "metadata")
PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
FILE = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a"\r\n\r\n%s\r\n'


class Refused(Exception):
    """An error that the service answers as a problem document."""


def read(data):
    try:
        asyncio.run(_read(data))
    except (HTTPException, MultiPartException, ValidationError, ServiceError) as error:
        raise Refused from error


async def _read(data):
    sent = False
    head, _, body = data.partition(b"\n")
    if any(byte < 32 or byte == 127 for byte in head):
        return  # which no header may hold: the server refuses it before
    kind = b"multipart/form-data; boundary=b" if head[:1] != b"u" else URLENCODED

    async def receive():
        nonlocal sent
        first = not sent
        sent = True
        half = len(body) // 2
        return {
            "type": "http.request",
            "body": body[:half] if first else body[half:],
            "more_body": first,
        }

    scope = {"type": "http", "headers": [(b"content-type", kind + head[1:])]}
    async with Request(scope, receive).form() as form:
        texts = {
            name: [part for part in form.getlist(name) if isinstance(part, str)] for name in form
        }
        images = [b"x" for part in form.getlist("images") if not isinstance(part, str)]
    EnrollForm(**{name: texts.get(name, []) for name in FIELDS}).for_images(images or [b"x"])
    single = {name: said[0] if len(said) == 1 else said for name, said in texts.items() if said}
    single.pop("images", None)
    QueryForm.model_validate(single).options()


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


if __name__ == "__main__":
    fuzz(read, seeds(), Refused)
