"""One call: its path, its fields, what it uploads, and who reads the answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

from model.problems import InputProblem

AnswerType = TypeVar("AnswerType")
Fields = dict[str, str | list[str]]
UNKNOWN = ""
NO_SEGMENT = ("", ".", "..")


class Readable(Protocol):
    """What an upload is read from, part by part."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; none at the end."""

    def close(self) -> None:
        """Lets go of it."""


@dataclass(frozen=True)
class Upload:
    """A file that is sent as it is read, so that it may be larger than memory.

    Attributes:
        name: what the service may call it.
        open: opens it from its beginning; called again where the request has to be sent again.
    """

    name: str
    open: Callable[[], Readable]

    @classmethod
    def of_file(cls, file: str | Path) -> Upload:
        """A file of this machine.

        Raises:
            InputProblem: once it is sent, where it cannot be opened.
        """
        path = Path(file)

        def opened() -> Readable:
            try:
                return path.open("rb")
            except OSError as error:
                raise InputProblem(
                    f"{path}: cannot be read ({error.strerror}); name a zip or tar file"
                ) from error

        return cls(path.name, opened)


@dataclass(frozen=True)
class Call(Generic[AnswerType]):
    """One request.

    Attributes:
        method: of HTTP.
        path: below the service's URL.
        answer: the model that reads a 2xx answer; `bytes` where the raw ones are wanted.
        params: of the query string.
        fields: of the form; a list stands for a repeated field.
        headers: of this call's own.
        images: what goes into the form's `images`: name and bytes.
        archive: what goes into the form's `archive`.
        partial: whether 422 with `results` is an answer like any other.
        repeatable: whether it may be sent again where nobody knows if it arrived.
        long: whether the service may take minutes to answer.
    """

    method: str
    path: str
    answer: type[AnswerType]
    params: dict[str, str | int] = field(default_factory=dict)
    fields: Fields = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    images: tuple[tuple[str, bytes], ...] = ()
    archive: Upload | None = None
    partial: bool = False
    repeatable: bool = False
    long: bool = False


def path_to(*segments: str) -> str:
    """The path of a resource, from its segments, each of which may hold any character.

    Raises:
        InputProblem: for a segment that would lead to another resource: none, `.` or `..`.
    """
    for segment in segments:
        if segment in NO_SEGMENT:
            raise InputProblem(
                f"{'/'.join(segments)}: {segment!r} can stand in no address; give the whole name "
                "or id"
            )
    return "/".join(["/v1", *(quote(segment, safe="") for segment in segments)])


def given(values: Mapping[str, object]) -> Fields:
    """Those of some fields that have a value, as a form carries them."""
    return {name: _field(value) for name, value in values.items() if value is not None}


def text_of(value: object) -> str:
    """One value as a form carries it."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _field(value: object) -> str | list[str]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [text_of(item) for item in value]
    return text_of(value)
