"""How a method of both clients becomes a request: its signature declares it, or it builds one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType, NoneType
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeAlias,
    TypeVar,
    get_args,
    get_type_hints,
    overload,
)

import httpx

from gmn_client import models
from gmn_client.errors import checked, parse
from gmn_client.uploads import ImageSource, path_to, whole_fields

Asked = ParamSpec("Asked")
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)
Awaited_co = TypeVar("Awaited_co", covariant=True)
Model = TypeVar("Model", bound=models.WireModel)

PAGE = 1000


@dataclass(frozen=True)
class Call(Generic[Answer_co]):
    """One request, and how its answer is read.

    Attributes:
        read: makes the answer of a response, or raises the exception for its status.
        params, fields: of the query string and the form; None is left out.
        images: the form's files, read before the first attempt.
        archive: the form's one file instead, read as it is sent.
        repeatable: whether it may be sent again where it may have arrived; GET always may.
        long: whether the service may take minutes to answer.
        patience: seconds for which it is sent again, such as through a restart.
    """

    read: Callable[[httpx.Response], Answer_co]
    method: str
    path: str
    params: Mapping[str, object] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] | None = None
    images: Sequence[ImageSource] | None = None
    archive: Path | None = None
    repeatable: bool = False
    long: bool = False
    patience: float | None = None


Awaited: TypeAlias = Coroutine[Any, Any, Answer]
Asking: TypeAlias = Call[Answer] | Awaited[Answer]
Listing: TypeAlias = Call[models.Page[Item]] | AsyncIterator[Item]


class Calls:
    """Base of the calls of both clients."""

    gallery_name: str

    def _path(self, gallery: str | None, *segments: str) -> str:
        return path_to("galleries", gallery or self.gallery_name, *segments)


class Blocks:
    """A client whose calls return the answer."""


class Awaits:
    """A client whose calls are awaited."""


class Method(Generic[Asked, Answer_co, Awaited_co]):
    """A method of both clients, from the function that builds its request or makes several."""

    def __init__(self, build: Callable[..., Any], send: str) -> None:
        self._build = build
        self._send = send

    @overload
    def __get__(self, client: Blocks, owner: Any) -> Callable[Asked, Answer_co]: ...

    @overload
    def __get__(self, client: Awaits, owner: Any) -> Callable[Asked, Awaited_co]: ...

    def __get__(self, client: Blocks | Awaits | None, owner: Any) -> Any:
        if client is None:
            return self._build
        build: Callable[..., Any] = MethodType(self._build, client)

        @functools.wraps(build)
        def method(*args: Any, **options: Any) -> object:
            return getattr(client, self._send)(build(*args, **options))

        return method


def answered(
    build: Callable[Concatenate[Any, Asked], Asking[Answer]],
) -> Method[Asked, Answer, Awaited[Answer]]:
    """Make a method that returns the answer, of `AsyncClient` a coroutine of it."""
    return Method(build, "_answer")


def listed(
    build: Callable[Concatenate[Any, Asked], Listing[Item]],
) -> Method[Asked, Iterator[Item], AsyncIterator[Item]]:
    """Make a method that returns an iterator over a list, which is fetched page by page."""
    return Method(build, "_items")


def parsed(model: type[Model]) -> Callable[[httpx.Response], Model]:
    """Return a function that reads a model from a response."""
    return lambda response: parse(model, response)


@dataclass(frozen=True)
class Request:
    """Decorates a method without a body, whose signature declares one request and its answer.

    An argument that `path` names is a segment of it; None is the client's own gallery. The others
    are parameters of a GET, else fields of the form. None is left out, but of `**options` it is
    sent as an empty text: unknown. The answer is of the return type, of a list its only page.

    Attributes:
        path: below `/v1`, with the names of arguments in braces.
        repeatable, long: as of `Call`.
    """

    method: str
    path: str
    repeatable: bool = False
    long: bool = False

    def __call__(
        self, declared: Callable[Concatenate[Any, Asked], Answer]
    ) -> Method[Asked, Answer, Awaited[Answer]]:
        """Make the method, which returns the answer."""
        signature = inspect.signature(declared)
        read = _reader(get_type_hints(declared)["return"])

        @functools.wraps(declared)
        def build(client: Calls, *args: object, **options: object) -> Call[Any]:
            bound = signature.bind(client, *args, **options)
            bound.apply_defaults()
            _, *given = bound.arguments.items()
            values = dict(given)
            values |= whole_fields(values.pop("options", {}))
            segments = [
                values.pop(part.strip("{}")) if part.startswith("{") else part
                for part in self.path.split("/")
            ]
            names = [client.gallery_name if part is None else part for part in segments]
            params, fields = (values, {}) if self.method == "GET" else ({}, values)
            return Call(
                read,
                self.method,
                path_to(*names),
                params,
                fields,
                repeatable=self.repeatable,
                long=self.long,
            )

        return Method(build, "_answer")


def _reader(answer: Any) -> Callable[[httpx.Response], Any]:
    if answer is bytes:
        return lambda response: checked(response).content
    if answer is NoneType:
        return lambda response: checked(response) and None
    if items := get_args(answer):
        page: Any = models.Page[items]  # type: ignore[valid-type]
        return lambda response: parse(page, response).results
    return parsed(answer)
