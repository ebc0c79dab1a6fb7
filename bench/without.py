"""Measures how much less processor time a query takes without each of its steps, among others.

A step costs more within a query than alone, as the network fills the caches of the processor in
between, and threads hand each other the interpreter's lock. So each step is replaced by one that
does nothing, in blocks that alternate with blocks of whole queries.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from PIL import Image

from model.arrays import Floats
from model.crops import decode
from model.crops.quality import measure_quality
from model.preprocessing import drawn_patterns
from model.runtimes import OpenVinoRuntime
from service.engine import images
from service.http.limits import FormRequest, Handler, release
from service.http.middleware import RequestContext
from service.ops.audit import AuditLog
from service.ops.threads import MonitoredThreadPool
from service.runtime import Runtime

BLOCKS = 7
QUERIES = 32
IN_FLIGHT = 16


class Replacement(NamedTuple):
    """A function that a step is replaced by."""

    owner: object
    name: str
    stand_in: Callable[..., Any]


class Taken(NamedTuple):
    """Microseconds of processor time for each query of a block, of the process and of its loop."""

    query: float
    event_loop: float


def _do_nothing(*_: object) -> None:
    pass


def _score_nothing(_queries: Floats, candidates: Floats) -> Floats:
    return np.zeros(len(candidates), np.float32)


async def _run_here(
    _pool: MonitoredThreadPool, call: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    return call(*args, **kwargs)


async def _answer_unwatched(request: FormRequest, answer: Handler) -> Any:
    try:
        return await answer(request)
    finally:
        release(request._call, request._held)


def steps(runtime: Runtime) -> dict[str, list[Replacement]]:
    """Return what replaces each step of a query; `nothing` shows the error of the measurement."""
    model = runtime.model
    pattern = drawn_patterns(model.description.preprocessing)[:1]
    [feature] = model.networks.runtime.embed(pattern)
    quality = measure_quality(Image.fromarray(pattern[0]))
    return {
        "nothing": [],
        "network": [Replacement(OpenVinoRuntime, "_embed_crop", lambda *_: feature)],
        "M-Net": [Replacement(model.networks, "pair_scores", _score_nothing)],
        "quality": [Replacement(images, "measure_quality", lambda _: quality)],
        "checks of the file": [
            Replacement(decode, "_check_whole", _do_nothing),
            Replacement(decode, "_too_many_parts", _do_nothing),
        ],
        "hand-over to a thread": [Replacement(MonitoredThreadPool, "run", _run_here)],
        "noticing that the client leaves": [
            Replacement(FormRequest, "answered_by", _answer_unwatched)
        ],
        "time limits": [Replacement(asyncio, "timeout", lambda _: contextlib.AsyncExitStack())],
        "audit log": [
            Replacement(AuditLog, "require_room", _do_nothing),
            Replacement(AuditLog, "note_views", lambda *_args, **_fields: None),
        ],
        "log line and metrics": [Replacement(RequestContext, "_log_request", _do_nothing)],
    }


async def time_without(
    runtime: Runtime, posts: Iterator[Awaitable[None]]
) -> dict[str, dict[str, float]]:
    """Measure how many microseconds a query takes less without each step.

    Args:
        posts: an endless iterator of queries that are not sent yet.

    Returns:
        By step the medians over the blocks for the process (`query`) and its event loop, and the
        quartiles of the former (`low`, `high`).
    """
    await _time_block(posts)
    less: dict[str, list[Taken]] = {}
    replacements = steps(runtime)
    for step in itertools.chain.from_iterable(itertools.repeat(replacements, BLOCKS)):
        with contextlib.ExitStack() as replaced:
            for owner, name, stand_in in replacements[step]:
                replaced.enter_context(mock.patch.object(owner, name, stand_in))
            without = await _time_block(posts)
        whole = await _time_block(posts)
        saved = Taken(whole.query - without.query, whole.event_loop - without.event_loop)
        less.setdefault(step, []).append(saved)
    return {step: _summarize(saved) for step, saved in less.items()}


def _summarize(saved: Sequence[Taken]) -> dict[str, float]:
    low, query, high = np.percentile([block.query for block in saved], [25, 50, 75]).round(1)
    event_loop = statistics.median(block.event_loop for block in saved)
    return {"query": query, "low": low, "high": high, "event_loop": round(event_loop, 1)}


async def time_threads(posts: Iterator[Awaitable[None]]) -> dict[str, float]:
    """Return the microseconds that a query takes on the threads of each kind."""
    before = _nanoseconds_by_thread()
    await _send(posts, BLOCKS * QUERIES)
    taken = _nanoseconds_by_thread() - before
    return {name: round(spent / 1e3 / BLOCKS / QUERIES, 1) for name, spent in taken.items()}


def _nanoseconds_by_thread() -> Counter[str]:
    """Return the processor time of the event loop, of other threads of Python, and of the rest."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    nanoseconds: Counter[str] = Counter()
    for task in Path("/proc/self/task").iterdir():
        name = names.get(int(task.name), "threads of the networks")
        if int(task.name) == threading.get_native_id():
            name = "event loop"
        elif name.startswith("decode threads"):
            name = "decode threads"
        elif name != "threads of the networks":
            name = "other threads"
        taken, _, _ = (task / "schedstat").read_text(encoding="ascii").split()
        nanoseconds[name] += int(taken)
    return nanoseconds


async def _time_block(posts: Iterator[Awaitable[None]]) -> Taken:
    process_began = time.process_time()
    loop_began = time.thread_time()
    await _send(posts, QUERIES)
    query = time.process_time() - process_began
    event_loop = time.thread_time() - loop_began
    return Taken(1e6 * query / QUERIES, 1e6 * event_loop / QUERIES)


async def _send(posts: Iterator[Awaitable[None]], queries: int) -> None:
    left = itertools.islice(posts, queries)

    async def send_some() -> None:
        for post in left:
            await post

    await asyncio.gather(*(send_some() for _ in range(IN_FLIGHT)))
