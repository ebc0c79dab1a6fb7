"""`gmn serve`: the service on one address."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

from typer import Option, echo

from service.commands.common import bound_arenas

if TYPE_CHECKING:
    from service.runtime import Runtime
    from service.settings import Settings

log = logging.getLogger(__name__)
DRAIN_SECONDS = 25
# Connections accepted in one turn of the event loop, before the first of them is counted.
ACCEPTED_AT_ONCE = 16
BACKLOG = 2048
OPEN = "open"
"""The shipped artefact for products of companies."""
ARTEFACT_HELP = "The model to serve: bundled, another shipped name, or a file."
PREVIOUS_HELP = (
    "The model before, for galleries that are not reindexed yet; a shipped one is found without "
    "being named."
)


def serve(
    artefact: Annotated[str | None, Option(help=ARTEFACT_HELP)] = None,
    previous: Annotated[str | None, Option(help=PREVIOUS_HELP)] = None,
    host: Annotated[str | None, Option(help="Where to listen.")] = None,
    port: Annotated[int | None, Option(help="Where to listen; 0 takes a free port.")] = None,
    data_dir: Annotated[Path | None, Option(help="Where galleries are kept.")] = None,
    processes: Annotated[
        int | None, Option(help="How many share the port and the data directory.")
    ] = None,
) -> None:
    """Serves galleries over HTTP.

    Every option has an environment variable, such as GMN_PORT; the option comes first.

    Example: gmn serve --port 8000 --data-dir ./gmn-data
    """
    from service.settings import read_settings

    settings = read_settings(
        artefact=artefact,
        previous=previous,
        host=host,
        port=port,
        data_dir=data_dir,
        processes=processes,
    )
    with _listen(settings) as listening:
        if settings.processes == 1:
            _run(settings, listening)
            return
        from service.commands.processes import serve_processes

        serve_processes(settings, listening, DRAIN_SECONDS, (ACCEPTED_AT_ONCE, BACKLOG))


def _run(settings: Settings, listening: socket.socket) -> None:
    # Must be set before the imports below start threads.
    bound_arenas()
    # Here and not above: the client's commands load neither torch nor FastAPI.
    import uvicorn

    from service.http.app import create_app
    from service.http.limits import bounded_connections
    from service.ops.failpoints import arm_failpoint
    from service.ops.logs import configure_logging
    from service.runtime import Runtime

    configure_logging(settings.log_level)
    arm_failpoint()
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    address = f"http://{host}:{listening.getsockname()[1]}"
    is_new = not settings.data_dir.exists()
    runtime = Runtime(settings)
    if is_new:
        place = settings.data_dir.resolve()
        echo(f"made a new data directory {place}; nothing is enrolled", err=True)

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # The server has shortened the kernel's queue to ACCEPTED_AT_ONCE.
            listening.listen(BACKLOG)
            if self.started:
                echo(f"Serving on {address} (docs at {address}/docs)")
                for line in _about(runtime, address):
                    echo(line)

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


def _about(runtime: Runtime, address: str) -> Iterator[str]:
    from gmn_client import DEFAULT_URL
    from model.artefact import shipped_artefacts

    model = runtime.model
    terms = " ".join(model.description.provenance.terms.split())
    yield f"Artefact {model.name}: {terms}"
    if "research only" in terms.lower() and OPEN in shipped_artefacts():
        yield f"An artefact with other terms is there too: gmn serve --artefact {OPEN}"
    filled: dict[str, list[str]] = {}
    for gallery in runtime.galleries.all():
        if gallery.outdated:
            answering = "" if gallery.needs_reindex else runtime.models[gallery.embedder].name
            filled.setdefault(answering, []).append(gallery.name)
    unloaded = ", ".join(filled.pop("", []))
    for name, galleries in filled.items():
        yield f"Filled by {name}, which answers until they are reindexed: {', '.join(galleries)}"
    if unloaded:
        yield (
            "Filled by an artefact that is not loaded, so that they are not searched until they "
            f"are reindexed, or until --previous names it: {unloaded}"
        )
    if filled or unloaded:
        url = "" if address == DEFAULT_URL else f" --url {address}"
        yield f"To go over to {model.name}: gmn reindex --all --wait{url}"


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
