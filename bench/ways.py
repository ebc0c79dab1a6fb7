"""Which of the project's functions a query, an enrolment and a step of a training enter."""

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
from functools import partial
from pathlib import Path
from types import FrameType

import gmn
from demo.data_sets import read_spec
from gmn_client import Client, Image

SOURCE = f"{Path(__file__).resolve().parent.parent}{os.sep}"
# A request's last steps, such as the audit log, may come after its answer.
SETTLE_SECONDS = 0.3
# With a request about 1.45 s: tasks that run every second or two meet not each of five requests.
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
# Neither logged nor the first of an epoch, and with DP.
TRACED_STEP = 13

Entered = tuple[str, str, int]


def request_ways() -> dict[str, list[Entered]]:
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
    on = threading.Event()
    log = io.StringIO()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and on.is_set() and (entered := _own(frame)):
            recorded.append(entered)

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

    with tempfile.TemporaryDirectory() as folder, _profiled(profile):
        threading.Thread(target=ask, daemon=True).start()
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            gmn.run(["serve", "--port", str(port), "--data-dir", folder])
    if not found:
        raise RuntimeError(f"no request was answered; the service logged:\n{log.getvalue()}")
    return found


def _shortest_ways(
    client: Client, during: Callable[[Callable[[], object]], list[Entered]]
) -> dict[str, list[Entered]]:
    """The ways of a query and of an enrolment, each the one with the fewest functions of five.

    Args:
        client: of an empty gallery.
        during: calls, and returns what was entered meanwhile.
    """
    spec = "synthetic:1,identities=8,domains=1,cameras=1"
    crops = [crop.read() for crop in read_spec(spec)]
    enrolled = crops[:-10]
    asked = crops[-10:-5]
    others = crops[-5:]
    for crop in enrolled:
        client.enroll([Image(crop, identity="p", camera="a")])
    for crop in enrolled[:3]:
        client.query(crop, top_k=5)
    images = [Image(crop, identity=f"q{number}", camera="a") for number, crop in enumerate(others)]
    calls: dict[str, list[Callable[[], object]]] = {
        "a query": [partial(client.query, crop, top_k=5) for crop in asked],
        "an enrolment": [partial(client.enroll, [image]) for image in images],
    }
    return {
        name: min(map(during, each), key=lambda way: summary(way)["functions"])
        for name, each in calls.items()
    }


class _TracedError(Exception):
    """Ends a training behind the step that is traced."""


def training_ways() -> dict[str, list[Entered]]:
    """What a training by the recipe `quick` enters up to its first update, and in one step.

    Reading the data is left out: drawing people would be most of it.
    """
    from training.datasets.registry import read_datasets
    from training.recipe import read_recipe
    from training.train import train

    datasets = read_datasets([TRAINED_ON])
    found: dict[str, list[Entered]] = {"a first update": [], "a step": []}
    phase: str | None = "a first update"

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and phase and (entered := _own(frame)):
            found[phase].append(entered)

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
    return found


@contextlib.contextmanager
def _profiled(profile: Callable[[FrameType, str, object], None]) -> Iterator[None]:
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def _own(frame: FrameType) -> Entered | None:
    """The function of the project that a frame is of; None of modules, of others and of these."""
    file = frame.f_code.co_filename
    name = frame.f_code.co_qualname
    if not file.startswith(SOURCE) or "site-packages" in file:
        return None
    if name == "<module>" or file == __file__:
        return None
    return file.removeprefix(SOURCE), name, threading.get_ident()


def summary(entered: Sequence[Entered]) -> dict[str, int]:
    """Functions, files, calls and changes of thread on a way."""
    threads = [thread for *_, thread in entered]
    return {
        "functions": len({(file, name) for file, name, _ in entered}),
        "files": len({file for file, *_ in entered}),
        "calls": len(entered),
        "thread changes": sum(a != b for a, b in itertools.pairwise(threads)),
    }
