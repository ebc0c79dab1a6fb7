"""Commands that list, configure, rename and remove by the client's methods, and `gmn api`."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterator
from inspect import Parameter
from itertools import islice
from typing import Annotated, Any, get_origin

from pydantic_core import to_jsonable_python
from typer import Argument, Exit, FileBinaryWrite, Option, confirm

from gmn_client import Client, InvalidInput
from gmn_client.calls import Method
from gmn_client.commands.common import (
    Columns,
    Shown,
    counted,
    follow,
    table_of,
    with_client,
)
from gmn_client.commands.parameters import annotated, command_group, is_required, read_entries
from gmn_client.models import Gallery

SHOWN_AT_MOST = 1000
# Fields of an answer that are lists of objects.
OBJECTS = ("results", "remaining")
# Invisible characters that names in some scripts need.
JOINERS = ("\u200c", "\u200d")
REPLACEMENT = "\ufffd"
YesOption = Annotated[bool, Option("--yes", help="Do not ask; needed without a terminal.")]
LimitOption = Annotated[int, Option(min=1, help="How many at most.")]
OutOption = Annotated[FileBinaryWrite, Option(help="The file to write.")]


def method_command(
    text: str,
    name: str,
    columns: Columns | None = None,
    *,
    positional: str = "",
    needed: str = "",
    limit: int | None = None,
    question: str = "",
) -> Callable[..., None]:
    """Make a command that calls a method of the client and prints its answer.

    Args:
        text: help of the command; the docstring of the method if empty.
        name: name of the method.
        columns: columns of a table of the answer; without them it is printed line by line.
        positional: an optional argument of the method that is not named on the command line.
        needed: an optional argument of the method that the command requires.
        limit: number of objects of a list that are printed; can be changed by `--limit`.
        question: asked before the call, unless there is `--yes`; has arguments in braces.
    """
    method = getattr(Client, name)
    signature = inspect.signature(method, eval_str=True)
    is_list = get_origin(signature.return_annotation) is Iterator
    # Omit progress callbacks, which cannot be given as text.
    client_parameter, *declared = (
        parameter for parameter in signature.parameters.values() if parameter.name != "progress"
    )
    declared = [
        parameter.replace(default=Parameter.empty) if parameter.name == needed else parameter
        for parameter in declared
    ]
    required = [parameter for parameter in declared if is_required(parameter)]

    def run(client: Client, *, out: Any = None, yes: bool = False, **given: Any) -> Shown:
        if question:
            confirmed(yes, question.format(**{**given, "gallery": client.gallery_name}))
        most = given.pop("limit", None) if is_list else None
        arguments: list[Any] = []
        for parameter in required:
            value = given.pop(parameter.name)
            arguments += value if parameter.kind is Parameter.VAR_POSITIONAL else [value]
        answer = getattr(client, name)(*arguments, **given)
        if is_list:
            answer = islice(answer, most)
        if out is not None:
            out.write(answer)
            answer = {"file": out.name}
        if columns is None:
            return Shown(answer, _format_lines(answer), ok=answer is not False)
        rows = list(answer) if is_list else [answer]
        return Shown(rows if is_list else answer, table_of(rows, columns))

    named = Parameter.KEYWORD_ONLY
    parameters = [client_parameter]
    if is_list:
        parameters.append(Parameter("limit", named, default=limit, annotation=LimitOption))
    if question:
        parameters.append(Parameter("yes", named, default=False, annotation=YesOption))
    if signature.return_annotation is bytes:
        parameters.append(Parameter("out", named, annotation=OutOption))
    texts = read_entries(method)
    for parameter in declared:
        place = Argument if parameter in required or parameter.name == positional else Option
        is_last = parameter.kind is Parameter.VAR_KEYWORD
        parameters.append(parameter if is_last else annotated(parameter, place, texts))
    run.__doc__ = text or inspect.getdoc(method)
    vars(run)["__signature__"] = inspect.Signature(parameters)
    return with_client(run)


def _format_lines(answer: Any) -> Iterator[str]:
    objects = answer
    if not isinstance(answer, Iterator | list):
        yield from _format_fields(answer)
        objects = next((getattr(answer, name) for name in OBJECTS if hasattr(answer, name)), [])
    for item in objects:
        yield "  ".join(_format_fields(item))


def _format_fields(item: Any) -> Iterator[str]:
    data = to_jsonable_python(item)
    if not isinstance(data, dict):
        data = {"answer": data}
    for name, value in data.items():
        if value is not None and name not in OBJECTS:
            # Escape line breaks and other control characters.
            is_plain = isinstance(value, str) and _is_printed_whole(value)
            yield f"{name}: {value if is_plain else json.dumps(value, ensure_ascii=False)}"


def _is_printed_whole(text: str) -> bool:
    return all(
        letter in JOINERS or (letter.isprintable() and letter != REPLACEMENT) for letter in text
    )


def confirmed(yes: bool, question: str) -> None:
    """Ask before a task that cannot be undone, unless `yes`; exits if the user declines.

    Raises:
        InvalidInput: there is no terminal to ask on.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidInput(
            f"{question} It cannot be undone, and there is no terminal to ask on; add --yes"
        )
    if not confirm(f"{question} It cannot be undone.", err=True):
        raise Exit(1)


def _format_retention(gallery: Gallery) -> str:
    if gallery.retention_hours:
        return f"{counted(gallery.retention_hours, 'hour')} ({gallery.retention_from})"
    if not gallery.retention_days:
        return "all"
    return f"{gallery.retention_days} ({gallery.retention_from})"


def _format_share(probability: float | None) -> str:
    return "only crop" if probability is None else f"{probability:.2f}"


GALLERY_COLUMNS: Columns = {
    "gallery": "name",
    "crops": "crops",
    "identities": "identities",
    "state": "state",
    "keeps days": _format_retention,
    "calibration": "calibration.state",
}
CROP_COLUMNS: Columns = {
    "crop": "crop_id",
    "identity": "identity",
    "camera": "camera",
    "captured (UTC)": "captured_at",
    "track": "track",
    "external id": "external_id",
}
IDENTITY_COLUMNS: Columns = {
    "identity": "identity",
    "crops": "crops",
    "cameras": "cameras",
    "last seen or enrolled (UTC)": "last_seen",
}
DOUBTFUL_COLUMNS: Columns = {
    "crop": "crop.crop_id",
    "identity": "crop.identity",
    "alike": lambda doubtful: _format_share(doubtful.own_probability),
    "other identity": "other.identity",
    "alike with other": lambda doubtful: _format_share(doubtful.other_probability),
    "other crop": "other.crop_id",
}
JOB_COLUMNS: Columns = {
    "gallery": "gallery",
    "job": "job_id",
    "state": "state",
    "crops": lambda job: f"{job.progress.done:,} of {counted(job.progress.total, 'crop')}",
    "problems": "problems",
    "detail": "detail",
}

gallery = command_group(
    """Lists, creates, shows, sets up and deletes galleries.

    Example: gmn gallery create lobby --retention-days 90

    Example: gmn gallery set lobby --calibration frozen
    """
)
for command, method in (
    ("list", "galleries"),
    ("show", "gallery"),
    ("create", "create_gallery"),
):
    gallery.command(command)(method_command("", method, GALLERY_COLUMNS, positional="name"))
gallery.command("set")(method_command("", "change_gallery", GALLERY_COLUMNS, needed="name"))
gallery.command("delete")(
    method_command(
        "", "delete_gallery", question="Delete gallery {name} with its crops and exports?"
    )
)
identities = method_command(
    """Lists the identities of a gallery, those whose name contains QUERY.

    Example: gmn identities ann --sort last_seen
    """,
    "identities",
    IDENTITY_COLUMNS,
    positional="query",
    limit=SHOWN_AT_MOST,
)
crops = method_command(
    """Lists crops of a gallery.

    Example: gmn crops --unnamed --order=-captured --limit 20
    """,
    "crops",
    CROP_COLUMNS,
    limit=SHOWN_AT_MOST,
)
doubtful = method_command(
    """Lists named crops that may show somebody else, or too little, the most doubtful first.

    Each is shown with the probability that it shows its person, and with the crop of the other
    person that it resembles. Then set it aside (gmn api change_crop CROP --set-aside), rename it
    (gmn api change_crop CROP --identity NAME), or confirm it (gmn api confirm_crop CROP).

    Example: gmn doubtful --gallery entrance --limit 20
    """,
    "doubtful",
    DOUBTFUL_COLUMNS,
    limit=SHOWN_AT_MOST,
)
rename = method_command(
    """Renames an identity, or merges it into an existing one. The key needs the scope admin.

    A merge can be undone for 30 days: gmn api undo_merge MERGE_ID

    Example: gmn rename Bob Robert --gallery lobby
    """,
    "rename_identity",
)
forget = method_command(
    """Removes a person from a gallery, and lists what remains, such as exports.

    It cannot be undone: no restore brings them back. On a terminal the command asks first; without
    one it needs --yes. The key needs the scope admin.

    Example: gmn forget 0042 --gallery entrance --yes
    """,
    "forget",
    question="Remove {identity} from gallery {gallery}?",
)


@with_client
def reindex(
    client: Client,
    wait: bool = False,
    everything: Annotated[bool, Option("--all", help="All that another model filled.")] = False,
) -> Shown:
    """Embeds galleries again with the served model: the given one, or all that need it.

    The service does the work; a reindex in progress is continued. Until it is done, the previous
    model answers if it is a shipped one or the service was started with --previous. The problems of
    a job are listed by gmn api job_problems JOB.

    Example: gmn reindex --gallery entrance --wait

    Example: gmn reindex --all --wait

    Args:
        wait: until it is done; the exit status is 1 if it fails.
    """
    names = [client.gallery_name]
    if everything:
        names = [gallery.name for gallery in client.galleries() if gallery.state != "ready"]
    jobs = [client.reindex(name) for name in names]
    if wait:
        jobs = [follow(client, job, job.gallery) for job in jobs]
    is_done = not wait or all(job.state == "done" for job in jobs)
    nothing = "every gallery holds vectors of the served model already"
    text = table_of(jobs, JOB_COLUMNS) if jobs else nothing
    return Shown(jobs if everything else jobs[0], text, is_done)


api = command_group(
    """Calls a method of the Python client and prints its answer.

    Methods and their options are those of `gmn_client.Client`. Images are named by their files,
    objects are JSON, and an empty text stands for unknown. Nothing asks before it deletes.

    Example: gmn api kept_searches --gallery entrance

    Example: gmn api make_export --gallery entrance

    Example: gmn api pairs front.jpg side.jpg --json
    """
)

for name in dir(Client):
    if isinstance(inspect.getattr_static(Client, name), Method) and not name.startswith("_"):
        api.command(name)(method_command("", name))
