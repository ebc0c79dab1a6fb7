"""The `gmn` command: the sub-commands of training, service, demo and bench under one name.

A sub-command's module loads only when that command is run or asked for its own help, so that the
client's commands work where neither torch nor numpy is installed.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperCommand, TyperGroup

from gmn_client import InvalidInput
from model.problems import InputProblem
from service.commands.sources import SourceCrop

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130


# By module, * standing for the command's name: the commands and the first line of their help.
COMMANDS = {
    "training.commands.*": {
        "check-data": "Reads data sets, counts them, and reports their faults.",
        "train": "Trains an artefact from labelled crops.",
        "finish": "Makes an artefact and its report from a checkpoint of a run, finished or not.",
        "evaluate": "Measures an artefact on labelled crops: ranking, false alarms, calibration.",
        "report": "Shows one run on a page, or compares several.",
        "calibrate": "Fits an artefact's probabilities and operating points anew, "
        "and writes them into it.",
        "import-weights": "Makes an artefact of published OSNet weights, without M-Net.",
        "embed": "Writes the features of a data set.",
        "score": "Writes M-Net's score of every query against every gallery feature, "
        "(Q, G) float32.",
    },
    "service.commands.*": {
        "serve": "Serves galleries over HTTP.",
        "enroll": "Sends images to a gallery of the service.",
        "query": "Asks the service who is on an image, or how well it answers a labelled data set.",
    },
    "service.commands.lifecycle": {
        "forget": "Removes a person from a gallery and its snapshots, and lists what remains.",
        "snapshot": "Copies a gallery while it is served, lists the copies, and restores one.",
        "reindex": "Embeds a gallery anew with the model that is served, "
        "or every one that needs it.",
    },
    "service.commands.keys": {
        "keys": "Makes, lists and revokes API keys.",
    },
    "service.commands.store": {
        "audit": "Checks the log of who did what.",
        "store": "Checks what a service keeps in its data directory, "
        "and recovers what is whole of it.",
    },
    "bench.command": {
        "bench": "Measures ratios, both sides in one run.",
    },
    "demo.command": {
        "demo": "Draws people, serves, enrolls and queries them, and shows the rankings.",
    },
}
# The extra of the package that brings what the commands of a package import.
EXTRAS = {"training": "train", "service": "serve", "bench": "serve,train", "demo": "serve,train"}


def missing_package(error: ModuleNotFoundError, extra: str) -> InputProblem:
    """The problem of a missing package, with the remedy."""
    remedy = f"pip install 'gmn-reid[{extra}]'" if extra else "install the package again"
    return InputProblem(f"the package {error.name} is not installed; {remedy}")


def read_spec(spec: str) -> Iterator[SourceCrop]:
    """The crops of a `KIND:PATH`, for the client's commands; drawn ones are encoded as PNG.

    Raises:
        InputProblem: naming what is wrong with the data set, or the extra to install.
    """
    try:
        from training.datasets.registry import read_dataset
    except ModuleNotFoundError as error:
        raise missing_package(error, "train") from error
    for record in read_dataset(spec).records:
        read = record.path.read_bytes if record.path is not None else _png_encoder(record.decode)
        yield SourceCrop(
            record.source, read, record.identity, record.camera, record.captured_at, record.split
        )


def summarize(*arguments: Any) -> dict[str, Any]:
    """Ranking metrics of a service's answers; see the function of the evaluation.

    Raises:
        InputProblem: naming the extra to install.
    """
    try:
        from training.evaluation import served
    except ModuleNotFoundError as error:
        raise missing_package(error, "train") from error
    return served.summarize(*arguments)


def _png_encoder(decode: Callable[[], Any]) -> Callable[[], bytes]:
    def encode() -> bytes:
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(decode()).save(file, "PNG")
        return file.getvalue()

    return encode


class LazyCommand(TyperCommand):
    """Stands for a sub-command in `gmn --help`, and becomes it when it is called."""

    def __init__(self, module: str, name: str, summary: str) -> None:
        super().__init__(name, help=summary)
        self.attribute = name.replace("-", "_")
        self.module = module.replace("*", self.attribute)

    def load(self) -> Callable[..., None] | typer.Typer:
        """Imports the command's function, or its group of sub-commands.

        Raises:
            InputProblem: naming the extra to install where a package is missing.
        """
        try:
            module = import_module(self.module)
        except ModuleNotFoundError as error:
            raise missing_package(error, EXTRAS[self.module.partition(".")[0]]) from error
        # The service's commands may not import the trainer.
        if self.attribute == "enroll":
            return module.enroll_command(read_spec)  # type: ignore[no-any-return]
        if self.attribute == "query":
            return module.query_command(read_spec, summarize)  # type: ignore[no-any-return]
        return getattr(module, self.attribute)  # type: ignore[no-any-return]

    def make_context(self, info_name: str | None, args: list[str], *more: Any, **extra: Any) -> Any:
        """Loads the command that `args` are for, and parses them with it."""
        loaded = self.load()
        if isinstance(loaded, typer.Typer):
            group = loaded
        else:
            group = typer.Typer(
                add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
            )
            group.command(self.name)(loaded)
        return typer.main.get_command(group).make_context(info_name, args, *more, **extra)


class SubCommands(TyperGroup):
    """The commands of the table, in its order."""

    def __init__(self, **settings: Any) -> None:
        commands = [
            LazyCommand(module, name, summary)
            for module, summaries in COMMANDS.items()
            for name, summary in summaries.items()
        ]
        super().__init__(**settings | {"commands": commands})


app = typer.Typer(
    cls=SubCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        try:
            number = version("gmn-reid")
        except PackageNotFoundError:
            number = "(not installed, run from its source folder)"
        Console().print(f"gmn {number}", highlight=False)
        raise typer.Exit


@app.callback()
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
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    sys.exit(run(arguments, debug))


def run(arguments: list[str], debug: bool = False) -> int:
    """Runs one command line and returns its exit status; errors go to standard error."""
    try:
        status = app(arguments, prog_name="gmn", standalone_mode=False)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _report(error)
    return status if isinstance(status, int) else 0


def _report(error: Exception) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
    usage = getattr(error, "format_message", None)
    if usage is not None:
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "gmn"
        if usage():
            # A suggestion ends with a question mark.
            message = usage() + " See" if usage().endswith("?") else usage().rstrip(".") + "; see"
            console.print(f"gmn: {message} {command} --help")
        return int(getattr(error, "exit_code", BAD_INPUT))
    if isinstance(error, InputProblem | InvalidInput):
        console.print(f"gmn: {error}")
        return BAD_INPUT
    if isinstance(error, ModuleNotFoundError):
        console.print(f"gmn: {missing_package(error, 'serve,train')}")
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        return FAILED
    console.print(f"gmn: failed: {type(error).__name__}: {error}; --debug shows where")
    return FAILED


if __name__ == "__main__":
    main()
