"""The `gmn` command: the sub-commands of training, service, demo and bench under one name.

A sub-command imports what it computes with as it runs, so that the help is shown at once, and the
commands of the service work without torch, and the client's without numpy.
"""

from __future__ import annotations

import sys
import traceback
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer
from rich.console import Console

from bench.command import bench
from bench.model_card import model_card
from bench.plan import plan
from demo import data_sets
from demo.command import demo
from demo.reviewed_searches import with_reviews
from gmn_client import InvalidInput, RequestRefused, ServiceUnreachable
from model.problems import InputProblem
from service.commands.backup import backup, restore
from service.commands.browse import compare, crops, gallery, group, identities, rename, similar
from service.commands.desk import case, review, searches
from service.commands.doctor import doctor
from service.commands.enroll import enroll
from service.commands.index import index
from service.commands.keys import keys
from service.commands.lifecycle import forget, reindex, snapshot
from service.commands.query import query
from service.commands.serve import serve
from service.commands.store import audit, store
from training.commands.artefact import artefact
from training.commands.benchmark import benchmark
from training.commands.calibrate import calibrate
from training.commands.check_data import check_data
from training.commands.evaluate import evaluate
from training.commands.export import export
from training.commands.features import embed, score
from training.commands.finish import finish
from training.commands.import_weights import import_weights
from training.commands.report import report
from training.commands.train import train

FAILED = 1
BAD_INPUT = 2
INTERRUPTED = 130
# Packages of the extra `train` that the extra `serve` lacks.
TRAINER_PACKAGES = (
    *("h5py", "imagehash", "matplotlib", "pandas", "scipy", "sklearn", "tensorboard", "torch"),
    "torchvision",
)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    *(check_data, with_reviews(train), finish, evaluate, report, benchmark, calibrate),
    *(import_weights, export, embed, score, bench, plan, model_card, demo),
    *(serve, enroll, query, review, compare, crops, group, identities, similar, rename, forget),
    *(reindex, backup, restore, doctor),
):
    app.command()(command)
groups = {"gallery": gallery, "snapshot": snapshot, "keys": keys, "searches": searches}
groups |= {"case": case, "store": store, "index": index, "audit": audit, "artefact": artefact}
for name, one in groups.items():
    app.add_typer(one, name=name)


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
        status = app(arguments, prog_name="gmn", standalone_mode=False, obj=data_sets)
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
    if isinstance(error, InputProblem | InvalidInput | RequestRefused | ServiceUnreachable):
        console.print(f"gmn: {error}")
        return BAD_INPUT
    if isinstance(error, ModuleNotFoundError):
        package = str(error.name).partition(".")[0]
        remedy = "pip install 'gmn-reid[serve]'"
        if package in TRAINER_PACKAGES:
            remedy = "pip install 'gmn-reid[train]' in an environment of its own, "
            remedy += "which `make .venv/ready` does in a clone"
        console.print(f"gmn: the package {package} is not installed; {remedy}")
        return BAD_INPUT
    if isinstance(error, BrokenPipeError):
        return FAILED
    console.print(f"gmn: failed: {type(error).__name__}: {error}; --debug shows where")
    return FAILED


if __name__ == "__main__":
    main()
