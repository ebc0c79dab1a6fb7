"""Parsers of forms in UTF-8: of a form in memory, and of an archive that goes to disk.

A multipart form in memory is split at its boundaries, which takes about half of python-multipart's
time.
"""

from __future__ import annotations

import io
from collections.abc import AsyncGenerator, Iterator
from urllib.parse import parse_qsl

from python_multipart.multipart import (
    DEFAULT_MAX_HEADER_COUNT,
    MAX_BOUNDARY_LENGTH,
    TOKEN_CHARS,
    parse_options_header,
)
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import InvalidField
from service.ops.data_directory import MEBIBYTE

# Starlette's limits on the fields, on the files, and on the bytes of one text of a form.
MOST_FIELDS = 1000
MOST_FILES = 1000
MAX_TEXT_BYTES = MEBIBYTE
# Total size of a form's texts: metadata of 200 images.
MAX_FORM_TEXT_BYTES = 4 * MEBIBYTE
# Limits on a header of a part, on the headers of all parts, and on the semicolons of a
# Content-Disposition, each of which takes a microsecond. A file name has up to 255 bytes, and
# three characters for each byte if it is percent-encoded.
MAX_HEADER_BYTES = 1024
MAX_FORM_HEADER_BYTES = MEBIBYTE
MOST_SEMICOLONS = 16
# A longer form, or one of more parts, would hold up the event loop.
SHORT_FORM_BYTES = 64 * 1024
MOST_SHORT_PARTS = 16
NO_FILE_NAME = (
    "came without a file name, as text does; send each file as a part with a file name, which curl "
    "does with an @ before it, as in -F images=@crop.png, and other programs with "
    'filename="crop.png" (filename* alone is not read)'
)
CUT_OFF = "The last boundary is missing."
DISPOSITION = b"content-disposition"
RawHeaders = list[tuple[bytes, bytes]]


class FileInMemory(UploadFile):
    """An uploaded file in memory, which is closed without a thread."""

    async def close(self) -> None:
        self.file.close()


def takes_long(body: bytearray, separator: bytes) -> bool:
    """Return whether a form has to be read in a thread.

    Args:
        separator: what stands between its parts.
    """
    return len(body) > SHORT_FORM_BYTES or body.count(separator) > MOST_SHORT_PARTS


def read_url_encoded(body: bytearray) -> FormData:
    """Parse a whole URL-encoded form in UTF-8; unescaped bytes are read as Latin-1.

    Raises:
        MultiPartException: it has too many or too long fields.
    """
    fields = body.split(b"&")
    if len(fields) > MOST_FIELDS:
        raise _too_many_fields()
    if max(len(field) for field in fields) > MAX_TEXT_BYTES:
        raise MultiPartException("Field exceeded maximum size of 1024KB.")
    items: list[tuple[str, str | UploadFile]] = [
        *parse_qsl(body.decode("latin-1"), keep_blank_values=True)
    ]
    return FormData(items)


def read_form(body: bytearray, boundary: bytes, file_fields: frozenset[str]) -> FormData:
    """Parse a whole multipart form in UTF-8.

    Args:
        file_fields: fields whose values have to be files.

    Raises:
        MultiPartException: the form is malformed, not complete, or has too many or too long parts.
        InvalidField: a text came for a file, or the texts are too long in total.
    """
    items: list[tuple[str, str | UploadFile]] = []
    files = 0
    text_bytes = 0
    for headers, content in split_parts(body, boundary):
        name, file_name = _read_name(headers)
        if file_name is not None:
            files += 1
            if files > MOST_FILES:
                raise MultiPartException(
                    f"Too many files. Maximum number of files is {MOST_FILES}."
                )
            file = FileInMemory(
                io.BytesIO(content),
                size=len(content),
                filename=file_name,
                headers=Headers(raw=headers),
            )
            items.append((name, file))
            continue
        if len(items) - files >= MOST_FIELDS:
            raise _too_many_fields()
        _require_file_name(name, content, file_fields)
        if len(content) > MAX_TEXT_BYTES:
            raise MultiPartException("Part exceeded maximum size of 1024KB.")
        text_bytes += len(content)
        require_short_text(name, text_bytes)
        items.append((name, _decode_text(name, content)))
    return FormData(items)


def split_parts(body: bytearray, boundary: bytes) -> Iterator[tuple[RawHeaders, bytes]]:
    """Yield the headers, with names in lower case, and the content of each part of a form.

    Text before the first boundary and behind the last one is ignored.

    Raises:
        MultiPartException: the body is malformed or not complete, or has too many or too long
            headers.
    """
    if not 0 < len(boundary) <= MAX_BOUNDARY_LENGTH:
        raise MultiPartException(
            f"The Content-Type has no boundary of 1 to {MAX_BOUNDARY_LENGTH} bytes."
        )
    delimiter = b"--" + boundary
    # A boundary begins a line, and so does the body.
    line = 0 if body.startswith(delimiter) else body.find(b"\n" + delimiter)
    if line < 0:
        raise _lacks_boundary(boundary)
    position = body.find(delimiter, line) + len(delimiter)
    header_bytes = 0
    while not body.startswith(b"--", position):
        if len(body) < position + 2:
            raise MultiPartException(CUT_OFF)
        if not body.startswith(b"\r\n", position):
            raise MultiPartException("The boundary is in a line with other text.")
        headers, begin = _read_headers(body, position + 2)
        header_bytes += begin - position
        if header_bytes > MAX_FORM_HEADER_BYTES:
            raise MultiPartException(
                f"The headers of all parts have more than {MAX_FORM_HEADER_BYTES:,} bytes."
            )
        end = body.find(b"\r\n" + delimiter, begin)
        if end < 0:
            raise MultiPartException(CUT_OFF)
        yield headers, bytes(memoryview(body)[begin:end])
        position = end + 2 + len(delimiter)


def _read_headers(body: bytearray, position: int) -> tuple[RawHeaders, int]:
    """Return the headers of a part, and the position behind the empty line that ends them."""
    headers: RawHeaders = []
    while not body.startswith(b"\r\n", position):
        end = body.find(b"\r\n", position, position + MAX_HEADER_BYTES + 2)
        if end < 0 and len(body) - position <= MAX_HEADER_BYTES:
            raise MultiPartException(CUT_OFF)
        if end < 0 or len(headers) == DEFAULT_MAX_HEADER_COUNT:
            raise MultiPartException(
                f"A part has more than {DEFAULT_MAX_HEADER_COUNT} headers, or one of more than "
                f"{MAX_HEADER_BYTES:,} bytes."
            )
        name, colon, value = bytes(body[position:end]).partition(b":")
        if not (name and colon) or name.translate(None, TOKEN_CHARS) or b"\r" in value:
            raise MultiPartException("A header of a part is malformed.")
        headers.append((name.lower(), value.lstrip(b" ")))
        position = end + 2
    return headers, position + 2


def _read_name(headers: RawHeaders) -> tuple[str, str | None]:
    """Return the name of a part, and its file name; None if it is a text."""
    _, options = parse_options_header(_find_disposition(headers))
    if b"name" not in options:
        raise MultiPartException('The Content-Disposition header field "name" must be provided.')
    file_name = options.get(b"filename")
    return _decode_name(options[b"name"]), None if file_name is None else _decode_name(file_name)


def _decode_name(name: bytes) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.decode("latin-1")


def _find_disposition(headers: RawHeaders) -> bytes | None:
    """Return the Content-Disposition of a part, which is short enough to be parsed."""
    dispositions = [value for name, value in headers if name == DISPOSITION]
    if not dispositions:
        return None
    if len(dispositions) > 1:
        raise MultiPartException("A part has several Content-Disposition headers; send one.")
    (disposition,) = dispositions
    if len(disposition) > MAX_HEADER_BYTES or disposition.count(b";") > MOST_SEMICOLONS:
        raise MultiPartException(
            f"The Content-Disposition of a part has more than {MAX_HEADER_BYTES:,} bytes or "
            f"{MOST_SEMICOLONS} semicolons; send a shorter file name."
        )
    return disposition


def _too_many_fields() -> MultiPartException:
    return MultiPartException(f"Too many fields. Maximum number of fields is {MOST_FIELDS}.")


def _require_file_name(name: str, text: bytes | bytearray, file_fields: frozenset[str]) -> None:
    # `/docs` sends an empty text for a file that was not chosen.
    if text and name in file_fields:
        raise InvalidField(f"{name}: {NO_FILE_NAME}")


def _decode_text(name: str, text: bytes | bytearray) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise MultiPartException(f"{name[:40]}: is not UTF-8") from error


def require_short_text(field: str, size: int) -> None:
    """Raise `InvalidField` if the texts of a form up to this field are too long in total."""
    if size > MAX_FORM_TEXT_BYTES:
        raise InvalidField(
            f"{field[:40]}: with it the texts of this form have more than {MAX_FORM_TEXT_BYTES:,} "
            "bytes, which is the limit for all of them; send less text, or several requests"
        )


class ArchiveForm(MultiPartParser):
    """Parses a multipart form in UTF-8 while it arrives, and writes its file to the disk.

    Starlette drops an incomplete part, and decodes other text as Latin-1.

    Attributes:
        file_fields: fields whose values have to be files.
    """

    spool_max_size = MEBIBYTE
    file_fields: frozenset[str] = frozenset()
    _has_ended = False

    def on_headers_finished(self) -> None:
        _find_disposition(self._current_part.item_headers)
        super().on_headers_finished()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._current_part
        if part.file is None:
            _require_file_name(part.field_name, data[start:end], self.file_fields)
        super().on_part_data(data, start, end)

    def on_part_end(self) -> None:
        part = self._current_part
        if part.file is None:
            _decode_text(part.field_name, part.data)
        super().on_part_end()

    def on_end(self) -> None:
        self._has_ended = True

    async def parse(self) -> FormData:
        form = await super().parse()
        if not self._has_ended:
            await form.close()
            raise MultiPartException(CUT_OFF)
        return form


async def skip_preamble(
    body: AsyncGenerator[bytes, None], boundary: bytes
) -> AsyncGenerator[bytes, None]:
    """Yield a multipart body from its first boundary on, as parsers ignore what precedes it.

    Raises:
        MultiPartException: the body has no line that begins with the boundary.
    """
    # A boundary begins a line, and so does the body.
    delimiter = b"\n--" + boundary
    searched = b"\n"
    async for piece in body:
        searched += piece
        begin = searched.find(delimiter)
        if begin >= 0:
            yield searched[begin + 1 :]
            break
        searched = searched[-len(delimiter) :]
    else:
        raise _lacks_boundary(boundary)
    async for piece in body:
        yield piece


def _lacks_boundary(boundary: bytes) -> MultiPartException:
    text = boundary[:80].decode("latin-1")
    return MultiPartException(
        f"The body has no line --{text}, the boundary that its Content-Type names."
    )
