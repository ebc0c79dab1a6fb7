"""`gmn serve`: the service on one address."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from service.engine.networks import LoadedModel
    from service.gallery.gallery import Gallery
    from service.runtime import Runtime
    from service.settings import Settings

log = logging.getLogger(__name__)
DRAIN_SECONDS = 25
# From malloc.h.
M_ARENA_MAX = -8
# Connections accepted in one turn of the event loop, before the first of them is counted.
ACCEPTED_AT_ONCE = 16
BACKLOG = 2048
OPEN = "open"
"""The shipped artefact for products of companies."""


def serve(
    artefact: Annotated[
        str | None,
        typer.Option(help="The model to serve: bundled, another shipped name, or a file."),
    ] = None,
    previous: Annotated[
        str | None,
        typer.Option(
            help="The model before, for galleries that are not reindexed yet; a shipped one is "
            "found without being named."
        ),
    ] = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen; 0 takes a free port.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where galleries are kept.")] = None,
) -> None:
    """Serves galleries over HTTP.

    Every option has an environment variable, such as GMN_PORT; the option comes first.

    Example: gmn serve --port 8000 --data-dir ./gmn-data
    """
    from service.settings import read_settings

    settings = read_settings(
        artefact=artefact, previous=previous, host=host, port=port, data_dir=data_dir
    )
    with _listen(settings) as listening:
        _run(settings, listening)


def _run(settings: Settings, listening: socket.socket) -> None:
    # Before what is imported next begins threads.
    bound_arenas()
    # Here and not above: the client's commands load neither torch nor FastAPI.
    import uvicorn

    from service.http.app import create_app
    from service.http.limits import bounded_connections, raise_file_limit
    from service.ops.failpoints import arm_failpoint
    from service.ops.logs import configure_logging
    from service.runtime import Runtime

    configure_logging(settings.log_level)
    arm_failpoint()
    raise_file_limit()
    address = _url(settings.host, listening)
    runtime = Runtime(settings)

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # The server has made the kernel's queue as short as what it accepts at once.
            listening.listen(BACKLOG)
            if self.started:
                typer.echo(f"Serving on {address} (docs at {address}/docs)")
                for line in _about(runtime.model):
                    typer.echo(line)
                self.advising = asyncio.create_task(_advise(runtime, address))

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            self.advising.cancel()
            await super().shutdown(sockets)

        def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
            # Uvicorn would raise the signal again once it has drained, and a supervisor would take
            # an orderly end for a crash. A second Ctrl-C no longer waits.
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True

    config = uvicorn.Config(
        create_app(settings, runtime),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        server_header=False,
        http=bounded_connections(settings.max_connections, settings.body_timeout_s),
        backlog=ACCEPTED_AT_ONCE,
    )
    server = AnnouncingServer(config)
    server.run(sockets=[listening])
    if runtime.pictures is not None and runtime.pictures.hangs:
        # Python would wait for the threads; everything else is closed.
        log.warning("the store of images does not answer; what it was asked is left undone")
        os._exit(130 if server.force_exit else 0)
    if server.force_exit:
        raise KeyboardInterrupt


async def _advise(runtime: Runtime, address: str) -> None:
    """Prints how to upgrade galleries of another artefact."""
    from gmn_client import DEFAULT_URL
    from service.errors import ServiceError

    try:
        options = "" if address == DEFAULT_URL else f"--url {address}"
        for line in await _upgrade_advice(runtime, options):
            typer.echo(line)
    except ServiceError as error:
        log.warning("galleries of another artefact were not looked for: %s", error.detail)


def bound_arenas() -> None:
    """Lets all threads share two of glibc's memory pools, unless `MALLOC_ARENA_MAX` is set.

    Memory that one thread frees cannot be used by the pool of another: with a pool for each thread
    a service under steady load grew by 70 MiB in half an hour.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 2)


def _about(model: LoadedModel) -> list[str]:
    """Which artefact is served, and under which terms."""
    from model.artefact import shipped_artefacts

    terms = " ".join(model.description.provenance.terms.split())
    lines = [f"Artefact {model.name}: {terms}"]
    if "research only" in terms.lower() and OPEN in shipped_artefacts():
        lines.append(f"An artefact with other terms is there too: gmn serve --artefact {OPEN}")
    return lines


async def _upgrade_advice(runtime: Runtime, options: str) -> list[str]:
    """Sentences about the galleries that another artefact than the served one filled.

    Args:
        options: of the command line that reaches the service, such as `--url URL`.

    Raises:
        RecordUnavailable: the record does not answer.
    """
    outdated = [gallery for gallery in runtime.galleries.all() if gallery.outdated]
    if not outdated:
        return []
    lines = [
        f"Filled by {name}, which answers until they are reindexed: {galleries}"
        if name
        else "Filled by an artefact that is not loaded, so that they are not searched until they "
        f"are reindexed, or until --previous names it: {galleries}"
        for name, galleries in _by_artefact(runtime, outdated)
    ]
    # A reindex names the crops of a gallery that lacks the pictures of some.
    entries = await runtime.galleries.read(runtime.record.galleries.all)
    pictured = {entry.gallery_id for entry in entries if entry.image_bytes}
    without = [gallery for gallery in outdated if gallery.gallery_id not in pictured]
    if len(without) < len(outdated):
        command = f"gmn reindex --all --wait {options}".strip()
        lines.append(f"To go over to {runtime.model.name}: {command}")
    lines += [
        "No picture was kept, so that only "
        + (
            f"{name} can answer; enroll anew, or stay with gmn serve --artefact {name}: {galleries}"
            if name
            else "the artefact that filled them can answer; enroll anew, or serve that artefact: "
            f"{galleries}"
        )
        for name, galleries in _by_artefact(runtime, without)
    ]
    return lines


def _by_artefact(runtime: Runtime, galleries: Iterable[Gallery]) -> list[tuple[str, str]]:
    """Artefacts and the names of the galleries they answer for; the last may be "", for none."""
    answered: dict[str, list[str]] = {}
    for gallery in galleries:
        name = "" if gallery.needs_reindex else runtime.models[gallery.embedder].name
        answered.setdefault(name, []).append(gallery.name)
    ordered = sorted(answered.items(), key=lambda one: not one[0])
    return [(name, ", ".join(own)) for name, own in ordered]


def _listen(settings: Settings) -> socket.socket:
    from model.problems import InputProblem

    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio switches Nagle's algorithm off, which costs 40 ms an answer, only where the protocol
    # is named.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        taken = error.errno == errno.EADDRINUSE
        remedy = "stop what listens there, or choose" if taken else "choose"
        raise InputProblem(
            f"{settings.host}:{settings.port}: cannot listen ({error.strerror}); {remedy} another "
            "with --port or --host; port 0 takes a free one"
        ) from error
    return listening


def _url(host: str, listening: socket.socket) -> str:
    port = listening.getsockname()[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
