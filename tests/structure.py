"""Size and legibility of the code, and the ways of a query, an enrollment and a training.

`python -m tests.structure` counts files, lines, tokens and hard-to-read patterns of each package,
names a circle of imports, and traces which functions of the project one query and one enrollment
enter, in how many files and with how many changes of thread. `--train` only traces a training, up
to its first update and in one step. `--list` prints these functions in the order in which they are
first entered. `--places KIND` prints the places of one pattern and traces nothing.
"""

from __future__ import annotations

import ast
import contextlib
import graphlib
import io
import itertools
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

import gmn
from demo.data_sets import read_spec
from gmn_client import Client, Image
from tests.legibility import KINDS, Legibility, PythonFile

ROOT = Path(__file__).resolve().parent.parent
# A commit that raises a bound or a ceiling gives the reason.
BOUNDS = {
    "tokens of service and gmn_client": 172_422,
    "files of service and gmn_client": 133,
    "functions of a query": 144,
    "files of a query": 32,
    "functions of an enrollment": 200,
    "files of an enrollment": 38,
    "tokens of training": 83_079,
    "files of training": 84,
    "tokens of bench": 11_996,
    "tokens of demo": 4_098,
    "tokens of model": 24_510,
    "functions of a first update": 114,
    "files of a first update": 36,
    "functions of a step": 45,
    "files of a step": 13,
}
# Any share of documented functions is welcome in gmn_client and model.
CEILINGS = {
    "service": Legibility(
        packed=0,
        terse=27,
        opening=0,
        noun=0,
        clause=8,
        vague=0,
        long=0,
        tokens_per_line=8.2,
        documented=45,
    ),
    "gmn_client": Legibility(
        packed=0,
        terse=3,
        opening=0,
        noun=0,
        clause=0,
        vague=0,
        long=0,
        tokens_per_line=7.0,
        documented=100,
    ),
    "model": Legibility(
        packed=0,
        terse=0,
        opening=0,
        noun=0,
        clause=0,
        vague=0,
        long=0,
        tokens_per_line=8.2,
        documented=100,
    ),
    "training": Legibility(
        packed=0,
        terse=4,
        opening=0,
        noun=0,
        clause=1,
        vague=1,
        long=0,
        tokens_per_line=8.0,
        documented=74,
    ),
    "demo": Legibility(
        packed=0,
        terse=0,
        opening=0,
        noun=0,
        clause=0,
        vague=0,
        long=0,
        tokens_per_line=7.7,
        documented=63,
    ),
    "bench": Legibility(
        packed=0,
        terse=0,
        opening=0,
        noun=0,
        clause=0,
        vague=0,
        long=0,
        tokens_per_line=8.2,
        documented=52,
    ),
    "tests": Legibility(
        packed=2,
        terse=12,
        opening=3,
        noun=8,
        clause=14,
        vague=4,
        long=0,
        tokens_per_line=9.7,
        documented=14,
    ),
}

SOURCE = f"{ROOT}{os.sep}"
PARTS_OF_FUNCTIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<lambda>")
# The last steps of a request, such as its line in the audit log, may follow its answer.
SETTLE_SECONDS = 0.3
# Longer than the trace: work that the service repeats by itself is no part of a request.
REPEATED_AFTER_SECONDS = 3600.0
TRAINED_ON = "synthetic:7,identities=12,domains=1,crops=2"
SETTINGS = (
    "optimisation.epochs=40",
    "losses.gmn.perturbation_from_epoch=0",
    "validation.every_epochs=0",
    "sampling.identities=4",
    "sampling.images=2",
    "log_every_steps=100",
)
# This step is not logged, does not begin an epoch, and has DP, the perturbation of features.
TRACED_STEP = 13

# File, function and thread of a call.
Entered = tuple[str, str, int]


def read_files() -> dict[str, str]:
    """Read the Python and Lua files of this working tree that git tracks, by path."""
    command = ["git", "ls-files", "-z", "*.py", "*.lua"]
    listing = subprocess.check_output(command, cwd=ROOT, text=True)
    files = {}
    for path in listing.split("\0"):
        file = ROOT / path
        if file.is_file():
            files[path] = file.read_text(encoding="utf-8")
    return files


def count_packages(files: Mapping[str, str]) -> dict[str, Counter[str]]:
    """Count the files and lines of each package and of its Lua, and the patterns of its Python."""
    packages: dict[str, Counter[str]] = {}
    for path, text in files.items():
        package = path.partition("/")[0]
        counts = Counter(files=1, lines=len(text.splitlines()))
        if path.endswith(".py"):
            counts.update(PythonFile(text).counts())
        else:
            package += " (Lua)"
        packages.setdefault(package, Counter()).update(counts)
    return packages


def bounded_sizes(packages: Mapping[str, Counter[str]]) -> dict[str, int]:
    """Return the tokens and files that have a bound, under their names in `BOUNDS`."""
    sizes = {}
    for names in (("service", "gmn_client"), ("training",), ("model",), ("bench",), ("demo",)):
        total = Counter[str]()
        for name in names:
            total.update(packages[name])
        for unit in ("tokens", "files"):
            sizes[f"{unit} of {' and '.join(names)}"] = total[unit]
    return {name: size for name, size in sizes.items() if name in BOUNDS}


def import_circle(files: Mapping[str, str]) -> tuple[str, ...]:
    """Find Python files of which each imports the next, and the last is the first again.

    Args:
        files: their texts, by path below the folder that modules are imported from.

    Returns:
        The paths of one circle; empty if there is none.
    """
    modules = {_module(path): path for path in files if path.endswith(".py")}
    imports = {}
    for path in modules.values():
        names = _imported(files[path], modules)
        imports[path] = {modules[name] for name in names} - {path}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        # graphlib lists an imported file before the file that imports it.
        return tuple(reversed(error.args[1]))
    return ()


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(text: str, modules: Mapping[str, str]) -> Iterator[str]:
    """Yield the modules that a file imports at any depth; ``from a import b`` may import a.b."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                if submodule in modules:
                    yield submodule
                elif node.module in modules:
                    yield str(node.module)


class Recorder:
    """A record of the functions of this project that are called in any thread while it is on."""

    def __init__(self) -> None:
        self.calls: list[Entered] = []
        self.is_on = False

    def _profile(
        self,
        frame: FrameType,
        event: str,
        _: object,
    ) -> None:
        if event == "call" and self.is_on and (entered := _entered(frame)):
            self.calls.append(entered)

    def start(self) -> None:
        self.calls = []
        self.is_on = True

    @contextlib.contextmanager
    def request(self) -> Iterator[None]:
        """Record the calls of the service for a request that is sent meanwhile."""
        self.start()
        yield
        time.sleep(SETTLE_SECONDS)
        self.is_on = False

    def __enter__(self) -> Recorder:
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)


def request_ways() -> dict[str, list[Entered]]:
    """Trace one query and one enrollment, after some of each.

    Serves an empty data directory in this thread, and sends requests from another one. Each way is
    traced several times, and calls that not all of these have, such as a heartbeat of the service,
    are left out.

    Raises:
        RuntimeError: no request was answered; the message has the log of the service.
    """
    from service import maintenance
    from service.gallery import follow
    from service.jobs import runner
    from service.search import refit
    from service.watch import lists, sightings

    for module, pause in (
        (maintenance, "KEYS_PAUSE_SECONDS"),
        (maintenance, "COMPACTION_POLL_SECONDS"),
        (follow, "POLL_SECONDS"),
        (runner, "IDLE_SECONDS"),
        (refit, "STORED_WITHIN_SECONDS"),
        (refit, "LOOK_EVERY_SECONDS"),
        (lists, "LOOK_EVERY_SECONDS"),
        (sightings, "LOOK_EVERY_SECONDS"),
    ):
        setattr(module, pause, REPEATED_AFTER_SECONDS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ways: dict[str, list[Entered]] = {}
    log = io.StringIO()

    def send_requests() -> None:
        sys.setprofile(None)
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                while not client.ready():
                    time.sleep(0.2)
                ways.update(_common_ways(client, recorder))
        finally:
            signal.raise_signal(signal.SIGINT)

    # Measuring which runtime is the fastest takes longer than the requests.
    os.environ["GMN_RUNTIME"] = "openvino"
    with tempfile.TemporaryDirectory() as folder, Recorder() as recorder:
        threading.Thread(target=send_requests, daemon=True).start()
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            gmn.run(["serve", "--port", str(port), "--data-dir", folder])
    if not ways:
        raise RuntimeError(f"no request was answered; the service logged:\n{log.getvalue()}")
    return ways


def _common_ways(client: Client, recorder: Recorder) -> dict[str, list[Entered]]:
    """Trace queries and enrollments in an empty gallery, and return the common way of each."""
    spec = "synthetic:1,identities=8,domains=1,cameras=1"
    crops = [crop.read() for crop in read_spec(spec)]
    for crop in crops[:-6]:
        client.enroll([Image(crop, identity="p", camera="a")])
    for crop in crops[:3]:
        client.query(crop, top_k=5)
    queries = []
    for crop in crops[-6:-3]:
        with recorder.request():
            client.query(crop, top_k=5)
        queries.append(recorder.calls)
    enrollments = []
    for number, crop in enumerate(crops[-3:]):
        image = Image(crop, identity=f"q{number}", camera="a")
        with recorder.request():
            client.enroll([image])
        enrollments.append(recorder.calls)
    return {"a query": _common_way(queries), "an enrollment": _common_way(enrollments)}


def _common_way(ways: Sequence[list[Entered]]) -> list[Entered]:
    """Return the shortest of several ways without the functions that not all of them pass."""
    common = set.intersection(*({(file, name) for file, name, _ in way} for way in ways))
    shortest = min(ways, key=_count_functions)
    return [(file, name, thread) for file, name, thread in shortest if (file, name) in common]


class _TracedError(Exception):
    """An end of the training after the step that is traced."""


def training_ways() -> dict[str, list[Entered]]:
    """Trace a training by the recipe `quick`, up to its first update and in one step.

    The data are read before, since drawing the people would be most of the way.
    """
    from training.datasets.registry import read_datasets
    from training.recipe import read_recipe
    from training.train import train

    datasets = read_datasets([TRAINED_ON])
    ways: dict[str, list[Entered]] = {}

    def report(done: int, *_: object) -> None:
        recorder.is_on = False
        ways.setdefault("a first update", recorder.calls)
        if done == TRACED_STEP - 1:
            recorder.start()
        elif done == TRACED_STEP:
            ways["a step"] = recorder.calls
            raise _TracedError

    stopping = contextlib.suppress(_TracedError)
    with tempfile.TemporaryDirectory() as folder, stopping, Recorder() as recorder:
        recorder.start()
        recipe = read_recipe("quick", list(SETTINGS))
        train(
            recipe,
            datasets,
            Path(folder),
            notice=lambda _: None,
            training_bar=lambda: contextlib.nullcontext(report),
        )
    return ways


def _entered(frame: FrameType) -> Entered | None:
    """Return the call of a frame; None for a module's body, this file, and other projects.

    Comprehensions and lambdas are parts of their functions, though they have frames of their own.
    """
    file = frame.f_code.co_filename
    name = frame.f_code.co_qualname
    if not file.startswith(SOURCE) or "site-packages" in file:
        return None
    if name == "<module>" or name.endswith(PARTS_OF_FUNCTIONS) or file == __file__:
        return None
    return file.removeprefix(SOURCE), name, threading.get_ident()


def summary(entered: Sequence[Entered]) -> dict[str, int]:
    """Count functions, files, calls and changes of thread on a way."""
    threads = [thread for *_, thread in entered]
    return {
        "functions": _count_functions(entered),
        "files": len({file for file, *_ in entered}),
        "calls": len(entered),
        "thread changes": sum(a != b for a, b in itertools.pairwise(threads)),
    }


def _count_functions(entered: Sequence[Entered]) -> int:
    return len({(file, name) for file, name, _ in entered})


def main(
    train: Annotated[bool, typer.Option("--train", help="Trace a training.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the functions of each way.")] = False,
    places: Annotated[
        str, typer.Option(metavar="KIND", help=f"List the places of one of {', '.join(KINDS)}.")
    ] = "",
) -> None:
    """Print sizes, legibility, bounds, a circle of imports, and ways."""
    files = read_files()
    if places:
        _print_places(files, places)
        return
    if train:
        print_ways(training_ways(), list_)
        return
    packages = count_packages(files)
    for package, counts in packages.items():
        units = [unit for unit in ("files", "lines", "tokens") if unit in counts]
        typer.echo(f"{package}: {_figures({unit: counts[unit] for unit in units})}")
    for package, ceiling in CEILINGS.items():
        legibility = Legibility.of(packages[package])
        typer.echo(f"legibility of {package}: {_figures(legibility._asdict())}")
        typer.echo(f"    at most: {_figures(ceiling._asdict())}")
    _print_bounded(bounded_sizes(packages))
    if circle := import_circle(files):
        typer.echo(f"circle: {', '.join(circle)}")
    print_ways(request_ways(), list_)


def print_ways(ways: Mapping[str, Sequence[Entered]], list_: bool) -> None:
    for way, entered in ways.items():
        figures = summary(entered)
        typer.echo(f"{way}: {_figures(figures)}")
        _print_bounded({f"{unit} of {way}": figures[unit] for unit in ("functions", "files")})
        functions = [(file, name) for file, name, _ in entered] if list_ else []
        for file, name in dict.fromkeys(functions):
            typer.echo(f"    {file}  {name}")


def _print_bounded(sizes: Mapping[str, int]) -> None:
    for name, size in sizes.items():
        typer.echo(f"{name}: {size}, at most {BOUNDS[name]}")


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{figure:g} {unit}" for unit, figure in figures.items())


def _print_places(files: Mapping[str, str], kind: str) -> None:
    if kind not in KINDS:
        raise typer.BadParameter(f"give one of {', '.join(KINDS)}", param_hint="--places")
    for path, text in files.items():
        places = PythonFile(text).places() if path.endswith(".py") else ()
        for place in sorted(places):
            if place.kind == kind:
                typer.echo(f"{path}:{place.line}: {place.text[:150]}")


if __name__ == "__main__":
    typer.run(main)
