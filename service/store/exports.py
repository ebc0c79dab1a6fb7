"""Exports of a gallery: written while it is served, listed, and deleted when they expire."""

from __future__ import annotations

import contextlib
import csv
import logging
import zipfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import ValidationError

from gmn_client.models import Export
from model.crops.texts import nfc
from service.errors import (
    ExportConflict,
    StorageFailed,
    UnknownExport,
    UnknownGallery,
)
from service.gallery.gallery import Gallery
from service.ops.critical_sections import attempt, file_lock
from service.ops.data_directory import (
    EXPORTS,
    STRAY,
    UNFINISHED,
    export_lock,
    failpoint,
    move_aside,
    put_in_place,
    remove_folder,
    require_free_disk,
    sync,
    unfinished_folder,
)
from service.ops.locks import LockHeld
from service.ops.threads import heartbeat
from service.record.values import StoredCrop
from service.runtime import Runtime
from service.settings import Settings
from service.store.export_rows import CONTENT, LISTED, count_in_export, write_export

log = logging.getLogger(__name__)
MOST_EXPORTS = 8


async def make_export(runtime: Runtime, gallery: Gallery, days: int) -> Export:
    """Write an export of a gallery while reads and writes continue.

    Args:
        days: time until it is deleted.

    Raises:
        UnknownGallery: the gallery was deleted.
        ExportConflict: the gallery has too many exports.
        StorageFailed: the disk is full or fails; nothing is left of the export.
    """
    require_free_disk(runtime.settings)
    export_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{token_hex(4)}"

    async def make(result: dict[str, Any]) -> Export:
        if len(await list_exports(runtime, gallery)) >= MOST_EXPORTS:
            raise ExportConflict(gallery.name, MOST_EXPORTS)
        expires_at = datetime.now(UTC) + timedelta(days=days)
        export = await runtime.pools.files.run(_write, runtime, gallery, export_id, expires_at)
        result["export_id"] = export_id
        result["count"] = export.crops
        return export

    lock = export_lock(runtime.settings.data_dir, gallery.gallery_id)
    return await runtime.audited.run("make_export", make, lock, gallery=gallery.name)


async def list_exports(runtime: Runtime, gallery: Gallery) -> list[Export]:
    """Return a gallery's exports that have not expired, oldest first."""
    folder = _folder_of(runtime.settings, gallery.gallery_id)
    exports = await runtime.pools.files.run(_read_exports, folder)
    now = datetime.now(UTC)
    return [export for export in exports if export.expires_at > now]


async def find_export(runtime: Runtime, gallery: Gallery, export_id: str) -> Export:
    """Return an export that has not expired; raises `UnknownExport`."""
    for export in await list_exports(runtime, gallery):
        if export.export_id == export_id:
            return export
    raise UnknownExport(gallery.name, export_id)


def content_path(settings: Settings, gallery: Gallery, export_id: str) -> Path:
    return _folder_of(settings, gallery.gallery_id) / export_id / CONTENT


async def delete_export(runtime: Runtime, gallery: Gallery, export_id: str) -> None:
    """Delete an export; raises `UnknownExport`."""
    export = await find_export(runtime, gallery, export_id)
    await _delete(runtime, gallery, export, "delete_export")


async def delete_expired_exports(runtime: Runtime, gallery: Gallery) -> None:
    folder = _folder_of(runtime.settings, gallery.gallery_id)
    for export in await runtime.pools.files.run(_read_exports, folder):
        if export.expires_at <= datetime.now(UTC):
            deletion = _delete(runtime, gallery, export, "delete_expired_export")
            await attempt(f"deletion of export {export.export_id}", deletion)


async def find_in_exports(
    runtime: Runtime, gallery: Gallery, crop_ids: Sequence[str], identity: str
) -> list[tuple[Export, int | None]]:
    """Return the exports with crops of a person, each with the number of these crops.

    The number is None if the export is damaged. Expired exports count until maintenance has deleted
    them.

    Args:
        crop_ids: crops that are the person's, under whatever name they were exported.
    """
    wanted = set(crop_ids)
    name = nfc(identity)
    found: list[tuple[Export, int | None]] = []
    folder = _folder_of(runtime.settings, gallery.gallery_id)
    for export in await runtime.pools.files.run(_read_exports, folder):
        path = content_path(runtime.settings, gallery, export.export_id)
        count: int | None
        try:
            count = await runtime.pools.files.run(
                count_in_export, path, wanted, lambda other: nfc(other) == name
            )
        except FileNotFoundError:
            # It was deleted in the meantime.
            continue
        except (OSError, ValueError, KeyError, csv.Error, zipfile.BadZipFile) as error:
            log.warning("%s cannot be read: %s", path, type(error).__name__)
            count = None
        if count != 0:
            found.append((export, count))
    return found


def has_unfinished_export(settings: Settings, gallery: Gallery) -> bool:
    folder = _folder_of(settings, gallery.gallery_id)
    return any(path.suffix == UNFINISHED for path in folder.glob("*"))


async def clear_exports(runtime: Runtime) -> None:
    """Remove exports that were cut off, and move unknown files into a folder `stray`.

    A gallery whose lock another process holds, which may be writing an export, is left alone.
    """
    data_dir = runtime.settings.data_dir
    folder = data_dir / EXPORTS
    for path in await runtime.pools.files.run(_list_folder, folder):
        if path.name.isdecimal():
            with contextlib.suppress(LockHeld):
                async with file_lock(export_lock(data_dir, int(path.name)), blocking=False):
                    await runtime.pools.files.run(_clear, path, folder / STRAY)
        elif path.name != STRAY:
            await runtime.pools.files.run(move_aside, path, folder / STRAY, path.name)


async def _delete(runtime: Runtime, gallery: Gallery, export: Export, event: str) -> None:
    def remove() -> None:
        path = _folder_of(runtime.settings, gallery.gallery_id) / export.export_id
        part = path.with_name(f"{path.name}{UNFINISHED}")
        try:
            # A removal that is cut off is finished at the next start.
            path.rename(part)
            sync(path.parent)
            failpoint("delete-export.renamed")
            remove_folder(part)
        except FileNotFoundError as error:
            raise UnknownExport(gallery.name, export.export_id) from error
        except OSError as error:
            raise StorageFailed(
                f"export {export.export_id} could not be removed ({error.strerror}); make the "
                "data directory writable and try again"
            ) from error

    async def delete(result: dict[str, Any]) -> None:
        await runtime.pools.files.run(remove)
        result["count"] = export.crops

    await runtime.audited.run(
        event,
        delete,
        export_lock(runtime.settings.data_dir, gallery.gallery_id),
        gallery=gallery.name,
        export_id=export.export_id,
    )


def _write(runtime: Runtime, gallery: Gallery, export_id: str, expires_at: datetime) -> Export:
    folder = _folder_of(runtime.settings, gallery.gallery_id) / export_id

    def between() -> None:
        heartbeat()
        require_free_disk(runtime.settings)

    def read_picture(crop: StoredCrop) -> bytes | None:
        return _read_picture(runtime, gallery.gallery_id, crop)

    try:
        with unfinished_folder(folder) as part:
            gallery_id = gallery.gallery_id
            description = write_export(
                runtime.record, part, gallery_id, expires_at, read_picture, between
            )
            failpoint("export.written")
            export = Export(
                export_id=export_id,
                bytes=(part / CONTENT).stat().st_size,
                **description.model_dump(include=set(Export.model_fields)),
            )
            (part / LISTED).write_text(export.model_dump_json(), encoding="utf-8")
            put_in_place(part, folder)
    except UnknownGallery as error:
        raise UnknownGallery(gallery.name) from error
    except OSError as error:
        # Another process that deletes the gallery removes its folder of exports.
        if runtime.record.galleries.get(gallery.gallery_id) is None:
            raise UnknownGallery(gallery.name) from error
        raise StorageFailed(
            f"the export could not be written ({error}); nothing is left of it, free space in the "
            "data directory and try again"
        ) from error
    failpoint("export.in-place")
    return export


def _read_picture(runtime: Runtime, gallery_id: int, crop: StoredCrop) -> bytes | None:
    if crop.content_type is None:
        return None
    picture = runtime.record.crops.picture(gallery_id, crop.crop_id)
    if picture is not None:
        return picture.content
    folder = runtime.pictures.folder
    return folder.get(gallery_id, crop.crop_id) if folder else None


def _folder_of(settings: Settings, gallery_id: int) -> Path:
    return settings.data_dir / EXPORTS / str(gallery_id)


def _list_folder(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def _read_exports(folder: Path) -> list[Export]:
    exports = []
    for path in folder.glob("*"):
        if path.suffix != UNFINISHED:
            try:
                exports.append(_read_listed(path))
            except (OSError, ValidationError) as error:
                log.warning("%s is no export: %s", path, type(error).__name__)
    return sorted(exports, key=lambda export: (export.created_at, export.export_id))


def _read_listed(path: Path) -> Export:
    return Export.model_validate_json((path / LISTED).read_bytes())


def _clear(folder: Path, stray: Path) -> None:
    for path in _list_folder(folder):
        if path.suffix == UNFINISHED:
            try:
                remove_folder(path)
                log.warning("removed %s, an export that was cut off", path.name)
            except OSError as error:
                log.error("%s was cut off, and cannot be removed: %s", path, error)
            continue
        try:
            _read_listed(path)
        except (OSError, ValidationError):
            move_aside(path, stray, f"{folder.name}-{path.name}")
