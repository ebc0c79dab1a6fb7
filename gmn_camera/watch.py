"""Watches one camera until its source ends or `stop` is set."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import datetime
from uuid import uuid4

from gmn_camera.address import is_stream
from gmn_camera.crops import ChosenCrop
from gmn_camera.figures import Figures
from gmn_camera.frame import Frame
from gmn_camera.pipeline import CropPipeline
from gmn_camera.sender import CropSender
from gmn_camera.service import require_retention
from gmn_camera.settings import BAD_INPUT, FAILED, CameraSettings
from gmn_camera.source import SourceStuck, Stream, VideoFile
from gmn_camera.still import encode_still
from gmn_camera.tracker import LOST_SECONDS
from gmn_client import Client
from gmn_client.errors import GmnError, KeyRefused, ServiceFailed, ServiceUnreachable
from gmn_client.models import HeartbeatAnswer
from gmn_client.zones import read_zone

log = logging.getLogger(__name__)
# The service calls a camera silent after five minutes without a heartbeat, or without frames.
HEARTBEAT_SECONDS = 30.0
REPORT_SECONDS = 1.0
# A heartbeat says `no_frames` if the newest frame is older than this.
FRAMELESS_SECONDS = 10.0
# The service's limit on the lag in a heartbeat, in seconds.
LONGEST_LAG = 86_400.0


class Watcher:
    """Sends the people whom one camera shows to the service.

    Attributes:
        figures: figures since the start.
        stop: ends the watching when it is set.
    """

    def __init__(self, settings: CameraSettings, client: Client) -> None:
        """Load the detector, and check the gallery that is to store crops.

        Args:
            client: client that makes one attempt per request.

        Raises:
            InvalidInput: the source, the detector or the gallery cannot be used.
            RequestRefused: the key is refused.
        """
        self.figures = Figures()
        self.stop = threading.Event()
        self._settings = settings
        self._client = client
        self._problem: GmnError | None = None
        # The zones of the service by which this program goes; none if those of the settings hold.
        self._drawn_zones: list[str] = []
        self._still_wanted = threading.Event()
        self._source: Stream | VideoFile
        if is_stream(settings.source):
            self._source = Stream(settings, self.stop)
        else:
            self._source = VideoFile(settings, self.stop)
        if settings.enroll is not None:
            try:
                require_retention(client, settings.enroll)
            except (ServiceUnreachable, ServiceFailed) as error:
                # The service refuses each request with such a gallery, but may answer later.
                log.warning("%s", error)
        self._pipeline = CropPipeline(settings, uuid4().hex[:8])
        # A file that is played in real time cannot be made to wait either.
        drops = settings.live or isinstance(self._source, Stream)
        self._sender = CropSender(client, settings, drops=drops, stop=self.stop)

    def run(self, report: Callable[[Figures], None]) -> int:
        """Watch until the source ends or `stop` is set, and return the exit status.

        Args:
            report: called with the figures once a second.

        Raises:
            InvalidInput: the file is no video.
        """
        if self._settings.hours:
            zone = datetime.now().astimezone()
            log.info(
                "the hours %s are those of the time zone %s (UTC%s), which the variable TZ sets",
                self._settings.hours,
                zone.tzname(),
                f"{zone:%z}",
            )
        self._start(lambda: self._report(report))
        if isinstance(source := self._source, Stream):
            self._start(lambda: self._send_heartbeats(source))
        status = 0
        try:
            for frame in self._source.frames():
                self._watch(frame)
        except SourceStuck as error:
            log.error("%s; the process ends", error)
            status = FAILED
        finally:
            self._send(self._pipeline.end())
            self._sender.close()
            self.stop.set()
            self._note()
            report(self.figures)
        problem = self._problem or self._sender.problem
        if problem is not None:
            log.error("%s", problem)
            return BAD_INPUT
        self._log_figures()
        return status

    def _watch(self, frame: Frame | None) -> None:
        now = time.monotonic()
        if frame is None:
            # Crops must not wait until a broken stream is back.
            if self.figures.frame_at is None or now - self.figures.frame_at > LOST_SECONDS:
                self._send(self._pipeline.end())
            return
        self.figures.frame_at = now
        if not self._settings.is_on(frame.captured_at.astimezone()):
            self._send(self._pipeline.end())
            return
        if self._still_wanted.is_set():
            self._still_wanted.clear()
            still = encode_still(frame)
            self._start(lambda: self._send_still(still))
        found = self._pipeline.add(frame, frame.seconds)
        self.figures.frames += 1
        self.figures.people += len(found.boxes)
        self._send(found.crops)

    def _start(self, work: Callable[[], None]) -> None:
        threading.Thread(target=work, daemon=True).start()

    def _send(self, crops: list[ChosenCrop]) -> None:
        self.figures.crops += len(crops)
        for crop in crops:
            self._sender.put(crop)

    def _note(self) -> None:
        self.figures.tracks = self._pipeline.chooser.tracks
        self.figures.sent = self._sender.sent
        self.figures.dropped = self._sender.dropped
        self.figures.refused = self._sender.refused
        self.figures.waiting = self._sender.waiting
        self.figures.lag = self._sender.lag
        if isinstance(self._source, Stream):
            self.figures.reconnects = self._source.reconnects

    def _report(self, report: Callable[[Figures], None]) -> None:
        while not self.stop.wait(REPORT_SECONDS):
            self._note()
            report(self.figures)

    def _send_heartbeats(self, stream: Stream) -> None:
        fps: float | None = None
        while True:
            self._send_heartbeat(stream, fps)
            frames = self.figures.frames
            if self.stop.wait(HEARTBEAT_SECONDS):
                return
            fps = (self.figures.frames - frames) / HEARTBEAT_SECONDS

    def _send_heartbeat(self, stream: Stream, fps: float | None) -> None:
        lag = self._sender.lag
        try:
            answer = self._client.heartbeat(
                self._settings.camera,
                state=self._state(stream),
                fps=fps,
                lag=None if lag is None else min(lag, LONGEST_LAG),
            )
            self._follow(answer)
        except KeyRefused as error:
            self._problem = error
            self.stop.set()
        except (ServiceUnreachable, ServiceFailed) as error:
            # The sender logs a warning as soon as a crop waits.
            log.debug("%s", error)
        except GmnError as error:
            log.warning("the service refuses the heartbeat: %s", error)

    def _follow(self, answer: HeartbeatAnswer) -> None:
        """Use the zones of the service, if there are any, and send a still if one is wanted."""
        if answer.zones != self._drawn_zones:
            try:
                zones = tuple(read_zone(zone) for zone in answer.zones)
            except ValueError as error:
                log.warning("the service answers zones that cannot be read: %s", error)
                return
            self._drawn_zones = answer.zones
            self._pipeline.zones = zones or self._settings.zone
            of = "drawn in the service" if zones else "of the settings"
            log.info("the zones %s are used: %d", of, len(self._pipeline.zones))
        if answer.still_wanted:
            self._still_wanted.set()

    def _send_still(self, jpeg: bytes) -> None:
        try:
            self._client.send_still(self._settings.camera, jpeg)
        except GmnError as error:
            # The service asks again with the next heartbeat.
            log.warning("the still that was asked for could not be sent: %s", error)
        else:
            log.info("a still of %d kB was sent, as an administrator asked", len(jpeg) // 1000)

    def _state(self, stream: Stream) -> str:
        if not stream.is_connected:
            return "reconnecting" if stream.reconnects else "no_frames"
        frame_at = self.figures.frame_at or time.monotonic()
        return "no_frames" if time.monotonic() - frame_at > FRAMELESS_SECONDS else "ok"

    def _log_figures(self) -> None:
        figures = self.figures
        log.info(
            "ended; frames %d, tracks %d, crops %d: %d accepted, %d refused, %d dropped",
            figures.frames,
            figures.tracks,
            figures.crops,
            figures.sent,
            figures.refused,
            figures.dropped,
        )
