"""The artefacts that a start needs, checked before it changes anything in the data directory."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from typing import TYPE_CHECKING

from model.artefact import load_artefact, read_description, resolve_artefact, shipped_artefacts
from model.problems import InputProblem
from service.errors import DamagedRecord
from service.record.galleries import FilledGallery, read_filled
from service.record.sqlite import read_format
from service.record.transaction import FILE, Reader
from service.store.verify import UntouchedRecord

if TYPE_CHECKING:
    from service.settings import Settings

GALLERIES_NAMED = 5


def require_artefacts(settings: Settings) -> None:
    """Verify the artefacts that a start loads, and refuse it if a gallery's artefact is missing.

    Raises:
        InputProblem: an artefact cannot be used, or the galleries of one would not be searched and
            `accept_unserved` is not set; nothing in the data directory was changed.
    """
    for name in (settings.artefact, *settings.previous):
        load_artefact(resolve_artefact(name))
    galleries = _read_galleries(settings)
    fillers = {gallery.embedding_fingerprint for gallery in galleries if gallery.crops}
    for path in shipped_artefacts().values():
        if read_description(path).embedding_fingerprint in fillers:
            load_artefact(path)
    missing = explain_unserved(settings, galleries)
    if missing and not settings.accept_unserved:
        raise InputProblem(
            f"data directory {settings.data_dir}: the artefact of some galleries is missing, so "
            f"the service does not start, and nothing was changed. {' '.join(missing)} "
            "--accept-unserved (GMN_ACCEPT_UNSERVED=true) starts all the same; these galleries "
            "are then not searched until they are reindexed"
        )


def explain_unserved(settings: Settings, galleries: Iterable[FilledGallery]) -> list[str]:
    """Return a text for each artefact that filled galleries and is neither named nor shipped."""
    named = [resolve_artefact(name) for name in (settings.artefact, *settings.previous)]
    files = [*named, *shipped_artefacts().values()]
    known = {read_description(path).embedding_fingerprint for path in files}
    unserved: dict[str, list[str]] = {}
    for gallery in galleries:
        if gallery.crops and gallery.embedding_fingerprint not in known:
            unserved.setdefault(gallery.embedding_fingerprint, []).append(gallery.name)
    return [_explain(embedder, names) for embedder, names in unserved.items()]


def _explain(embedder: str, galleries: list[str]) -> str:
    names = ", ".join(galleries[:GALLERIES_NAMED])
    if len(galleries) > GALLERIES_NAMED:
        names += f" and {len(galleries) - GALLERIES_NAMED:,} more galleries"
    return (
        f"An artefact with the embedding fingerprint {embedder} filled {names}: name its file with "
        "--artefact or --previous (GMN_ARTEFACT, GMN_PREVIOUS), or first reindex these galleries "
        "with the version and artefacts that served them."
    )


def _read_galleries(settings: Settings) -> list[FilledGallery]:
    data_dir = settings.data_dir
    if settings.database_url:
        return _read_galleries_in_postgres(settings)
    if not (data_dir / FILE).is_file():
        return []
    # A record that cannot be read is named when it is opened.
    with (
        contextlib.suppress(sqlite3.Error, DamagedRecord, InputProblem),
        contextlib.closing(UntouchedRecord(data_dir)) as record,
    ):
        # The start changes a former format afterwards.
        read_format(record)
        return read_filled(Reader(record))
    return []


def _read_galleries_in_postgres(settings: Settings) -> list[FilledGallery]:
    # An optional dependency.
    from service.postgres.stored import open_stored_postgres

    url = settings.database_with_password
    record = open_stored_postgres(
        settings.data_dir, url or "", settings.database_accept, may_be_former=True
    )
    if record is None:
        return []
    with contextlib.closing(record):
        return read_filled(Reader(record))
