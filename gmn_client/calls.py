"""Turns methods of both clients into requests, from their signatures or by code."""

from __future__ import annotations

import functools
import inspect
from collections.abc import (
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from os import PathLike
from types import MethodType, NoneType, UnionType
from typing import (
    Annotated,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    TypeAlias,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    overload,
)

import httpx2
from pydantic import Field, TypeAdapter

from gmn_client import models
from gmn_client.errors import InvalidInput, checked, parse, parse_enrollment, parse_report
from gmn_client.uploads import (
    CropFields,
    Images,
    ImageSource,
    each_image,
    idempotency_header,
    label_fields,
    path_to,
    vector_text,
    whole_fields,
)

Params = ParamSpec("Params")
Item = TypeVar("Item")
Answer = TypeVar("Answer")
Answer_co = TypeVar("Answer_co", covariant=True)
Awaited_co = TypeVar("Awaited_co", covariant=True)

# Names of the labels of a crop.
LABELS = frozenset(CropFields.__annotations__)
# Number of items that are requested at once.
PAGE = 1000


@dataclass(frozen=True)
class Call(Generic[Answer_co]):
    """One request, and how its answer is parsed.

    Attributes:
        read: parses a response, or raises the exception for its status.
        values: query parameters of a GET, otherwise form fields; None is omitted.
        images: files of the form, read before the first attempt; may be none.
        archive: a single file instead, read while it is sent.
        repeatable: it may be repeated although it may have arrived; always true for GET.
        long: the service may take minutes to answer.
        patience: seconds during which it is repeated, for example while the service restarts.
    """

    read: Callable[[httpx2.Response], Answer_co]
    method: str
    path: str
    values: Mapping[str, object] = field(default_factory=dict)
    headers: Mapping[str, str] | None = None
    images: Sequence[ImageSource] = ()
    archive: str | PathLike[str] | None = None
    repeatable: bool = False
    long: bool = False
    patience: float | None = None


Awaited: TypeAlias = Coroutine[Any, Any, Answer]


class Calls:
    """Base of both clients' calls."""

    gallery_name: str

    async def _send(self, call: Call[Answer]) -> Answer:
        raise NotImplementedError


class Blocks:
    """A client whose calls return their answers."""


class Awaits:
    """A client whose calls return awaitables."""


class Method(Generic[Params, Answer_co, Awaited_co]):
    """A method of both clients, made from a function that builds a request, or sends several.

    `steps` names the methods of a client to which the result of the function is passed in turn.
    """

    def __init__(self, build: Callable[..., Any], *steps: str) -> None:
        self._build = build
        self._steps = steps
        self._name = build.__name__

    def __set_name__(self, owner: Any, name: str) -> None:
        self._name = name

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self._build)

    def _describe_misuse(self, error: TypeError) -> str:
        """Describe the wrong arguments of a call, and the remedy."""
        _, *arguments = self._signature.parameters
        remedy = f"its arguments are {', '.join(arguments)}"
        if self._name == "enroll" and any(repr(label) in str(error) for label in LABELS):
            remedy = "a label belongs to its image, as in Image('ann.jpg', identity='Ann')"
        return f"{self._name}: {error}; {remedy}"

    @overload
    def __get__(self, client: Blocks, owner: Any) -> Callable[Params, Answer_co]: ...

    @overload
    def __get__(self, client: Awaits, owner: Any) -> Callable[Params, Awaited_co]: ...

    def __get__(self, client: Blocks | Awaits | None, owner: Any) -> Any:
        if client is None:
            return self._build
        build: Callable[..., Any] = MethodType(self._build, client)

        @functools.wraps(build)
        def method(*args: Any, **options: Any) -> object:
            try:
                self._signature.bind(client, *args, **options)
            except TypeError as error:
                raise InvalidInput(self._describe_misuse(error)) from error
            result = build(*args, **options)
            for step in self._steps:
                result = getattr(client, step)(result)
            return result

        return method


def answered(
    build: Callable[Concatenate[Any, Params], Awaited[Answer]],
) -> Method[Params, Answer, Awaited[Answer]]:
    """Make a method that returns the answer or, in `AsyncClient`, a coroutine."""
    return Method(build, "_answer")


def listed(
    build: Callable[Concatenate[Any, Params], AsyncIterator[Item]],
) -> Method[Params, Iterator[Item], AsyncIterator[Item]]:
    """Make a method that returns an iterator over a list, fetched page by page."""
    return Method(build, "_items")


@dataclass(frozen=True)
class Request:
    """Decorator for a method without a body; the signature declares the request and its answer.

    Arguments named in `path` fill its segments; None stands for the client's gallery. Images and
    `archive` are sent as files, and `idempotency_key` as a header. All other arguments are query
    parameters of a GET, otherwise form fields. None is omitted, except in `**options`, where it is
    sent as empty text, meaning unknown. The answer is parsed as the return type; a list has a
    single page.

    Attributes:
        path: path below `/v1`, with the names of arguments in braces.
        repeatable, long: as in `Call`.
        labels: labels of an `Image` that are sent as fields; others are refused.
    """

    method: str
    path: str
    repeatable: bool = False
    long: bool = False
    labels: Collection[str] = ()

    def __call__(
        self, declared: Callable[Concatenate[Any, Params], Answer]
    ) -> Method[Params, Answer, Awaited[Answer]]:
        """Make the method, which returns the answer."""
        return Method(self.builder(declared), "_send", "_answer")

    def builder(self, declared: Callable[..., Any], **added: object) -> Callable[..., Call[Any]]:
        """Return a function with the same arguments that builds the request.

        Args:
            added: further parameters or fields.
        """
        signature = inspect.signature(declared)
        hints = get_type_hints(declared)
        read = reader(hints["return"])
        image_names = [name for name, hint in hints.items() if hint in (ImageSource, Images)]

        @functools.wraps(declared)
        def build(client: Calls, *args: object, **options: object) -> Call[Any]:
            bound = signature.bind(client, *args, **options)
            bound.apply_defaults()
            _, *given = bound.arguments.items()
            values: dict[str, Any] = dict(given) | added
            values |= whole_fields(values.pop("options", {}))
            images: list[Any] = []
            for name in image_names:
                value = values.pop(name)
                images += each_image(value) if isinstance(value, tuple) else [value]
            values |= label_fields(declared.__name__.strip("_"), images, self.labels, values)
            segments = [
                values.pop(part.strip("{}")) if part.startswith("{") else part
                for part in self.path.split("/")
            ]
            headers = None
            if "idempotency_key" in values:
                headers = idempotency_header(values.pop("idempotency_key"))
            if "vector" in values:
                values["vector"] = vector_text(values["vector"])
            if "vectors" in values:
                values["vector"] = [vector_text(vector) for vector in values.pop("vectors")]
            return Call(
                read,
                self.method,
                path_to(*(client.gallery_name if part is None else part for part in segments)),
                headers=headers,
                images=images,
                archive=values.pop("archive", None),
                values=values,
                repeatable=self.repeatable,
                long=self.long,
            )

        return build


@dataclass(frozen=True)
class PagedRequest:
    """Like `Request`, for a method that returns an iterator over a list.

    Attributes:
        path: as in `Request`.
        limit: page size; None if the service sends the whole list at once.
    """

    path: str
    limit: int | None = PAGE

    def __call__(
        self, declared: Callable[Concatenate[Any, Params], Iterator[Item]]
    ) -> Method[Params, Iterator[Item], AsyncIterator[Item]]:
        """Make the method, which fetches the next page when the iterator needs it."""
        build = Request("GET", self.path).builder(declared, limit=self.limit)
        return Method(build, "_pages", "_items")


def reader(answer: Any) -> Callable[[httpx2.Response], Any]:
    """Return a function that parses a response as this type."""
    if answer is models.Enrollment:
        return parse_enrollment
    if answer == list[models.JobProblem]:
        return parse_report
    if answer is bytes:
        return lambda response: checked(response).content
    if answer is NoneType:
        return lambda response: checked(response) and None
    is_page = get_origin(answer) is list
    if is_page or get_origin(answer) is Iterator:
        answer = models.Page[get_args(answer)]  # type: ignore[misc]
    if isinstance(answer, UnionType):
        # By default pydantic parses a response as every type of the union.
        answer = Annotated[answer, Field(union_mode="left_to_right")]
    adapter = TypeAdapter(answer)
    if is_page:
        return lambda response: parse(adapter, response).results
    return lambda response: parse(adapter, response)
