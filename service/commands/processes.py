"""Several processes of the service behind one port, under the supervisor of uvicorn."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import time

import uvicorn
from prometheus_client import multiprocess
from typer import echo
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from model.problems import InputProblem
from service.commands.common import bound_arenas
from service.ops.metrics import METRICS_VARIABLE
from service.settings import Settings

log = logging.getLogger(__name__)
METRICS_FOLDER = "metrics"
START_SECONDS = 600.0


class ServiceConfig(uvicorn.Config):
    """The configuration of one process, which is sent to it and builds the application there."""

    def __init__(self, settings: Settings, drain_seconds: int, backlog: int) -> None:
        """Configure a process of the service.

        Args:
            settings: of all processes; each takes its share of the limits.
        """
        # First, since the constructor sets up the logs.
        self.settings = settings
        super().__init__(
            "service.http.app:create_app",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=drain_seconds,
            timeout_worker_healthcheck=int(settings.stall_seconds),
            server_header=False,
            backlog=backlog,
            workers=settings.processes,
        )

    def configure_logging(self) -> None:
        """Set up the logs of this process; called in it before anything else."""
        from service.ops.logs import configure_logging

        configure_logging(self.settings.log_level)
        # Uvicorn's own log of requests, which it switches off here, has paths with names of people.
        super().configure_logging()

    def load(self) -> None:
        """Build the application; ends the process where the settings or the record refuse it."""
        from service.http.app import create_app
        from service.http.limits import bounded_connections
        from service.ops.failpoints import arm_failpoint
        from service.runtime import Runtime

        bound_arenas()
        settings = self.settings.of_one_process
        try:
            arm_failpoint()
            self.app = create_app(settings, Runtime(settings))
        except InputProblem as problem:
            echo(str(problem), err=True)
            sys.exit(STARTUP_FAILURE)
        super().load()
        self.http_protocol_class = bounded_connections(
            settings.max_connections, settings.body_timeout_s
        )


class Supervisor(Multiprocess):
    """Starts the processes and one in the place of each that has ended."""

    def __init__(self, config: ServiceConfig, listening: socket.socket, backlog: int) -> None:
        super().__init__(config, [listening])
        self._backlog = backlog
        self._address = listening.getsockname()

    def init_processes(self) -> None:
        """Start the processes one after another: the first one creates what there is one of."""
        for _ in range(self.processes_num):
            process = Process(self.config, self.sockets)
            process.start()
            self.processes.append(process)
            if not process.wait_until_ready(START_SECONDS, self.should_exit):
                self.should_exit.set()
                return
            # The process has shortened the kernel's queue to the number that it accepts at once.
            self.sockets[0].listen(self._backlog)
        host, port = self._address[:2]
        echo(f"Serving on http://{host}:{port} with {self.processes_num} processes")

    def terminate_all(self) -> None:
        """Ask the processes to end, and refuse connections that none of them would accept."""
        for listening in self.sockets:
            listening.close()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        """Replace processes that have ended, and drop their last values from the metrics."""
        ended = [worker.pid for worker in self.processes if not worker.process.is_alive()]
        super().keep_subprocess_alive()
        for pid in ended:
            multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]
        if ended:
            self.sockets[0].listen(self._backlog)


def serve_processes(
    settings: Settings, listening: socket.socket, drain_seconds: int, backlogs: tuple[int, int]
) -> None:
    """Serve by several processes until a signal ends them.

    Args:
        backlogs: connections accepted in one turn of an event loop, and waiting ones.
    """
    folder = settings.data_dir / METRICS_FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ[METRICS_VARIABLE] = str(folder)
    accepted, waiting = backlogs
    supervisor = Supervisor(ServiceConfig(settings, drain_seconds, accepted), listening, waiting)
    began = time.monotonic()
    supervisor.run()
    failed = [worker for worker in supervisor.processes if worker.exitcode == STARTUP_FAILURE]
    if failed:
        log.error("a process could not start after %.0f s", time.monotonic() - began)
        sys.exit(STARTUP_FAILURE)
