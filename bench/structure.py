"""How large the code is, and how long the way of one query and one enrolment through it.

`python -m bench.structure` counts files and lines of each package, names a circle of imports, and
serves a gallery in this process while it records which of the project's functions one query and one
enrolment enter, in how many files and with how many changes of thread. `--list` prints these
functions in the order in which they are first entered.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

import gmn
from demo.data_sets import read_spec
from gmn_client import Client, Image

ROOT = Path(__file__).resolve().parent.parent
SOURCE = f"{ROOT}{os.sep}"
# What the tests hold the code to. A number that rises is a commit of its own, with its reason.
BOUNDS = {
    "lines of service and gmn_client": 22_100,
    "files of service and gmn_client": 121,
    "functions of a query": 130,
    "files of a query": 33,
    "functions of an enrolment": 195,
    "files of an enrolment": 37,
    "lines of a function without its docstring": 60,
}
READ = (".py", ".lua")
# A request's last steps, such as the audit log, may come after its answer.
SETTLE_SECONDS = 0.3
# With a request about 1.45 s: tasks that run every second or two meet not each of three requests.
IDLE_SECONDS = 1.1

Entered = tuple[str, str, int]


def traced_ways() -> dict[str, list[Entered]]:
    """What one query and one enrolment enter, after some of each: file, function, thread.

    Serves an empty data directory in this thread, and sends requests from another one. Of several
    requests of a kind the shortest way counts: beside others the service did work of its own.

    Raises:
        RuntimeError: with what the service logged, where no request was answered.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found: dict[str, list[Entered]] = {}
    recorded: list[Entered] = []
    on, log = threading.Event(), io.StringIO()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and on.is_set():
            file = frame.f_code.co_filename
            if file.startswith(SOURCE) and "site-packages" not in file:
                short, name = file.removeprefix(SOURCE), frame.f_code.co_qualname
                recorded.append((short, name, threading.get_ident()))

    def during(call: Callable[[], object]) -> list[Entered]:
        time.sleep(IDLE_SECONDS)
        recorded.clear()
        on.set()
        call()
        time.sleep(SETTLE_SECONDS)
        on.clear()
        return recorded.copy()

    def ask() -> None:
        sys.setprofile(None)
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                while not client.ready():
                    time.sleep(0.2)
                found.update(_shortest_ways(client, during))
        finally:
            signal.raise_signal(signal.SIGINT)

    with tempfile.TemporaryDirectory() as folder:
        threading.setprofile(profile)
        sys.setprofile(profile)
        threading.Thread(target=ask, daemon=True).start()
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            gmn.run(["serve", "--port", str(port), "--data-dir", folder])
        sys.setprofile(None)
        threading.setprofile(None)
    if not found:
        raise RuntimeError(f"no request was answered; the service logged:\n{log.getvalue()}")
    return found


def _shortest_ways(
    client: Client, during: Callable[[Callable[[], object]], list[Entered]]
) -> dict[str, list[Entered]]:
    """The ways of a query and of an enrolment, each the one with the fewest functions of three.

    Args:
        client: of an empty gallery.
        during: calls, and returns what was entered meanwhile.
    """
    spec = "synthetic:1,identities=8,domains=1,cameras=1"
    crops = [crop.read() for crop in read_spec(spec)]
    enrolled, asked, others = crops[:-6], crops[-6:-3], crops[-3:]
    for crop in enrolled:
        client.enroll([Image(crop, identity="p", camera="a")])
    for crop in enrolled[:3]:
        client.query(crop, top_k=5)
    images = [Image(crop, identity=f"q{number}", camera="a") for number, crop in enumerate(others)]
    calls: dict[str, list[Callable[[], object]]] = {
        "query": [partial(client.query, crop, top_k=5) for crop in asked],
        "enrolment": [partial(client.enroll, [image]) for image in images],
    }
    return {
        name: min(map(during, each), key=lambda way: summary(way)["functions"])
        for name, each in calls.items()
    }


def summary(entered: Sequence[Entered]) -> dict[str, int]:
    """Functions, files, calls and changes of thread on a way."""
    threads = [thread for *_, thread in entered]
    return {
        "functions": len({(file, name) for file, name, _ in entered}),
        "files": len({file for file, *_ in entered}),
        "calls": len(entered),
        "thread changes": sum(a != b for a, b in itertools.pairwise(threads)),
    }


def sizes(texts: Mapping[Path, str]) -> dict[str, Counter[str]]:
    """Files and lines of each package, and of its Lua."""
    found: dict[str, Counter[str]] = {}
    outside = Counter[str]()
    for file, text in texts.items():
        top = file.parts[0]
        is_python = file.suffix == ".py"
        one = Counter(files=1, lines=len(text.splitlines()))
        found.setdefault(top if is_python else f"{top} (Lua)", Counter()).update(one)
        if is_python and top not in ("tests", "model", "training"):
            outside.update(one)
    return found | {"outside tests, model and training": outside}


def measured(
    texts: Mapping[Path, str], ways: Mapping[str, Sequence[Entered]] | None = None
) -> dict[str, int]:
    """What `BOUNDS` bound, under the same names; of the ways only where they were traced."""
    own = {file: text for file, text in texts.items() if file.suffix == ".py"}
    bound = [text for file, text in own.items() if file.parts[0] in ("service", "gmn_client")]
    longest = [max(_function_lengths(text), default=0) for text in own.values()]
    found = {
        "lines of service and gmn_client": sum(len(text.splitlines()) for text in bound),
        "files of service and gmn_client": len(bound),
        "lines of a function without its docstring": max(longest),
    }
    for way, entered in (ways or {}).items():
        for what, count in summary(entered).items():
            if (name := f"{what} of {'a' if way == 'query' else 'an'} {way}") in BOUNDS:
                found[name] = count
    return found


def circle(texts: Mapping[Path, str]) -> tuple[str, ...]:
    """A circle of imports, tests included, as its files' paths in order; empty without one."""
    return import_circle(
        {file.as_posix(): text for file, text in texts.items() if file.suffix == ".py"}
    )


def import_circle(files: Mapping[str, str]) -> tuple[str, ...]:
    """A circle of files of which each imports the next; the first is the last again.

    Args:
        files: by its path below the folder that modules are imported from, what each contains.
    """
    modules = {_module(path): path for path in files}
    imports = {
        path: {modules[name] for name in _imported(text, modules)} - {path}
        for path, text in files.items()
    }
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        # It names what is imported before what imports it.
        return tuple(reversed(error.args[1]))
    return ()


def _module(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported(text: str, modules: Mapping[str, str]) -> Iterator[str]:
    """The modules that a file names, at any depth; of `from a import b`, a.b where that is one."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in modules or node.module in modules:
                    yield inner if inner in modules else str(node.module)


def read_files() -> dict[Path, str]:
    """What git knows of the project's files, by path, in this working tree."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True)
    files = map(Path, filter(None, listed.stdout.decode().split("\0")))
    kept = (file for file in files if file.suffix in READ and (ROOT / file).is_file())
    return {file: (ROOT / file).read_text(encoding="utf-8", errors="replace") for file in kept}


def _function_lengths(text: str) -> list[int]:
    return [
        (node.end_lineno or 0) - node.lineno + 1 - len((ast.get_docstring(node) or "").splitlines())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def main(
    list_: Annotated[bool, typer.Option("--list", help="The functions of each way.")] = False,
) -> None:
    """Prints sizes, bounds, a circle of imports, and ways."""
    ways, texts = traced_ways(), read_files()
    found = {name: summary(way) for name, way in ways.items()}
    for name, figures in {**sizes(texts), **found}.items():
        typer.echo(f"{name}: " + ", ".join(f"{v} {k}" for k, v in figures.items()))
    for name, count in measured(texts, ways).items():
        typer.echo(f"{name}: {count}, at most {BOUNDS[name]}")
    if found_circle := circle(texts):
        typer.echo(f"circle: {', '.join(found_circle)}")
    for name, way in ways.items() if list_ else ():
        typer.echo(f"\n{name}")
        for file, function in dict.fromkeys((file, name) for file, name, _ in way):
            typer.echo(f"    {file}  {function}")


if __name__ == "__main__":
    typer.run(main)
