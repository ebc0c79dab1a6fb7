"""Formats the calls of the Python client, from their signatures and docstrings, as a page."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping
from inspect import Parameter
from typing import Any

from gmn_client import Client, methods, uploads
from gmn_client.commands.parameters import SECTION, read_entries

# Names that only the client's own code uses, by those that a reader knows.
READABLE = {"GalleryName": "str | None", "AsyncIterator": "Iterator", "models.": ""}
OPTIONS = re.compile(r"Unpack\[(\w+)\]")
STARS: Mapping[Any, str] = {Parameter.VAR_POSITIONAL: "*", Parameter.VAR_KEYWORD: "**"}
LINE = 110


def calls_page() -> str:
    """Return a section for each call, in alphabetical order, and one for each set of options."""
    calls = {name: getattr(Client, name) for name in dir(Client) if not name.startswith("_")}
    sections: list[str] = []
    options: set[str] = set()
    for name, call in calls.items():
        sections += _call_section(name, call)
        options |= set(OPTIONS.findall(str(inspect.signature(call))))
    sections.append("## Options")
    for name in sorted(options):
        sections += _options_section(name)
    return "\n\n".join(sections)


def _call_section(name: str, call: Any) -> Iterator[str]:
    _, *parameters = inspect.signature(call).parameters.values()
    arguments = {parameter.name for parameter in parameters}
    yield f"### {name}"
    yield f"```text\n{_signature(name, call, parameters)}\n```"
    yield SECTION.split(inspect.getdoc(call) or "")[0].strip()
    described = read_entries(call)
    if of_arguments := {key: text for key, text in described.items() if key in arguments}:
        yield _bullets(of_arguments)
    if errors := {key: text for key, text in described.items() if key not in arguments}:
        yield f"Raises:\n\n{_bullets(errors)}"


def _signature(name: str, call: Any, parameters: list[Parameter]) -> str:
    """Return a signature, with a line for each argument unless it fits into one."""
    arguments = []
    has_star = False
    for parameter in parameters:
        is_option = parameter.kind is Parameter.KEYWORD_ONLY
        if is_option and not has_star:
            arguments.append("*")
        has_star = has_star or is_option or parameter.kind is Parameter.VAR_POSITIONAL
        arguments.append(_argument(parameter))
    answer = _readable(inspect.signature(call).return_annotation)
    if declared := Client.__annotations__.get(name):
        # An option decides which of these it answers.
        _, _, answers = declared.rstrip("]").partition("[")
        answer = answers.replace(", ", " | ")
    line = f"{name}({', '.join(arguments)}) -> {answer}"
    if len(line) <= LINE:
        return line
    return f"{name}(\n    " + ",\n    ".join(arguments) + f",\n) -> {answer}"


def _argument(parameter: Parameter) -> str:
    default = "" if parameter.default is Parameter.empty else f" = {parameter.default!r}"
    star = STARS.get(parameter.kind, "")
    return f"{star}{parameter.name}: {_readable(parameter.annotation)}{default}"


def _readable(annotation: str) -> str:
    for name, meant in READABLE.items():
        annotation = annotation.replace(name, meant)
    return OPTIONS.sub(r"\1", annotation)


def _options_section(name: str) -> Iterator[str]:
    options = getattr(methods, name, None) or getattr(uploads, name)
    described = read_entries(options)
    yield f"### {name}"
    yield (inspect.getdoc(options) or "").partition("\n\nAttributes:")[0].strip()
    yield _bullets(
        {
            f"{field}: {_readable(kind.__forward_arg__)}": described.get(field, "")
            for field, kind in options.__annotations__.items()
        }
    )


def _bullets(entries: Mapping[str, str]) -> str:
    return "\n".join(
        f"- `{name}`" + (f": {text}" if text else "") for name, text in entries.items()
    )
