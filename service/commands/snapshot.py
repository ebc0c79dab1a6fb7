"""`gmn snapshot`: copies of a gallery, made and restored by the service."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from service.commands.connection import (
    DEFAULT_GALLERY,
    DEFAULT_URL,
    ApiKeyOption,
    GalleryOption,
    JsonOption,
    UrlOption,
    connect,
    output,
)

snapshot = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


@snapshot.callback()
def _snapshot() -> None:
    """Copies a gallery while it is served, lists the copies, and restores one.

    The copies are in the service's own data directory. The key needs the scope admin.

    Example: gmn snapshot take --gallery entrance
    """


@snapshot.command("take")
def take(
    url: UrlOption = DEFAULT_URL,
    gallery: GalleryOption = DEFAULT_GALLERY,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Copies the gallery as it is now; the copy's id is the last word of the output.

    Example: gmn snapshot take --gallery entrance
    """
    with connect(url, api_key, gallery) as client:
        taken = client.take_snapshot()
    if as_json:
        output().print_json(taken.model_dump_json())
    else:
        typer.echo(f"{taken.crops:,} crops, {taken.bytes:,} bytes, as snapshot {taken.snapshot_id}")


@snapshot.command("list")
def list_snapshots(
    url: UrlOption = DEFAULT_URL,
    gallery: GalleryOption = DEFAULT_GALLERY,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Lists the gallery's snapshots, oldest first.

    Example: gmn snapshot list --gallery entrance
    """
    with connect(url, api_key, gallery) as client:
        found = list(client.snapshots())
    console = output()
    if as_json:
        console.print_json(data={"results": [one.model_dump(mode="json") for one in found]})
        return
    if not found:
        console.print(f"There is no snapshot of gallery {escape(gallery)}.")
        return
    table = Table("snapshot", "taken", "version", "crops", "bytes")
    for one in found:
        taken = one.created_at.isoformat(timespec="seconds")
        counts = (f"{count:,}" for count in (one.version, one.crops, one.bytes))
        table.add_row(escape(one.snapshot_id), taken, *counts)
    console.print(table)


@snapshot.command("restore")
def restore(
    snapshot_id: Annotated[str, typer.Argument(help="Which one; see gmn snapshot list.")],
    url: UrlOption = DEFAULT_URL,
    gallery: GalleryOption = DEFAULT_GALLERY,
    api_key: ApiKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Makes the gallery what it was; what was deleted since stays deleted.

    Crops that were enrolled since are no longer in it. A damaged snapshot changes nothing.

    Example: gmn snapshot restore 20260301T093000Z-1f0c9a72 --gallery entrance
    """
    with connect(url, api_key, gallery) as client:
        restored = client.restore_snapshot(snapshot_id)
    if as_json:
        output().print_json(restored.model_dump_json())
    else:
        typer.echo(f"Gallery {gallery} holds the {restored.crops:,} crops of {snapshot_id}.")
