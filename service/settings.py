"""The service's configuration: one frozen model, read from `GMN_…` and validated at once."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.crops.quality import QualityLimits
from model.problems import InputProblem
from service.ops.chained_file import MAX_BYTES as MAX_AUDIT_BYTES
from service.ops.failpoints import ENVIRONMENT as FAILPOINT

PREFIX = "GMN_"
# Names that other commands and the crash tests use; everything else with the prefix is a typo.
FOREIGN_NAMES = frozenset({"GMN_URL", "GMN_API_KEY", "GMN_GALLERY", FAILPOINT})

REPLICA_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

DeviceName = Literal["auto", "cpu", "cuda"]
RuntimeName = Literal["auto", "torch", "openvino"]
DtypeName = Literal["auto", "float32", "bfloat16"]
QualityPolicy = Literal["warn", "refuse", "off"]
KeepImages = Literal["original", "thumbnail", "none"]


class Settings(BaseSettings):
    """Everything that can be set; the environment variable of `max_batch` is `GMN_MAX_BATCH`.

    Attributes:
        artefact: the model to serve, the name of a shipped one or a file.
        previous: the model that galleries were filled by before; it answers for them until they
            are reindexed. A shipped one is found without being named.
        data_dir: where galleries are kept, or with `redis_url` what is no record of them; one
            process at a time.
        redis_url: the Redis that holds the record, as `redis://user:password@host:6379/0`; None
            keeps it in SQLite in the data directory.
        redis_password_file: where the password stands that `redis_url` has not.
        replica_name: what this process is called among those that share a record, and what its
            audit log is named after; the host's name by default.
        host, port: where to listen; port 0 takes a free one.
        api_keys_file: keys that are deployed with the service, beside those of `gmn keys`.
        cors_origins: origins whose web pages may use the service, comma-separated.
        device: `auto` is CUDA where there is one.
        runtime: what computes the features; `auto` is PyTorch on a GPU, and on a CPU the fastest
            when the record is first used, which the record keeps.
        dtype: of the embedder; `auto` is bfloat16 on a GPU that computes it in hardware, and on a
            CPU float32, or bfloat16 where `runtime` chooses it.
        max_batch: images in one forward pass.
        max_wait_ms: how long an idle device waits for images that are still being decoded.
        max_queued_images: images admitted and not yet answered; beyond it, 429.
        decode_threads: threads that decode images.
        max_image_bytes: of one image; beyond it, that image's problem.
        max_image_pixels: width × height of one image; beyond it, that image's problem.
        max_images_per_request: beyond it, 422.
        max_body_bytes: of one request; beyond it, 413.
        max_queued_bytes: of all bodies in memory, and half of it of those of one caller; beyond it,
            429.
        body_timeout_s: a body of which nothing more arrives for so long is 408.
        min_body_rate: bytes a second; a body that is awaited for longer, beyond `body_timeout_s`,
            is 408.
        header_timeout_s: a connection on which no request's headers arrive for so long is closed.
        send_timeout_s: a connection whose client takes less than 48 KiB of its answer, and not its
            rest, within so long is dropped.
        max_connections: beyond it, 503.
        quality: what becomes of a poor crop that is enrolled: it lands with a warning, is that
            image's problem, or is not looked at. Queries are never refused for it.
        min_crop_height, min_crop_width: of a crop before it is resized, pixels.
        min_crop_sharpness, min_crop_brightness, max_crop_shadow: as `CropQuality` measures them.
        min_crop_aspect, max_crop_aspect: height by width.
        keep_images: what is kept of an enrolled image: the file as it came, a JPEG of at most 256
            pixels' height, or nothing; without it no reindex can embed the crop again.
        images_url: where kept images lie, as fsspec names it (`file:///srv/crops`,
            `s3://bucket/crops`); None keeps them in the record store.
        import_dir: below it lie the folders that an import may name; None allows none.
        max_import_bytes: of an uploaded archive, and of what it unpacks to.
        reserved_disk_bytes: what is kept free on the data directory's disk; where less is left,
            nothing new is stored (507), and deletions still are.
        audit_queries: whether searches and views of pictures are in the audit log.
        audit_max_bytes: of one file of the audit log; beyond it another is begun.
        housekeeping_seconds: how often what is past its retention is deleted.
        stall_seconds: a stage that has something to do and gives no sign of life for so long ends
            the process, seconds after `/livez` has said so.
        log_level: of the JSON log on standard error.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    artefact: str = "bundled"
    previous: str | None = None
    data_dir: Path = Path("gmn-data")
    redis_url: str | None = None
    redis_password_file: Path | None = None
    replica_name: str | None = None
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    api_keys_file: Path | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    device: DeviceName = "auto"
    runtime: RuntimeName = "auto"
    dtype: DtypeName = "auto"
    max_batch: int = Field(32, ge=1, le=1024)
    max_wait_ms: float = Field(2.0, ge=0.0, le=1000.0)
    max_queued_images: int = Field(256, ge=1)
    decode_threads: int = Field(default_factory=lambda: max(1, (os.cpu_count() or 2) - 1), ge=1)
    max_image_bytes: int = Field(10 * 1024 * 1024, ge=1)
    max_image_pixels: int = Field(16_000_000, ge=64)
    # A form may have 1,000 fields, and each image brings up to five.
    max_images_per_request: int = Field(128, ge=1, le=200)
    max_body_bytes: int = Field(64 * 1024 * 1024, ge=1)
    max_queued_bytes: int = Field(512 * 1024 * 1024, ge=1)
    body_timeout_s: float = Field(30.0, gt=0.0)
    min_body_rate: int = Field(64 * 1024, ge=1)
    header_timeout_s: float = Field(10.0, gt=0.0)
    send_timeout_s: float = Field(30.0, gt=0.0)
    # A process may mostly have 1,024 files open, and a proxy sends 500 at once.
    max_connections: int = Field(900, ge=1)
    quality: QualityPolicy = "warn"
    min_crop_height: int = Field(QualityLimits.min_height, ge=1)
    min_crop_width: int = Field(QualityLimits.min_width, ge=1)
    min_crop_sharpness: float = Field(QualityLimits.min_sharpness, ge=0.0, le=1.0)
    min_crop_brightness: float = Field(QualityLimits.min_brightness, ge=0.0, le=1.0)
    max_crop_shadow: float = Field(QualityLimits.max_shadow, ge=0.0, le=1.0)
    min_crop_aspect: float = Field(QualityLimits.min_aspect, ge=0.0)
    max_crop_aspect: float = Field(QualityLimits.max_aspect, gt=0.0)
    keep_images: KeepImages = "original"
    images_url: str | None = None
    import_dir: Path | None = None
    max_import_bytes: int = Field(8 * 1024**3, ge=1)
    reserved_disk_bytes: int = Field(64 * 1024 * 1024, ge=0)
    audit_queries: bool = True
    audit_max_bytes: int = Field(MAX_AUDIT_BYTES, ge=4096)
    housekeeping_seconds: float = Field(3600.0, gt=0.0)
    stall_seconds: float = Field(120.0, gt=0.0)
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins_as_a_browser_sends_them(cls, value: Any) -> Any:
        origins = [one.strip() for one in value.split(",")] if isinstance(value, str) else value
        for origin in (one for one in origins if one):
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or f"{parts.scheme}://{parts.netloc}" != origin
            ):
                raise ValueError(
                    f"{origin!r} is no origin; write it like https://desk.example:8443, several "
                    "with commas between"
                )
        return tuple(one for one in origins if one)

    @model_validator(mode="after")
    def _a_full_body_fits_what_is_held(self) -> Self:
        if self.max_body_bytes > self.max_queued_bytes:
            raise ValueError(
                f"max_body_bytes ({self.max_body_bytes}) is above max_queued_bytes "
                f"({self.max_queued_bytes}), so that a full body could never be received; lower "
                "the first or raise the second"
            )
        return self

    @model_validator(mode="after")
    def _a_full_request_fits_the_queue(self) -> Self:
        if self.max_images_per_request > self.max_queued_images:
            raise ValueError(
                f"max_images_per_request ({self.max_images_per_request}) is above "
                f"max_queued_images ({self.max_queued_images}), so that a full request could never "
                "be admitted; lower the first or raise the second"
            )
        return self

    @model_validator(mode="after")
    def _some_shape_is_left(self) -> Self:
        if self.min_crop_aspect > self.max_crop_aspect:
            raise ValueError(
                f"min_crop_aspect ({self.min_crop_aspect:g}) is above max_crop_aspect "
                f"({self.max_crop_aspect:g}), so that no crop could pass; lower the first or raise "
                "the second"
            )
        return self

    @field_validator("replica_name")
    @classmethod
    def _fit_for_a_file_name(cls, value: str | None) -> str | None:
        if value is not None and not REPLICA_NAME.fullmatch(value):
            raise ValueError(
                "it names files; use up to 64 letters, digits, dots, dashes and underscores"
            )
        return value

    @property
    def shares_record(self) -> bool:
        """Whether other processes may serve the same record."""
        return self.redis_url is not None

    @property
    def replica(self) -> str:
        """What this process is called among those that share its record."""
        return self.replica_name or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64]

    @property
    def quality_limits(self) -> QualityLimits:
        """What a crop to be enrolled is measured against."""
        return QualityLimits(
            min_height=self.min_crop_height,
            min_width=self.min_crop_width,
            min_sharpness=self.min_crop_sharpness,
            min_brightness=self.min_crop_brightness,
            max_shadow=self.max_crop_shadow,
            min_aspect=self.min_crop_aspect,
            max_aspect=self.max_crop_aspect,
        )


def read_settings(**overrides: Any) -> Settings:
    """Reads the environment; arguments that are not None come before it.

    Raises:
        InputProblem: names every variable that cannot be used and says why.
    """
    _refuse_unknown_names()
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise InputProblem("; ".join(_explain(one) for one in error.errors())) from error


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse_unknown_names() -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields} | FOREIGN_NAMES
    for name in sorted(os.environ):
        if not name.startswith(PREFIX) or name in known:
            continue
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]}" if close else f"known are {', '.join(sorted(known))}"
        raise InputProblem(f"{name}: there is no such setting; {hint}? Unset or rename it")


def _explain(error: Any) -> str:
    reason = str(error["msg"]).removeprefix("Value error, ")
    if not error["loc"]:
        return reason
    name = PREFIX + str(error["loc"][0]).upper()
    return f"{name}: {reason}, but it is {error['input']!r}; set another value or unset it"
