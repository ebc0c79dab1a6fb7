"""`gmn doctor`: checks everything the service needs, before a start or while it runs."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.filesize import decimal as size

from model.problems import InputProblem
from service.commands.common import DataDirOption, Shown, printed, table_of
from service.commands.store import has_record

if TYPE_CHECKING:
    from service.record.database import Database
    from service.settings import Settings

State = Literal["ok", "warning", "error"]
Findings = Iterator[tuple[State, str]]
# A disk with less than this share of free space, a key that expires within this time, and a backup
# older than this multiple of the interval between backups are warned of.
SMALL_DISK_SHARE = 0.1
KEY_ENDS_SOON = timedelta(days=14)
BACKUP_IS_OLD = 1.5
# adjtimex (sys/timex.h) returns this for an unsynchronised clock; its struct has 208 bytes.
TIME_ERROR = 5
TIMEX_BYTES = 512


@dataclass(frozen=True)
class Finding:
    """A finding: an `error` keeps the service from working, a `warning` may do so later."""

    part: str
    state: State
    text: str


@printed
def doctor(
    data_dir: DataDirOption | None = None,
    strict: bool = False,
) -> Shown:
    """Checks settings, disk, open files, clock, record, keys, backups, device and artefact.

    It reads the service's environment variables and may run beside it; it changes nothing. The exit
    status is 1 if there is an error. Use gmn store verify to check every crop as well.

    Example: gmn doctor --data-dir ./gmn-data

    Args:
        strict: exit with 1 on a warning too.
    """
    findings = list(_examine(data_dir))
    failing = {"error", "warning"} if strict else {"error"}
    ok = not any(finding.state in failing for finding in findings)
    table = table_of(findings, {"": "state", "part": "part", "finding": "text"})
    return Shown({"ok": ok, "findings": findings}, table, ok)


def _examine(data_dir: Path | None) -> Iterator[Finding]:
    from service.record.verify import StoredRecord
    from service.settings import read_settings

    try:
        settings = read_settings(data_dir=data_dir)
    except InputProblem as problem:
        yield Finding("settings", "error", str(problem))
        return
    yield Finding("settings", "ok", "every GMN_… name is known, and the values fit each other")
    database = None
    try:
        if has_record(settings.data_dir):
            database = StoredRecord(settings.data_dir)
    except InputProblem as problem:
        yield Finding("record", "error", str(problem))
    with contextlib.closing(database) if database else contextlib.nullcontext():
        for check in (_disk, _files, _clock, _record, _keys, _backups, _device, _artefact):
            part = check.__name__.strip("_")
            try:
                for state, text in check(settings, database):
                    yield Finding(part, state, text)
            except (InputProblem, OSError) as problem:
                yield Finding(part, "error", str(problem))


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
    from service.commands.processes import require_open_files

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
    from service.record.database import require_new
    from service.record.galleries import Galleries

    if database is None:
        if not has_record(settings.data_dir):
            require_new(settings.data_dir)
            yield "ok", "there is none yet; the first start makes one"
        return
    galleries = Galleries(database).all()
    crops = sum(gallery.crops for gallery in galleries)
    yield "ok", f"{len(galleries)} galleries with {crops:,} crops, {size(database.stored_bytes())}"


def _keys(settings: Settings, database: Database | None) -> Findings:
    from service.http.keys import NO_KEY, is_loopback, read_key_file
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
    from service.record.restoring import own_backups, taken_at

    if settings.backup_dir is None:
        yield "warning", "GMN_BACKUP_DIR is not set: the service makes no backups by itself"
    elif not _may_write(existing := _existing(settings.backup_dir.resolve())):
        yield "error", f"{existing} cannot be written by this user; set GMN_BACKUP_DIR"
    else:
        kept = list(own_backups(settings.backup_dir, database)) if database else []
        hours = (datetime.now(UTC) - taken_at(kept[0])).total_seconds() / 3600 if kept else None
        same = settings.data_dir.exists() and settings.backup_dir.exists()
        if same and settings.data_dir.stat().st_dev == settings.backup_dir.stat().st_dev:
            yield "warning", f"{settings.backup_dir} is on the disk of the data; name another one"
        if hours is None or hours > BACKUP_IS_OLD * settings.backup_every:
            age = "there is none yet" if hours is None else f"the last one is {hours:.0f} hours old"
            yield "warning", f"{settings.backup_dir}: {age}"
        else:
            yield "ok", f"{len(kept)} in {settings.backup_dir}, the last {hours:.1f} hours old"


def _device(settings: Settings, _: Database | None) -> Findings:
    from model.precision import choose_device_name

    device = choose_device_name(settings.device)
    if device != "cpu":
        import torch

        free, total = torch.cuda.mem_get_info(device)
        yield "ok", f"{torch.cuda.get_device_name(device)}, {size(free)} of {size(total)} free"
    else:
        yield "ok", f"the CPU, {os.cpu_count()} cores"


def _artefact(settings: Settings, database: Database | None) -> Findings:
    from model.artefact import load_artefact, read_description, resolve_artefact, shipped_artefacts
    from service.record.galleries import Galleries

    shipped = shipped_artefacts().values()
    known = {read_description(path).embedding_fingerprint for path in shipped}
    for name in filter(None, (settings.artefact, settings.previous)):
        stored = load_artefact(resolve_artefact(name)).description
        known.add(stored.embedding_fingerprint)
        terms = " ".join(stored.provenance.terms.split())
        yield "ok", f"{name} is as it was written ({stored.artefact_fingerprint[:12]}); {terms}"
    galleries = Galleries(database).all() if database else []
    others = [
        gallery.name
        for gallery in galleries
        if gallery.crops and gallery.embedding_fingerprint not in known
    ]
    if others:
        text = f"filled by an artefact that is not named: {', '.join(others)}"
        yield "warning", f"{text}; set GMN_PREVIOUS to it, or reindex them"
