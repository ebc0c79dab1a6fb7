"""How large the code is, and how long the way of one query and one enrolment through it.

`python -m bench.structure` counts files, lines and long functions of each package, and serves a
gallery in this process while it records which of the project's functions one query and one
enrolment enter, in how many files and with how many changes of thread. `--list` prints these
functions in the order in which they are first entered; `--json` prints everything as JSON.
"""

from __future__ import annotations

import ast
import contextlib
import io
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

import gmn
from gmn import read_spec
from gmn_client import Client, Image

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FUNCTION = 60
WORDS = re.compile(r"\b(whoever|whatever|somebody|told|tells|said|says)\b", re.IGNORECASE)
WORDED = (".py", ".md", ".js", ".html")
# A request's last steps, such as the audit log, may come after its answer.
SETTLE_SECONDS = 0.3
IDLE_SECONDS = 1.5

Entered = tuple[str, str, int]


class Recorder:
    """Records each entry into one of the project's functions, in all threads, while it is on."""

    def __init__(self) -> None:
        self._on = False
        self._entered: list[Entered] = []
        self._source = f"{ROOT}{os.sep}"

    def install(self) -> None:
        """Records this thread and those that start later."""
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)

    def during(self, call: Callable[[], object]) -> list[Entered]:
        """What is entered during a call and shortly after: file, function, thread."""
        time.sleep(IDLE_SECONDS)
        self._entered = []
        self._on = True
        call()
        time.sleep(SETTLE_SECONDS)
        self._on = False
        return self._entered

    def _profile(self, frame: FrameType, event: str, _: object) -> None:
        if not self._on or event != "call":
            return
        file = frame.f_code.co_filename
        if file.startswith(self._source) and "site-packages" not in file:
            short = file.removeprefix(self._source)
            self._entered.append((short, frame.f_code.co_qualname, threading.get_ident()))


def trace_requests(recorder: Recorder, port: int) -> dict[str, list[Entered]]:
    """What one query and one enrollment enter, after some of each."""
    crops = [crop.read() for crop in read_spec("synthetic:1,identities=5,domains=1,cameras=1")]
    with Client(f"http://127.0.0.1:{port}") as client:
        while not client.ready():
            time.sleep(0.2)
        *enrolled, known, stranger = crops
        for crop in enrolled:
            client.enroll([Image(crop, identity="p", camera="a")])
        for crop in enrolled[:3]:
            client.query(crop, top_k=5)
        return {
            "query": recorder.during(lambda: client.query(known, top_k=5)),
            "enrolment": recorder.during(
                lambda: client.enroll([Image(stranger, identity="q", camera="a")])
            ),
        }


def traced_ways() -> dict[str, list[Entered]]:
    """Serves an empty data directory in this thread, and traces requests from another one.

    Raises:
        RuntimeError: with what the service logged, where no request was answered.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recorder, log = Recorder(), io.StringIO()
    found: dict[str, list[Entered]] = {}

    def ask() -> None:
        sys.setprofile(None)
        try:
            found.update(trace_requests(recorder, port))
        finally:
            signal.raise_signal(signal.SIGINT)

    with tempfile.TemporaryDirectory() as folder:
        recorder.install()
        threading.Thread(target=ask, daemon=True).start()
        sys.argv = ["gmn", "serve", "--port", str(port), "--data-dir", folder]
        stopped = contextlib.suppress(KeyboardInterrupt, SystemExit)
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log), stopped:
            gmn.main()
        sys.setprofile(None)
        threading.setprofile(None)
    if not found:
        raise RuntimeError(f"no request was answered; the service logged:\n{log.getvalue()}")
    return found


def summary(entered: Sequence[Entered]) -> dict[str, int]:
    """Functions, files, calls and changes of thread on a way."""
    threads = [thread for *_, thread in entered]
    return {
        "functions": len({(file, name) for file, name, _ in entered}),
        "files": len({file for file, *_ in entered}),
        "calls": len(entered),
        "thread changes": sum(a != b for a, b in itertools.pairwise(threads)),
    }


def sizes() -> dict[str, dict[str, int]]:
    """Files, lines and functions over 60 lines of each package; Lua; words to replace."""
    found: dict[str, Counter[str]] = {}
    outside, words = Counter[str](), 0
    for file in _tracked():
        top, text = file.parts[0], (ROOT / file).read_text(encoding="utf-8", errors="replace")
        if file.suffix in WORDED and top != "tests":
            words += sum(bool(WORDS.search(line)) for line in text.splitlines())
        if file.suffix not in (".py", ".lua"):
            continue
        is_python = file.suffix == ".py"
        lengths = _function_lengths(text) if is_python else ()
        one = Counter(files=1, lines=len(text.splitlines()))
        one["long functions"] = sum(length > LONGEST_FUNCTION for length in lengths)
        found.setdefault(top if is_python else f"{top} (Lua)", Counter()).update(one)
        if is_python and top not in ("tests", "model", "training"):
            outside.update(one)
    found["outside tests, model and training"] = outside
    return {name: dict(one) for name, one in found.items()} | {
        "lines with words to replace": {"lines": words}
    }


def _function_lengths(text: str) -> Iterator[int]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield (node.end_lineno or node.lineno) - node.lineno + 1


def _tracked() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    files = [Path(name) for name in listed.split("\0") if name]
    return [file for file in files if (ROOT / file).is_file()]


def main(
    list_: Annotated[bool, typer.Option("--list", help="The functions of each way.")] = False,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Prints sizes and ways."""
    packages, ways = sizes(), traced_ways()
    answer = {"packages": packages, "ways": {name: summary(way) for name, way in ways.items()}}
    if as_json:
        typer.echo(json.dumps(answer, indent=1))
        return
    for group in answer.values():
        for name, figures in group.items():
            typer.echo(f"{name}: " + ", ".join(f"{v} {k}" for k, v in figures.items()))
    for name, way in ways.items() if list_ else ():
        typer.echo(f"\n{name}")
        for file, function in dict.fromkeys((file, name) for file, name, _ in way):
            typer.echo(f"    {file}  {function}")


if __name__ == "__main__":
    typer.run(main)
