"""`gmn index`: verify or rebuild the galleries' collections in Milvus."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.problems import InputProblem
from service.commands.common import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    Shown,
    command_group,
    printed,
    with_options,
)
from service.commands.store import open_record

if TYPE_CHECKING:
    from service.milvus.writing import CollectionWriter
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
    """Fills a new collection from the record and then searches it instead of the old one.

    A running service does the work; otherwise this command does. Searches use the old collection in
    the meantime.

    Example: gmn index rebuild entrance
    """
    from service.errors import UnknownGallery
    from service.milvus.indexer import Indexer

    with _writer(data_dir) as writer:
        states = writer.record.remote_indexes
        (entry,) = _galleries(writer, gallery)
        states.ask_rebuild(entry.gallery_id)
        indexer = Indexer(writer, f"command.{os.getpid()}.{secrets.token_hex(4)}")
        with contextlib.closing(indexer):
            while (state := states.state(entry.gallery_id)) and state.unfinished:
                indexer.turn()
                time.sleep(POLL_SECONDS)
    if state is None:
        raise UnknownGallery(gallery)
    typer.echo(f"{gallery}: indexed anew, up to version {state.version}")


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
    with _writer(data_dir) as writer:
        differing = {entry.name: _differing(writer, entry) for entry in _galleries(writer, gallery)}
    lines = [
        f"{name}: {len(rows)} rows differ from the record; gmn index rebuild {name} mends that"
        if rows
        else f"{name}: as in the record"
        for name, rows in differing.items()
    ]
    whole = not any(differing.values())
    return Shown({"whole": whole, "differing_rows": differing}, "\n".join(lines), whole)


def _differing(writer: CollectionWriter, entry: GalleryRecord) -> list[int]:
    _wait_for_index(writer, entry)
    rows = writer.differing(entry.gallery_id)
    if rows:
        _wait_for_index(writer, entry)
        rows = sorted(set(rows).intersection(writer.differing(entry.gallery_id)))
    return rows


def _wait_for_index(writer: CollectionWriter, entry: GalleryRecord) -> None:
    record = writer.record
    until = time.monotonic() + CAUGHT_UP_SECONDS
    now = record.galleries.get(entry.gallery_id)
    while now:
        state = record.remote_indexes.state(entry.gallery_id)
        shown = state.version if state else 0
        if shown >= now.version:
            return
        if time.monotonic() >= until:
            raise InputProblem(
                f"gallery {entry.name!r}: its index is at version {shown} and the gallery at "
                f"{now.version}: does a service with {INDEX_URL} run? Start one"
            )
        time.sleep(POLL_SECONDS)


def _galleries(writer: CollectionWriter, name: str | None) -> list[GalleryRecord]:
    from service.errors import UnknownGallery

    entries = [entry for entry in writer.record.galleries.all() if name in (None, entry.name)]
    if name and not entries:
        raise UnknownGallery(name)
    return entries


@contextlib.contextmanager
def _writer(data_dir: Path) -> Iterator[CollectionWriter]:
    url = os.environ.get(INDEX_URL)
    if not url:
        raise InputProblem(
            f"{INDEX_URL}: name the Milvus of the service in it; without it the index is in the "
            "service's memory and needs no care"
        )
    from service.milvus.rows import Codes
    from service.milvus.server import MilvusServer
    from service.milvus.writing import CollectionWriter

    with (
        open_record(data_dir) as record,
        contextlib.closing(MilvusServer(url)) as server,
    ):
        yield CollectionWriter(record, server, Codes(record.galleries.group_secret()))
