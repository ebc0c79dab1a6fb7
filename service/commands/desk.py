"""`gmn searches`, `gmn review` and `gmn case`: kept searches, decisions on them, and cases."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option, echo

from gmn_client import Client
from service.commands.common import (
    JsonOption,
    command_group,
    output,
    plain_table,
    show,
    with_client,
)
from service.commands.query import show_answer

QueryId = Annotated[str, Argument(metavar="SEARCH", help="A kept search's id.")]
CaseId = Annotated[str, Argument(metavar="CASE", help="A case's id.")]
Everyone = Annotated[bool, Option("--everyone", help="Those of all keys; needs admin.")]

searches = command_group(
    """Lists kept searches and opens them again; gmn query --keep keeps one.

    Example: gmn searches list --gallery entrance
    """
)
case = command_group(
    """Lists cases of kept searches, and exports one.

    Example: gmn case list --gallery entrance
    """
)


@searches.command("list")
@with_client
def list_searches(client: Client, everyone: Everyone = False, as_json: JsonOption = False) -> None:
    """Lists the kept searches of the key, the newest first.

    Example: gmn searches list --gallery entrance
    """
    found = list(client.kept_searches(everyone=everyone))
    titles = ("search", "asked", "verdict", "first result", "confirmed", "rejected", "purpose")
    rows = (
        (
            one.query_id,
            one.created_at.isoformat(timespec="seconds"),
            one.verdict,
            (one.best and one.best.identity) or "–",
            one.confirmed,
            one.rejected,
            one.purpose or "",
        )
        for one in found
    )
    nothing = f"The key keeps no search of gallery {client.gallery_name}; gmn query --keep does."
    show(found, as_json, plain_table(titles, rows) if found else nothing)


@searches.command("show")
@with_client
def show_search(client: Client, query_id: QueryId, as_json: JsonOption = False) -> None:
    """Opens a kept search under the names of now, with its decisions.

    Example: gmn searches show 0198f2c6a1b27d1c3e5f9a0b4c6d8e2f --gallery entrance
    """
    opened = client.kept_search(query_id)

    def tables() -> None:
        show_answer(f"search of {opened.created_at.isoformat(timespec='seconds')}", opened.answer)
        rows = ((one.crop_id, one.identity or "–", one.decision) for one in opened.reviews)
        if opened.reviews:
            output().print(plain_table(("crop", "identity", "decision"), rows))

    show(opened, as_json, tables)


@with_client
def review(
    client: Client,
    query_id: QueryId,
    decision: Annotated[Literal["confirmed", "rejected", "open"], Argument()],
    crop_ids: Annotated[list[str], Argument(metavar="CROP", help="Results of the search.")],
    identity: Annotated[str | None, Option(help="Confirmed crops' name from now on.")] = None,
    enroll: Annotated[bool, Option("--enroll", help="Enroll the kept picture too.")] = False,
    camera: Annotated[str | None, Option(help="With --enroll: the picture's camera.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Notes whether results of a kept search show the person; open takes a decision back.

    gmn train adapt --reviews GALLERY trains on the decisions.

    Example: gmn review 0198f2c6a1b27d1c3e5f9a0b4c6d8e2f confirmed 0198f2c5 --identity Ann
    """
    given = {"identity": identity, "enroll": enroll or None, "camera": camera}
    sent = {name: one for name, one in given.items() if one is not None}
    found = client.review(query_id, *crop_ids, decision=decision, **sent)  # type: ignore[arg-type]
    text = f"{found.confirmed} confirmed, {found.rejected} rejected"
    text += f", enrolled as {found.enrolled_crop_id}" if found.enrolled_crop_id else ""
    show(found, as_json, text)


@case.command("list")
@with_client
def list_cases(client: Client, as_json: JsonOption = False) -> None:
    """Lists the cases, the newest first.

    Example: gmn case list --gallery entrance
    """
    found = list(client.cases())
    titles = ("case", "name", "searches", "changed")
    rows = (
        (one.case_id, one.name, one.count, one.changed_at.isoformat(timespec="seconds"))
        for one in found
    )
    nothing = f"There is no case in gallery {client.gallery_name}."
    show(found, as_json, plain_table(titles, rows) if found else nothing)


@case.command("export")
@with_client
def export_case(
    client: Client,
    case_id: CaseId,
    out: Annotated[Path, Option(help="The ZIP to write.")],
) -> None:
    """Writes a case as ZIP: a page, the pictures, a table, and the SHA-256 of each.

    Example: gmn case export CASE --out case.zip --gallery entrance
    """
    out.write_bytes(client.export_case(case_id))
    echo(f"{out}: unpack it and open index.html")
