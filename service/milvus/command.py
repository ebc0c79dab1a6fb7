"""`gmn index`: verify or rebuild the galleries' collections in Milvus."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gmn_client.commands.common import Shown
from gmn_client.commands.parameters import command_group
from model.problems import InputProblem
from model.wording import counted
from service.commands.options import DEFAULT_DATA_DIR, DataDirOption, printed, with_options
from service.store.command import open_record, require_record

if TYPE_CHECKING:
    from service.milvus.tables import CollectionState
    from service.milvus.writing import CollectionWriter
    from service.record.record import Record
    from service.record.values import GalleryRecord

INDEX_URL = "GMN_INDEX_URL"
POLL_SECONDS = 0.1
CAUGHT_UP_SECONDS = 30.0

index = command_group(
    """Looks after the index that galleries have in Milvus, where GMN_INDEX_URL names one.

    Example: gmn index verify
    """
)


@index.command("rebuild")
@with_options
def rebuild(
    gallery: str,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Has the running service fill a new collection, which is then searched instead of the old one.

    Example: gmn index rebuild entrance
    """
    from service.milvus.tables import CollectionStates

    require_record(data_dir)
    with open_record(data_dir) as record:
        (entry,) = _find_galleries(record, gallery)
        CollectionStates(record.database).change(entry.gallery_id, wanted=True)
        state = _wait_for_index(record, entry)
    typer.echo(f"{gallery}: indexed again, up to version {state.version}")


@index.command("verify")
@printed
def verify(
    gallery: Annotated[str | None, typer.Argument(help="Only this gallery.")] = None,
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> Shown:
    """Compares every row in Milvus with the record; changes nothing.

    It may run while the service does: differences are checked again when the index has caught up.
    The exit status is 1 if any remain.

    Example: gmn index verify entrance --json
    """
    with _open_writer(data_dir) as writer:
        entries = _find_galleries(writer.record, gallery)
        differing = {entry.name: _find_differing(writer, entry) for entry in entries}
    lines = [
        f"{name}: {counted(len(rows), 'row differs', 'rows differ')} from the record; gmn index "
        f"rebuild {name} mends that"
        if rows
        else f"{name}: as in the record"
        for name, rows in differing.items()
    ]
    whole = not any(differing.values())
    return Shown({"whole": whole, "differing_rows": differing}, lines, whole)


def _find_differing(writer: CollectionWriter, entry: GalleryRecord) -> list[int]:
    _wait_for_index(writer.record, entry)
    rows = writer.differing(entry.gallery_id)
    if rows:
        _wait_for_index(writer.record, entry)
        rows = sorted(set(rows).intersection(writer.differing(entry.gallery_id)))
    return rows


def _wait_for_index(record: Record, entry: GalleryRecord) -> CollectionState:
    """Wait until an index shows the record; raise `InputProblem` if no service works on it."""
    from service.milvus.tables import CollectionStates

    states = CollectionStates(record.database)
    newest = record.galleries.get(entry.gallery_id) or entry
    deadline = time.monotonic() + CAUGHT_UP_SECONDS
    while True:
        state = states.state(entry.gallery_id)
        if state and not state.unfinished and state.version >= newest.version:
            return state
        if time.monotonic() >= deadline and not (state and state.building and _is_indexed(record)):
            raise InputProblem(
                f"gallery {entry.name!r}: its index is not up to date; was the gallery deleted, or "
                f"does no service with {INDEX_URL} run? Start one"
            )
        time.sleep(POLL_SECONDS)


def _is_indexed(record: Record) -> bool:
    from service.milvus.indexer import INDEXER

    lock = record.database.work_lock(INDEXER)
    try:
        return not lock.acquire()
    finally:
        lock.release()


def _find_galleries(record: Record, name: str | None) -> list[GalleryRecord]:
    from service.errors import UnknownGallery

    entries = [entry for entry in record.galleries.all() if name in (None, entry.name)]
    if name and not entries:
        raise UnknownGallery(name)
    return entries


@contextlib.contextmanager
def _open_writer(data_dir: Path) -> Iterator[CollectionWriter]:
    url = os.environ.get(INDEX_URL)
    if not url:
        raise InputProblem(
            f"{INDEX_URL}: name the Milvus of the service in it; without it the index is in the "
            "service's memory and needs no care"
        )
    from service.milvus.rows import Codes
    from service.milvus.server import MilvusServer
    from service.milvus.writing import CollectionWriter

    require_record(data_dir)
    with (
        open_record(data_dir) as record,
        contextlib.closing(MilvusServer(url)) as server,
    ):
        # Waiting for the service would not end if it cannot write its index either.
        server.timestamp()
        yield CollectionWriter(record, server, Codes(record.galleries.group_secret()))
