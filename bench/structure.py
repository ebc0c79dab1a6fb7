"""How large the code is, and how long the way of one query and one enrolment through it.

`python -m bench.structure` counts files, lines and long functions of each package, and serves a
gallery in this process while it records which of the project's functions one query and one
enrolment enter, in how many files and with how many changes of thread. `--list` prints these
functions in the order in which they are first entered; `--json` prints everything as JSON.
"""

from __future__ import annotations

import argparse
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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import numpy as np
from PIL import Image as PilImage

import gmn
from gmn_client import Client, Image

ROOT = Path(__file__).resolve().parent.parent
LONGEST_FUNCTION = 60
WORDS = re.compile(r"\b(whoever|whatever|somebody|told|tells|said|says)\b", re.IGNORECASE)
WORDED = (".py", ".md", ".js", ".html")
# A request's last steps, such as the audit log, may come after its answer.
SETTLE_SECONDS = 1.0

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
        time.sleep(SETTLE_SECONDS)
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
    """What one query and one enrolment enter, after some of each."""
    with Client(f"http://127.0.0.1:{port}") as client:
        for number in range(6):
            client.enroll([Image(_crop(number), identity=f"p{number}", camera="a")])
        for number in range(3):
            client.query(_crop(number), top_k=5)
        return {
            "query": recorder.during(lambda: client.query(_crop(50), top_k=5)),
            "enrolment": recorder.during(
                lambda: client.enroll([Image(_crop(51), identity="p51", camera="a")])
            ),
        }


def traced_ways() -> dict[str, list[Entered]]:
    """Serves an empty data directory in this thread, and traces requests from another one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    recorder = Recorder()
    found: dict[str, list[Entered]] = {}

    def ask() -> None:
        sys.setprofile(None)
        try:
            _wait_for(port)
            found.update(trace_requests(recorder, port))
        finally:
            signal.raise_signal(signal.SIGINT)

    with tempfile.TemporaryDirectory() as folder:
        recorder.install()
        threading.Thread(target=ask, daemon=True).start()
        sys.argv = ["gmn", "serve", "--port", str(port), "--data-dir", folder]
        stopped = contextlib.suppress(KeyboardInterrupt, SystemExit)
        with contextlib.redirect_stdout(sys.stderr), stopped:
            gmn.main()
        sys.setprofile(None)
        threading.setprofile(None)
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
    found: dict[str, dict[str, int]] = {}
    words = 0
    for file in _tracked():
        top, text = file.parts[0], (ROOT / file).read_text(encoding="utf-8", errors="replace")
        if file.suffix in WORDED and top != "tests":
            words += sum(bool(WORDS.search(line)) for line in text.splitlines())
        if file.suffix not in (".py", ".lua"):
            continue
        one = found.setdefault(
            f"{top} (Lua)" if file.suffix == ".lua" else top,
            {"files": 0, "lines": 0, "long functions": 0},
        )
        one["files"] += 1
        one["lines"] += len(text.splitlines())
        if file.suffix == ".py":
            one["long functions"] += sum(
                length > LONGEST_FUNCTION for length in _function_lengths(text)
            )
    outside = [
        one
        for name, one in found.items()
        if name not in ("tests", "model", "training") and not name.endswith("(Lua)")
    ]
    found["outside tests, model and training"] = {
        key: sum(one[key] for one in outside) for key in ("files", "lines", "long functions")
    }
    found["lines with words to replace"] = {"lines": words}
    return found


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


def _crop(seed: int) -> bytes:
    """A PNG of a figure in one colour before another."""
    random = np.random.default_rng(seed)
    pixels = np.empty((128, 64, 3), np.float64)
    pixels[:] = random.integers(0, 256, 3)
    pixels[16:70, 12:52] = random.integers(0, 256, 3)
    noisy = np.clip(pixels + random.normal(0, 12, pixels.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    PilImage.fromarray(noisy).save(file, "PNG")
    return file.getvalue()


def _wait_for(port: int) -> None:
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.2)


def main(arguments: Sequence[str]) -> None:
    """Prints sizes and ways."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="the functions of each way")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args(arguments)
    packages, ways = sizes(), traced_ways()
    answer = {"packages": packages, "ways": {name: summary(way) for name, way in ways.items()}}
    if asked.json:
        print(json.dumps(answer, indent=1))  # noqa: T201
        return
    for group in answer.values():
        for name, figures in group.items():
            print(f"{name}: " + ", ".join(f"{v} {k}" for k, v in figures.items()))  # noqa: T201
    if asked.list:
        for name, way in ways.items():
            print(f"\n{name}")  # noqa: T201
            for file, function in dict.fromkeys((file, name) for file, name, _ in way):
                print(f"    {file}  {function}")  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1:])
