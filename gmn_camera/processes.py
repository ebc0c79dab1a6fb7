"""One process for each camera, which is started anew after a crash."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from gmn_camera.address import is_stream
from gmn_camera.figures import Figures, serve_metrics
from gmn_camera.log import configure_log
from gmn_camera.service import Service
from gmn_camera.settings import BAD_INPUT, ENDED, FAILED, CameraSettings
from gmn_client.errors import GmnError

log = logging.getLogger(__name__)
# A process gives the service 20 seconds to answer before it ends.
STOP_SECONDS = 25.0
POLL_SECONDS = 0.5
FIRST_WAIT = 1.0
LONGEST_WAIT = 60.0
# A process that ran longer than this did not fail at its start, so that pauses begin short again.
STEADY_SECONDS = 60.0


class CameraProcess:
    """The process of a camera, which is started anew after a crash.

    Attributes:
        figures: the newest figures of the process.
        status: exit status when the camera is done; None before.
    """

    def __init__(self, settings: CameraSettings, service: Service) -> None:
        self.figures = Figures()
        self.status: int | None = None
        self._settings = settings
        self._service = service
        self._wait = FIRST_WAIT
        self._restart_at: float | None = None
        self._start()

    @property
    def camera(self) -> str:
        return self._settings.camera

    @property
    def waitables(self) -> list[Any]:
        """Return objects for `connection.wait`, ready when the process reports or ends."""
        return [self._connection, self._process.sentinel] if self._restart_at is None else []

    def stop(self) -> None:
        with suppress(OSError):
            self._connection.send("stop")
        if self._restart_at is not None:
            self.status = ENDED

    def kill(self) -> None:
        self._process.kill()

    def follow(self, is_stopping: bool) -> None:
        """Read the figures that the process sent, and start it anew if it crashed."""
        with suppress(EOFError, OSError):
            while self._connection.poll():
                self.figures = self._connection.recv()
        if self._restart_at is not None:
            if time.monotonic() >= self._restart_at:
                self._start()
        elif self._process.exitcode is not None:
            self._note_end(self._process.exitcode, is_stopping)

    def _start(self) -> None:
        # A forked process would share the connections and threads of this one.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=watch_camera, args=(self._settings, self._service, theirs), daemon=True
        )
        self._process.start()
        theirs.close()
        self._started_at = time.monotonic()
        self._restart_at = None

    def _note_end(self, exit_code: int, is_stopping: bool) -> None:
        self._process.join()
        self._connection.close()
        # A process that is started anew would send a file from its beginning once more.
        is_final = exit_code in (ENDED, BAD_INPUT) or not is_stream(self._settings.source)
        if is_final or is_stopping:
            self.status = exit_code if exit_code >= 0 else FAILED
            return
        if time.monotonic() - self._started_at > STEADY_SECONDS:
            self._wait = FIRST_WAIT
        log.error(
            "the process of %s ended with status %d; it is started anew in %d s",
            self.camera,
            exit_code,
            self._wait,
        )
        self._restart_at = time.monotonic() + self._wait
        self._wait = min(2 * self._wait, LONGEST_WAIT)


def watch_cameras(cameras: Sequence[CameraSettings], service: Service, metrics: str | None) -> int:
    """Watch cameras until all have ended or SIGTERM or SIGINT comes, and return the exit status.

    Args:
        metrics: port, or HOST:PORT, where Prometheus reads the figures; None serves none.

    Raises:
        InvalidInput: the port cannot be used.
    """
    configure_log("gmn camera")
    asked_to_stop: list[int] = []
    processes: list[CameraProcess] = []

    def figures() -> Mapping[str, Figures]:
        return {process.camera: process.figures for process in processes}

    end_metrics = serve_metrics(metrics, figures) if metrics is not None else None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: asked_to_stop.append(number))
    processes += [CameraProcess(settings, service) for settings in cameras]
    stopped_at: float | None = None
    while running := [process for process in processes if process.status is None]:
        wait([item for process in running for item in process.waitables], POLL_SECONDS)
        if asked_to_stop and stopped_at is None:
            stopped_at = time.monotonic()
            for process in running:
                process.stop()
        for process in running:
            process.follow(stopped_at is not None)
        if stopped_at is not None and time.monotonic() - stopped_at > STOP_SECONDS:
            for process in running:
                process.kill()
    if end_metrics is not None:
        end_metrics()
    return max(process.status or ENDED for process in processes)


def watch_camera(settings: CameraSettings, service: Service, connection: Connection) -> None:
    """Watch one camera, and end the process with an exit status.

    Args:
        connection: connection to the parent process, which gets the figures. One received object
            ends the watching, as does the end of the parent, which breaks the connection.
    """
    # The parent gets these signals too, and tells this process to stop.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    configure_log(settings.camera)
    from gmn_camera.watch import Watcher

    try:
        with service.connect() as client:
            watcher = Watcher(settings, client)
            threading.Thread(
                target=_stop_when_told, args=(connection, watcher.stop), daemon=True
            ).start()
            status = watcher.run(lambda figures: _report(connection, figures))
    except GmnError as error:
        log.error("%s", error)
        status = BAD_INPUT
    except Exception:
        # Python itself would print the error with the passwords of addresses.
        log.exception("the camera failed")
        status = FAILED
    sys.exit(status)


def _stop_when_told(connection: Connection, stop: threading.Event) -> None:
    with suppress(EOFError, OSError):
        connection.recv()
    stop.set()


def _report(connection: Connection, figures: Figures) -> None:
    # The parent may have ended.
    with suppress(OSError):
        connection.send(figures)
