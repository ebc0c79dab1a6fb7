"""`gmn keys`: creates, lists, rotates and revokes API keys, also while the service runs."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

from typer import Option, echo

from gmn_client import DEFAULT_GALLERY
from gmn_client.commands.common import Columns, Shown, table_of
from gmn_client.commands.parameters import command_group
from model.problems import InputProblem
from service.commands.options import DEFAULT_DATA_DIR, DataDirOption, printed, with_options
from service.store.command import database_url, open_audit, open_record, require_record

if TYPE_CHECKING:
    from service.ops.audit import Phase
    from service.record.record import Record

MAX_DAYS = 36_500
MAX_HOURS = 24 * MAX_DAYS
DaysOption = Annotated[
    int | None,
    Option(
        min=1,
        max=MAX_DAYS,
        help="Days from now after which it is refused; if unset never, or a rotated key as before.",
    ),
]
KEY_COLUMNS: Columns = {
    "key": "key_id",
    "scopes": lambda key: ", ".join(key.scopes),
    "gallery": lambda key: key.gallery or "every",
    "learns": "learn",
    "rate": "rate",
    "of images": "rate_images",
    "created (UTC)": "created_at",
    "expires (UTC)": "expires_at",
    "last used (UTC)": "last_used_at",
    "note": "note",
}

keys = command_group(
    """Makes, lists, rotates and revokes API keys.

    As soon as there is one, the service asks for one. What is made or revoked here counts within a
    second, also with services that run on the same data directory.

    Example: gmn keys create --scope query,enroll
    """
)


class KeyOptions(TypedDict, total=False):
    """Rights of a key.

    Attributes:
        gallery: the only gallery that it is for.
        note: whom it is for; listed, never sent.
        learn: whether its searches count for the calibration of the galleries.
        rate_images: whether the rate counts images in place of requests.
    """

    gallery: str
    note: str
    learn: bool
    expires_days: DaysOption
    rate: Annotated[
        int, Option(min=1, help="Requests a minute over all processes; any number if unset.")
    ]
    rate_images: bool


@keys.command("create")
@with_options
def create(
    *,
    scope: list[str],
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
    **fields: Unpack[KeyOptions],
) -> None:
    """Creates a key and prints it, only this once, as the last word of the output.

    Example: gmn keys create --scope query --gallery entrance --note "front desk"

    Args:
        scope: query, enroll, sight, delete, metrics or admin; several with commas.
    """
    from service import api_keys
    from service.ops.data_directory import make_folder
    from service.settings import checked_name

    scopes = api_keys.chosen_scopes(scope)
    try:
        checked_name(fields.get("gallery", DEFAULT_GALLERY))
    except ValueError as error:
        raise InputProblem(f"--gallery: {error}") from error
    key, text = api_keys.create_key(scopes=scopes, **fields)
    # The audit log names a directory that cannot be made.
    with contextlib.suppress(OSError):
        make_folder(data_dir)
    names = ",".join(scopes)
    with _audited(
        data_dir, "create_key", key_id=key.key_id, scopes=names, gallery=key.gallery
    ) as record:
        others = record.keys.all()
        # A service that reads the file reports its errors.
        if file := os.environ.get("GMN_API_KEYS_FILE"):
            others += api_keys.read_key_file(Path(file))[0] or []
        record.keys.add(key)
        galleries = {gallery.name for gallery in record.galleries.all()}
    for warning in api_keys.warnings_about(key, others, galleries):
        echo(warning, err=True)
    where = f"gallery {key.gallery}" if key.gallery else "every gallery"
    until = f", until {key.expires_at:%Y-%m-%d %H:%M} UTC" if key.expires_at else ""
    place = "PostgreSQL (GMN_DATABASE_URL)" if database_url(data_dir) else data_dir.resolve()
    echo(
        f"Key {key.key_id}: {', '.join(key.scopes)}, {where}{until}, kept as a hash in {place}. "
        f"It is shown this once: {text}"
    )


@keys.command("list")
@printed
def list_keys(data_dir: DataDirOption = DEFAULT_DATA_DIR) -> Shown:
    """Lists the keys without their secrets, oldest first.

    A running service records the use of a key within a minute.

    Example: gmn keys list --data-dir ./gmn-data
    """
    from gmn_client.models import Key

    require_record(data_dir)
    with open_record(data_dir) as record:
        used = record.keys.last_used()
        listed = [Key(**vars(key), last_used_at=used.get(key.key_id)) for key in record.keys.all()]
        asks = record.keys.asked_for
    nothing = "There is no key; the service answers on loopback only, and asks for none."
    if asks:
        nothing = "There is no key left, and every call needs one; gmn keys create makes one."
    return Shown(listed, table_of(listed, KEY_COLUMNS) if listed else nothing)


@keys.command("rotate")
@with_options
def rotate(
    key_id: str,
    grace: Annotated[
        float, Option(min=0, max=MAX_HOURS, help="Hours for which the former secret stays valid.")
    ] = 24.0,
    expires_days: DaysOption = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Gives a key a new secret, printed only this once as the last word; all else stays.

    Example: gmn keys rotate 1f0c9a72be44 --grace 48

    Args:
        key_id: which key; see gmn keys list.
    """
    from service.api_keys import with_new_secret
    from service.errors import UnknownKey

    now = datetime.now(UTC)
    public_id = _parse_key_id(key_id)
    until = now + timedelta(hours=grace) if grace else None
    require_record(data_dir)
    with open_record(data_dir) as record:
        former = {key.key_id: key for key in record.keys.all()}.get(public_id)
    if former is None:
        raise UnknownKey(public_id)
    key, text = with_new_secret(former, until)
    if expires_days:
        key = replace(key, expires_at=now + timedelta(expires_days))
    with _audited(data_dir, "rotate_key", key_id=public_id) as record:
        if not record.keys.change(key):
            raise UnknownKey(public_id)
    end = f"is valid until {until:%Y-%m-%d %H:%M} UTC" if until else "is refused from now on"
    echo(f"Key {public_id}: the former secret {end}. The new one is shown this once: {text}")


@keys.command("revoke")
@with_options
def revoke(
    key_id: str,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Revokes a key; the service refuses it within a second.

    Example: gmn keys revoke 1f0c9a72be44

    Args:
        key_id: which key; see gmn keys list.
    """
    from service.errors import UnknownKey

    public_id = _parse_key_id(key_id)
    require_record(data_dir)
    with _audited(data_dir, "revoke_key", key_id=public_id) as record:
        if not record.keys.revoke(public_id):
            raise UnknownKey(public_id)
        left = len(record.keys.all())
    echo(f"Key {public_id} is revoked; {left} left.")
    if not left:
        echo(
            "Without any key everyone on the machine may use a service on loopback, and one on "
            "another address refuses every call; make one with gmn keys create.",
            err=True,
        )


def _parse_key_id(given: str) -> str:
    from service.api_keys import KEY_TEXT
    from service.record.keys import KEY_ID

    match = KEY_TEXT.fullmatch(given)
    public_id = match[1] if match else given
    if not re.fullmatch(KEY_ID, public_id):
        # It may be most of a complete key, which must not appear in a message.
        raise InputProblem(
            "KEY_ID: what was given is no id of a key, which has up to 32 letters and digits; see "
            "gmn keys list"
        )
    return public_id


@contextlib.contextmanager
def _audited(data_dir: Path, event: str, **details: Any) -> Iterator[Record]:
    """Open the record for a change that is logged in the audit log before and after."""
    with open_audit(data_dir) as audit, open_record(data_dir) as record:
        audit.record(event, "asked", **details)
        phase: Phase = "failed"
        try:
            yield record
            phase = "done"
        finally:
            audit.record(event, phase, **details)
