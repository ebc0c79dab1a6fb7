"""`gmn api METHOD`: every method of `gmn_client.Client`, with options from its signature."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Sequence
from inspect import Parameter
from typing import Annotated, Any, get_type_hints

from pydantic_core import to_jsonable_python
from typer import Argument, FileBinaryWrite, Option

from gmn_client import Client
from gmn_client.calls import Method
from service.commands.common import Shown, annotated, client_command, command_group, read_entries

SECTION = re.compile(r"^(?:Args|Raises):$", re.MULTILINE)
OutOption = Annotated[FileBinaryWrite, Option(help="The file to write.")]

api = command_group(
    """Calls a method of the Python client and prints its answer.

    Methods and their options are those of `gmn_client.Client`. Images are named by their files,
    objects are JSON, and an empty text stands for unknown. Nothing asks before it deletes.

    Example: gmn api kept_searches --gallery entrance

    Example: gmn api take_snapshot --gallery entrance

    Example: gmn api pairs front.jpg side.jpg --json
    """
)


def _add_command(name: str) -> None:
    method = getattr(Client, name)
    client_parameter, *declared = inspect.signature(method).parameters.values()

    def run(client: Client, out: Any = None, **given: Any) -> Shown:
        arguments: list[Any] = []
        for parameter in filter(_is_argument, declared):
            value = given.pop(parameter.name)
            arguments += value if parameter.kind is Parameter.VAR_POSITIONAL else [value]
        options = {option: value for option, value in given.items() if value is not None}
        answer = getattr(client, name)(*arguments, **options)
        if out is not None:
            out.write(answer)
            answer = {"file": out.name}
        return Shown(answer, _lines(answer), ok=answer is not False)

    run.__doc__ = SECTION.split(inspect.getdoc(method) or "")[0]
    parameters = [client_parameter, *_command_parameters(method, declared)]
    vars(run)["__signature__"] = inspect.Signature(parameters)
    client_command(api, name)(run)


def _is_argument(parameter: Parameter) -> bool:
    is_positional = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    return is_positional and parameter.default is Parameter.empty


def _command_parameters(method: Any, declared: Sequence[Parameter]) -> Iterator[Parameter]:
    hints = get_type_hints(method)
    texts = read_entries(method)
    if hints["return"] is bytes:
        yield Parameter("out", Parameter.KEYWORD_ONLY, annotation=OutOption)
    for parameter in declared:
        hint = hints[parameter.name]
        if parameter.kind is Parameter.VAR_KEYWORD:
            yield parameter.replace(annotation=hint)
        # Omit progress callbacks, which cannot be given as text.
        elif parameter.name != "progress":
            if parameter.kind is Parameter.VAR_POSITIONAL:
                hint = Sequence[str]
            place = Argument if _is_argument(parameter) else Option
            annotation = annotated(hint, place(help=texts.get(parameter.name)))
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=annotation)


def _lines(answer: Any) -> Iterator[str]:
    if isinstance(answer, Iterator | list):
        items = answer
    else:
        yield from _fields(answer)
        items = getattr(answer, "results", [])
    for item in items:
        yield "  ".join(_fields(item))


def _fields(item: Any) -> Iterator[str]:
    data = to_jsonable_python(item)
    if not isinstance(data, dict):
        data = {"answer": data}
    for name, value in data.items():
        if value is not None and name != "results":
            # Escape line breaks and other control characters.
            is_plain = isinstance(value, str) and value.isprintable()
            yield f"{name}: {value if is_plain else json.dumps(value, ensure_ascii=False)}"


for method_name in dir(Client):
    attribute = inspect.getattr_static(Client, method_name)
    if isinstance(attribute, Method) and not method_name.startswith("_"):
        _add_command(method_name)
