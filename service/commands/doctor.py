"""`gmn doctor`: checks everything the service needs, before a start or while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from gmn_client import Client, RequestRefused
from gmn_client.addresses import without_secret
from gmn_client.commands.common import Shown, table_of
from gmn_client.models import Finding
from model.problems import InputProblem
from service.commands.options import DataDirOption, printed

if TYPE_CHECKING:
    from service.record.database import Database
    from service.settings import Settings


@printed
def doctor(
    data_dir: DataDirOption | None = None,
    strict: bool = False,
    url: Annotated[
        str | None, Option("--url", help="A running service to ask instead of looking at files.")
    ] = None,
    api_key: Annotated[
        str | None, Option(envvar="GMN_API_KEY", help="With --url: a key with the scope admin.")
    ] = None,
) -> Shown:
    """Checks settings, disk, files, clock, record, keys, backups, device, artefact and runtime.

    It looks at the files and environment variables of this shell, also beside a running service.
    With --url the running service answers, from anywhere, with its own settings and state. The exit
    status is 1 if there is an error. Use gmn store verify to check every crop as well.

    Example: gmn doctor --data-dir ./gmn-data

    Args:
        strict: exit with 1 on a warning too.
    """
    findings = list(_examine_files(data_dir)) if url is None else _ask(url, api_key)
    failing = {"error", "warning"} if strict else {"error"}
    ok = not any(finding.state in failing for finding in findings)
    table = table_of(findings, {"": "state", "part": "part", "finding": "text"})
    return Shown({"ok": ok, "findings": findings}, table, ok)


def _ask(url: str, api_key: str | None) -> list[Finding]:
    with Client(url, api_key) as client:
        try:
            return client.doctor().findings
        except RequestRefused as refusal:
            if refusal.problem.status not in (401, 403):
                raise
            raise InputProblem(
                f"{without_secret(url)}: {refusal.problem.detail}; --url needs a key with "
                "the scope admin for every gallery, in --api-key or GMN_API_KEY"
            ) from refusal


def _examine_files(data_dir: Path | None) -> Iterator[Finding]:
    from service.checks import examine, examine_runtime
    from service.settings import read_settings

    try:
        settings = read_settings(data_dir=data_dir)
    except InputProblem as problem:
        yield Finding(part="settings", state="error", text=str(problem))
        return
    text = "every GMN_… name is known, and the values fit each other"
    yield Finding(part="settings", state="ok", text=text)
    is_served = _is_served(settings.data_dir)
    if is_served:
        text = (
            f"a service runs on {settings.data_dir.resolve()}; all of this is about the files and "
            "the environment of this shell, which may differ from the service's: gmn doctor --url "
            "with the address that its start printed (Serving on …) asks the service itself"
        )
        yield Finding(part="service", state="ok", text=text)
    database: Database | None = None
    is_unread = False
    try:
        database = _open_untouched(settings)
    except InputProblem as problem:
        is_unread = True
        yield Finding(part="record", state="error", text=str(problem))
    with contextlib.closing(database) if database else contextlib.nullcontext():
        yield from examine(settings, database, is_unread)
        if not is_unread:
            yield from examine_runtime(settings, database, is_served)


def _open_untouched(settings: Settings) -> Database | None:
    from service.ops.data_directory import require_permission
    from service.store.verify import UntouchedRecord, has_record

    require_permission(settings.data_dir, changes=False)
    if url := settings.database_with_password:
        # An optional dependency.
        from service.postgres.stored import open_stored_postgres

        return open_stored_postgres(settings.data_dir, url, settings.database_accept)
    return UntouchedRecord(settings.data_dir) if has_record(settings.data_dir) else None


def _is_served(data_dir: Path) -> bool:
    from service.ops.data_directory import LOCK, hold

    try:
        with hold(data_dir / LOCK):
            return False
    except BlockingIOError:
        return True
    except OSError:
        # There is no lock before the first start, and another user's may be unreadable.
        return False
