"""Configuration of the service: one frozen model, read from `GMN_…` and validated at once."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import quote

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass as frozen_dataclass
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gmn_client.models import Scope
from model.crops.quality import QualityLimits
from model.crops.texts import nfc
from model.problems import InputProblem, legible
from service.wording import describe_reason

PREFIX = "GMN_"
# Standard variables of OpenTelemetry: the collector that spans of requests are sent to. The first
# one that is set applies.
COLLECTOR_VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"
COLLECTOR_VARIABLES = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", COLLECTOR_VARIABLE)
# Variables that other programs of this project read: the client, and the camera program.
NAMES_OF_OTHERS = frozenset({"GMN_URL", "GMN_API_KEY"})
PREFIXES_OF_OTHERS = ("GMN_CAMERA_",)
# Kubernetes sets these for each Service of the namespace, and `docker --link` for each container;
# they begin with GMN_ if its name is `gmn`, or begins with `gmn-`.
LINK_NAME = re.compile(
    rf"{PREFIX}(\w+_)?"
    r"(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT_\d+_(TCP|UDP|SCTP)(_\w+)?|ENV_\w+)"
)
LINK_ADDRESS = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
LINK_ALIAS = re.compile(r"/\S+/\S+")

CPU_BATCH = 32
GPU_BATCH = 128
# A form may have 1,000 fields, and each image takes up to five of them.
MAX_IMAGES = 200

NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
# As libpq reads it.
WITH_PASSWORD = re.compile(r"\w+://[^:@/]*:[^@/]+@")
ORIGIN = re.compile(r"https?://[^/?#\s]+")
# A last label of digits belongs to an address, such as 192.168.1.300.
HOST = re.compile(r"(?!true$|false$)([\w-]+\.)*(?!\d+\.?$)[\w-]+\.?", re.ASCII | re.IGNORECASE)
FLAG = TypeAdapter(bool)
# The value `true` of `webhook_private`.
EVERY_PRIVATE = ("true",)

# authentik joins the names of groups by another separator than all other proxies do.
AUTHENTIK_GROUPS = "x-authentik-groups"

SCOPES: tuple[Scope, ...] = get_args(Scope)
Share = Annotated[float, Field(ge=0.0, le=1.0)]
DeviceName = Literal["auto", "cpu", "cuda"]
RuntimeName = Literal["auto", "torch", "openvino"]
DtypeName = Literal["auto", "float32", "bfloat16"]
Durability = Literal["fsync", "full_page_writes", "synchronous_commit"]
QualityPolicy = Literal["warn", "refuse", "off"]
KeepImages = Literal["original", "thumbnail", "none"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "json", "text"]
HeaderName = Annotated[str, Field(pattern="^[A-Za-z0-9-]{1,64}$")]


def checked_name(name: str) -> str:
    """Return a gallery or process name that is valid in URLs and paths; raises `ValueError`."""
    if not NAME.fullmatch(name):
        raise ValueError(
            f"{name[:80]!r} is no name; use up to 64 letters, digits, dots, dashes and "
            "underscores, beginning with a letter or a digit"
        )
    return name


@frozen_dataclass(frozen=True)
class Group:
    """A group of users whom a proxy signs on, with their rights.

    Attributes:
        gallery: the only gallery they may access; None for all.
    """

    name: Annotated[str, Field(min_length=1, max_length=256)]
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    gallery: str | None = None

    @classmethod
    def read(cls, text: str) -> Group:
        """Read a group such as `guards=query,enroll@lobby`; raises `ValueError`."""
        name, _, rights = text.rpartition("=")
        scopes, _, gallery = rights.partition("@")
        wanted = tuple(scope.strip() for scope in scopes.split(","))
        unknown = sorted(set(wanted) - set(SCOPES))
        if not name.strip() or unknown:
            raise ValueError(
                f"{text.strip()!r} is no group with its rights; write it like "
                f"guards=query,enroll or guards=query@lobby, with scopes of {', '.join(SCOPES)}"
            )
        only = checked_name(gallery.strip()) if gallery.strip() else None
        return cls(nfc(name.strip()), wanted, only)  # type: ignore[arg-type]


class Settings(BaseSettings):
    """All settings; for example, `max_batch` is set by the environment variable `GMN_MAX_BATCH`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        # Compose passes unset variables as empty ones.
        env_ignore_empty=True,
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    artefact: str = "bundled"
    """The model to serve: the name of a shipped artefact, or a file."""
    previous: Annotated[tuple[str, ...], NoDecode] = ()
    """The models with which existing galleries were enrolled, separated by commas. They serve these
    galleries until they are reindexed. A shipped artefact is found without this setting."""
    accept_unserved: bool = False
    """Whether to start although no artefact is there for a gallery, which is then not searched
    until it is reindexed."""
    data_dir: Path = Path("gmn-data")
    """The directory of the galleries, on a disk of this machine. Several services may share it."""
    database_url: str | None = None
    """A database of PostgreSQL 15 or later, such as `postgresql://gmn:password@db/gmn`, which keeps
    the record instead of the data directory, with the extra `postgres`. Several machines may share
    it."""
    database_password_file: Path | None = None
    """A file with the password of PostgreSQL, if `GMN_DATABASE_URL` contains none."""
    database_accept: Annotated[tuple[Durability, ...], NoDecode] = ()
    """Settings that PostgreSQL may have off, separated by commas, because its provider keeps what
    was committed by other means: `fsync`, `full_page_writes`, `synchronous_commit`."""
    redis_url: str | None = None
    """URL of a Redis server, such as `redis://user:password@host:6379/0`; `rediss://` uses TLS.
    With it all processes count the rate of a key together, and announce events. Without it each
    process counts its share of a rate."""
    redis_password_file: Path | None = None
    """A file with the password of Redis, if `GMN_REDIS_URL` contains none."""
    processes: int = Field(1, ge=1, le=64)
    """Number of processes behind the port. They share the data directory, and each has its share of
    the limits. On a GPU each process loads its own copy of the model."""
    host: str = "127.0.0.1"
    """The address to listen on. Any address but loopback requires API keys."""
    port: int = Field(8000, ge=0, le=65535)
    """The port to listen on; 0 takes a free port and prints it."""
    api_keys_file: Path | None = None
    """A file of API keys, in addition to those of `gmn keys`."""
    user_header: HeaderName | None = None
    """The header in which a proxy names the user whom it has signed on, such as `Remote-User`. It
    needs the next three settings."""
    groups_header: HeaderName | None = None
    """The header in which the proxy names the user's groups, such as `Remote-Groups`. The groups in
    `X-Authentik-Groups` are separated by `|`, and those in all other headers by commas."""
    groups: Annotated[tuple[Group, ...], NoDecode] = ()
    """The groups that have rights, separated by semicolons. `guards=query@lobby` gives a group one
    scope in the gallery `lobby` alone, and `staff=query,enroll` two scopes in every gallery."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = ()
    """The addresses of the proxies whose headers are read, separated by commas, such as
    `127.0.0.1, 10.3.0.0/16`."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose web pages may call the service, such as `https://desk.example`; separated by
    commas."""
    device: DeviceName = "auto"
    """`cpu` or `cuda`. `auto` is the device of the record's features, and for a new record the GPU
    if there is one."""
    runtime: RuntimeName = "auto"
    """The runtime that computes the features, `torch` or `openvino`. `auto` is PyTorch on a GPU,
    and on a CPU OpenVINO, unless another runtime takes clearly less processor time when the record
    is first used."""
    dtype: DtypeName = "auto"
    """Number format of the embedder: `float32` or `bfloat16`. `auto` is that of the record, and
    float32 for a new one."""
    max_batch: int | None = Field(None, ge=1, le=1024)
    """Images that PyTorch embeds before other work has its turn, by default 128 on a GPU, in one
    forward pass, and 32 on a CPU. OpenVINO embeds them one by one, several at once."""
    cuda_graphs: bool = False
    """Whether PyTorch on a GPU replays the kernels of a batch from a CUDA graph, which may be
    faster for small batches. It was not measured."""
    gpu_gallery_share: Share = 0.5
    """Share of a GPU's memory for the vectors of galleries. The galleries that are searched most
    are copied to the GPU, and the others are searched on the CPU."""
    max_cost: float = Field(352.0, ge=1.0)
    """Upper limit for the cost of all requests in progress, in megapixels. Further requests wait up
    to 5 seconds and are then refused with 429. One key can use at most half of it; a request that
    costs more is refused with 422."""
    decode_threads: PositiveInt = Field(default_factory=lambda: max(2, (os.cpu_count() or 2) - 1))
    """Number of threads that decode images; as many again serve images of more than two megapixels.
    With OpenVINO the threads also embed the images, and there are at least two for each crop that
    it embeds at once."""
    max_image_bytes: PositiveInt = 10 * 1024 * 1024
    """Bytes of one image. A larger image is refused, and the other images of its request are
    not."""
    max_image_pixels: int = Field(16_000_000, ge=64)
    """Width × height of one image. A larger image is refused, and the other images of its request
    are not."""
    max_images_per_request: int = Field(128, ge=1, le=MAX_IMAGES)
    """Images in one request, 200 at most; more are refused with 422."""
    max_body_bytes: PositiveInt = 64 * 1024 * 1024
    """Bytes of one request; more are refused with 413."""
    max_queued_bytes: PositiveInt = 512 * 1024 * 1024
    """Bytes of all request bodies, and of answers above 256 KiB, in memory; more are refused with
    429. One key may hold half."""
    body_timeout_s: PositiveFloat = 30.0
    """Seconds without data after which a request body is refused with 408."""
    min_body_rate: PositiveInt = 64 * 1024
    """Bytes a second. A body that arrives more slowly is refused with 408, after
    `GMN_BODY_TIMEOUT_S`."""
    # With the common limit of 1,024 open files per process this leaves 100 for other files.
    max_connections: PositiveInt = 900
    """Number of connections that are served. Requests on further connections get 503, except for
    `/livez`. Beyond four times this number, or 100 less than the number of files that the process
    may open, connections are closed."""
    quality: QualityPolicy = "warn"
    """What happens when a poor crop is enrolled: it is stored with a warning (`warn`) or refused
    (`refuse`); `off` does not measure quality. A query is never refused for quality."""
    min_crop_height: PositiveInt = QualityLimits.min_height
    """Pixels; a lower crop is `low_resolution`."""
    min_crop_width: PositiveInt = QualityLimits.min_width
    """Pixels; a narrower crop is `low_resolution`."""
    min_crop_sharpness: Share = QualityLimits.min_sharpness
    """Contrast between neighbouring pixels, relative to the contrast over four pixels, at a height
    of 64 rows; below it a crop is `blurred`."""
    min_crop_brightness: Share = QualityLimits.min_brightness
    """A crop is `dark` if the 90th percentile of its luma (0 to 1) is below this value."""
    max_crop_shadow: Share = QualityLimits.max_shadow
    """A crop is `overexposed` if the 10th percentile of its luma (0 to 1) is above this value."""
    min_crop_aspect: NonNegativeFloat = QualityLimits.min_aspect
    """Height divided by width; below it a crop is `not_person_shaped`."""
    max_crop_aspect: PositiveFloat = QualityLimits.max_aspect
    """Height divided by width; above it a crop is `not_person_shaped`."""
    keep_images: KeepImages = "original"
    """What is stored of an enrolled image: its file (`original`), a JPEG at most 256 pixels high
    (`thumbnail`), or nothing (`none`). A reindex needs the image."""
    keep_metadata: bool = False
    """Whether stored images keep what is in their files beside pixels, colour profile and
    orientation: the place, the time and the device of a photo, a thumbnail, and texts."""
    images_url: str | None = None
    """An fsspec URL where images are stored outside the record, such as `file:///srv/crops`, or
    `s3://bucket/crops` with the extra `s3`."""
    index_url: str | None = None
    """A Milvus server, such as `http://user:password@milvus:19530`, which searches instead of this
    process. Use it for galleries that are too large for the memory of the process."""
    import_dir: Path | None = None
    """The folder whose sub-folders an import may read. A key for all galleries may name any of
    them; a key for one gallery only the sub-folder with the name of that gallery, and folders
    inside it."""
    max_import_bytes: PositiveInt = 8 * 1024**3
    """Bytes of an uploaded archive, and also of its unpacked content."""
    reserved_disk_bytes: NonNegativeInt = 64 * 1024 * 1024
    """Disk space of the data directory that is reserved for deletions, in bytes. Half of it, at
    most 256 MiB, is taken by the file `reserve`. With less free space new data are refused with
    507, with less than three quarters of it also searches that the audit log records. Deletions go
    on."""
    kept_queries: NonNegativeInt = 10_000
    """Number of searches with `keep=true` that a gallery keeps. The oldest ones outside cases are
    removed first. 0 keeps none."""
    kept_days: int = Field(7, ge=1, le=36_500)
    """Days after which a kept search is deleted, unless a case holds it. A shorter retention of the
    gallery applies to it too."""
    webhook_private: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts and networks in private networks to which webhooks may lead, also by http, separated by
    commas, such as `homeassistant.local, 192.168.1.0/24`. `true` stands for every private address,
    by https alone, and for each name of this machine."""
    audit_queries: bool = True
    """Whether the audit log records searches and views of images."""
    audit_max_bytes: int = Field(16 * 1024 * 1024, ge=4096)
    """Bytes of one audit log file, after which the next file begins."""
    housekeeping_seconds: PositiveFloat = 3600.0
    """Seconds between two rounds of maintenance. Maintenance deletes expired crops and exports."""
    stall_seconds: PositiveFloat = 120.0
    """If a part of the service has work and makes no progress for this many seconds, `/livez`
    answers 503 and the process ends."""
    backup_dir: Path | None = None
    """The folder in which the service writes backups of the record and its images by itself. It
    should be on another disk. Processes that share a record share it too."""
    backup_every: float = Field(24.0, gt=0, le=876_000)
    """Hours from one backup to the next."""
    backup_keep: PositiveInt = 7
    """Number of backups that are kept. The oldest is removed once a new one has been read back and
    verified."""
    log_level: LogLevel = "info"
    """Level of the log on standard error: `debug`, `info`, `warning` or `error`. Health checks and
    scrapes that are answered with 200 are of level `debug`."""
    log_format: LogFormat = "auto"
    """Lines of the log: JSON objects (`json`), or a text for people (`text`). `auto` is the text if
    standard error is a terminal, and otherwise JSON."""

    _given: Settings | None = None

    @model_validator(mode="before")
    @classmethod
    def _leave_out_link(cls, values: dict[str, Any]) -> dict[str, Any]:
        # A link to a Service named `gmn` has the name of the setting GMN_PORT.
        is_link = LINK_ADDRESS.fullmatch(str(values.get("port")))
        return {name: value for name, value in values.items() if not (is_link and name == "port")}

    @field_validator("groups", mode="before")
    @classmethod
    def _read_groups(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        groups = tuple(Group.read(text) for text in value.split(";") if text.strip())
        if len({group.name for group in groups}) < len(groups):
            raise ValueError("a group is there twice; write its rights once")
        return groups

    @field_validator("trusted_proxies")
    @classmethod
    def _require_networks(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            if not _is_network(proxy):
                raise ValueError(
                    f"{proxy!r} is no address or network; write it like 127.0.0.1 or 10.3.0.0/16"
                )
        return proxies

    @field_validator(
        "previous",
        "cors_origins",
        "database_accept",
        "trusted_proxies",
        "webhook_private",
        mode="before",
    )
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        given = value.split(",") if isinstance(value, str) else value
        return tuple(text.strip() for text in given if text.strip())

    @field_validator("webhook_private")
    @classmethod
    def _require_hosts(cls, entries: tuple[str, ...]) -> tuple[str, ...]:
        if len(entries) == 1:
            with contextlib.suppress(ValidationError):
                return EVERY_PRIVATE if FLAG.validate_python(entries[0]) else ()
        for entry in entries:
            if not (_is_network(entry) or HOST.fullmatch(entry)):
                raise ValueError(
                    f"{entry!r} is no host or network; write it like homeassistant.local, "
                    "192.168.1.5 or 192.168.1.0/24, without http:// and without a port"
                )
        return entries

    @field_validator("cors_origins")
    @classmethod
    def _require_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin; write it like https://desk.example:8443, several "
                    "with commas between"
                )
        return origins

    @model_validator(mode="after")
    def _require_consistency(self) -> Self:
        if self.database_url and self.backup_dir:
            raise ValueError(
                "backup_dir is for a record in the data directory; back PostgreSQL up by its own "
                "tools and leave it out"
            )
        sign_on = ("user_header", "groups_header", "groups", "trusted_proxies")
        missing = [PREFIX + name.upper() for name in sign_on if not getattr(self, name)]
        if 0 < len(missing) < len(sign_on):
            raise ValueError(
                f"{' and '.join(missing)}: missing; users are signed on by a proxy with all of "
                f"{', '.join(PREFIX + name.upper() for name in sign_on)}, or with none"
            )
        for group in self.groups:
            if self.groups_separator in group.name:
                raise ValueError(
                    f"groups: the name {group.name!r} has {self.groups_separator!r}, which "
                    f"separates groups in the header {self.groups_header}, so that no user can be "
                    "in it; rename the group at the provider, and here"
                )
        for low, high, why in (
            ("max_body_bytes", "max_queued_bytes", "a full body could never be received"),
            ("min_crop_aspect", "max_crop_aspect", "no crop could pass"),
        ):
            lower = getattr(self, low)
            upper = getattr(self, high)
            if lower > upper:
                raise ValueError(
                    f"{low} ({lower:g}) is above {high} ({upper:g}), so that {why}; lower the "
                    "first or raise the second"
                )
        return self

    @property
    def groups_separator(self) -> str:
        """The only character that separates groups in the header of the groups."""
        return "|" if (self.groups_header or "").lower() == AUTHENTIK_GROUPS else ","

    @property
    def database_with_password(self) -> str | None:
        """`database_url` with the password of its file; raises `InputProblem`."""
        return self.database_url and self.with_database_password(self.database_url)

    def with_database_password(self, url: str) -> str:
        """Return the URL of a database with the password of `database_password_file`.

        Raises:
            InputProblem: the file cannot be read.
        """
        if self.database_password_file is None or WITH_PASSWORD.match(url):
            return url
        password = read_password("GMN_DATABASE_PASSWORD_FILE", self.database_password_file)
        if "://" not in url:
            # A list such as `host=db user=gmn`.
            quoted = password.replace("\\", "\\\\").replace("'", "\\'")
            return f"{url} password='{quoted}'"
        mark = "&" if "?" in url else "?"
        return f"{url}{mark}password={quote(password, safe='')}"

    @property
    def of_one_process(self) -> Settings:
        # Each process receives a full body and has a connection, however small its share is.
        queued_bytes = max(self.max_body_bytes, self.max_queued_bytes // self.processes)
        shares = {
            "max_cost": self.max_cost / self.processes,
            "gpu_gallery_share": self.gpu_gallery_share / self.processes,
            "max_queued_bytes": queued_bytes,
            "max_connections": max(1, self.max_connections // self.processes),
        }
        share = self.model_copy(update=shares)
        share._given = self
        return share

    @property
    def given(self) -> Settings:
        """Return the settings as they were given, for all processes together."""
        return self._given or self

    def batch_limit(self, device: str) -> int:
        """Return the number of images in a batch on a device, `cpu` or `cuda:0`."""
        return self.max_batch or (CPU_BATCH if device == "cpu" else GPU_BATCH)

    @property
    def quality_limits(self) -> QualityLimits:
        # The variable of `min_height` is `GMN_MIN_CROP_HEIGHT`.
        given = {
            field.name: getattr(self, field.name.replace("_", "_crop_", 1))
            for field in fields(QualityLimits)
        }
        return QualityLimits(**given)


def _is_network(text: str) -> bool:
    try:
        ip_network(text)
    except ValueError:
        return False
    return True


def read_password(setting: str, file: Path) -> str:
    """Read the file that a setting names; raises `InputProblem`."""
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputProblem(
            f"{setting}={file}: cannot be read ({error}); name a text file that this user may read"
        ) from error


def read_settings(**overrides: Any) -> Settings:
    """Read settings from the environment, overridden by arguments; raises `InputProblem`."""
    _refuse_unknown_names()
    values = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise InputProblem("; ".join(_explain(entry) for entry in error.errors())) from error


def service_links(variables: Mapping[str, str]) -> list[str]:
    """Return the names of variables that Kubernetes or Docker set for a service named `gmn`."""
    return sorted(name for name, value in variables.items() if _is_link(name, value))


def describe_links(links: Iterable[str]) -> str:
    return (
        f"ignored {', '.join(links)}: links that Kubernetes or Docker set for a service named gmn, "
        "no settings; enableServiceLinks: false in the pod, or a service of another name, keeps "
        "them away"
    )


def _is_link(name: str, value: str) -> bool:
    if not name.startswith(PREFIX):
        return False
    if name.endswith("_PORT") and LINK_ADDRESS.fullmatch(value):
        return True
    if name.endswith("_NAME") and LINK_ALIAS.fullmatch(value):
        return True
    return LINK_NAME.fullmatch(name) is not None


def _refuse_unknown_names() -> None:
    settings = {PREFIX + name.upper() for name in Settings.model_fields}
    known = settings | NAMES_OF_OTHERS | set(service_links(os.environ))
    for name in sorted(os.environ):
        if not name.startswith(PREFIX) or name in known or name.startswith(PREFIXES_OF_OTHERS):
            continue
        close = difflib.get_close_matches(name, settings, 1)
        hint = f"did you mean {close[0]}" if close else f"known are {', '.join(sorted(settings))}"
        raise InputProblem(f"{legible(name)}: there is no such setting; {hint}? Unset or rename it")


def _explain(error: Any) -> str:
    reason = describe_reason(error)
    if not error["loc"]:
        return reason
    name = PREFIX + str(error["loc"][0]).upper()
    if name.endswith("_URL"):
        # It may contain a password.
        return f"{name}: {reason}; set another value or unset it"
    return f"{name}: {reason}, but it is {error['input']!r}; set another value or unset it"
