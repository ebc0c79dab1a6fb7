"""`gmn forget`: a person taken out of a gallery and its snapshots."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from model.problems import InputProblem
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


def forget(
    identity: Annotated[str, typer.Argument(help="Who, as enrolled.")],
    url: UrlOption = DEFAULT_URL,
    gallery: GalleryOption = DEFAULT_GALLERY,
    api_key: ApiKeyOption = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask; needed where no terminal can be asked.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Removes a person from a gallery and its snapshots, and says what remains.

    It cannot be undone: no restore brings them back. On a terminal the command asks first; without
    one it needs --yes. The key needs the scope admin.

    Example: gmn forget 0042 --gallery entrance --yes
    """
    if not yes:
        _confirm(identity, gallery)
    with connect(url, api_key, gallery) as client:
        forgotten = client.forget(identity)
    console = output()
    if as_json:
        console.print_json(forgotten.model_dump_json())
        return
    console.print(f"{forgotten.removed:,} crops removed from gallery {escape(gallery)}")
    for snapshot_id, crops in forgotten.snapshots.items():
        console.print(f"{crops:,} crops removed from snapshot {escape(snapshot_id)}")
    if forgotten.remaining:
        table = Table("what remains", "where", "until")
        for one in forgotten.remaining:
            table.add_row(escape(one.what), escape(one.where), escape(one.until))
        console.print(table)


def _confirm(identity: str, gallery: str) -> None:
    if not sys.stdin.isatty():
        raise InputProblem(
            f"forget {identity}: it cannot be undone, and there is no terminal to ask on; add --yes"
        )
    question = f"Remove {identity} from gallery {gallery} and its snapshots? It cannot be undone."
    if not typer.confirm(question, err=True):
        raise typer.Exit(1)
