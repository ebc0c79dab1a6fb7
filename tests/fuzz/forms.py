"""Parsing of forms and their fields about images: `python -m tests.fuzz.forms --seconds 120`.

The first line is `m` or `u`, for multipart or urlencoded, and the rest of the type; a body
follows. It goes through the parsing that the service's calls use; the service's own parser has to
refuse what python-multipart refuses, and to read the same from the rest.
"""

import asyncio

import atheris

with atheris.instrument_imports(
    include=[
        "python_multipart",
        "starlette",
        "service.http.fields",
        "service.http.forms",
        "service.http.multipart",
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
from tests.two_parsers import compare_parsers, seeds

URLENCODED = b"application/x-www-form-urlencoded"
FIELDS = ("identity", "camera", "captured_at", "external_id", "metadata")


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
    if head[:1] != b"u":
        await compare_parsers(head[1:], body)
    async with Request(scope, receive).form() as form:
        texts = {
            name: [part for part in form.getlist(name) if isinstance(part, str)] for name in form
        }
        images = [b"x" for part in form.getlist("images") if not isinstance(part, str)]
    EnrollForm(**{name: texts.get(name, []) for name in FIELDS}).for_images(images or [b"x"])
    single = {name: said[0] if len(said) == 1 else said for name, said in texts.items() if said}
    single.pop("images", None)
    QueryForm.model_validate(single).options()


if __name__ == "__main__":
    fuzz(read, seeds(), Refused)
