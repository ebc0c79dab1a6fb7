"""Settings of cameras: from the command line, or from a TOML file with a table for each camera."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from gmn_camera.address import STREAM, redact_text
from gmn_client.errors import InvalidInput
from gmn_client.hours import are_hours, find_day
from gmn_client.zones import MOST_ZONES, Zone, read_zone

# Exit statuses of the process of a camera.
ENDED = 0
FAILED = 1
BAD_INPUT = 2
MOST_CAMERAS = 64
MOST_CONFIG_BYTES = 1024 * 1024
# The longest part of a video that `gmn camera try` looks at.
MOST_TRIED_SECONDS = 86_400


def _read_zone(given: object) -> object:
    return read_zone(given) if isinstance(given, str) else given


def _check_hours(given: object) -> object:
    if given and not (isinstance(given, str) and are_hours(given)):
        raise ValueError(f"{given!r:.40} are no hours; write them like 22:00-06:00")
    return given


def _read_source(source: str) -> str:
    """Strip spaces around the address of a stream; write out the home directory of a file."""
    stripped = source.strip()
    if STREAM.match(stripped):
        return stripped
    return str(_with_home(Path(source))) if source.startswith("~/") else source


def _with_home(file: Path) -> Path:
    """Expand `~`, which no shell does in a file of settings."""
    try:
        return file.expanduser()
    except RuntimeError as error:
        raise ValueError(f"{error}; write the path in full") from error


class CameraSettings(BaseModel):
    """Settings of one camera.

    Attributes:
        camera: name of the camera in the service.
        source: a video file, or the address of a stream.
        enroll: the gallery that stores the crops; None stores nothing.
        fps: frames per second that are processed.
        min_height: least height of a person for a crop, in pixels.
        min_iou: least intersection over union of a box with the predicted box of its track.
        zone: polygons, one of which must contain a person's feet; empty for the whole frame. The
            first one that does is named to the service.
        hours: time of day on this machine, such as `22:00-06:00`; empty for the whole day.
        queue: largest number of a stream's crops that wait for the service.
        detector: file of a user's own network; None for the shipped one.
        threads: number of threads of the network.
        started: time of the first frame of a file; by default the file ends now.
        live: play a file in real time, as if it were a stream.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    camera: str = Field(min_length=1, max_length=256)
    source: Annotated[str, AfterValidator(_read_source)] = Field(min_length=1, max_length=4096)
    enroll: str | None = Field(None, min_length=1, max_length=64)
    # A track of the service ends ten seconds after its last crop: with fewer frames a second, two
    # crops of a track could be further apart.
    fps: float = Field(10.0, ge=2, le=30)
    min_height: int = Field(96, ge=32, le=2000)
    min_iou: float = Field(0.2, ge=0.05, le=0.9)
    zone: tuple[Annotated[Zone, BeforeValidator(_read_zone)], ...] = Field(
        (), max_length=MOST_ZONES
    )
    hours: Annotated[str, BeforeValidator(_check_hours)] = ""
    queue: int = Field(256, ge=16, le=10_000)
    detector: Annotated[Path, AfterValidator(_with_home)] | None = None
    threads: int = Field(1, ge=1, le=64)
    started: AwareDatetime | None = None
    live: bool = False

    def is_on(self, now: datetime) -> bool:
        """Return True if a time lies within `hours`.

        Args:
            now: the time on this machine.
        """
        return find_day(self.hours, now) is not None


def read_options(options: Mapping[str, Any]) -> CameraSettings:
    """Return the settings of one camera from options of the command line.

    Raises:
        InvalidInput: an option cannot be used.
    """
    try:
        return CameraSettings.model_validate(options)
    except ValidationError as error:
        name, reason = _first_reason(error)
        option = name if name == "source" else f"--{name.replace('_', '-')}"
        raise InvalidInput(f"{option}: {reason}") from error


def read_config(file: Path) -> list[CameraSettings]:
    """Read a TOML file with settings that all cameras share, and a table `[camera.NAME]` for each.

    Raises:
        InvalidInput: the file cannot be read, or a setting cannot be used.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MOST_CONFIG_BYTES + 1)
        if len(content) > MOST_CONFIG_BYTES:
            raise InvalidInput(f"{file}: is larger than a megabyte; name a file of settings")
        shared = tomllib.loads(content.decode())
    except OSError as error:
        raise InvalidInput(f"{file}: cannot be read ({error.strerror})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInput(f"{file}: is no TOML ({redact_text(str(error))})") from error
    cameras = shared.pop("camera", {})
    if not isinstance(cameras, dict) or not 1 <= len(cameras) <= MOST_CAMERAS:
        raise InvalidInput(
            f"{file}: has to name 1 to {MOST_CAMERAS} cameras, each in a table of its own that "
            "begins with a line like [camera.gate]"
        )
    return [_read_table(file, name, shared, table) for name, table in cameras.items()]


def _read_table(
    file: Path, camera: str, shared: Mapping[str, Any], table: object
) -> CameraSettings:
    if not isinstance(table, dict):
        name = redact_text(camera)
        raise InvalidInput(f"{file}: camera.{name} is no table; begin it with [camera.{name}]")
    try:
        return CameraSettings.model_validate({**shared, **table, "camera": camera})
    except ValidationError as error:
        name, reason = _first_reason(error)
        where = f"camera.{camera}.{name}" if name in table or name not in shared else name
        raise InvalidInput(f"{file}: {redact_text(where)}: {reason}") from error


def _first_reason(error: ValidationError) -> tuple[str, str]:
    """Return the name of the wrong setting, and the reason."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        known = ", ".join(field for field in CameraSettings.model_fields if field != "camera")
        return name, f"there is no such setting; there are {known}"
    return name, redact_text(first["msg"].removeprefix("Value error, "))
