"""Servers of the service: one in this process, or several processes behind one port."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from typer import echo
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from gmn_client import DEFAULT_URL
from model.permitted_use import permitted_use, terms_of_use
from model.problems import InputProblem
from service.errors import MachineFull, machine_error
from service.ops.data_directory import hold, lock_data_directory
from service.ops.locks import ProcessLock
from service.ops.logs import configure_logging
from service.ops.memory import bound_arenas, return_free_memory, without_collector
from service.ops.metrics import METRICS_VARIABLE
from service.record.transaction import FILE as RECORD_FILE
from service.settings import Settings

if TYPE_CHECKING:
    from service.runtime import Runtime

log = logging.getLogger(__name__)
DRAIN_SECONDS = 25
# Connections accepted in one turn of the event loop, before the first is counted.
ACCEPTED_AT_ONCE = 16
BACKLOG = 2048
# Time for which an idle connection stays open. It must be longer than those of proxies and load
# balancers, often 60 seconds, which otherwise send a request into a connection that is being
# closed.
IDLE_SECONDS = 80
METRICS_FOLDER = "metrics"
NEW_DIRECTORY = (
    "made a new data directory %s; nothing is enrolled. If there should be galleries, stop this "
    "service and name their directory with --data-dir or GMN_DATA_DIR; this lists the data "
    "directories of the machine: find / -name %s 2>/dev/null"
)
# A process that does not serve within this time is replaced.
START_SECONDS = 600.0
# After this many starts in a row that end before the process serves, the whole service ends.
MAX_FAILED_STARTS = 3
# A constant of sys/prctl.h.
PR_SET_PDEATHSIG = 1


def url_of(settings: Settings, listening: socket.socket) -> str:
    return f"http://{_write_address(settings.host, listening.getsockname()[1])}"


def _write_address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def describe_model(runtime: Runtime, address: str) -> Iterator[str]:
    model = runtime.model
    provenance = model.description.provenance
    yield f"Artefact {model.name}: {terms_of_use(provenance)}"
    if permitted_use(provenance).business == "no":
        yield "An artefact with other terms is there too: gmn serve --artefact open"
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


def warn_about_new_directory(data_dir: Path) -> None:
    log.warning(NEW_DIRECTORY, data_dir.resolve(), RECORD_FILE)


def listen(settings: Settings) -> socket.socket:
    """Bind the port; raises `InputProblem` if that fails."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio disables Nagle's algorithm, which costs 40 ms per answer, only if the protocol is
    # given.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        is_taken = error.errno == errno.EADDRINUSE
        remedy = "stop what listens there, or choose" if is_taken else "choose"
        raise InputProblem(
            f"{_write_address(settings.host, settings.port)}: cannot listen ({error.strerror}); "
            f"{remedy} another with --port or --host; port 0 takes a free one"
        ) from error
    return listening


class ServiceConfig(uvicorn.Config):
    """Configuration of one server process, which builds the application.

    Attributes:
        runtime: runtime of the application; set by `build`.
        announced_url: URL that a worker process names when it describes its model; None if it does
            not describe it.
    """

    announced_url: str | None = None

    def __init__(self, settings: Settings) -> None:
        """Configure one server process.

        Args:
            settings: settings of all processes together; each gets its share of the limits.
        """
        # Must come first, because the constructor configures logging.
        self.settings = settings
        super().__init__(
            "service.app:create_app",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_worker_healthcheck=int(settings.stall_seconds),
            server_header=False,
            backlog=ACCEPTED_AT_ONCE,
            workers=settings.processes,
        )

    def configure_logging(self) -> None:
        configure_logging(self.settings.log_level, self.settings.log_format)
        # Uvicorn's own access log, which this disables, contains paths with names of people.
        super().configure_logging()

    def build(self) -> None:
        """Build the application.

        Raises:
            InputProblem: settings or record are unusable, or the machine lacks memory or files.
        """
        try:
            self._build()
        except Exception as error:
            failure = error if isinstance(error, MachineFull) else machine_error(error)
            if not isinstance(failure, MachineFull):
                raise
            lack, _, _ = failure.detail.partition(" at the moment")
            raise InputProblem(
                f"the service cannot start, because {lack}; {failure.why}, and start it again"
            ) from error

    def _build(self) -> None:
        # Must be set before the imports below start threads.
        bound_arenas()
        with without_collector():
            from service.app import create_app
            from service.http.limits import bounded_connections
            from service.runtime import Runtime

            settings = self.settings.of_one_process
            self.runtime = Runtime(settings)
            self.app = create_app(settings, self.runtime)
            super().load()
            self.http_protocol_class = bounded_connections(
                settings.max_connections, settings.body_timeout_s
            )
        return_free_memory()

    def load(self) -> None:
        """Build the application in a worker process; the process exits if that fails."""
        # If the supervisor is killed, this process stops in order, so that the port is released.
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        supervisor = multiprocessing.parent_process()
        if supervisor is not None and not supervisor.is_alive():
            # It was killed before this process asked for the signal.
            sys.exit(STARTUP_FAILURE)
        try:
            self.build()
        except InputProblem as problem:
            echo(str(problem), err=True)
            sys.exit(STARTUP_FAILURE)
        if self.announced_url is not None:
            # The first line of the standard output is the URL, once all processes serve.
            for line in describe_model(self.runtime, self.announced_url):
                echo(line, err=True)


class Supervisor(Multiprocess):
    """Starts the worker processes and replaces those that have ended.

    Attributes:
        failed: true if the service ends because its processes cannot start.
    """

    config: ServiceConfig

    def __init__(self, config: ServiceConfig, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self.failed = False
        self._failed_starts = 0
        self._serving: set[int | None] = set()

    def init_processes(self) -> None:
        """Start the processes one after another: the first one creates what all of them share."""
        url = url_of(self.config.settings, self.sockets[0])
        self.config.announced_url = url
        for index in range(self.processes_num):
            self.processes.append(self._start_process())
            while not self._wait_until_ready(self.processes[index]):
                if not self._replace(index):
                    self.should_exit.set()
                    return
            self.config.announced_url = None
        echo(f"Serving on {url} with {self.processes_num} processes")

    def terminate_all(self) -> None:
        """Ask the processes to stop and refuse connections that none of them would accept."""
        for listening in self.sockets:
            listening.close()
        super().terminate_all()

    def keep_subprocess_alive(self) -> None:
        """Replace processes that have ended; end the service if they cannot start."""
        for index, process in enumerate(self.processes):
            if self._is_stopping:
                return
            # Only the worker then holds this end of the pipe, so that a check of its health ends
            # when it is killed, and neither its replacement nor a stop waits for the answer.
            process.child_conn.close()
            if process.pid not in self._serving:
                self._note_if_ready(process, self.config.timeout_worker_healthcheck)
            if process.is_alive(self.config.timeout_worker_healthcheck):
                continue
            if not self._replace(index):
                self.should_exit.set()
                return

    @property
    def _is_stopping(self) -> bool:
        return self.should_exit.is_set() or not {signal.SIGINT, signal.SIGTERM}.isdisjoint(
            self.signal_queue
        )

    def _start_process(self) -> Process:
        process = Process(self.config, self.sockets)
        process.start()
        process.child_conn.close()
        return process

    def _wait_until_ready(self, process: Process) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while process.process.is_alive() and time.monotonic() < deadline and not self._is_stopping:
            if self._note_if_ready(process, 1):
                return True
            time.sleep(0.1)
        return False

    def _note_if_ready(self, process: Process, timeout_seconds: float) -> bool:
        if not process.is_ready(timeout_seconds):
            return False
        self._serving.add(process.pid)
        self._failed_starts = 0
        # The process has reduced the kernel's backlog to the number it accepts at once.
        self.sockets[0].listen(BACKLOG)
        return True

    def _replace(self, index: int) -> bool:
        """Replace a process that has ended or does not answer.

        Returns:
            False if the service is to end: it is being stopped, or its processes cannot start.
        """
        process = self.processes[index]
        if self._is_stopping:
            return False
        process.kill()
        process.join()
        mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
        served = process.pid in self._serving
        self._serving.discard(process.pid)
        log.error(
            "process %d has ended while it %s: exit status %s",
            process.pid,
            "served" if served else "started",
            process.exitcode,
        )
        if not served:
            self._failed_starts += 1
        # With this status it has said why it cannot start, and neither could another one.
        cannot_start = process.exitcode == STARTUP_FAILURE
        if cannot_start or self._failed_starts >= MAX_FAILED_STARTS:
            self.failed = True
            return False
        self.processes[index] = self._start_process()
        return True


@contextlib.contextmanager
def metrics_folder(data_dir: Path) -> Iterator[Path]:
    """Create a folder for the values of these processes; removed at the end.

    Other services on the data directory have folders of their own. Those of services that were
    killed are removed.
    """
    above = data_dir / METRICS_FOLDER
    above.mkdir(exist_ok=True)
    with contextlib.ExitStack() as held:
        with contextlib.closing(ProcessLock(above / "lock", "starts")) as lock, lock.hold():
            for former in above.glob("*/"):
                with contextlib.suppress(BlockingIOError), hold(former):
                    shutil.rmtree(former)
            folder = Path(mkdtemp(dir=above))
            held.enter_context(hold(folder))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def serve_processes(settings: Settings, listening: socket.socket) -> None:
    data_dir = settings.data_dir
    is_new = not data_dir.exists()
    with lock_data_directory(data_dir, shared=True), metrics_folder(data_dir) as folder:
        if is_new:
            warn_about_new_directory(data_dir)
        os.environ[METRICS_VARIABLE] = str(folder)
        supervisor = Supervisor(ServiceConfig(settings), [listening])
        supervisor.run()
    if supervisor.failed:
        log.error("the service has ended: its processes cannot start; the lines above say why")
        sys.exit(STARTUP_FAILURE)
