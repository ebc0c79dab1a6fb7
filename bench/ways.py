"""Traces of the functions of this project that a request or a step of a training enters."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import gmn
from demo.data_sets import read_spec
from gmn_client import Client, Image

SOURCE = f"{Path(__file__).resolve().parent.parent}{os.sep}"
PARTS_OF_FUNCTIONS = ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>", "<lambda>")
# The last steps of a request, such as its line in the audit log, may follow its answer.
SETTLE_SECONDS = 0.3
# With a request this takes about 1.45 s, so that work that the service does every second or two
# falls into some of five requests and not into all.
IDLE_SECONDS = 1.1
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
# Calls a function with a crop, and returns the calls that were entered meanwhile.
Trace = Callable[[Callable[[bytes], object], bytes], list[Entered]]


def request_ways() -> dict[str, list[Entered]]:
    """Trace one query and one enrolment, after some of each.

    Serves an empty data directory in this thread, and sends requests from another one. Each way is
    traced several times, and calls that not all of these have, such as periodic work of the
    service, are left out.

    Raises:
        RuntimeError: no request was answered; the message has the log of the service.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ways: dict[str, list[Entered]] = {}
    recorded: list[Entered] = []
    recording = threading.Event()
    log = io.StringIO()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and recording.is_set() and (entered := _entered(frame)):
            recorded.append(entered)

    def trace(call: Callable[[bytes], object], crop: bytes) -> list[Entered]:
        time.sleep(IDLE_SECONDS)
        recorded.clear()
        recording.set()
        call(crop)
        time.sleep(SETTLE_SECONDS)
        recording.clear()
        return recorded.copy()

    def send_requests() -> None:
        sys.setprofile(None)
        try:
            with Client(f"http://127.0.0.1:{port}") as client:
                while not client.ready():
                    time.sleep(0.2)
                ways.update(_common_ways(client, trace))
        finally:
            signal.raise_signal(signal.SIGINT)

    with tempfile.TemporaryDirectory() as folder, _profiled(profile):
        threading.Thread(target=send_requests, daemon=True).start()
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            gmn.run(["serve", "--port", str(port), "--data-dir", folder])
    if not ways:
        raise RuntimeError(f"no request was answered; the service logged:\n{log.getvalue()}")
    return ways


def _common_ways(client: Client, trace: Trace) -> dict[str, list[Entered]]:
    """Trace queries and enrolments in an empty gallery, and return the common way of each."""

    def query(crop: bytes) -> object:
        return client.query(crop, top_k=5)

    def enroll(crop: bytes) -> object:
        return client.enroll([Image(crop, identity=f"q{len(enrolments)}", camera="a")])

    spec = "synthetic:1,identities=8,domains=1,cameras=1"
    crops = [crop.read() for crop in read_spec(spec)]
    enrolled = crops[:-10]
    asked = crops[-10:-5]
    others = crops[-5:]
    for crop in enrolled:
        client.enroll([Image(crop, identity="p", camera="a")])
    for crop in enrolled[:3]:
        query(crop)
    queries = [trace(query, crop) for crop in asked]
    enrolments: list[list[Entered]] = []
    for crop in others:
        enrolments.append(trace(enroll, crop))
    return {
        "a query": _common_way(queries),
        "an enrolment": _common_way(enrolments),
    }


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
    ways: dict[str, list[Entered]] = {"a first update": [], "a step": []}
    phase: str | None = "a first update"

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and phase and (entered := _entered(frame)):
            ways[phase].append(entered)

    def report(done: int, *_: object) -> None:
        nonlocal phase
        phase = "a step" if done == TRACED_STEP - 1 else None
        if done == TRACED_STEP:
            raise _TracedError

    stopping = contextlib.suppress(_TracedError)
    with tempfile.TemporaryDirectory() as folder, stopping, _profiled(profile):
        recipe = read_recipe("quick", list(SETTINGS))
        train(
            recipe,
            datasets,
            Path(folder),
            notice=lambda _: None,
            training_bar=lambda: contextlib.nullcontext(report),
        )
    return ways


@contextlib.contextmanager
def _profiled(profile: Callable[[FrameType, str, object], None]) -> Iterator[None]:
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


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
