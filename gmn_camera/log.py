"""The log of a camera on standard error."""

from __future__ import annotations

import logging
import unicodedata

from gmn_camera.address import redact_text


class CameraFormatter(logging.Formatter):
    """Writes the time, the camera and the message in one line."""

    def __init__(self, camera: str) -> None:
        super().__init__("%(asctime)s {camera}: %(message)s", "%H:%M:%S", style="%")
        self._camera = camera

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without passwords, and with control characters escaped.

        A stream may send control characters to forge lines.
        """
        line = redact_text(super().format(record).replace("{camera}", self._camera, 1))
        return "".join(
            repr(letter)[1:-1] if unicodedata.category(letter) == "Cc" else letter
            for letter in line
        )


def configure_log(camera: str) -> None:
    """Write the log of this process to standard error.

    Args:
        camera: name of the camera, for every line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(CameraFormatter(camera))
    logger = logging.getLogger("gmn_camera")
    logger.setLevel(logging.INFO)
    logger.handlers[:] = [handler]
    logger.propagate = False
