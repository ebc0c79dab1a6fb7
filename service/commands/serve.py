"""`gmn serve`: the service on one address."""

from __future__ import annotations

import logging
import os
import signal
import socket
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, TypedDict, Unpack

from typer import echo

from service.commands.common import with_options

if TYPE_CHECKING:
    from service.settings import Settings

log = logging.getLogger(__name__)


class ServeOptions(TypedDict, total=False):
    """Settings that are also options.

    Attributes:
        artefact: the model to serve: bundled, another shipped name, or a file.
        previous: the model before, for galleries that are not reindexed yet; a shipped one is found
            without being named.
        host: where to listen.
        port: where to listen; 0 takes a free port.
        data_dir: where galleries are kept.
        processes: how many share the port and the data directory.
    """

    artefact: str
    previous: str
    host: str
    port: int
    data_dir: Path
    processes: int


@with_options
def serve(**options: Unpack[ServeOptions]) -> None:
    """Serves galleries over HTTP.

    Every option can also be set by an environment variable, such as GMN_PORT; the option takes
    precedence.

    Example: gmn serve --port 8000 --data-dir ./gmn-data
    """
    # Imported here so that the help is shown without importing uvicorn.
    from service.commands.processes import listen, require_open_files, serve_processes
    from service.settings import read_settings

    settings = read_settings(**options)
    require_open_files()
    with listen(settings) as listening:
        if settings.processes == 1:
            _run(settings, listening)
        else:
            serve_processes(settings, listening)


def _run(settings: Settings, listening: socket.socket) -> None:
    import uvicorn

    from service.commands.processes import (
        BACKLOG,
        NEW_DIRECTORY,
        ServiceConfig,
        describe_model,
        url_of,
    )

    is_new = not settings.data_dir.exists()
    config = ServiceConfig(settings)
    config.build()
    runtime = config.runtime
    address = url_of(settings, listening)
    if is_new:
        echo(NEW_DIRECTORY.format(settings.data_dir.resolve()), err=True)

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # The server has reduced the kernel's backlog to the number it accepts at once.
            listening.listen(BACKLOG)
            if self.started:
                echo(f"Serving on {address} (docs at {address}/docs)")
                for line in describe_model(runtime, address):
                    echo(line)

        def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
            # After draining, uvicorn would raise the signal again, and a supervisor would take an
            # orderly stop for a crash. A second Ctrl-C no longer waits.
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True

    server = AnnouncingServer(config)
    server.run(sockets=[listening])
    if runtime.pictures is not None and runtime.pictures.hangs:
        # Python would wait for the threads; everything else is closed already.
        log.warning("the store of images does not answer; what it was asked is left undone")
        os._exit(130 if server.force_exit else 0)
    if server.force_exit:
        raise KeyboardInterrupt
