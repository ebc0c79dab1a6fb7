"""Parameters of the commands of client and service, made from the arguments of functions.

This module does not import rich, so that `gmn serve`, which prints plain lines, starts without it.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import Parameter
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from typer import Argument, BadParameter, Context, Option, Typer

from gmn_client.models import BoxOfPerson
from gmn_client.uploads import LabelledBox, SightedBox

Result = TypeVar("Result")
# An entry of a docstring's `Args:` or `Attributes:`, with its continuation lines.
ENTRY = re.compile(r"^ {4}(\w+(?:, \w+)*): (.*(?:\n {8}.*)*)", re.MULTILINE)
SECTION = re.compile(r"^(?:Args|Raises):$", re.MULTILINE)
# Names of options that are not made from the names of the client's arguments. `--url` says where
# the service is.
OPTION_NAMES = {
    "boxes": "--boxes --box",
    "captured_after": "--captured-after --after",
    "captured_before": "--captured-before --before",
    "crop_id": "--crop-id --crop",
    "identities": "--identities --identity",
    "url": "--webhook-url",
}
BOX = "X,Y,WIDTH,HEIGHT"

JsonOption = Annotated[bool, Option("--json", help="Print one JSON object.")]
UrlOption = Annotated[str, Option("--url", envvar="GMN_URL", help="Where the service is.")]


def is_required(parameter: Parameter) -> bool:
    is_positional = parameter.kind in (Parameter.POSITIONAL_OR_KEYWORD, Parameter.VAR_POSITIONAL)
    return is_positional and parameter.default is Parameter.empty


def read_entries(documented: Any) -> dict[str, str]:
    """Return the description of each argument or attribute in a docstring, of bases too."""
    texts: dict[str, str] = {}
    for base in getattr(documented, "__orig_bases__", ()):
        texts |= read_entries(base)
    for names, text in ENTRY.findall(inspect.getdoc(documented) or ""):
        texts |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return texts


def read_box(text: str) -> Any:
    """Parse X,Y,WIDTH,HEIGHT; a box with labels is an object in JSON, which is sent as it is."""
    if text.startswith("{"):
        return text
    try:
        x, y, width, height = (int(number) for number in text.split(","))
    except ValueError as error:
        raise BadParameter(f"{text}: write it as X,Y,WIDTH,HEIGHT in whole pixels") from error
    return {"x": x, "y": y, "width": width, "height": height}


def annotated(parameter: Parameter, place: Any, texts: Mapping[str, str]) -> Parameter:
    """Return a parameter with its `Argument` or `Option` for Typer, unless it has one.

    Typer parses numbers, switches, choices and paths, and `read_box` boxes. All other types become
    str or list[str].

    Args:
        texts: help of parameters by their names.
    """
    name = parameter.name
    hint = parameter.annotation
    if get_origin(hint) is Annotated or hint is Context:
        return parameter.replace(kind=Parameter.KEYWORD_ONLY)
    # One value for all images may be replaced by a list with one for each.
    if {NoneType, bool} & set(get_args(hint)):
        hint = get_args(hint)[0]
    options: dict[str, Any] = {"help": texts.get(name)}
    if get_origin(hint) in (Sequence, Iterable) or parameter.kind is Parameter.VAR_POSITIONAL:
        item = (*get_args(hint), str)[0]
        if item in (BoxOfPerson, LabelledBox, SightedBox):
            options |= {"parser": read_box, "metavar": BOX}
        hint = list[float] if item is float else list[str]
    elif hint not in (bool, int, float, Path) and get_origin(hint) not in (Literal, list):
        hint = str
    names = OPTION_NAMES.get(name, "").split() if place is Option else ()
    return parameter.replace(
        kind=Parameter.KEYWORD_ONLY, annotation=Annotated[hint, place(*names, **options)]
    )


def with_parameters(
    command: Callable[..., Result],
    run: Callable[..., object],
    own: Iterable[Parameter] | None = None,
) -> Callable[..., Result]:
    """Give a command the name, help and parameters of `run`, in addition to its own parameters.

    A parameter that is neither an `Argument` nor an `Option` of Typer becomes one, with its text in
    the docstring. Each field of `**options: Unpack[Options]` becomes an option, with its text in
    the docstring of `Options`.

    Args:
        own: the parameters of `run` to take; all by default.
    """
    *added, _ = inspect.signature(command, eval_str=True).parameters.values()
    if own is None:
        own = inspect.signature(run, eval_str=True).parameters.values()
    declared = list(own)
    texts = read_entries(run)
    if declared and declared[-1].kind is Parameter.VAR_KEYWORD:
        (options,) = get_args(declared.pop().annotation)
        texts |= read_entries(options)
        declared += [
            Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=hint)
            for name, hint in get_type_hints(options, include_extras=True).items()
        ]
    parameters = [
        annotated(parameter, Argument if is_required(parameter) else Option, texts)
        for parameter in declared
    ]
    names = {parameter.name for parameter in parameters}
    parameters += [parameter for parameter in added if parameter.name not in names]
    functools.update_wrapper(command, run)
    command.__doc__ = SECTION.split(inspect.getdoc(run) or "")[0]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    vars(command)["__signature__"] = inspect.Signature(parameters)
    return command


def command_group(text: str) -> Typer:
    # Without a callback, Typer would turn a group of one command into that command.
    return Typer(help=text, no_args_is_help=True, callback=lambda: None)
