"""Checks of the needs of the service, such as disk, clock, record, keys, artefact and runtime.

`gmn doctor` makes them with the files and the environment of its shell. `GET /v1/doctor` makes them
with those of the running service, and adds the state of the service.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal as size

from gmn_client.addresses import without_secret
from gmn_client.models import Finding, FindingState
from model.problems import InputProblem
from model.wording import counted
from service.settings import COLLECTOR_VARIABLES, PREFIX, Settings, describe_links, service_links

if TYPE_CHECKING:
    from model.artefact import Description
    from model.runtimes import EmbeddingRuntime
    from service.engine.runtimes import RuntimeChoice
    from service.gallery.registry import GalleryRegistry
    from service.index.placement import DevicePlacement
    from service.record.database import Database
    from service.record.record import Record
    from service.runtime import Runtime

# Upper bound on the damaged crops of a gallery that are named.
DAMAGE_SHOWN = 10
Findings = Iterator[tuple[FindingState, str]]
# A disk with less than this share of free space, a key that expires within this time, and a backup
# older than this multiple of the interval between backups are warned of.
SMALL_DISK_SHARE = 0.1
KEY_ENDS_SOON = timedelta(days=14)
BACKUP_IS_OLD = 1.5
# Locks for which requests wait, beside those of the galleries' exports.
LOCKS = ("record.lock", "audit.lock")
# A writer without progress, or an index behind the record, for longer than this is warned of.
SLOW_SECONDS = 10.0
# The message of the last backup that failed, in the data directory; a later backup removes it.
FAILED_BACKUP = "backup.failed"
# adjtimex (sys/timex.h) returns this for an unsynchronised clock; its struct has 208 bytes.
TIME_ERROR = 5
TIMEX_BYTES = 512
# The service holds 40 files open by itself, and keeps 100 from its connections for such. With fewer
# than this it would serve only some of the connections that a proxy opens.
LEAST_OPEN_FILES = 256


def examine(
    settings: Settings, database: Database | None, is_unread: bool = False
) -> Iterator[Finding]:
    """Check the needs of a service with these settings; blocks.

    Args:
        database: the record; None if there is none or it cannot be opened.
        is_unread: the record cannot be opened, so that it and its keys are not checked.
    """
    for check in (_disk, _files, _clock, _record, _locks, _keys, _backups, _device, _artefact):
        if is_unread and check in (_record, _keys):
            continue
        part = check.__name__.strip("_")
        try:
            for state, text in check(settings, database):
                yield Finding(part=part, state=state, text=text)
        except (InputProblem, OSError) as problem:
            yield Finding(part=part, state="error", text=str(problem))


def examine_running(runtime: Runtime) -> list[Finding]:
    """Check a running service: its settings, its state and its needs; blocks."""
    given = describe_settings(runtime.settings, only_given=True)
    texts = [f"{name}={value}" for name, value in given.items()]
    settings = f"other than the defaults: {', '.join(texts)}" if texts else "all are the defaults"
    findings = [Finding(part="settings", state="ok", text=settings)]
    if links := service_links(os.environ):
        findings.append(Finding(part="settings", state="ok", text=describe_links(links)))
    findings += [
        Finding(part="service", state=state, text=text) for state, text in _service(runtime)
    ]
    findings += [
        Finding(part="runtime", state=state, text=text) for state, text in _runtime_in_use(runtime)
    ]
    return [*findings, *examine(runtime.settings, runtime.record.database)]


def examine_runtime(
    settings: Settings, database: Database | None, is_served: bool
) -> Iterator[Finding]:
    """Check the runtime that the record keeps for the features; blocks for a few seconds.

    Args:
        database: the record; None if there is none or it cannot be opened.
        is_served: a service uses the record, so that its processor is not used to measure.
    """
    try:
        for state, text in _stored_runtime(settings, database, is_served):
            yield Finding(part="runtime", state=state, text=text)
    except (InputProblem, OSError) as problem:
        yield Finding(part="runtime", state="error", text=str(problem))


def describe_settings(settings: Settings, only_given: bool = False) -> dict[str, Any]:
    """Return the settings by their variables; URLs without the passwords that they may contain.

    Args:
        only_given: leave out settings that have their defaults.
    """
    settings = settings.given
    names = settings.model_fields_set if only_given else type(settings).model_fields
    values = settings.model_dump(mode="json")
    return {
        f"{PREFIX}{name.upper()}": without_secret(values[name])
        if name.endswith("_url") and values[name]
        else values[name]
        for name in type(settings).model_fields
        if name in names
    }


def _service(runtime: Runtime) -> Findings:
    galleries = runtime.galleries
    model = runtime.model
    fingerprint = model.description.artefact_fingerprint[:12]
    yield (
        "ok",
        f"process {os.getpid()} serves {model.name} ({fingerprint}) on {model.networks.device}",
    )
    if trouble := runtime.watchdog.trouble:
        yield "error", f"{trouble}; this process is about to end"
    record = galleries.record_state
    if not record.up:
        yield "error", "the record does not respond, so that nothing is stored; look at its disk"
    elif record.lag_seconds > SLOW_SECONDS:
        lag = counted(record.lag, "commit of the record is", "commits of the record are")
        text = f"{lag} not shown for {record.lag_seconds:.0f} s"
        yield "warning", f"{text}; look at the load of the machine and its disk"
    else:
        yield "ok", f"the record responds ({record.state}), {counted(record.lag, 'commit')} behind"
    yield from _damage(runtime.record, runtime.galleries)
    for gallery_id, count in runtime.doubtful.counts().items():
        if gallery := galleries.by_id(gallery_id):
            yield (
                "ok",
                f"{counted(count, 'doubtful crop')} in gallery {gallery.name}: gmn doubtful "
                f"--gallery {gallery.name} lists them",
            )
    yield from _watch_lists(runtime)
    silent = galleries.writer_silent_seconds()
    text = counted(galleries.waiting_writes, "write waits", "writes wait")
    if silent > SLOW_SECONDS:
        text = f"{text}, and the one in progress is silent for {silent:.0f} s"
        yield "warning", f"{text}; look at the load of the disk of {runtime.settings.data_dir}"
    else:
        yield "ok", text
    if runtime.placement:
        yield "ok", _describe_placement(galleries, runtime.placement)
    if not runtime.audit.is_writable:
        yield "error", "lines of the audit log cannot be written, so that searches are refused"
    if not runtime.index_up:
        yield "error", "Milvus cannot be searched or written; see GMN_INDEX_URL and its log"
    if runtime.shared is not None and not runtime.shared.is_up:
        text = "Redis does not respond: each process counts its share of the rates, and there are"
        yield "warning", f"{text} no events; see GMN_REDIS_URL and its log"


def _watch_lists(runtime: Runtime) -> Findings:
    for gallery_id, held in runtime.watch.lists.find_impaired().items():
        if gallery := runtime.galleries.by_id(gallery_id):
            about = f"the watch list {gallery.name}"
            if held.active is None:
                yield "error", f"{about} is armed, and nothing is compared with it: {held.why}"
            else:
                yield "warning", f"{about} is not compared as it should be: {held.why}"


def _describe_placement(galleries: GalleryRegistry, placement: DevicePlacement) -> str:
    indexes = [gallery.own_index for gallery in galleries.all() if gallery.own_index]
    on_device = [index.device_bytes for index in indexes if index.device_bytes]
    return (
        f"{len(on_device)} of {counted(len(indexes), 'gallery', 'galleries')} searched on the GPU, "
        f"taking {size(sum(on_device))} of {size(placement.budget_bytes)} "
        "(GMN_GPU_GALLERY_SHARE); the others are small, being copied, or without room there"
    )


def _damage(record: Record, galleries: GalleryRegistry) -> Findings:
    for gallery_id, crop_ids in record.damaged_crops().items():
        gallery = galleries.by_id(gallery_id)
        name = gallery.name if gallery else gallery_id
        shown = ", ".join(crop_ids[:DAMAGE_SHOWN])
        more = f" and {len(crop_ids) - DAMAGE_SHOWN:,} more" if len(crop_ids) > DAMAGE_SHOWN else ""
        yield (
            "error",
            f"{counted(len(crop_ids), 'crop')} of gallery {name} damaged and left out of answers: "
            f"{shown}{more}; delete and enroll them again, or restore a backup, and look at the "
            "disk",
        )
    for problem in record.database.problems:
        yield (
            "error",
            f"the record is damaged: {problem}; see what is whole with gmn store verify, restore "
            "the newest backup, and look at the disk",
        )


def require_open_files() -> None:
    """Raise `InputProblem` if this process may open too few files to answer anything."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < LEAST_OPEN_FILES:
        raise InputProblem(
            f"a process may open {most} files here, and the service needs {LEAST_OPEN_FILES} for "
            "connections, record and indexes; raise the limit with ulimit -n 1024, or with "
            "LimitNOFILE=1024 in its systemd unit"
        )


def require_tracing() -> None:
    """Raise `InputProblem` if a collector is named and spans cannot be sent to it."""
    variable = next(filter(os.environ.get, COLLECTOR_VARIABLES), None)
    if variable is None:
        return
    if not os.environ[variable].startswith(("http://", "https://")):
        # The value may contain a password.
        raise InputProblem(
            f"{variable} begins with neither http:// nor https://; set it to the address "
            "at which the collector takes OTLP by HTTP, such as http://localhost:4318"
        )
    try:
        tracing = import_module("service.ops.tracing")
    except ModuleNotFoundError as error:
        raise InputProblem(
            f"{variable} is set, and OpenTelemetry's exporter is not installed; "
            "pip install 'gmn-reid[otel]', or unset the variable"
        ) from error
    tracing.Tracing().close()


def _disk(settings: Settings, _: Database | None) -> Findings:
    from service.ops.data_directory import left_for_deletions

    folder = settings.data_dir.resolve()
    existing = _existing(folder)
    if not _may_write(existing):
        yield "error", f"{existing} cannot be written by this user; set GMN_DATA_DIR"
    disk = shutil.disk_usage(existing)
    text = f"{size(disk.free)} of {size(disk.total)} free for {folder}"
    if left_for_deletions(existing) < settings.reserved_disk_bytes:
        yield "error", f"{text}, less than GMN_RESERVED_DISK_BYTES: enrollments get 507; free space"
    elif disk.free < SMALL_DISK_SHARE * disk.total:
        yield "warning", f"{text}; free space before enrollments get 507"
    else:
        yield "ok", text


def _files(_settings: Settings, _database: Database | None) -> Findings:
    require_open_files()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = "any number of" if most == resource.RLIM_INFINITY else f"{most:,}"
    yield "ok", f"a process may open {count} files"


def _existing(folder: Path) -> Path:
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def _may_write(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _clock(_settings: Settings, _database: Database | None) -> Findings:
    # With a zeroed struct, adjtimex changes nothing.
    if ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES)) == TIME_ERROR:
        text = "the kernel's clock is not synchronised, and retention and keys go by it"
        yield "warning", f"{text}; run chrony or systemd-timesyncd"
    else:
        yield "ok", f"synchronised; {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _record(settings: Settings, database: Database | None) -> Findings:
    from service.record.galleries import read_filled
    from service.record.sqlite import (
        SQLiteDatabase,
        find_older_copy,
        require_new,
        require_schema,
    )
    from service.record.transaction import Reader
    from service.store.verify import has_record

    if url := settings.database_with_password:
        from service.postgres.connection import examine_server

        yield from examine_server(url, settings.database_accept)
    if database is None:
        if settings.database_url is None:
            if has_record(settings.data_dir):
                return
            require_new(settings.data_dir)
        yield "ok", "there is none yet; the first start makes one"
        return
    if isinstance(database, SQLiteDatabase):
        require_schema(database)
        if older_copy := database.older_copy or find_older_copy(database):
            yield "warning", older_copy
    galleries = read_filled(Reader(database))
    crops = sum(gallery.crops for gallery in galleries)
    contents = f"{counted(len(galleries), 'gallery', 'galleries')} with {counted(crops, 'crop')}"
    yield "ok", f"{contents}, {size(database.stored_bytes())}"


def _locks(settings: Settings, _: Database | None) -> Findings:
    from service.ops.locks import still_holder

    folder = settings.data_dir
    for path in (*(folder / name for name in LOCKS), *folder.glob("locks/*")):
        if holder := still_holder(path):
            yield (
                "error",
                f"{holder} holds {path.relative_to(folder)} and stands still, so that other "
                "processes cannot write; let it go on, as by docker unpause or kill -CONT, or end "
                "it",
            )


def _keys(settings: Settings, database: Database | None) -> Findings:
    from service.api_keys import NO_KEY, is_loopback, read_key_file
    from service.record.keys import Keys, any_administers

    file_keys, problems = read_key_file(settings.api_keys_file)
    for problem in problems:
        yield "error", problem
    now = datetime.now(UTC)
    keys = [*(Keys(database).all() if database else ()), *(file_keys or ())]
    for key in keys:
        if key.expires_at and key.expires_at < now + KEY_ENDS_SOON:
            ends = "ended" if key.expires_at < now else "ends"
            text = f"key {key.key_id} {ends} at {key.expires_at:%Y-%m-%d %H:%M} UTC"
            yield "warning", f"{text}; gmn keys rotate {key.key_id} --expires-days 90 renews it"
    valid = [key for key in keys if not key.expires_at or key.expires_at > now]
    if not valid and not is_loopback(settings.host):
        yield "error", f"no key is valid, and GMN_HOST={settings.host} needs one; gmn keys create"
    elif not valid:
        asks = keys or settings.api_keys_file or (database and Keys(database).asked_for)
        yield "warning", "no key is valid; gmn keys create makes one" if asks else NO_KEY
    elif not any_administers(valid):
        text = "no key has the scope admin for every gallery"
        yield "warning", f"{text}; gmn keys create --scope admin"
    else:
        yield "ok", f"valid: {len(valid)}"


def _backups(settings: Settings, database: Database | None) -> Findings:
    from service.store.backup import own_backups, taken_at

    if settings.database_url:
        yield (
            "ok",
            "the service makes none of a record in PostgreSQL, and does not see those that its own "
            "tools make, such as pg_dump and pgBackRest",
        )
    elif settings.backup_dir is None:
        yield "warning", "GMN_BACKUP_DIR is not set: the service makes no backups by itself"
    elif not _may_write(existing := _existing(settings.backup_dir.resolve())):
        yield "error", f"{existing} cannot be written by this user; set GMN_BACKUP_DIR"
    else:
        kept = list(own_backups(settings.backup_dir, database)) if database else []
        hours = (datetime.now(UTC) - taken_at(kept[0])).total_seconds() / 3600 if kept else None
        same = settings.data_dir.exists() and settings.backup_dir.exists()
        if same and settings.data_dir.stat().st_dev == settings.backup_dir.stat().st_dev:
            yield "warning", f"{settings.backup_dir} is on the disk of the data; name another one"
        if failed := _read_failed_backup(settings.data_dir, taken_at(kept[0]) if kept else None):
            yield "error", failed
        if hours is None or hours > BACKUP_IS_OLD * settings.backup_every:
            age = "there is none yet"
            if hours is not None:
                age = f"the last one is {counted(round(hours), 'hour')} old"
            yield "warning", f"{settings.backup_dir}: {age}"
        else:
            yield "ok", f"{len(kept)} in {settings.backup_dir}, the last {hours:.1f} hours old"


def _read_failed_backup(data_dir: Path, newest: datetime | None) -> str | None:
    """Return the message of the last failed backup, if it is newer than the newest backup."""
    file = data_dir / FAILED_BACKUP
    if not file.is_file():
        return None
    # The name of a backup has whole seconds.
    failed_at = datetime.fromtimestamp(int(file.stat().st_mtime), UTC)
    if newest is not None and newest >= failed_at:
        return None
    message = file.read_text(encoding="utf-8", errors="replace")
    return f"the last try failed at {failed_at:%Y-%m-%d %H:%M} UTC: {message}"


def _device(settings: Settings, _: Database | None) -> Findings:
    from model.precision import (
        HAS_TORCH,
        choose_device_name,
        find_driver_problem,
        read_driver_version,
    )

    device = choose_device_name(settings.device)
    driver = read_driver_version()
    if device != "cpu":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        name = torch.cuda.get_device_name(device)
        yield "ok", f"{name}, {size(free)} of {size(total)} free, driver {driver}"
        return
    yield "ok", f"the CPU, {os.cpu_count()} cores"
    if driver and HAS_TORCH and settings.device == "auto" and (problem := find_driver_problem()):
        yield "warning", f"the GPU is not used: {problem}; update the driver, or set GMN_DEVICE=cpu"


def _stored_runtime(settings: Settings, database: Database | None, is_served: bool) -> Findings:
    from model.artefact import load_artefact, resolve_artefact
    from service.engine.runtimes import build_stored, parse_choice
    from service.record.galleries import Runtimes
    from service.store.verify import has_record

    if database is None and (settings.database_url or has_record(settings.data_dir)):
        # The record cannot be opened, which a finding on it tells.
        return
    artefact = load_artefact(resolve_artefact(settings.artefact))
    embedder = artefact.description.embedding_fingerprint
    stored = Runtimes(database).get(embedder) if database else None
    if stored is None:
        yield "ok", f"none is stored for {settings.artefact}; the next start chooses it"
        return
    choice = parse_choice(stored)
    speed = None
    if choice.device == "cpu" and not is_served:
        embedding, _ = build_stored(artefact, settings, choice)
        speed = _measure_speed(embedding, artefact.description)
    yield _describe_runtime(choice, settings, speed)


def _runtime_in_use(runtime: Runtime) -> Findings:
    model = runtime.model
    speed = None
    # Beside requests a measurement would delay them, and count their processor time.
    if model.runtime.device == "cpu" and not runtime.admission.is_busy:
        try:
            speed = _measure_speed(model.networks.runtime, model.description)
        except RuntimeError as error:
            yield "error", f"{model.runtime.description} fails at a drawn crop: {error}"
            return
    yield _describe_runtime(model.runtime, runtime.settings, speed)


def _measure_speed(embedding: EmbeddingRuntime, description: Description) -> float:
    from model.preprocessing import drawn_patterns
    from service.engine.runtimes import measure_rounds, speed_of

    rounds = measure_rounds({"now": embedding}, drawn_patterns(description.preprocessing))
    return speed_of(rounds, "now")


def _describe_runtime(
    choice: RuntimeChoice, settings: Settings, speed: float | None
) -> tuple[FindingState, str]:
    """Describe the runtime of the features.

    Args:
        speed: crops that it embeds in a second of processor time now; None if not measured.
    """
    from service.engine.runtimes import REMEDY

    chosen_speeds = choice.crops_per_cpu_second
    texts = [f"{choice.description} computes the features"]
    if speed is not None:
        texts.append(f"{speed:g} crops a second of processor time now")
    if choice.name in chosen_speeds:
        measured = ", ".join(f"{name} {chosen:g}" for name, chosen in chosen_speeds.items())
        texts.append(f"when it was chosen: {measured}")
    text = "; ".join(texts)
    could_be_openvino = settings.runtime == "auto" and find_spec("openvino") is not None
    was_compared = any(name.startswith("openvino") for name in chosen_speeds)
    is_torch_on_cpu = choice.runtime == "torch" and choice.device == "cpu"
    if is_torch_on_cpu and could_be_openvino and not was_compared:
        return "warning", f"{text}; it was never compared with OpenVINO: {REMEDY}"
    return "ok", text


def _artefact(settings: Settings, database: Database | None) -> Findings:
    from model.artefact import load_artefact, resolve_artefact
    from model.permitted_use import terms_of_use
    from service.record.galleries import read_filled
    from service.record.transaction import Reader
    from service.required_artefacts import explain_unserved

    for name in (settings.artefact, *settings.previous):
        stored = load_artefact(resolve_artefact(name)).description
        terms = terms_of_use(stored.provenance)
        yield "ok", f"{name} is as it was written ({stored.artefact_fingerprint[:12]}); {terms}"
    galleries = read_filled(Reader(database)) if database else []
    for text in explain_unserved(settings, galleries):
        if settings.accept_unserved:
            yield "warning", f"{text} Until then they are not searched (GMN_ACCEPT_UNSERVED)."
        else:
            yield "error", f"{text} Until then gmn serve starts with --accept-unserved alone."
