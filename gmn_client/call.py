"""One request, and the methods that both clients make of the functions that build requests."""

from __future__ import annotations

import functools
from collections.abc import (
    AsyncIterator,
    Callable,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, overload

import httpx

from gmn_client.models import Page
from gmn_client.uploads import ImageSource

Asked = ParamSpec("Asked")
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)


@dataclass(frozen=True)
class Call(Generic[Answer_co]):
    """One request, and how its answer is read.

    Attributes:
        read: makes the answer of a response, or raises the exception for its status.
        params, fields: of the query string and the form; those that are None are left out.
        images: the form's files, read before the first attempt.
        archive: the form's one file instead, read as it is sent.
        repeatable: whether it may be sent again where it may have arrived; GET always may.
        long: whether the service may take minutes to answer.
        patient: whether it is sent again for a minute, such as through a restart.
    """

    read: Callable[[httpx.Response], Answer_co]
    method: str
    path: str
    params: Mapping[str, str | int | None] = field(default_factory=dict)
    fields: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] | None = None
    images: Sequence[ImageSource] | None = None
    archive: Path | None = None
    repeatable: bool = False
    long: bool = False
    patient: bool = False

    def at(self, cursor: str) -> Call[Answer_co]:
        """The call for another page of a list."""
        return replace(self, params={**self.params, "cursor": cursor})


class Sends(Protocol):
    """A client whose calls return the answer."""

    def _answer(self, call: Call[Answer], /) -> Answer: ...

    def _items(self, call: Call[Page[Item]], /) -> Iterator[Item]: ...


class Awaits(Protocol):
    """A client whose calls are awaited."""

    async def _answer(self, call: Call[Answer], /) -> Answer: ...

    def _items(self, call: Call[Page[Item]], /) -> AsyncIterator[Item]: ...


class _Method(Generic[Asked, Answer_co]):
    """A method of both clients, from the function that builds its request."""

    def __init__(self, build: Callable[Concatenate[Any, Asked], Call[Answer_co]]) -> None:
        self._build = build

    def _bound(self, client: Sends | Awaits | None, send: str) -> Any:
        if client is None:
            return self._build
        build = MethodType(self._build, client)

        @functools.wraps(build)
        def method(*args: Any, **options: Any) -> object:
            return getattr(client, send)(build(*args, **options))

        return method


class Answered(_Method[Asked, Answer_co]):
    """A method that returns the answer, of `AsyncClient` a coroutine of it."""

    @overload
    def __get__(self, client: Sends, owner: Any) -> Callable[Asked, Answer_co]: ...

    @overload
    def __get__(
        self, client: Awaits, owner: Any
    ) -> Callable[Asked, Coroutine[Any, Any, Answer_co]]: ...

    def __get__(self, client: Sends | Awaits, owner: Any) -> Any:
        return self._bound(client, "_answer")


class Listed(_Method[Asked, Page[Item]]):
    """A method that returns an iterator over a list, which is fetched page by page."""

    @overload
    def __get__(self, client: Sends, owner: Any) -> Callable[Asked, Iterator[Item]]: ...

    @overload
    def __get__(self, client: Awaits, owner: Any) -> Callable[Asked, AsyncIterator[Item]]: ...

    def __get__(self, client: Sends | Awaits, owner: Any) -> Any:
        return self._bound(client, "_items")
