"""The `gmn` command: the sub-commands of training, service, demo and bench under one name.

The module of a sub-command is imported when the sub-command is run, and the packages that it
computes with still later. The help is shown at once, the commands of the service work without
torch, and the client's without numpy.
"""

from __future__ import annotations

import ast
import io
import os
import re
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import typer

try:
    import gmn_reid  # noqa: F401
except ImportError as error:
    sys.stderr.write(f"gmn: {error}\n")
    sys.exit(2)

from model.problems import InputProblem

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
# The sub-commands by the panel of the help that shows them. Each is a function or a Typer of this
# module, named alike.
PANELS = {
    "Try and serve": {
        "demo": "demo.command",
        "serve": "service.commands.serve",
        "camera": "gmn_camera.command",
        "demo-camera": "demo.camera",
        "artefacts": "bench.model_card",
    },
    "Ask and browse": {
        "enroll": "gmn_client.commands.enroll",
        "query": "gmn_client.commands.query",
        "people": "gmn_client.commands.query",
        "visits": "gmn_client.commands.visits",
        "crops": "gmn_client.commands.browse",
        "identities": "gmn_client.commands.browse",
        "doubtful": "gmn_client.commands.browse",
        "rename": "gmn_client.commands.browse",
        "forget": "gmn_client.commands.browse",
        "gallery": "gmn_client.commands.browse",
        "api": "gmn_client.commands.browse",
        "mcp": "gmn_client.commands.mcp",
    },
    "Data, train and measure": {
        "check-data": "training.commands.data",
        "draw-people": "training.commands.rendered",
        "train": "training.commands.train",
        "finish": "training.commands.train",
        "evaluate": "training.commands.evaluate",
        "report": "training.commands.evaluate",
        "benchmark": "training.commands.benchmark",
        "calibrate": "training.commands.artefacts",
        "embed": "training.commands.data",
        "export": "training.commands.artefacts",
        "import-weights": "training.commands.artefacts",
        "artefact": "training.commands.artefacts",
        "model-card": "bench.model_card",
        "bench": "bench.command",
    },
    "Look after": {
        "doctor": "service.commands.doctor",
        "keys": "service.commands.keys",
        "reindex": "gmn_client.commands.browse",
        "backup": "service.store.command",
        "restore": "service.store.command",
        "store": "service.store.command",
        "index": "service.milvus.command",
        "audit": "service.store.command",
    },
}
COMMANDS = {name: module for panel in PANELS.values() for name, module in panel.items()}
PANEL_OF = {name: panel for panel, names in PANELS.items() for name in names}
# They run until they are stopped, or may do so, and log or print what they do.
UNTIL_STOPPED = ("serve", "camera", "mcp", "api")
# Packages of the extra `train` that the extra `serve` lacks.
TRAINER_PACKAGES = (
    *("matplotlib", "pandas", "scipy", "sklearn", "tensorboard", "torch", "torchvision"),
)
# A shell writes out the home directory, but not after `--option=`, and no shell reads the variables
# of a unit or a container, or the words by which another program starts this one.
IN_HOME = re.compile(r"(--[\w-]+=)?(~(?:/.*)?)", re.DOTALL)
# Modules of Python that it has on Linux and not on Windows.
LINUX_MODULES = ("fcntl", "resource")


def make_app(run: str | None = None) -> typer.Typer:
    """Return the command line.

    Args:
        run: the sub-command that alone is imported. The others are listed, with their help if this
            is the name of no sub-command. Without it all are imported.
    """
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_gmn)
    for name in COMMANDS:
        panel = PANEL_OF[name]
        if run not in (None, name):
            text = None if run in COMMANDS else _read_help(name)
            app.command(name, help=text, rich_help_panel=panel)(_not_imported)
            continue
        command = _load(name)
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)
    return app


def _load(name: str) -> Any:
    command = getattr(import_module(COMMANDS[name]), name.replace("-", "_"))
    if name == "train":
        from demo.reviewed_searches import with_reviews

        return with_reviews(command)
    return command


def _read_help(name: str) -> str:
    """Return a sub-command's help from the source of its module, which is not imported."""
    source = Path(__file__).parent / f"{COMMANDS[name].replace('.', '/')}.py"
    attribute = name.replace("-", "_")
    for statement in ast.parse(source.read_bytes()).body:
        if isinstance(statement, ast.FunctionDef) and statement.name == attribute:
            text, _, _ = (ast.get_docstring(statement) or "").partition("\n\nArgs:\n")
            return text
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == attribute:
            texts = [node.value for node in ast.walk(statement) if isinstance(node, ast.Constant)]
            return str(next(text for text in texts if isinstance(text, str)))
    raise AttributeError(f"{COMMANDS[name]} has no {attribute}")


def _not_imported() -> None:
    raise NotImplementedError


def _show_version(asked: bool) -> None:
    if asked:
        try:
            number = version("gmn-reid")
        except PackageNotFoundError:
            number = "(not installed, run from its source folder)"
        typer.echo(f"gmn {number}")
        raise typer.Exit


def _gmn(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; anywhere on the line.")
    ] = False,
) -> None:
    """Person re-identification across cameras: train, evaluate, serve, enroll and query.

    Example: gmn demo
    """


def main() -> None:
    """Runs the command line; exits with 0, 1 (failed), 2 (bad usage or input) or 130 (Ctrl-C)."""
    # Names of files may contain bytes that are not UTF-8.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    sys.exit(run(arguments, debug))


def run(arguments: list[str], debug: bool = False) -> int:
    """Runs one command line and returns its exit status; errors go to standard error."""
    try:
        arguments = [_with_home(argument) for argument in arguments]
        os.environ |= {
            name: _with_home(value) for name, value in os.environ.items() if name[:4] == "GMN_"
        }
        app, data_sets = _prepare(arguments)
        with _told(_find_command(arguments)):
            status = app(arguments, prog_name="gmn", standalone_mode=False, obj=data_sets)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error, _find_command(arguments))
    return status if isinstance(status, int) else 0


def _prepare(arguments: list[str]) -> tuple[typer.Typer, Any]:
    """Return the command line for these arguments, and what its commands read data sets with."""
    if "_GMN_COMPLETE" in os.environ:
        # The words to complete are in the environment.
        return make_app(), None
    name = _find_command(arguments)
    data_sets = import_module("demo.data_sets") if name in ("enroll", "query") else None
    return make_app(name), data_sets


def _with_home(text: str) -> str:
    """Return a path below `~` with the home directory in place of it; return other texts as is."""
    found = IN_HOME.fullmatch(text)
    return (found[1] or "") + str(Path(found[2]).expanduser()) if found else text


def _told(name: str) -> AbstractContextManager[None]:
    """Return what tells the steps of a sub-command, unless it runs until it is stopped."""
    is_first = os.environ.get("RANK", "0") == "0"
    if name not in COMMANDS or name in UNTIL_STOPPED or not is_first:
        return nullcontext()
    from gmn_client.commands.terminal import tell_steps

    return tell_steps(f"gmn {name}")


def _find_command(arguments: list[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def _reword(error: Any) -> None:
    """Put the reason why an option has a wrong value, which pydantic found, into plain words."""
    find_errors = getattr(error.__cause__, "errors", None)
    if find_errors is not None:
        from service.wording import describe_reason

        error.message = f"it {describe_reason(find_errors()[0])}"


def _report(error: Exception, command_name: str) -> int:
    from gmn_client import InvalidInput, RequestRefused, ServiceUnreachable

    usage = getattr(error, "format_message", None)
    if usage is not None:
        _reword(error)
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "gmn"
        if usage():
            # A suggestion ends with a question mark.
            message = usage() + " See" if usage().endswith("?") else usage().rstrip(".") + "; see"
            _print_error(f"gmn: {message} {command} --help")
        return int(getattr(error, "exit_code", BAD_INPUT))
    if isinstance(error, InputProblem | InvalidInput | RequestRefused | ServiceUnreachable):
        _print_error(f"gmn: {error}")
        return BAD_INPUT
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        if package in LINUX_MODULES:
            _print_error(
                f"gmn: gmn {command_name} needs Linux, and Python has no module {package} here; "
                "run it on Linux or in a container. The client works here, and so do the commands "
                "that call a service, such as gmn query --url"
            )
            return BAD_INPUT
        remedy = "pipx install --force 'gmn-reid[serve]' installs gmn with it, "
        remedy += "in an environment of its own"
        if package in TRAINER_PACKAGES:
            remedy = "pip install 'gmn-reid[train]' in an environment of its own, "
            remedy += "which `make .venv/ready` does in a clone"
        _print_error(f"gmn: the package {package} is not installed; {remedy}")
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        return FAILED
    _print_error(f"gmn: failed: {type(error).__name__}: {error}; --debug shows where")
    return FAILED


def _print_error(message: str) -> None:
    # Imports the client, which the help of all commands does without.
    from gmn_client.commands.terminal import escape_controls, make_console

    make_console(stderr=True, soft_wrap=True).print(escape_controls(message))


if __name__ == "__main__":
    main()
