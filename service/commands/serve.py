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

from service.commands.options import with_options
from service.ops.memory import without_collector

if TYPE_CHECKING:
    from service.settings import Settings

log = logging.getLogger(__name__)
PRIVATE_NETWORKS = (
    "GMN_WEBHOOK_PRIVATE=true lets webhooks lead to every private address; list the hosts and "
    "networks of the receivers instead, such as "
    "GMN_WEBHOOK_PRIVATE=homeassistant.local,192.168.1.0/24"
)


class ServeOptions(TypedDict, total=False):
    """Settings that are also options.

    Attributes:
        artefact: the model to serve: bundled, another shipped name, or a file.
        previous: the model before, for galleries that are not reindexed yet; may be repeated; a
            shipped one is found without being named.
        accept_unserved: start although no artefact is there for a gallery, which is then not
            searched until it is reindexed.
        host: where to listen.
        port: where to listen; 0 takes a free port.
        data_dir: where galleries are kept.
        processes: how many share the port and the data directory.
    """

    artefact: str
    previous: list[str]
    accept_unserved: bool
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
    with without_collector():
        # Imported here so that the help is shown without importing uvicorn.
        from service.checks import require_open_files, require_tracing
        from service.commands.processes import listen, serve_processes
        from service.ops.data_directory import LOCK, is_held
        from service.ops.logs import configure_logging
        from service.required_artefacts import require_artefacts
        from service.settings import EVERY_PRIVATE, describe_links, read_settings, service_links
        from service.store.formats import change_format
        from service.store.verify import require_no_record

    settings = read_settings(**options)
    configure_logging(settings.log_level, settings.log_format)
    if links := service_links(os.environ):
        log.warning(describe_links(links))
    if settings.webhook_private == EVERY_PRIVATE:
        log.warning(PRIVATE_NETWORKS)
    require_open_files()
    require_tracing()
    require_artefacts(settings)
    if settings.database_url:
        require_no_record(settings.data_dir)
    if is_held(settings.data_dir / LOCK):
        log.info("another service runs on %s; this one joins it", settings.data_dir.resolve())
    change_format(settings)
    with listen(settings) as listening:
        settings = settings.model_copy(update={"port": listening.getsockname()[1]})
        if settings.processes == 1:
            _run(settings, listening)
        else:
            serve_processes(settings, listening)


def _run(settings: Settings, listening: socket.socket) -> None:
    import uvicorn

    from service.commands.processes import (
        BACKLOG,
        ServiceConfig,
        describe_model,
        url_of,
        warn_about_new_directory,
    )

    is_new = not settings.data_dir.exists()
    config = ServiceConfig(settings)
    config.build()
    runtime = config.runtime
    address = url_of(settings, listening)
    if is_new:
        warn_about_new_directory(settings.data_dir)

    class AnnouncingServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # The server has reduced the kernel's backlog to the number it accepts at once.
            listening.listen(BACKLOG)
            if self.started:
                for line in describe_model(runtime, address):
                    echo(line, err=True)
                # The only line of the standard output, and the last one of the start.
                echo(f"Serving on {address} (docs at {address}/docs)")

        def handle_exit(self, sig: int, _frame: FrameType | None) -> None:
            # After draining, uvicorn would raise the signal again, and a supervisor would take an
            # orderly stop for a crash. A second Ctrl-C no longer waits.
            self.force_exit = self.should_exit and sig == signal.SIGINT
            self.should_exit = True

    server = AnnouncingServer(config)
    server.run(sockets=[listening])
    folder = runtime.pictures.folder
    if folder is not None and folder.hangs:
        # Python would wait for the threads; everything else is closed already.
        log.warning("the store of images does not answer; what it was asked is left undone")
        os._exit(130 if server.force_exit else 0)
    if server.force_exit:
        raise KeyboardInterrupt
